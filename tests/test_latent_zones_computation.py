# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""latent_zones: how it computes: memory, precision, rows in parts, speed of its products, and compilation."""

import math

import pytest
import torch
from helpers.latent_flow import randn
from torch.utils._python_dispatch import TorchDispatchMode

from lzn_hf import latent_pairs, latent_zones
from lzn_hf.latent_zones import SOLVERS, compute_latents, trace_assignments


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
