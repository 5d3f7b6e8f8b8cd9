# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Products of the flow in float32, by slices: against float64, of both the products and the flow. No GPU is needed: the device is a claim."""

import pytest
import torch
from helpers.latent_flow import randn

from lzn_hf import latent_products, latent_zones
from lzn_hf.latent_products import displaced_mean, displaced_products, has_fast_float64, slice_pool
from lzn_hf.latent_zones import SOLVERS, alignment_loss, compute_latents, trace_assignments


def doubled(n, d, distance, copies=1):
    """Normal anchors, a tenth of which has near-duplicates."""
    pool, size = randn(n, d), n // 10
    for k in range(copies):
        offset = torch.nn.functional.normalize(randn(size, d, seed=k + 1))
        pool[n - (k + 1) * size : n - k * size] = pool[:size] + distance * offset
    return pool


POOLS = {
    "normal": lambda: randn(300, 64),
    "small scale": lambda: 0.3 * randn(200, 200),
    "pairs at 1e-2": lambda: doubled(200, 24, 1e-2),
    "pairs at 1e-3": lambda: doubled(200, 24, 1e-3),
    "pairs at 1e-7": lambda: doubled(200, 24, 1e-7),
    "triples at 1e-2": lambda: doubled(200, 24, 1e-2, copies=2),
    "clusters": lambda: 5 * randn(10, 24).repeat(30, 1) + 0.02 * randn(300, 24, seed=1),
    "far from the origin": lambda: 1e-3 * randn(200, 24) + 10,
    "1024 dimensions": lambda: randn(100, 1024),
}


@pytest.fixture
def slow_float64(monkeypatch):
    monkeypatch.setattr(latent_zones, "has_fast_float64", lambda device: False)


@pytest.mark.parametrize("pool", POOLS)
def test_products_are_as_exact_as_their_differences(pool):
    pool = POOLS[pool]().float()
    u, rows = randn(40, pool.shape[1], seed=5), torch.arange(40)
    exact, reference = pool.double(), pool.double()[rows]
    differences = exact - reference[:, None]
    sliced = slice_pool(exact)
    want = torch.einsum("bd,bnd->bn", u, differences)
    size = u.norm(dim=1, keepdim=True) * (exact - exact.mean(0)).norm(dim=1).max()
    bound = 2.0**-22 * u.norm(dim=1, keepdim=True) * differences.norm(dim=2) + 2.0**-34 * size
    assert ((displaced_products(u, reference, sliced) - want).abs() <= bound).all()

    # Probabilities of which one or a few nearly have it all, and even ones.
    distance = differences.norm(dim=2)
    for s in (0.0, 1.0, 1e3):
        p = (-0.5 * (s * distance).square()).exp().float()
        total = p.sum(1, keepdim=True)
        q = p.double() / p.double().sum(1, keepdim=True)
        want = torch.einsum("bn,bnd->bd", q, differences)
        spread = (q * distance).sum(1, keepdim=True)
        assert (
            (displaced_mean(p, total, reference, sliced) - want).abs() <= 2.0**-21 * spread + 2.0**-34 * size
        ).all()


@pytest.mark.parametrize("include_own", [False, True])
@pytest.mark.parametrize("pool", POOLS)
def test_latents_are_those_of_float64(slow_float64, pool, include_own):
    pool = POOLS[pool]().float()
    rows = torch.cat([torch.arange(30), torch.arange(len(pool) - 30, len(pool))])
    noise, log_weights = randn(60, pool.shape[1], seed=5).float(), randn(len(pool), seed=6).float()
    options = {"log_weights": log_weights, "include_own": include_own}
    got = compute_latents(pool[rows], noise, pool, **options)
    want = compute_latents(pool[rows].double(), noise.double(), pool.double(), **options)
    assert got.dtype == torch.float32 and want.dtype == torch.float64
    assert (got - want).abs().max() < 1e-6


@pytest.mark.parametrize("pool", POOLS)
def test_traces_are_those_of_float64(slow_float64, pool):
    """Relative to the anchors. Rows on the border of two zones multiply the last digits: the root mean square is the bar."""
    pool = POOLS[pool]().float()
    rows = torch.cat([torch.arange(30), torch.arange(len(pool) - 30, len(pool))])
    noise = randn(60, pool.shape[1], seed=5).float()
    latents = compute_latents(pool[rows].double(), noise.double(), pool.double()).float()
    points, log_probs = trace_assignments(latents, pool, rows)
    want_points, want = trace_assignments(latents.double(), pool.double(), rows)
    assert (log_probs.double().exp() - want.exp()).square().mean().sqrt() < 1e-6
    assert (points - want_points).square().mean().sqrt() < 1e-6 * pool.std().clamp(min=1)


@pytest.mark.parametrize("kept", [0, 2**23])
def test_gradients_are_as_good_as_those_of_float32(slow_float64, monkeypatch, kept):
    monkeypatch.setattr("lzn_hf.latent_memory.MAX_KEPT", kept)
    given = [doubled(40, 12, 1e-2).float(), randn(16, 12, seed=1).float()]
    for include_own in (False, True):
        grads = []
        for dtype in (torch.float32, torch.float64):
            pool, noise = (x.to(dtype, copy=True).requires_grad_() for x in given)
            latents = compute_latents(pool[:16], noise, pool, include_own=include_own)
            _, log_probs = trace_assignments(latents, pool, torch.arange(16))
            alignment_loss(log_probs, reduction="mean_log_prob").backward()
            grads.append([pool.grad.double(), noise.grad.double()])
        for got, want in zip(*grads, strict=True):
            assert (got - want).norm() < 5e-5 * want.norm()  # 4e-5 with all but these products in float64


def test_what_stays_in_float64(monkeypatch, slow_float64):
    pool, noise = randn(12, 5).float(), randn(12, 5, seed=1).float()
    calls = []
    monkeypatch.setattr(latent_zones, "slice_pool", lambda x: calls.append(x) or slice_pool(x))
    for solver in SOLVERS:  # published numbers do not change, nor do results in float64
        compute_latents(pool.double(), noise, solver=solver)
        trace_assignments(noise, pool, solver=solver)
        if solver != "adams":
            trace_assignments(noise, pool, torch.arange(12), solver=solver)
    torch.set_float32_matmul_precision("high")
    try:
        compute_latents(pool, noise)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert not calls
    trace_assignments(compute_latents(pool, noise), pool, torch.arange(12))
    assert len(calls) == 2


def test_devices_with_slow_float64(monkeypatch):
    assert has_fast_float64(torch.device("cpu")) and not has_fast_float64(torch.device("mps"))
    for capability, nvidia, amd in (
        ((8, 0), True, False),
        ((8, 9), False, False),
        ((9, 0), True, True),
        ((10, 3), False, False),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, known=capability: known)
        for version, want in ((None, nvidia), ("7.0", amd)):
            monkeypatch.setattr(latent_products.torch.version, "hip", version)
            assert has_fast_float64(torch.device("cuda")) is want
