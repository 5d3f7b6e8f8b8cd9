# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Checks of what a model is called with: images, labels, views and draws."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks_lzn import check_pixel_values, check_tensor
from .configuration_lzn import LZNConfig


NO_LABEL = -1  # for the decoder: its one-hot vector is zero


def check_images(config: LZNConfig, images: Tensor, name: str = "pixel_values", *, look: bool) -> None:
    """Raises a ValueError for images that a model of this configuration does not take; `look`: also for their values."""
    # ResNets and backbones take images of any size; a decoder does not.
    any_size = config.encoder_type in ("resnet", "transformers") and config.decoder_type is None
    check_pixel_values(images, config.num_channels, config.image_size, any_size=any_size, look=look, name=name)


def check_labels(labels: Tensor | None, batch_size: int | None, num_labels: int) -> None:
    """Raises a ValueError for labels that are missing, or of a wrong type, shape (`None`: of any number of images) or range."""
    if labels is None:
        raise ValueError(f"`labels` are needed for the loss of a model with {num_labels} labels, got None.")
    check_label_shape(labels, batch_size)
    if not torch.compiler.is_compiling() and not labels.is_meta and ((labels < 0) | (labels >= num_labels)).any():
        raise ValueError(f"`labels` must be in 0..{num_labels - 1}, got {labels.min().item()}..{labels.max().item()}.")


def check_draws(pixel_values: Tensor, latent_dim: int, *, finite: bool, **draws: Tensor | None) -> None:
    """Raises a ValueError unless what is given of `latents`, `noise`, `sample_noise` and `timesteps` fits images `(B, C, H, W)`."""
    rows = (pixel_values.shape[0], latent_dim)
    shapes = {"latents": rows, "noise": rows, "sample_noise": tuple(pixel_values.shape), "timesteps": rows[:1]}
    for name, value in draws.items():
        if value is not None:
            check_tensor(name, value, shapes[name], finite=finite)


def check_views(pixel_values: Tensor, second_views: Tensor, labels: Tensor | None) -> None:
    """Raises a ValueError unless second views have the shape of images, and come without labels."""
    shape = tuple(second_views.shape) if isinstance(second_views, Tensor) else type(second_views).__name__
    if labels is not None or shape != tuple(pixel_values.shape):
        raise ValueError(
            f"`second_views` must have the shape of `pixel_values`, {tuple(pixel_values.shape)}, and come without `labels`, "
            f"got {shape}{'' if labels is None else ' and labels'}."
        )


def check_label_shape(labels: Tensor, batch_size: int | None) -> None:
    """Raises a ValueError for labels of a wrong type or shape."""
    if not isinstance(labels, Tensor):
        raise ValueError(f"`labels` must be an int64 tensor, one label an image, got {type(labels).__name__}.")
    count = labels.numel() if batch_size is None else batch_size
    if labels.dtype != torch.int64 or labels.shape != (count,) or count == 0:
        raise ValueError(
            f"`labels` must be int64 of shape ({max(count, 1)},), one label an image, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )


def check_decoder_labels(labels: Tensor, batch_size: int, num_labels: int) -> None:
    """Raises a ValueError for labels that are not of a decoder, to which `NO_LABEL` is one of no label.

    On a GPU the range is not looked at, as every step would wait: there, a label out of range counts as none.
    """
    check_label_shape(labels, batch_size)
    look = labels.device.type == "cpu" and not torch.compiler.is_compiling()
    if look:
        low, high = (bound.item() for bound in torch.aminmax(labels))
        if low < NO_LABEL or high >= num_labels:
            raise ValueError(f"`labels` must be in 0..{num_labels - 1}, got {low}..{high}.")


__all__ = [
    "NO_LABEL",
    "check_decoder_labels",
    "check_draws",
    "check_images",
    "check_label_shape",
    "check_labels",
    "check_views",
]
