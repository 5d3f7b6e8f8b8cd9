# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Collectives of the training loss. Without an initialised process group they act as in a single process."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


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


def log_label_frequencies(labels: Tensor, num_labels: int) -> Tensor:
    """Log-frequencies of the labels in the global batch, `(num_labels,)`; minus infinity for absent labels."""
    counts = torch.nn.functional.one_hot(labels, num_labels).sum(0).float()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
    return (counts / counts.sum()).log()


__all__ = ["gather_with_gradient", "log_label_frequencies", "process_index"]
