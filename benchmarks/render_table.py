# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Writes the tables of docs/benchmarks.md from the results of the benchmarks, by machine.

    python benchmarks/render_table.py                                    # benchmarks/results/*.json into docs/benchmarks.md
    python benchmarks/render_table.py --results outputs/bench --print    # those of `make bench`, to the terminal

On the page only what stands between the lines <!-- benchmarks --> and <!-- /benchmarks --> is replaced.
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
# Title and baseline by the script that wrote a file: `sampling.json`, `sampling_model.json`, `sampling_h100.json`.
BENCHMARKS = {
    "latent_zones": ("Latent zones", "direct form"),
    "pool_size": ("Size of the pool", "euler"),
    "solvers": ("Solvers of the latent flow", "baseline"),
    "networks": ("Networks", "plain form"),
    "sampling": ("Sampling", "FlowMatchEuler, or one image a call"),
    "training_step": ("Training step", "plain form, or float32 eager"),
    "scaling": ("Several processes", "one process"),
    "data_loading": ("Data path", "one image at a time"),
    "streaming": ("Streams", "the main process decodes for all"),
    "views": ("Random views", "one image at a time"),
    "metrics": ("Metrics of generated images", "formula as written, float64"),
    "pools": ("Pools of several micro-batches", "gradient accumulation"),
    "gpu": ("On a GPU", "float32 eager"),
    "imports": ("Imports", "the other import"),
}


def script_of(path: Path) -> str:
    """Returns the benchmark that wrote a file; a ValueError if there is none of its name."""
    for name in BENCHMARKS:
        if path.stem == name or path.stem.startswith(f"{name}_"):
            return name
    raise ValueError(f"{path} is named after no benchmark: {', '.join(f'{name}.json' for name in BENCHMARKS)}.")


def read_report(path: Path) -> dict[str, Any]:
    report = json.loads(path.read_text())
    if not isinstance(report.get("results"), list):
        raise ValueError(f'{path} has no list "results": write it anew by benchmarks/{script_of(path)}.py.')
    return report


def machine_of(report: Mapping[str, Any]) -> str:
    """Returns hardware and versions of a report in one line, the heading of its section."""
    hardware, versions = report["machine"], report["versions"]
    parts = [hardware["processor"], f"{hardware['cores']} cores", f"{hardware['memory_gib']} GiB"]
    software = f"Python {versions['python']}, torch {versions['torch']}"
    return ", ".join([*parts, *filter(None, [hardware["gpu"]]), hardware["system"], software])


def render_report(path: Path) -> str:
    """Returns title, command and Markdown tables of the rows that are no details; columns without a value are left out."""
    report = read_report(path)
    title, baseline = BENCHMARKS[script_of(path)]
    shown = [result for result in report["results"] if not result.get("detail")]
    threads = f"{report['threads']} thread{'s' * (report['threads'] != 1)}"
    lines = [f"### {title}", "", f"`{report['settings']['command']}` ({threads})"]
    if by_column := [result for result in shown if "column" in result]:
        lines += ["", *markdown_table(*pivot(by_column))]
    if cells := [row_cells(result) for result in shown if "column" not in result]:
        header = ("", "lzn_hf", f"baseline: {baseline}", "better by")
        kept = [i for i in range(len(header)) if i < 2 or any(line[i] for line in cells)]
        lines += ["", *markdown_table([header[i] for i in kept], [[line[i] for i in kept] for line in cells])]
    return "\n".join(lines)


def pivot(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns header and lines of the table of name by column, both in the order of the rows."""
    columns, lines = list(dict.fromkeys(result["column"] for result in rows)), {}
    for result in rows:
        lines.setdefault(f"{result['name']} ({result['unit']})", {})[result["column"]] = format_value(result["value"])
    return ["", *columns], [[name, *(values.get(column, "") for column in columns)] for name, values in lines.items()]


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rows = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in (header, *lines)]
    return [rows[0], "|" + "---|" * len(header), *rows[1:]]


def render_folder(folder: Path) -> str:
    """Returns the tables of all results in a folder: a section for each machine, tables in the order of [`BENCHMARKS`]."""
    order = list(BENCHMARKS)
    paths = sorted(folder.glob("*.json"), key=lambda path: (order.index(script_of(path)), path.name))
    if not paths:
        raise ValueError(f"{folder} has no results (*.json).")
    machines: dict[str, list[str]] = {}
    for path in paths:
        machines.setdefault(machine_of(read_report(path)), []).append(render_report(path))
    return "\n\n".join("\n\n".join([f"## {machine}", *tables]) for machine, tables in machines.items())


def replace_between_markers(text: str, tables: str) -> str:
    """Returns `text` with `tables` between the markers; a ValueError unless each marker is there once, in order."""
    found = re.findall(f"^(?:{BEGIN}|{END})$", text, flags=re.MULTILINE)
    if found != [BEGIN, END]:
        raise ValueError(f"the page must have a line {BEGIN} and after it a line {END}, each once; found {found}.")
    between = re.compile(f"(?<=^{BEGIN}\n).*?(?=^{END}$)", flags=re.MULTILINE | re.DOTALL)
    return between.sub(lambda _: f"\n{tables}\n\n", text, count=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results", help="(benchmarks/results)")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/benchmarks.md", help="(docs/benchmarks.md)")
    parser.add_argument("--print", action="store_true", help="print the tables, leave the page alone")
    args = parser.parse_args()
    tables = render_folder(args.results)
    if args.print:
        print(tables)
        return
    args.page.write_text(replace_between_markers(args.page.read_text(), tables))
    print(f"Written: {args.page}")


if __name__ == "__main__":
    main()
