# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""latent_zones: what the flow must hold by construction, whatever the solver; the alignment loss; errors."""

import math

import pytest
import torch
from helpers.latent_flow import randn

from lzn_hf.latent_zones import SOLVERS, alignment_loss, compute_latents, trace_assignments


@pytest.mark.parametrize("solver", SOLVERS)
def test_targets_select_from_the_full_trace(solver):
    pool, latents, targets = randn(7, 4), randn(5, 4, seed=1), torch.tensor([0, 6, 3, 3, 1])
    points, log_probs = trace_assignments(latents, pool, solver=solver, num_steps=9)
    own_points, own = trace_assignments(latents, pool, targets, solver=solver, num_steps=9)
    assert log_probs.shape == (9, 5, 7) and own.shape == (9, 5)
    torch.testing.assert_close(
        own, log_probs.gather(2, targets.expand(9, -1)[..., None]).squeeze(-1), rtol=1e-7, atol=1e-8
    )
    torch.testing.assert_close(own_points, points, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(9, 5, dtype=torch.float64))


# What the flow must hold, whatever the solver.


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_latents_of_a_full_pool_are_standard_normal(scale):
    """64 anchors, 600 noises each: means of 38,400 normal samples have a standard error of 0.005."""
    pool = scale * randn(64, 8, dtype=torch.float32)
    anchors = pool.repeat(600, 1)
    latents = compute_latents(anchors, randn(len(anchors), 8, seed=1, dtype=torch.float32), pool)
    assert latents.mean(0).abs().max() < 0.025
    assert (latents.T.cov() - torch.eye(8)).abs().max() < 0.04


def test_zones_have_the_mass_of_their_weights():
    pool, latents = randn(4, 6), randn(20000, 6, seed=1)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    for log_weights, want in ((None, torch.full((4,), 0.25, dtype=torch.float64)), (weights.log(), weights)):
        _, log_probs = trace_assignments(latents, pool, log_weights=log_weights, num_steps=40)
        mass = log_probs[-1].argmax(-1).bincount(minlength=4) / len(latents)
        assert (mass - want).abs().max() < 0.015  # three standard errors are 0.010


@pytest.mark.parametrize("solver", SOLVERS)
def test_permutation_of_the_pool_changes_nothing(solver):
    pool, noise, order = (
        randn(9, 5),
        randn(4, 5, seed=1),
        torch.randperm(9, generator=torch.Generator().manual_seed(0)),
    )
    a = compute_latents(pool[:4], noise, pool, solver=solver)
    torch.testing.assert_close(compute_latents(pool[:4], noise, pool[order], solver=solver), a)
    _, b = trace_assignments(noise, pool, solver=solver)
    torch.testing.assert_close(
        trace_assignments(noise, pool[order], solver=solver)[1], b[..., order], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_zero_weight_anchor_is_as_if_removed(solver):
    pool, noise = randn(6, 5), randn(3, 5, seed=1)
    pool[5] = pool[
        0
    ]  # on top of another one: the nearest anchor has weight zero, where dividing by a sum of weights gives 0 / 0
    log_weights = torch.tensor([0.1, 0.0, -1.0, 0.2, 0.0, -math.inf], dtype=torch.float64)
    got = compute_latents(pool[:3], noise, pool, log_weights=log_weights, solver=solver)
    torch.testing.assert_close(
        got, compute_latents(pool[:3], noise, pool[:5], log_weights=log_weights[:5], solver=solver)
    )
    points, log_probs = trace_assignments(noise, pool, log_weights=log_weights, solver=solver)
    want_points, want = trace_assignments(noise, pool[:5], log_weights=log_weights[:5], solver=solver)
    torch.testing.assert_close(points, want_points, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(log_probs[..., :5], want, rtol=1e-7, atol=1e-7)
    assert (log_probs[..., 5] == -math.inf).all()


@pytest.mark.parametrize("solver", ["adams", "euler"])
def test_one_anchor_gives_the_noise_itself(solver):
    anchor, noise = randn(1, 5), randn(1, 5, seed=1)
    torch.testing.assert_close(compute_latents(anchor, noise, solver=solver), noise)
    torch.testing.assert_close(compute_latents(anchor.expand(3, -1), randn(3, 5), solver=solver), randn(3, 5))
    removed = torch.full((2,), -math.inf, dtype=torch.float64)
    got = compute_latents(anchor, noise, randn(2, 5, seed=2), log_weights=removed, include_own=True, solver=solver)
    torch.testing.assert_close(got, noise)


@pytest.mark.parametrize(
    ("solver", "steps", "tolerance"), [("adams", 40, 1e-5), ("dpmsolver++", 100, 1e-2), ("euler", 800, 1e-9)]
)
def test_encode_then_decode_returns_to_the_own_anchor(solver, steps, tolerance):
    """To the anchor itself, and for dpmsolver++ to `1e-3 noise + (1 - 1e-3) anchor`, where the published grid ends."""
    pool = 2 * randn(20, 10)
    latents = compute_latents(pool, randn(20, 10, seed=1), solver=solver, num_steps=steps)
    points, log_probs = trace_assignments(latents, pool, torch.arange(20), solver=solver, num_steps=steps)
    assert log_probs[-1].exp().min() > 1 - 1e-5
    torch.testing.assert_close(points, pool, rtol=0, atol=tolerance)


def test_own_anchor_beside_a_pool_that_holds_it_is_one_zone_of_double_weight():
    pool, noise = randn(12, 6), randn(12, 6, seed=1)
    for b in (0, 7):
        log_weights = torch.zeros(12, dtype=torch.float64)
        log_weights[b] = math.log(2)
        want = compute_latents(pool[b : b + 1], noise[:1], pool, log_weights=log_weights)
        got = compute_latents(pool[b : b + 1], noise[:1], pool, include_own=True)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_do_not_depend_on_other_rows(solver):
    pool, anchors, noise = (randn(n, 16, seed=s, dtype=torch.float32) for n, s in ((50, 0), (8, 1), (8, 2)))
    full = compute_latents(anchors, noise, pool, include_own=True, solver=solver)
    others = anchors.clone()
    others[1:] = randn(7, 16, seed=5, dtype=torch.float32)
    assert torch.equal(compute_latents(others, noise, pool, include_own=True, solver=solver)[0], full[0])
    alone = compute_latents(anchors[:1], noise[:1], pool, include_own=True, solver=solver)
    torch.testing.assert_close(alone[0], full[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("solver", "steps"), [("adams", 80), ("dpmsolver++", 300), ("euler", 4000)])
def test_a_trace_that_ends_early_is_the_first_part_of_the_flow(solver, steps):
    """Ended at t = 0.4 all solvers meet: at the state x_t there (dpmsolver++) or at the expected anchor there (the others)."""
    pool, latents = randn(12, 5), randn(6, 5, seed=1)
    points, log_probs = trace_assignments(latents, pool, solver=solver, num_steps=steps, end=0.4)
    s, y = 0.0, latents  # Runge-Kutta in s, up to s = 0.4 / 0.6

    def expected(y, s):
        return (s * y @ pool.T - s * s * pool.square().sum(1) / 2).softmax(-1) @ pool

    for _ in range(200):
        h = 0.4 / 0.6 / 200
        a = expected(y, s)
        b = expected(y + h / 2 * a, s + h / 2)
        c = expected(y + h / 2 * b, s + h / 2)
        y, s = y + h / 6 * (a + 2 * b + 2 * c + expected(y + h * c, s + h)), s + h
    want = 0.6 * y if solver == "dpmsolver++" else expected(y, s)
    torch.testing.assert_close(points, want, rtol=0, atol=5e-3)
    logits = s * y @ pool.T - s * s * pool.square().sum(1) / 2
    torch.testing.assert_close(log_probs[-1], logits.log_softmax(-1), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_scale_of_anchors_matters_to_a_trace_that_ends_early(solver):
    """All the way, the exact flow of anchors of any scale is the same; up to t = 0.5, small anchors cannot be told apart."""
    pool, latents = randn(12, 5), randn(6, 5, seed=1)
    small = trace_assignments(latents, 1e-3 * pool, solver=solver, end=0.5)[1][-1]
    torch.testing.assert_close(small, torch.full_like(small, -math.log(12)), rtol=0, atol=0.01)
    if solver == "adams":
        want, got = (trace_assignments(latents, scale * pool, solver=solver)[1] for scale in (1.0, 1e-3))
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


# Alignment loss.


def test_alignment_loss_against_a_loop():
    log_probs = randn(10, 4) - 3
    for cutoff, first in ((0.0, 0), (0.2, 2), (0.75, 7), (0.99, 9)):
        best = [max(log_probs[k, b].item() for k in range(first, 10)) for b in range(4)]
        torch.testing.assert_close(alignment_loss(log_probs, cutoff).item(), -sum(map(math.exp, best)) / 4)
        torch.testing.assert_close(alignment_loss(log_probs, cutoff, "log_prob").item(), -sum(best) / 4)
        late = [log_probs[k, b].item() for k in range(first, 10) for b in range(4)]
        torch.testing.assert_close(alignment_loss(log_probs, cutoff, "mean_log_prob").item(), -sum(late) / len(late))


def test_alignment_loss_is_finite_for_impossible_targets():
    log_probs = torch.full((5, 3), -1000.0, requires_grad=True)
    loss = alignment_loss(log_probs, reduction="log_prob")
    loss.backward()
    assert loss.item() == 1000 and torch.isfinite(log_probs.grad).all()


# Errors.


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("anchors", {"anchors": torch.zeros(3)}),
        ("anchors", {"anchors": torch.zeros(3, 2, dtype=torch.int64)}),
        ("anchors", {"anchors": torch.zeros(0, 2)}),
        ("noise", {"noise": torch.zeros(2, 2)}),
        ("noise", {"noise": torch.zeros(3, 5)}),
        ("pool", {"pool": torch.zeros(4, 3)}),
        ("pool", {"include_own": True}),
        ("log_weights", {"log_weights": torch.zeros(4)}),
        ("log_weights", {"log_weights": torch.full((3,), -math.inf)}),
        ("solver", {"solver": "heun"}),
        ("num_steps", {"num_steps": 0}),
    ],
)
def test_compute_latents_names_what_is_wrong(match, arguments):
    with pytest.raises(ValueError, match=f"`{match}"):
        compute_latents(**{"anchors": torch.zeros(3, 2), "noise": torch.zeros(3, 2), **arguments})


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("latents", {"latents": torch.zeros(3)}),
        ("pool", {"pool": torch.zeros(4, 3)}),
        ("targets", {"targets": torch.zeros(4, dtype=torch.int64)}),
        ("targets", {"targets": torch.zeros(3)}),
        ("log_weights", {"log_weights": torch.full((4,), -math.inf)}),
        ("solver", {"solver": "rk4"}),
        ("num_steps", {"num_steps": 0}),
        ("end", {"end": 0.0}),
        ("end", {"end": 1.1}),
    ],
)
def test_trace_assignments_names_what_is_wrong(match, arguments):
    with pytest.raises(ValueError, match=f"`{match}"):
        trace_assignments(**{"latents": torch.zeros(3, 2), "pool": torch.zeros(4, 2), **arguments})


def test_alignment_loss_names_what_is_wrong():
    with pytest.raises(ValueError, match="`log_probs`.*targets"):
        alignment_loss(torch.zeros(3, 2, 5))
    with pytest.raises(ValueError, match="`step_cutoff`"):
        alignment_loss(torch.zeros(3, 2), step_cutoff=1.0)
    with pytest.raises(ValueError, match="`reduction`"):
        alignment_loss(torch.zeros(3, 2), reduction="sum")
