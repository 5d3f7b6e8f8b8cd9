# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Collectives and draws of the training loss. Without an initialised process group they act as in a single process."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor


MAX_DRAWN = 2**24  # numbers drawn at once, 64 MiB: the batch of all processes may be far larger than that of one


class _AllGather(torch.autograd.Function):
    """Concatenates equally shaped tensors of all processes; the gradient of each is the sum over processes."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def gather_with_gradient(x: Tensor) -> Tensor:
    """Rows `(B, ...)` of all processes in rank order, `(world_size B, ...)`; every process must have the same B.

    DistributedDataParallel averages gradients over processes: k processes then have the gradient of one process on the joined batch.
    """
    return _AllGather.apply(x) if dist.is_available() and dist.is_initialized() else x


def process_index() -> int:
    """The rank of this process: its rows follow those of all lower ranks in [`gather_with_gradient`]."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def num_processes() -> int:
    """The number of processes that [`gather_with_gradient`] gathers from."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def draw_rows(draw: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws the rows of this process, out of a draw for the batch of all processes.

    With generators in one state on all processes, k processes thus draw what one does for the joined batch, and rows of different
    processes never repeat. Numbers for other processes cost time and are dropped: generators cannot skip them.

    Args:
        draw (`Callable`): `torch.rand` or `torch.randn`.
        like (`Tensor` of shape `(B, ...)`): gives shape and device; every process must have the same B.
        generator (`torch.Generator`, *optional*): PyTorch's default one if not given.

    Returns:
        `Tensor` of shape `(B, ...)`: float32; rows `r B` to `(r + 1) B - 1` of the draw, for process r.
    """
    count, *row_shape = like.shape
    options = {"device": like.device, "dtype": torch.float32, "generator": generator}
    total, start = num_processes() * count, process_index() * count
    # Blocks of a multiple of 16 rows: on a CPU the numbers are those of a single draw.
    block = max(MAX_DRAWN // max(math.prod(row_shape), 1) // 16, 1) * 16
    if total <= block:
        rows = draw((total, *row_shape), **options)
        return rows if total == count else rows[start : start + count].clone()  # without the memory of the others
    parts = []
    for first in range(0, total, block):
        rows = draw((min(block, total - first), *row_shape), **options)
        parts.append(rows[max(start - first, 0) : max(start + count - first, 0)].clone())
    return torch.cat(parts)


def log_label_frequencies(labels: Tensor, num_labels: int) -> Tensor:
    """Log-frequencies of the labels in the global batch, `(num_labels,)`; minus infinity for absent labels."""
    counts = torch.nn.functional.one_hot(labels, num_labels).sum(0).float()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
    return (counts / counts.sum()).log()


__all__ = ["draw_rows", "gather_with_gradient", "log_label_frequencies", "num_processes", "process_index"]
