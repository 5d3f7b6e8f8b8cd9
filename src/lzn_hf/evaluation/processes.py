# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Evaluation by several processes: process i of P takes images i, i + P, i + 2 P, ..., and [`gather_rows`] restores their order."""

from __future__ import annotations

import torch
from accelerate import PartialState
from accelerate.utils import gather, pad_across_processes
from torch import Tensor


def process_state() -> PartialState:
    """The processes that evaluate, on the accelerator device if there is one."""
    return PartialState(cpu=not torch.accelerator.is_available())


def gather_rows(state: PartialState, rows: Tensor) -> Tensor:
    """Rows i, i + P, i + 2 P, ... of each process i of P to all rows in their order, on the CPU of each process."""
    if state.num_processes == 1:
        return rows.cpu()
    counts = gather(torch.tensor([len(rows)], device=state.device))
    gathered = gather(pad_across_processes(rows.to(state.device))).cpu().unflatten(0, (state.num_processes, -1))
    return gathered.transpose(0, 1).flatten(0, 1)[: int(counts.sum())]


__all__ = ["gather_rows", "process_state"]
