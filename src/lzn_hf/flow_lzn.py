# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Solvers of the image flow between noise (t = 0) and images (t = 1), of torch alone: remote code has no diffusers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Real

import torch
from torch import Tensor

from .checks_lzn import check_at_least, shown
from .rk45_lzn import integrate_rk45


# Solvers by name; they integrate in both directions.
FLOW_SOLVERS = ("euler", "heun", "rk45")
# `(x, t)` to the velocity data - noise, of the shape of x. For "rk45" `(x, t, rows)`, see [`integrate_rk45`].
VelocityFn = Callable[..., Tensor]
# Called with the time and the samples at the start of an integration and after each of its steps. After a step, it may return other
# samples to go on from; the same ones if it has written to them.
OnStep = Callable[[float, Tensor], Tensor | None]


def check_steps(num_inference_steps: int, t_min: float) -> None:
    """Raises a `ValueError` unless there is at least one step and `t_min` is a time in [0, 1)."""
    check_at_least(1, num_inference_steps=num_inference_steps)
    if not isinstance(t_min, Real) or isinstance(t_min, bool) or not 0 <= t_min < 1:
        raise ValueError(f"`t_min` must be a number of at least 0 and less than 1, got {shown(t_min)}.")


def integrate_flow(
    velocity_fn: VelocityFn,
    sample: Tensor,
    solver: str,
    num_inference_steps: int,
    t_start: float,
    t_end: float,
    on_step: OnStep | None = None,
) -> Tensor:
    """Integrates `d sample / dt = velocity_fn(sample, t)` from `t_start` to `t_end` by a named solver.

    Args:
        velocity_fn (`VelocityFn`): the velocity.
        sample (`Tensor` of shape `(B, ...)`): the samples at `t_start`.
        solver (`str`): one of `FLOW_SOLVERS`.
        num_inference_steps (`int`): number of uniform steps; ignored by `"rk45"`, which chooses its own.
        t_start, t_end (`float`): times, in either order.
        on_step (`OnStep`, *optional*): called at the start and after each step; by `"rk45"` at the start alone.

    Returns:
        `Tensor` of shape `(B, ...)`: the samples at `t_end`.
    """
    if solver == "rk45":
        if on_step is not None:
            on_step(t_start, sample)
        return integrate_rk45(velocity_fn, sample, t_start, t_end)[0]
    times = torch.linspace(t_start, t_end, num_inference_steps + 1, dtype=torch.float64).tolist()
    return integrate_velocity(velocity_fn, sample, times, solver, on_step)


def integrate_velocity(
    velocity_fn: VelocityFn,
    sample: Tensor,
    times: Sequence[float],
    method: str = "heun",
    on_step: OnStep | None = None,
) -> Tensor:
    """Integrates `d sample / dt = velocity_fn(sample, t)` along `times`, which may rise (to data) or fall (to noise).

    Args:
        velocity_fn (`Callable`): `(sample, t)` to the velocity, of the shape of `sample`.
        sample (`Tensor` of shape `(B, ...)`): the samples at `times[0]`.
        times (sequence of `float`): at least two times.
        method (`str`, *optional*, defaults to `"heun"`): `"heun"` (order 2, two evaluations a step) or `"euler"` (order 1, one).
        on_step (`Callable`, *optional*): called with the time and the samples at each of `times`; after a step, it may return other
            samples to go on from.

    Returns:
        `Tensor` of shape `(B, ...)`: the samples at `times[-1]`.

    Raises:
        ValueError: for another method, and for fewer than two times.
    """
    if method not in ("heun", "euler"):
        raise ValueError(f"`method` must be 'heun' or 'euler', got {method!r}.")
    if len(times) < 2:
        raise ValueError(f"`times` must hold at least two times, got {len(times)}.")
    if on_step is not None:
        on_step(times[0], sample)
    for t, t_next in pairwise(times):
        step = t_next - t
        velocity = velocity_fn(sample, t)
        if method == "heun":
            velocity = (velocity + velocity_fn(sample + step * velocity, t_next)) / 2
        sample = sample + step * velocity
        if on_step is not None and (changed := on_step(t_next, sample)) is not None:
            sample = changed
    return sample


__all__ = [
    "FLOW_SOLVERS",
    "OnStep",
    "VelocityFn",
    "check_steps",
    "integrate_flow",
    "integrate_velocity",
]
