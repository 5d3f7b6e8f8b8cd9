# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The losses of Latent Zoning Networks (arXiv 2509.15591), and the output with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import ModelOutput

from .configuration_lzn import LZNConfig
from .distributed_lzn import draw_rows, log_label_frequencies, process_index
from .model_checks_lzn import NO_LABEL
from .types_lzn import type_losses
from .zones_lzn import align_latents, draw_latents, gather_pool, place_anchors


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
        type_anchors (`dict[str, Tensor]`, *optional*): by data type, the anchors `(B, D)` of the samples that are given.
        type_log_probs (`dict[str, Tensor]`, *optional*): by data type, log-probability `(S, K B)` of the sample that belongs to each image.
        last_hidden_state (`Tensor`, *optional*): the encoder's last feature map, `(B, E, H', W')` (or what a backbone calls so).
        hidden_states (tuple of `Tensor`, *optional*): with `output_hidden_states=True`, what the encoder's first block is given and the
            feature map after each block; with second views, of both views.
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
    type_anchors: dict[str, Tensor] | None = None
    type_log_probs: dict[str, Tensor] | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


def joint_losses(
    model: Any,
    anchors: Tensor | None,
    labels: Tensor | None = None,
    reconstruct: Callable[..., Tensor] | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    group: Any = None,
    types: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]] | None = None,
) -> dict[str, Any]:
    """Computes the losses of joint training.

    Args:
        model ([`LZNModel`]): its configuration and label anchors, which are those of training or of evaluation.
        anchors (`Tensor` of shape `(B, D)`, *optional*): anchors of the images; `None` for a model without image encoder.
        labels (`Tensor` of shape `(B,)`, *optional*): int64 labels of the images.
        reconstruct (`Callable`, *optional*): `(latents, decoder_anchors=None)` -> the reconstruction loss, a scalar, as
            [`reconstruction_loss`]; `None` for a model without decoder.
        noise, generator, group (*optional*): see [`LZNModel.forward`].
        types (`Mapping`, *optional*): anchors `(B, D)` and inputs of the samples that belong to the images, by data type.

    Returns:
        `dict[str, Any]`: `loss`, and the fields of [`LZNOutput`] that it is made of.

    Raises:
        ValueError: for a pool of one image, and a model that has neither decoder nor labels.
    """
    config = model.config
    if reconstruct is None and not config.num_labels and not types:
        raise ValueError(
            "this model has neither an image decoder nor labels, so its only loss is that of `second_views`, which are not given, or of "
            "other data types."
        )
    losses: dict[str, Any] = {}
    weighted: list[Tensor] = []
    latents = None
    if anchors is not None:
        pool = gather_pool(anchors, group)
        noise = draw_rows(torch.randn, anchors, generator) if noise is None else noise
        latents = losses["latents"] = place_anchors(config, anchors, noise, pool)
    if reconstruct is not None:
        # As labels do, these say what to draw. The encoder learns from the alignment alone where they are.
        given = (types or {}).get(config.decoder_data_type)
        if given is None and config.decoder_data_type is not None:
            raise ValueError(
                f"the decoder of this model is given anchors of {config.decoder_data_type!r} (config.decoder_data_type), so its loss needs "
                "samples of it with the images, which are not given."
            )
        losses["reconstruction_loss"] = reconstruct(
            latents, decoder_anchors=None if given is None else given[0].detach()
        )
        weighted.append(config.reconstruction_weight * losses["reconstruction_loss"])
    aligned: list[Tensor] = []
    if anchors is not None and (labels is not None or types):
        drawn = draw_latents(config, anchors, pool, latents, generator)
        if labels is not None:
            label_anchors = model.require_label_anchors()
            losses |= label_losses(config, drawn, label_anchors, labels, weighted=model.training, group=group)
            aligned.append(losses["alignment_loss"])
        for name, (type_anchors, inputs) in (types or {}).items():
            found = type_losses(config, drawn, type_anchors, inputs, weighted=model.training, group=group)
            losses.setdefault("type_log_probs", {})[name] = found["log_probs"]
            aligned.append(found["alignment_loss"])
    if aligned:
        losses["alignment_loss"] = sum(aligned[1:], start=aligned[0])
        weighted.append(config.alignment_weight * losses["alignment_loss"])
    return {**losses, "loss": sum(weighted[1:], start=weighted[0])}


def reconstruction_loss(
    predict_velocity: Callable[..., Tensor],
    pixel_values: Tensor,
    latents: Tensor | None = None,
    labels: Tensor | None = None,
    sample_noise: Tensor | None = None,
    timesteps: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    condition_dropout: float = 0.0,
    decoder_anchors: Tensor | None = None,
) -> Tensor:
    """Computes the mean squared error of the velocity `x - e` at `x_t = t x + (1 - t) e`, one time t and noise e for each image x.

    Args:
        predict_velocity (`Callable`): [`LZNModel.predict_velocity`] of the model.
        pixel_values (`Tensor` of shape `(B, C, H, W)`): images in [-1, 1].
        latents (`Tensor` of shape `(B, D)`, *optional*): latents of the images, for a model with image encoder.
        labels (`Tensor` of shape `(B,)`, *optional*): int64 labels, for a model with labels.
        sample_noise (`Tensor` of shape `(B, C, H, W)`, *optional*): the noise e, drawn after the times if not given.
        timesteps (`Tensor` of shape `(B,)`, *optional*): the times t in [0, 1], drawn if not given.
        generator (`torch.Generator`, *optional*): draws times and noise, and then the images whose condition is dropped; in one state on
            all processes, see [`draw_rows`].
        condition_dropout (`float`, *optional*, defaults to 0.0): the probability with which an image's latent and label are dropped, both
            together, see [`drop_conditions`].
        decoder_anchors (`Tensor` of shape `(B, D)`, *optional*): anchors of the samples of `config.decoder_data_type` that belong to the
            images, for a model that has one. They are dropped with the latents.

    Returns:
        `Tensor`: a scalar.
    """
    if timesteps is None:
        timesteps = draw_rows(torch.rand, pixel_values[:, 0, 0, 0], generator)
    sample_noise = draw_rows(torch.randn, pixel_values, generator) if sample_noise is None else sample_noise
    if condition_dropout:
        draws = draw_rows(torch.rand, pixel_values[:, 0, 0, 0], generator)
        dropped = draws < condition_dropout
        latents, labels = drop_conditions(latents, labels, dropped)
        decoder_anchors, _ = drop_conditions(decoder_anchors, None, dropped)
    t = timesteps[:, None, None, None]
    x = t * pixel_values + (1 - t) * sample_noise
    velocity = predict_velocity(x, timesteps, latents, labels, decoder_anchors=decoder_anchors)
    return F.mse_loss(velocity.float(), (pixel_values - sample_noise).float())


def drop_conditions(
    latents: Tensor | None, labels: Tensor | None, dropped: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Takes away the conditions of some images: for the decoder, their latents and one-hot labels are zero.

    Args:
        latents (`Tensor` of shape `(B, D)`, *optional*): latents of a model with image encoder.
        labels (`Tensor` of shape `(B,)`, *optional*): int64 labels of a model with labels.
        dropped (`Tensor` of shape `(B,)`): bool, the images to drop the condition of.

    Returns:
        `tuple`: the latents and the labels.
    """
    latents = None if latents is None else latents.masked_fill(dropped[:, None], 0)
    return latents, None if labels is None else labels.masked_fill(dropped, NO_LABEL)


def view_losses(
    config: LZNConfig,
    anchors: Tensor,
    targets: Tensor,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    group: Any = None,
) -> dict[str, Tensor]:
    """Computes the loss of representation learning, the alignment of two views.

    With the pools A and A' of the anchors of all processes of the group,

        z_b = encode(a_b, scale noise_b; A),    loss = alignment_loss(log p(b | trace of z_b among A' at step k)),

    where image b of process r is row r B + b of the pools. If `config.alignment_symmetric`, the loss is the mean of this and of the
    loss with the views exchanged.

    Args:
        config ([`LZNConfig`]): `latent_noise_scale`, `alignment_symmetric`, `alignment_weight` and the settings of both flows.
        anchors (`Tensor` of shape `(B, D)`): the anchors of one view of the images of this process.
        targets (`Tensor` of shape `(B, D)`): the anchors of the other view.
        noise (`Tensor` of shape `(B, D)`, *optional*): prior noise, drawn if not given.
        generator (`torch.Generator`, *optional*): draws the noise, in one state on all processes, see [`draw_rows`].
        group (`ProcessGroup`, *optional*): the processes whose images share a pool, all by default.

    Returns:
        `dict[str, Tensor]`: `loss`, weighted, `alignment_loss`, and `latents` `(B, D)` and `view_log_probs` `(S, B)` of the first view, as
        in [`LZNOutput`].

    Raises:
        ValueError: if all processes together have one image.
    """
    pools = gather_pool(torch.stack([anchors, targets], dim=1), group).unbind(1)
    noise = draw_rows(torch.randn, anchors, generator) if noise is None else noise
    noise = config.latent_noise_scale * noise
    size = anchors.shape[0]
    rows = torch.arange(size, device=anchors.device) + process_index(group) * size
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


def label_losses(
    config: LZNConfig, latents: Tensor, label_anchors: Tensor, labels: Tensor, *, weighted: bool, group: Any = None
) -> dict[str, Tensor]:
    """Computes the alignment loss of latents with the anchors of their labels.

    Args:
        config ([`LZNConfig`]): settings of the alignment flow and of its loss.
        latents (`Tensor` of shape `(K B, D)`): latents of images, as of [`draw_latents`].
        label_anchors (`Tensor` of shape `(C, D)`): the anchors of all labels.
        labels (`Tensor` of shape `(B,)`): int64 labels of the images.
        weighted (`bool`): whether the label frequencies of the global batch weight the label anchors. For training only: at
            evaluation they would leak the labels of the batch into the prediction.
        group (`ProcessGroup`, *optional*): the processes whose images are that batch, all by default.

    Returns:
        `dict[str, Tensor]`: `alignment_loss` and `label_log_probs` of [`LZNOutput`].
    """
    log_weights = log_label_frequencies(labels, label_anchors.shape[0], group) if weighted else None
    targets = labels.repeat(latents.shape[0] // labels.shape[0])
    loss, log_probs = align_latents(config, latents, label_anchors, targets, log_weights)
    return {"alignment_loss": loss, "label_log_probs": log_probs}


__all__ = [
    "NO_LABEL",
    "LZNOutput",
    "drop_conditions",
    "joint_losses",
    "label_losses",
    "reconstruction_loss",
    "view_losses",
]
