# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Latent zones: the closed-form flow between anchors and the Gaussian prior (arXiv 2509.15591).

With prior noise `n ~ N(0, I)`, weighted anchors `a_i` (weights `w_i`) and `x_t = t a + (1 - t) n`, put `s = t / (1 - t)`
and `y = x_t / (1 - t) = s a + n`. The rectified flow that carries the anchors to the prior and back is then

    dy/ds = E[a | y, s],        E[a | y, s] = softmax_i( s y.a_i - s^2 |a_i|^2 / 2 + log w_i ) @ a                (1)

Written around a reference point `r` (an anchor, or the centre of the pool) with `y = s r + u`, it becomes

    du/ds = E[a | y, s] - r,    logits_i = s u.(a_i - r) - s^2 |a_i - r|^2 / 2 + log w_i                          (2)

which is the form computed here: the distances do not depend on `s`, they are taken once and exactly, and nothing cancels when
anchors almost coincide. One evaluation of (2) is one attention over the pool, so no tensor of size B x N x D is ever made.

Conventions: `t = 0` (`s = 0`) is noise, `t = 1` (`s` infinite) is the anchor. B rows, N anchors in the pool, D latent
dimensions, S evaluations of the expected anchor. All functions are pure and differentiable in anchors, latents, noise and pool.

Precision: everything is computed in float64 (float32 on devices that lack it), whatever autocast says. Late in the flow logits are
small differences of products of size s |u| |a|, which float32 would round by up to 1e-3 where anchors almost coincide. Results are
float32, or float64 if an input is. The matrix products of the default solver's backward have the precision of the results; where float64
is slow, those of its forward are float32 in slices, see [`latent_products`], while torch.set_float32_matmul_precision is "highest".
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .latent_arrival import Arrival, adams_decode_plan, arrive
from .latent_kernel import Flow, expected_anchor
from .latent_memory import in_parts, kept_evaluations
from .latent_pairs import adams_encode_plan, approach_pairs
from .latent_products import SlicedPool, has_fast_float64, slice_pool
from .latent_schedules import DPM_EPS, Schedule, distances, published_schedule


SOLVERS = ("adams", "euler", "dpmsolver++")
REDUCTIONS = ("prob", "log_prob", "mean_log_prob")


def compute_latents(
    anchors: Tensor,
    noise: Tensor,
    pool: Tensor | None = None,
    *,
    log_weights: Tensor | None = None,
    include_own: bool = False,
    solver: str = "adams",
    num_steps: int = 20,
) -> Tensor:
    """Carries each row from its anchor to the prior, into the latent zone of that anchor: latent computation.

    Integrates (2) with `r = a_b` from `u = n` at large `s` down to `s = 0`, where `u` is the latent. If row b's anchor is drawn
    from the pool by its weights and its noise is standard normal, the latents are standard normal.

    Args:
        anchors (`Tensor` of shape `(B, D)`): the anchor of each row.
        noise (`Tensor` of shape `(B, D)`): prior noise of each row. Zeros give the latent in the middle of the zone.
        pool (`Tensor` of shape `(N, D)`, *optional*): the anchors that share the prior. Defaults to `anchors` themselves.
            A latent depends on the pool: with a single anchor it is the noise itself.
        log_weights (`Tensor` of shape `(N,)`, *optional*): log-weights of the pool, not necessarily normalised; equal weights by
            default. Minus infinity removes an anchor.
        include_own (`bool`, *optional*, defaults to `False`): if true, the pool of row b is {its own anchor, with weight 1} + `pool`,
            so that the latent of a row depends on no other row. Needs `pool`. Otherwise `pool` must hold the anchors.
        solver (`str`, *optional*, defaults to `"adams"`): `"adams"` is third-order Adams-Bashforth in `s` on a grid for each row;
            `"euler"` and `"dpmsolver++"` (order 3, multistep) are the published solvers on the published grids.
        num_steps (`int`, *optional*, defaults to 20): evaluations of the expected anchor, i.e. passes over the pool, at least 1.

    Returns:
        `Tensor` of shape `(B, D)`: the latents, float32 (float64 if an input is float64).

    Raises:
        ValueError: if a shape does not fit, the solver is unknown, `num_steps < 1` or no anchor has a positive weight.
    """
    if include_own and pool is None:
        raise ValueError("`include_own=True` needs a `pool` that each row's own anchor is added to, got pool=None.")
    _check_matrix("anchors", anchors)
    _check_matrix("noise", noise, like=("anchors", anchors), rows=True)
    pool = anchors if pool is None else pool
    _check_matrix("pool", pool, like=("anchors", anchors))
    _check_solver(solver, num_steps)
    _check_log_weights(log_weights, pool, allow_empty=include_own)

    dtype = _result_dtype(anchors, noise, pool, log_weights)
    with torch.autocast(anchors.device.type, enabled=False):
        pool = _in_compute_dtype(pool)
        encode = partial(
            _encode,
            pool=pool,
            sliced=_sliced(pool, solver, dtype),
            log_weights=None if log_weights is None else _in_compute_dtype(log_weights),
            include_own=include_own,
            solver=solver,
            num_steps=num_steps,
            kept_steps=kept_evaluations(anchors, pool, num_steps),
            dtype=dtype,
        )
        (latents,) = in_parts(encode, pool.shape[0], _in_compute_dtype(anchors), _in_compute_dtype(noise))
        return latents.to(dtype)


def trace_assignments(
    latents: Tensor,
    pool: Tensor,
    targets: Tensor | None = None,
    *,
    log_weights: Tensor | None = None,
    solver: str = "adams",
    num_steps: int = 20,
    end: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Carries latents by the flow of `pool` and records the anchors that they are assigned to: latent alignment.

    Integrates (1) from `y = z` at `s = 0` towards the anchors. The softmax in (1) is the probability, seen from a point of the
    trajectory, that it ends at anchor i; its last value decides the latent zone that the latent lies in.

    Args:
        latents (`Tensor` of shape `(B, D)`): the latents.
        pool (`Tensor` of shape `(N, D)`): the anchors to go to.
        targets (`Tensor` of shape `(B,)`, *optional*): int64 index of the anchor in the pool whose probability is wanted.
        log_weights (`Tensor` of shape `(N,)`, *optional*): log-weights of the pool; minus infinity removes an anchor.
        solver (`str`, *optional*, defaults to `"adams"`): as in [`compute_latents`].
        num_steps (`int`, *optional*, defaults to 20): as in [`compute_latents`].
        end (`float`, *optional*, defaults to 1.0): time to go to, in (0, 1]; 1 is all the way to the anchors, whatever their scale.
            Before, anchors are told apart if their distance is several times `(1 - end) / end`: `1 / s^2` is the temperature of the
            softmax.

    Returns:
        `tuple(Tensor, Tensor)`: the points reached, `(B, D)`, and the assignment log-probabilities at each of the S = `num_steps`
        evaluations in their order: `(S, B)` of the targets, or `(S, B, N)` of all anchors when `targets` is None. The points are the
        last expected anchors, or for "dpmsolver++" (as published) the state at the end, `t = 1 - 1e-3`.

    Raises:
        ValueError: if a shape does not fit, the solver is unknown, `num_steps < 1`, `end` is out of range or no anchor has a positive weight.
    """
    _check_matrix("latents", latents)
    _check_matrix("pool", pool, like=("latents", latents))
    _check_solver(solver, num_steps)
    _check_log_weights(log_weights, pool)
    if targets is not None and (targets.shape != latents.shape[:1] or targets.dtype != torch.int64):
        raise ValueError(
            f"`targets` must be int64 of shape ({latents.shape[0]},), one pool index for each latent, "
            f"got {targets.dtype} of shape {tuple(targets.shape)}."
        )
    if not 0 < end <= 1:
        raise ValueError(f"`end` must be in (0, 1], got {end}.")
    dtype = _result_dtype(latents, pool, log_weights)
    with torch.autocast(latents.device.type, enabled=False):
        pool = _in_compute_dtype(pool)
        log_weights = None if log_weights is None else _in_compute_dtype(log_weights)
        # Without targets no reference is near a row, and products would have to be more exact than slices are.
        arrival, sliced = None, None if targets is None else _sliced(pool, solver, dtype)
        if solver == "adams":
            seen = pool.detach() if sliced is None else pool.detach().float()
            schedule, arrival = adams_decode_plan(seen, log_weights, num_steps, end, pool.dtype)
        else:
            schedule = published_schedule(solver, num_steps, decode=True, like=pool, end=end)
        decode = partial(
            _decode,
            pool=pool,
            sliced=sliced,
            log_weights=log_weights,
            solver=solver,
            schedule=schedule,
            arrival=arrival,
            kept_steps=kept_evaluations(latents, pool, num_steps),
            dtype=dtype,
        )
        points, log_probs = in_parts(decode, pool.shape[0], _in_compute_dtype(latents), targets)
        return points.to(dtype), log_probs.transpose(0, 1).to(dtype)


def alignment_loss(log_probs: Tensor, step_cutoff: float = 0.2, reduction: str = "prob") -> Tensor:
    """Computes the alignment loss: `-mean_b max_k p_kb` ("prob"), `-mean_b max_k log p_kb` ("log_prob") or `-mean_kb log p_kb`.

    Early on the trajectory every anchor is still likely, so the loss leaves out the first `step_cutoff` of the steps. Published: "prob"
    for labels, "log_prob" for two views. With "mean_log_prob" no single good step satisfies a row.

    Args:
        log_probs (`Tensor` of shape `(S, B)`): log-probabilities of the targets from [`trace_assignments`].
        step_cutoff (`float`, *optional*, defaults to 0.2): fraction of the steps to leave out, in [0, 1).
        reduction (`str`, *optional*, defaults to `"prob"`): `"prob"`, `"log_prob"` or `"mean_log_prob"`, see above.

    Returns:
        `Tensor`: a scalar, in [-1, 0] for "prob", else in [0, inf).

    Raises:
        ValueError: if an argument is out of its range.
    """
    if log_probs.ndim != 2 or 0 in log_probs.shape:
        raise ValueError(
            f"`log_probs` must be (steps, batch) and not empty, got shape {tuple(log_probs.shape)}; "
            "pass `targets` to trace_assignments."
        )
    if not 0 <= step_cutoff < 1:
        raise ValueError(f"`step_cutoff` must be in [0, 1), got {step_cutoff}.")
    if reduction not in REDUCTIONS:
        raise ValueError(f"`reduction` must be one of {REDUCTIONS}, got {reduction!r}.")
    late = log_probs[int(step_cutoff * log_probs.shape[0]) :]
    if reduction == "mean_log_prob":
        return -late.mean()
    best = late.amax(0)
    return -(best.exp() if reduction == "prob" else best).mean()


def _integrate(
    flow: Flow,
    u: Tensor,
    schedule: Schedule,
    *,
    targets: Tensor | None = None,
    all_log_probs: bool = False,
    arrival: Arrival | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Integrates (2) along the schedule. With an `arrival`, the step to the last evaluation takes each row to where its anchors are apart.

    Returns:
        `tuple(Tensor, Tensor, list[Tensor])`: the last `u` (B, D), the last expected anchor (B, D), and the log-probabilities of every
        evaluation if they are wanted.
    """
    drifts: list[Tensor] = []
    records: list[Tensor] = []
    s, last_step = schedule.s[0], schedule.weights.shape[0] - 2
    for k in range(schedule.weights.shape[0]):
        arrives = arrival is not None and k == last_step
        keep = k < flow.kept_steps
        drift, record, top = expected_anchor(flow, u, s, targets, all_log_probs, want_top=arrives, keep=keep)
        if record is not None:
            records.append(record)
        drifts = [drift, *drifts[:2]]
        u_next, s_next = u, schedule.s[k + 1]
        for w, d in zip(schedule.weights[k], drifts, strict=False):  # Euler weighs one, the first steps know fewer
            u_next = torch.addcmul(u_next, w, d)
        if arrival is not None and top is not None:
            u_next, s_next = arrive(flow, arrival, u, s, top, u_next, s_next)
        u, s = u_next, s_next
    return u, flow.reference + drifts[0], records


def _encode(
    anchors: Tensor,
    u: Tensor,
    *,
    pool: Tensor,
    sliced: SlicedPool | None,
    log_weights: Tensor | None,
    include_own: bool,
    solver: str,
    num_steps: int,
    kept_steps: int,
    dtype: torch.dtype,
) -> tuple[Tensor]:
    """Latents (B, D) of anchors (B, D) with noise u (B, D), for results in `dtype`."""
    pair_dtype = u.dtype if sliced is None else torch.float32  # a row is all about its own anchor
    distance = distances(anchors.detach().to(pair_dtype), pool.detach().to(pair_dtype))
    if solver == "adams":
        schedule, pairs = adams_encode_plan(distance, log_weights, include_own, num_steps, u.dtype)
        u = approach_pairs(u, anchors, pool, pairs, schedule.s[0])
    else:
        schedule = published_schedule(solver, num_steps, decode=False, like=anchors)
    flow = Flow(
        reference=anchors,
        pool=pool,
        squared_distances=distance.square_(),
        log_weights=log_weights,
        include_own=include_own,
        kept_steps=kept_steps,
        gradient_dtype=_gradient_dtype(solver, dtype, u),
        sliced=sliced,
    )
    u, _, _ = _integrate(flow, u, schedule)
    if solver == "dpmsolver++":  # published: the latent is x_t at t = DPM_EPS, not extrapolated to t = 0
        u = DPM_EPS * anchors + (1 - DPM_EPS) * u
    return (u,)


def _decode(
    latents: Tensor,
    targets: Tensor | None,
    *,
    pool: Tensor,
    sliced: SlicedPool | None,
    log_weights: Tensor | None,
    solver: str,
    schedule: Schedule,
    arrival: Arrival | None,
    kept_steps: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Points (B, D) and log-probabilities (B, S) or (B, S, N) of latents (B, D), for results in `dtype`."""
    # The target is the reference where there is one, so that its own logit is exact; else the middle of the pool.
    reference = pool.detach().mean(0, keepdim=True) if targets is None else pool[targets]
    flow = Flow(
        reference=reference,
        pool=pool,
        squared_distances=distances(reference.detach(), pool.detach()).square_(),
        log_weights=log_weights,
        include_own=False,
        kept_steps=kept_steps,
        gradient_dtype=_gradient_dtype(solver, dtype, latents),
        sliced=sliced,
    )
    u = latents
    if solver == "dpmsolver++":  # published: the latent is taken to be x_t at t = DPM_EPS
        u = latents / (1 - DPM_EPS) - schedule.s[0] * reference
    u, expected, records = _integrate(
        flow, u, schedule, targets=targets, all_log_probs=targets is None, arrival=arrival
    )
    s_end = schedule.s[-1]
    points = (s_end * reference + u) / (1 + s_end) if solver == "dpmsolver++" else expected  # x_t = y / (1 + s)
    return points, torch.stack(records, dim=1)


def _sliced(pool: Tensor, solver: str, dtype: torch.dtype) -> SlicedPool | None:
    """The pool for products in float32, if results in `dtype` allow them and float64 is slow. Published numbers are not touched."""
    if dtype == torch.float64 or solver != "adams" or has_fast_float64(pool.device):
        return None
    if torch.get_float32_matmul_precision() != "highest":  # TensorFloat-32 keeps 11 bits of what is left of the slices
        return None
    return slice_pool(pool.detach())


def _in_compute_dtype(x: Tensor) -> Tensor:
    """x in float64, or in float32 where the device has no float64."""
    # As a view: torch.compile wants the inputs of an autograd function to be different tensors, and a pool may be the anchors.
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64).view_as(x)


def _result_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if an input is float64, else float32."""
    return torch.float64 if any(x is not None and x.dtype == torch.float64 for x in tensors) else torch.float32


def _gradient_dtype(solver: str, dtype: torch.dtype, like: Tensor) -> torch.dtype:
    """The dtype of backward's products. The published grids end so close to the anchors that float32 would spoil their gradients."""
    return dtype if solver == "adams" else like.dtype


def _check_matrix(name: str, value: Tensor, like: tuple[str, Tensor] | None = None, rows: bool = False) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"`{name}` must be a floating-point matrix (rows, latent_dim), got {type(value).__name__}.")
    if value.ndim != 2 or 0 in value.shape or not value.is_floating_point():
        raise ValueError(
            f"`{name}` must be a floating-point matrix (rows, latent_dim) that is not empty, got {value.dtype} of shape {tuple(value.shape)}."
        )
    if like is not None:
        other_name, other = like
        if value.shape[1] != other.shape[1] or (rows and value.shape[0] != other.shape[0]):
            wanted = tuple(other.shape) if rows else f"(any, {other.shape[1]})"
            raise ValueError(f"`{name}` must have shape {wanted} to fit `{other_name}`, got {tuple(value.shape)}.")


def _check_solver(solver: str, num_steps: int) -> None:
    if solver not in SOLVERS:
        raise ValueError(f"`solver` must be one of {', '.join(map(repr, SOLVERS))}, got {solver!r}.")
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1, got {num_steps}.")


def _check_log_weights(log_weights: Tensor | None, pool: Tensor, allow_empty: bool = False) -> None:
    if log_weights is None:
        return
    if log_weights.shape != pool.shape[:1]:
        raise ValueError(
            f"`log_weights` must have shape ({pool.shape[0]},), one for each pool anchor, got {tuple(log_weights.shape)}."
        )
    if allow_empty or torch.compiler.is_compiling():  # a graph cannot depend on values
        return
    if torch.isneginf(log_weights).all():
        raise ValueError(
            "`log_weights` removes every anchor of the pool: at least one must be larger than minus infinity."
        )
