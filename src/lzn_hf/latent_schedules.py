# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Solvers of the latent flow dy/ds = E[a | y, s] as schedules: where to evaluate the expected anchor, and how to weigh its values.

See [`latent_zones`] for the flow and its coordinates.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


# The published end points in t: Euler starts this far from the anchor, DPM-Solver++ keeps this far from both ends.
EULER_EPS = 1e-4
DPM_EPS = 1e-3

# Adams grid. Zones of two anchors at distance d meet where s d is about 1: at s d = 8 the neighbour's probability is below
# e^-8 for noise of three standard deviations, at s d = 4 most of the turning is still ahead.
NEIGHBOUR_RESOLVED = 8.0
TURNING = 4.0
# Anchors closer than this share of the median distance are one anchor as far as the grid is concerned. Their zones together
# keep the right mass and shape; resolving them apart would waste the grid on a single direction of the latent.
MERGE_DISTANCE = 1e-3


class Schedule(NamedTuple):
    """A linear multistep method: `y <- y + sum_j weights[k, j] * E_{k-j}` after evaluating E_k at `s[k]`, k = 0..S-1."""

    s: Tensor  # (S + 1, 1 | B, 1); s[S] is where the last step ends, infinite when decoding all the way to the anchor
    weights: Tensor  # (S, 3, 1 | B, 1), or (S, 1, 1, 1) of a method that looks at no earlier value


def published_schedule(solver: str, num_steps: int, *, decode: bool, like: Tensor) -> Schedule:
    """The published grids, uniform in t: Euler, and multistep DPM-Solver++ of order 3 (arXiv 2211.01095) in data prediction.

    An Euler step in t on x is an Euler step in s on y. With `lambda = log s`, `h_k = lambda_{k+1} - lambda_k`, `phi_1 = expm1(-h)`,
    `phi_2 = phi_1 / h + 1`, `phi_3 = phi_2 / h - 1/2`, a DPM-Solver++ step is `y += (s_{k+1} - s_k) E_k + s_{k+1} (phi_2 D_1 - phi_3 D_2)`
    with divided differences D_1, D_2 of the expected anchors in lambda; in second order `(s_{k+1} - s_k) D_1 / 2` replaces the bracket.
    """
    # In Python numbers: the same for all inputs, and a constant to torch.compile.
    grid = [k / num_steps for k in range(num_steps + 1)]
    if solver == "euler":
        s = [_signal(x) if decode else _signal((1 - EULER_EPS) * (1 - x)) for x in grid]
        rows = [[s_next - s_k] for s_k, s_next in zip(s, s[1:])]
        if decode:
            rows[-1] = [0.0]  # to s = infinity: the end point is the last expected anchor
    else:
        s = [_signal(DPM_EPS + (1 - 2 * DPM_EPS) * (x if decode else 1 - x)) for x in grid]
        h = [math.log(s_next / s_k) for s_k, s_next in zip(s, s[1:])]
        rows = []
        for k, s_next in enumerate(s[1:]):
            step = s_next - s[k]
            order = min(3, k + 1, num_steps - k if num_steps < 10 else 3)
            first = second = 0.0  # factors of E_k - E_{k-1} and E_{k-1} - E_{k-2}
            if order == 2:
                first = 0.5 * step * h[k] / h[k - 1]
            elif order == 3:
                r0, r1 = h[k - 1] / h[k], h[k - 2] / h[k]
                phi2 = math.expm1(-h[k]) / h[k] + 1
                phi3 = phi2 / h[k] - 0.5
                curvature = (s_next * phi2 * r0 - s_next * phi3) / (r0 + r1)
                first = (s_next * phi2 + curvature) / r0
                second = -curvature / r1
            rows.append([step + first, second - first, -second])
    options = {"dtype": like.dtype, "device": like.device}
    return Schedule(torch.tensor(s, **options)[:, None, None], torch.tensor(rows, **options)[:, :, None, None])


def adams_encode_schedule(nearest: Tensor, typical: Tensor, num_steps: int) -> Schedule:
    """A grid for each row from the distances (B, 1) of its nearest and of a typical anchor: from where its zone is alone to s = 0."""
    x = torch.linspace(1, 0, num_steps + 1, dtype=nearest.dtype, device=nearest.device)
    s = _sinh_grid(x, nearest, typical)
    return Schedule(s, _adams_weights(s))


def adams_decode_schedule(nearest: Tensor, typical: Tensor, num_steps: int) -> Schedule:
    """A grid for all rows from the distances (1, 1) of the nearest and of typical anchors: from s = 0 to where zones are apart."""
    x = torch.linspace(0, 1, num_steps, dtype=nearest.dtype, device=nearest.device)
    s = _sinh_grid(x, nearest, typical)
    s = torch.cat([s, s[-1:]])  # the end point is the last expected anchor: nothing to step to
    return Schedule(s, _adams_weights(s))


def typical_distance(distance: Tensor, log_weights: Tensor | None) -> Tensor:
    """The median distance of each row (R, N) to the anchors, (R, 1); 1 where all are at distance 0."""
    if log_weights is not None:
        distance = distance.masked_fill(torch.isneginf(log_weights), math.nan)
    median = distance.nanmedian(-1, keepdim=True).values
    # Where most of the pool is merged with the row, the largest distance is the scale of the rest.
    median = torch.where(median > 0, median, distance.nan_to_num(nan=0.0).amax(-1, keepdim=True))
    return torch.where(median > 0, median, 1.0)


def nearest_distance(distance: Tensor, typical: Tensor, log_weights: Tensor | None) -> Tensor:
    """Distance of each row (R, N) to its nearest neighbour that is not merged with it, (R, 1); the typical one where there is none."""
    if log_weights is not None:
        distance = distance.masked_fill(torch.isneginf(log_weights), math.inf)
    nearest = distance.masked_fill(distance <= MERGE_DISTANCE * typical, math.inf).amin(-1, keepdim=True)
    return torch.where(torch.isinf(nearest), typical, nearest)


def _signal(t: float) -> float:
    return t / (1 - t) if t < 1 else math.inf


def _sinh_grid(x: Tensor, nearest: Tensor, typical: Tensor) -> Tensor:
    """`s = c sinh(x asinh(s_hi / c))`, `c = 4 / typical`, `s_hi = 8 / nearest`: even in s around the prior, in log s beyond.

    (S,), (R, 1), (R, 1) -> (S, R, 1).
    """
    c, s_hi = TURNING / typical, NEIGHBOUR_RESOLVED / nearest
    return c * torch.sinh(x[:, None, None] * torch.asinh(s_hi / c))


def _adams_weights(s: Tensor) -> Tensor:
    """Adams-Bashforth weights of order 3 (1 and 2 in the first two steps) on the grid s (S + 1, R, 1): (S, 3, R, 1).

    From the integral of the Newton polynomial through the last values: `h E_k + h^2/2 [E_k, E_{k-1}] + (h^3/3 + h^2 h_1/2)
    [E_k, E_{k-1}, E_{k-2}]` with divided differences in s and steps h, h_1, h_2 (newest first).
    """
    h = s.diff(dim=0)
    first, second = torch.zeros_like(h), torch.zeros_like(h)  # factors of E_k - E_{k-1} and E_{k-1} - E_{k-2}
    first[1:] = h[1:].square() / (2 * h[:-1])
    curvature = (h[2:] ** 3 / 3 + h[2:].square() * h[1:-1] / 2) / (h[1:-1] + h[:-2])
    first[2:] += curvature / h[1:-1]
    second[2:] = -curvature / h[:-2]
    return torch.stack([h + first, second - first, -second], dim=1)
