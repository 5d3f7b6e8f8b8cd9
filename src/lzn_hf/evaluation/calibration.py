# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Quality of the probabilities of a classifier, in float64 on the CPU, and the temperature or time at which they are best.

`scipy` is imported where it is used.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks_lzn import check_at_least
from ..configuration_lzn import LZNConfig
from ..zones_lzn import score_labels
from .inputs import check_scores


TOLERANCE = 1e-3  # of the sum of the probabilities of a row
# The search for a time: from anchors so large that a thousandth of the way tells them apart, almost to the end.
MIN_S, MAX_S, NUM_TIMES = 1e-3, 1e2, 25
CHUNK = 256  # images scored at once, as a trace holds the probabilities of all of its steps


def negative_log_likelihood(log_probs: Tensor, labels: Tensor) -> float:
    """Mean of `-log p(label)` in nats: 0 is best, and log C is what equal probabilities of C labels give.

    Args:
        log_probs (`Tensor` of shape `(N, C)`): log-probabilities, each row normalised.
        labels (`Tensor` of shape `(N,)`): true labels.

    Raises:
        ValueError: if shapes do not fit, a value is NaN, a label is not below C, or a row is not normalised.
    """
    return F.nll_loss(*_checked(log_probs, labels)).item()


def reliability(log_probs: Tensor, labels: Tensor, bins: int = 15) -> list[dict[str, float]]:
    """Compares confidence with accuracy, bin by bin: the points of a reliability diagram (Guo et al., arXiv 1706.04599).

    The confidence of an image is the probability of its most probable label. Bin m of M holds the confidences in
    ((m - 1) / M, m / M].

    Args:
        log_probs (`Tensor` of shape `(N, C)`): log-probabilities, each row normalised.
        labels (`Tensor` of shape `(N,)`): true labels.
        bins (`int`, *optional*, defaults to 15): M, at least 1.

    Returns:
        `list[dict]`: mean `confidence`, `accuracy` and `count` of each bin that holds any image, from the lowest bin up.

    Raises:
        ValueError: as [`negative_log_likelihood`], and if `bins` is below 1.
    """
    check_at_least(1, bins=bins)
    log_probs, labels = _checked(log_probs, labels)
    top, predicted = log_probs.max(1)
    confidence, correct = top.exp(), (predicted == labels).double()
    # Rounding can carry a confidence over 1. The lowest one is above 0, as it is at least 1 / C.
    bin_of = (confidence * bins).ceil().long().clamp(1, bins)
    found = []
    for number in bin_of.unique().tolist():
        inside = bin_of == number
        means = {"confidence": confidence[inside].mean().item(), "accuracy": correct[inside].mean().item()}
        found.append({**means, "count": int(inside.sum())})
    return found


def calibration_error(log_probs: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error of the most probable label (Naeini et al., AAAI 2015; Guo et al., arXiv 1706.04599):

        sum_m  n_m / N  |accuracy_m - confidence_m|

    over the bins of [`reliability`], from 0 (best) to 1.

    Args:
        log_probs, labels, bins: see [`reliability`].

    Raises:
        ValueError: as [`reliability`].
    """
    points = reliability(log_probs, labels, bins)
    return sum(point["count"] * abs(point["accuracy"] - point["confidence"]) for point in points) / len(labels)


def fit_temperature(log_probs: Tensor, labels: Tensor) -> float:
    """Temperature T > 0 whose probabilities `softmax(log_probs / T)` fit labels best (Guo et al., arXiv 1706.04599).

    It changes no prediction. Fit it on images that are used for nothing else. Labels are smoothed as by [`fit_prediction_time`].

    Args:
        log_probs (`Tensor` of shape `(N, C)`): log-probabilities, each row normalised.
        labels (`Tensor` of shape `(N,)`): true labels.

    Returns:
        `float`: T, from 1/100 to 100. Above 1, the log-probabilities were too sure.

    Raises:
        ValueError: as [`negative_log_likelihood`].
    """
    from scipy.optimize import minimize_scalar

    log_probs, labels = _checked(log_probs, labels)

    def loss(log_temperature: float) -> float:
        return _smoothed_loss(log_probs / math.exp(log_temperature), labels)

    # Convex in 1 / T, so that there is one minimum.
    return math.exp(minimize_scalar(loss, bounds=(-math.log(100), math.log(100)), method="bounded").x)


@torch.no_grad()
def score_places(config: LZNConfig, latents: Tensor, label_anchors: Tensor, time: float | None = None) -> Tensor:
    """Log-probabilities `(B, C)` of labels by [`zones_lzn.score_labels`], of as many images as there are.

    Args:
        config, latents, label_anchors, time: see [`zones_lzn.score_labels`].
    """
    return torch.cat([score_labels(config, chunk, label_anchors, time) for chunk in latents.split(CHUNK)])


def fit_prediction_time(config: LZNConfig, latents: Tensor, label_anchors: Tensor, labels: Tensor) -> float:
    """Finds the time of the flow at which scores fit labels best: that of the least [`negative_log_likelihood`], nearly.

    With `s = t / (1 - t)`, the scores are `softmax_c(s y·l_c - s²|l_c|²/2)`: s is the inverse of a temperature. The search looks at a
    geometric grid of s, and then at a finer one around the best. The N labels are smoothed by 1 / (N + 1), as if one image more had all
    labels equally (in the manner of Platt, 1999): a model without an error on few images would else be sure of everything.

    Args:
        config ([`LZNConfig`]): solver and number of steps of the alignment flow.
        latents (`Tensor` of shape `(B, K, D)`): places of images that no weight was fitted to, see [`zones_lzn.place_images`].
        label_anchors (`Tensor` of shape `(C, D)`): the anchors of all labels.
        labels (`Tensor` of shape `(B,)`): true labels.

    Returns:
        `float`: the time in (0, 1), for `config.prediction_time`.

    Raises:
        ValueError: as [`negative_log_likelihood`].
    """

    def loss(log_s: float) -> float:
        time = 1 / (1 + math.exp(-log_s))
        return _smoothed_loss(*_checked(score_places(config, latents, label_anchors, time), labels))

    step = math.log(MAX_S / MIN_S) / (NUM_TIMES - 1)
    best = min((math.log(MIN_S) + k * step for k in range(NUM_TIMES)), key=loss)
    best = min((best + 2 * step * (k / (NUM_TIMES - 1) - 0.5) for k in range(NUM_TIMES)), key=loss)
    return 1 / (1 + math.exp(-best))


def _smoothed_loss(logits: Tensor, labels: Tensor) -> float:
    return F.cross_entropy(logits, labels, label_smoothing=1 / (len(labels) + 1)).item()


def _checked(log_probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    check_scores(log_probs, labels)
    num_labels = log_probs.shape[1]
    if labels.max() >= num_labels:
        raise ValueError(
            f"`labels` must be below {num_labels}, the columns of `log_probs`, got {labels.max().item()}."
        )
    log_probs, labels = log_probs.detach().cpu().double(), labels.cpu().long()
    sums = log_probs.exp().sum(1)
    if not torch.allclose(sums, torch.ones_like(sums), rtol=0, atol=TOLERANCE):
        raise ValueError(
            "`log_probs` must be log-probabilities, whose probabilities sum to 1 in each row (scores need `log_softmax`), got sums "
            f"from {sums.min().item():.4g} to {sums.max().item():.4g}."
        )
    return log_probs, labels


__all__ = [
    "calibration_error",
    "fit_prediction_time",
    "fit_temperature",
    "negative_log_likelihood",
    "reliability",
    "score_places",
]
