# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Numbers against float64 oracles (scipy's matrix square root, kernels and distances of all pairs) and known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.special import rel_entr

from lzn_hf.evaluation import metrics as metrics
from lzn_hf.evaluation.inputs import check_images
from lzn_hf.evaluation.metrics import (
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    psnr,
    reconstruction_error,
    reconstruction_l2,
)


DISTANCES = [frechet_distance, kernel_distance, precision_recall]


def random_features(
    n: int, m: int, width: int, seed: int = 0, shift: float = 0.3
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets like those of a network: correlated, not negative, far from the origin. Float64 that float32 can hold."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width)) / width**0.5
    a, b = rng.normal(size=(n, width)), rng.normal(size=(m, width)) * 1.1 + shift
    return tuple(torch.from_numpy(np.maximum(x @ mixing + 0.5, 0).astype(np.float32)).double() for x in (a, b))


@pytest.fixture
def small_blocks(monkeypatch):
    """Sizes at which a few hundred samples are many blocks, the last of them not full."""
    monkeypatch.setattr(metrics, "BLOCK", 64)
    monkeypatch.setattr(metrics, "ROWS", 50)


# The formulas as they are written


def scipy_frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)


def numpy_kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    def k(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    def mean_of_others(x):
        return (k(x, x).sum() - np.trace(k(x, x))) / (len(x) * (len(x) - 1))

    return mean_of_others(a) + mean_of_others(b) - 2 * k(a, b).mean()


def scipy_precision_recall(real: np.ndarray, generated: np.ndarray, k: int) -> dict[str, float]:
    radii_r, radii_g = (np.sort(cdist(x, x), axis=1)[:, k] for x in (real, generated))  # 0 is the distance to itself
    across = cdist(real, generated)
    return {
        "precision": (across <= radii_r[:, None]).any(0).mean(),
        "recall": (across <= radii_g[None]).any(1).mean(),
    }


# Fréchet distance


@pytest.mark.parametrize(("n", "m", "width"), [(200, 150, 7), (60, 500, 20), (41, 43, 40)])
def test_frechet_distance_equals_the_matrix_square_root_of_scipy(n, m, width):
    rng = np.random.default_rng(n)
    a = rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)
    b = rng.normal(size=(m, width)) @ rng.normal(size=(width, width))
    expected = scipy_frechet_distance(a, b)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_many_rows_in_parts(small_blocks):
    a, b = random_features(333, 219, 12)
    expected = scipy_frechet_distance(a.numpy(), b.numpy())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(a.float(), b.float()) == pytest.approx(expected, rel=1e-10)  # float64 inside


def test_frechet_distance_of_known_gaussians():
    x = torch.randn(400, 5, dtype=torch.float64)
    x = x - x.mean(0)
    shift = torch.tensor([1.0, 2.0, 0.0, -2.0, 0.0], dtype=torch.float64)
    assert frechet_distance(x, x + shift) == pytest.approx(9.0, rel=1e-12)
    # S_b = 9 S_a: tr(S + 9 S - 6 S) = 4 tr S
    assert frechet_distance(x, 3 * x) == pytest.approx(4 * x.var(0).sum().item(), rel=1e-12)


@pytest.mark.parametrize("shape", [(300, 10), (6, 50)])
def test_frechet_distance_to_itself_is_zero_and_it_is_symmetric(shape):
    a, b = torch.randn(2, *shape) * 10
    a[:, 0] = 5.0  # a constant feature, as the corner pixels of digits: the covariance is singular
    assert frechet_distance(a, a.flip(0)) < 1e-9
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(a, b) > 1


def test_frechet_distance_works_with_fewer_samples_than_features():
    # Two samples each along their own axis: S_a and S_b are of rank one, orthogonal, so nothing overlaps.
    a, b = torch.zeros(2, 2, 30)
    a[0, 0], a[1, 0], b[0, 1], b[1, 1] = 1, -1, 2, -2
    assert frechet_distance(a, b) == pytest.approx(2 + 8, rel=1e-12)


# Kernel distance


@pytest.mark.parametrize(("n", "m", "width"), [(200, 150, 7), (130, 260, 400), (2, 3, 5)])
def test_kernel_distance_equals_the_sum_over_all_pairs(small_blocks, n, m, width):
    a, b = random_features(n, m, width)
    expected = numpy_kernel_distance(a.numpy(), b.numpy())
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-11)
    assert kernel_distance(a.float(), b.float()) == pytest.approx(expected, rel=1e-11)
    assert kernel_distance(b, a) == pytest.approx(expected, rel=1e-11)


def test_float32_features_far_from_the_origin_lose_no_digits_of_the_kernel_distance():
    """x.y / F is about 400 here, so float32 products as they are written would be wrong in the fourth digit or worse."""
    a, b = random_features(300, 320, 64, shift=0.05)
    a, b = (a + 20).float(), (b + 20).float()
    expected = numpy_kernel_distance(a.double().numpy(), b.double().numpy())
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert abs(numpy_kernel_distance(a.numpy(), b.numpy()) / expected - 1) > 1e-4


def test_kernel_distance_is_zero_on_average_over_samples_of_one_distribution():
    x = torch.randn(60, 50, 8, dtype=torch.float64)
    values = torch.tensor([kernel_distance(a, b) for a, b in zip(x[::2], x[1::2], strict=True)])
    assert values.min() < 0 < values.max()
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5
    assert kernel_distance(x[0], x[1] + 1) > 10 * values.abs().max()


# Precision and recall


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "m", "width", "k"), [(300, 230, 5, 3), (150, 333, 40, 1), (90, 70, 3, 10), (4, 5, 2, 3)]
)
def test_precision_and_recall_equal_the_distances_of_all_pairs(small_blocks, n, m, width, k, dtype):
    real, generated = random_features(n, m, width)
    expected = scipy_precision_recall(real.numpy(), generated.numpy(), k)
    assert precision_recall(real.to(dtype), generated.to(dtype), k) == pytest.approx(expected, rel=1e-12)


def test_precision_and_recall_have_known_values():
    # On a line; the nearest neighbours of 0, 1, 3 are 1, 1, 2 away, of 10, 11, 13, 2.5 they are 1, 1, 2, 7.5 away.
    real = torch.tensor([[0.0], [1.0], [3.0]])
    generated = torch.tensor([[10.0], [11.0], [13.0], [2.5]])
    assert precision_recall(real, generated, k=1) == {"precision": 1 / 4, "recall": 1.0}
    assert precision_recall(generated, real, k=1) == {"precision": 1.0, "recall": 1 / 4}
    assert precision_recall(real, generated + 100, k=1) == {"precision": 0, "recall": 0}


def test_precision_falls_with_bad_images_and_recall_with_missing_ones():
    real = torch.randn(400, 4)
    same, collapsed = torch.randn(400, 4), torch.randn(400, 4) * 0.1
    half_bad = torch.cat([same[:200], same[200:] + 20])
    assert min(precision_recall(real, same).values()) > 0.85
    assert precision_recall(real, real) == {"precision": 1, "recall": 1}
    assert precision_recall(real, collapsed)["recall"] < 0.1 < 0.9 < precision_recall(real, collapsed)["precision"]
    assert precision_recall(real, half_bad)["precision"] == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("seed", [1, 3])
def test_float32_rounding_decides_nothing(seed):
    """Two groups far apart: squared norms of 1e6 leave 0.1 or more in float32 distances, which would move several samples in
    or out."""
    real, generated = (x.float() for x in random_features(300, 300, 16, seed=seed, shift=0.1))
    real[::2] += 600
    generated[::2] += 600
    expected = scipy_precision_recall(real.double().numpy(), generated.double().numpy(), 3)
    assert 0.5 < expected["precision"] < 0.95
    assert precision_recall(real, generated) == pytest.approx(expected, rel=1e-12)


def test_copies_have_balls_of_no_size():
    """Six equal real samples: radius 0, around a point where products leave rounding."""
    real = torch.full((6, 50), 1 / 3) * torch.linspace(1, 2, 50)
    generated = torch.cat([real[:2], real[:4] + 1e-4])
    assert precision_recall(real, generated)["precision"] == 2 / 6


# Invariances and bad input


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_do_not_depend_on_order_rotation_or_their_block_size(distance, monkeypatch):
    a, b = random_features(150, 170, 10)
    rotation = torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64)).Q
    expected = pytest.approx(distance(a, b), rel=1e-9)
    assert distance(a.flip(0), b[torch.randperm(170)]) == expected
    assert distance(a @ rotation, b @ rotation) == expected
    monkeypatch.setattr(metrics, "BLOCK", 40)
    monkeypatch.setattr(metrics, "ROWS", 33)
    assert distance(a, b) == expected


@pytest.mark.parametrize("distance", [frechet_distance, precision_recall])
def test_distances_that_are_of_differences_do_not_depend_on_the_origin(distance):
    a, b = random_features(150, 170, 10)
    assert distance(a + 7, b + 7) == pytest.approx(distance(a, b), rel=1e-9)


def test_kernel_distance_of_a_set_to_itself_counts_the_pairs_of_equal_samples():
    """Only within the sets are they left out, also where both arguments are one tensor."""
    a = random_features(50, 2, 6)[0]
    assert kernel_distance(a, a) == pytest.approx(numpy_kernel_distance(a.numpy(), a.numpy()), rel=1e-9)
    assert kernel_distance(a, a) < 0


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(9, 3), "`(features_a|real)` must be .* at least [24] samples"),
        (torch.zeros(9, 3), torch.zeros(4), "`(features_b|generated)` must be"),
        (torch.zeros(9, 3), torch.zeros(9, 2), "one width, got 3 and 2"),
        (torch.full((9, 3), float("nan")), torch.zeros(9, 3), "`(features_a|real)` must be finite"),
        (torch.zeros(9, 3), torch.full((9, 3), float("inf")), "`(features_b|generated)` must be finite"),
        (torch.zeros(9, 0), torch.zeros(9, 0), "`(features_a|real)` must be"),
    ],
)
def test_distances_refuse_bad_features(distance, a, b, message):
    with pytest.raises(ValueError, match=message):
        distance(a, b)


def test_precision_recall_refuses_a_bad_k():
    x = torch.randn(5, 2)
    with pytest.raises(ValueError, match="`k` must be a whole number of at least 1, got 0"):
        precision_recall(x, x, k=0)
    with pytest.raises(ValueError, match="`real` must be .* at least 6 samples"):
        precision_recall(x, x, k=5)


# Inception score


def test_inception_score_equals_the_divergence_of_scipy():
    logits = torch.randn(500, 10) * 3
    probs = logits.double().softmax(1).numpy()
    expected = np.exp(rel_entr(probs, probs.mean(0)).sum(1).mean())
    assert inception_score(logits.log_softmax(1)) == pytest.approx(expected, rel=1e-6)
    assert inception_score(logits.double().log_softmax(1)) == pytest.approx(expected, rel=1e-12)


def test_inception_score_of_known_probabilities():
    certain = torch.eye(5).repeat(4, 1).log()  # minus infinity off the diagonal
    assert inception_score(certain) == pytest.approx(5)  # all labels, each certain
    assert inception_score(certain[:1].repeat(20, 1)) == pytest.approx(1)  # one label
    assert inception_score(torch.full((20, 5), 1 / 5).log()) == pytest.approx(1)  # no label


@pytest.mark.parametrize(
    ("log_probs", "message"),
    [
        (torch.zeros(3), "`log_probs` must be floating point"),
        (torch.zeros(0, 3), "`log_probs` must be floating point"),
        (torch.zeros(2, 3, dtype=torch.int64), "`log_probs` must be floating point"),
        (torch.randn(4, 3), "add up to 1"),
        (torch.full((4, 3), float("nan")), "add up to 1"),
    ],
)
def test_inception_score_refuses_what_is_no_probability(log_probs, message):
    with pytest.raises(ValueError, match=message):
        inception_score(log_probs)


# Reconstructions


def test_reconstruction_metrics_are_sums_and_means_of_squares(monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", 2)
    images = torch.rand(5, 3, 4, 4) * 2 - 1
    others = torch.rand(5, 3, 4, 4) * 2 - 1
    difference = images.double().numpy() - others.double().numpy()
    assert reconstruction_l2(images, others) == pytest.approx((difference**2).sum((1, 2, 3)).mean(), rel=1e-12)
    assert reconstruction_error(images, others) == pytest.approx((difference**2).mean(), rel=1e-12)
    assert psnr(images, others) == pytest.approx(20 * math.log10(2 / (difference**2).mean() ** 0.5), rel=1e-12)


def test_reconstruction_metrics_have_known_values():
    images = torch.zeros(2, 1, 2, 2)
    changed = images.clone()
    changed[0, 0, 0, 0] = 0.4
    assert reconstruction_error(images, images) == reconstruction_l2(images, images) == 0
    assert psnr(images, images) == math.inf
    assert reconstruction_error(images, changed) == pytest.approx(0.16 / 8)
    assert reconstruction_l2(images, changed) == pytest.approx(0.16 / 2)
    assert psnr(torch.full_like(images, -1), torch.full_like(images, 1)) == pytest.approx(0)  # the whole range
    assert psnr(images, images + 0.2) == pytest.approx(20)


@pytest.mark.parametrize("metric", [psnr, reconstruction_error, reconstruction_l2])
def test_reconstruction_metrics_refuse_bad_images(metric):
    images = torch.zeros(2, 1, 2, 2)
    with pytest.raises(ValueError, match="`reconstructions` must be"):
        metric(images, images[:1])
    with pytest.raises(ValueError, match="`reconstructions` must be in"):
        metric(images, images * float("nan"))
    with pytest.raises(ValueError, match=r"`images` must be in \[-1, 1\], got values from 2 to 2"):
        metric(images + 2, images)


def test_check_images_takes_rounding_but_no_other_range():
    check_images("x", torch.full((1, 1, 2, 2), 1 + 1e-6))
    for bad in (torch.zeros(1, 2, 2), torch.zeros(0, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="`x` must be floating point"):
            check_images("x", bad)
