# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What every benchmark here shares: arguments, interleaved timing, peak memory of a fresh process, results as JSON.

    args = parse(benchmark_parser(__doc__, "networks"), quick={"batch": 1})
    seconds = median_times({"ours": ours, "plain": plain}, args.repeats)
    rows = [row("forward", seconds["ours"], "s", baseline=seconds["plain"], target="<= 0.27")]
    print_rows(rows)
    write_results(args.output, vars(args), rows)

Peak memory is that of a process that does one thing. A script starts itself again with an argument of its own, and ends there:

    if args.memory_of:  # hidden: parser.add_argument("--memory_of", help=argparse.SUPPRESS)
        return print_peak_memory(FORMS[args.memory_of])
    bytes_ours = peak_memory(["--memory_of", "ours", "--batch", str(args.batch)])
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "diffusers", "numpy", "lzn_hf")
RATES = ("/s",)  # a unit that ends so is better when larger; seconds, bytes and errors are better when smaller

Row = dict[str, Any]


# Arguments


def benchmark_parser(description: str | None, name: str, *, repeats: int = 5) -> argparse.ArgumentParser:
    """A parser with the arguments of every benchmark: `--repeats`, `--seed`, `--quick`, `--output`."""
    parser = argparse.ArgumentParser(
        prog=f"python benchmarks/{name}.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=repeats, help=f"timed runs after the warm-up ({repeats})")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random inputs (0)")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, as `make bench`; other arguments still count"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help=f"the JSON (benchmarks/results/{name}.json; with --quick outputs/bench/{name}.json)",
    )
    parser.set_defaults(benchmark=name)
    return parser


def parse(
    parser: argparse.ArgumentParser, quick: Mapping[str, Any], argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parses `argv`. `quick` are the defaults under `--quick`: what the user gives wins. Sets the seed and `output`."""
    if parser.parse_args(argv).quick:
        parser.set_defaults(**quick)
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    if args.output is None:
        args.output = ROOT / ("outputs/bench" if args.quick else "benchmarks/results") / f"{args.benchmark}.json"
    torch.manual_seed(args.seed)
    return args


# Time and memory


def median_times(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each function. Rounds call every function once, so that a slow moment of the machine hits all.

    Args:
        repeats: timed rounds.
        warmup: rounds before them that are not timed.
        clock: `time.process_time` with one thread is steadier on a machine that does other work.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + repeats):
        for name, function in functions.items():
            _synchronize()
            start = clock()
            function()
            _synchronize()
            if turn >= warmup:
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _peak_bytes() -> int:
    """The most memory this process has had. Linux hands `ru_maxrss` on from the parent process, so not that there."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return 1024 * int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def print_peak_memory(function: Callable[[], Any]) -> None:
    """In the fresh process: calls `function` and prints by how many bytes the peak grew, for [`peak_memory`].

    Where `function` uses a CUDA device, this is the most memory that was allocated there.
    """
    before = _peak_bytes()
    function()
    grown = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else _peak_bytes() - before
    print(json.dumps({"peak_bytes": grown}))


def peak_memory(argv: Sequence[str]) -> int:
    """Starts this script with `argv` in a fresh process, which calls [`print_peak_memory`]: bytes over its imports."""
    command = [sys.executable, sys.argv[0], *argv]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])["peak_bytes"]


# Results


def row(
    name: str,
    value: float,
    unit: str,
    *,
    baseline: float | None = None,
    target: str | None = None,
    column: str | None = None,
    detail: bool = False,
) -> Row:
    """A result: `ratio` says how many times better than the baseline `value` is, for a rate ("images/s") as for a time.

    Args:
        unit: "s", "ms", "MiB", "images/s", "rms", "%", ...
        baseline: the same quantity of the baseline, measured in this run.
        target: a bound in words, compared to the value (`"<= 0.27"`) or, with an x, to the ratio (`">= 1.3x"`).
        column: in the README, rows with one become a table of name by column, without baselines.
        detail: printed and written, but not shown in the README.
    """
    result: Row = {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": None}
    if baseline is not None:
        larger_is_better = unit.endswith(RATES)
        top, bottom = (value, baseline) if larger_is_better else (baseline, value)
        result["ratio"] = top / bottom if bottom else None
    if target is not None:
        result["target"] = target
    if column is not None:
        result["column"] = column
    if detail:
        result["detail"] = True
    return result


def target_met(result: Row) -> bool | None:
    """Whether a row meets its target; None where there is nothing to compare."""
    found = re.fullmatch(r"(<=|>=) ([\d.,e+-]+)(x?)", result.get("target") or "")
    measured = result["ratio"] if found and found[3] else result["value"]
    if not found or measured is None:
        return None
    bound = float(found[2].replace(",", ""))
    return measured <= bound if found[1] == "<=" else measured >= bound


def format_value(value: float | None) -> str:
    """Three digits, thousands with commas: 0.000123 -> 1.2e-04, 0.271, 14.0, 104,211."""
    if value is None:
        return ""
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    if abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}"


def row_cells(result: Row) -> tuple[str, str, str, str, str]:
    """The texts of a row: name, value with its unit, baseline, ratio, target with its verdict."""
    met = target_met(result)
    verdict = "" if met is None else (" met" if met else " missed")
    ratio = "" if result["ratio"] is None else f"{format_value(result['ratio'])}x"
    value = f"{format_value(result['value'])} {result['unit']}".strip()
    name = ", ".join(filter(None, (result["name"], result.get("column"))))
    return name, value, format_value(result["baseline"]), ratio, f"{result.get('target') or ''}{verdict}"


def print_rows(rows: Iterable[Row]) -> None:
    """Prints rows as a table."""
    cells = [("", "value", "baseline", "ratio", "target"), *map(row_cells, rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    for name, *others in cells:
        texts = [name.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
        print("  ".join(texts).rstrip())
    sys.stdout.flush()


def machine() -> dict[str, Any]:
    """The hardware: processor, cores, memory in GiB, operating system, GPU or None."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model[1].strip() if model else platform.processor() or platform.machine(),
        "cores": cores,
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide about speed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # lzn_hf from a source tree
            continue
    return found


def write_results(path: str | Path, settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Writes `{machine, versions, threads, seed, settings, results}` with sorted keys. `settings`: `vars(args)` will do."""
    hidden = ("seed", "output", "benchmark", "memory_of")
    report = {
        "machine": machine(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "seed": settings.get("seed"),
        "settings": {key: value for key, value in settings.items() if key not in hidden},
        "results": list(rows),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, sort_keys=True, allow_nan=False, default=str) + "\n")
    print(f"Written: {path}")
