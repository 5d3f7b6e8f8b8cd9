# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""latent_zones against loops over the published formulas, and published numbers.

`golden/latent_flow.safetensors` is a subset of numbers produced by running the published implementation in float64 on random
anchors ("n32": 32 anchors in 16 dimensions; "dup32": some anchors doubled at distance 1e-2). Its time runs from the anchor (0) to the
noise (1). `rev` runs start at `rev_init`, `rev_w` runs weight the anchors by `rev_weights`.
"""

import pytest
import torch
from helpers import GOLDEN_DIR
from helpers.latent_flow import loop_decode, loop_encode, randn
from safetensors.torch import load_file

from lzn_hf.latent_zones import compute_latents, trace_assignments


GOLDEN = load_file(GOLDEN_DIR / "latent_flow.safetensors")
PUBLISHED = [("euler", "euler", 20), ("dpmsolver++", "dpm", 20), ("dpmsolver++", "dpm", 8)]


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
