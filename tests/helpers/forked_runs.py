# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Runs of the training scripts as processes that can be killed and sent signals. They are forks: none imports the libraries again."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lzn_hf.training.checkpoints import SAMPLES_DIR, list_checkpoints
from lzn_hf.training.command_line import run_as_script
from lzn_hf.training.metrics import METRICS_FILE
from lzn_hf.training.settings import DATA_SUMMARY_FILE

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


def begins(process: Any, folder: Path, before: int = 0) -> bool:
    """Whether a run has begun to take steps: it has written its summary of the data, anew if it was there at the time `before` (ns)."""
    summary = folder / DATA_SUMMARY_FILE
    return not process.is_alive() or (summary.exists() and summary.stat().st_mtime_ns > before)


def wait_for(condition: Callable[[], bool], timeout: float = 240) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not in {timeout} s"
        time.sleep(0.005)


def run_undisturbed(start: Callable[[], Any], folder: Path) -> float:
    """Lets a run come to its end. The seconds from its first step on."""
    process = start()
    wait_for(lambda: begins(process, folder))
    begin = time.monotonic()
    assert finish(process) == 0
    return time.monotonic() - begin


def kill_at_random(
    start: Callable[[], Any], folder: Path, kills: int, pause: float, last: int, seed: int
) -> list[int]:
    """Starts a run again and again and kills it at a random moment, until that many were killed; then lets it finish.

    The moments are spread over the run however fast it is: each comes up to `pause` seconds after the run has reached a random step. The
    first of five comes as early after the start of the process.

    Returns:
        `list[int]`: the step of the last checkpoint at each kill.
    """
    draw, steps = random.Random(seed), []
    targets = sorted(draw.randint(0, last) for _ in range(kills))
    while len(steps) < kills:
        target, now = targets[len(steps)], time.time_ns()
        process = start()
        if len(steps) % 5:
            wait_for(lambda: begins(process, folder, now))
            wait_for(lambda: not process.is_alive() or max(list_checkpoints(folder), default=0) >= target)
        process.join(draw.uniform(0, pause))
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
