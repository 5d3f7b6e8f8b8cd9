# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Distances of generated images from real ones and of reconstructions from their originals: pure functions of features,
log-probabilities and images.

The features decide what a distance means: report the name of their extractor (see [`evaluation.features`]) and the
numbers of samples with it.

Everything is computed in float64. Matrices over pairs of samples are computed block by block, so memory does not grow
with the number of pairs.

Why not torchmetrics: it takes the square root of a product of covariances, which loses half of the digits where these
are singular, averages the kernel distance over random subsets only, and has no precision and recall.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..checks_lzn import check_at_least
from .inputs import check_features, check_images


BLOCK = 2048  # rows and columns of a block of a matrix over pairs of samples
ROWS = 8192  # rows in one step of the QR decomposition


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Fréchet distance of two sets of features as Gaussians: |mu_a - mu_b|² + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    From arXiv 1706.08500. Only on the pooled features of one particular network (Inception) the literature calls it
    FID, and on that network's spatial features sFID (arXiv 2103.03841). Like every such distance it shrinks with
    the number of samples: compare distances of equal numbers of samples only, and report the distance between two sets
    of real images beside it.

    With rows that are centred and divided by sqrt(N - 1), S_a = A'A and S_b = B'B, so tr (S_a S_b)^(1/2) is the sum of
    the singular values of A B'. A and B are triangular, from a QR decomposition that takes the rows in parts. No
    square root of a covariance is needed: that would lose half of the digits where covariances are singular, as they
    are for constant pixels or fewer samples than features.

    Args:
        features_a (`Tensor` of shape `(N, F)`): at least two samples, which may be fewer than F.
        features_b (`Tensor` of shape `(M, F)`): the same features of other samples.

    Raises:
        ValueError: if shapes do not fit, there are fewer than two samples, or a value is not finite.
    """
    a, b = _float64_pair(2, features_a=features_a, features_b=features_b)
    mean_a, mean_b = a.sum(0) / len(a), b.sum(0) / len(b)
    factor_a, factor_b = _covariance_factor(a, mean_a), _covariance_factor(b, mean_b)
    spread = factor_a.square().sum() + factor_b.square().sum()
    spread = spread - 2 * torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    return max(0.0, ((mean_a - mean_b).square().sum() + spread).item())  # rounding can leave -1e-14


def kernel_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared maximum mean discrepancy under the kernel k(x, y) = (x.y / F + 1)³, the unbiased estimate:

        sum_{i != j} k(a_i, a_j) / (N (N - 1)) + sum_{i != j} k(b_i, b_j) / (M (M - 1)) - 2 sum_{ij} k(a_i, b_j) / (N M).

    From arXiv 1801.01401. All pairs count; the published KID averages over random subsets, which has the same expectation
    and more variance. Two sets from one distribution have a distance around 0, so also below it.

    Args:
        features_a (`Tensor` of shape `(N, F)`): at least two samples.
        features_b (`Tensor` of shape `(M, F)`): the same features of other samples, at least two.

    Raises:
        ValueError: if shapes do not fit, there are fewer than two samples, or a value is not finite.
    """
    a, b = _float64_pair(2, features_a=features_a, features_b=features_b)
    within = sum(_kernel_sum(x) / (len(x) * (len(x) - 1)) for x in (a, b))
    return within - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> dict[str, float]:
    """Fractions of samples inside the manifold of the others, which is a union of balls (arXiv 1904.06991):

        precision = mean over g of [|g - r| <= rho(r) for some r],    recall = mean over r of [|r - g| <= rho(g) for some g],

    with rho(x) the distance of x to its k-th nearest neighbour in its own set, without x itself. Precision measures how
    realistic the generated samples are, recall how much of the variety of real samples is generated.

    Args:
        real (`Tensor` of shape `(N, F)`): more than `k` samples.
        generated (`Tensor` of shape `(M, F)`): the same features of other samples, more than `k`.
        k (`int`, *optional*, defaults to 3): the neighbour on the surface of a ball.

    Returns:
        `dict`: `precision` and `recall`, each from 0 to 1.

    Raises:
        ValueError: if `k` is below 1, shapes do not fit, there are not more than `k` samples, or a value is not
            finite.
    """
    check_at_least(1, k=k)
    real, generated = _float64_pair(k + 1, real=real, generated=generated)
    centre = real.mean(0)
    real, generated = real - centre, generated - centre  # less rounding of |x|² + |y|² - 2 x.y
    tolerance = 64 * torch.finfo(real.dtype).eps * max(x.square().sum(1).max().item() for x in (real, generated))
    # Copies of one sample have balls of radius 0: they are inside up to rounding.
    limits_r, limits_g = (_squared_radii(x, k) + tolerance for x in (real, generated))
    inside_r, inside_g = (torch.zeros(len(x), dtype=torch.bool) for x in (real, generated))
    for rows, columns in _blocks(real, generated):
        squares = _squared_distances(real[rows], generated[columns])
        inside_r[rows] |= (squares <= limits_g[columns]).any(1)
        inside_g[columns] |= (squares <= limits_r[rows, None]).any(0)
    return {"precision": inside_g.double().mean().item(), "recall": inside_r.double().mean().item()}


def inception_score(log_probs: Tensor) -> float:
    """exp mean_i KL(p_i || mean_j p_j): from 1 to C, high where each image is of one label and all labels occur.

    From arXiv 1606.03498. All images count at once; the literature averages over ten parts of them. It also reserves the
    name for the probabilities of the Inception network: name the classifier beside the score.

    Args:
        log_probs (`Tensor` of shape `(N, C)`): log-probabilities of labels; minus infinity is a probability of 0.

    Raises:
        ValueError: if the shape is another, or the probabilities of a row do not add up to 1.
    """
    if log_probs.ndim != 2 or log_probs.numel() == 0 or not log_probs.is_floating_point():
        raise ValueError(
            "`log_probs` must be floating point (N, C) and not empty, "
            f"got {log_probs.dtype} of shape {tuple(log_probs.shape)}."
        )
    probs = log_probs.detach().cpu().double().exp()
    off = (probs.sum(1) - 1).abs().max().item()
    if not off < 1e-3:  # also true for NaN
        raise ValueError(
            f"`log_probs` must be log-probabilities: those of a row add up to 1, but one is off by {off:.3g}."
        )
    # mean_i KL(p_i || q) = mean_i sum p_i log p_i - sum q log q, where 0 log 0 = 0.
    mean = probs.mean(0)
    divergence = torch.xlogy(probs, probs).sum(1).mean() - torch.xlogy(mean, mean).sum()
    return max(1.0, math.exp(divergence))  # rounding can leave 1 - 1e-16


def reconstruction_error(images: Tensor, reconstructions: Tensor) -> float:
    """Mean squared error per pixel and channel of images in [-1, 1]; 0.0001 is about one grey level of 256.

    Raises:
        ValueError: for anything but finite floating point images in [-1, 1] of the same shape.
    """
    return reconstruction_l2(images, reconstructions) / images[0].numel()


def reconstruction_l2(images: Tensor, reconstructions: Tensor) -> float:
    """Mean over images of |x - x'|², the squared L2 norm of the difference over all pixels and channels, in [-1, 1].

    It is [`reconstruction_error`] times C H W, so it grows with the size of the images; of images in [0, 1] it would be a
    quarter.

    Args:
        images (`Tensor` of shape `(N, C, H, W)`): in [-1, 1].
        reconstructions (`Tensor` of shape `(N, C, H, W)`): in [-1, 1].

    Raises:
        ValueError: for anything but finite floating point images in [-1, 1] of the same shape.
    """
    if images.shape != reconstructions.shape:
        raise ValueError(
            f"`reconstructions` must be {tuple(images.shape)} like `images`, got {tuple(reconstructions.shape)}."
        )
    check_images("images", images)
    check_images("reconstructions", reconstructions)
    parts = zip(images.split(BLOCK), reconstructions.split(BLOCK), strict=True)
    total = sum((x.detach().cpu().double() - y.detach().cpu().double()).square().sum().item() for x, y in parts)
    return total / len(images)


def psnr(images: Tensor, reconstructions: Tensor) -> float:
    """Peak signal-to-noise ratio in decibel, 10 log10(2² / MSE): 2 is the range of images in [-1, 1].

    MSE is the mean over all pixels of all images, [`reconstruction_error`], so that one exact image does not make it
    infinite; infinity if all are exact.

    Raises:
        ValueError: for anything but finite floating point images in [-1, 1] of the same shape.
    """
    error = reconstruction_error(images, reconstructions)
    return 10 * math.log10(4 / error) if error else math.inf


def _float64_pair(min_samples: int, **features: Tensor) -> tuple[Tensor, Tensor]:
    check_features(min_samples, **features)
    a, b = (x.detach().cpu().double() for x in features.values())
    return a, b


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the blocks of a matrix over all pairs."""
    for start_a in range(0, len(a), BLOCK):
        for start_b in range(0, len(b), BLOCK):
            yield slice(start_a, start_a + BLOCK), slice(start_b, start_b + BLOCK)


def _covariance_factor(x: Tensor, mean: Tensor) -> Tensor:
    """R `(min(N, F), F)` with R'R = cov(x)."""
    factor = torch.empty(0, x.shape[1], dtype=torch.float64)
    for rows in x.split(max(ROWS, x.shape[1])):
        factor = torch.linalg.qr(torch.cat([factor, rows - mean]), mode="r").R
    return factor / (len(x) - 1) ** 0.5


def _kernel_sum(a: Tensor, b: Tensor | None = None) -> float:
    """Sum of (a_i.b_j / F + 1)³ over all pairs; without `b`, of (a_i.a_j / F + 1)³ over those with i != j."""
    within, total = b is None, 0.0
    b = a if b is None else b
    for rows, columns in _blocks(a, b):
        if within and columns.start < rows.start:
            continue  # counted above the diagonal
        cubes = (a[rows] @ b[columns].T).div_(a.shape[1]).add_(1).pow_(3)
        if within and columns == rows:
            total += (cubes.sum() - cubes.diagonal().sum()).item()
        else:
            total += (1 + within) * cubes.sum().item()
    return total


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|² `(N, M)`, up to rounding of |a_i|² + |b_j|²."""
    return torch.addmm(b.square().sum(1), a, b.T, alpha=-2).add_(a.square().sum(1)[:, None])


def _squared_radii(x: Tensor, k: int) -> Tensor:
    """Squared distance `(N,)` of each row to its k-th nearest other row."""
    nearest = torch.full((len(x), k), math.inf, dtype=x.dtype)
    for rows, columns in _blocks(x, x):
        squares = _squared_distances(x[rows], x[columns])
        if columns == rows:
            squares.fill_diagonal_(math.inf)
        nearest[rows] = torch.cat([nearest[rows], squares], 1).topk(k, dim=1, largest=False).values
    return nearest.amax(1)


__all__ = [
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "precision_recall",
    "psnr",
    "reconstruction_error",
    "reconstruction_l2",
]
