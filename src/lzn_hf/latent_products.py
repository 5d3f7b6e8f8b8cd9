# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The products of the latent flow in float32, for devices where float64 is slow, to almost the accuracy of float64.

Late in the flow `u.(a_i - r)` and `sum_i p_i (a_i - r)` are small differences of products of size |u| |a| and |a|, which float32 rounds by
more than what counts where anchors almost coincide. So numbers are cut into slices, in units of powers of two: the first two have 8 bits,

    a = a1 + a2 + a3,    |a1| <= 1,    |a2| <= 2^-8,    |a3| <= 2^-16,        a1 in units of 2^-7, a2 of 2^-15, a3 what is left,

and likewise u, while `p = p1 + p2` with p1 in units of 2^-16. Sums of products of such slices are whole numbers below 2^24, which float32
holds: `u1.a1`, `u1.a2 + u2.a1` (up to 512 dimensions in the worst case, thousands for numbers of both signs), `p1 a1` and `p1 a2` have
no error, and their differences from the same sums with r have none. The rest is smaller by 2^-16, and so is its rounding: 2^-40 in
all. (The scheme of Ozaki et al., Numerical Algorithms 59, 2012, with the tail left in one piece.)

Together these are 10 products in float32 in place of 2 in float64. The precision of the results is then that of float32 numbers of the size
of the differences, which is what the flow needs: latents are within 1e-6 of those in float64, also where anchors nearly coincide.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


SLICE_BITS = 7  # and a sign
ROUNDER = 1.5 * 2**7  # numbers in [128, 256) are multiples of 2^-16
# Compute capabilities of CUDA devices that have at least a quarter as many units for float64 as for float32.
FAST_FLOAT64 = ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))


class SlicedPool(NamedTuple):
    """A pool of N anchors about its middle, divided by a power of two and cut into slices."""

    slices: Tensor  # (N, 3 D): a1, a2, a3
    whole: Tensor  # (N, D)
    middle: Tensor  # (1, D), in the precision of the pool
    scale: Tensor  # scalar

    @staticmethod
    def of(*tensors: Tensor | None) -> SlicedPool | None:
        """The pool of these tensors, or none if they are none."""
        given = [x for x in tensors if x is not None]
        return SlicedPool(*given) if given else None


def has_fast_float64(device: torch.device) -> bool:
    """Whether products in float64 are worth their time on a device: not on most graphics cards, and there is none on MPS."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return capability[0] == 9 if torch.version.hip else capability in FAST_FLOAT64  # AMD: the Instinct cards, gfx9
    return device.type != "mps"


def slice_pool(pool: Tensor) -> SlicedPool:
    """Cuts anchors (N, D), of float64 where there is one, into slices."""
    middle = pool.mean(0, keepdim=True)
    centred = pool - middle
    scale = _power_of_two(centred.abs().amax())
    slices = _cut(centred / scale)
    return SlicedPool(torch.cat(slices, dim=1), (centred / scale).float(), middle, scale)


def displaced_products(u: Tensor, reference: Tensor, pool: SlicedPool) -> Tensor:
    """`u_b.(a_i - r_b)` of rows u (B, D) with references r (1 | B, D): (B, N) in float32."""
    dim = u.shape[1]
    scale = _power_of_two(u.abs().amax(1, keepdim=True))
    u1, u2, u3 = _cut(u / scale)
    r = torch.cat(_cut((reference - pool.middle) / pool.scale), dim=1)
    products = torch.zeros((), dtype=torch.float32, device=u.device)
    # u1.a1, then u2.a1 + u1.a2, then u3.a1 + (u2 + u3).a2 + u.a3, each less the same of r.
    for parts in ([u1], [u2, u1], [u3, u2 + u3, (u / scale).float()]):
        left, width = torch.cat(parts, dim=1), len(parts) * dim
        part = left @ pool.slices[:, :width].T
        part -= (left * r[:, :width]).sum(1, keepdim=True)
        products = part.add_(products)
    return products.mul_((scale * pool.scale).float())


def displaced_mean(p: Tensor, total: Tensor, reference: Tensor, pool: SlicedPool) -> Tensor:
    """`sum_i p_bi (a_i - r_b) / total_b` of p (B, N) in float32, at most its totals (B, 1): (B, D)."""
    p = p / total
    p1 = (p + ROUNDER).sub_(ROUNDER)
    p2 = p.sub_(p1)
    r = (reference - pool.middle) / pool.scale
    exact = p1 @ pool.slices - p1.sum(1, keepdim=True) * torch.cat(_cut(r), dim=1)
    rest = p2 @ pool.whole - p2.sum(1, keepdim=True) * r.float()
    a1, a2, a3 = exact.to(reference.dtype).chunk(3, dim=1)
    return (a1 + a2 + a3 + rest) * pool.scale


def _cut(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x in [-1, 1] as two slices and what is left, in float32."""
    slices = []
    for bits in (SLICE_BITS, 2 * SLICE_BITS + 1):
        part = (x * 2**bits).round() * 2.0**-bits
        slices.append(part.float())
        x = x - part
    return slices[0], slices[1], x.float()


def _power_of_two(x: Tensor) -> Tensor:
    """The power of two in (x, 2 x] of x >= 0; 2 for 0. By its bits: no function of a device is in the way of exactness."""
    integers, exponent = (torch.int64, 0x7FF << 52) if x.dtype == torch.float64 else (torch.int32, 0xFF << 23)
    return (torch.where(x > 0, x, 1.0).view(integers) & exponent).view(x.dtype) * 2
