# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Checks of what the metrics take: images, features and labels."""

from __future__ import annotations

import torch
from torch import Tensor


def check_images(name: str, images: Tensor) -> None:
    """Raises a ValueError for anything but finite floating point images `(N, C, H, W)` in [-1, 1], at least one."""
    if images.ndim != 4 or images.numel() == 0 or not images.is_floating_point():
        raise ValueError(
            f"`{name}` must be floating point (N, C, H, W) in [-1, 1] and not empty, "
            f"got {images.dtype} of shape {tuple(images.shape)}."
        )
    low, high = images.min().item(), images.max().item()
    if not (low >= -1 - 1e-3 and high <= 1 + 1e-3):  # also true for NaN
        raise ValueError(f"`{name}` must be in [-1, 1], got values from {low:.4g} to {high:.4g}.")


def check_features(min_samples: int, **features: Tensor) -> None:
    """Raises a ValueError unless all arguments are finite floating point `(N, F)` of one width, with N >= `min_samples`."""
    for name, x in features.items():
        if x.ndim != 2 or len(x) < min_samples or x.shape[1] == 0 or not x.is_floating_point():
            raise ValueError(
                f"`{name}` must be floating point (samples, features) with at least {min_samples} samples, "
                f"got {x.dtype} of shape {tuple(x.shape)}."
            )
        if not torch.isfinite(x).all():
            raise ValueError(f"`{name}` must be finite, got NaN or infinite values.")
    widths = [x.shape[1] for x in features.values()]
    if len(set(widths)) > 1:
        names = " and ".join(f"`{name}`" for name in features)
        raise ValueError(f"{names} must have one width, got {' and '.join(map(str, widths))}.")


def check_labels(name: str, labels: Tensor, count: int) -> None:
    """Raises a ValueError unless labels are whole numbers `(count,)` of at least 0.

    Args:
        name, labels, count: name of the argument, its value and the number of labels that it must have.
    """
    if labels.shape != (count,) or labels.is_floating_point():
        raise ValueError(
            f"`{name}` must be whole numbers of shape ({count},), got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    if count and labels.min() < 0:
        raise ValueError(f"`{name}` must be at least 0, got {labels.min().item()}.")


def check_scores(log_probs: Tensor, labels: Tensor) -> None:
    """Raises a ValueError unless scores are `(N, C)`, not empty and not NaN, with labels `(N,)` of at least 0."""
    if log_probs.ndim != 2 or log_probs.numel() == 0:
        raise ValueError(f"`log_probs` must be (N, C) and not empty, got {tuple(log_probs.shape)}.")
    if log_probs.isnan().any():
        raise ValueError("`log_probs` must not be NaN.")
    check_labels("labels", labels, len(log_probs))


def flatten_images(**images: Tensor) -> list[Tensor]:
    """Checked images as rows of pixels `(N, C H W)`, float64 on the CPU; a ValueError if their numbers of pixels differ."""
    for name, x in images.items():
        check_images(name, x)
    rows = [x.detach().cpu().double().flatten(1) for x in images.values()]
    if len({x.shape[1] for x in rows}) > 1:
        sizes = " and ".join(str(x.shape[1]) for x in rows)
        raise ValueError(f"images must all have the same size, got {sizes} pixels.")
    return rows


__all__ = ["check_features", "check_images", "check_labels", "check_scores", "flatten_images"]
