# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Training batches: the data and its loader, a position in it that can be saved, and the seeds of each micro-batch.

All random numbers of a step follow from (seed, step, micro-batch, image), see [`seed_draws`]. So a resumed run
continues bit-identically without saved generator states, on another number of processes, too, and logging, evaluation and
saving do not change a run. Dropout alone depends on the process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, skip_first_batches
from torch.utils.data import DataLoader, Dataset

from ..data.batches import collate_images
from ..data.columns import NoLabelsError
from ..data.images import ImageData, StreamedImageDataset, load_image_data
from .arguments import DataArguments, RunArguments
from .streams import StreamBatches


logger = logging.getLogger(__name__)


def load_data(
    accelerator: Accelerator, arguments: DataArguments, use_labels: bool = True, require_labels: bool = True
) -> ImageData:
    """Loads the data, on the main process first, so that the others find what it downloaded and converted.

    Args:
        accelerator (`Accelerator` or `PartialState`): the processes.
        arguments (`DataArguments`): which data.
        use_labels (`bool`, *optional*, defaults to `True`): whether to read labels.
        require_labels (`bool`, *optional*, defaults to `True`): whether data without labels is an error. If not, it is read without.

    Returns:
        `ImageData`: the data.

    Raises:
        ValueError: for whatever is wrong with the data.
    """

    def load(use_labels: bool) -> ImageData:
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

    with accelerator.main_process_first():
        try:
            return load(use_labels)
        except NoLabelsError as error:
            if require_labels:
                raise ValueError(
                    f"{error}. train_unconditional.py and train_representation.py need no labels."
                ) from error
            if arguments.label_column is not None:
                raise
            captions = [column for column in arguments.caption_columns if column in error.columns]
            if captions:
                logger.info(
                    f"The captions are those of the column {captions[0]!r}: another is named by `caption_column`."
                )
                arguments.label_column = captions[0]
                return load(use_labels=True)
            logger.info(f"Without labels: {error}.")
            return load(use_labels=False)


def micro_batch_size(run: RunArguments, num_processes: int) -> int:
    """Returns the images per process and forward pass. Raises a `ValueError` if `total_batch_size` is not divisible."""
    parts = num_processes * run.gradient_accumulation_steps
    if run.total_batch_size % parts:
        raise ValueError(
            f"`total_batch_size` {run.total_batch_size} cannot be split evenly over {num_processes} processes x "
            f"{run.gradient_accumulation_steps} gradient accumulation steps."
        )
    return run.total_batch_size // parts


def micro_batches_of_a_pool(run: RunArguments, num_processes: int) -> int:
    """Returns the number of micro-batches of a process whose images share a pool.

    Raises:
        ValueError: if `pool_group_size` does not divide the processes, or `pool_batch_size` is not made of whole micro-batches, or a step
            not of whole pools.
    """
    group_size = run.pool_group_size or num_processes
    if num_processes % group_size:
        raise ValueError(f"`pool_group_size` must divide the {num_processes} process(es), got {group_size}.")
    micro_batch = micro_batch_size(run, num_processes) * group_size
    pool = micro_batch if run.pool_batch_size is None else run.pool_batch_size
    if pool % micro_batch or run.gradient_accumulation_steps % (pool // micro_batch):
        raise ValueError(
            f"`pool_batch_size` must be a multiple of the {micro_batch} images of a micro-batch, and a step of {run.total_batch_size} images "
            f"must be made of whole pools, got {pool}: micro-batches are made smaller by `--gradient_accumulation_steps`, "
            f"{run.gradient_accumulation_steps} now."
        )
    return pool // micro_batch


def make_train_loader(
    dataset: Dataset, batch_size: int, num_processes: int, num_workers: int = 0
) -> DataLoader | StreamBatches:
    """Creates the shuffled data loader to prepare. It drops incomplete batches: all anchor pools have the same size.

    Args:
        dataset (`Dataset`): the training images.
        batch_size (`int`): images in a batch of one process.
        num_processes (`int`): number of processes.
        num_workers (`int`, *optional*, defaults to 0): worker processes of each process that decode.

    Returns:
        `DataLoader` or [`StreamBatches`]: the latter for a stream; `Accelerator.prepare` leaves it as it is. [`endless_batches`] takes both.

    Raises:
        ValueError: if the dataset does not fill one batch on each process.
    """
    if isinstance(dataset, StreamedImageDataset):
        return StreamBatches(dataset, batch_size, num_workers)
    if isinstance(dataset, Sized) and len(dataset) < batch_size * num_processes:
        raise ValueError(
            f"the {len(dataset)} training images do not fill one batch of {batch_size} on {num_processes} process(es): make the "
            "batches smaller by `--total_batch_size`."
        )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=collate_images,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )


def endless_batches(loader: Any) -> EndlessBatches | StreamBatches:
    """Returns batches without end, whose position can be saved, of a prepared loader of [`make_train_loader`]."""
    return loader if isinstance(loader, StreamBatches) else EndlessBatches(loader)


class EndlessBatches:
    """Iterates over the batches of a prepared data loader, epoch after epoch, from a position that can be saved.

    A position counts the batches of all processes together: batch i of an epoch is row r B to row (r + 1) B - 1 of the i-th k B images
    on process r of k. So it is the same image for any k with the same k B.

    Args:
        dataloader: as `Accelerator.prepare` returns it, shuffled by a seedable sampler.
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
                raise ValueError(
                    "The training data did not fill one batch: make the batches smaller by `--total_batch_size`."
                )
            self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]


def seed_draws(generator: torch.Generator, seed: int, step: int, pool: int) -> None:
    """Seeds a generator of noise, times and augmentation for a pool of images.

    It has one state on all processes: what is drawn with it is drawn for the images of all, and each process takes its rows (see
    [`draw_rows`]).

    Args:
        generator (`torch.Generator`): the generator.
        seed (`int`): seed of the run.
        step (`int`): optimizer steps done.
        pool (`int`): number of the pool in the step.
    """
    generator.manual_seed(_seeds(seed, step, pool, 0)[1])


def seed_dropout(seed: int, step: int, micro_batch: int, process_index: int, stage: int = 0) -> None:
    """Seeds PyTorch's default generators, by which layers draw dropout for their own rows: differently on each process.

    Args:
        seed (`int`): seed of the run.
        step (`int`): optimizer steps done.
        micro_batch (`int`): number of the micro-batch in the step.
        process_index (`int`): index of the process.
        stage (`int`, *optional*, defaults to 0): number of the forward pass, if those of one micro-batch are apart.
    """
    torch.manual_seed(_seeds(seed, step, micro_batch, process_index, *([stage] if stage else []))[0])


def _seeds(*key: int) -> list[int]:
    return np.random.SeedSequence(key).generate_state(2, np.uint64).tolist()
