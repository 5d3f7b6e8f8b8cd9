# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Time and memory of latent computation and of tracing assignments, forward and backward.

Against the direct form: the velocity as the paper writes it, sum_i p_i (e_i - a_i) with e_i = (x - (1 - t) a_i) / t, by
broadcasting over rows, anchors and dimensions; both run the same Euler steps. And, at sizes where that would not fit, against a
loop of nothing but the same matrix products and softmaxes. Memory is that of a fresh process over its imports.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from common import (
    Row,
    benchmark_parser,
    median_times,
    parse,
    peak_memory,
    print_peak_memory,
    print_rows,
    row,
    write_results,
)
from torch import Tensor

from lzn_hf import LZNConfig
from lzn_hf.latent_schedules import EULER_EPS
from lzn_hf.latent_zones import compute_latents, trace_assignments
from lzn_hf.losses_lzn import view_losses


def direct_latents(anchors: Tensor, noise: Tensor, num_steps: int) -> Tensor:
    """The published Euler encoding, written out over all pairs of rows and anchors."""
    x, size = EULER_EPS * noise + (1 - EULER_EPS) * anchors[: len(noise)], (1 - EULER_EPS) / num_steps
    for k in range(num_steps):
        x = x + size * direct_velocity(x, anchors, EULER_EPS + k * size)[0]
    return x.square().sum()


def direct_trace(anchors: Tensor, noise: Tensor, num_steps: int) -> Tensor:
    """The published Euler decoding, with the probability of each row's own anchor at every step."""
    x, total, own = noise, 0.0, torch.arange(len(noise))
    for k in range(num_steps):
        velocity, p = direct_velocity(x, anchors, 1 - k / num_steps)
        x = x - velocity / num_steps
        total = total + p[own, own].sum()
    return x.square().sum() + total


def direct_velocity(x: Tensor, anchors: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    residuals = (x[:, None] - (1 - tau) * anchors) / tau  # (B, N, D)
    p = (-0.5 * residuals.square().sum(-1)).softmax(-1)
    return (p[..., None] * (residuals - anchors)).sum(1), p


def encode(anchors: Tensor, noise: Tensor, num_steps: int) -> Tensor:
    return compute_latents(anchors[: len(noise)], noise, anchors, solver="euler", num_steps=num_steps).square().sum()


def trace(anchors: Tensor, noise: Tensor, num_steps: int) -> Tensor:
    points, log_probs = trace_assignments(
        noise, anchors, torch.arange(len(noise)), solver="euler", num_steps=num_steps
    )
    return points.square().sum() + log_probs.exp().sum()


def products(anchors: Tensor, noise: Tensor, num_steps: int) -> Tensor:
    """A loop of the two products and the softmax of every step, in float64, and nothing else."""
    pool, u = anchors.double(), noise.double()
    for _ in range(num_steps):
        u = (u @ pool.T).softmax(-1) @ pool
    return u.square().sum()


def two_views(anchors: Tensor, noise: Tensor, num_steps: int) -> Tensor:
    """The loss of representation learning, of as many images as rows: both flows by the default solver."""
    config = LZNConfig(
        latent_dim=anchors.shape[1],
        latent_num_steps=num_steps,
        alignment_num_steps=num_steps,
        latent_noise_scale=0.45,
        alignment_reduction="log_prob",
    )
    views = anchors[: len(noise)]
    return view_losses(config, views, views + 0.1 * noise, noise.detach())["loss"]


FORMS = {
    "two_views": two_views,
    "encode": encode,
    "trace": trace,
    "direct_encode": direct_latents,
    "direct_trace": direct_trace,
    "products": products,
}


def pass_of(form: str, rows: int, anchors: int, args: argparse.Namespace) -> Callable[[], None]:
    """A forward and backward pass of one form."""
    generator = torch.Generator().manual_seed(args.seed)
    pool = torch.randn(anchors, args.latent_dim, generator=generator)
    noise = torch.randn(rows, args.latent_dim, generator=generator)

    def run() -> None:
        FORMS[form](pool.clone().requires_grad_(), noise.clone().requires_grad_(), args.steps).backward()

    return run


def memory(form: str, rows: int, anchors: int, args: argparse.Namespace) -> float:
    """Peak memory in MiB."""
    sizes = {"rows": rows, "anchors": anchors, "latent_dim": args.latent_dim, "steps": args.steps, "seed": args.seed}
    argv = ["--memory_of", form, *(text for name, value in sizes.items() for text in (f"--{name}", str(value)))]
    return peak_memory(argv) / 2**20


def compare(args: argparse.Namespace) -> list[Row]:
    size = f"{args.rows} rows, {args.anchors} anchors"
    results = []
    for form, title in (("encode", "compute_latents"), ("trace", "trace_assignments")):
        names = (form, f"direct_{form}")
        seconds = median_times({name: pass_of(name, args.rows, args.anchors, args) for name in names}, args.repeats)
        ours, direct = (seconds[name] for name in names)
        results.append(row(f"{title}, {size}", ours, "s", baseline=direct, target=">= 100x"))
        ours, direct = (memory(name, args.rows, args.anchors, args) for name in names)
        results.append(row(f"{title}, {size}: peak memory", ours, "MiB", baseline=direct, target=">= 10x"))
    return results


def compare_large(args: argparse.Namespace) -> list[Row]:
    rows, anchors = args.large_rows, args.large_anchors
    size, names = f"{rows} rows, {anchors} anchors", ("encode", "trace", "products")
    functions = {name: pass_of(name, rows, anchors, args) for name in names}
    seconds = median_times(functions, max(1, args.repeats // 3), warmup=0)
    results = []
    for form, title in (("encode", "compute_latents"), ("trace", "trace_assignments")):
        title = f"{title}, {size}"
        results.append(
            row(
                f"{title}, against its products alone",
                seconds[form],
                "s",
                baseline=seconds["products"],
                target=">= 0.5x",
            )
        )
        results.append(row(f"{title}: peak memory", memory(form, rows, anchors, args), "MiB", target="<= 4096"))
    title = f"two views of {rows} images, the loss and its gradient: peak memory"
    results.append(row(title, memory("two_views", rows, rows, args), "MiB", target="<= 3072"))
    return results


def main() -> None:
    parser = benchmark_parser(__doc__, "latent_zones", repeats=3)
    parser.add_argument("--rows", type=int, default=256, help="rows B (256)")
    parser.add_argument(
        "--anchors", type=int, default=512, help="anchors N of the pool, the rows' own among them (512)"
    )
    parser.add_argument("--large_rows", type=int, default=1024, help="rows of the second comparison (1024); 0: none")
    parser.add_argument("--large_anchors", type=int, default=8192, help="anchors of the second comparison (8192)")
    parser.add_argument("--latent_dim", type=int, default=200, help="latent dimensions D (200)")
    parser.add_argument("--steps", type=int, default=20, help="evaluations of the expected anchor (20)")
    parser.add_argument("--memory_of", choices=FORMS, help=argparse.SUPPRESS)
    quick = {"rows": 128, "anchors": 256, "large_rows": 256, "large_anchors": 2048}
    args = parse(parser, quick=quick)
    if args.memory_of:
        return print_peak_memory(pass_of(args.memory_of, args.rows, args.anchors, args))
    results = compare(args)
    if args.large_rows:
        results += compare_large(args)
    print_rows(results)
    write_results(args.output, vars(args), results)


if __name__ == "__main__":
    main()
