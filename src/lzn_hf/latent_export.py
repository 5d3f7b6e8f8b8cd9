# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the latent flow needs in order to leave PyTorch: sizes that stay open, and functions that ONNX has no operator for.

Outside `torch.export` and `torch.onnx.export` every function here is the PyTorch function of its name, to the last bit. ONNX has no
distance matrix, no median and no normal distribution, and onnxruntime has no hyperbolic functions in float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor


# `(1 + 2 z) erfcx(z)`, with erfcx(z) = exp(z^2) erfc(z), is smooth in `v = (z - 3) / (z + 3)`, which maps z >= 0 to [-1, 1). These are
# the coefficients of 1, v, v^2, ... of the polynomial that equals it at the 17 Chebyshev points: to 4e-12, relative.
ERFCX_COEFFICIENTS = (
    1.2530080582697,
    -0.13562110604545,
    -0.047562294343909,
    0.12964515488977,
    -0.11927366387305,
    0.068308081220076,
    -0.023770508397164,
    0.0025290477131389,
    0.0018886479396579,
    -0.0007786553542209,
    -0.00010501015992617,
    0.00012277867965637,
    4.6391466331906e-06,
    -1.7412224205307e-05,
    -3.4011378134376e-07,
    1.6946729136231e-06,
    5.5079929774135e-08,
)
ERFCX_CENTRE = 3.0
NEWTON_STEPS = 3  # of `ndtri`: to 2e-10
# Coordinates whose differences are held at once. A distance matrix in ONNX takes as many times its own size while it is computed.
DISTANCE_BLOCK = 16
BISECTIONS = 50
# In a graph every step is an operator: fewer of them, that look at more points each. The interval shrinks to 1e-9 of its width.
SEARCHES, SEARCH_POINTS = 5, 64


def is_exporting() -> bool:
    """Whether `torch.export` traces, for itself or for ONNX, in its default mode (`strict=False`)."""
    # torch.compiler.is_exporting() is younger than the oldest PyTorch that we take, and in 2.8 also true in torch.compile.
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def is_exporting_onnx() -> bool:
    """Whether `torch.onnx.export(..., dynamo=True)` traces."""
    return is_exporting() and torch.onnx.is_in_onnx_export()


def at_most(count: int, limit: int) -> bool:
    """Whether `count <= limit`; true in an export, where a comparison would bind the size of the batch."""
    return is_exporting() or count <= limit


def euclidean_distances(a: Tensor, b: Tensor) -> Tensor:
    """`torch.cdist(a, b)`, each distance of its own difference: `(A, D)`, `(B, D)` -> `(A, B)`."""
    if not is_exporting_onnx():
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    blocks = zip(a.split(DISTANCE_BLOCK, dim=1), b.split(DISTANCE_BLOCK, dim=1), strict=True)
    parts = [(x[:, None] - y).square().sum(-1) for x, y in blocks]
    return functools.reduce(torch.add, parts).sqrt()


def nanmedian(x: Tensor, dim: int) -> Tensor:
    """`x.nanmedian(dim, keepdim=True).values`: the lower of two middle values."""
    if not is_exporting_onnx():
        return x.nanmedian(dim, keepdim=True).values
    absent = x.isnan()
    count = (~absent).sum(dim, keepdim=True)
    in_order = x.masked_fill(absent, math.inf).sort(dim).values
    return in_order.gather(dim, (count - 1).clamp(min=0) // 2).masked_fill(count == 0, math.nan)


def sinh(x: Tensor) -> Tensor:
    """`torch.sinh(x)`; in ONNX with an absolute error of the rounding of 1 near 0."""
    return (x.exp() - (-x).exp()) / 2 if is_exporting_onnx() else torch.sinh(x)


def cosh(x: Tensor) -> Tensor:
    """`torch.cosh(x)`."""
    return (x.exp() + (-x).exp()) / 2 if is_exporting_onnx() else torch.cosh(x)


def asinh(x: Tensor) -> Tensor:
    """`torch.asinh(x)`; in ONNX for x >= 0."""
    return (x + (x.square() + 1).sqrt()).log() if is_exporting_onnx() else torch.asinh(x)


def ndtr(x: Tensor) -> Tensor:
    """`torch.special.ndtr(x)`, the normal distribution function."""
    return log_ndtr(x).exp() if is_exporting_onnx() else torch.special.ndtr(x)


def log_ndtr(x: Tensor) -> Tensor:
    """`torch.special.log_ndtr(x)`, its logarithm, with relative accuracy in the lower tail."""
    if not is_exporting_onnx():
        return torch.special.log_ndtr(x)
    z = x.abs() / math.sqrt(2)
    v = (z - ERFCX_CENTRE) / (z + ERFCX_CENTRE)
    powers = v[..., None] ** torch.arange(len(ERFCX_COEFFICIENTS), dtype=x.dtype, device=x.device)
    erfcx = powers @ torch.tensor(ERFCX_COEFFICIENTS, dtype=x.dtype, device=x.device) / (1 + 2 * z)
    log_tail = (erfcx / 2).log() - z.square()  # log Phi(-|x|)
    return torch.where(x > 0, (1 - log_tail.exp()).log(), log_tail)


def ndtri(p: Tensor) -> Tensor:
    """`torch.special.ndtri(p)`, the inverse of `ndtr`; in ONNX for p in [1e-12, 1 - 1e-12]."""
    if not is_exporting_onnx():
        return torch.special.ndtri(p)
    tail = torch.minimum(p, 1 - p)
    log_tail = tail.log()
    y = -(-math.pi / 2 * (4 * tail * (1 - tail)).log()).sqrt()  # to 0.003 in the middle, 0.6 at the ends
    for _ in range(NEWTON_STEPS):
        log_mass = log_ndtr(y)
        y = y - (log_mass - log_tail) * (log_mass + y.square() / 2).exp() * math.sqrt(2 * math.pi)
    return torch.where(p > 0.5, -y, y)


def find_zero(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The zero of an increasing function of each element between `low` and `high`, by halving the interval."""
    if is_exporting_onnx():
        fractions = torch.arange(SEARCH_POINTS, dtype=low.dtype, device=low.device)[:, None] / SEARCH_POINTS
        width = high - low
        for _ in range(SEARCHES):
            below = function(low + width * fractions) <= 0
            width = width / SEARCH_POINTS
            low = low + width * (below.sum(0) - 1).clamp(min=0)
        return low + width / 2
    high = high.clone()
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = function(middle) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2
