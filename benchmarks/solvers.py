# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Error of the latent solvers at equal cost, and whether a latent leads back to its anchor.

Anchors are normal with a given scale; in some settings a tenth of them is doubled at a given distance. The error is the root mean
square per coordinate of the latents against 400 evaluations of the default solver in float64, which are within 1e-6 of a fine
Runge-Kutta integration (see the tests). "Own anchor" is the share of rows whose latent the same solver leads back to the anchor that
it comes from.
"""

from __future__ import annotations

import torch
from common import benchmark_parser, parse, print_rows, row, write_results
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


def make_pool(num_anchors: int, dim: int, scale: float, distance: float | None, generator: torch.Generator) -> Tensor:
    pool = scale * torch.randn(num_anchors, dim, generator=generator, dtype=torch.float64)
    if distance is not None:
        doubled = num_anchors // 10
        offsets = torch.randn(doubled, dim, generator=generator, dtype=torch.float64)
        pool[-doubled:] = pool[:doubled] + distance * torch.nn.functional.normalize(offsets)
    return pool


def main() -> None:
    parser = benchmark_parser(__doc__, "solvers", repeats=1)
    parser.add_argument("--rows", type=int, default=1000, help="rows of each setting (1000)")
    parser.add_argument(
        "--evaluations", type=int, nargs="+", default=[10, 20], help="evaluations of the expected anchor"
    )
    parser.add_argument("--reference", type=int, default=400, help="evaluations of the reference (400)")
    parser.add_argument("--max_anchors", type=int, default=2000, help="leave out settings with more (2000)")
    args = parse(parser, quick={"rows": 200, "max_anchors": 512, "reference": 200})
    results = []
    for num_anchors, dim, scale, distance in SETTINGS:
        if num_anchors > args.max_anchors:
            continue
        generator = torch.Generator().manual_seed(args.seed)
        pool = make_pool(num_anchors, dim, scale, distance, generator)
        # From both ends: with doubled anchors, they are there.
        rows = torch.arange(args.rows) % num_anchors
        rows[1::2] = num_anchors - 1 - rows[1::2]
        noise = torch.randn(args.rows, dim, generator=generator, dtype=torch.float64)
        reference = compute_latents(pool[rows], noise, pool, num_steps=args.reference)
        name = f"{num_anchors} anchors, {dim} dimensions, scale {scale:g}"
        if distance is not None:
            name += f", a tenth doubled at {distance:g}"
        errors: dict[tuple[str, int], float] = {}
        for solver in sorted(SOLVERS, reverse=True):  # the published ones first: the default is compared with them
            for evaluations in args.evaluations:
                options = {"solver": solver, "num_steps": evaluations}
                latents = compute_latents(pool[rows], noise, pool, **options)
                rms = errors[solver, evaluations] = (latents - reference).square().mean().sqrt().item()
                against = {}
                if solver == "adams":
                    targets = TARGETS if distance is None else DOUBLED_TARGETS
                    against = {"baseline": errors["dpmsolver++", evaluations], "target": targets.get(evaluations)}
                results.append(row(name, rms, "rms", column=f"{solver}, {evaluations}", **against))
            log_probs = trace_assignments(latents, pool, rows, **options)[1]
            own = (log_probs[-1].exp() > 0.5).double().mean().item()
            target = ">= 99.9" if solver == "adams" else None
            results.append(row(f"{name}, {solver}: own anchor", 100 * own, "%", target=target, detail=True))
    print_rows(results)
    write_results(args.output, vars(args), results)


if __name__ == "__main__":
    main()
