# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Solvers of the latent flow dy/ds = E[a | y, s] as schedules: where to evaluate the expected anchor, and how to weigh its values.

See [`latent_zones`] for the flow and its coordinates.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .latent_export import asinh, cosh, euclidean_distances, nanmedian, sinh


# The published end points in t: Euler starts this far from the anchor, DPM-Solver++ keeps this far from both ends.
EULER_EPS = 1e-4
DPM_EPS = 1e-3

# Adams grid. Zones of two anchors at distance d meet where s d is about 1: at s d = 8 the neighbour's probability is below
# e^-8 for noise of three standard deviations, at s d = 4 most of the turning is still ahead. Noise of more than four, which some row of a
# thousand has towards some neighbour, belongs to the neighbour at s d = 8: a row starts, alone, at 9.
NEIGHBOUR_UNSEEN = 9.0
NEIGHBOUR_RESOLVED = 8.0
TURNING = 4.0
# Grids take anchors closer than this fraction of the median distance for one anchor. Their zones together keep the right mass and
# shape; resolving them would waste the grid on a single direction of the latent.
MERGE_DISTANCE = 1e-3
# The grid of a row: an anchor at distance d has the weight `exp(-(s d)^2 / SIGHT)` at s. Distances are binned in half octaves from 2^-10
# to 4 times the typical one. The density of points is evaluated at MESH_POINTS values of s, and is at least LEAST_DENSITY times the
# nearest distance.
SIGHT = 16.0
CLASS_OCTAVES = (-10, 2)
MESH_POINTS = 24
LEAST_DENSITY = 1e-3
# Towards the anchors, the density of points at the prior is 1 + START times as large as beyond.
START = 2.0


class Schedule(NamedTuple):
    """A linear multistep method: `y <- y + sum_j weights[k, j] * E_{k-j}` after evaluating E_k at `s[k]`, k = 0..S-1."""

    s: Tensor  # (S + 1, 1 | B, 1); s[S] is where the last step ends, infinite when decoding all the way to the anchor
    weights: Tensor  # (S, 3, 1 | B, 1), or (S, 1, 1, 1) of a method that looks at no earlier value


def published_schedule(solver: str, num_steps: int, *, decode: bool, like: Tensor, end: float = 1.0) -> Schedule:
    """Returns a published grid, uniform in t: Euler, or multistep DPM-Solver++ of order 3 (arXiv 2211.01095) in data prediction.

    An Euler step in t on x is an Euler step in s on y. With `lambda = log s`, `h_k = lambda_{k+1} - lambda_k`, `phi_1 = expm1(-h)`,
    `phi_2 = phi_1 / h + 1`, `phi_3 = phi_2 / h - 1/2`, a DPM-Solver++ step is `y += (s_{k+1} - s_k) E_k + s_{k+1} (phi_2 D_1 - phi_3 D_2)`
    with divided differences D_1, D_2 of the expected anchors in lambda; in second order `(s_{k+1} - s_k) D_1 / 2` replaces the bracket.

    Args:
        solver (`str`): `"euler"` or `"dpmsolver++"`.
        num_steps (`int`): number of evaluations of the expected anchor.
        decode (`bool`): whether the grid goes from the prior towards the anchors instead of back.
        like (`Tensor`): a tensor of the data type and on the device of the result.
        end (`float`, *optional*, defaults to 1.0): the time that a grid towards the anchors ends at; published: 1.
    """
    # In Python numbers: the same for all inputs, and a constant to torch.compile.
    grid = [k / num_steps for k in range(num_steps + 1)]
    if solver == "euler":
        s = [signal_over_noise(end * x) if decode else signal_over_noise((1 - EULER_EPS) * (1 - x)) for x in grid]
        rows = [[s_next - s_k] for s_k, s_next in itertools.pairwise(s)]
        if decode:
            rows[-1] = [0.0]  # to s = infinity: the end point is the last expected anchor
    else:
        s = [signal_over_noise(DPM_EPS + (1 - 2 * DPM_EPS) * (end * x if decode else 1 - x)) for x in grid]
        h = [math.log(s_next / s_k) for s_k, s_next in itertools.pairwise(s)]
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
    points = torch.tensor(s, dtype=like.dtype, device=like.device)
    weights = torch.tensor(rows, dtype=like.dtype, device=like.device)
    return Schedule(points[:, None, None], weights[:, :, None, None])


@torch.no_grad()  # the grid is a constant
def adams_encode_schedule(
    distance: Tensor,
    nearest: Tensor,
    typical: Tensor,
    merged: Tensor,
    log_weights: Tensor | None,
    include_own: bool,
    num_steps: int,
) -> Schedule:
    """A grid for each row, from where its zone is alone to s = 0, with the most points where it meets the most anchors.

    One scale d of distances asks for a density of points in s of `d / sqrt(1 + (s d / 4)^2)`: even around the prior, in log s beyond. An
    anchor at distance d is in sight at s as far as the noise hides the difference, so the density of a row with many scales (clusters,
    near-duplicates) is the root mean square of those of its anchors, weighted by `p_j ~ w_j exp(-(s d_j)^2 / 16)`, d = 0 for its own.

    Args:
        distance (`Tensor` of shape `(R, N)`): of each row to the anchors.
        nearest, typical (`Tensor` of shape `(R, 1)`): distances that bound and scale the grid.
        merged (`Tensor` of shape `(R, 1)`): anchors up to this distance are the row's own as far as the grid is concerned.
        log_weights, include_own: as in [`compute_latents`].
        num_steps (`int`): number of steps.
    """
    mesh = torch.linspace(0, 1, MESH_POINTS, dtype=nearest.dtype, device=nearest.device)
    s_hi, start = NEIGHBOUR_UNSEEN / nearest, torch.zeros_like(nearest)
    s, slope = _sinh_mesh(mesh, s_hi, typical, start)  # (R, M): s, and ds by the mesh
    d, log_mass = _distance_classes(distance, typical, merged, log_weights, include_own)
    sd = s[:, :, None] * d[:, None]  # (R, M, K)
    p = torch.softmax(log_mass[:, None] - sd.square() / SIGHT, dim=-1)
    density = (p * d[:, None].square() / (1 + (sd / TURNING).square())).sum(-1).sqrt()
    density = density + LEAST_DENSITY * nearest  # where nothing is in sight, and for a pool of one
    quantiles = torch.arange(num_steps, -1, -1, dtype=mesh.dtype, device=mesh.device) / num_steps
    s = _equidistributed(mesh, density * slope, quantiles, s_hi, typical, start)
    return Schedule(s, _adams_weights(s))


@torch.no_grad()
def adams_decode_schedule(s_hi: Tensor, typical: Tensor, num_steps: int, past: Tensor | None = None) -> Schedule:
    """A grid from s = 0 to s_hi, with the distance of typical anchors.

    Even in s around the prior, in log s beyond, and three times as dense at the prior, where the first steps know no past and are of
    low order.

    Args:
        s_hi (`Tensor` of shape `(1 | R, 1)`): where the grid of all rows, or of each, ends.
        typical (`Tensor` of shape `(1, 1)`): the distance of typical anchors.
        num_steps (`int`): number of points.
        past (`Tensor` of shape `(K, 1, 1)`, *optional*): the first K points of the grid, that rows have already been at.
    """
    start = s_hi.new_zeros(1, 1) if past is None else past[-1]
    mesh = torch.linspace(0, 1, MESH_POINTS, dtype=s_hi.dtype, device=s_hi.device)
    s, _ = _sinh_mesh(mesh, s_hi, typical, start)
    density = 1 + START * torch.exp(-s * typical / TURNING)
    points = num_steps if past is None else num_steps + 1 - past.shape[0]
    quantiles = torch.linspace(0, 1, points, dtype=mesh.dtype, device=mesh.device)
    s = _equidistributed(mesh, density, quantiles, s_hi, typical, start)
    if past is not None:
        s = torch.cat([past.expand(-1, s.shape[1], -1), s[1:]])
    s = torch.cat([s, s[-1:]])  # the end point is the last expected anchor: nothing to step to
    return Schedule(s, _adams_weights(s))


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (A, N), also small ones, each of its own difference."""
    return euclidean_distances(a, b)


def typical_distance(distance: Tensor, log_weights: Tensor | None) -> Tensor:
    """The median distance of each row (R, N) to the anchors, (R, 1); 1 where all are at distance 0."""
    if log_weights is not None:
        distance = distance.masked_fill(torch.isneginf(log_weights), math.nan)
    median = nanmedian(distance, -1)
    # Where most of the pool is merged with the row, the largest distance is the scale of the rest.
    median = torch.where(median > 0, median, distance.nan_to_num(nan=0.0).amax(-1, keepdim=True))
    return torch.where(median > 0, median, 1.0)


def nearest_distance(distance: Tensor, typical: Tensor, log_weights: Tensor | None) -> Tensor:
    """Distance of each row (R, N) to its nearest neighbour that is not merged with it, (R, 1); the typical one where there is none."""
    if log_weights is not None:
        distance = distance.masked_fill(torch.isneginf(log_weights), math.inf)
    nearest = distance.masked_fill(distance <= MERGE_DISTANCE * typical, math.inf).amin(-1, keepdim=True)
    return torch.where(torch.isinf(nearest), typical, nearest)


def signal_over_noise(t: float) -> float:
    """s at time t."""
    return t / (1 - t) if t < 1 else math.inf


def _sinh_mesh(x: Tensor, s_hi: Tensor, typical: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """s at x in [0, 1] from `start` to s_hi, and ds/dx: even in s around the prior, in log s beyond.

    `s = c sinh(x asinh(s_hi / c) + (1 - x) asinh(start / c))` with `c = 4 / typical`. (M,) or (R, M), (R, 1), (R, 1), (R, 1) -> (R, M), (R, M).
    """
    c = TURNING / typical
    first = asinh(start / c)
    rate = asinh(s_hi / c) - first
    return c * sinh(first + x * rate), c * rate * cosh(first + x * rate)


def _equidistributed(
    mesh: Tensor, density: Tensor, quantiles: Tensor, s_hi: Tensor, typical: Tensor, start: Tensor
) -> Tensor:
    """Quantiles (S,) of the distribution of s with a density (R, M) over the mesh (M,): (S, R, 1)."""
    count = F.pad(((density[:, 1:] + density[:, :-1]) / 2).cumsum(-1), (1, 0))
    count = count / count[:, -1:]
    right = (count[:, None] <= quantiles[:, None]).sum(-1).clamp(1, mesh.shape[0] - 1)  # (R, S)
    below, above = count.gather(1, right - 1), count.gather(1, right)
    x = mesh[right - 1] + (quantiles - below) / (above - below) * (mesh[1] - mesh[0])
    return _sinh_mesh(x, s_hi, typical, start)[0].T[:, :, None]


def _distance_classes(
    distance: Tensor, typical: Tensor, merged: Tensor, log_weights: Tensor | None, include_own: bool
) -> tuple[Tensor, Tensor]:
    """Classes of distances of each row, half an octave each, and one of distance 0: distances and log-masses, (R, K + 1) both.

    An anchor counts for the two classes that it lies between, so that the masses are continuous in the distances.
    """
    count = 2 * (CLASS_OCTAVES[1] - CLASS_OCTAVES[0])
    merged = merged.to(distance.dtype)
    x = (
        (distance / typical.to(distance.dtype))
        .float()
        .log2_()
        .sub_(CLASS_OCTAVES[0])
        .mul_(2)
        .clamp_(0, count - 1)
        .nan_to_num_()
    )
    lower = x.floor().clamp_(max=count - 2)
    upper_share = (x - lower).to(distance.dtype)
    lower = lower.long()
    own = distance <= merged
    # Relative to the largest weight: absent anchors have mass 0, whatever the scale of the weights.
    largest, weights = distance.new_zeros(()), torch.ones_like(upper_share)
    if log_weights is not None:
        largest = log_weights.amax(0)
        largest = largest.clamp(min=0) if include_own else largest
        weights = (log_weights - largest).exp().expand_as(distance)
    mass = distance.new_zeros(distance.shape[0], count + 1)
    mass.scatter_add_(1, lower.masked_fill(own, count), weights * (1 - upper_share).masked_fill(own, 1.0))
    mass.scatter_add_(1, lower + 1, (weights * upper_share).masked_fill(own, 0.0))
    if include_own:
        mass[:, -1] += (-largest).exp()
    octaves = CLASS_OCTAVES[0] + torch.arange(count, dtype=distance.dtype, device=distance.device) / 2
    return F.pad(octaves.exp2() * typical, (0, 1)), mass.log().to(typical.dtype)


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
