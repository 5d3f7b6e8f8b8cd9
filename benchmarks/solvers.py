# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Error of the latent solvers at equal cost, and whether a latent leads back to its anchor.

    python benchmarks/solvers.py
    python benchmarks/solvers.py --anchors digits.safetensors views.safetensors --output outputs/solvers_trained.json

Anchors are normal with a given scale, in some settings with a tenth of them doubled at a given distance; or those of trained
models, from files that `safetensors.torch.save_file({"anchors": model.reference_anchors}, FILE)` wrote, or with
`model.get_image_anchors(random_views(...))` of two views of each image.

The error is the root mean square per coordinate of the latents against 400 evaluations of the default solver in float64, which
are within 1e-6 of a fine Runge-Kutta integration (see the tests). "Own anchor" is the percentage of rows whose latent leads
back to the anchor that it comes from, as the most probable one of all. Latents that are off by a normal error with the rms of the
default solver, traced without error, show what a solver can reach: latents on the border of two zones go either way.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from common import Row, row, run_benchmark
from safetensors.torch import load_file
from torch import Tensor

from lzn_hf.latent_zones import SOLVERS, compute_latents, trace_assignments


ARGUMENTS = {
    "rows": (1000, "rows of each setting"),
    "evaluations": ([10, 20], "evaluations of the expected anchor"),
    "reference": (400, "evaluations of the reference"),
    "max_anchors": (2000, "leave out settings with more"),
    "anchors": (
        [],
        'safetensors files with a tensor "anchors" (N, D), e.g. of trained models, to measure instead',
        {"type": Path, "metavar": "FILE"},
    ),
}
QUICK = {"rows": 200, "max_anchors": 512, "reference": 200}
# Anchors, dimensions, scale, distance of the doubled anchors.
SETTINGS = [
    (64, 24, 1.0, None),
    (512, 64, 1.0, None),
    (2000, 200, 1.0, None),
    (10, 24, 1.0, None),
    (1000, 200, 0.3, None),
    (64, 24, 1.0, 1e-2),
    (64, 24, 1.0, 1e-3),
    (2000, 200, 1.0, 1e-2),
    (2000, 200, 1.0, 1e-3),
]
# Evaluations of the default solver from the anchor to the latent, and back.
THERE_AND_BACK = [(10, 10), (20, 20), (40, 40), (80, 80), (20, 80), (80, 20)]
# Rows that are traced at once, with the probabilities of all anchors.
TRACED_ROWS = 100


def make_pool(num_anchors: int, dim: int, scale: float, distance: float | None, generator: torch.Generator) -> Tensor:
    pool = scale * torch.randn(num_anchors, dim, generator=generator, dtype=torch.float64)
    if distance is not None:
        doubled = num_anchors // 10
        offsets = torch.randn(doubled, dim, generator=generator, dtype=torch.float64)
        pool[-doubled:] = pool[:doubled] + distance * torch.nn.functional.normalize(offsets)
    return pool


def pools(args: argparse.Namespace, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Yields names and anchors (N, D) in float64."""
    for path in args.anchors:
        pool = load_file(path)["anchors"].double()
        yield f"{path.stem}: {pool.shape[0]} anchors, {pool.shape[1]} dimensions", pool
    for num_anchors, dim, scale, distance in [] if args.anchors else SETTINGS:
        if num_anchors <= args.max_anchors:
            doubled = "" if distance is None else f", a tenth doubled at {distance:g}"
            pool = make_pool(num_anchors, dim, scale, distance, generator.manual_seed(args.seed))
            yield f"{num_anchors} anchors, {dim} dimensions, scale {scale:g}{doubled}", pool


def pool_rows(name: str, pool: Tensor, args: argparse.Namespace, generator: torch.Generator) -> list[Row]:
    # From both ends: the doubled anchors are there.
    own = torch.arange(args.rows) % len(pool)
    own[1::2] = len(pool) - 1 - own[1::2]
    noise = torch.randn(args.rows, pool.shape[1], generator=generator, dtype=torch.float64)

    def encode(solver: str, evaluations: int) -> Tensor:
        return compute_latents(pool[own], noise, pool, solver=solver, num_steps=evaluations)

    def own_anchor(title: str, latents: Tensor, solver: str, evaluations: int) -> Row:
        found = [
            trace_assignments(z, pool, solver=solver, num_steps=evaluations)[1][-1].argmax(-1)
            for z in latents.split(TRACED_ROWS)
        ]
        percent = 100 * (torch.cat(found) == own).double().mean().item()
        return row(f"{name}, {title}: own anchor", percent, "%", detail=True)

    reference = encode("adams", args.reference)
    results = []
    errors: dict[tuple[str, int], float] = {}
    for solver in sorted(SOLVERS, reverse=True):  # the published ones first: the default is compared with them
        for evaluations in args.evaluations:
            latents = encode(solver, evaluations)
            rms = errors[solver, evaluations] = (latents - reference).square().mean().sqrt().item()
            baseline = errors["dpmsolver++", evaluations] if solver == "adams" else None
            results.append(row(name, rms, "rms", column=f"{solver}, {evaluations}", baseline=baseline))
        if solver != "adams":
            results.append(own_anchor(f"{solver} {evaluations}", latents, solver, evaluations))
    for there, back in THERE_AND_BACK:
        results.append(own_anchor(f"adams {there} there, {back} back", encode("adams", there), "adams", back))
    for evaluations in args.evaluations:
        error = torch.randn(reference.shape, generator=generator, dtype=torch.float64)
        off = reference + errors["adams", evaluations] * error
        results.append(own_anchor(f"exact but for the rms of adams {evaluations}", off, "adams", args.reference))
    return results


def measure(args: argparse.Namespace) -> list[Row]:
    generator = torch.Generator()
    return [result for name, pool in pools(args, generator) for result in pool_rows(name, pool, args, generator)]


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick=QUICK, repeats=1)
