# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Collectives and draws of the training loss. Without an initialised process group they act as in a single process."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .checks_lzn import check_generator


MAX_DRAWN = 2**24  # numbers drawn at once, 64 MiB: the batch of all processes may be far larger than that of one
# The first names are those of PyTorch 2.13 on, which warns of the second.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _AllGather(torch.autograd.Function):
    """Concatenates equally shaped tensors of the processes of a group; the gradient of each is the sum over them."""

    @staticmethod
    def forward(ctx, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        result = x.new_empty(dist.get_world_size(group) * x.shape[0], *x.shape[1:])
        _all_gather(result, x.contiguous(), group=group)
        return result

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        # Sums of half precision are taken in float32, which every backend can do.
        terms = grad.contiguous() if grad.element_size() >= 4 else grad.float()
        total = terms.new_empty(terms.shape[0] // dist.get_world_size(ctx.group), *terms.shape[1:])
        _reduce_scatter(total, terms, group=ctx.group)
        return total.to(grad.dtype), None


def gather_with_gradient(x: Tensor, group: Any = None) -> Tensor:
    """Rows `(B, ...)` of all processes in rank order, `(world_size B, ...)`; every process must have the same B.

    DistributedDataParallel averages gradients over processes: k processes then have the gradient of one process on the joined batch.

    Args:
        x (`Tensor` of shape `(B, ...)`): the rows of this process.
        group (`ProcessGroup`, *optional*): the processes to gather from, all by default.
    """
    return _AllGather.apply(x, group) if dist.is_available() and dist.is_initialized() else x


def process_index(group: Any = None) -> int:
    """The rank of this process in a group: its rows follow those of all lower ranks in [`gather_with_gradient`]."""
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


def num_processes(group: Any = None) -> int:
    """The number of processes that [`gather_with_gradient`] gathers from."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


class PartGenerator(torch.Generator):
    """A generator for batches that are processed in parts: [`draw_rows`] draws for the whole batch and takes the rows of some parts.

    Attributes:
        num_parts (`int`): parts of the batch, of the same size.
        parts (`tuple[int, ...]`): indices of those whose rows are drawn next, ascending. By default, the batch has a part for each process,
            in the order of their ranks.
    """

    num_parts: int | None = None
    parts: tuple[int, ...] = ()


def draw_rows(draw: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws the rows of this process, out of a draw for the batch of all processes.

    With generators in one state on all processes, k processes thus draw what one does for the joined batch, and rows of different
    processes never repeat. Numbers for other processes cost time and are dropped: generators cannot skip them.

    Args:
        draw (`Callable`): `torch.rand` or `torch.randn`.
        like (`Tensor` of shape `(B, ...)`): gives shape and device; every process must have the same B.
        generator (`torch.Generator`, *optional*): PyTorch's default one if not given. A [`PartGenerator`] says which rows to take.

    Returns:
        `Tensor` of shape `(B, ...)`: float32; rows `r B` to `(r + 1) B - 1` of the draw, for process r.
    """
    check_generator(generator)
    count, *row_shape = like.shape
    options = {"device": like.device, "dtype": torch.float32, "generator": generator}
    num_parts = num_processes()
    parts: tuple[int, ...] = (process_index(),)
    if isinstance(generator, PartGenerator) and generator.num_parts is not None:
        num_parts, parts = generator.num_parts, generator.parts
    size = count // len(parts)
    total, starts = num_parts * size, [part * size for part in parts]
    # Blocks of a multiple of 16 rows: on a CPU the numbers are those of a single draw.
    block = max(MAX_DRAWN // max(math.prod(row_shape), 1) // 16, 1) * 16
    if total == count and total <= block:
        return draw((total, *row_shape), **options)
    taken = []
    for first in range(0, total, block):
        rows = draw((min(block, total - first), *row_shape), **options)
        # Copies, so that the memory of the others is given back.
        taken += [rows[max(start - first, 0) : max(start + size - first, 0)].clone() for start in starts]
    return torch.cat(taken)


def log_label_frequencies(labels: Tensor, num_labels: int, group: Any = None) -> Tensor:
    """Log-frequencies of the labels in the batch of a group of processes, `(num_labels,)`; minus infinity for absent labels."""
    counts = torch.nn.functional.one_hot(labels, num_labels).sum(0).float()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts, group=group)
    return (counts / counts.sum()).log()


__all__ = [
    "PartGenerator",
    "draw_rows",
    "gather_with_gradient",
    "log_label_frequencies",
    "num_processes",
    "process_index",
]
