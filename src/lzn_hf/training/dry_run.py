# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What a dry run prints: all settings, sizes and steps, and then the time and memory of real steps."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Mapping, Sequence

import torch
from torch.nn import Parameter

from .arguments import RunArguments
from .settings import Settings


try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


TIMED_STEPS = 2
BYTES_OF_RSS = 1 if sys.platform == "darwin" else 1024  # unit of `ru_maxrss`


def dry_run_report(
    settings: Settings,
    parts: Mapping[str, Sequence[Parameter]],
    run: RunArguments,
    num_processes: int,
    train_images: int | None,
) -> str:
    """Returns the first part: all settings, the size of each part of the model, and the division into steps.

    Args:
        settings (`dict`): as of [`resolve_settings`].
        parts (`Mapping[str, Sequence[Parameter]]`): parameters of each part of the model, as of [`model_parts`].
        run (`RunArguments`): length and batches.
        num_processes (`int`): number of processes.
        train_images (`int`, *optional*): number of training images, if known.
    """
    lines = [json.dumps({name: section for name, section in settings.items() if name != "images"}, indent=2)]
    sizes = {name: sum(parameter.numel() for parameter in parameters) for name, parameters in parts.items()}
    sizes["total"] = sum(sizes.values())
    lines += [f"{name + ':':16}{size:>13,} parameters" for name, size in sizes.items()]
    pool = run.total_batch_size // run.gradient_accumulation_steps
    lines.append(
        f"{run.max_train_steps:,} steps x {run.total_batch_size:,} images = {run.gradient_accumulation_steps} anchor pool(s) "
        f"of {pool:,} images x {num_processes} process(es) x {pool // num_processes:,} images"
    )
    if train_images is not None:
        epochs = run.max_train_steps * run.total_batch_size / train_images
        lines.append(f"{epochs:.1f} epochs of {train_images:,} training images")
    return "\n".join(lines)


def timing_report(run: RunArguments, device: torch.device, images_per_second: float, peak_memory: int | None) -> str:
    """Returns the second part: the time and memory of the steps that were taken, and the time of the whole run.

    Args:
        run (`RunArguments`): length and batches.
        device (`torch.device`): the device of the steps.
        images_per_second (`float`): images of all processes per second.
        peak_memory (`int`, *optional*): bytes, as of [`peak_memory`], of the process that took the most.
    """
    seconds = run.total_batch_size / images_per_second
    whole = datetime.timedelta(seconds=round(seconds * run.max_train_steps))
    threads = f" with {torch.get_num_threads()} thread(s) a process" if device.type == "cpu" else ""
    lines = [
        f"{seconds:.3g} s a step, {images_per_second:.4g} images/s: {TIMED_STEPS} steps after one to warm up, on {device.type}{threads}",
        f"{run.max_train_steps:,} steps: {whole} (h:mm:ss) of training, if all take as long; evaluations and checkpoints come on top",
    ]
    if peak_memory is not None:
        kind = (
            "allocated on the GPU"
            if device.type == "cuda"
            else "resident in the main memory, with Python and its libraries"
        )
        lines.append(f"{peak_memory / 2**30:.2f} GiB of memory at the peak of a process, {kind}")
    return "\n".join(lines)


def peak_memory(device: torch.device) -> int | None:
    """Returns the most bytes that this process had at once: allocated on a CUDA device, or else resident in the main memory.

    `None` on a system that does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return None if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_OF_RSS
