# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""How near generated images are to real ones, and reconstructions to their originals: pure functions of features,
log-probabilities and images.

The features decide what a distance means, so always report the name of their extractor (see
[`evaluation.features`]) and the numbers of samples with it.

Why not a library: torchmetrics takes the square root of a product of covariances, which loses half of the digits where
these are singular, averages the kernel distance over random subsets only, and has no precision and recall;
scikit-learn's neighbours multiply 50,000 features in float64, twice as long, without use of symmetry.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor


BLOCK = 2048  # sides of the blocks in which a matrix over pairs of samples is gone through
ROWS = 8192  # rows of features that are converted to float64 at once
SPARE_NEIGHBOURS = 2  # candidates beyond the k-th, among which float64 decides


# Distances of distributions ------------------------------------------------------------------------------------------


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Fréchet distance of two sets of features as Gaussians: |mu_a - mu_b|² + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    From arXiv 1706.08500. Only on the pooled features of one particular network (Inception) it is what the literature
    calls FID, and on that network's spatial features sFID (arXiv 2103.03841). Like every such distance it shrinks with
    the number of samples: compare numbers of equal counts, and give the distance of real images to real images beside
    it.

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
    a, b = _check_features(2, features_a=features_a, features_b=features_b)
    means = [_mean(x) for x in (a, b)]
    factors = [_covariance_factor(x, mean) for x, mean in zip((a, b), means, strict=True)]
    spread = sum(factor.square().sum() for factor in factors)
    spread = spread - 2 * torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    return max(0.0, ((means[0] - means[1]).square().sum() + spread).item())  # rounding can leave -1e-14


def kernel_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared maximum mean discrepancy under the kernel k(x, y) = (x.y / F + 1)³, the unbiased estimate:

        sum_{i != j} k(a_i, a_j) / (N (N - 1)) + sum_{i != j} k(b_i, b_j) / (M (M - 1)) - 2 sum_{ij} k(a_i, b_j) / (N M).

    From arXiv 1801.01401, over all pairs at once: not the mean over random subsets that the published KID is, whose
    expectation is the same and whose variance is larger. Around 0, so also below it, where both sets are from one
    distribution.

    The products of centred features are taken in the dtype of `features_a` and everything else in float64: with
    m = mean(a), x = m + u and y = m + v, it is x.y = m.m + m.u + m.v + u.v, and only u.v is rounded. Float32 features
    are thus twice as fast, and right to 1e-8 of a typical k (measured). Memory does not grow with the pairs.

    Args:
        features_a (`Tensor` of shape `(N, F)`): at least two samples.
        features_b (`Tensor` of shape `(M, F)`): the same features of other samples, at least two.

    Raises:
        ValueError: if shapes do not fit, there are fewer than two samples, or a value is not finite.
    """
    a, b = _check_features(2, features_a=features_a, features_b=features_b)
    centre = _mean(a).to(a.dtype)
    sides = [(x - centre, _project(x, centre)) for x in (a, b)]
    constant = 1 + centre.double().square().mean()  # 1 + m.m / F
    within = [
        _kernel_sum(side, side, constant) / (len(x) * (len(x) - 1)) for side, x in zip(sides, (a, b), strict=True)
    ]
    return within[0] + within[1] - 2 * _kernel_sum(*sides, constant) / (len(a) * len(b))


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> dict[str, float]:
    """Shares of samples inside the manifold of the others, which is a union of balls (arXiv 1904.06991):

        precision = share of g with |g - r| <= rho(r) for some r,    recall = share of r with |r - g| <= rho(g) for some g,

    where rho(x) is the distance of x to its k-th nearest neighbour in its own set, itself not counted. Precision is
    about how real the generated samples look, recall about how many kinds of real samples are generated.

    Products of all pairs are taken in the dtype of `real`. Where its rounding could decide, the distances of that sample
    are taken again in float64, so the counts are those of float64. Memory does not grow with the pairs.

    Args:
        real (`Tensor` of shape `(N, F)`): more than `k` samples.
        generated (`Tensor` of shape `(M, F)`): the same features of other samples, more than `k`.
        k (`int`, *optional*, defaults to 3): which neighbour is on the surface of a ball.

    Returns:
        `dict`: `precision` and `recall`, each from 0 to 1.

    Raises:
        ValueError: if `k` is below 1, shapes do not fit, there are not more than `k` samples, or a value is not
            finite.
    """
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}.")
    real, generated = _check_features(k + 1, real=real, generated=generated)
    centre = _mean(real).to(real.dtype)
    real, generated = real - centre, generated - centre
    norms_r, norms_g = _squared_norms(real), _squared_norms(generated)
    radii_r, radii_g = _squared_radii(real, norms_r, k), _squared_radii(generated, norms_g, k)

    # How far outside of the nearest ball, in squared distance; below 0 is inside.
    outside_r, outside_g = (torch.full((len(x),), math.inf, dtype=real.dtype) for x in (real, generated))
    surfaces_r, surfaces_g = radii_r.to(real.dtype), radii_g.to(real.dtype)
    for rows in _parts(len(real)):
        for columns in _parts(len(generated)):
            distances = _squared_distances(real, norms_r, rows, generated, norms_g, columns)
            to_g = (distances - surfaces_g[columns]).amin(1)
            to_r = distances.sub_(surfaces_r[rows, None]).amin(0)
            torch.minimum(outside_r[rows], to_g, out=outside_r[rows])
            torch.minimum(outside_g[columns], to_r, out=outside_g[columns])
    unsure = 64 * torch.finfo(real.dtype).eps * max(norms_r.max(), norms_g.max()).item()
    return {
        "precision": _share_inside(outside_g, unsure, generated, real, radii_r),
        "recall": _share_inside(outside_r, unsure, real, generated, radii_g),
    }


def inception_score(log_probs: Tensor) -> float:
    """exp mean_i KL(p_i || mean_j p_j): from 1 to C, high where each image is of one label and all labels occur.

    From arXiv 1606.03498, over all images at once, not the mean over ten parts of them. Only with the probabilities of
    the Inception network it is what the literature calls Inception score: name the classifier beside it.

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


# Reconstructions -----------------------------------------------------------------------------------------------------


def reconstruction_error(images: Tensor, reconstructions: Tensor) -> float:
    """Mean squared error a pixel and channel of images in [-1, 1]; 0.0001 is about one grey level of 256.

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


# Checks --------------------------------------------------------------------------------------------------------------


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


def _check_features(min_samples: int, **features: Tensor) -> tuple[Tensor, Tensor]:
    """The two sets on the CPU, in one dtype: float64 if one of them is, else float32."""
    (name_a, a), (name_b, b) = features.items()
    for name, x in features.items():
        if x.ndim != 2 or len(x) < min_samples or x.shape[1] == 0:
            raise ValueError(
                f"`{name}` must be (samples, features) with at least {min_samples} samples, got {tuple(x.shape)}."
            )
        if not torch.isfinite(x).all():
            raise ValueError(f"`{name}` must be finite, got NaN or infinite values.")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"`{name_a}` and `{name_b}` must have one width, got {a.shape[1]} and {b.shape[1]}.")
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a.detach().to("cpu", dtype), b.detach().to("cpu", dtype)


# Parts of the above --------------------------------------------------------------------------------------------------


def _parts(length: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK))


def _mean(x: Tensor) -> Tensor:
    """Mean of rows in float64, without a float64 copy of all."""
    return sum(rows.double().sum(0) for rows in x.split(ROWS)) / len(x)


def _covariance_factor(x: Tensor, mean: Tensor) -> Tensor:
    """R `(min(N, F), F)` with R'R = cov(x), float64."""
    factor = torch.empty(0, x.shape[1], dtype=torch.float64)
    for rows in x.split(max(ROWS, x.shape[1])):
        factor = torch.linalg.qr(torch.cat([factor, rows.double() - mean]), mode="r").R
    return factor / (len(x) - 1) ** 0.5


def _project(x: Tensor, centre: Tensor) -> Tensor:
    """m.(x_i - m) / F for each row, float64."""
    m = centre.double()
    return torch.cat([(rows.double() - m) @ m for rows in x.split(ROWS)]) / x.shape[1]


def _kernel_sum(side_a: tuple[Tensor, Tensor], side_b: tuple[Tensor, Tensor], constant: Tensor) -> float:
    """Sum of (c + p_i + q_j + u_i.v_j / F)³ over all pairs; over those with i != j if both sides are the same."""
    (u, p), (v, q) = side_a, side_b
    symmetric, total = side_a is side_b, 0.0
    for rows in _parts(len(u)):
        for columns in _parts(len(v)):
            if symmetric and columns.start < rows.start:
                continue  # it is counted above the diagonal
            cubes = (u[rows] @ v[columns].T).double()
            cubes = cubes.div_(u.shape[1]).add_(q[columns]).add_((p[rows] + constant)[:, None]).pow_(3)
            if symmetric and columns == rows:
                total += (cubes.sum() - cubes.diagonal().sum()).item()
            else:
                total += (1 + symmetric) * cubes.sum().item()
    return total


def _squared_norms(x: Tensor) -> Tensor:
    return torch.cat([rows.double().square().sum(1) for rows in x.split(ROWS)]).to(x.dtype)


def _squared_distances(x: Tensor, norms_x: Tensor, rows: slice, y: Tensor, norms_y: Tensor, columns: slice) -> Tensor:
    """|x_i - y_j|² of a block, to the rounding of |x_i|² + |y_j|²."""
    return torch.addmm(norms_y[columns], x[rows], y[columns].T, alpha=-2).add_(norms_x[rows, None])


def _squared_radii(x: Tensor, norms: Tensor, k: int) -> Tensor:
    """Squared distance of each row to its k-th nearest other row, float64."""
    count = min(k + SPARE_NEIGHBOURS, len(x) - 1)
    nearest = torch.full((len(x), count), math.inf, dtype=x.dtype)
    numbers = torch.zeros(len(x), count, dtype=torch.int64)

    def merge(rows: slice, distances: Tensor, first: int) -> None:
        """Takes the candidates in `distances` `(rows, others)` in; `first` is the number of the first other."""
        values, found = distances.topk(min(count, distances.shape[1]), dim=1, largest=False, sorted=False)
        values, order = torch.cat([nearest[rows], values], 1).topk(count, dim=1, largest=False)
        nearest[rows] = values
        numbers[rows] = torch.cat([numbers[rows], found + first], 1).gather(1, order)

    for rows in _parts(len(x)):
        for columns in _parts(len(x)):
            if columns.start < rows.start:
                continue  # it is the transpose of one above the diagonal
            distances = _squared_distances(x, norms, rows, x, norms, columns)
            if columns == rows:
                distances.fill_diagonal_(math.inf)
            else:
                merge(columns, distances.T, rows.start)
            merge(rows, distances, columns.start)
    radii = []
    for own, others in zip(x.split(BLOCK // 4), numbers.split(BLOCK // 4), strict=True):
        exact = torch.stack([(own.double() - x[number].double()).square().sum(1) for number in others.T], 1)
        radii.append(exact.sort(1).values[:, k - 1])
    return torch.cat(radii)


def _share_inside(outside: Tensor, unsure: float, samples: Tensor, others: Tensor, radii: Tensor) -> float:
    """Share of samples in a ball around one of the others; those that rounding could have moved are looked at again."""
    inside = outside < 0
    for numbers in (outside.abs() <= unsure).nonzero()[:, 0].split(BLOCK):
        again = torch.zeros(len(numbers), dtype=torch.bool)
        for part in _parts(len(others)):
            distances = torch.cdist(
                samples[numbers].double(), others[part].double(), compute_mode="donot_use_mm_for_euclid_dist"
            )
            again |= (distances <= radii[part].sqrt()).any(1)
        inside[numbers] = again
    return inside.double().mean().item()


__all__ = [
    "check_images",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "precision_recall",
    "psnr",
    "reconstruction_error",
    "reconstruction_l2",
]
