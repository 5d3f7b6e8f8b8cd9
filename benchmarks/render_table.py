# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Writes the tables of the README from the results of the benchmarks.

    python benchmarks/render_table.py                                    # benchmarks/results/*.json into README.md
    python benchmarks/render_table.py --results outputs/bench --print    # those of `make bench`, to the terminal

In the README only what stands between the lines <!-- benchmarks --> and <!-- /benchmarks --> is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import ROOT, format_value, row_cells


BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
# Title, and what the baseline is, by the script that wrote a file: `sampling.json`, `sampling_model.json`, `sampling_h100.json`.
BENCHMARKS = {
    "latent_zones": ("Latent zones", "direct form"),
    "solvers": ("Solvers of the latent flow", "baseline"),
    "networks": ("Networks", "plain form"),
    "sampling": ("Sampling", "FlowMatchEuler; one image a call"),
    "training_step": ("Training step", "plain form; float32 eager"),
    "data_loading": ("Data path", "one image at a time"),
    "views": ("Random views", "one image at a time"),
    "metrics": ("Metrics of generated images", "formula as written, float64"),
}
COLUMNS = ("", "lzn_hf", "baseline", "better by", "target")


def script_of(path: Path) -> str:
    """The benchmark that wrote a file; a ValueError if there is none of its name."""
    for name in BENCHMARKS:
        if path.stem == name or path.stem.startswith(f"{name}_"):
            return name
    raise ValueError(f"{path} is named after no benchmark: {', '.join(f'{name}.json' for name in BENCHMARKS)}.")


def read_report(path: Path) -> dict[str, Any]:
    report = json.loads(path.read_text())
    if not isinstance(report.get("results"), list):
        raise ValueError(f'{path} has no list "results": write it anew by benchmarks/{script_of(path)}.py.')
    return report


def caption(name: str, report: Mapping[str, Any]) -> str:
    """What ran, where."""
    hardware, versions, settings = report["machine"], report["versions"], report["settings"]
    on_gpu = str(settings.get("device", "cpu")).startswith("cuda")
    where = hardware["gpu"] if on_gpu else f"{hardware['processor']}, {report['threads']} thread(s)"
    flags = " --quick" if settings.get("quick") else ""
    if settings.get("model"):
        flags += f" --model {settings['model']}"
    if name == "solvers" and settings.get("anchors"):
        flags += f" --anchors {' '.join(settings['anchors'])}"
    return f"`python benchmarks/{name}.py{flags}`: {where}, torch {versions['torch']}, seed {report['seed']}"


def render_report(path: Path) -> str:
    """A title, what ran, and Markdown tables of the rows that are no details; columns without a value are left out."""
    name, report = script_of(path), read_report(path)
    title, baseline = BENCHMARKS[name]
    shown = [result for result in report["results"] if not result.get("detail")]
    lines = [f"**{title}**, {caption(name, report)}"]
    if by_column := [result for result in shown if "column" in result]:
        lines += ["", *markdown_table(*pivot(by_column))]
    if cells := [row_cells(result) for result in shown if "column" not in result]:
        header = [f"baseline: {baseline}" if column == "baseline" else column for column in COLUMNS]
        kept = [i for i in range(len(COLUMNS)) if i < 2 or any(line[i] for line in cells)]
        lines += ["", *markdown_table([header[i] for i in kept], [[line[i] for i in kept] for line in cells])]
    return "\n".join(lines)


def pivot(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of name by column, both in the order of the rows."""
    columns, lines = list(dict.fromkeys(result["column"] for result in rows)), {}
    for result in rows:
        lines.setdefault(f"{result['name']} ({result['unit']})", {})[result["column"]] = format_value(result["value"])
    return ["", *columns], [[name, *(values.get(column, "") for column in columns)] for name, values in lines.items()]


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rows = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in (header, *lines)]
    return [rows[0], "|" + "---|" * len(header), *rows[1:]]


def render_folder(folder: Path) -> str:
    """The tables of all results in a folder, in the order of [`BENCHMARKS`]."""
    order = list(BENCHMARKS)
    paths = sorted(folder.glob("*.json"), key=lambda path: (order.index(script_of(path)), path.name))
    if not paths:
        raise ValueError(f"{folder} has no results (*.json).")
    return "\n\n".join(render_report(path) for path in paths)


def replace_between_markers(text: str, tables: str) -> str:
    """`text` with `tables` between the markers; a ValueError unless each marker is there once, in order."""
    found = re.findall(f"^(?:{BEGIN}|{END})$", text, flags=re.MULTILINE)
    if found != [BEGIN, END]:
        raise ValueError(f"the README must have a line {BEGIN} and after it a line {END}, each once; found {found}.")
    between = re.compile(f"(?<=^{BEGIN}\n).*?(?=^{END}$)", flags=re.MULTILINE | re.DOTALL)
    return between.sub(lambda _: f"{tables}\n", text, count=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results", help="(benchmarks/results)")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="(README.md)")
    parser.add_argument("--print", action="store_true", help="print the tables, leave the README alone")
    args = parser.parse_args()
    tables = render_folder(args.results)
    if args.print:
        return print(tables)
    args.readme.write_text(replace_between_markers(args.readme.read_text(), tables))
    print(f"Written: {args.readme}")


if __name__ == "__main__":
    main()
