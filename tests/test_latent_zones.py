# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""latent_zones against loops over the published formulas, published numbers, and what the flow must hold by construction.

`golden/latent_flow.safetensors` is a subset of numbers produced by running the published implementation in float64 on random
anchors ("n32": 32 anchors in 16 dimensions; "dup32": some anchors doubled at distance 1e-2). Its time runs from the anchor (0) to the
noise (1). `rev` runs start at `rev_init`, `rev_w` runs weight the anchors by `rev_weights`.
"""

import itertools
import math

import pytest
import torch
from helpers import GOLDEN_DIR
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from lzn_hf import latent_pairs, latent_schedules, latent_zones
from lzn_hf.latent_kernel import Flow
from lzn_hf.latent_zones import SOLVERS, alignment_loss, compute_latents, trace_assignments


GOLDEN = load_file(GOLDEN_DIR / "latent_flow.safetensors")
PUBLISHED = [("euler", "euler", 20), ("dpmsolver++", "dpm", 20), ("dpmsolver++", "dpm", 8)]


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def published_velocity(x, tau, anchors, weights):
    """v(x, tau) for one point in the published time (tau = 0 anchor, 1 noise), by loops: e_i = (x - (1 - tau) a_i) / tau."""
    residuals = [(x - (1 - tau) * a) / tau for a in anchors]
    logs = [-0.5 * sum(c.item() ** 2 for c in e) for e in residuals]
    # The published code takes the maximum before the weights, and divides 0 by 0 beside an anchor of weight zero.
    largest = max(value for value, w in zip(logs, weights, strict=True) if w > 0)
    p = [w * math.exp(value - largest) if w > 0 else 0.0 for value, w in zip(logs, weights, strict=True)]
    return sum(p_i * (e - a) for p_i, e, a in zip(p, residuals, anchors, strict=True)) / sum(p), [
        p_i / sum(p) for p_i in p
    ]


def loop_encode(anchor, noise, pool, weights, steps):
    """Published Euler encoding of one row."""
    eps = 1e-4
    x, size = eps * noise + (1 - eps) * anchor, (1 - eps) / steps
    for k in range(steps):
        velocity, _ = published_velocity(x, eps + k * size, pool, weights)
        x = x + size * velocity
    return x


def loop_decode(latent, pool, weights, steps, end=1.0):
    """Published Euler decoding of one row: final point and normalised probabilities. (Published: end = 1.)"""
    x, trace = latent, []
    for k in range(steps):
        velocity, p = published_velocity(x, 1 - end * k / steps, pool, weights)
        x = x - end * velocity / steps
        trace.append(p)
    return x, torch.tensor(trace, dtype=torch.float64)


@pytest.mark.parametrize("weighted", [False, True])
def test_euler_equals_a_loop_over_the_published_formula(weighted):
    pool, noise, latents = randn(5, 3), randn(5, 3, seed=1), randn(4, 3, seed=2)
    weights = (
        torch.tensor([0.3, 1.0, 0.0, 2.0, 0.7], dtype=torch.float64)
        if weighted
        else torch.ones(5, dtype=torch.float64)
    )
    log_weights = weights.log() if weighted else None

    got = compute_latents(pool, noise, log_weights=log_weights, solver="euler", num_steps=6)
    want = torch.stack([loop_encode(a, n, pool, weights.tolist(), 6) for a, n in zip(pool, noise, strict=True)])
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)

    points, log_probs = trace_assignments(latents, pool, log_weights=log_weights, solver="euler", num_steps=6)
    loops = [loop_decode(z, pool, weights.tolist(), 6) for z in latents]
    torch.testing.assert_close(points, torch.stack([x for x, _ in loops]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_probs.exp(), torch.stack([p for _, p in loops], dim=1), rtol=1e-9, atol=1e-9)


def test_own_anchor_equals_a_loop_with_a_pool_for_each_row():
    anchors, noise, pool = randn(3, 4), randn(3, 4, seed=1), randn(6, 4, seed=2)
    log_weights = randn(6, seed=3)
    got = compute_latents(anchors, noise, pool, log_weights=log_weights, include_own=True, solver="euler", num_steps=7)
    for b in range(3):
        row_pool = torch.cat([anchors[b : b + 1], pool])
        want = loop_encode(anchors[b], noise[b], row_pool, [1.0, *log_weights.exp().tolist()], 7)
        torch.testing.assert_close(got[b], want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dataset", ["n32", "dup32"])
@pytest.mark.parametrize(("solver", "name", "steps"), PUBLISHED)
def test_published_solvers_reproduce_published_numbers(dataset, solver, name, steps):
    prefix = f"{dataset}/f64/{name}"
    anchors = GOLDEN[f"{dataset}/anchors"].clone().requires_grad_()
    latents = compute_latents(anchors, GOLDEN[f"{dataset}/prior"], solver=solver, num_steps=steps)
    (grad,) = torch.autograd.grad((latents * GOLDEN[f"{dataset}/cotangent"]).sum(), anchors)
    torch.testing.assert_close(latents, GOLDEN[f"{prefix}/fwd{steps}/out"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(grad, GOLDEN[f"{prefix}/fwd{steps}/grad"], rtol=1e-9, atol=1e-9)
    for run, log_weights in (("rev", None), ("rev_w", GOLDEN[f"{dataset}/rev_weights"].log())):
        points, log_probs = trace_assignments(
            GOLDEN[f"{dataset}/rev_init"], anchors.detach(), log_weights=log_weights, solver=solver, num_steps=steps
        )
        torch.testing.assert_close(points, GOLDEN[f"{prefix}/{run}{steps}/final"], rtol=1e-9, atol=1e-9)
        want = GOLDEN[f"{prefix}/{run}{steps}/pdfs_norm"]  # of the first two rows
        torch.testing.assert_close(log_probs.exp()[:, :2], want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dataset", ["n32", "dup32"])
@pytest.mark.parametrize(("solver", "name", "steps"), PUBLISHED)
def test_float32_stays_close_to_the_float64_numbers(dataset, solver, name, steps):
    """The published float32 runs are 3e-4 to 1e-3 away from float64; the displacement form is within 5e-6 here."""
    anchors, noise = GOLDEN[f"{dataset}/anchors"].float(), GOLDEN[f"{dataset}/prior"].float()
    latents = compute_latents(anchors, noise, solver=solver, num_steps=steps)
    assert latents.dtype == torch.float32
    assert (latents.double() - GOLDEN[f"{dataset}/f64/{name}/fwd{steps}/out"]).abs().max() < 2e-5


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


# Solvers.


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
            flow = Flow(anchors, pool, squared, log_weights, include_own, False, torch.float64)
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


@pytest.mark.parametrize("include_own", [False, True])
@pytest.mark.parametrize("kept", [0, 2**23])
def test_nothing_of_the_size_of_all_pairs_times_dimensions_is_kept(monkeypatch, include_own, kept):
    rows, n, d = 24, 40, 16
    anchors, noise, pool = (
        randn(rows, d).requires_grad_(),
        randn(rows, d, seed=1),
        randn(n, d, seed=2).requires_grad_(),
    )
    monkeypatch.setattr(latent_zones, "MAX_KEPT", kept)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        latents = compute_latents(anchors, noise, pool, include_own=include_own)
        trace_assignments(latents, pool, torch.arange(rows))
    assert len(saved) > 40 and max(x.numel() for x in saved) <= rows * (n + 1)
    pairs = {x.untyped_storage().data_ptr() for x in saved if x.shape == (rows, n)}
    assert len(pairs) == (2 if kept == 0 else 42)  # the squared distances of both; and 20 steps of each


def test_computes_in_float32_whatever_autocast_says():
    pool, noise = randn(16, 8, dtype=torch.float32), randn(16, 8, seed=1, dtype=torch.float32)
    want = compute_latents(pool, noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = compute_latents(pool, noise)
        points, log_probs = trace_assignments(noise, pool)
    assert torch.equal(got, want)
    assert points.dtype == log_probs.dtype == torch.float32
    assert compute_latents(pool.bfloat16(), noise.bfloat16()).dtype == torch.float32
    assert compute_latents(pool.double(), noise).dtype == torch.float64


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


def test_one_step_is_enough_for_every_solver():
    for solver in SOLVERS:
        latents = compute_latents(randn(4, 3), randn(4, 3, seed=1), solver=solver, num_steps=1)
        assert torch.isfinite(latents).all()
        assert trace_assignments(latents, randn(4, 3), solver=solver, num_steps=1)[1].shape == (1, 4, 4)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("known", [False, True])
def test_many_rows_are_taken_in_parts(monkeypatch, solver, known):
    """Values and gradients do not depend on how many rows are looked at at once, nor on whether probabilities are kept."""

    def run():
        pool, noise = randn(9, 4).requires_grad_(), randn(9, 4, seed=1).requires_grad_()
        latents = compute_latents(pool, noise, solver=solver, num_steps=6)
        targets = torch.arange(9) if known else None
        points, log_probs = trace_assignments(latents, pool, targets, solver=solver, num_steps=6)
        (points.square().sum() + log_probs[2:].exp().square().sum()).backward()
        return latents.detach(), points.detach(), log_probs.detach(), pool.grad, noise.grad

    whole = run()
    parts = []
    encode = latent_zones._encode
    monkeypatch.setattr(latent_zones, "MAX_KEPT", 0)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    for module in (latent_zones, latent_pairs):
        monkeypatch.setattr(module, "MAX_PAIRS", 4 * 9)
    monkeypatch.setattr(latent_zones, "_encode", lambda a, u, **k: parts.append(len(a)) or encode(a, u, **k))
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    assert parts[:3] == [4, 4, 1]


class Denormals(TorchDispatchMode):
    """Counts the results of operations that hold numbers too small for their normal form."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(x, torch.Tensor) and x.is_floating_point() and x.ndim == 2:
                self.count += ((x != 0) & (x.abs() < torch.finfo(x.dtype).tiny)).any().item()
        return result


@pytest.mark.parametrize("solver", ["euler", "dpmsolver++"])
@pytest.mark.parametrize("include_own", [False, True])
def test_improbable_anchors_do_not_slow_down_the_products(solver, include_own):
    """A processor takes up to fifty times as long for denormal numbers, as exponentials of -708 to -745 are."""
    pool, noise = randn(200, 50).requires_grad_(), randn(40, 50, seed=1).requires_grad_()
    with Denormals() as seen:
        latents = compute_latents(pool[:40], noise, pool, include_own=include_own, solver=solver)
        points, log_probs = trace_assignments(latents, pool, torch.arange(1, 41), solver=solver)
        (points.square().sum() + log_probs[:10].sum()).backward()
    assert seen.count == 0


@pytest.mark.parametrize("solver", ["adams", "dpmsolver++"])
def test_compiles_to_one_graph(solver):
    def run(pool, noise, log_weights):
        options = {"log_weights": log_weights, "solver": solver, "num_steps": 3}
        latents = compute_latents(pool, noise, **options)
        return latents, *trace_assignments(latents, pool, torch.arange(8), **options)

    results = []
    for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        inputs = [randn(8, 3), randn(8, 3, seed=1), randn(8, seed=2)]
        inputs[0][7] = inputs[0][0] + 0.01  # an isolated pair
        inputs[2][3] = -math.inf
        outputs = function(*(x.requires_grad_() for x in inputs))
        sum(x.clamp(min=-9).square().sum() for x in outputs).backward()
        results.append([*outputs, *(x.grad for x in inputs)])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-7, atol=1e-9)
