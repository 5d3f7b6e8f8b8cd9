# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A flow with a known solution, for the tests of solvers."""

from __future__ import annotations

import torch


MEAN, STD = 0.3, 0.5


def gaussian_velocity(x: torch.Tensor, t: float) -> torch.Tensor:
    """E[data - noise | x_t = x] for data ~ N(MEAN, STD²): its flow takes noise e to MEAN + STD e."""
    variance = (t * STD) ** 2 + (1 - t) ** 2
    residual = (x - t * MEAN) / variance
    return MEAN + t * STD**2 * residual - (1 - t) * residual


def column(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One time for each sample, in a shape that multiplies x."""
    return t.view(-1, *[1] * (x.ndim - 1))
