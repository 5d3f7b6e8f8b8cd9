# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Processes of a run: their start, a check that all see each other, and an explanation when some do not answer."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import (
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    broadcast_object_list,
    gather_object,
)

from .arguments import RunArguments, near_names
from .sharding import allow_sharding


logger = logging.getLogger(__name__)

T = TypeVar("T")
# What the errors of collectives say when another process did not answer in time, or has ended.
SIGNS_OF_LOST_PROCESSES = ("timed out", "timeout", "connection closed by peer", "connection reset by peer")
SECONDS_TO_REPORT = 5.0  # between the processes that gave up


def start_accelerator(run: RunArguments, trackers: Sequence[Any] = ()) -> Accelerator:
    """Sets up logging, creates the accelerator and checks that it spans all processes that were started.

    Args:
        run (`RunArguments`): the run's settings.
        trackers (`Sequence`, *optional*): names or instances of accelerate trackers.

    Returns:
        `Accelerator`: with these trackers and those of `run.report_to`.

    Raises:
        ValueError: if several processes were started that do not see each other, a tracker is unknown or not installed, the precision
            is not available on the device, or the config of accelerate shards weights in a way that is not supported.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    for name in ("httpx", "httpx2"):  # of huggingface_hub 1 and 2: one line for each request to the Hub
        logging.getLogger(name).setLevel(logging.WARNING)
    reported = tracker_names(run.report_to)
    accelerator = Accelerator(
        # Without an accelerator device, accelerate does not connect the processes of torchrun unless told so.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=run.mixed_precision,
        # The end of an epoch does not cut an optimizer step short: every step has the same number of micro-batches.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=run.gradient_accumulation_steps, sync_with_dataloader=False
        ),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=run.seed),
        log_with=[*trackers, *reported],
        project_config=ProjectConfiguration(
            project_dir=run.output_dir, logging_dir=os.path.join(run.output_dir, "logs")
        ),
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=run.process_timeout))],
    )
    check_num_processes(accelerator.num_processes)
    allow_sharding(accelerator)
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("`mixed_precision` is fp16, which a CPU cannot train with: choose bf16 or no.")
    index, count = accelerator.process_index + 1, accelerator.num_processes
    logger.info(f"process {index} of {count} on {accelerator.device}, mixed precision: {accelerator.mixed_precision}")
    if not accelerator.is_main_process:  # from here on, only the main process logs
        logging.getLogger("lzn_hf").setLevel(logging.ERROR)
        logging.getLogger("lzn_hf.data.streams").setLevel(logging.WARNING)  # each process reads other images
    return accelerator


def tracker_names(report_to: Sequence[str]) -> list[str]:
    """Returns the names of the trackers of accelerate that a run reports to.

    Args:
        report_to (`Sequence[str]`): their names; `all` stands for all that are installed, `none` for no tracker.

    Raises:
        ValueError: for a name that accelerate does not know, a tracker that is not installed, or `none` or `all` beside others.
    """
    installed = sorted(str(tracker) for tracker in get_available_trackers())
    if len(report_to) > 1 and {"all", "none"} & {*report_to}:
        raise ValueError(f"`report_to` is {' '.join(report_to)}: give `all`, `none` or names, not several of these.")
    if "all" in report_to:
        return installed
    names = [name for name in dict.fromkeys(report_to) if name != "none"]
    for name in names:
        known = sorted([*LOGGER_TYPE_TO_CLASS, "all", "none"])
        if name not in known:
            raise ValueError(f"`report_to` must be of {', '.join(known)}, but has {name!r}.{near_names(name, known)}")
        if name not in installed:
            raise ValueError(f"`report_to` has {name}, which is not installed: pip install {name}")
    return names


def check_num_processes(num_processes: int) -> None:
    """Raises a `ValueError` if the launcher started another number of processes than the accelerator sees.

    On a machine without accelerator device, the processes of one run can run independently, without any error.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != num_processes:
        raise ValueError(
            f"{started} processes were started (WORLD_SIZE), but accelerate sees {num_processes}: each would train "
            "alone. Without GPUs, start them by `torchrun --nproc_per_node N` or by `ACCELERATE_USE_CPU=true accelerate launch "
            "--multi_gpu --num_processes N --num_machines 1`."
        )


def make_pool_group(run: RunArguments, num_processes: int) -> Any:
    """Returns the group of the processes that share pools with this one, those of neighbouring ranks; `None` for all.

    All processes must call this.
    """
    if run.pool_group_size in (None, num_processes):
        return None
    return dist.new_subgroups(run.pool_group_size)[0]


def on_main_process(accelerator: Accelerator, function: Callable[[], T]) -> T:
    """Calls a function on the main process alone, while the others wait. All processes must call this.

    Returns:
        What the function returned, on all processes. It must be possible to pickle it.

    Raises:
        OSError, ValueError: on all processes, if the function raised it on the main one.
    """
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome = [function(), None]
        except (OSError, ValueError) as error:
            outcome = [None, error]
    result, failure = broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    return result


def on_all_processes(accelerator: Accelerator, function: Callable[[], object]) -> None:
    """Calls a function on each process, and waits for all of them.

    Raises:
        OSError, ValueError: on all processes, if the function raised it on one.
    """
    failure: Exception | None = None
    try:
        function()
    except (OSError, ValueError) as error:
        failure = error
    failures = [one for one in gather_object([failure]) if one is not None]
    if failures:
        raise failures[0]


@contextmanager
def explain_lost_processes() -> Iterator[None]:
    """Turns the error of a collective that other processes did not answer into one that names them and says where to look.

    Raises:
        RuntimeError: if a process waited in vain for others, or lost its connection to them.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        is_of_collective = dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo" in text)
        if not is_of_collective or not any(sign in text for sign in SIGNS_OF_LOST_PROCESSES):
            raise
        raise RuntimeError(_explanation(silent_processes())) from error


def silent_processes() -> list[int] | None:
    """Returns the processes that, unlike this one, do not report that they gave up; `None` if the store of reports does not answer.

    Each process that waits in vain must call it. A collective fails on all that take part in it at about the same time.
    """
    silent: list[int] | None = None

    def ask() -> None:
        nonlocal silent
        # PyTorch shares it among the processes to connect them, and has no public name for it.
        store = dist.PrefixStore("lost_processes", dist.distributed_c10d._get_default_store())
        store.set(str(dist.get_rank()), "gave up")
        end = time.monotonic() + SECONDS_TO_REPORT
        while True:
            missing = [rank for rank in range(dist.get_world_size()) if not store.check([str(rank)])]
            if not missing or time.monotonic() > end:
                silent = missing
                return
            time.sleep(0.1)

    # In a thread, as a call of the store would wait forever if the process that holds it is the one that stands still.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * SECONDS_TO_REPORT)
    return silent


def _explanation(silent: list[int] | None) -> str:
    rank, count = dist.get_rank(), dist.get_world_size()
    if silent is None:
        who = "not even process 0, which connects them, answers"
    elif silent:
        who = f"process {', '.join(str(other) for other in silent)} (counted from 0) did not answer"
    else:
        who = "the connection between them is lost"
    return (
        f"process {rank} of 0..{count - 1} waited in vain for the others: {who}. So the run ends; continue it from its last checkpoint "
        "(`--resume_from_checkpoint latest`). Look for a process that was stopped or killed (out of memory: `dmesg`), that still reads "
        "data or writes to a slow disk (`py-spy dump --pid PID` shows where it stands), for a GPU with errors (`nvidia-smi`) and for the "
        "network. If the main process only needs more time for what it does alone, raise `--process_timeout`."
    )
