# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The learning-rate schedule, and the guard that skips optimizer steps with a non-finite loss or gradient."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from .arguments import RunArguments


logger = logging.getLogger(__name__)


def make_scheduler(optimizer: torch.optim.Optimizer, run: RunArguments) -> LambdaLR:
    """Creates the learning-rate schedule: linear warm-up, then constant or a half cosine to zero at the last step.

    The warm-up starts at 1 / warmup_steps of the full rate, which is 0.0002 for the published 5,000 steps.
    """
    warmup, end = run.warmup_steps, run.max_train_steps

    def factor(step: int) -> float:
        rise = 1.0 if step >= warmup else (1 + step * (1 - 1 / warmup)) / warmup
        if run.lr_scheduler == "constant" or step < warmup:
            return rise
        progress = min((step - warmup) / max(end - warmup, 1), 1.0)
        return 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


class NonFiniteGuard:
    """Decides, identically on all processes, whether a step may change the weights. Stops a run without finite steps.

    Attributes:
        requests (`list[int]`): what the processes asked for at the last step: the largest number of each, over all processes.

    Args:
        max_in_a_row (`int`): number of skipped steps in a row that stops the run.
    """

    def __init__(self, max_in_a_row: int):
        self.max_in_a_row = max_in_a_row
        self.total = 0
        self.in_a_row = 0
        self.requests: list[int] = []
        self._losses: list[Tensor] = []

    def watch(self, loss: Tensor) -> None:
        """Records the loss of a micro-batch."""
        self._losses.append(loss.detach())

    def step_is_finite(self, accelerator: Accelerator, grad_norm: Tensor, requests: Sequence[int] = ()) -> bool:
        """Returns whether the losses since the last call and the gradient norm are finite on all processes.

        If not, the caller must leave weights, averages and schedule unchanged and drop the gradients.

        Args:
            accelerator (`Accelerator`): the processes. All must call this.
            grad_norm (`Tensor`): the norm of the gradient.
            requests (`Sequence[int]`, *optional*): small numbers to agree on, in the same message. They end up in `requests`.

        Raises:
            RuntimeError: after `max_in_a_row` non-finite steps in a row.
        """
        finite = torch.isfinite(torch.stack([*self._losses, grad_norm.detach()]).float()).all()
        self._losses = []
        # One message a step: whether a value is not finite, and the requests; of each, the largest of all processes counts.
        asked = torch.tensor([0, *requests], dtype=torch.float32, device=finite.device)
        asked[0] = ~finite
        trouble, *self.requests = accelerator.gather(asked[None]).amax(0).int().tolist()
        if not trouble:
            self.in_a_row = 0
            return True
        self.total += 1
        self.in_a_row += 1
        if accelerator.scaler is not None:
            accelerator.scaler.update()  # float16: lowers the loss scale after an overflow
        logger.warning(f"Non-finite loss or gradient: step skipped ({self.in_a_row} in a row, {self.total} in all).")
        if self.in_a_row >= self.max_in_a_row:
            raise RuntimeError(
                f"{self.in_a_row} steps in a row had a non-finite loss or gradient and were skipped, so the run stops "
                "(`--max_nonfinite_steps`). The weights are still those of the last good step. Usual causes: learning rates "
                "too high or `--warmup_steps` too few, or float16 (try `--mixed_precision bf16` or `no`). Resume from the "
                "last checkpoint after a change of code or data, or start anew with lower learning rates."
            )
        return False

    def state_dict(self) -> dict[str, int]:
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.total, self.in_a_row = state["total"], state["in_a_row"]


def non_finite_names(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Returns the names of the tensors that have a value that is infinite or not a number."""
    named = list(tensors)
    finite = [torch.isfinite(tensor).all() for _, tensor in named]
    return [name for (name, _), is_finite in zip(named, torch.stack(finite).tolist(), strict=True) if not is_finite]
