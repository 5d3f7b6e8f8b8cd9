# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Error of the latent solvers at equal cost, and whether a latent leads back to its anchor.

    python benchmarks/solvers.py
    python benchmarks/solvers.py --anchors digits.safetensors views.safetensors --output outputs/solvers_trained.json

Anchors are normal with a given scale, a tenth of them doubled at a given distance in some settings; or those of trained models, from
files that `safetensors.torch.save_file({"anchors": model.reference_anchors}, FILE)` wrote, or with
`model.get_image_anchors(random_views(...))` of two views of each image. The error is the root mean square per coordinate of the latents
against 400 evaluations of the default solver in float64, which are within 1e-6 of a fine Runge-Kutta integration (see the tests). "Own
anchor" is the share of rows whose latent leads back to the anchor that it comes from, as the most probable one of all. Latents that are
off by a normal error of the rms that the default solver has, traced without error, show what a solver can reach: latents on the border of
two zones go either way.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from common import Row, benchmark_parser, parse, print_rows, row, write_results
from safetensors.torch import load_file
from torch import Tensor

from lzn_hf.latent_zones import SOLVERS, compute_latents, trace_assignments


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
TARGETS = {10: "<= 4e-3", 20: "<= 5e-4"}
DOUBLED_TARGETS = {20: "<= 1e-2"}
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


def pools(args: argparse.Namespace, generator: torch.Generator) -> Iterator[tuple[str, Tensor, dict[int, str]]]:
    """Names, anchors (N, D) in float64, and bounds of the rms error by evaluations."""
    for path in args.anchors:
        pool = load_file(path)["anchors"].double()
        yield f"{path.stem}: {pool.shape[0]} anchors, {pool.shape[1]} dimensions", pool, TARGETS
    for num_anchors, dim, scale, distance in [] if args.anchors else SETTINGS:
        if num_anchors <= args.max_anchors:
            name = f"{num_anchors} anchors, {dim} dimensions, scale {scale:g}"
            if distance is not None:
                name += f", a tenth doubled at {distance:g}"
            targets = TARGETS if distance is None else DOUBLED_TARGETS
            yield name, make_pool(num_anchors, dim, scale, distance, generator.manual_seed(args.seed)), targets


def own_share(latents: Tensor, pool: Tensor, own: Tensor, solver: str, evaluations: int) -> float:
    """The share of latents (B, D), in percent, whose own anchor (B,) is the most probable one at the end."""
    options = {"solver": solver, "num_steps": evaluations}
    found = [trace_assignments(z, pool, **options)[1][-1].argmax(-1) for z in latents.split(TRACED_ROWS)]
    return 100 * (torch.cat(found) == own).double().mean().item()


def measure(
    name: str, pool: Tensor, targets: dict[int, str], args: argparse.Namespace, generator: torch.Generator
) -> list[Row]:
    # From both ends: with doubled anchors, they are there.
    own = torch.arange(args.rows) % len(pool)
    own[1::2] = len(pool) - 1 - own[1::2]
    noise = torch.randn(args.rows, pool.shape[1], generator=generator, dtype=torch.float64)

    def encode(solver: str, evaluations: int) -> Tensor:
        return compute_latents(pool[own], noise, pool, solver=solver, num_steps=evaluations)

    reference = encode("adams", args.reference)
    results = []
    errors: dict[tuple[str, int], float] = {}
    for solver in sorted(SOLVERS, reverse=True):  # the published ones first: the default is compared with them
        for evaluations in args.evaluations:
            latents = encode(solver, evaluations)
            rms = errors[solver, evaluations] = (latents - reference).square().mean().sqrt().item()
            against = {}
            if solver == "adams":
                against = {"baseline": errors["dpmsolver++", evaluations], "target": targets.get(evaluations)}
            results.append(row(name, rms, "rms", column=f"{solver}, {evaluations}", **against))
        if solver != "adams":
            share = own_share(latents, pool, own, solver, evaluations)
            results.append(row(f"{name}, {solver} {evaluations}: own anchor", share, "%", detail=True))
    for there, back in THERE_AND_BACK:
        share = own_share(encode("adams", there), pool, own, "adams", back)
        target = ">= 99.9" if (there, back) == (20, 20) else None
        results.append(
            row(f"{name}, adams {there} there, {back} back: own anchor", share, "%", target=target, detail=True)
        )
    for evaluations in args.evaluations:
        error = torch.randn(reference.shape, generator=generator, dtype=torch.float64)
        off = reference + errors["adams", evaluations] * error
        share = own_share(off, pool, own, "adams", args.reference)
        title = f"{name}, exact but for the rms of adams {evaluations}: own anchor"
        results.append(row(title, share, "%", detail=True))
    return results


def main() -> None:
    parser = benchmark_parser(__doc__, "solvers", repeats=1)
    parser.add_argument("--rows", type=int, default=1000, help="rows of each setting (1000)")
    parser.add_argument(
        "--evaluations", type=int, nargs="+", default=[10, 20], help="evaluations of the expected anchor"
    )
    parser.add_argument("--reference", type=int, default=400, help="evaluations of the reference (400)")
    parser.add_argument("--max_anchors", type=int, default=2000, help="leave out settings with more (2000)")
    parser.add_argument(
        "--anchors",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help='safetensors files with a tensor "anchors" (N, D), e.g. of trained models, to measure instead',
    )
    args = parse(parser, quick={"rows": 200, "max_anchors": 512, "reference": 200})
    generator = torch.Generator()
    results = []
    for name, pool, targets in pools(args, generator):
        results += measure(name, pool, targets, args, generator)
    print_rows(results)
    write_results(args.output, vars(args), results)


if __name__ == "__main__":
    main()
