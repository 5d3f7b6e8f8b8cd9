# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Start of a training process: logging, the accelerator, and a check that all processes see each other."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration, broadcast_object_list

from .arguments import RunArguments


logger = logging.getLogger(__name__)

T = TypeVar("T")


def start_accelerator(run: RunArguments, trackers: Sequence[Any] = ()) -> Accelerator:
    """Sets up logging, creates the accelerator and checks that it spans all processes that were started.

    Args:
        run (`RunArguments`): the run's settings.
        trackers (`Sequence`, *optional*): names or instances of accelerate trackers.

    Returns:
        `Accelerator`: with these trackers and that of `run.report_to`.

    Raises:
        ValueError: if several processes were started that do not see each other, a tracker is not installed, or the precision is
            not available on the device.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    for name in ("httpx", "httpx2"):  # of huggingface_hub 1 and 2: one line for each request to the Hub
        logging.getLogger(name).setLevel(logging.WARNING)
    if run.report_to != "none" and find_spec(run.report_to) is None:
        raise ValueError(f"`report_to` is {run.report_to}, which is not installed: pip install {run.report_to}")
    accelerator = Accelerator(
        # Without an accelerator device, accelerate does not connect the processes of torchrun unless told so.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=run.mixed_precision,
        # The end of an epoch does not cut an optimizer step short: every step has the same number of micro-batches.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=run.gradient_accumulation_steps, sync_with_dataloader=False
        ),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=run.seed),
        log_with=list(trackers) + ([run.report_to] if run.report_to != "none" else []),
        project_config=ProjectConfiguration(
            project_dir=run.output_dir, logging_dir=os.path.join(run.output_dir, "logs")
        ),
        step_scheduler_with_optimizer=False,
    )
    check_num_processes(accelerator.num_processes)
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("`mixed_precision` is fp16, which a CPU cannot train with: choose bf16 or no.")
    index, count = accelerator.process_index + 1, accelerator.num_processes
    logger.info(f"process {index} of {count} on {accelerator.device}, mixed precision: {accelerator.mixed_precision}")
    if not accelerator.is_main_process:  # from here on, only the main process logs
        logging.getLogger("lzn_hf").setLevel(logging.ERROR)
    return accelerator


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
    result, error = broadcast_object_list(outcome)
    if error is not None:
        raise error
    return result
