# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Quality of features: linear probe and nearest neighbours, functions of features and labels alone.

[`collect_features`] computes the features of a model. Everything random follows from a seed, and no choice depends on the
test images. `scikit-learn` is imported where it is used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks_lzn import check_at_least
from ..data.batches import to_pixel_values
from ..modeling_lzn import EMBEDDING_KINDS, LZNModel, evaluation_mode
from ..zones_lzn import place_anchors
from .inputs import check_features, check_labels


if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


FEATURE_KINDS = (*EMBEDDING_KINDS, "latents")
WEIGHT_DECAYS = (0.1, 1.0, 10.0, 100.0, 1000.0)
MAX_ITERATIONS = 5000  # of the L-BFGS of a linear probe; usual features need less than 100


def collect_features(
    model: LZNModel, batches: Iterable[dict[str, Tensor]], kind: str = "embeddings", *, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """Computes features of labelled images. Each row is a function of its image alone.

    Args:
        model ([`LZNModel`]): it is in evaluation mode during the call.
        batches (iterable of `dict`): see [`data.batches.image_batches`]: `uint8` images `(B, C, H, W)` and int64 labels.
        kind (`str`, *optional*, defaults to `"embeddings"`): `"features"` (before the encoder's head), `"anchors"` (after it),
            `"embeddings"` (one of the two, see `get_image_features`) or `"latents"` (`get_image_latents` without noise: the
            middle of the image's zone among the model's reference anchors).
        progress (`bool`, *optional*, defaults to `False`): whether to show a progress bar.

    Returns:
        `tuple`: features `(N, F)`, float32, and labels `(N,)`, int64, on the CPU.

    Raises:
        ValueError: for another kind, latents of a model without reference anchors, no images, or images without labels.
    """
    features, labels = collect_all_features(model, batches, [kind], progress=progress)
    return features[kind], labels


def collect_all_features(
    model: LZNModel, batches: Iterable[dict[str, Tensor]], kinds: Sequence[str], *, progress: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """Computes features of several kinds, with each image encoded once.

    Args:
        model, batches, progress: see [`collect_features`].
        kinds (list of `str`): kinds of features, see [`collect_features`].

    Returns:
        `tuple`: a dictionary of the features of each kind, and the labels.

    Raises:
        ValueError: see [`collect_features`].
    """
    from tqdm.auto import tqdm

    if not kinds or not set(kinds) <= set(FEATURE_KINDS):
        raise ValueError(f"`kind` must be one of {', '.join(FEATURE_KINDS)}, got {', '.join(kinds) or 'none'}.")
    if "latents" in kinds and model.reference_anchors is None:
        raise ValueError(
            "`kind` is latents, but the model has no reference anchors to place an image among: call "
            "`model.set_reference_anchors(model.get_image_anchors(training_images))` first."
        )
    require_encoder(model)
    rows: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    labels = []
    with evaluation_mode(model):
        for batch in tqdm(batches, desc="encoding", unit="batch", disable=not progress, leave=False):
            if "labels" not in batch:
                raise ValueError("`batches` must hold `labels` beside `pixel_values`: load the data with its labels.")
            output = model(to_pixel_values(batch["pixel_values"].to(model.device)))
            found = {name: output[name] for name in EMBEDDING_KINDS}
            if "latents" in kinds and model.reference_anchors is not None:
                middle = torch.zeros_like(output.anchors)
                found["latents"] = place_anchors(
                    model.config, output.anchors, middle, model.reference_anchors(), include_own=True
                )
            for kind in kinds:
                rows[kind].append(found[kind].float().cpu())
            labels.append(batch["labels"].cpu())
    if not labels:
        raise ValueError("`batches` must hold at least one image, got none.")
    return {kind: torch.cat(parts) for kind, parts in rows.items()}, torch.cat(labels)


def require_encoder(model: LZNModel) -> nn.Module:
    """The image encoder; a ValueError for a model without one."""
    if model.encoder is None:
        raise ValueError("`model` has no image encoder (config.encoder_type is None), so images have no features.")
    return model.encoder


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    held_out_fraction: float = 0.1,
    max_selection_images: int = 10_000,
    seed: int = 0,
    progress: bool = False,
) -> float:
    """Top-1 accuracy of multinomial logistic regression (scikit-learn's) on frozen features.

    Protocol: features are standardised by mean and standard deviation of the training features, without augmentation.
    The weight decay is chosen on held-out training images: the regression is fitted to the rest of them, with one weight
    decay after the other from the largest down, until the cross-entropy on the held-out images (which varies less than
    their accuracy) rises. The best weight decay then fits all training images, and that fit is tested. Weight decay
    multiplies |W|² / 2 beside the *sum* of the losses, so it means the same for any number of images.

    Args:
        train_features (`Tensor` of shape `(N, F)`): finite, floating point.
        train_labels (`Tensor` of shape `(N,)`): labels from 0 up, at least two different ones.
        test_features (`Tensor` of shape `(M, F)`): the same features of other images.
        test_labels (`Tensor` of shape `(M,)`): their labels; one that no training image has always counts as an error.
        weight_decays (list of `float`, *optional*): the candidates, positive; a single one is used without a choice.
        held_out_fraction (`float`, *optional*, defaults to 0.1): fraction of images to choose on, in (0, 1).
        max_selection_images (`int`, *optional*, defaults to 10000): choose with at most so many training images.
        seed (`int`, *optional*, defaults to 0): draws the images of the choice.
        progress (`bool`, *optional*, defaults to `False`): whether to show a progress bar.

    Raises:
        ValueError: if shapes, types or ranges do not fit, or there are too few images to hold any out.
        RuntimeError: if the regression does not converge.
    """
    from tqdm.auto import tqdm

    _check_sets(train_features, train_labels, test_features, test_labels)
    if not weight_decays or not all(decay > 0 for decay in weight_decays):
        raise ValueError(f"`weight_decays` must be one or more positive numbers, got {list(weight_decays)}.")
    if not 0 < held_out_fraction < 1:
        raise ValueError(f"`held_out_fraction` must be in (0, 1), got {held_out_fraction}.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train_labels), generator=generator)[:max_selection_images].numpy()
    num_held_out = round(held_out_fraction * len(order))
    if len(weight_decays) > 1 and not 0 < num_held_out < len(order) - 1:
        raise ValueError(
            f"`held_out_fraction` {held_out_fraction} of {len(order)} training images leaves {num_held_out} to choose the "
            "weight decay on and the others to fit: give more images or a single weight decay."
        )

    mean, std = train_features.mean(0), nonzero_std(train_features)
    x, test_x = (((rows - mean) / std).double().cpu().numpy() for rows in (train_features, test_features))
    y, test_y = train_labels.cpu().numpy(), test_labels.cpu().numpy()
    bar = tqdm(desc="linear probe", unit="fit", disable=not progress, leave=False)
    best, smallest = weight_decays[0], math.inf
    if len(weight_decays) > 1:
        held_out, rest = order[:num_held_out], order[num_held_out:]
        held_out = held_out[np.isin(y[held_out], y[rest])]  # no fit knows the other labels
        for decay in sorted(weight_decays, reverse=True):
            regression = _fit_regression(x[rest], y[rest], decay, tolerance=1e-4)
            bar.update()
            columns = np.searchsorted(regression.classes_, y[held_out])
            loss = -regression.predict_log_proba(x[held_out])[np.arange(len(held_out)), columns].mean()
            if loss >= smallest:
                break
            best, smallest = decay, loss
    regression = _fit_regression(x, y, best, tolerance=1e-5)
    bar.update()
    bar.close()
    return float(regression.score(test_x, test_y))


def _fit_regression(x: np.ndarray, y: np.ndarray, weight_decay: float, tolerance: float) -> LogisticRegression:
    """A regression with all derivatives of the mean loss below `tolerance`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return LogisticRegression(C=1 / weight_decay, tol=tolerance, max_iter=MAX_ITERATIONS).fit(x, y)
        except ConvergenceWarning as warning:
            raise RuntimeError(
                f"the logistic regression did not converge in {MAX_ITERATIONS} iterations: use a larger weight decay than "
                f"{weight_decay:g}."
            ) from warning


@torch.no_grad()
def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: int = 20,
    *,
    temperature: float = 0.07,
    chunk_size: int = 256,
    progress: bool = False,
) -> float:
    """Top-1 accuracy of a k-nearest-neighbour classifier with weights (Wu et al., arXiv 1805.01978):

        argmax_c sum_{i in the k nearest, y_i = c} exp(cos(x, x_i) / temperature).

    Args:
        train_features (`Tensor` of shape `(N, F)`): finite, floating point. A row of zeros is equally similar to all others.
        train_labels (`Tensor` of shape `(N,)`): labels from 0 up, at least two different ones.
        test_features (`Tensor` of shape `(M, F)`): the same features of other images, on the same device.
        test_labels (`Tensor` of shape `(M,)`): their labels.
        k (`int`, *optional*, defaults to 20): from 1 to N.
        temperature (`float`, *optional*, defaults to 0.07): lower values give the nearest neighbours more weight.
        chunk_size (`int`, *optional*, defaults to 256): test images per chunk. It does not change the result.
        progress (`bool`, *optional*, defaults to `False`): whether to show a progress bar.

    Raises:
        ValueError: if shapes, types or ranges do not fit.
    """
    from tqdm.auto import tqdm

    _check_sets(train_features, train_labels, test_features, test_labels)
    if not 1 <= k <= len(train_features):
        raise ValueError(f"`k` must be in 1..{len(train_features)}, the number of training images, got {k}.")
    if temperature <= 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    check_at_least(1, chunk_size=chunk_size)
    train_features, num_labels, correct = F.normalize(train_features, dim=1), int(train_labels.max()) + 1, 0
    chunks = zip(test_features.split(chunk_size), test_labels.split(chunk_size), strict=True)
    total = -(-len(test_labels) // chunk_size)
    for x, y in tqdm(chunks, total=total, desc="neighbours", unit="chunk", disable=not progress, leave=False):
        similarity, nearest = (F.normalize(x, dim=1) @ train_features.T).topk(k)
        # Relative to the nearest, which changes no vote: exp(1 / temperature) may overflow.
        votes = ((similarity - similarity[:, :1]) / temperature).exp()
        scores = votes.new_zeros(len(x), num_labels).scatter_add_(1, train_labels[nearest].long(), votes)
        correct += (scores.argmax(1) == y).sum().item()
    return correct / len(test_labels)


def _check_sets(train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor) -> None:
    check_features(1, train_features=train_features, test_features=test_features)
    check_labels("train_labels", train_labels, len(train_features))
    check_labels("test_labels", test_labels, len(test_features))
    if len(train_labels.unique()) < 2:
        raise ValueError("`train_labels` must hold at least two different labels, got one.")


def nonzero_std(features: Tensor) -> Tensor:
    """Standard deviations `(F,)` of `(N, F)`; 1 for a feature that is constant up to rounding."""
    std = features.std(0)
    return torch.where(std > 1e-6 * features.abs().amax(0), std, 1.0)


__all__ = [
    "FEATURE_KINDS",
    "WEIGHT_DECAYS",
    "collect_all_features",
    "collect_features",
    "knn_accuracy",
    "linear_probe",
    "nonzero_std",
    "require_encoder",
]
