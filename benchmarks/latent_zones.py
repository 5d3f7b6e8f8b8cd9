# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Time and memory of latent computation and of tracing assignments, forward and backward.

The baseline is the direct form: the velocity as the paper writes it, sum_i p_i (e_i - a_i) with e_i = (x - (1 - t) a_i) / t,
broadcast over rows, anchors and dimensions, with the same Euler steps. At sizes where that would not fit, the baseline is a
loop of nothing but the same matrix products and softmaxes. Memory is that of a fresh process over its imports.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from common import Row, median_times, peak_memory, row, run_benchmark
from torch import Tensor

from lzn_hf import LZNConfig
from lzn_hf.latent_schedules import EULER_EPS
from lzn_hf.latent_zones import compute_latents, trace_assignments
from lzn_hf.losses_lzn import view_losses


ARGUMENTS = {
    "rows": (256, "rows B"),
    "anchors": (512, "anchors N of the pool, the rows' own among them"),
    "large_rows": (1024, "rows of the second comparison; 0: none"),
    "large_anchors": (8192, "anchors of the second comparison"),
    "latent_dim": (200, "latent dimensions D"),
    "steps": (20, "evaluations of the expected anchor"),
}
QUICK = {"rows": 128, "anchors": 256, "large_rows": 256, "large_anchors": 2048}


def direct_velocity(x: Tensor, pool: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    residuals = (x[:, None] - (1 - tau) * pool) / tau  # (B, N, D)
    p = (-0.5 * residuals.square().sum(-1)).softmax(-1)
    return (p[..., None] * (residuals - pool)).sum(1), p


def direct_latents(anchors: Tensor, noise: Tensor, pool: Tensor, *, num_steps: int, **_: Any) -> Tensor:
    """Returns latents by the published Euler encoding, written out over all pairs of rows and anchors."""
    x, size = EULER_EPS * noise + (1 - EULER_EPS) * anchors, (1 - EULER_EPS) / num_steps
    for k in range(num_steps):
        x = x + size * direct_velocity(x, pool, EULER_EPS + k * size)[0]
    return x


def encode(pool: Tensor, noise: Tensor, steps: int) -> Tensor:
    return compute_latents(pool[: len(noise)], noise, pool, solver="euler", num_steps=steps).square().sum()


def direct_encode(pool: Tensor, noise: Tensor, steps: int) -> Tensor:
    return direct_latents(pool[: len(noise)], noise, pool, num_steps=steps).square().sum()


def trace(pool: Tensor, noise: Tensor, steps: int) -> Tensor:
    points, log_probs = trace_assignments(noise, pool, torch.arange(len(noise)), solver="euler", num_steps=steps)
    return points.square().sum() + log_probs.exp().sum()


def direct_trace(pool: Tensor, noise: Tensor, steps: int) -> Tensor:
    """The published Euler decoding, with the probability of each row's own anchor at every step."""
    x, total, own = noise, 0.0, torch.arange(len(noise))
    for k in range(steps):
        velocity, p = direct_velocity(x, pool, 1 - k / steps)
        x = x - velocity / steps
        total = total + p[own, own].sum()
    return x.square().sum() + total


def products(pool: Tensor, noise: Tensor, steps: int) -> Tensor:
    """The two products and the softmax of every step, in float64, and nothing else."""
    pool, u = pool.double(), noise.double()
    for _ in range(steps):
        u = (u @ pool.T).softmax(-1) @ pool
    return u.square().sum()


def two_views(pool: Tensor, noise: Tensor, steps: int) -> Tensor:
    """The loss of representation learning for as many images as rows: both flows by the default solver."""
    config = LZNConfig(
        latent_dim=pool.shape[1],
        latent_num_steps=steps,
        alignment_num_steps=steps,
        latent_noise_scale=0.45,
        alignment_reduction="log_prob",
    )
    views = pool[: len(noise)]
    return view_losses(config, views, views + 0.1 * noise, noise.detach())["loss"]


FORMS = {form.__name__: form for form in (two_views, encode, trace, direct_encode, direct_trace, products)}
TITLES = {"encode": "compute_latents", "trace": "trace_assignments"}


def forward_backward(args: argparse.Namespace, form: str) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(args.seed)
    pool = torch.randn(args.anchors, args.latent_dim, generator=generator)
    noise = torch.randn(args.rows, args.latent_dim, generator=generator)
    return lambda: FORMS[form](pool.clone().requires_grad_(), noise.clone().requires_grad_(), args.steps).backward()


def measure(args: argparse.Namespace) -> list[Row]:
    def memory(form: str, **sizes: int) -> float:
        return peak_memory(args, form, **sizes) / 2**20

    size, results = f"{args.rows} rows, {args.anchors} anchors", []
    for form, title in TITLES.items():
        forms = (form, f"direct_{form}")
        ours, direct = median_times({name: forward_backward(args, name) for name in forms}, args.repeats).values()
        results.append(row(f"{title}, {size}", ours, "s", baseline=direct))
        ours, direct = map(memory, forms)
        results.append(row(f"{title}, {size}: peak memory", ours, "MiB", baseline=direct))
    if not args.large_rows:
        return results

    sizes = {"rows": args.large_rows, "anchors": args.large_anchors}
    large = argparse.Namespace(**{**vars(args), **sizes})
    functions = {name: forward_backward(large, name) for name in (*TITLES, "products")}
    seconds = median_times(functions, max(1, args.repeats // 3), warmup=0)
    for form, title in TITLES.items():
        title = f"{title}, {large.rows} rows, {large.anchors} anchors"
        name = f"{title}, against its products alone"
        results.append(row(name, seconds[form], "s", baseline=seconds["products"]))
        results.append(row(f"{title}: peak memory", memory(form, **sizes), "MiB"))
    title = f"two views of {large.rows} images, the loss and its gradient: peak memory"
    return [*results, row(title, memory("two_views", rows=large.rows, anchors=large.rows), "MiB")]


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick=QUICK, repeats=3, memory=forward_backward)
