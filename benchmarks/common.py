# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The harness of all benchmarks: arguments, interleaved timing, peak memory of a fresh process, results as JSON.

A benchmark is a function from its arguments to rows:

    def measure(args):
        seconds = median_times({"ours": ours, "plain": plain}, args.repeats)
        bytes_ours = peak_memory(args, "ours")
        return [row("forward", seconds["ours"], "s", baseline=seconds["plain"]), row("memory", bytes_ours / 2**20, "MiB")]

    ARGUMENTS = {"batch": (64, "images")}  # default and help of `--batch`
    if __name__ == "__main__":
        run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick={"batch": 1}, memory=lambda args, case: CASES[case])

[`peak_memory`] starts the script again with the same arguments and the name of a case. There `memory` makes the function whose
growth of the peak is measured.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "diffusers", "numpy", "lzn_hf")
RATES = ("/s",)  # a unit with this ending is better when larger; seconds, bytes and errors are better when smaller
NO_SETTINGS = ("seed", "output", "memory_of")  # arguments that the results do not list as settings

Row = dict[str, Any]
# Default and help text of an argument, and more of what `add_argument` takes. A list takes several values, False is a flag.
Arguments = Mapping[str, tuple[Any, ...]]


# --- Arguments and the run -------------------------------------------------------------------------------------------------


def run_benchmark(
    file: str,
    doc: str | None,
    measure: Callable[[argparse.Namespace], list[Row]],
    arguments: Arguments,
    *,
    quick: Mapping[str, Any],
    repeats: int = 5,
    threads: int | None = None,
    memory: Callable[[argparse.Namespace, str], Callable[[], Any]] | None = None,
) -> None:
    """Parses the command line, measures, prints the rows and writes them as JSON.

    Args:
        file: `__file__` of the script.
        doc: `__doc__` of the script.
        measure: Returns the rows for parsed arguments.
        arguments: The script's own arguments; `--repeats`, `--seed`, `--quick` and `--output` are everyone's.
        quick: Defaults under `--quick`.
        repeats: Default of `--repeats`.
        threads: Threads of torch; torch's default without it.
        memory: Returns the function to run for a case of [`peak_memory`].
    """
    args = parse(Path(file).stem, doc, arguments, quick, repeats)
    if threads is not None:
        torch.set_num_threads(threads)
    if args.memory_of is not None:
        print_peak_memory(memory(args, args.memory_of))
        return
    rows = measure(args)
    print_rows(rows)
    write_results(args.output, vars(args), rows)


def parse(
    name: str,
    doc: str | None,
    arguments: Arguments,
    quick: Mapping[str, Any],
    repeats: int = 5,
    argv: Sequence[str] | None = None,
) -> argparse.Namespace:
    """Parses `argv`. The user's values win over those of `quick`. Seeds torch; sets `output` and `command`."""
    parser = argparse.ArgumentParser(
        prog=f"python benchmarks/{name}.py", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments = {
        "repeats": (repeats, "timed runs after the warm-up"),
        "seed": (0, "seed of all random inputs"),
        "quick": (False, "small sizes, as in `make bench`; other arguments still count"),
        "output": (None, f"the JSON (benchmarks/results/{name}.json; with --quick outputs/bench/)", {"type": Path}),
        **arguments,
    }
    for key, (default, text, *more) in arguments.items():
        options: dict[str, Any] = {"default": default, "help": text, **(more[0] if more else {})}
        if default is False:
            options["action"] = "store_true"
        elif default is not None:
            options["help"] += " (%(default)s)"
            options.setdefault("type", type(default[0] if isinstance(default, list) and default else default))
        if isinstance(default, list):
            options["nargs"] = "+"
        parser.add_argument(f"--{key}", **options)
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    if parser.parse_args(argv).quick:
        parser.set_defaults(**quick)
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    if args.output is None:
        args.output = ROOT / ("outputs/bench" if args.quick else "benchmarks/results") / f"{name}.json"
    changed = {key: getattr(args, key) for key in arguments if getattr(args, key) != parser.get_default(key)}
    args.command = " ".join(["python", f"benchmarks/{name}.py", *command_line({**changed, "output": None})])
    torch.manual_seed(args.seed)
    return args


# --- Time and memory -------------------------------------------------------------------------------------------------------


def median_times(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    warmup: int = 1,
    clock: Callable[[], float] | None = None,
) -> dict[str, float]:
    """Returns median seconds of each function.

    Rounds call every function once, so that a slow moment of the machine hits all.

    Args:
        functions: Functions by name.
        repeats: Timed rounds.
        warmup: Untimed rounds before them.
        clock: By default processor time where torch has one thread and no GPU, which is steady on a machine that does other
            work too; otherwise the time of the clock.
    """
    if clock is None:
        clock = time.process_time if torch.get_num_threads() == 1 and not on_gpu() else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + repeats):
        for name, function in functions.items():
            synchronize()
            start = clock()
            function()
            synchronize()
            if turn >= warmup:
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def on_gpu() -> bool:
    return torch.cuda.is_initialized()


def synchronize() -> None:
    if on_gpu():
        torch.cuda.synchronize()


def peak_memory(args: argparse.Namespace, case: str, **changes: Any) -> int:
    """Returns by how many bytes the peak of a fresh process grows in a case, with `args` and `changes` to them."""
    settings = {**vars(args), "quick": False, "output": None, "command": None, **changes, "memory_of": case}
    command = [sys.executable, sys.argv[0], *command_line(settings)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])["peak_bytes"]


def command_line(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if value is None or value is False or value == []:
            continue
        yield f"--{name}"
        if value is not True:
            yield from map(str, value if isinstance(value, list) else [value])


def print_peak_memory(function: Callable[[], Any]) -> None:
    """In the fresh process: calls `function` and prints the growth of the peak, on a CUDA device the most allocated bytes."""
    before = _peak_bytes()
    function()
    grown = torch.cuda.max_memory_allocated() if on_gpu() else _peak_bytes() - before
    print(json.dumps({"peak_bytes": grown}))


def _peak_bytes() -> int:
    # Not `ru_maxrss` on Linux, where a process inherits it from its parent.
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return 1024 * int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# --- Results ---------------------------------------------------------------------------------------------------------------


def row(
    name: str,
    value: float,
    unit: str,
    *,
    baseline: float | None = None,
    column: str | None = None,
    detail: bool = False,
) -> Row:
    """Returns a result; its `ratio` says how many times better than the baseline it is, a rate ("images/s") as well as a time.

    Args:
        name: What was measured.
        value: The result.
        unit: "s", "ms", "MiB", "images/s", "rms", "%", ...
        baseline: The same quantity of the baseline, measured in the same run.
        column: On the page, rows with one become a table of name by column, without baselines.
        detail: Whether the page leaves the row out.
    """
    result: Row = {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": None}
    if baseline is not None:
        top, bottom = (value, baseline) if unit.endswith(RATES) else (baseline, value)
        result["ratio"] = top / bottom if bottom else None
    if column is not None:
        result["column"] = column
    if detail:
        result["detail"] = True
    return result


def format_value(value: float | None) -> str:
    """Returns three digits, thousands with commas: 0.000123 -> 1.2e-04, 0.271, 14.0, 104,211."""
    if value is None:
        return ""
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def row_cells(result: Row) -> tuple[str, str, str, str]:
    """Returns the texts of a row: name, value with its unit, baseline, ratio."""
    name = ", ".join(filter(None, (result["name"], result.get("column"))))
    value = f"{format_value(result['value'])} {result['unit']}".strip()
    ratio = "" if result["ratio"] is None else f"{format_value(result['ratio'])}x"
    return name, value, format_value(result["baseline"]), ratio


def print_rows(rows: Iterable[Row]) -> None:
    """Prints rows as a table."""
    cells = [("", "value", "baseline", "ratio"), *map(row_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for name, *others in cells:
        texts = [name.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
        print("  ".join(texts).rstrip())
    sys.stdout.flush()


def machine() -> dict[str, Any]:
    """Returns processor, cores, memory in GiB, operating system, and GPU or None."""
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
    """Returns the versions of Python and of the packages that speed depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # lzn_hf from a source tree
            continue
    return found


def write_results(path: str | Path, settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Writes `{machine, versions, threads, seed, settings, results}` with sorted keys. `settings` is `vars(args)`."""
    report = {
        "machine": machine(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "seed": settings.get("seed"),
        "settings": {key: value for key, value in settings.items() if key not in NO_SETTINGS},
        "results": list(rows),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, sort_keys=True, allow_nan=False, default=str) + "\n")
    print(f"Written: {path}")
