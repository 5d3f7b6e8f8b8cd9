# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Time of the default solver over the size of the pool, for a fixed number of rows, against the published Euler solver.

    python benchmarks/pool_size.py --plot docs/images/pool_size.png

Forward, in float32 anchors. What grows with the rows times the pool has a slope of 1 in the picture; what looks at all pairs of the pool would
have a slope of 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from common import Row, median_times, row, run_benchmark

from lzn_hf.latent_zones import compute_latents, trace_assignments
from lzn_hf.visualization.figures import PALETTE, draw_figure, new_figure


ARGUMENTS = {
    "rows": (64, "rows B"),
    "anchors": ([2**k for k in range(10, 17)], "sizes N of the pool"),
    "latent_dim": (256, "latent dimensions D"),
    "steps": (20, "evaluations of the expected anchor"),
    "plot": (None, "a picture of the times, e.g. docs/images/pool_size.png", {"type": Path, "metavar": "FILE"}),
}
QUICK = {"anchors": [256, 1024]}
SOLVERS = ("adams", "euler")


def forward(args: argparse.Namespace, function: str, solver: str, size: int) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(args.seed)
    pool = torch.randn(size, args.latent_dim, generator=generator)
    noise = torch.randn(args.rows, args.latent_dim, generator=generator)

    @torch.no_grad()
    def run() -> None:
        if function == "compute_latents":
            compute_latents(pool[: args.rows], noise, pool, solver=solver, num_steps=args.steps)
        else:
            trace_assignments(noise, pool, torch.arange(args.rows), solver=solver, num_steps=args.steps)

    return run


def draw(args: argparse.Namespace, seconds: dict[tuple[str, str], Sequence[float]]) -> None:
    """Draws times over sizes, both logarithmic, and a line of slope 1."""
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    for number, ((function, solver), times) in enumerate(seconds.items()):
        axes.plot(args.anchors, times, marker="o", color=PALETTE[number], label=f'{function}, "{solver}"')
    first = next(iter(seconds.values()))
    line = [first[0] * size / args.anchors[0] for size in args.anchors]
    axes.plot(args.anchors, line, color="0.5", linestyle="--", label="slope 1")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("anchors of the pool")
    axes.set_ylabel(f"seconds, {args.rows} rows, {args.latent_dim} dimensions")
    axes.legend(frameon=False)
    args.plot.parent.mkdir(parents=True, exist_ok=True)
    draw_figure(figure).save(args.plot)


def measure(args: argparse.Namespace) -> list[Row]:
    results: list[Row] = []
    seconds: dict[tuple[str, str], list[float]] = {}
    for function in ("trace_assignments", "compute_latents"):
        for size in args.anchors:
            times = median_times({solver: forward(args, function, solver, size) for solver in SOLVERS}, args.repeats)
            for solver in SOLVERS:
                seconds.setdefault((function, solver), []).append(times[solver])
            title = f"{function}, {args.rows} rows, {size} anchors"
            results.append(row(title, times["adams"], "s", baseline=times["euler"]))
    if args.plot is not None:
        draw(args, seconds)
    return results


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick=QUICK, repeats=5, threads=1)
