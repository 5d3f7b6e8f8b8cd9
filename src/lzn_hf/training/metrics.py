# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Metrics of a training run: averaged over steps and processes, watched, and written as JSON lines."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.tracking import GeneralTracker
from accelerate.utils import gather_object
from torch import Tensor

from ..visualization.runs import METRICS_FILE as METRICS_FILE
from .durable import replace_file


logger = logging.getLogger(__name__)

# In a pool of 64 with 64 dimensions, a step's mean and standard deviation are off by 0.016 and 0.011 by chance.
MAX_LATENT_MEAN = 0.1
LATENT_STD_RANGE = (0.9, 1.1)
LATENT_LINES = 5  # in a row: one bad moment is no reason to end a run


class MetricAverager:
    """Averages scalars over all processes and the applied steps since the last call of `compute`; measures the speed.

    Args:
        images_per_step (`int`): images of all processes per optimizer step, for `images_per_second`.
    """

    def __init__(self, images_per_step: int):
        self.images_per_step = images_per_step
        self._current_step: list[dict[str, Tensor]] = []
        self._applied: list[dict[str, Tensor]] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Restarts the measurement of speed, so that the time of an evaluation does not count."""
        self._start, self._steps = time.perf_counter(), 0

    def add(self, **values: Tensor | None) -> None:
        """Adds the scalars of a micro-batch, except for `None`."""
        self._current_step.append({name: x.detach().float() for name, x in values.items() if x is not None})

    def end_step(self, applied: bool) -> None:
        """Counts the scalars added since the last call if the step was applied to the weights, else drops them."""
        if applied:
            self._applied += self._current_step
        self._current_step = []
        self._steps += 1

    def compute(self, accelerator: Accelerator) -> dict[str, float]:
        """Returns the means (none without an applied step), equal on all processes, and `images_per_second`. Starts over."""
        metrics = {}
        if self._applied:
            names = list(self._applied[0])
            means = torch.stack([torch.stack([values[name] for name in names]) for values in self._applied]).mean(0)
            metrics = dict(zip(names, accelerator.reduce(means, reduction="mean").tolist(), strict=True))
        self._applied = []
        metrics["images_per_second"] = self._steps * self.images_per_step / (time.perf_counter() - self._start)
        self.restart_clock()
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Returns the scalars since the last call of `compute`, of all processes. All of them must call this."""
        names = list(self._applied[0]) if self._applied else []
        values = [[scalars[name].item() for name in names] for scalars in self._applied]
        return {"names": names, "values": gather_object([values])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the scalars of this process, or the means of all if their number is another one now."""
        processes, everywhere = PartialState(), torch.tensor(state["values"], device=PartialState().device)
        same = len(everywhere) == processes.num_processes
        own = everywhere[processes.process_index] if same else everywhere.mean(0)
        self._applied = [dict(zip(state["names"], scalars, strict=True)) for scalars in own]


class LatentWatch:
    """Warns, once, when the latents of training have left the prior for several lines of metrics in a row.

    A pool has an anchor for each of its latents, all noise is that of the prior, and the flow carries this mixture to the prior. So the
    latents of a step have mean 0 and standard deviation 1, if the flow is solved well. With too few steps for where the anchors lie, it
    is not.

    Args:
        num_steps (`int`): `latent_num_steps` of the model, for the advice.
    """

    def __init__(self, num_steps: int):
        self.num_steps = num_steps
        self.lines_outside = 0
        self.has_warned = False

    def watch(self, metrics: Mapping[str, float], step: int) -> None:
        """Looks at the metrics of a line, if `latent_mean` and `latent_std` are among them."""
        if not {"latent_mean", "latent_std"} <= metrics.keys():
            return
        mean, std = metrics["latent_mean"], metrics["latent_std"]
        low, high = LATENT_STD_RANGE
        is_inside = abs(mean) <= MAX_LATENT_MEAN and low <= std <= high
        self.lines_outside = 0 if is_inside else self.lines_outside + 1
        if self.lines_outside == LATENT_LINES and not self.has_warned:
            self.has_warned = True
            logger.warning(
                f"The latents have left the prior: at step {step} their mean is {mean:.3g} and their standard deviation {std:.3g}, and in "
                f"{LATENT_LINES} lines of metrics in a row they were outside of -{MAX_LATENT_MEAN}..{MAX_LATENT_MEAN} or {low}..{high}. "
                "The decoder learns from these latents but generates images from those of the prior. Start again with more steps of the "
                f"latent flow (`--config_overrides latent_num_steps={2 * self.num_steps}`, {self.num_steps} now) or a lower "
                "`--encoder_learning_rate`."
            )


class JSONLinesTracker(GeneralTracker):
    """An accelerate tracker that appends each set of metrics as one JSON line, `{"step": 10, "loss": 1.5, ...}`.

    Args:
        path (`Path`): the file. Its folder must exist when the first metrics are logged.
    """

    name = "jsonlines"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    @property
    def tracker(self) -> Path:
        return self.path

    def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
        line = (json.dumps({"step": step, **values}) + "\n").encode()
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(line) < len(line):  # a full disk takes the beginning
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def rewind(self, saved: Path | None) -> None:
        """Puts the file back to what it was at a checkpoint, at once: a resumed run writes what came after it again.

        Args:
            saved (`Path`, *optional*): the copy of the file in the checkpoint, if there is a checkpoint and it has one.
        """
        if saved is not None and saved.exists():
            replace_file(self.path, saved.read_bytes())
        else:
            self.path.unlink(missing_ok=True)
