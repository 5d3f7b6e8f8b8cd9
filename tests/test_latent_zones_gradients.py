# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""latent_zones: gradients of every solver, exact or as good as their precision, and finite."""

import pytest
import torch
from helpers.latent_flow import randn

from lzn_hf import latent_schedules, latent_zones
from lzn_hf.latent_kernel import Flow
from lzn_hf.latent_zones import SOLVERS, alignment_loss, compute_latents, trace_assignments


def test_integration_gradients_are_exact():
    """gradcheck of the integration on a fixed schedule (the Adams grid depends on the anchors, and is a constant in backward)."""
    anchors, noise, pool = randn(3, 2), randn(3, 2, seed=1), randn(4, 2, seed=2)
    log_weights = randn(4, seed=3)
    for inputs in (anchors, noise, pool, log_weights):
        inputs.requires_grad_()
    for include_own in (False, True):
        distance = latent_schedules.distances(anchors.detach(), pool.detach())
        typical = latent_schedules.typical_distance(distance, None)
        nearest = latent_schedules.nearest_distance(distance, typical, None)
        schedule = latent_schedules.adams_encode_schedule(
            distance, nearest, typical, 1e-3 * typical, None, include_own, 5
        )

        def run(anchors, noise, pool, log_weights, include_own=include_own, schedule=schedule):
            squared = latent_schedules.distances(anchors, pool).square()
            flow = Flow(anchors, pool, squared, log_weights, include_own, 0, torch.float64)
            return latent_zones._integrate(flow, noise, schedule)[:2]

        assert torch.autograd.gradcheck(run, (anchors, noise, pool, log_weights))


@pytest.mark.parametrize("solver", ["euler", "dpmsolver++"])
def test_gradients_of_the_published_solvers_are_exact(solver):
    anchors, noise, pool = (
        randn(3, 2).requires_grad_(),
        randn(3, 2, seed=1).requires_grad_(),
        randn(4, 2, seed=2).requires_grad_(),
    )
    for include_own in (False, True):
        assert torch.autograd.gradcheck(
            lambda a, n, p, own=include_own: compute_latents(a, n, p, include_own=own, solver=solver, num_steps=5),
            (anchors, noise, pool),
        )
    targets = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(
        lambda z, p: trace_assignments(z, p, targets, solver=solver, num_steps=5), (noise, pool)
    )


def test_gradients_of_the_default_solver_converge_to_those_of_the_flow():
    pool, noise, cotangent = randn(12, 6).requires_grad_(), randn(12, 6, seed=1), randn(12, 6, seed=2)

    def grad(**options):
        return torch.autograd.grad((compute_latents(pool, noise, **options) * cotangent).sum(), pool)[0]

    reference = grad(solver="euler", num_steps=1000)
    assert (grad(num_steps=20) - reference).norm() < 0.02 * reference.norm()


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-3, 10.0)])
@pytest.mark.parametrize("include_own", [False, True])
def test_gradients_of_float32_inputs_are_as_good_as_float32(scale, shift, include_own):
    """The products of backward are float32 then. Without a look from the middle of the pool they would be off by 1e-3 in the second case."""
    given = [scale * randn(40, 12) + shift, randn(16, 12, seed=1)]
    given = [x.float() for x in given]  # the same numbers in both
    grads = []
    for dtype in (torch.float32, torch.float64):
        pool, noise = (x.to(dtype, copy=True).requires_grad_() for x in given)
        latents = compute_latents(pool[:16], noise, pool, include_own=include_own)
        _, log_probs = trace_assignments(latents, pool, torch.arange(16))
        alignment_loss(log_probs, reduction="mean_log_prob").backward()
        grads.append([pool.grad.double(), noise.grad.double()])
    for got, want in zip(*grads, strict=True):
        assert (got - want).norm() < 2e-5 * want.norm()


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_are_finite_with_duplicates(solver):
    pool = randn(6, 4, dtype=torch.float32)
    pool[1] = pool[0]
    pool = pool.requires_grad_()
    latents = compute_latents(pool, randn(6, 4, seed=1, dtype=torch.float32), solver=solver)
    _, log_probs = trace_assignments(latents, pool, torch.arange(6), solver=solver)
    alignment_loss(log_probs, reduction="log_prob").backward()
    assert torch.isfinite(pool.grad).all() and pool.grad.abs().max() > 0
