# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Numbers that say how good a model is: pure functions of features, images, labels or latents.

`scikit-learn` is imported where it is used. Everything is computed in float64 on the CPU, and images are in [-1, 1].
Distances on features of a network, and reconstructions, are in `evaluation.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..losses_lzn import place_anchors
from ..modeling_lzn import LZNForImageClassification, LZNModel
from .metrics import check_images, frechet_distance, reconstruction_error


CHUNK = 1024  # rows of a distance matrix at once


# Classification ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def predict_log_probs(
    model: LZNModel | LZNForImageClassification, pixel_values: Tensor, *, batch_size: int = 256, progress: bool = False
) -> Tensor:
    """Log-probabilities `(N, num_labels)` of images `(N, C, H, W)` in [-1, 1], each classified by itself, on the CPU.

    Args:
        model ([`LZNModel`] or [`LZNForImageClassification`]): with labels and reference anchors; put into evaluation
            mode for the time of the call.
        pixel_values (`Tensor` of shape `(N, C, H, W)`): the images.
        batch_size (`int`, *optional*, defaults to 256): images at once. It does not change the result.
        progress (`bool`, *optional*, defaults to `False`): whether to show a progress bar.

    Raises:
        ValueError: if `batch_size` is below 1, there are no images, or as [`LZNModel.classify_images`].
    """
    if isinstance(model, LZNForImageClassification):
        model = model.lzn
    return torch.cat([model.classify_images(x).cpu() for x in _batches(model, pixel_values, batch_size, progress)])


def accuracy(log_probs: Tensor, labels: Tensor, top_k: int = 1) -> float:
    """Share of samples whose label is among the `top_k` most probable ones.

    Args:
        log_probs (`Tensor` of shape `(N, C)`): log-probabilities, or anything in their order.
        labels (`Tensor` of shape `(N,)`): true labels.
        top_k (`int`, *optional*, defaults to 1): from 1 to C.

    Raises:
        ValueError: if shapes do not fit, `top_k` is out of range, or a value is NaN.
    """
    if log_probs.ndim != 2 or len(log_probs) == 0:
        raise ValueError(f"`log_probs` must be (N, C) and not empty, got {tuple(log_probs.shape)}.")
    if log_probs.isnan().any():
        raise ValueError("`log_probs` must not be NaN.")
    _check_labels("labels", labels, len(log_probs))
    if not 1 <= top_k <= log_probs.shape[1]:
        raise ValueError(f"`top_k` must be in 1..{log_probs.shape[1]}, got {top_k}.")
    return (log_probs.topk(top_k).indices == labels.to(log_probs.device)[:, None]).any(1).double().mean().item()


# Generated images ----------------------------------------------------------------------------------------------------


def pixel_frechet_distance(images_a: Tensor, images_b: Tensor) -> float:
    """[`frechet_distance`] of raw pixels: images `(N, C, H, W)` in [-1, 1], flattened.

    Fit for tiny images only: on large ones raw pixels say little about what is seen, and the cost grows
    with C H W cubed.

    Raises:
        ValueError: for anything but finite floating point images in [-1, 1] of one shape, at least two of each.
    """
    return frechet_distance(_flat_images("images_a", images_a), _flat_images("images_b", images_b))


def class_consistency(images: Tensor, labels: Tensor, reference_images: Tensor, reference_labels: Tensor) -> float:
    """Share of images that a support vector classifier, trained on the reference images, takes for their label.

    With held-out real images this is the accuracy of the classifier itself, the value to compare generated images
    with: 0.994 on the 360 held-out digits. (Radial basis functions on flattened pixels, C = 10; anything from C = 5 to
    100 does the same.)

    Args:
        images (`Tensor` of shape `(N, C, H, W)`): in [-1, 1].
        labels (`Tensor` of shape `(N,)`): the labels that they should show.
        reference_images (`Tensor` of shape `(M, C, H, W)`): real images, a few thousand at most: training time grows
            with M².
        reference_labels (`Tensor` of shape `(M,)`): their labels.

    Raises:
        ValueError: if shapes do not fit, an image is not in [-1, 1], or the reference has fewer than two labels.
    """
    x, reference = _flat_images("images", images), _flat_images("reference_images", reference_images)
    _check_labels("labels", labels, len(x))
    _check_labels("reference_labels", reference_labels, len(reference))
    if len(reference_labels.unique()) < 2:
        raise ValueError("`reference_labels` must hold at least two labels, got one.")
    _check_widths(x, reference)

    from sklearn.svm import SVC

    classifier = SVC(C=10.0, kernel="rbf", gamma="scale").fit(reference.numpy(), reference_labels.cpu().numpy())
    return float(classifier.score(x.numpy(), labels.cpu().numpy()))


def class_diversity(
    images: Tensor, labels: Tensor, reference_images: Tensor, reference_labels: Tensor
) -> dict[str, float]:
    """How much the images of a label differ among each other, compared with real images of it.

    For each label the root mean square distance of its images from their mean, divided by that of the reference images
    of the label. About 1 is as varied as real images; 0 is one picture a label.

    Args:
        images, labels, reference_images, reference_labels: as in [`class_consistency`]; each label in `labels` needs
            two images on both sides.

    Returns:
        `dict`: `mean` over the labels in `labels`, and the smallest ratio, `min`.

    Raises:
        ValueError: as [`class_consistency`], and if a label has fewer than two images or its reference images are all
            the same.
    """
    x, reference = _flat_images("images", images), _flat_images("reference_images", reference_images)
    _check_labels("labels", labels, len(x))
    _check_labels("reference_labels", reference_labels, len(reference))
    _check_widths(x, reference)
    ratios = []
    for label in labels.unique().tolist():
        spreads = []
        for name, rows, row_labels in (("images", x, labels), ("reference_images", reference, reference_labels)):
            rows = rows[row_labels.cpu() == label]
            if len(rows) < 2:
                raise ValueError(f"`{name}` must hold at least two images of label {label}, got {len(rows)}.")
            spreads.append(rows.var(0).sum().sqrt().item())
        if spreads[1] == 0:
            raise ValueError(
                f"`reference_images` of label {label} are all the same: there is nothing to compare with."
            )
        ratios.append(spreads[0] / spreads[1])
    return {"mean": sum(ratios) / len(ratios), "min": min(ratios)}


def novelty(images: Tensor, train_images: Tensor, held_out_images: Tensor) -> float:
    """Median distance of images to their nearest training image, divided by that of held-out real images.

    About 1: as far from the training images as unseen real images are. Near 0: copies of training images.

    Args:
        images (`Tensor` of shape `(N, C, H, W)`): generated images in [-1, 1].
        train_images (`Tensor` of shape `(M, C, H, W)`): what the model was trained on.
        held_out_images (`Tensor` of shape `(K, C, H, W)`): real images that it has not seen.

    Raises:
        ValueError: if shapes do not fit, an image is not in [-1, 1], or more than half of the held-out images are
            training images.
    """
    train, medians = _flat_images("train_images", train_images), []
    for name, value in (("images", images), ("held_out_images", held_out_images)):
        rows = _flat_images(name, value)
        _check_widths(rows, train)
        nearest = [
            torch.cdist(chunk, train, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
            for chunk in rows.split(CHUNK)
        ]
        medians.append(torch.cat(nearest).median().item())
    if medians[1] == 0:
        raise ValueError("`held_out_images` must not be training images, but more than half of them are.")
    return medians[0] / medians[1]


# Latents ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def joint_latents(
    model: LZNModel, pixel_values: Tensor, *, generator: torch.Generator | None = None, batch_size: int = 256
) -> Tensor:
    """Latents `(N, D)` of images under prior noise, placed among each other: all of them are one anchor pool.

    They are on the CPU. The prior is what such latents together must look like; [`latent_statistics`] checks it. Time grows with N².

    Args:
        model ([`LZNModel`]): put into evaluation mode for the time of the call.
        pixel_values (`Tensor` of shape `(N, C, H, W)`): images in [-1, 1], at least two.
        generator (`torch.Generator`, *optional*): draws the noise, on the CPU.
        batch_size (`int`, *optional*, defaults to 256): images that are encoded at once.

    Raises:
        ValueError: for fewer than two images, or images of a wrong shape.
    """
    if len(pixel_values) < 2:
        raise ValueError(
            f"`pixel_values` must hold at least 2 images to be placed among each other, got {len(pixel_values)}."
        )
    anchors = torch.cat([model.get_image_anchors(x) for x in _batches(model, pixel_values, batch_size)])
    noise = torch.randn(anchors.shape, generator=generator).to(anchors.device)
    pieces = zip(anchors.split(CHUNK), noise.split(CHUNK), strict=True)
    return torch.cat([place_anchors(model.config, own, n, anchors) for own, n in pieces]).cpu()


def latent_statistics(latents: Tensor) -> dict[str, float]:
    """How near latents `(N, D)` are to the prior N(0, I).

    Returns:
        `dict`: `mean` and `std` of all entries (0 and 1 under the prior), and `max_abs_coordinate_mean`, the largest
        absolute mean of a single coordinate (about 2.4 / sqrt(N) under the prior with D = 32).

    Raises:
        ValueError: for anything but a finite `(N, D)` with at least two rows.
    """
    if latents.ndim != 2 or len(latents) < 2 or not torch.isfinite(latents).all():
        raise ValueError(f"`latents` must be finite, of shape (N, D) with N > 1, got shape {tuple(latents.shape)}.")
    latents = _float64(latents)
    return {
        "mean": latents.mean().item(),
        "std": latents.std().item(),
        "max_abs_coordinate_mean": latents.mean(0).abs().max().item(),
    }


# Checks --------------------------------------------------------------------------------------------------------------


def _batches(model: LZNModel, pixel_values: Tensor, batch_size: int, progress: bool = False) -> Iterator[Tensor]:
    """Batches on the device of the model, which is in evaluation mode as long as they last."""
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if len(pixel_values) == 0:
        raise ValueError("`pixel_values` must hold at least one image, got none.")

    from tqdm.auto import tqdm

    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for batch in tqdm(pixel_values.split(batch_size), desc="images", unit="batch", disable=not progress):
            yield batch.to(model.device)
    finally:
        for module in training:
            module.training = True


def _float64(x: Tensor) -> Tensor:
    return x.detach().cpu().double()


def _flat_images(name: str, images: Tensor) -> Tensor:
    """Images in [-1, 1] as rows of pixels, float64 on the CPU."""
    check_images(name, images)
    return _float64(images).flatten(1)


def _check_widths(rows: Tensor, reference: Tensor) -> None:
    if rows.shape[1] != reference.shape[1]:
        raise ValueError(f"images must all have the same size, got {rows.shape[1]} and {reference.shape[1]} pixels.")


def _check_labels(name: str, labels: Tensor, length: int) -> None:
    if labels.shape != (length,) or labels.is_floating_point():
        raise ValueError(
            f"`{name}` must be whole numbers of shape ({length},), got {labels.dtype} of shape {tuple(labels.shape)}."
        )


__all__ = [
    "accuracy",
    "class_consistency",
    "class_diversity",
    "frechet_distance",
    "joint_latents",
    "latent_statistics",
    "novelty",
    "pixel_frechet_distance",
    "predict_log_probs",
    "reconstruction_error",
]
