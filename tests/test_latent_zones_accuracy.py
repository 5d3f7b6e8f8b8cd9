# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""latent_zones: how close each solver comes to the exact flow, and what hard pools do to it."""

import itertools
import math

import pytest
import torch
from helpers.latent_flow import randn

from lzn_hf import latent_arrival, latent_schedules
from lzn_hf.latent_zones import SOLVERS, compute_latents, trace_assignments


def solver_errors(solver, steps, pool, noise, reference):
    return [
        (compute_latents(pool, noise, solver=solver, num_steps=n) - reference).square().mean().sqrt().item()
        for n in steps
    ]


def test_order_of_convergence():
    pool, noise = randn(40, 12), randn(40, 12, seed=1)
    reference = compute_latents(pool, noise, num_steps=1500)
    coarse, fine = solver_errors("adams", (40, 80), pool, noise, reference)
    assert 2.5 < math.log2(coarse / fine) < 3.7  # third order
    coarse, fine = solver_errors("euler", (400, 800), pool, noise, reference)
    assert 0.8 < math.log2(coarse / fine) < 1.2  # first order; and both converge to the same flow
    (dpm,) = solver_errors("dpmsolver++", (400,), pool, noise, reference)
    assert dpm < 5e-3  # it ends at t = 1e-3, so it does not converge to the flow's end point exactly


@pytest.mark.parametrize(("n", "d", "scale"), [(64, 24, 1.0), (512, 64, 1.0), (10, 24, 1.0), (300, 200, 0.3)])
def test_default_solver_is_accurate(n, d, scale):
    pool = scale * randn(n, d)
    rows = min(n, 48)
    noise = randn(rows, d, seed=1)
    reference = compute_latents(pool[:rows], noise, pool, num_steps=400)
    rms = [
        (compute_latents(pool[:rows], noise, pool, num_steps=k) - reference).square().mean().sqrt() for k in (10, 20)
    ]
    assert rms[0] < 4e-3 and rms[1] < 5e-4


def test_many_evaluations_reach_the_flow_itself():
    """Against 4,000 classical Runge-Kutta steps in log s, from where the nearest anchor is 20 times farther than noise."""
    pool, rows = randn(24, 8), 12
    u, anchors = randn(rows, 8, seed=1), pool[:rows]
    difference = pool - anchors[:, None]
    square = difference.square().sum(-1)

    def drift(s, u):
        logits = s * (difference @ u[..., None]).squeeze(-1) - s * s * square / 2
        return (logits.softmax(-1)[:, None] @ difference).squeeze(1)

    nearest = square.sqrt().masked_fill(square == 0, math.inf).min()
    want, x = u, torch.linspace(1, 0, 4001, dtype=torch.float64)
    grid = torch.sinh(x * torch.asinh(20 / nearest))
    for s, s_next in itertools.pairwise(grid):
        h = s_next - s
        a = drift(s, want)
        b = drift(s + h / 2, want + h / 2 * a)
        c = drift(s + h / 2, want + h / 2 * b)
        want = want + h / 6 * (a + 2 * b + 2 * c + drift(s_next, want + h * c))
    got = compute_latents(anchors, u, pool, num_steps=400)
    assert (got - want).square().mean().sqrt() < 1e-6


def test_clusters_of_anchors_are_two_scales_of_one_grid():
    """10 clusters, 30 times as far apart as their anchors are from each other: an even grid in log s has an rms of 8e-3."""
    centres, anchors = 5 * randn(10, 24), randn(300, 24, seed=1)
    pool = centres.repeat(30, 1) + 0.2 * anchors
    noise = randn(48, 24, seed=2)
    reference = compute_latents(pool[:48], noise, pool, num_steps=400)
    coarse, fine = (
        (compute_latents(pool[:48], noise, pool, num_steps=k) - reference).square().mean().sqrt() for k in (10, 20)
    )
    assert coarse < 2.5e-2 and fine < 4e-3
    own = torch.arange(48)
    _, log_probs = trace_assignments(reference, pool, own, num_steps=40)
    assert (log_probs[-1].exp() > 0.5).float().mean() > 0.9


def test_few_near_anchors_among_many_are_told_apart(monkeypatch):
    """Twelve triples among 900: the sample shows none of them, but the rows that go there do. By the grid alone, none is told apart."""
    pool = randn(900, 24)
    near = torch.cat([torch.arange(12) + first for first in (1, 500, 700)])
    for seed, first in ((1, 500), (2, 700)):
        offset = torch.nn.functional.normalize(randn(12, 24, seed=seed))
        pool[first : first + 12] = pool[1:13] + 0.3 * offset
    monkeypatch.setattr(latent_arrival, "_sample", lambda *_: torch.arange(300, 428))
    latents = compute_latents(pool[near], randn(36, 24, seed=3), pool, num_steps=200)

    def own(rows=slice(None)):
        log_probs = trace_assignments(latents[rows], pool)[1]
        return (log_probs[-1].gather(1, near[rows, None]).exp() > 0.9).double().mean()

    assert own() >= 0.95
    # Which rows they are does not depend on the others.
    assert torch.equal(*(trace_assignments(latents[rows], pool, near[rows])[0][:1] for rows in ([0, 5], [0, 20])))


def test_a_large_pool_is_planned_by_the_anchors_that_are_in_it():
    """Anchors of weight zero, near-duplicates among them, change nothing, however few the others are."""
    pool, latents = randn(600, 16), randn(40, 16, seed=1)
    absent = torch.arange(600) % 40 != 37
    pool[absent] = 1e-3 * pool[absent]
    log_weights = torch.where(absent, -math.inf, 0.0)
    points, log_probs = trace_assignments(latents, pool, log_weights=log_weights, num_steps=40)
    want_points, want = trace_assignments(latents, pool[~absent], num_steps=40)
    torch.testing.assert_close(points, want_points, rtol=0, atol=1e-3)
    torch.testing.assert_close(log_probs[-1, :, ~absent].exp(), want[-1].exp(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("distance", [0.0, 1e-7, 1e-4, 1e-2])
def test_near_duplicates_stay_gaussian_in_float32(distance):
    """A prototype with one grid for all rows generated one picture per class from such anchors."""
    pool = randn(32, 16, dtype=torch.float32)
    pool = torch.cat(
        [pool, pool[:8] + distance * torch.nn.functional.normalize(randn(8, 16, seed=3, dtype=torch.float32))]
    )
    anchors = pool.repeat(200, 1)
    latents = compute_latents(anchors, randn(len(anchors), 16, seed=1, dtype=torch.float32), pool)
    assert torch.isfinite(latents).all()
    assert abs(latents.std().item() - 1) < 0.02 and latents.mean(0).abs().max() < 0.06


def test_a_pool_that_is_mostly_one_anchor():
    pool = randn(10, 4, dtype=torch.float32)
    pool[3:] = pool[3]
    anchors = pool.repeat(2000, 1)
    latents = compute_latents(anchors, randn(len(anchors), 4, seed=1, dtype=torch.float32), pool)
    assert latents.mean(0).abs().max() < 0.03 and abs(latents.std().item() - 1) < 0.03
    assert torch.isfinite(trace_assignments(latents[:20], pool, torch.arange(10).repeat(2))[1]).all()


@pytest.mark.parametrize("solver", ["euler", "dpmsolver++"])
@pytest.mark.parametrize("decode", [False, True])
def test_published_schedules_are_finite_where_they_are_used(solver, decode):
    schedule = latent_schedules.published_schedule(solver, 12, decode=decode, like=torch.zeros(()))
    assert torch.isfinite(schedule.s[:-1]).all() and torch.isfinite(schedule.weights).all()
    assert (schedule.s.diff(dim=0) > 0).all() if decode else (schedule.s.diff(dim=0) < 0).all()


def test_one_step_is_enough_for_every_solver():
    for solver in SOLVERS:
        latents = compute_latents(randn(4, 3), randn(4, 3, seed=1), solver=solver, num_steps=1)
        assert torch.isfinite(latents).all()
        assert trace_assignments(latents, randn(4, 3), solver=solver, num_steps=1)[1].shape == (1, 4, 4)
