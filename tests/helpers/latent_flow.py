# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The published latent flow in loops, one point at a time, for the tests of `latent_zones` and `losses_lzn`."""

import math

import torch


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
