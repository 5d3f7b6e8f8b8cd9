# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Dormand and Prince's adaptive Runge-Kutta method, with steps of its own for each sample of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


# The embedded pair of orders 5 and 4 of Dormand and Prince (1980); Hairer, Nørsett, Wanner, Solving Ordinary Differential
# Equations I, table II.5.2. Slope i + 1 is taken at t + RK45_NODES[i] h, x + h sum_j RK45_STAGES[i][j] slope_j. The last of
# these points is the solution of order 5, so that its slope is also the first one of the next step.
RK45_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
RK45_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# The weights of the solution of order 5 less those of the solution of order 4.
RK45_ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def rk45_step(
    velocity_fn: Callable[[Tensor, Tensor], Tensor], sample: Tensor, slope: Tensor, t: Tensor, step: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Takes one step of Dormand and Prince's method of order 5.

    Args:
        velocity_fn (`Callable`): `(sample, t)` to the velocity; t is `(B,)`, of dtype and device of the sample.
        sample (`Tensor` of shape `(B, ...)`): the samples at t.
        slope (`Tensor` of shape `(B, ...)`): their velocities.
        t, step (`Tensor` of shape `(B,)`): times and signed step sizes, float64 on the CPU.

    Returns:
        `tuple[Tensor, list[Tensor]]`: the samples at t + step, and the seven velocities of the step. The last one is the velocity
        of these samples.
    """
    slopes = [slope]
    for node, weights in zip(RK45_NODES, RK45_STAGES, strict=True):
        point = _advance(sample, step, sum(weight * k for weight, k in zip(weights, slopes, strict=True)))
        slopes.append(velocity_fn(point, (t + node * step).to(sample)))
    return point, slopes


def integrate_rk45(
    velocity_fn: Callable[[Tensor, Tensor, Tensor], Tensor],
    sample: Tensor,
    t_start: float,
    t_end: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    r"""
    Integrates `d sample / dt = velocity_fn(sample, t, rows)` by Dormand and Prince's pair, each sample by steps of its own.

    With e the difference of the solutions of order 5 (x', which goes on) and 4 after a step of size h from x, a step counts if
    `E = rms(e / (atol + rtol max(|x|, |x'|))) < 1`, root mean square over the elements of one sample. Counted or not, the next
    step size is `h min(10, max(0.2, 0.9 E^(-1/5)))`, and no larger than h after a step that did not count (Hairer, Nørsett,
    Wanner, Solving Ordinary Differential Equations I, II.4). Every sample has its own time and step size, and those that have
    arrived are not evaluated any more, so a result does not depend on the other samples of the batch. (The published sampler has
    one error and one step size for a whole batch; that batch is one sample here, `sample[None]`.)

    Args:
        velocity_fn (`Callable`): `(x, t, rows)` to the velocity, of the shape of x, of the R samples that have not arrived:
            `x (R, ...)`, `t (R,)` of the dtype of x, and `rows (R,)` int64, their places in `sample`; all on its device.
        sample (`Tensor` of shape `(B, ...)`, float32 or float64): the samples at `t_start`. The state has its dtype; times and
            step sizes are float64 on the CPU.
        t_start, t_end (`float`): times, in either order.
        rtol, atol (`float`, *optional*, default to 1e-5): relative and absolute tolerance of the error of a step.

    Returns:
        `tuple[Tensor, Tensor]`: the samples `(B, ...)` at `t_end`, and the number of velocity evaluations of each, int64 `(B,)` on
        the CPU: 2 at the start and 6 in each step.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: if a step size gets too small to go on: the velocity is not finite, or too stiff.
    """
    if sample.ndim < 2 or sample.numel() == 0 or sample.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"`sample` must be float32 or float64 of shape (B, ...), not empty, got {sample.dtype} {tuple(sample.shape)}."
        )
    if not (math.isfinite(t_start) and math.isfinite(t_end)) or t_start == t_end:
        raise ValueError(f"`t_start` and `t_end` must be two different finite times, got {t_start} and {t_end}.")
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if not 0 < tolerance < math.inf:
            raise ValueError(f"`{name}` must be positive and finite, got {tolerance}.")

    def rms(values: Tensor) -> Tensor:  # to the CPU: the one synchronisation with the device in a step
        return values.flatten(1).square().mean(1).sqrt().cpu().double()

    direction = math.copysign(1, t_end - t_start)
    smallest = 10 * torch.finfo(sample.dtype).eps * max(abs(t_start), abs(t_end))
    x, t = sample.clone(), torch.full((len(sample),), t_start, dtype=torch.float64)
    everyone = torch.arange(len(x), device=x.device)
    slope = velocity_fn(x, t.to(x), everyone).clone()

    # 1. The first step: 1 % of the time in which the sample would change by its own size (h0), then by the second derivative.
    scale = atol + rtol * x.abs()
    size, speed = rms(x / scale), rms(slope / scale)
    h0 = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed).clamp(max=abs(t_end - t_start))
    probe = velocity_fn(_advance(x, direction * h0, slope), (t + direction * h0).to(x), everyone)
    steepest = torch.maximum(speed, rms((probe - slope) / scale) / h0)
    h1 = torch.where(steepest <= 1e-15, (1e-3 * h0).clamp(min=1e-6), (0.01 / steepest) ** (1 / 5))
    h = torch.minimum(100 * h0, h1).clamp(min=smallest)

    num_evaluations = torch.full((len(x),), 2)
    repeats = torch.zeros(len(x), dtype=torch.bool)
    while len(rows := (t != t_end).nonzero().squeeze(1)):
        # 2. A step of all samples that have not arrived.
        t_new = t[rows] + direction * h[rows]
        t_new[direction * (t_new - t_end) > 0] = t_end
        step, places = t_new - t[rows], rows.to(x.device)
        old = x[places]

        def velocity_of_rows(x: Tensor, t: Tensor, places: Tensor = places) -> Tensor:
            return velocity_fn(x, t, places)

        new, slopes = rk45_step(velocity_of_rows, old, slope[places], t[rows], step)
        num_evaluations[rows] += len(RK45_STAGES)

        # 3. Its error and the next step size. A step that meets NaN may have been too long.
        scale = atol + rtol * torch.maximum(old.abs(), new.abs())
        error = rms(sum(weight * k for weight, k in zip(RK45_ERROR, slopes, strict=True)) / scale) * step.abs()
        error = error.nan_to_num(nan=math.inf)
        accepted = error < 1
        factor = (0.9 * error ** (-1 / 5)).clamp(0.2, 10)
        h[rows] = step.abs() * torch.where(repeats[rows], factor.clamp(max=1), factor)
        repeats[rows] = ~accepted
        stuck = rows[~accepted & ~(h[rows] >= smallest)].tolist()
        if stuck:
            raise RuntimeError(
                f"step size underflow in samples {stuck} of the batch, the first at t = {t[stuck[0]].item():.6g}: the velocity "
                f"is not finite there, or too stiff for rtol = {rtol} and atol = {atol} in {x.dtype}."
            )
        h.clamp_(min=smallest)

        # 4. Those whose error is small enough move on.
        kept = accepted.nonzero().squeeze(1)
        t[rows[kept]] = t_new[kept]
        kept = kept.to(x.device)
        x[places[kept]], slope[places[kept]] = new[kept], slopes[-1][kept]
    return x, num_evaluations


def _advance(x: Tensor, step: Tensor, slope: Tensor | float) -> Tensor:
    """`x + step slope`, with one step, float64 on the CPU, for each sample."""
    return x + step.to(x).view(-1, *[1] * (x.ndim - 1)) * slope


__all__ = ["integrate_rk45", "rk45_step"]
