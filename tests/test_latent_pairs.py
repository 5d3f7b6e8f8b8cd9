# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Isolated pairs of anchors: the closed form against a fine integration of the flow, and what it must keep."""

import itertools
import math

import pytest
import torch

from lzn_hf.latent_kernel import Flow
from lzn_hf.latent_pairs import Pairs, approach_pairs, find_pairs, leave_pairs
from lzn_hf.latent_schedules import typical_distance
from lzn_hf.latent_zones import compute_latents, trace_assignments


FLOAT64 = {"dtype": torch.float64}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **FLOAT64)


def integrate(y, pool, log_weights, s_start, s_end, steps):
    """RK4 of dy/ds = E[a | y, s], (B, D), on a grid that is even in log s."""

    def expected(y, s):
        logits = s * y @ pool.T - s**2 * pool.square().sum(1) / 2 + log_weights
        return logits.softmax(1) @ pool

    grid = torch.logspace(math.log10(s_start), math.log10(s_end), steps + 1, **FLOAT64).tolist()
    for s, s_next in itertools.pairwise(grid):
        h = s_next - s
        k1 = expected(y, s)
        k2 = expected(y + h / 2 * k1, s + h / 2)
        k3 = expected(y + h / 2 * k2, s + h / 2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + expected(y + h * k3, s_next))
    return y


def flow_of(pool, reference):
    """Of which `leave_pairs` reads the anchors and the reference alone."""
    return Flow(reference, pool, pool.new_zeros(()), None, False, 0, pool.dtype)


def pair_of(pool, log_weights, rows):
    """Each of two anchors with the other one."""
    index = torch.tensor([1, 0])
    distance = (pool[1] - pool[0]).norm().expand(2)
    pairs = Pairs(index, log_weights[index] - log_weights, distance, 10 * distance, torch.ones(2, dtype=torch.bool))
    return Pairs(*(value[rows] for value in pairs))


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.2, 3.0]])
@pytest.mark.parametrize("distance", [1e-3, 0.5])
def test_closed_form_is_the_flow_of_two_anchors(weights, distance):
    pool = torch.stack([randn(3), randn(3)])
    pool[1] = pool[0] + distance * torch.nn.functional.normalize(randn(3, seed=1), dim=0)
    pool, log_weights = (
        pool - pool[0],
        torch.tensor(weights, **FLOAT64).log(),
    )  # about the first: no rounding in the oracle
    rows = torch.tensor([0, 1]).repeat(6)
    anchors, noise = pool[rows], randn(12, 3, seed=2)
    for end in (0.1, 1.0, 3.0):
        s = end / distance
        expected = integrate(14 / distance * anchors + noise, pool, log_weights, 14 / distance, s, 2000)
        u = approach_pairs(noise, anchors, pool, pair_of(pool, log_weights, rows), torch.full((12, 1), s, **FLOAT64))
        torch.testing.assert_close(s * anchors + u, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.2, 3.0]])
@pytest.mark.parametrize("reference", [0.0, 2.0])
def test_leaving_a_pair_undoes_approaching_it(weights, reference):
    pool, log_weights = randn(2, 4), torch.tensor(weights, **FLOAT64).log()
    pool[1] = pool[0] + 0.01 * pool[1]
    rows = torch.tensor([0, 1]).repeat(10)
    anchors, noise, s = pool[rows], randn(20, 4, seed=3), torch.full((20, 1), 90.0, **FLOAT64)
    u = approach_pairs(noise, anchors, pool, pair_of(pool, log_weights, rows), s)
    r = torch.full((1, 4), reference, **FLOAT64)
    for top in (rows, 1 - rows):  # whichever of the two seems more probable
        pairs = pair_of(pool, log_weights, top)
        step = (
            randn(20, 4, seed=5),
            torch.full((1, 1), 30 / pairs.distance[0], **FLOAT64),
        )  # goes past where they are apart
        back, s_end = leave_pairs(flow_of(pool, r), pairs, u + s * (anchors - r), s, top, *step)
        assert torch.equal(s_end, step[1].expand(20, 1))
        torch.testing.assert_close(back - s_end * (anchors - r), noise, rtol=0, atol=1e-5)


def test_gradients_of_the_closed_form_are_exact():
    pool, noise = randn(2, 3), randn(4, 3, seed=4)
    rows, log_weights = torch.tensor([0, 1, 0, 1]), torch.tensor([0.0, 0.7], **FLOAT64)
    s = torch.full((4, 1), 0.8, **FLOAT64)

    def approach(pool, noise):
        return approach_pairs(noise, pool[rows], pool, pair_of(pool.detach(), log_weights, rows), s)

    def leave(pool, noise):
        pairs = pair_of(pool.detach(), log_weights, rows)
        flow = flow_of(pool, pool.mean(0, keepdim=True))
        return leave_pairs(flow, pairs, noise, s, rows, noise, torch.full((1, 1), 9.0, **FLOAT64))[0]

    for function in (approach, leave):
        inputs = (pool.clone().requires_grad_(), noise.clone().requires_grad_())
        assert torch.autograd.gradcheck(function, inputs)


def find(pool, anchors=None, log_weights=None, include_own=False):
    distance = torch.cdist(pool if anchors is None else anchors, pool)
    typical = typical_distance(distance, log_weights)
    return find_pairs(distance, typical, log_weights, include_own)


def test_which_anchors_are_isolated_pairs():
    pool = torch.tensor([[0.0, 0], [0.1, 0], [5, 5], [5, 6], [9, 0], [0, 9], [0, 9 + 1e-6]], **FLOAT64)
    pairs = find(pool)
    assert pairs.isolated.tolist() == [True, True, True, True, False, False, False]  # the last two are one anchor
    assert pairs.neighbour[:4].tolist() == [1, 0, 3, 2]
    torch.testing.assert_close(pairs.distance[:2], torch.tensor([0.1, 0.1], **FLOAT64))
    assert 7.0 < pairs.next_distance[0] < 7.1

    log_weights = torch.tensor([1.0, 2.0, -math.inf, 0, 0, 0, 0], **FLOAT64)
    weighted = find(pool, log_weights=log_weights)
    torch.testing.assert_close(weighted.log_weight[:2], torch.tensor([1.0, -1.0], **FLOAT64))
    assert weighted.isolated.tolist() == [True, True, False, False, False, False, False]

    # Beside the pool: the own anchor has weight 1, and one just like it in the pool adds to that.
    beside = find(pool[1:], anchors=pool[[0, 5]], log_weights=torch.zeros(6, **FLOAT64), include_own=True)
    assert beside.isolated.tolist() == [True, False]
    torch.testing.assert_close(beside.log_weight[0], torch.tensor(0.0, **FLOAT64))


def test_three_alike_are_no_pair():
    pool = torch.cat([torch.zeros(1, 4, **FLOAT64), 0.01 * randn(2, 4), 3 * randn(20, 4, seed=1)])
    assert not find(pool).isolated[:3].any()


@pytest.mark.parametrize("distance", [1e-2, 1e-3])
def test_latents_of_doubled_anchors_are_exact(distance):
    """Against a dense integration; without the closed form the errors are 0.014 and 0.084 at 20 evaluations."""
    pool = randn(30, 24, seed=10)
    pool[27:] = pool[:3] + distance * torch.nn.functional.normalize(randn(3, 24, seed=1))
    noise = randn(30, 24, seed=12)
    s = 14 / distance
    shifted = []
    for anchor, n in zip(pool, noise, strict=True):  # about the anchor of each row, where nothing cancels
        y = integrate(n[None], pool - anchor, torch.zeros(30, **FLOAT64), s, 1e-6, 3000)
        shifted.append(y[0])
    exact = torch.stack(shifted)
    for num_steps, bound in ((10, 4e-3), (20, 5e-4)):
        error = (compute_latents(pool, noise, num_steps=num_steps) - exact).square().mean().sqrt()
        assert error < bound, num_steps


@pytest.mark.parametrize("distance", [1e-2, 1e-3])
@pytest.mark.parametrize("known", [False, True])
def test_doubled_anchors_are_told_apart(distance, known):
    pool = randn(60, 24)
    pool[50:] = pool[:10] + distance * torch.nn.functional.normalize(randn(10, 24, seed=1))
    rows = torch.arange(60).repeat(4)
    latents = compute_latents(pool[rows], randn(240, 24, seed=2), pool)
    points, log_probs = trace_assignments(latents, pool, rows if known else None)
    own = log_probs if known else log_probs.gather(2, rows.expand(20, -1)[..., None]).squeeze(2)
    assert (own[-1].exp() > 0.9).double().mean() >= 0.99
    assert (own[-2].exp() < 0.9)[rows < 10].all()  # the grid alone leaves pairs together
    near = (points - pool[rows]).norm(dim=1) < distance / 2
    assert near.double().mean() >= 0.99


def test_gradients_of_latents_of_doubled_anchors_are_finite_and_exact():
    pool = randn(8, 3)
    pool[7] = pool[0] + 0.02 * pool[7]
    noise = randn(8, 3, seed=1)
    cotangent = randn(8, 3, seed=2)
    pool.requires_grad_()
    (gradient,) = torch.autograd.grad((compute_latents(pool, noise, num_steps=200) * cotangent).sum(), pool)
    direction = randn(8, 3, seed=3)
    h = 1e-5
    with torch.no_grad():
        ends = [
            (compute_latents(pool + sign * h * direction, noise, num_steps=200) * cotangent).sum() for sign in (1, -1)
        ]
    numerical = (ends[0] - ends[1]) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(), numerical, rtol=1e-3, atol=0)
