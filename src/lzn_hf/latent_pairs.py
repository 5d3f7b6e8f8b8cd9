# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Near-duplicate anchors: the latent flow of an isolated pair of anchors in closed form.

Two anchors at distance d, 0 with weight w and d e with weight w', have a flow along e alone. At signal s the coordinate x along
e has the distribution `F_s(x) = w Phi(x) + w' Phi(x - s d)` (up to a factor), and a flow in one dimension is the monotone
rearrangement: F_s(x) stays the same along a trajectory. A pair that is much closer than all other anchors therefore needs no
steps where only the two of them meet, at s d of about 1: a grid may start, or end, where the next neighbour counts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.special import log_ndtr, ndtr, ndtri


# Anchors closer than this share of the median distance are one anchor: repeated samples, which differ by rounding.
IDENTICAL = 1e-5
# The next neighbour of a pair is this many times farther than the pair is apart. From 2 on a pair is mutual.
ISOLATION = 4.0
BISECTIONS = 50


class Pairs(NamedTuple):
    """For each of R anchors, the neighbour that it makes an isolated pair with."""

    index: Tensor  # (R,) of the neighbour in the pool
    log_weight: Tensor  # (R,) log w'/w
    distance: Tensor  # (R,)
    next_distance: Tensor  # (R,) of the next neighbour
    isolated: Tensor  # (R,) whether there is such a pair


@torch.no_grad()
def find_pairs(distance: Tensor, typical: Tensor, log_weights: Tensor | None, include_own: bool) -> Pairs:
    """The pairs of R anchors in a pool of N, from their distances (R, N) and their median distances (R, 1).

    An anchor itself is in the pool, at distance 0, or (`include_own`) beside it, with weight 1.
    """
    if log_weights is None:
        log_weights = distance.new_zeros(distance.shape[1])
    distance = distance.masked_fill(torch.isneginf(log_weights), math.inf)
    identical = distance <= IDENTICAL * typical
    own = torch.where(identical, log_weights, -math.inf).logsumexp(1)
    if include_own:
        own = torch.logaddexp(own, torch.zeros_like(own))
    others = distance.masked_fill(identical, math.inf)
    nearest, index = others.min(1)
    following = others.scatter(1, index[:, None], math.inf).amin(1)
    isolated = torch.isfinite(following) & torch.isfinite(own) & (following >= ISOLATION * nearest)
    return Pairs(index, log_weights[index] - own, nearest, following, isolated)


def approach_pairs(u: Tensor, anchors: Tensor, pool: Tensor, pairs: Pairs, s: Tensor) -> Tensor:
    """Carries rows with an isolated pair from infinite s to s, (B, 1), in coordinates `y = s a_b + u`.

    Solves `Phi(y) + w'/w Phi(y - s d) = Phi(x)` for the coordinate y along the pair, x being that of the noise. (B, D) -> (B, D).
    """
    direction, d = _directions(anchors, pool[pairs.index], pairs.isolated)
    x = (u * direction).sum(1)
    shift = s.squeeze(1) * d
    log_weight = pairs.log_weight.masked_fill(~pairs.isolated, 0.0)
    y = _solve(x, shift, log_weight)
    return u + torch.where(pairs.isolated, y - x, 0.0)[:, None] * direction


def leave_pairs(
    u: Tensor, s: Tensor, s_end: Tensor, top: Tensor, reference: Tensor, pool: Tensor, pairs: Pairs
) -> tuple[Tensor, Tensor]:
    """Carries rows that go to one of an isolated pair from s to `s_end` (R,) of the pool's anchors, where the two are apart.

    Args:
        u (`Tensor` of shape `(B, D)`): rows in coordinates `y = s r + u` about the reference r.
        s (`Tensor` of shape `(1 | B, 1)`): where they are.
        top (`Tensor` of shape `(B,)`): the anchor that each row goes to, or the other one of its pair.
        reference (`Tensor` of shape `(1 | B, D)`): r.

    Returns:
        u and s at the end, (B, D) and (B, 1); those of rows without a pair have no meaning.
    """
    anchors, isolated = pool[top], pairs.isolated[top]
    direction, d = _directions(anchors, pool[pairs.index[top]], isolated)
    log_weight = pairs.log_weight[top].masked_fill(~isolated, 0.0)
    s_end = s_end[top][:, None]
    v = u + s * (reference - anchors)
    x = (v * direction).sum(1)
    weight, mass = log_weight.exp(), ndtr(x) + log_weight.exp() * ndtr(x - s.squeeze(1) * d)
    tiny = 1e-12
    own = ndtri(mass.clamp(tiny, 1 - tiny))
    other = s_end.squeeze(1) * d + ndtri(((mass - 1) / weight).clamp(tiny, 1 - tiny))
    v = v + (torch.where(mass < 1, own, other) - x)[:, None] * direction
    return v - s_end * (reference - anchors), s_end


def _directions(anchors: Tensor, neighbours: Tensor, isolated: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (B, D) from anchors to their neighbours, and the distances (B,); any for rows that are not isolated."""
    difference = torch.where(isolated[:, None], neighbours - anchors, 1.0)
    d = difference.norm(dim=1)
    return difference / d[:, None], d


def _solve(x: Tensor, shift: Tensor, log_weight: Tensor) -> Tensor:
    """y with `log(Phi(y) + w Phi(y - shift)) = log Phi(x)`, w and shift not negative, all (B,); differentiable."""

    def excess(y: Tensor) -> Tensor:
        return torch.logaddexp(log_ndtr(y), log_weight + log_ndtr(y - shift)) - log_ndtr(x)

    with torch.no_grad():
        # log Phi(y) <= -y^2 / 2 below 0, and the left side is at most log(1 + w) + log Phi(y): that bounds y from below.
        low = -(2 * (torch.logaddexp(log_weight, torch.zeros_like(x)) - log_ndtr(x))).sqrt()
        high = x.clone()
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = excess(middle) > 0
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        y = (low + high) / 2
        slope = torch.logaddexp(_log_pdf(y), log_weight + _log_pdf(y - shift))
        slope = (slope - torch.logaddexp(log_ndtr(y), log_weight + log_ndtr(y - shift))).exp()
    if not torch.is_grad_enabled():
        return y
    # A step of Newton's method, which is nothing, with the derivatives of the implicit function.
    return y - excess(y) / slope


def _log_pdf(x: Tensor) -> Tensor:
    return -(x.square() + math.log(2 * math.pi)) / 2
