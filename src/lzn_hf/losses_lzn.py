# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The loss of representation learning: latents of one view of images, aligned with the anchors of another (arXiv 2509.15591)."""

from __future__ import annotations

import torch
from torch import Tensor

from .configuration_lzn import LZNConfig
from .distributed_lzn import gather_with_gradient, process_index
from .latent_zones import alignment_loss, compute_latents, trace_assignments


def view_losses(
    config: LZNConfig,
    anchors: Tensor,
    targets: Tensor,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Alignment of two views, with the pools A and A' of the anchors of all processes:

        z_b = encode(a_b, scale noise_b; A),    loss = reduce_b max_k log p(b | trace of z_b among A' at step k)

    where row b of process r is row r B + b of the pools, and the first `config.step_cutoff` of the steps is left out.

    Args:
        config ([`LZNConfig`]): `latent_noise_scale`, solvers, steps, and what [`alignment_loss`] needs.
        anchors (`Tensor` of shape `(B, D)`): those of one view of the images of this process.
        targets (`Tensor` of shape `(B, D)`): those of the other view.
        noise (`Tensor` of shape `(B, D)`, *optional*): prior noise, drawn by `generator` if not given.

    Returns:
        `dict`: `loss`, weighted, `alignment_loss`, `latents` (B, D) and `view_log_probs` (S, B), as in [`LZNOutput`].

    Raises:
        ValueError: for one image in all.
    """
    pool, target_pool = gather_with_gradient(torch.stack([anchors, targets], dim=1)).unbind(1)
    check_pool(pool)
    if noise is None:
        noise = torch.randn(anchors.shape, device=anchors.device, generator=generator)
    noise = config.latent_noise_scale * noise
    latents = compute_latents(anchors, noise, pool, solver=config.latent_solver, num_steps=config.latent_num_steps)
    own = torch.arange(len(anchors), device=anchors.device) + process_index() * len(anchors)
    solver, num_steps = config.alignment_solver, config.alignment_num_steps
    _, log_probs = trace_assignments(latents, target_pool, own, solver=solver, num_steps=num_steps)
    loss = alignment_loss(log_probs, config.step_cutoff, config.alignment_reduction)
    weighted = config.alignment_weight * loss
    return {"loss": weighted, "alignment_loss": loss, "latents": latents, "view_log_probs": log_probs}


def check_pool(pool: Tensor) -> None:
    """Raises a ValueError for a pool of one anchor."""
    if len(pool) == 1:
        raise ValueError(
            "`pixel_values` must hold at least 2 images for the loss: in a pool of one the latent is the noise itself."
        )


__all__ = ["check_pool", "view_losses"]
