# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the comparisons over seeds share: runs in worker processes, means and deviations, a table and a results file.

A script says how to run one (preset, method, seed), which numbers to take from a run, and which columns its table has.
"""

from __future__ import annotations

import logging
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from lzn_hf.evaluation.results import markdown_table, write_json
from lzn_hf.training.arguments import require_at_least
from lzn_hf.training.command_line import parse_command_line


EXAMPLES = Path(__file__).resolve().parent
Row = dict[str, Any]


@dataclass
class ComparisonArguments:
    """What to compare, and where to write."""

    _argument_group_name = "comparison"

    output_dir: str = field(default="outputs/comparison", metadata={"help": "Folder of all runs."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the runs."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the images of Fashion-MNIST."})
    max_train_steps: int | None = field(default=None, metadata={"help": "Steps of every run; default: the preset's."})
    workers: int = field(default=1, metadata={"help": "Parallel runs, each of one thread."})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "max_train_steps", "workers")
        self.require_entries("seeds")

    def require_entries(self, *names: str) -> None:
        """Raises a ValueError if one of the named lists is empty."""
        for name in names:
            if not getattr(self, name):
                raise ValueError(f"`{name}` must not be empty.")

    def require_known(self, name: str, known: Sequence[str]) -> None:
        """Raises a ValueError if the named list is empty or has an entry that is not known."""
        self.require_entries(name)
        for entry in getattr(self, name):
            if entry not in known:
                raise ValueError(f"`{name}` must be among {', '.join(known)}, but one is {entry!r}.")


@dataclass
class PresetsArguments(ComparisonArguments):
    """What to compare over several presets, and where to write."""

    presets: list[str] = field(
        default_factory=lambda: ["digits"], metadata={"help": "Presets of the training script."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_entries("presets")


Arguments = TypeVar("Arguments", bound=ComparisonArguments)


def parse_arguments(kind: type[Arguments], description: str | None, argv: Sequence[str] | None) -> Arguments:
    """The arguments of a comparison from the command line `argv` (None: that of the process)."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    return parse_command_line([kind], argv, description)[0]


def run_script(folder: Path, script: str, *arguments: object) -> None:
    """Runs a script of this folder in a process of one thread. Its output goes to a file beside the folder of the run."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("a") as file:
        command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
        code = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
    if code:
        raise RuntimeError(f"{script} ended with {code}: see {log}, which ends with\n{log.read_text()[-2000:]}")


def run_all(
    args: ComparisonArguments, presets: Sequence[str], methods: Sequence[str], run: Callable[[str, str, int], Row]
) -> list[Row]:
    """Calls `run(preset, method, seed)` for all of them, `args.workers` at a time; each result gets these three as keys."""
    jobs = [(preset, method, seed) for seed in args.seeds for preset in presets for method in methods]
    with ThreadPoolExecutor(args.workers) as pool:
        rows = list(tqdm(pool.map(lambda job: run(*job), jobs), total=len(jobs), desc="runs"))
    return [
        {**row, **dict(zip(("preset", "method", "seed"), job, strict=True))}
        for row, job in zip(rows, jobs, strict=True)
    ]


def summarise(runs: Sequence[Row], measures: Mapping[str, Callable[[Row], float | None]]) -> list[Row]:
    """Means over the seeds and, under `{measure}_deviation`, standard deviations (None of one seed).

    A measure that makes no sense for a method is None, and so is its mean.
    """
    summary = []
    for preset, method in dict.fromkeys((run["preset"], run["method"]) for run in runs):
        chosen = [run for run in runs if (run["preset"], run["method"]) == (preset, method)]
        row = {"preset": preset, "method": method, "seeds": len(chosen)}
        for name, measure in measures.items():
            values = [value for run in chosen if (value := measure(run)) is not None]
            row[name] = statistics.mean(values) if values else None
            row[f"{name}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
        summary.append(row)
    return summary


def with_deviation(row: Row, name: str, mean: str, deviation: str, factor: float = 1.0) -> str:
    """A measure by two format strings, as `mean ± deviation`; the mean alone of one seed; empty without a value."""
    if row[name] is None:
        return ""
    text, spread = mean.format(factor * row[name]), row[f"{name}_deviation"]
    return text if spread is None else f"{text} ± {deviation.format(factor * spread)}"


def write_results(
    args: ComparisonArguments,
    runs: Sequence[Row],
    summary: Sequence[Row],
    columns: Mapping[str, Callable[[Row], object]],
    note: str = "",
) -> Path:
    """Writes `results.json` and `table.md` and prints the table; returns the folder.

    Args:
        args: the arguments of the comparison.
        runs, summary: see [`run_all`] and [`summarise`].
        columns: headings of the table, with their cell for a row of the summary.
        note: a text below the table.
    """
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread per run",
        "arguments": {name: value for name, value in vars(args).items() if name not in ("output_dir", "data_dir")},
        "runs": runs,
        "summary": summary,
    }
    table = markdown_table(list(columns), [[cell(row) for cell in columns.values()] for row in summary])
    text = f"{table}\n\n{note}" if note else table
    write_json(Path(args.output_dir) / "results.json", results)
    (Path(args.output_dir) / "table.md").write_text(text + "\n")
    print(text)
    return Path(args.output_dir)
