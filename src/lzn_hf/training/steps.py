# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the training scripts in `examples/` share, piece by piece: each function or class does one thing to its
arguments.

Everything random in a step follows from (seed, step, micro-batch, process), see [`seed_micro_batch`]. So a resumed run
continues to the bit without saved generator states, and how often a run logs, evaluates or saves changes nothing in
it.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..data.batches import collate_images, to_pixel_values
from ..data.images import ImageData, load_image_data
from ..modeling_lzn import LZNModel, evaluation_mode
from .arguments import DataArguments, RunArguments


logger = logging.getLogger(__name__)


def start_accelerator(run: RunArguments, trackers: Sequence[Any] = ()) -> Accelerator:
    """Sets up logging, creates the accelerator and checks that it runs on as many processes as were started.

    Args:
        run: The run's settings.
        trackers: Names or instances of accelerate trackers.

    Raises:
        ValueError: if several processes were started that do not see each other, or a tracker is not installed.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line for each request to the Hub
    if run.report_to != "none" and not _is_importable(f"torch.utils.{run.report_to}"):
        raise ValueError(f"`report_to` is {run.report_to}, which is not installed: pip install {run.report_to}")
    accelerator = Accelerator(
        # Without this, accelerate on a machine without accelerator starts torchrun's processes as strangers to each
        # other.
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
    index, count = accelerator.process_index + 1, accelerator.num_processes
    logger.info(f"process {index} of {count} on {accelerator.device}, mixed precision: {accelerator.mixed_precision}")
    if not accelerator.is_main_process:  # from here on, one process speaks for all
        logging.getLogger("lzn_hf").setLevel(logging.ERROR)
    return accelerator


def check_num_processes(num_processes: int) -> None:
    """Raises a ValueError if the launcher started another number of processes than the accelerator sees.

    On a machine without accelerator, processes that were started for one can run as so many strangers, without any
    error.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != num_processes:
        raise ValueError(
            f"{started} processes were started (WORLD_SIZE), but accelerate sees {num_processes}: each would train "
            "alone. Without GPUs, start them by `torchrun --nproc_per_node N` or by `ACCELERATE_USE_CPU=true accelerate launch "
            "--multi_gpu --num_processes N --num_machines 1`."
        )


def _is_importable(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def micro_batch_size(run: RunArguments, num_processes: int) -> int:
    """Images of one process in one forward pass; a ValueError if `total_batch_size` does not divide evenly."""
    parts = num_processes * run.gradient_accumulation_steps
    if run.total_batch_size % parts:
        raise ValueError(
            f"`total_batch_size` {run.total_batch_size} cannot be split evenly over {num_processes} processes x "
            f"{run.gradient_accumulation_steps} gradient accumulation steps."
        )
    return run.total_batch_size // parts


def seed_micro_batch(generator: torch.Generator, seed: int, step: int, micro_batch: int, process_index: int) -> None:
    """Seeds PyTorch's generators (dropout) and `generator` (noise, augmentation) for a micro-batch of a process."""
    sequence = np.random.SeedSequence([seed, step, micro_batch, process_index])
    default_seed, generator_seed = sequence.generate_state(2, np.uint64).tolist()
    torch.manual_seed(default_seed)
    generator.manual_seed(generator_seed)


def load_data(accelerator: Accelerator, arguments: DataArguments, use_labels: bool = True) -> ImageData:
    """Loads the data, on the main process first, so that the others find what it downloaded and converted."""
    with accelerator.main_process_first():
        return load_image_data(
            arguments.dataset_name,
            arguments.data_dir,
            config_name=arguments.dataset_config_name,
            image_column=arguments.image_column,
            label_column=arguments.label_column,
            train_split=arguments.train_split,
            validation_split=arguments.validation_split,
            validation_fraction=arguments.validation_fraction,
            image_size=arguments.image_size,
            num_channels=arguments.num_channels,
            use_labels=use_labels,
            skip_bad_images=arguments.skip_bad_images,
            streaming=arguments.streaming,
            shuffle_buffer_size=arguments.shuffle_buffer_size,
            seed=arguments.data_seed,
        )


def make_train_loader(dataset: Dataset, batch_size: int, num_processes: int, num_workers: int = 0) -> DataLoader:
    """The data loader to prepare: shuffled, and full batches only, so that all processes have as many images in a
    pool.

    Raises:
        ValueError: if the dataset does not fill one batch on each process.
    """
    streamed = isinstance(dataset, IterableDataset)
    if not streamed and len(dataset) < batch_size * num_processes:
        raise ValueError(
            f"the {len(dataset)} training images do not fill one batch of {batch_size} on {num_processes} process(es): "
            "make `total_batch_size` smaller."
        )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=not streamed,
        drop_last=True,
        collate_fn=collate_images,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )


# Optimisation


def make_scheduler(optimizer: torch.optim.Optimizer, run: RunArguments) -> torch.optim.lr_scheduler.LambdaLR:
    """Learning-rate schedule of all parts: linear warm-up, then constant or a half cosine to zero at the last step.

    The warm-up starts at 1 / warmup_steps of the full rate, which is 0.0002 for the published 5,000 steps.
    """
    warmup, end = run.warmup_steps, run.max_train_steps

    def factor(step: int) -> float:
        rise = 1.0 if step >= warmup else (1 + step * (1 - 1 / warmup)) / warmup
        if run.lr_scheduler == "constant" or step < warmup:
            return rise
        progress = min((step - warmup) / max(end - warmup, 1), 1.0)
        return 0.5 * (1 + math.cos(math.pi * progress))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class NonFiniteGuard:
    """Decides, the same on every process, whether a step may reach the weights, and stops a run where none may.

    Args:
        max_in_a_row: Raise after this many skipped steps in a row.
    """

    def __init__(self, max_in_a_row: int):
        self.max_in_a_row = max_in_a_row
        self.total = 0
        self.in_a_row = 0
        self._losses: list[Tensor] = []

    def watch(self, loss: Tensor) -> None:
        """Takes note of the loss of a micro-batch."""
        self._losses.append(loss.detach())

    def step_is_finite(self, accelerator: Accelerator, grad_norm: Tensor) -> bool:
        """Whether the losses watched since the last call and the gradient norm are finite on all processes.

        If not, the caller must leave weights, averages and schedule alone and drop the gradients.

        Raises:
            RuntimeError: after `max_in_a_row` steps in a row that were not.
        """
        finite = torch.isfinite(torch.stack([*self._losses, grad_norm.detach()]).float()).all()
        self._losses = []
        if bool(accelerator.gather(finite.reshape(1).float()).min() == 1):
            self.in_a_row = 0
            return True
        self.total += 1
        self.in_a_row += 1
        if accelerator.scaler is not None:
            accelerator.scaler.update()  # float16: this is what lowers the loss scale after an overflow
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


class MetricAverager:
    """Means of scalars over the good steps since the last line of metrics, and over all processes; and the speed.

    Args:
        images_per_step: For the images a second.
    """

    def __init__(self, images_per_step: int):
        self.images_per_step = images_per_step
        self._pending: list[dict[str, Tensor]] = []
        self._kept: list[dict[str, Tensor]] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Starts to measure the speed anew, so that an evaluation does not count."""
        self._start, self._steps = time.perf_counter(), 0

    def add(self, **values: Tensor | None) -> None:
        """Adds the scalars of a micro-batch; None is left out."""
        self._pending.append({name: value.detach().float() for name, value in values.items() if value is not None})

    def end_step(self, keep: bool) -> None:
        """Keeps what was added since the last call, or drops it with its step."""
        if keep:
            self._kept += self._pending
        self._pending = []
        self._steps += 1

    def compute(self, accelerator: Accelerator) -> dict[str, float]:
        """The means (none without a good step), the same on every process, and `images_per_second`; starts over."""
        metrics = {}
        if self._kept:
            names = list(self._kept[0])
            means = torch.stack([torch.stack([values[name] for name in names]) for values in self._kept]).mean(0)
            metrics = dict(zip(names, accelerator.reduce(means, reduction="mean").tolist(), strict=True))
        self._kept = []
        metrics["images_per_second"] = self._steps * self.images_per_step / (time.perf_counter() - self._start)
        self.restart_clock()
        return metrics


class EndlessBatches:
    """The batches of a prepared data loader, epoch after epoch, with a position that can be saved.

    Args:
        dataloader: As `Accelerator.prepare` returns it, shuffled by a seedable sampler.
    """

    def __init__(self, dataloader: Any):
        self.dataloader = dataloader
        self.epoch = 0
        self.batch = 0

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.dataloader.set_epoch(self.epoch)
            rest = skip_first_batches(self.dataloader, self.batch) if self.batch else self.dataloader
            for batch in rest:
                self.batch += 1
                yield batch
            if self.batch == 0:
                raise ValueError("The training data did not fill one batch: make `total_batch_size` smaller.")
            self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]


# Evaluation with reference anchors


@contextmanager
def reference_anchors(model: LZNModel, anchors: Tensor) -> Iterator[None]:
    """Inside this context the model has these reference anchors, as a saved model would; afterwards it has none."""
    model.set_reference_anchors(anchors)
    try:
        yield
    finally:
        model.reference_anchors = None
        model.config.num_reference_anchors = 0


def encode_anchors(model: LZNModel, batches: Iterable[dict[str, Tensor]]) -> Tensor:
    """Anchors `(N, D)` of `uint8` batches, on the model's device."""
    with evaluation_mode(model):
        return torch.cat(
            [model.get_image_anchors(to_pixel_values(b["pixel_values"].to(model.device))) for b in batches]
        )


def measure_accuracy(accelerator: Accelerator, model: LZNModel, batches: Iterable[dict[str, Tensor]]) -> float:
    """Share of images whose most probable zone is that of their label, each placed among the reference anchors by
    itself.

    Args:
        accelerator: Adds up the counts of all processes.
        model: The plain model, with reference anchors.
        batches: This process's share of the `uint8` images with labels.
    """
    correct, total = torch.zeros((), dtype=torch.int64, device=model.device), 0
    with evaluation_mode(model):
        for batch in batches:
            log_probs = model.classify_images(to_pixel_values(batch["pixel_values"].to(model.device)))
            correct += (log_probs.argmax(-1) == batch["labels"].to(model.device)).sum()
            total += len(log_probs)
    counts = accelerator.reduce(torch.stack([correct, torch.full_like(correct, total)]), reduction="sum").tolist()
    return counts[0] / max(counts[1], 1)
