# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""One evaluation of the latent flow, forward and backward: a pass over the pool that need not keep anything of its size.

With logits `l_i = s u.(a_i - r) - s^2 |a_i - r|^2 / 2 + log w_i` of one row (u, r, s), probabilities `p = softmax(l)` and drift
`v = sum_i p_i (a_i - r)`, the gradients of a scalar with respect to l, given those for v (g) and for `log p_t` or all log p (h), are

    dl_i = p_i (g.(a_i - r) - g.v) + h_i - p_i sum_j h_j,

and through l and v they go on to

    du   = s sum_i dl_i (a_i - r)
    da_i = dl_i (s u - s^2 (a_i - r)) + p_i g,            summed over rows
    dr   = -sum_i [dl_i (s u - s^2 (a_i - r)) + p_i g]
    dlog w_i = dl_i,                                      summed over rows.

Where p is not kept, backward computes it again from the saved normaliser, as attention does (arXiv 2205.14135): a step then keeps
B x D numbers instead of B x N, for one matrix product in six.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .latent_products import SlicedPool, displaced_mean, displaced_products


# Smaller logits, relative to the largest, are raised to this. Exponentials below -708 are denormal numbers, which slow matrix
# products down fifty times; a probability of 1e-130, or of 1e-26 beside 1 in float32, has no more effect than one of 0.
LEAST_LOGIT = {torch.float64: -300.0, torch.float32: -60.0}


class Flow(NamedTuple):
    """The flow of a pool of N anchors a_i, in coordinates `y = s r + u` around a reference point r, of each row or of all."""

    reference: Tensor  # r, (1 | B, D)
    pool: Tensor  # a_i, (N, D)
    squared_distances: (
        Tensor  # |a_i - r|^2, (1 | B, N), without a graph: their gradients are in those of pool and reference
    )
    log_weights: Tensor | None  # log w_i, (N,)
    include_own: bool  # whether r is one more anchor, of weight 1 and logit 0
    kept_steps: int  # evaluations whose B x N probabilities are kept for backward
    gradient_dtype: torch.dtype  # of the matrix products of backward
    sliced: SlicedPool | None = None  # the pool for products in float32, and probabilities in float32


class _Options(NamedTuple):
    """The arguments of [`expected_anchor`] that are not tensors."""

    include_own: bool
    keep_probabilities: bool
    gradient_dtype: torch.dtype
    all_log_probs: bool
    want_top: bool


def expected_anchor(
    flow: Flow,
    u: Tensor,
    s: Tensor,
    targets: Tensor | None = None,
    all_log_probs: bool = False,
    want_top: bool = False,
    keep: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """E[a | u, s] - r of B rows, and log-probabilities of anchors.

    Args:
        flow ([`Flow`]): the anchors and the reference.
        u (`Tensor` of shape `(B, D)`): the rows, in coordinates `y = s r + u`.
        s (`Tensor` of shape `(1 | B, 1)`): signal over noise; a constant.
        targets (`Tensor` of shape `(B,)`, *optional*): anchors whose log-probabilities are wanted.
        all_log_probs (`bool`, defaults to `False`): whether those of all anchors are wanted.
        want_top (`bool`, defaults to `False`): whether the most probable anchors are wanted.
        keep (`bool`, defaults to `False`): whether probabilities are kept for backward, which computes them again otherwise.

    Returns:
        `tuple(Tensor, Tensor, Tensor)`: the drift `(B, D)`; log-probabilities `(B,)` or `(B, N)` and most probable anchors `(B,)`, each
        `None` if not wanted.
    """
    options = _Options(flow.include_own, keep, flow.gradient_dtype, all_log_probs, want_top)
    tensors = (flow.reference, flow.pool, flow.squared_distances, flow.log_weights)
    if not torch.is_grad_enabled():  # a third of the time of a small pool is the bookkeeping of autograd
        return _evaluate(u, s, *tensors, targets, options, flow.sliced)[:3]
    return _ExpectedAnchor.apply(u, s, *tensors, targets, options, *(flow.sliced or (None,) * 4))


def _logits(
    u: Tensor,
    s: Tensor,
    reference: Tensor,
    pool: Tensor,
    squared_distances: Tensor,
    log_weights: Tensor | None,
    sliced: SlicedPool | None,
) -> Tensor:
    """The logits (B, N)."""
    if sliced is None:
        su = s * u
        logits = su @ pool.T
        logits -= (su * reference).sum(-1, keepdim=True)
    else:
        logits = displaced_products(u, reference, sliced).to(squared_distances.dtype)
        logits *= s
    logits.addcmul_(squared_distances, (s * s).to(logits.dtype), value=-0.5)
    if log_weights is not None:
        logits += log_weights
    return logits


def _evaluate(
    u: Tensor,
    s: Tensor,
    reference: Tensor,
    pool: Tensor,
    squared_distances: Tensor,
    log_weights: Tensor | None,
    targets: Tensor | None,
    options: _Options,
    sliced: SlicedPool | None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor, Tensor]:
    """The results of [`expected_anchor`], and what backward needs: the largest logits (B, 1), and p `total` (B, N) with `total` (B, 1)."""
    logits = _logits(u, s, reference, pool, squared_distances, log_weights, sliced)
    top = logits.argmax(-1) if options.want_top else None
    largest = logits.amax(-1, keepdim=True)
    if options.include_own:
        largest = largest.clamp(min=0)
    logits -= largest  # from here on nothing is larger than 0, so that probabilities sum to 1 to the last digit
    logits = logits if sliced is None else logits.float()
    record = None
    if options.all_log_probs:
        record = logits.clone()
    elif targets is not None:
        record = logits.gather(1, targets[:, None])
    p = logits.clamp_(min=LEAST_LOGIT[logits.dtype]).exp_()  # times `total`
    total = p.sum(-1, keepdim=True)
    origin = reference  # times the probability of the pool
    if options.include_own:
        in_pool, total = total, total + (-largest).exp().to(total.dtype)
        origin = in_pool / total * reference
    drift = (p @ pool) / total - origin if sliced is None else displaced_mean(p, total, reference, sliced)
    if record is not None:
        record -= total.log()
        record = record if options.all_log_probs else record.squeeze(1)
    return drift, record, top, largest, total, p


class _ExpectedAnchor(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        s: Tensor,
        reference: Tensor,
        pool: Tensor,
        squared_distances: Tensor,
        log_weights: Tensor | None,
        targets: Tensor | None,
        options: _Options,
        *slices: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        sliced = SlicedPool.of(*slices)
        drift, record, top, largest, total, p = _evaluate(
            u, s, reference, pool, squared_distances, log_weights, targets, options, sliced
        )
        kept = p if options.keep_probabilities else None
        saved = (u, s, reference, pool, squared_distances, log_weights, largest, total, targets, kept)
        ctx.save_for_backward(*saved, *slices)
        ctx.options = options
        if top is not None:
            ctx.mark_non_differentiable(top)
        return drift, record, top

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, h: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        u, s, reference, pool, squared_distances, log_weights, largest, total, targets, p, *slices = ctx.saved_tensors
        sliced = SlicedPool.of(*slices)
        options: _Options = ctx.options
        if p is None:
            logits = _logits(u, s, reference, pool, squared_distances, log_weights, sliced)
            logits -= largest
            logits = logits if sliced is None else logits.float()
            p = logits.clamp_(min=LEAST_LOGIT[logits.dtype]).exp_()
        # All that follows depends on differences of anchors alone, so the middle of the pool may be the origin: products of less
        # precision are then accurate relative to these differences, wherever the pool lies.
        dtype = options.gradient_dtype
        middle = pool.mean(0, keepdim=True) if sliced is None else sliced.middle
        centred = (pool - middle).to(dtype) if sliced is None else sliced.whole.to(dtype) * sliced.scale.to(dtype)
        reference = reference - middle
        g = g / total
        dl = (g.to(dtype) @ centred.T).to(p.dtype)
        if options.include_own:  # the own anchor's part of the mean is 0; else what all anchors share has no effect
            dl -= (g * reference).sum(-1, keepdim=True)
        dl *= p
        mean = dl.sum(-1, keepdim=True)  # exact where one anchor has it all: far out, s^2 blows up what is not
        if h is not None and targets is None:
            dl += h
            mean = mean + h.sum(-1, keepdim=True)
        elif h is not None:
            dl.scatter_add_(1, targets[:, None], h[:, None])
            mean = mean + h[:, None]
        dl.addcmul_(p, mean / total, value=-1)
        dl_sum = dl.sum(-1, keepdim=True)
        d_log_weights = dl.sum(0) if ctx.needs_input_grad[5] else None
        dl = dl.to(dtype)
        moved = (dl @ centred).to(p.dtype) - dl_sum * reference  # sum_i dl_i (a_i - r)
        needs = ctx.needs_input_grad
        d_reference = d_pool = None
        if needs[3]:
            square_s = (s * s).expand(u.shape[0], 1)
            sums = dl.T @ torch.cat([s * u + square_s * reference, square_s], dim=1).to(dtype)
            d_pool = (sums[:, :-1] - sums[:, -1:] * centred + p.T.to(dtype) @ g.to(dtype)).to(p.dtype)
        if needs[2]:
            d_reference = s * s * moved - p.sum(-1, keepdim=True) * g
            if (
                options.include_own
            ):  # sum_i dl_i is minus that of the own anchor; else it is 0, and rounding is left out
                d_reference = d_reference - (-largest).exp() / total * mean * (s * u)
            d_reference = d_reference.sum_to_size(reference.shape)
        d_u = s * moved if needs[0] else None
        return d_u, None, d_reference, d_pool, None, d_log_weights, None, None, None, None, None, None
