# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Quality of a joint model: pure functions of images, labels or latents.

`scikit-learn` is imported where it is used. Everything is computed in float64 on the CPU, and images are in [-1, 1].
Distances on features of a network, and reconstructions, are in `evaluation.metrics`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks_lzn import check_at_least
from ..modeling_classification_lzn import LZNForImageClassification
from ..modeling_lzn import LZNModel, evaluation_mode
from ..zones_lzn import place_anchors
from .inputs import check_labels, check_scores, flatten_images
from .metrics import frechet_distance


CHUNK = 1024  # rows of a distance matrix at once


def predict_log_probs(
    model: LZNModel | LZNForImageClassification, pixel_values: Tensor, *, batch_size: int = 256, progress: bool = False
) -> Tensor:
    """Log-probabilities `(N, num_labels)` of images `(N, C, H, W)` in [-1, 1], each classified by itself, on the CPU.

    Args:
        model ([`LZNModel`] or [`LZNForImageClassification`]): with labels and reference anchors; it is in evaluation mode
            during the call.
        pixel_values (`Tensor` of shape `(N, C, H, W)`): the images.
        batch_size (`int`, *optional*, defaults to 256): images per batch. It does not change the result.
        progress (`bool`, *optional*, defaults to `False`): whether to show a progress bar.

    Raises:
        ValueError: if `batch_size` is below 1, there are no images, or as [`LZNModel.classify_images`].
    """
    from tqdm.auto import tqdm

    check_at_least(1, batch_size=batch_size)
    if len(pixel_values) == 0:
        raise ValueError("`pixel_values` must hold at least one image, got none.")
    lzn = model.lzn if isinstance(model, LZNForImageClassification) else model
    batches = tqdm(pixel_values.split(batch_size), desc="images", unit="batch", disable=not progress)
    with evaluation_mode(model):
        return torch.cat([lzn.classify_images(batch.to(model.device)).cpu() for batch in batches])


def linear_log_probs(model: LZNModel, pixel_values: Tensor) -> Tensor:
    """Log-probabilities `log softmax_c(a · l_c)` of the anchors a of images and the label anchors l: those of a linear classifier.

    They are what `train_joint.py --baseline classifier` trains. Those of a Latent Zoning Network are `classify_images`.

    Args:
        model ([`LZNModel`]): with image encoder and labels.
        pixel_values (`Tensor` of shape `(B, C, H, W)`): images in [-1, 1].

    Returns:
        `Tensor` of shape `(B, num_labels)`.

    Raises:
        ValueError: if the model has no labels or no encoder, or the images do not fit.
    """
    if model.label_anchors is None:
        raise ValueError("`model` must have an image encoder and labels, got one without label anchors.")
    return F.linear(model.get_image_anchors(pixel_values).float(), model.label_anchors()).log_softmax(-1)


def accuracy(log_probs: Tensor, labels: Tensor, top_k: int = 1) -> float:
    """Fraction of samples with their label among the `top_k` most probable ones.

    Args:
        log_probs (`Tensor` of shape `(N, C)`): log-probabilities, or anything in their order.
        labels (`Tensor` of shape `(N,)`): true labels.
        top_k (`int`, *optional*, defaults to 1): from 1 to C.

    Raises:
        ValueError: if shapes do not fit, `top_k` is out of range, or a value is NaN.
    """
    check_scores(log_probs, labels)
    if not 1 <= top_k <= log_probs.shape[1]:
        raise ValueError(f"`top_k` must be in 1..{log_probs.shape[1]}, got {top_k}.")
    return (log_probs.topk(top_k).indices == labels.to(log_probs.device)[:, None]).any(1).double().mean().item()


def pixel_frechet_distance(images_a: Tensor, images_b: Tensor) -> float:
    """[`frechet_distance`] of raw pixels: images `(N, C, H, W)` in [-1, 1], flattened.

    Fit for tiny images only: on large ones raw pixels say little about what is seen, and the cost grows
    with C H W cubed.

    Raises:
        ValueError: for anything but finite floating point images in [-1, 1] of one shape, at least two of each.
    """
    return frechet_distance(*flatten_images(images_a=images_a, images_b=images_b))


def class_consistency(images: Tensor, labels: Tensor, reference_images: Tensor, reference_labels: Tensor) -> float:
    """Fraction of images that a support vector classifier, trained on the reference images, assigns to their label.

    On held-out real images this is the accuracy of the classifier itself (0.994 on the 360 held-out digits): compare
    generated images with it. The classifier has radial basis functions on flattened pixels and C = 10; anything from 5 to
    100 gives the same.

    Args:
        images (`Tensor` of shape `(N, C, H, W)`): in [-1, 1].
        labels (`Tensor` of shape `(N,)`): the labels that they were generated for.
        reference_images (`Tensor` of shape `(M, C, H, W)`): real images, a few thousand at most: training time grows
            with M².
        reference_labels (`Tensor` of shape `(M,)`): their labels.

    Raises:
        ValueError: if shapes do not fit, an image is not in [-1, 1], or the reference has fewer than two labels.
    """
    x, reference = flatten_images(images=images, reference_images=reference_images)
    check_labels("labels", labels, len(x))
    check_labels("reference_labels", reference_labels, len(reference))
    if len(reference_labels.unique()) < 2:
        raise ValueError("`reference_labels` must hold at least two labels, got one.")

    from sklearn.svm import SVC

    classifier = SVC(C=10.0, kernel="rbf", gamma="scale").fit(reference.numpy(), reference_labels.cpu().numpy())
    return float(classifier.score(x.numpy(), labels.cpu().numpy()))


def class_diversity(
    images: Tensor, labels: Tensor, reference_images: Tensor, reference_labels: Tensor
) -> dict[str, float]:
    """How much the images of a label differ from each other, relative to real images of it.

    The ratio for a label is the root mean square distance of its images from their mean, divided by that of the reference
    images of the label: about 1 for images as varied as real ones, 0 for one picture repeated.

    Args:
        images, labels, reference_images, reference_labels (`Tensor`): see [`class_consistency`]; each label in `labels`
            needs two images on both sides.

    Returns:
        `dict`: `mean` over the labels in `labels`, and the smallest ratio, `min`.

    Raises:
        ValueError: as [`class_consistency`], and if a label has fewer than two images or its reference images are all
            the same.
    """
    x, reference = flatten_images(images=images, reference_images=reference_images)
    check_labels("labels", labels, len(x))
    check_labels("reference_labels", reference_labels, len(reference))
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

    About 1 for images as far from the training images as unseen real ones; near 0 for copies of training images.

    Args:
        images (`Tensor` of shape `(N, C, H, W)`): generated images in [-1, 1].
        train_images (`Tensor` of shape `(M, C, H, W)`): the images that the model was trained on.
        held_out_images (`Tensor` of shape `(K, C, H, W)`): real images that the model has not seen.

    Raises:
        ValueError: if shapes do not fit, an image is not in [-1, 1], or more than half of the held-out images are
            training images.
    """
    generated, train, held_out = flatten_images(
        images=images, train_images=train_images, held_out_images=held_out_images
    )
    medians = []
    for rows in (generated, held_out):
        nearest = [
            torch.cdist(chunk, train, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
            for chunk in rows.split(CHUNK)
        ]
        medians.append(torch.cat(nearest).median().item())
    if medians[1] == 0:
        raise ValueError("`held_out_images` must not be training images, but more than half of them are.")
    return medians[0] / medians[1]


def joint_latents(
    model: LZNModel, pixel_values: Tensor, *, generator: torch.Generator | None = None, batch_size: int = 256
) -> Tensor:
    """Latents `(N, D)` of images under prior noise, with all images as one anchor pool, on the CPU.

    Together they must be distributed like the prior, see [`latent_statistics`]. Time grows with N².

    Args:
        model ([`LZNModel`]): it is in evaluation mode during the call.
        pixel_values (`Tensor` of shape `(N, C, H, W)`): images in [-1, 1], at least two.
        generator (`torch.Generator`, *optional*): draws the noise, on the CPU.
        batch_size (`int`, *optional*, defaults to 256): images per batch of the encoder.

    Raises:
        ValueError: for fewer than two images, or images of a wrong shape.
    """
    check_at_least(1, batch_size=batch_size)
    if len(pixel_values) < 2:
        raise ValueError(f"`pixel_values` must hold at least 2 images to form a pool, got {len(pixel_values)}.")
    with evaluation_mode(model):
        batches = pixel_values.split(batch_size)
        anchors = torch.cat([model.get_image_anchors(batch.to(model.device)) for batch in batches])
        noise = torch.randn(anchors.shape, generator=generator).to(anchors.device)
        latents = [
            place_anchors(model.config, own, n, anchors)
            for own, n in zip(anchors.split(CHUNK), noise.split(CHUNK), strict=True)
        ]
    return torch.cat(latents).cpu()


def latent_statistics(latents: Tensor) -> dict[str, float]:
    """Moments of latents `(N, D)`, to compare with those of the prior N(0, I).

    Returns:
        `dict`: `mean` and `std` of all entries (0 and 1 under the prior), and `max_abs_coordinate_mean`, the largest
        absolute mean of a single coordinate (about 2.4 / sqrt(N) under the prior with D = 32).

    Raises:
        ValueError: for anything but a finite `(N, D)` with at least two rows.
    """
    if latents.ndim != 2 or len(latents) < 2 or not torch.isfinite(latents).all():
        raise ValueError(f"`latents` must be finite, of shape (N, D) with N > 1, got shape {tuple(latents.shape)}.")
    latents = latents.detach().cpu().double()
    return {
        "mean": latents.mean().item(),
        "std": latents.std().item(),
        "max_abs_coordinate_mean": latents.mean(0).abs().max().item(),
    }


__all__ = [
    "accuracy",
    "class_consistency",
    "class_diversity",
    "joint_latents",
    "latent_statistics",
    "linear_log_probs",
    "novelty",
    "pixel_frechet_distance",
    "predict_log_probs",
]
