# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Signals that end a run in good order: Ctrl-C (SIGINT), SIGTERM, and SIGUSR1, by which clusters announce that time is up."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any


STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class StopRequested(Exception):
    """All processes have agreed to stop.

    Args:
        number (`int`): the signal that one of them received.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 + the number of the signal, as in a shell: 130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1 on Linux."""
        return 128 + self.number


class StopSignals:
    """Inside this context, a stop signal is noted in `received` instead of ending the process. A second Ctrl-C ends it at once.

    A context within a thread other than the main one changes nothing, because only the main thread may handle signals.
    """

    def __init__(self) -> None:
        self.received = 0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked worker that loads data: Ctrl-C in a terminal reaches it as well, but the process that it works for decides.
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if number == signal.SIGINT:
            # By the system, not by Python, which would wait for the end of a hanging operation.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.received = number
        again = " Ctrl-C again stops at once." if number == signal.SIGINT else ""
        # Not by logging: the signal may have interrupted a write of its own.
        os.write(2, f"\n{signal.Signals(number).name}: stopping after this step.{again}\n".encode())

    def wait(self, seconds: float) -> None:
        """Waits, but no longer than until a signal arrives."""
        end = time.monotonic() + seconds
        while not self.received and time.monotonic() < end:
            time.sleep(0.2)


def resume_command(checkpoint: str = "latest", **flags: str) -> str:
    """Returns the command of this process with `--resume_from_checkpoint`, ready for a shell.

    Args:
        checkpoint (`str`, *optional*, defaults to `"latest"`): the value of that flag.
        flags (*optional*): more flags to set.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    start = ["torchrun", "--nproc_per_node", os.environ.get("LOCAL_WORLD_SIZE", str(processes))]
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        sharding = "--use_fsdp --fsdp_version 2 --fsdp_cpu_ram_efficient_loading false --fsdp_reshard_after_forward"
        reshard = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true")
        start = ["accelerate", "launch", *sharding.split(), reshard, "--num_processes", str(processes)]
    words = [*start, *sys.argv] if processes > 1 else sys.orig_argv
    flags = {**flags, "resume_from_checkpoint": checkpoint}
    words = without_flags(words, ["overwrite_output_dir", *flags])
    return shlex.join([*words, *(word for name, value in flags.items() for word in (f"--{name}", value))])


def without_flags(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Returns the words of a command line without some flags and their values. Every value follows its flag."""
    kept, is_dropped = [], False
    for word in words:
        if word.startswith("--"):
            is_dropped = word[2:].partition("=")[0].replace("-", "_") in names
        if not is_dropped:
            kept.append(word)
    return kept
