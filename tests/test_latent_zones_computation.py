# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""latent_zones: how it computes: memory, precision, rows in parts, speed of its products, and compilation."""

import math

import pytest
import torch
from helpers.latent_flow import randn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lzn_hf import latent_arrival, latent_kernel, latent_memory, latent_zones
from lzn_hf.latent_zones import SOLVERS, compute_latents, trace_assignments


@pytest.mark.parametrize("include_own", [False, True])
@pytest.mark.parametrize("kept", [0, 7, 20])
def test_nothing_of_the_size_of_all_pairs_times_dimensions_is_kept(monkeypatch, include_own, kept):
    rows, n, d = 24, 40, 16
    anchors, noise, pool = (
        randn(rows, d).requires_grad_(),
        randn(rows, d, seed=1),
        randn(n, d, seed=2).requires_grad_(),
    )
    monkeypatch.setattr(latent_memory, "MAX_KEPT", kept * rows * n + rows * n // 2)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        latents = compute_latents(anchors, noise, pool, include_own=include_own)
        trace_assignments(latents, pool, torch.arange(rows))
    assert len(saved) > 40 and max(x.numel() for x in saved) <= rows * (n + 1)
    pairs = {x.untyped_storage().data_ptr() for x in saved if x.shape == (rows, n)}
    assert (
        len(pairs) == 2 + 2 * kept
    )  # the squared distances of both, and as many of 20 steps of each as there is room for


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
    monkeypatch.setattr(latent_memory, "MAX_KEPT", 0)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(latent_memory, "MAX_PAIRS", 4 * 9)
    monkeypatch.setattr(latent_arrival, "PLANNED_PAIRS", 4 * 9)
    monkeypatch.setattr(latent_zones, "_encode", lambda a, u, **k: parts.append(len(a)) or encode(a, u, **k))
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    assert parts[:3] == [4, 4, 1]


@pytest.mark.parametrize("known", [False, True])
def test_one_more_row_than_fits_is_all_that_is_computed_again(monkeypatch, known):
    pool, noise, evaluations = randn(9, 4).requires_grad_(), randn(13, 4, seed=1), []
    monkeypatch.setattr(latent_memory, "MAX_PAIRS", 4 * 9)
    monkeypatch.setattr(latent_memory, "MAX_KEPT", 4 * 9)
    logits = latent_kernel._logits
    monkeypatch.setattr(latent_kernel, "_logits", lambda u, *rest: evaluations.append(len(u)) or logits(u, *rest))
    points, _ = trace_assignments(noise, pool, torch.arange(13) % 9 if known else None, num_steps=5)
    forward = len(evaluations)
    points.sum().backward()
    assert evaluations[:forward] == [4] * 15 + [1] * 5
    again = evaluations[forward:]  # the probabilities of all parts, and before them all of the last three
    assert again.count(4) == 15 + 10 and again.count(1) == 5 + 5
    monkeypatch.setattr(latent_memory, "MAX_KEPT", 2 * 4 * 9)  # room for two parts
    evaluations.clear()
    points, _ = trace_assignments(noise, pool, num_steps=5)
    points.sum().backward()
    assert evaluations[forward:].count(4) == 15 + 5 and evaluations[forward:].count(1) == 5 + 5


@pytest.mark.parametrize("end", [0.5, 1.0])
def test_a_trace_costs_no_more_than_its_rows(end):
    """In products, also against the published solver, for pools from the size of the sample on; and no matrix is larger than theirs."""

    def cost(n, solver):
        counted = FlopCounterMode(display=False)
        with counted, Largest() as seen, torch.no_grad():
            trace_assignments(randn(64, 8), randn(n, 8, seed=1), torch.arange(64), solver=solver, end=end)
        return counted.get_total_flops(), seen.numel

    (few, _), (many, largest) = (cost(n, "adams") for n in (1500, 3000))
    assert many < 2.03 * few and largest <= max(64, latent_arrival.SAMPLE) * 3000
    assert many < 1.15 * cost(3000, "euler")[0]


class Largest(TorchDispatchMode):
    """The number of elements of the largest result of an operation."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else (result,):
            self.numel = max(self.numel, x.numel() if isinstance(x, torch.Tensor) else 0)
        return result


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
