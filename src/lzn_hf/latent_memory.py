# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the latent flow keeps for backward, and what backward computes again: more of it, little by little, as pools grow.

No choice here changes a result by more than the rounding of float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .latent_export import at_most, is_exporting


# Pairs of a row and an anchor that are looked at at once: 128 MB in float64.
MAX_PAIRS = 2**24
# Probabilities that are kept for backward, 64 MB in float64; on a CUDA device they may take this part of its memory.
MAX_KEPT = 2**23
KEPT_SHARE = 1 / 32


def in_parts(
    function: Callable[..., tuple[Tensor, ...]], pool_size: int, rows: Tensor, others: Tensor | None
) -> tuple[Tensor, ...]:
    """`function(rows, others)` in parts of at most MAX_PAIRS pairs of a row and an anchor.

    What the first part keeps for backward is kept, and of others as many as there is room for. The rest is computed again.
    """
    size = max(1, MAX_PAIRS // pool_size)
    if at_most(rows.shape[0], size):
        return function(rows, others)
    parts = rows.split(size)
    other_parts = [None] * len(parts) if others is None else others.split(size)
    kept = max(1, _room(rows.device) // (size * pool_size))
    results = [
        function(*part) if k < kept else checkpoint(function, *part, use_reentrant=False)
        for k, part in enumerate(zip(parts, other_parts, strict=True))
    ]
    return tuple(torch.cat(columns) for columns in zip(*results, strict=True))


def kept_evaluations(rows: Tensor, pool: Tensor, num_steps: int) -> int:
    """How many evaluations, of all rows (B, D) and from the first one on, keep their probabilities (B, N) for backward."""
    return num_steps if is_exporting() else _room(rows.device) // (rows.shape[0] * pool.shape[0])


def _room(device: torch.device) -> int:
    """How many numbers in float64 may be kept."""
    if device.type != "cuda":
        return MAX_KEPT
    return max(MAX_KEPT, int(KEPT_SHARE * torch.cuda.get_device_properties(device).total_memory) // 8)
