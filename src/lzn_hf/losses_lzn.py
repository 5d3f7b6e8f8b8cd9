# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Latents by the solver of a configuration, the losses of Latent Zoning Networks (arXiv 2509.15591), and the output with both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import ModelOutput

from .configuration_lzn import LZNConfig
from .distributed_lzn import gather_with_gradient, log_label_frequencies, process_index
from .latent_zones import alignment_loss, compute_latents, trace_assignments


@dataclass
class LZNOutput(ModelOutput):
    """Output of [`LZNModel`] for B images, with F features, D latent dimensions and S alignment steps.

    A model without image encoder has no embeddings, anchors and latents. K is the number of `config.alignment_noise_scales`.

    Args:
        loss (scalar `Tensor`, *optional*): weighted sum of the two losses below.
        reconstruction_loss (scalar `Tensor`, *optional*): mean squared error of the velocity.
        alignment_loss (scalar `Tensor`, *optional*): alignment of the image latents with the anchors of labels or of second views.
        embeddings (`Tensor` of shape `(B, F)`, *optional*): see [`LZNModel.get_image_features`], a function of each image alone.
        pooler_output (`Tensor` of shape `(B, F)`, *optional*): the embeddings, where transformers expects a pooled output.
        features (`Tensor` of shape `(B, E)`, *optional*): the encoder's features before the head.
        anchors (`Tensor` of shape `(B, D)`, *optional*): the anchors of the images.
        latents (`Tensor` of shape `(B, D)`, *optional*): the latents of the images among the anchors of the global batch, with the loss
            only.
        label_log_probs (`Tensor` of shape `(S, K B)`, *optional*): log-probability of each image's label at every alignment step, of
            all images for the first noise scale, then of all for the second, ...
        view_log_probs (`Tensor` of shape `(S, B)`, *optional*): log-probability of the anchor of each image's second view.
    """

    loss: Tensor | None = None
    reconstruction_loss: Tensor | None = None
    alignment_loss: Tensor | None = None
    embeddings: Tensor | None = None
    pooler_output: Tensor | None = None
    features: Tensor | None = None
    anchors: Tensor | None = None
    latents: Tensor | None = None
    label_log_probs: Tensor | None = None
    view_log_probs: Tensor | None = None


def draw_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws standard normal float32 noise of the shape and on the device of a tensor."""
    return torch.randn(like.shape, device=like.device, dtype=torch.float32, generator=generator)


def place_anchors(
    config: LZNConfig, anchors: Tensor, noise: Tensor, pool: Tensor | None = None, *, include_own: bool = False
) -> Tensor:
    """Computes the latents of anchors of images, with the latent solver of the configuration.

    Args:
        config ([`LZNConfig`]): `latent_solver` and `latent_num_steps`.
        anchors (`Tensor` of shape `(B, D)`): the anchors to place.
        noise (`Tensor` of shape `(B, D)`): prior noise.
        pool (`Tensor` of shape `(N, D)`, *optional*): the anchors that share the prior, `anchors` by default.
        include_own (`bool`, *optional*, defaults to `False`): whether each row's pool is {its own anchor} + `pool`.

    Returns:
        `Tensor` of shape `(B, D)`: the latents.

    Raises:
        ValueError: as [`latent_zones.compute_latents`].
    """
    solver, num_steps = config.latent_solver, config.latent_num_steps
    return compute_latents(anchors, noise, pool, include_own=include_own, solver=solver, num_steps=num_steps)


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


def reconstruction_loss(
    predict_velocity: Callable[..., Tensor],
    pixel_values: Tensor,
    latents: Tensor | None = None,
    labels: Tensor | None = None,
    sample_noise: Tensor | None = None,
    timesteps: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Computes the mean squared error of the velocity `x - e` at `x_t = t x + (1 - t) e`, one time t and noise e for each image x.

    Args:
        predict_velocity (`Callable`): [`LZNModel.predict_velocity`] of the model.
        pixel_values (`Tensor` of shape `(B, C, H, W)`): images in [-1, 1].
        latents (`Tensor` of shape `(B, D)`, *optional*): latents of the images, for a model with image encoder.
        labels (`Tensor` of shape `(B,)`, *optional*): int64 labels, for a model with labels.
        sample_noise (`Tensor` of shape `(B, C, H, W)`, *optional*): the noise e, drawn after the times if not given.
        timesteps (`Tensor` of shape `(B,)`, *optional*): the times t in [0, 1], drawn if not given.
        generator (`torch.Generator`, *optional*): draws times and noise.

    Returns:
        `Tensor`: a scalar.
    """
    if timesteps is None:
        timesteps = torch.rand(len(pixel_values), device=pixel_values.device, dtype=torch.float32, generator=generator)
    sample_noise = draw_noise(pixel_values, generator) if sample_noise is None else sample_noise
    t = timesteps[:, None, None, None]
    velocity = predict_velocity(t * pixel_values + (1 - t) * sample_noise, timesteps, latents, labels)
    return F.mse_loss(velocity.float(), (pixel_values - sample_noise).float())


def view_losses(
    config: LZNConfig,
    anchors: Tensor,
    targets: Tensor,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Computes the loss of representation learning, the alignment of two views.

    With the pools A and A' of the anchors of all processes,

        z_b = encode(a_b, scale noise_b; A),    loss = alignment_loss(log p(b | trace of z_b among A' at step k)),

    where image b of process r is row r B + b of the pools. If `config.alignment_symmetric`, the loss is the mean of this and of the
    loss with the views exchanged.

    Args:
        config ([`LZNConfig`]): `latent_noise_scale`, `alignment_symmetric`, `alignment_weight` and the settings of both flows.
        anchors (`Tensor` of shape `(B, D)`): the anchors of one view of the images of this process.
        targets (`Tensor` of shape `(B, D)`): the anchors of the other view.
        noise (`Tensor` of shape `(B, D)`, *optional*): prior noise, drawn if not given.
        generator (`torch.Generator`, *optional*): draws the noise.

    Returns:
        `dict[str, Tensor]`: `loss`, weighted, `alignment_loss`, and `latents` `(B, D)` and `view_log_probs` `(S, B)` of the first view, as
        in [`LZNOutput`].

    Raises:
        ValueError: if all processes together have one image.
    """
    pools = gather_pool(torch.stack([anchors, targets], dim=1)).unbind(1)
    noise = draw_noise(anchors, generator) if noise is None else noise
    noise = config.latent_noise_scale * noise
    rows = torch.arange(len(anchors), device=anchors.device) + process_index() * len(anchors)
    latents = place_anchors(config, anchors, noise, pools[0])
    loss, log_probs = align_latents(config, latents, pools[1], rows)
    if config.alignment_symmetric:
        other_latents = place_anchors(config, targets, noise, pools[1])
        loss = (loss + align_latents(config, other_latents, pools[0], rows)[0]) / 2
    return {
        "loss": config.alignment_weight * loss,
        "alignment_loss": loss,
        "latents": latents,
        "view_log_probs": log_probs,
    }


def draw_latents(
    config: LZNConfig, anchors: Tensor, pool: Tensor, latents: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draws the latents of images that are aligned with their labels, one for each of `config.alignment_noise_scales`.

    Args:
        config ([`LZNConfig`]): `alignment_noise_scales`, K of them, and the latent solver.
        anchors (`Tensor` of shape `(B, D)`): the anchors of the images.
        pool (`Tensor` of shape `(N, D)`): the anchors that share the prior.
        latents (`Tensor` of shape `(B, D)`): latents under noise of scale 1, which are taken for the first scale if that is 1.
        generator (`torch.Generator`, *optional*): draws the noise of the others.

    Returns:
        `Tensor` of shape `(K B, D)`: the latents of all images for the first scale, then of all for the second, ...
    """
    first, *rest = config.alignment_noise_scales
    drawn = [latents] if first == 1 else []
    scales = rest if first == 1 else [first, *rest]
    if scales:
        noise = torch.cat([scale * draw_noise(anchors, generator) for scale in scales])
        drawn.append(place_anchors(config, anchors.repeat(len(scales), 1), noise, pool))
    return torch.cat(drawn)


def label_losses(
    config: LZNConfig, latents: Tensor, label_anchors: Tensor, labels: Tensor, *, weighted: bool
) -> dict[str, Tensor]:
    """Computes the alignment loss of latents with the anchors of their labels.

    Args:
        config ([`LZNConfig`]): settings of the alignment flow and of its loss.
        latents (`Tensor` of shape `(K B, D)`): latents of images, as of [`draw_latents`].
        label_anchors (`Tensor` of shape `(C, D)`): the anchors of all labels.
        labels (`Tensor` of shape `(B,)`): int64 labels of the images.
        weighted (`bool`): whether the label frequencies of the global batch weight the label anchors. For training only: at
            evaluation they would leak the labels of the batch into the prediction.

    Returns:
        `dict[str, Tensor]`: `alignment_loss` and `label_log_probs` of [`LZNOutput`].
    """
    log_weights = log_label_frequencies(labels, len(label_anchors)) if weighted else None
    targets = labels.repeat(len(latents) // len(labels))
    loss, log_probs = align_latents(config, latents, label_anchors, targets, log_weights)
    return {"alignment_loss": loss, "label_log_probs": log_probs}


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
        # Drawn on the CPU from a fixed seed: the same points on every device and in every call.
        points = torch.randn(num_draws, anchors.shape[1], generator=torch.Generator().manual_seed(0))
    noise = points.to(anchors).repeat(len(anchors), 1)
    rows = anchors.repeat_interleave(len(points), 0)
    return place_anchors(config, rows, noise, reference_anchors, include_own=True).unflatten(0, (-1, len(points)))


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
    if len(rows) == len(latents):
        return log_probs
    return log_probs.unflatten(0, latents.shape[:-1]).logsumexp(1).log_softmax(-1)


def gather_pool(anchors: Tensor) -> Tensor:
    """Gathers the anchors of all processes with gradient; raises a ValueError if that is one image."""
    pool = gather_with_gradient(anchors)
    if len(pool) == 1:
        raise ValueError(
            "`pixel_values` must hold at least 2 images for the loss: in a pool of one the latent is the noise itself."
        )
    return pool


def check_labels(labels: Tensor | None, batch_size: int, num_labels: int) -> None:
    """Raises a ValueError for labels that are missing, or of a wrong type, shape or range."""
    if labels is None:
        raise ValueError(f"`labels` are needed for the loss of a model with {num_labels} labels, got None.")
    if labels.dtype != torch.int64 or labels.shape != (batch_size,):
        raise ValueError(
            f"`labels` must be int64 of shape ({batch_size},), one label an image, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )
    if not torch.compiler.is_compiling() and ((labels < 0) | (labels >= num_labels)).any():
        raise ValueError(f"`labels` must be in 0..{num_labels - 1}, got {labels.min().item()}..{labels.max().item()}.")


__all__ = [
    "align_latents",
    "check_labels",
    "draw_latents",
    "draw_noise",
    "gather_pool",
    "label_losses",
    "place_anchors",
    "place_images",
    "reconstruction_loss",
    "score_labels",
    "view_losses",
]
