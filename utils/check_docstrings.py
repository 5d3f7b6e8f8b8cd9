# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Checks that docstrings and signatures of the package name the same parameters.

    python utils/check_docstrings.py

Looks at public functions, methods and classes of src/lzn_hf; a class documents the parameters of its `__init__`, or its fields, in its own
docstring. Entries of an `Args:` section look like "name (`type`): ..." or "a, b (`type`): ...". Functions of five or more parameters and
outputs of models and pipelines must have one. Prints each difference with its file and line, and exits with 1 if there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
MAX_UNDOCUMENTED = 4  # parameters of a function without an `Args:` section
OUTPUT_BASES = {"BaseOutput", "ImagePipelineOutput", "ModelOutput"}
# Fields that classes of transformers and diffusers pass on, as far as our docstrings mention them.
INHERITED = {"ImagePipelineOutput": {"images"}, "PreTrainedConfig": {"id2label"}}
SECTION = re.compile(r"^( *)Args:\n((?:\1 +\S.*\n|\s*\n)*)", flags=re.MULTILINE)
ENTRY = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \(.*\))?:(?: |$)")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def documented_names(docstring: str) -> list[str] | None:
    """The names of all entries of the `Args:` section, `None` without one; an entry that has none is given as a whole."""
    section = SECTION.search(docstring + "\n")
    if section is None:
        return None
    lines = [line for line in section[2].splitlines() if line.strip()]
    indent = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    names: list[str] = []
    for entry in re.split(rf"^ {{{indent}}}(?=\S)", "\n".join(lines), flags=re.MULTILINE)[1:]:
        match = ENTRY.match(" ".join(entry.split()))
        names += match[1].replace("*", "").split(", ") if match else [" ".join(entry.split())]
    return names


def unqualified(nodes: list[ast.expr]) -> set[str]:
    """Names of decorators or base classes, without their modules and arguments."""
    return {ast.unparse(node.func if isinstance(node, ast.Call) else node).split(".")[-1] for node in nodes}


def differences(
    node: Function | ast.ClassDef, name: str, wanted: list[str], extra: set[str], required: bool
) -> Iterator[tuple[int, str]]:
    """Lines and messages: how the docstring of a function or class differs from its parameters.

    Args:
        node: the function or class.
        name: what to call it.
        wanted: names of its parameters.
        extra: names that it may document besides.
        required: whether it must have an `Args:` section.
    """
    documented = documented_names(ast.get_docstring(node) or "")
    if documented is None:
        if required:
            yield node.lineno, f"`{name}` has no `Args:` for {', '.join(f'`{one}`' for one in wanted)}."
        return
    for one in wanted:
        if one not in documented:
            yield node.lineno, f"`{name}` does not document its parameter `{one}`."
    for one in documented:
        if one not in (*wanted, *extra):
            yield node.lineno, f"`{name}` documents `{one}`, which is not a parameter."


def check_function(node: Function, name: str, owner: ast.ClassDef | None = None) -> Iterator[tuple[int, str]]:
    arguments = node.args
    wanted = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    if owner and "staticmethod" not in unqualified(node.decorator_list):
        wanted = wanted[1:]
    required = len(wanted) > MAX_UNDOCUMENTED
    wanted += [one.arg for one in (arguments.vararg, arguments.kwarg) if one]
    yield from differences(owner if owner and node.name == "__init__" else node, name, wanted, set(), required)


def check_class(node: ast.ClassDef) -> Iterator[tuple[int, str]]:
    bases = unqualified(node.bases)
    if unqualified(node.decorator_list) & {"dataclass", "strict"} or "NamedTuple" in bases:
        wanted = [
            one.target.id
            for one in node.body
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
            if not re.search(r"\bClassVar\b|init=False", ast.unparse(one))
        ]
        extra = set().union(*(INHERITED.get(base, set()) for base in bases))
        yield from differences(node, node.name, wanted, extra, bool(bases & OUTPUT_BASES))
    for method in node.body:
        if isinstance(method, Function) and (method.name in ("__init__", "__call__") or method.name[0] != "_"):
            yield from check_function(method, f"{node.name}.{method.name}", node)


def violations(root: Path) -> Iterator[str]:
    """A line for each difference in a repository."""
    for path in sorted((root / "src" / "lzn_hf").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, Function | ast.ClassDef) and node.name[0] != "_":
                check = check_class(node) if isinstance(node, ast.ClassDef) else check_function(node, node.name)
                for line, message in check:
                    yield f"{path.relative_to(root).as_posix()}:{line}: {message}"


if __name__ == "__main__":
    found = list(violations(ROOT))
    print("\n".join(found or ["Docstrings and signatures name the same parameters."]))
    sys.exit(bool(found))
