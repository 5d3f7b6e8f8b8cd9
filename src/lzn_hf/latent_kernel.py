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

Unless it is told to keep p, backward computes it again from its normaliser, so that B x D numbers are kept a step and not B x N. As
attention does (arXiv 2205.14135), at the price of one matrix product in six.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


# Logits this far below the largest count as this far. Below -708 exponentials are denormal numbers, and products with these take
# fifty times as long; a probability of 1e-130 has no more effect than one of 0.
LEAST_LOGIT = -300.0


def expected_anchor(
    u: Tensor,
    s: Tensor,
    reference: Tensor,
    pool: Tensor,
    square: Tensor,
    log_weights: Tensor | None,
    include_own: bool,
    targets: Tensor | None = None,
    all_log_probs: bool = False,
    want_top: bool = False,
    keep: bool = False,
    gradient_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """E[a | u, s] - r of B rows over a pool of N anchors, and log-probabilities.

    Args:
        u (`Tensor` of shape `(B, D)`): rows in coordinates `y = s r + u`.
        s (`Tensor` of shape `(1 | B, 1)`): signal over noise; a constant.
        reference (`Tensor` of shape `(1 | B, D)`): r.
        pool (`Tensor` of shape `(N, D)`): the anchors.
        square (`Tensor` of shape `(1 | B, N)`): |a_i - r|^2, without a graph: its gradients are in those of pool and reference.
        log_weights (`Tensor` of shape `(N,)`, *optional*): log w.
        include_own (`bool`): whether r is one more anchor, with weight 1 and logit 0.
        targets (`Tensor` of shape `(B,)`, *optional*): anchors whose log-probabilities are wanted.
        all_log_probs (`bool`): whether those of all anchors are.
        want_top (`bool`): whether the most probable anchors are.
        keep (`bool`): whether the B x N probabilities are kept for backward.
        gradient_dtype (`torch.dtype`, *optional*): of the matrix products of backward; default: that of the rest.

    Returns:
        the drift (B, D), and if wanted the log-probabilities (B,) or (B, N) and the most probable anchors (B,).
    """
    return _ExpectedAnchor.apply(
        u, s, reference, pool, square, log_weights, include_own, targets, all_log_probs, want_top, keep, gradient_dtype
    )


def _logits(
    u: Tensor, s: Tensor, reference: Tensor, pool: Tensor, square: Tensor, log_weights: Tensor | None
) -> Tensor:
    """The logits (B, N)."""
    su = s * u
    logits = su @ pool.T
    logits -= (su * reference).sum(-1, keepdim=True)
    logits.addcmul_(square, s * s, value=-0.5)
    if log_weights is not None:
        logits += log_weights
    return logits


class _ExpectedAnchor(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        u: Tensor,
        s: Tensor,
        reference: Tensor,
        pool: Tensor,
        square: Tensor,
        log_weights: Tensor | None,
        include_own: bool,
        targets: Tensor | None,
        all_log_probs: bool,
        want_top: bool,
        keep: bool,
        gradient_dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        logits = _logits(u, s, reference, pool, square, log_weights)
        top = logits.argmax(-1) if want_top else None
        largest = logits.amax(-1, keepdim=True)
        if include_own:
            largest = largest.clamp(min=0)
        logits -= largest  # from here on nothing is larger than 0, so that probabilities sum to 1 to the last digit
        record = None
        if all_log_probs:
            record = logits.clone()
        elif targets is not None:
            record = logits.gather(1, targets[:, None])
        p = logits.clamp_(min=LEAST_LOGIT).exp_()  # times `total`
        total = p.sum(-1, keepdim=True)
        mass = 1
        if include_own:
            in_pool, total = total, total + (-largest).exp()
            mass = in_pool / total
        drift = (p @ pool) / total - mass * reference
        if record is not None:
            record -= total.log()
            record = record if all_log_probs else record.squeeze(1)
        kept = p if keep else None
        ctx.save_for_backward(u, s, reference, pool, square, log_weights, largest, total, targets, kept)
        ctx.include_own, ctx.gradient_dtype = include_own, gradient_dtype or u.dtype
        if want_top:
            ctx.mark_non_differentiable(top)
        return drift, record, top

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, g: Tensor, h: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        u, s, reference, pool, square, log_weights, largest, total, targets, p = ctx.saved_tensors
        if p is None:
            p = _logits(u, s, reference, pool, square, log_weights).sub_(largest).clamp_(min=LEAST_LOGIT).exp_()
        # All that follows looks at differences of anchors only, so it may look at them from the middle of the pool: products of less
        # precision are then off by a part of the differences, wherever the pool lies.
        dtype, middle = ctx.gradient_dtype, pool.mean(0, keepdim=True)
        centred, reference = (pool - middle).to(dtype), reference - middle
        g = g / total
        dl = (g.to(dtype) @ centred.T).to(p.dtype)
        if ctx.include_own:  # the own anchor's part of the mean is 0; else what all anchors share has no effect
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
            square_s = (s * s).expand(len(u), 1)
            sums = dl.T @ torch.cat([s * u + square_s * reference, square_s], dim=1).to(dtype)
            d_pool = (sums[:, :-1] - sums[:, -1:] * centred + p.T.to(dtype) @ g.to(dtype)).to(p.dtype)
        if needs[2]:
            d_reference = s * s * moved - p.sum(-1, keepdim=True) * g
            if ctx.include_own:  # sum_i dl_i is minus that of the own anchor; else it is 0, and rounding is left out
                d_reference = d_reference - (-largest).exp() / total * mean * (s * u)
            d_reference = d_reference.sum_to_size(reference.shape)
        d_u = s * moved if needs[0] else None
        return d_u, None, d_reference, d_pool, None, d_log_weights, None, None, None, None, None, None
