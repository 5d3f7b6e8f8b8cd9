# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What a caller may do after each step of a generation: look at its tensors, change them, and stop it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from .checks_lzn import check_tensor


# `(pipe, step, t, tensors)` to the tensors to go on with, by name, or to `None`.
StepCallback = Callable[[Any, int, float, dict[str, Any]], Mapping[str, Any] | None]


class Interrupted(Exception):
    """Ends the image flow of a chunk where it is."""


@dataclass
class _Call:
    """A call that runs: of which pipeline, what `_stop` was when it started, and whether it is to stop."""

    pipe: object
    stop: object
    interrupted: bool = False


# The innermost call that runs in a thread.
_CURRENT_CALL: ContextVar[_Call | None] = ContextVar("lzn_hf_call", default=None)


class InterruptibleCalls:
    """Calls that can be stopped as those of diffusers, by `pipe._interrupt = True`.

    Set in a callback, this stops the call that runs in the same thread, and no other one of the threads that share the pipeline. Set
    elsewhere, as by the button of a user interface, it stops all calls that run now. Later ones start afresh.
    """

    _callback_tensor_inputs = ["sample", "latents"]
    _stop: object = None

    @property
    def interrupt(self) -> bool:
        """Whether the call that runs in this thread is to stop."""
        call = _CURRENT_CALL.get()
        if call is None or call.pipe is not self:
            return False
        return call.interrupted or self._stop not in (None, call.stop)

    @property
    def _interrupt(self) -> bool:
        return self.interrupt

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        call = _CURRENT_CALL.get()
        if call is None or call.pipe is not self:
            self._stop = object() if value else None
        else:
            call.interrupted = value

    @contextmanager
    def _running(self) -> Iterator[None]:
        token = _CURRENT_CALL.set(_Call(self, self._stop))
        try:
            yield
        finally:
            _CURRENT_CALL.reset(token)


@dataclass
class ChunkSteps:
    """The steps of a chunk of images, as `on_step` of [`ImageFlow`]: calls the callback, keeps samples, heeds interruptions.

    Args:
        pipe ([`InterruptibleCalls`]): the pipeline.
        conditions (`dict`): what the velocity depends on; the callback's `latents` replace those in it.
        callback (`Callable`, *optional*): `callback_on_step_end` of the call.
        tensor_inputs (sequence of `str`): what the callback gets.
        keep_all (`bool`): whether to keep the samples of all steps, on the CPU, beside the last.
    """

    pipe: InterruptibleCalls
    conditions: dict[str, Any]
    callback: StepCallback | None
    tensor_inputs: Sequence[str]
    keep_all: bool
    times: list[float] = field(default_factory=list, init=False)
    samples: list[Tensor] = field(default_factory=list, init=False)
    last: Tensor = field(init=False)

    def __call__(self, t: float, sample: Tensor) -> Tensor | None:
        """Takes the sample at t, first the noise; returns another one, or the same if it was written to, else `None`.

        Raises:
            Interrupted: if the call is to stop.
            ValueError: if the callback returns something else than tensors to go on with.
        """
        # Tensors of `torch.inference_mode()` do not count what is written to them.
        is_counted, changed = not sample.is_inference(), sample
        before: Any = sample._version if is_counted else None if self.callback is None else sample.clone()
        if self.callback is not None and self.times:
            changed = self._call_back(self.callback, t, sample)
        self.times.append(t)
        self.last = changed
        if self.keep_all:
            self.samples.append(changed.cpu())
        if self.pipe.interrupt:
            raise Interrupted
        if changed is sample:
            was_written = sample._version != before if is_counted else before is not None and not sample.equal(before)
            return sample if was_written else None
        return changed

    def _call_back(self, callback: StepCallback, t: float, sample: Tensor) -> Tensor:
        tensors = {"sample": sample, "latents": self.conditions["latents"]}
        step = len(self.times) - 1
        returned = callback(self.pipe, step, t, {name: tensors[name] for name in self.tensor_inputs})
        if returned is not None and not isinstance(returned, Mapping):
            raise ValueError(
                f"`callback_on_step_end` must return a dict of tensors or None, got {type(returned).__name__}."
            )
        for name, tensor in (returned or {}).items():
            if name not in tensors:
                raise ValueError(
                    f"`callback_on_step_end` must return some of {', '.join(map(repr, tensors))}, got {name!r}."
                )
            before = tensors[name]
            if tensor is before:
                continue
            if before is None:
                raise ValueError(f"`{name}` must stay None, as the model has none, got {type(tensor).__name__}.")
            check_tensor(name, tensor, tuple(before.shape))
            tensors[name] = tensor.to(before)
        self.conditions["latents"] = tensors["latents"]
        return tensors["sample"]


def join_chunks(chunks: Sequence[ChunkSteps]) -> tuple[list[float], Tensor]:
    """Joins chunks that kept all samples: the times of the steps, and the samples `(S + 1, B, C, H, W)` on the CPU.

    A chunk that was interrupted stays where it is while others go on.
    """
    times = max((steps.times for steps in chunks), key=len)
    states = [[steps.samples[min(i, len(steps.samples) - 1)] for steps in chunks] for i in range(len(times))]
    return times, torch.stack([torch.cat(state) for state in states])


def check_callback(
    pipe: InterruptibleCalls, callback: StepCallback | None, tensor_inputs: Sequence[str]
) -> Sequence[str]:
    """Returns what a callback gets: its own `tensor_inputs` if it is one of diffusers.

    Raises:
        ValueError: unless the callback is callable, and gets what `_callback_tensor_inputs` of the pipeline names.
    """
    if callback is not None and not callable(callback):
        raise ValueError(f"`callback_on_step_end` must be callable, got {callback!r}.")
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        tensor_inputs = callback.tensor_inputs
    known = pipe._callback_tensor_inputs
    if not isinstance(tensor_inputs, (list, tuple)) or not all(name in known for name in tensor_inputs):
        raise ValueError(
            f"`callback_on_step_end_tensor_inputs` must be a list of {' and '.join(map(repr, known))} or a part of it, got "
            f"{tensor_inputs!r}."
        )
    return tensor_inputs


__all__ = ["ChunkSteps", "Interrupted", "InterruptibleCalls", "StepCallback", "check_callback", "join_chunks"]
