# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Checks that imports in the repository point one way only, also those inside functions and under `TYPE_CHECKING`.

    python utils/check_arrows.py

The core is the flat files of src/lzn_hf, without the scripts `train_*.py`, which are commands. The Hub copies them into one folder, where nothing but `from .sibling import name` works.
Prints each wrong import with its file and line, and exits with 1 if there is one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
# What a room may import besides itself.
ARROWS: dict[str, set[str]] = {
    "core": set(),
    "data": {"core"},
    "evaluation": {"core", "data"},
    "visualization": {"core"},
    "training": {"core", "data", "evaluation", "visualization"},
    "app": {"core", "data", "visualization"},
}
ARROWS["commands"] = set(ARROWS)
# The training scripts lie beside the core, so that `accelerate launch -m lzn_hf.train_joint` finds them. The core does not know them.
FLAT_COMMANDS = "train_"
# Folders of scripts, from which the folder on the left imports nothing.
SCRIPTS = {"src": ("benchmarks", "examples", "tests", "utils"), "utils": ("examples",), "benchmarks": ("examples",)}


def imported_names(node: ast.AST, package: list[str]) -> list[list[str]]:
    """Dotted names, as lists, of what an import statement in a package imports; for `from a import b` that is a.b."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".") for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = package[: len(package) + 1 - node.level] if node.level else []
    base = base + (node.module.split(".") if node.module else [])
    return [[*base, alias.name] for alias in node.names]


def flat_room(module: str = "__init__") -> str:
    """The room of a module that lies in the package itself."""
    return "commands" if module.startswith(FLAT_COMMANDS) else "core"


def check_import(node: ast.AST, path: Path, root: Path) -> str | None:
    """What is wrong with an import statement of a file, or `None`."""
    folder, *package, file_name = path.relative_to(root).parts
    names = imported_names(node, package)
    for scripts in SCRIPTS[folder]:
        modules = {scripts, *(other.stem for other in (root / scripts).glob("*.py"))} - {"__init__"}
        if folder != "src":  # a script finds its siblings first
            modules -= {other.stem for other in path.parent.glob("*.py")}
        if any(name[0] in modules for name in names):
            return f"nothing in {folder} imports {scripts}"
    if folder != "src":
        return None

    if package[0] == "lzn_cli":
        return None  # the command line, which may import all
    source = root / "src" / "lzn_hf"
    room = package[1] if len(package) > 1 else flat_room(path.stem)
    if room not in ARROWS:
        return f"{room} has no place in the order of the rooms: add it to ARROWS"
    for name in names:
        if name[0] == "lzn_cli":
            return "nothing in lzn_hf imports its command line"
        if name[0] != "lzn_hf":
            continue
        is_room = len(name) > 1 and (source / name[1]).is_dir()
        target = name[1] if is_room else flat_room(*name[1:2])
        if target != room and target not in ARROWS[room]:
            return f"{room} does not import {target}"
    in_package = any(name[0] == "lzn_hf" for name in names)
    is_sibling = isinstance(node, ast.ImportFrom) and node.level == 1 and "." not in (node.module or ".")
    if room == "core" and file_name != "__init__.py" and in_package and not is_sibling:
        return "the core imports its own modules by `from .module import name` only"
    return None


def violations(root: Path) -> Iterator[str]:
    """A line for each wrong import of a repository."""
    for path in sorted(path for folder in SCRIPTS for path in (root / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom) and (problem := check_import(node, path, root)):
                yield f"{path.relative_to(root).as_posix()}:{node.lineno}: `{ast.unparse(node)}`: {problem}."


if __name__ == "__main__":
    found = list(violations(ROOT))
    print("\n".join(found or ["Imports point one way."]))
    sys.exit(bool(found))
