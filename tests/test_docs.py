# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The documentation says what the repository has: files, headings, scripts, flags, modules, names, numbers; and its snippets run."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import compare_guidance
import compare_joint
import pytest
import yaml
from compare_text_image import table_columns
from helpers import ROOT
from helpers.pages import blocks_of
from typer.main import get_command

import lzn_hf
from lzn_cli.main import app
from lzn_hf.evaluation.results import markdown_table


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "examples/README.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
FOLDERS = ("", "src/lzn_hf", "examples", "utils", "benchmarks", "docs")  # that a page may leave out of a path
# Flags of pip, accelerate and torchrun in running text.
OTHER_FLAGS = {
    "config_file",
    "cpu",
    "help",
    "multi_gpu",
    "num_cpu_threads_per_process",
    "num_machines",
    "num_processes",
    "nproc_per_node",
    "quiet",
    "shutdown_timeout",
    "signals_to_handle",
}


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [block.text for block in blocks_of(page, (language,))]


def prose(page: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", read(page), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(path.relative_to(ROOT).as_posix()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: str) -> Iterator[list[str]]:
    """The words of each command in the shell blocks and in the text of a page, without comments; `-m lzn_hf.x` by its file."""
    texts = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    texts += re.findall(r"`((?:python|accelerate launch|torchrun) [^`]+)`", prose(page))
    for text in texts:
        for command in text.split("&&"):
            if words := shlex.split(command, comments=True):
                yield [file_of(word) for word in words]


def file_of(word: str) -> str:
    """The file of a module of the package, any other word as it is."""
    if not re.fullmatch(r"lzn_(hf|cli)(\.\w+)*", word):
        return word
    path = f"src/{word.replace('.', '/')}"
    return next((name for name in (f"{path}.py", f"{path}/__main__.py") if (ROOT / name).is_file()), word)


@functools.cache
def flags_of(path: Path) -> frozenset[str]:
    """The flags of a script: its `add_argument` calls, the fields of `...Arguments` classes, also those that it imports, and the keys of
    the `ARGUMENTS` of a benchmark and those of all benchmarks.
    """
    flags: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "add_argument":
            flags |= {one.value[2:] for one in node.args if isinstance(one, ast.Constant) and one.value[:2] == "--"}
        elif isinstance(node, ast.ClassDef) and node.name.endswith("Arguments"):
            own = (one for one in node.body if isinstance(one, ast.AnnAssign) and "init=False" not in ast.unparse(one))
            flags |= {one.target.id for one in own}
        elif isinstance(node, ast.Dict) and path.parent.name == "benchmarks":
            flags |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".")
            relative = (
                ROOT / "src" if parts[0] == "lzn_hf" else path.parents[node.level - 1] if node.level else path.parent
            )
            imported = relative.joinpath(*parts).with_suffix(".py")
            if imported.is_file() and imported != path:
                flags |= flags_of(imported)
    return frozenset(flags)


def options_of_lzn() -> set[str]:
    """The first words of the options of the command `lzn` and its subcommands."""
    command = get_command(app)
    options = [
        option for one in (command, *command.commands.values()) for param in one.params for option in param.opts
    ]
    return {option[2:].partition("-")[0] for option in options if option.startswith("--")}


SCRIPTS = sorted(path for folder in ("examples", "utils", "benchmarks") for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_resolve(page):
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if not target.startswith(("https://", "http://")):
            name, _, anchor = target.partition("#")
            path = (ROOT / page).parent / name if name else ROOT / page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path.resolve()), target


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_scripts_and_flags_that_exist(page):
    for words in commands(page):
        scripts = [number for number, word in enumerate(words) if word.endswith(".py")]
        assert scripts or not {"python", "torchrun", "accelerate"} & set(words[:2]), words
        for number in scripts:
            script = ROOT / words[number]
            assert script.is_file(), words
            flags = {word[2:] for word in words[number + 1 :] if word.startswith("--")} - {"help"}
            assert flags <= flags_of(script), f"{words[number]} has no {sorted(flags - flags_of(script))}"
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:.*##", read("Makefile"), flags=re.MULTILINE), words


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_flags_and_files_in_the_text_exist(page):
    known = OTHER_FLAGS.union(*map(flags_of, [*SCRIPTS, ROOT / "src/lzn_hf/app/command.py"])) | options_of_lzn()
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        for flag in re.findall(r"(?<![\w-])--(\w+)", code):
            assert flag.removeprefix("no_") in known, f"no script has --{flag}"  # `--no_x` is the opposite of `--x`
        if re.fullmatch(r"[\w./]+\.(py|cfg|toml|cff)", code):
            assert any((ROOT / folder / code).is_file() for folder in FOLDERS), f"there is no {code}"


def test_architecture_names_every_module():
    text = read("docs/architecture.md")
    modules = (
        path.relative_to(ROOT / "src" / "lzn_hf").as_posix() for path in (ROOT / "src" / "lzn_hf").rglob("*.py")
    )
    missing = [name for name in modules if not name.endswith("__init__.py") and f"`{name}`" not in text]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_compile_and_import_what_exists(page):
    for block in blocks(page, "py"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                load = pytest.importorskip if node.module == "peft" else importlib.import_module
                module = load(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_readme_is_short():
    assert len(read("README.md").splitlines()) <= 150


@pytest.mark.parametrize("data", ["digits", "fashion"])
def test_tables_of_comparisons_are_those_of_the_results(data):
    text = read("docs/evaluation.md")

    def rows(kind: str) -> list[dict]:
        return json.loads(read(f"docs/results/compare_{kind}_{data}.json"))["summary"]

    for row in rows("generation"):
        values = [value for value in row.values() if isinstance(value, list)]
        assert " | ".join(f"{mean:.3g} ± {deviation:.1g}" for mean, deviation in values) in text
    for row in rows("representations"):
        for measure in ("linear", "knn"):
            assert f"{100 * row[measure]:.2f} % ± {100 * row[f'{measure}_deviation']:.2f}" in text


@pytest.mark.parametrize("data", ["digits", "fashion"])
def test_the_table_of_joint_models_is_that_of_the_results(data):
    row_of = {
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in read("docs/evaluation.md").splitlines()
    }
    columns = [functools.partial(cell, name=name) for name, (_, cell) in compare_joint.MEASURES.items()]
    for row in json.loads(read(f"docs/results/compare_joint_{data}.json"))["summary"]:
        assert (compare_joint.METHODS[row["method"]], *(cell(row) for cell in columns)) in row_of


@pytest.mark.parametrize("data", ["digits", "fashion"])
def test_the_tables_of_guidance_are_those_of_the_results(data):
    lines = {
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in read("docs/guidance.md").splitlines()
    }
    results = json.loads(read(f"docs/results/compare_guidance_{data}.json"))
    for split in ("validation", "test"):
        assert all(tuple(compare_guidance.cells(row)) in lines for row in results[split]["rows"])


def test_the_table_of_interpolations_is_that_of_the_results():
    text, results = read("docs/sampling.md"), json.loads(read("docs/results/interpolation_digits.json"))
    for way in ("both", "latent", "noise"):
        row = results[way]
        crossing = f" {row['change_of_crossing']:.3f} |" if row["change_of_crossing"] else " |"
        assert f"| {row['crossings']:.1f} of 64 |{crossing} {row['change_of_others']:.3f} |" in text
    assert results["both"]["largest_step_crosses"] == 1 and results["settings"]["num_pairs"] == 20


def test_the_table_of_steps_is_that_of_the_results():
    text, results = read("docs/sampling.md"), json.loads(read("docs/results/sampling_digits.json"))
    rows = [*results["samplers"].values(), {"evaluations": None, **results["real_images"]}]
    for row in rows:
        evaluations = "" if row["evaluations"] is None else f"{row['evaluations']:.0f}"
        measures = f"{row['frechet_distance']:.2f} | {row['precision']:.3f} | {row['recall']:.3f} | {row['class_consistency']:.1%}"
        assert f"| {evaluations} | {measures.replace('%', ' %')} |".replace("|  |", "| |") in text
    error = results["reconstruction"]["rk45"]["reconstruction_l2"]
    assert f"{error:.5f}" in text


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_the_tables_of_texts_are_those_of_the_results(name):
    columns, rows = table_columns(), json.loads(read(f"docs/results/compare_text_{name}.json"))["summary"]
    table = markdown_table(list(columns), [[cell(row) for cell in columns.values()] for row in rows])
    assert table in read("docs/text.md") and {row["method"] for row in rows} == {"lzn", "clip", "labels"}


def test_citation_has_the_version_of_the_package():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == lzn_hf.__version__
    assert [author["name"] for author in citation["authors"]] == ["The lzn_hf authors"]
    assert citation["preferred-citation"]["title"] in read("README.md")
