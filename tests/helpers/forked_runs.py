# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Runs of the training scripts as processes that can be killed and sent signals. They are forks: none imports the libraries again."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lzn_hf.training.checkpoints import SAMPLES_DIR, list_checkpoints
from lzn_hf.training.command_line import run_as_script
from lzn_hf.training.metrics import METRICS_FILE

from .training import forget_accelerators, weights


CLOCK = "images_per_second"


def start(script: ModuleType, flags: str) -> Any:
    """Starts a script as from the command line. Its process."""

    def main() -> None:
        torch.set_num_threads(1)
        script.main(flags.split())

    forget_accelerators()
    process = multiprocessing.get_context("fork").Process(target=run_as_script, args=(main,))
    process.start()
    return process


def finish(process: Any, timeout: float = 240) -> int:
    """Waits for a process. Its exit code."""
    process.join(timeout)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"not done in {timeout} s")
    return process.exitcode


def kill_at_random(start: Callable[[], Any], folder: Path, kills: int, duration: float, seed: int) -> list[int]:
    """Starts a run again and again and kills it at a random moment, until that many were killed; then lets it finish.

    Returns:
        `list[int]`: the step of the last checkpoint at each kill.
    """
    draw, steps = random.Random(seed), []
    while len(steps) < kills:
        process = start()
        process.join(draw.uniform(0, duration))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            steps.append(max(list_checkpoints(folder), default=0))
        else:  # it had ended, and starts once more from its last checkpoint
            assert process.exitcode == 0
    assert finish(start()) == 0
    return steps


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], dict[str, bytes]]:
    """What a run leaves: the final weights, the lines of metrics without the speed, and all pictures."""
    lines = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]
    pictures = [*folder.glob("*.png"), *(folder / SAMPLES_DIR).glob("*")]
    return (
        weights(folder),
        [{name: value for name, value in line.items() if name != CLOCK} for line in lines],
        {str(path.relative_to(folder)): path.read_bytes() for path in pictures},
    )


def assert_same_outcome(disturbed: Path, undisturbed: Path) -> None:
    (weights_now, *rest), (expected_weights, *expected) = outcome(disturbed), outcome(undisturbed)
    assert rest == expected
    assert weights_now.keys() == expected_weights.keys()
    assert all(torch.equal(value, expected_weights[name]) for name, value in weights_now.items())
