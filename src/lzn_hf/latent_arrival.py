# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The grid of the default solver towards a pool, and how rows arrive at their anchors, at the cost of a few evaluations for any pool.

A grid has to go on until the nearest anchors are told apart, and it is the same for all rows, so that no row depends on the others. To
know the nearest anchors would take all pairs of the pool. So a sample of the anchors says where the grid ends, and the last step of a row
looks at the surroundings of the anchor that the row goes to. Where the sample has missed anchors that are nearer than that, only they
are left to choose from, and the step becomes a flow among these few anchors, which costs next to nothing. Isolated pairs end by
the closed form of [`latent_pairs`].

Of 900 anchors in 24 dimensions with twelve triples at distance 0.3, 20 evaluations take the rows of the triples to their own anchor, with
a probability above 0.9, as often if the sample shows no triple as if it shows all.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .latent_export import nanmedian
from .latent_kernel import Flow
from .latent_pairs import Pairs, find_pairs, leave_pairs
from .latent_schedules import (
    NEIGHBOUR_RESOLVED,
    Schedule,
    adams_decode_schedule,
    distances,
    nearest_distance,
    signal_over_noise,
    typical_distance,
)


# A grid tells anchors apart that are farther than this fraction of the typical distance; isolated pairs below are told apart in the last
# step.
GRID_RESOLUTION = 1 / 50
# A pool of more than KNOWN anchors is planned for by a sample of them.
KNOWN = 512
SAMPLE = 128
# Pairs of an anchor of the sample and one of the pool that are looked at at once: 8 MB, which a processor's cache may hold.
PLANNED_PAIRS = 2**20
# Anchors that a row chooses from in its last step where the sample has missed some, and steps of that choice.
FEW = 8
FEW_STEPS = 16


class Arrival(NamedTuple):
    """What rows know of the pool when they arrive."""

    pool: Tensor  # (N, D), about its middle
    squares: Tensor  # (N,) squared lengths
    typical: Tensor  # (1, 1), distance of typical anchors
    log_weights: Tensor | None  # (N,)
    sampled: bool  # whether the grid does not know all anchors

    def distances_from(self, rows: Tensor) -> Tensor:
        """Distances (R, N) of the anchors `rows` (R,): by a product in float64, to 1e-8 of the lengths."""
        if self.pool.dtype != torch.float64:
            return distances(self.pool[rows], self.pool)
        products = self.pool[rows] @ self.pool.T
        return products.mul_(-2).add_(self.squares).add_(self.squares[rows, None]).clamp_(min=0).sqrt_()


@torch.no_grad()
def adams_decode_plan(
    pool: Tensor, log_weights: Tensor | None, num_steps: int, end: float, dtype: torch.dtype
) -> tuple[Schedule, Arrival | None]:
    """The grid towards a pool (N, D), in `dtype`, and how rows arrive; None if it ends before t = 1.

    It looks at a sample of a large pool, so that it costs no more than a few rows do. What the sample misses is looked up where rows go.

    Args:
        pool (`Tensor` of shape `(N, D)`): the anchors, of float32 only where distances need no more.
        log_weights (`Tensor` of shape `(N,)`, *optional*): as in [`trace_assignments`].
        num_steps (`int`): number of steps.
        end (`float`): time to go to, in (0, 1].
        dtype (`torch.dtype`): of the grid.

    Returns:
        `tuple(Schedule, Arrival)`: both.
    """
    n = pool.shape[0]
    log_weights = None if log_weights is None else log_weights.to(pool.dtype)
    sample = _sample(n, log_weights, pool.device)
    absent = None if log_weights is None else torch.isneginf(log_weights)[sample, None]
    pool = pool - pool.mean(0)  # the products that distances come from round in proportion to the lengths
    squares = pool.norm(dim=1).square()
    every = torch.arange(sample.shape[0], device=pool.device)
    among = Arrival(pool[sample], squares[sample], squares, None, sampled=False).distances_from(every)
    typical = typical_distance(among, None if log_weights is None else log_weights[sample])
    typical = nanmedian(typical if absent is None else typical.masked_fill(absent, math.nan), 0).to(dtype)
    if end < 1:
        return adams_decode_schedule(torch.full_like(typical, signal_over_noise(end)), typical, num_steps), None
    arrival = Arrival(pool, squares, typical, log_weights, sampled=n > KNOWN)
    parts = sample.split(max(1, PLANNED_PAIRS // n))
    nearest = torch.cat([_surroundings(arrival.distances_from(part), typical, log_weights)[0] for part in parts])
    if absent is not None:
        nearest = nearest.masked_fill(absent, math.inf)
    nearest = torch.maximum(nearest.amin(0, keepdim=True), GRID_RESOLUTION * typical)
    return adams_decode_schedule(NEIGHBOUR_RESOLVED / nearest, typical, num_steps), arrival


def _sample(n: int, log_weights: Tensor | None, device: torch.device) -> Tensor:
    """Indices of all anchors of a small pool, or of SAMPLE that are present, evenly over a large one."""
    if n <= KNOWN:
        return torch.arange(n, device=device)
    places = torch.arange(SAMPLE, device=device)
    if log_weights is None:
        return places * n // SAMPLE
    present = ~torch.isneginf(log_weights)
    return present.to(torch.uint8).argsort(descending=True, stable=True)[places * present.sum() // SAMPLE]


def _surroundings(distance: Tensor, typical: Tensor, log_weights: Tensor | None) -> tuple[Tensor, Pairs]:
    """How far the nearest anchor is that a grid tells apart from each of R anchors, (R, 1), and the pairs that none tells apart."""
    dtype, typical = typical.dtype, typical.to(distance.dtype)
    nearest = nearest_distance(distance, typical, log_weights).to(dtype)
    pairs = find_pairs(distance, typical, log_weights, include_own=False).to(dtype)
    pairs = pairs._replace(isolated=pairs.isolated & (pairs.distance < GRID_RESOLUTION * typical.squeeze()))
    return torch.where(pairs.isolated[:, None], pairs.next_distance[:, None], nearest), pairs


def arrive(
    flow: Flow, arrival: Arrival, u: Tensor, s: Tensor, top: Tensor, u_next: Tensor, s_next: Tensor
) -> tuple[Tensor, Tensor]:
    """Replaces the last step, from s to `s_next`, of rows that have more to tell apart than the grid does.

    Args:
        flow ([`Flow`]): the anchors and the reference r.
        arrival ([`Arrival`]): what the plan knows of the pool.
        u (`Tensor` of shape `(B, D)`): the rows at s, in coordinates `y = s r + u`.
        s (`Tensor` of shape `(1, 1)`): signal over noise before the step.
        top (`Tensor` of shape `(B,)`): the most probable anchor of each row.
        u_next (`Tensor` of shape `(B, D)`): the rows after the step, kept where the grid tells all anchors apart.
        s_next (`Tensor` of shape `(1, 1)`): signal over noise after the step, likewise.

    Returns:
        `tuple(Tensor, Tensor)`: u `(B, D)` and s `(B, 1)` after the step.
    """
    distance = arrival.distances_from(top)
    nearest, pairs = _surroundings(distance, arrival.typical, arrival.log_weights)
    s_hi = NEIGHBOUR_RESOLVED / torch.maximum(nearest, GRID_RESOLUTION * arrival.typical)
    missed = s_hi > s_next
    # A graph cannot depend on values.
    if not arrival.sampled or not (torch.compiler.is_compiling() or missed.any()):
        return leave_pairs(flow, pairs, u, s, top, u_next, s_next)
    if arrival.log_weights is not None:
        distance = distance.masked_fill(torch.isneginf(arrival.log_weights), math.inf)
    few = distance.topk(min(FEW, distance.shape[1]), dim=1, largest=False).indices
    s_few = torch.maximum(s_hi, s_next)
    u_few, chosen = _choose(flow, few, u, s, top, s_few, arrival.typical)
    # From here on such rows are where they are after the choice, and may be at another one of the few.
    among = arrival.pool[few]
    distance = (among - among.gather(1, chosen[:, None, None].expand(-1, -1, among.shape[2]))).norm(dim=2)
    log_weights = None if arrival.log_weights is None else arrival.log_weights[few]
    _, few_pairs = _surroundings(distance, arrival.typical, log_weights)
    few_pairs = few_pairs._replace(neighbour=few.gather(1, few_pairs.neighbour[:, None]).squeeze(1))
    row = missed.squeeze(1)
    pairs = Pairs(*(torch.where(row, one, other) for one, other in zip(few_pairs, pairs, strict=True)))
    top = torch.where(row, few.gather(1, chosen[:, None]).squeeze(1), top)
    u, u_next = torch.where(missed, u_few, u), torch.where(missed, u_few, u_next)
    s, s_next = torch.where(missed, s_few, s), s_few
    return leave_pairs(flow, pairs, u, s, top, u_next, s_next)


def _choose(
    flow: Flow, few: Tensor, u: Tensor, s: Tensor, top: Tensor, s_end: Tensor, typical: Tensor
) -> tuple[Tensor, Tensor]:
    """The flow of the anchors `few` (B, K) of each row alone, from s to s_end (B, 1): u (B, D) there, and the most probable of the few (B,)."""
    anchors = flow.pool[top]
    differences = flow.pool[few] - anchors[:, None]  # (B, K, D)
    squares = differences.square().sum(2)
    log_weights = 0.0 if flow.log_weights is None else flow.log_weights[few]
    schedule = adams_decode_schedule(s_end, typical, FEW_STEPS, past=s[None])
    v = u + s * (flow.reference - anchors)
    drifts: list[Tensor] = []

    def logits(v: Tensor, s: Tensor) -> Tensor:
        return s * torch.einsum("bd,bkd->bk", v, differences) - s * s * squares / 2 + log_weights

    for k in range(FEW_STEPS - 1):
        drifts = [torch.einsum("bk,bkd->bd", logits(v, schedule.s[k]).softmax(1), differences), *drifts[:2]]
        for w, d in zip(schedule.weights[k], drifts, strict=False):
            v = torch.addcmul(v, w, d)
    return v - s_end * (flow.reference - anchors), logits(v, s_end).argmax(1)
