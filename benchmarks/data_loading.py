# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Throughput from the tensor cache to augmented pixel values, on one core.

    python benchmarks/data_loading.py
    python benchmarks/data_loading.py --image_size 64 --batch 128

The path is that of `examples/train_joint.py`: `TensorImageDataset`, the loader of `make_train_loader` prepared by accelerate,
`EndlessBatches`, `to_pixel_values`. Pixels and labels are random. The baseline does the same with one image at a time, as a
dataset with per-image transforms does: index, flip, convert to float, stack. Rates are per second of processor time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import chain, repeat

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from common import Row, median_times, peak_memory, row, run_benchmark
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lzn_hf.data.batches import to_pixel_values
from lzn_hf.data.images import TensorImageDataset
from lzn_hf.training.batches import EndlessBatches, make_train_loader


ARGUMENTS = {
    "images": (50_000, "images in the cache"),
    "image_size": (32, "side in pixels"),
    "channels": (3, "channels"),
    "batch": (256, "batch size"),
    "batches": (150, "batches in a timed run"),
}
QUICK = {"images": 20_000, "batches": 40, "repeats": 3}
FLIPPED = "pixel values, flip"
FORMS = {  # the arguments of `to_pixel_values`
    "batches of bytes": None,
    "pixel values": {},
    FLIPPED: {"flip": True},
    "pixel values, flip and shift": {"flip": True, "shift": 4},
}
DETAILS = ("batches of bytes", "pixel values")


class PlainImages(Dataset):
    """The baseline: one image at a time."""

    def __init__(self, cache: TensorImageDataset):
        self.cache = cache

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.cache.pixel_values[index]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return image.float() / 127.5 - 1, self.cache.labels[index]


def random_cache(args: argparse.Namespace) -> TensorImageDataset:
    shape = (args.images, args.channels, args.image_size, args.image_size)
    return TensorImageDataset(torch.randint(0, 256, shape, dtype=torch.uint8), torch.randint(0, 10, shape[:1]))


def epochs(args: argparse.Namespace, form: str, cache: TensorImageDataset | None = None) -> Callable[[], None]:
    """Returns the loop of a timed run, with its loader set up as in train_joint.py."""
    cache = random_cache(args) if cache is None else cache
    configuration = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=args.seed)
    accelerator = Accelerator(cpu=True, dataloader_config=configuration)
    batches = iter(EndlessBatches(accelerator.prepare(make_train_loader(cache, args.batch, 1))))
    augmentation, generator = FORMS[form], torch.Generator()

    def run() -> None:
        for _ in range(args.batches):
            images = next(batches)["pixel_values"]
            if augmentation is not None:
                to_pixel_values(images, generator=generator, **augmentation)

    return run


def measure(args: argparse.Namespace) -> list[Row]:
    cache = random_cache(args)
    plain = chain.from_iterable(repeat(DataLoader(PlainImages(cache), args.batch, shuffle=True, drop_last=True)))
    few = max(args.batches // 10, 1)  # the baseline is slower than that
    functions = {form: epochs(args, form, cache) for form in FORMS}
    seconds = median_times(functions | {"plain": lambda: [next(plain) for _ in range(few)]}, args.repeats)
    baseline = few * args.batch / seconds["plain"]
    rows = [
        row(
            form,
            args.batches * args.batch / seconds[form],
            "images/s",
            baseline=baseline if form == FLIPPED else None,
            detail=form in DETAILS,
        )
        for form in FORMS
    ]
    return [*rows, row("peak memory of the loop, over the cache", peak_memory(args, FLIPPED) / 2**20, "MiB")]


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick=QUICK, threads=1, memory=epochs)
