# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Latent zones by the solvers of a configuration: latents of images, their alignment, and scores of labels."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from .checks_lzn import check_generator, check_tensor
from .configuration_lzn import LZNConfig
from .distributed_lzn import draw_rows, gather_with_gradient
from .latent_zones import alignment_loss, compute_latents, trace_assignments


def draw_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws standard normal float32 noise of the shape and on the device of a tensor."""
    check_generator(generator)
    return torch.randn(like.shape, device=like.device, dtype=torch.float32, generator=generator)


def given_noise(noise: Tensor | None, anchors: Tensor, generator: torch.Generator | None, *, finite: bool) -> Tensor:
    """Returns the prior noise of anchors `(B, D)` that is given, after checking it, or draws it; `finite`: whether to look at its values."""
    if noise is None:
        return draw_noise(anchors, generator)
    check_tensor("noise", noise, tuple(anchors.shape), finite=finite)
    return noise


def gather_pool(anchors: Tensor, group: Any = None) -> Tensor:
    """Gathers the anchors of all processes of a group with gradient; raises a ValueError if that is one image."""
    pool = gather_with_gradient(anchors, group)
    if pool.shape[0] == 1:
        raise ValueError(
            "`pixel_values` must hold at least 2 images for the loss: in a pool of one the latent is the noise itself."
        )
    return pool


def place_anchors(
    config: LZNConfig,
    anchors: Tensor,
    noise: Tensor,
    pool: Tensor | None = None,
    *,
    include_own: bool = False,
    of_labels: bool = False,
) -> Tensor:
    """Computes the latents of anchors, with the solver of the configuration.

    Args:
        config ([`LZNConfig`]): `latent_solver` and `latent_num_steps`, or those of the alignment.
        anchors (`Tensor` of shape `(B, D)`): the anchors to place.
        noise (`Tensor` of shape `(B, D)`): prior noise.
        pool (`Tensor` of shape `(N, D)`, *optional*): the anchors that share the prior, `anchors` by default.
        include_own (`bool`, *optional*, defaults to `False`): whether each row's pool is {its own anchor} + `pool`.
        of_labels (`bool`, *optional*, defaults to `False`): whether the anchors are of labels, or of what else images are aligned with:
            `alignment_solver` and `alignment_num_steps` carry them.

    Returns:
        `Tensor` of shape `(B, D)`: the latents.

    Raises:
        ValueError: as [`latent_zones.compute_latents`].
    """
    log_weights = None
    if include_own and pool is not None and torch.compiler.is_compiling():
        # A graph is given all rows of the reference anchors. Those that are not set are zeros, and must not count.
        log_weights = torch.where(pool.any(1), 0.0, -math.inf).to(pool.dtype)
    return compute_latents(
        anchors,
        noise,
        pool,
        log_weights=log_weights,
        include_own=include_own,
        solver=config.alignment_solver if of_labels else config.latent_solver,
        num_steps=config.alignment_num_steps if of_labels else config.latent_num_steps,
    )


def align_latents(
    config: LZNConfig, latents: Tensor, pool: Tensor, targets: Tensor, log_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Computes the alignment loss of latents with their target anchors.

    Args:
        config ([`LZNConfig`]): settings of the alignment flow and of its loss.
        latents (`Tensor` of shape `(B, D)`): the latents.
        pool (`Tensor` of shape `(N, D)`): the anchors to align them with.
        targets (`Tensor` of shape `(B,)`): the row of `pool` that each latent belongs to.
        log_weights (`Tensor` of shape `(N,)`, *optional*): logarithms of the weights of the anchors; equal by default.

    Returns:
        `tuple`: the loss, a scalar, and the log-probabilities `(S, B)` of the targets at each of the S alignment steps.
    """
    _, log_probs = trace_assignments(
        latents,
        pool,
        targets,
        log_weights=log_weights,
        solver=config.alignment_solver,
        num_steps=config.alignment_num_steps,
        end=config.alignment_end,
    )
    return alignment_loss(log_probs, config.step_cutoff, config.alignment_reduction), log_probs


def draw_latents(
    config: LZNConfig,
    anchors: Tensor,
    pool: Tensor,
    latents: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws the latents of images that are aligned with their labels, one for each of `config.alignment_noise_scales`.

    Args:
        config ([`LZNConfig`]): `alignment_noise_scales`, K of them, and the latent solver.
        anchors (`Tensor` of shape `(B, D)`): the anchors of the images.
        pool (`Tensor` of shape `(N, D)`): the anchors that share the prior.
        latents (`Tensor` of shape `(B, D)`, *optional*): latents under noise of scale 1, which are taken for the first scale if that is 1.
        generator (`torch.Generator`, *optional*): draws the noise of the others, in one state on all processes, see [`draw_rows`].

    Returns:
        `Tensor` of shape `(K B, D)`: the latents of all images for the first scale, then of all for the second, ...
    """
    scales = list(config.alignment_noise_scales)
    drawn = []
    if latents is not None and scales[0] == 1:
        drawn.append(latents)
        scales.pop(0)
    if scales:
        noise = torch.cat([scale * draw_rows(torch.randn, anchors, generator) for scale in scales])
        drawn.append(place_anchors(config, anchors.repeat(len(scales), 1), noise, pool))
    return torch.cat(drawn)


def place_images(config: LZNConfig, anchors: Tensor, reference_anchors: Tensor) -> Tensor:
    """Computes the latents by which images are classified, each placed among {its own anchor} + reference anchors.

    Args:
        config ([`LZNConfig`]): the latent solver, and `num_prediction_draws`: 0 for the middle of the zone alone, or K fixed places in it.
        anchors (`Tensor` of shape `(B, D)`): the anchors of the images.
        reference_anchors (`Tensor` of shape `(N, D)`): anchors of training images.

    Returns:
        `Tensor` of shape `(B, max(K, 1), D)`: the latents.
    """
    num_draws = config.num_prediction_draws
    points = torch.zeros(1, anchors.shape[1])
    if num_draws:
        points = torch.tensor(_prediction_points(num_draws, config.latent_dim))
    noise = points.to(anchors).repeat(anchors.shape[0], 1)
    rows = anchors.repeat_interleave(points.shape[0], 0)
    return place_anchors(config, rows, noise, reference_anchors, include_own=True).unflatten(0, (-1, points.shape[0]))


@torch.compiler.assume_constant_result
def _prediction_points(num_draws: int, latent_dim: int) -> list[list[float]]:
    """Standard normal points `(num_draws, latent_dim)`, the same on every device and in every call."""

    def draw() -> list[list[float]]:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(num_draws, latent_dim, device="cpu", dtype=torch.float32, generator=generator).tolist()

    # In a thread of its own: what traces a graph watches this one, where there would be symbols instead of numbers.
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(draw).result()


def score_labels(config: LZNConfig, latents: Tensor, label_anchors: Tensor, time: float | None = None) -> Tensor:
    """Computes the log-probabilities of labels: the assignment probabilities of the label anchors at one time.

    Args:
        config ([`LZNConfig`]): solver and number of steps of the alignment flow.
        latents (`Tensor` of shape `(B, D)` or `(B, K, D)`): latents, or several of each image, over which probabilities are averaged.
        label_anchors (`Tensor` of shape `(C, D)`): the anchors of all labels.
        time (`float`, *optional*): the time in (0, 1] of the flow, see `config.prediction_time`. Default: its end.

    Returns:
        `Tensor` of shape `(B, C)`: the log-probabilities.
    """
    solver, num_steps, end = config.alignment_solver, config.alignment_num_steps, 1.0 if time is None else time
    rows = latents.flatten(0, -2)
    log_probs = trace_assignments(rows, label_anchors, solver=solver, num_steps=num_steps, end=end)[1][-1]
    if latents.ndim == 2 or latents.shape[1] == 1:
        return log_probs
    return log_probs.unflatten(0, latents.shape[:-1]).logsumexp(1).log_softmax(-1)


__all__ = [
    "align_latents",
    "draw_latents",
    "draw_noise",
    "gather_pool",
    "given_noise",
    "place_anchors",
    "place_images",
    "score_labels",
]
