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

        z_b = encode(a_b, scale noise_b; A),    loss = alignment_loss(log p(b | trace of z_b among A' at step k))

    where row b of process r is row r B + b of the pools. If `config.alignment_symmetric`, the mean of this and the loss with the views
    exchanged.

    Args:
        config ([`LZNConfig`]): `latent_noise_scale`, solvers, steps, `alignment_end`, and what [`alignment_loss`] needs.
        anchors (`Tensor` of shape `(B, D)`): those of one view of the images of this process.
        targets (`Tensor` of shape `(B, D)`): those of the other view.
        noise (`Tensor` of shape `(B, D)`, *optional*): prior noise, drawn by `generator` if not given.

    Returns:
        `dict`: `loss`, weighted, `alignment_loss`, and `latents` (B, D) and `view_log_probs` (S, B) of the first view, as in [`LZNOutput`].

    Raises:
        ValueError: for one image in all.
    """
    pools = gather_with_gradient(torch.stack([anchors, targets], dim=1)).unbind(1)
    check_pool(pools[0])
    if noise is None:
        noise = torch.randn(anchors.shape, device=anchors.device, generator=generator)
    noise = config.latent_noise_scale * noise
    own = torch.arange(len(anchors), device=anchors.device) + process_index() * len(anchors)
    trace = {"solver": config.alignment_solver, "num_steps": config.alignment_num_steps, "end": config.alignment_end}

    def align(anchors: Tensor, pool: Tensor, target_pool: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latents = compute_latents(anchors, noise, pool, solver=config.latent_solver, num_steps=config.latent_num_steps)
        _, log_probs = trace_assignments(latents, target_pool, own, **trace)
        return alignment_loss(log_probs, config.step_cutoff, config.alignment_reduction), latents, log_probs

    loss, latents, log_probs = align(anchors, *pools)
    if config.alignment_symmetric:
        loss = (loss + align(targets, *reversed(pools))[0]) / 2
    return {
        "loss": config.alignment_weight * loss,
        "alignment_loss": loss,
        "latents": latents,
        "view_log_probs": log_probs,
    }


def check_pool(pool: Tensor) -> None:
    """Raises a ValueError for a pool of one anchor."""
    if len(pool) == 1:
        raise ValueError(
            "`pixel_values` must hold at least 2 images for the loss: in a pool of one the latent is the noise itself."
        )


__all__ = ["check_pool", "view_losses"]
