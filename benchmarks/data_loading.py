# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images a second from the tensor cache to augmented pixel values, on one core.

    python benchmarks/data_loading.py
    python benchmarks/data_loading.py --image_size 64 --batch 128

The path is that of `examples/train_joint.py`: `TensorImageDataset`, the loader of `make_train_loader` prepared by accelerate,
`EndlessBatches`, `to_pixel_values`. Pixels and labels are random. The baseline does the same with one image at a time, as a
dataset with per-image transforms does: index, flip, convert to float, stack.
Rates are images per second of processor time of this process, with one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import chain, repeat

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from common import (
    benchmark_parser,
    median_times,
    parse,
    peak_memory,
    print_peak_memory,
    print_rows,
    row,
    write_results,
)
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lzn_hf.data.batches import to_pixel_values
from lzn_hf.data.images import TensorImageDataset
from lzn_hf.training.batches import EndlessBatches, make_train_loader


QUICK = {"images": 20_000, "batches": 40, "repeats": 3}
FORMS = {  # what `to_pixel_values` is asked for
    "batches of bytes": None,
    "pixel values": {},
    "pixel values, flip": {"flip": True},
    "pixel values, flip and shift": {"flip": True, "shift": 4},
}


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


def train_batches(cache: TensorImageDataset, args: argparse.Namespace) -> Iterator[dict[str, Tensor]]:
    """Batches as train_joint.py gets them."""
    configuration = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=args.seed)
    accelerator = Accelerator(cpu=True, dataloader_config=configuration)
    return iter(EndlessBatches(accelerator.prepare(make_train_loader(cache, args.batch, 1))))


def main() -> None:
    parser = benchmark_parser(__doc__, "data_loading")
    parser.add_argument("--images", type=int, default=50_000, help="images in the cache (50,000)")
    parser.add_argument("--image_size", type=int, default=32, help="side in pixels (32)")
    parser.add_argument("--channels", type=int, default=3, help="channels (3)")
    parser.add_argument("--batch", type=int, default=256, help="images a batch (256)")
    parser.add_argument("--batches", type=int, default=150, help="batches of a timed run (150)")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    args = parse(parser, QUICK)
    torch.set_num_threads(1)
    cache = random_cache(args)
    batches, generator = train_batches(cache, args), torch.Generator()

    def run(augmentation: dict | None) -> None:
        for _ in range(args.batches):
            images = next(batches)["pixel_values"]
            if augmentation is not None:
                to_pixel_values(images, generator=generator, **augmentation)

    if args.memory_of:
        return print_peak_memory(lambda: run(FORMS[args.memory_of]))

    plain_loader = DataLoader(PlainImages(cache), args.batch, shuffle=True, drop_last=True)
    plain = chain.from_iterable(repeat(plain_loader))
    few = max(args.batches // 10, 1)  # of a form that is slower by more than that
    functions = {name: lambda augmentation=augmentation: run(augmentation) for name, augmentation in FORMS.items()}
    functions["plain"] = lambda: [next(plain) for _ in range(few)]
    seconds = median_times(functions, args.repeats, clock=time.process_time)

    rates = {name: args.batches * args.batch / seconds[name] for name in FORMS}
    baseline = few * args.batch / seconds["plain"]
    target = ">= 100,000" if (args.image_size, args.channels) == (32, 3) else None
    flipped = "pixel values, flip"
    rows = []
    for name, rate in rates.items():
        if name == flipped:
            rows.append(row(name, rate, "images/s", baseline=baseline, target=target))
        else:
            rows.append(row(name, rate, "images/s", detail=name != "pixel values, flip and shift"))
    sizes = ["--images", "--image_size", "--channels", "--batch", "--batches", "--seed"]
    arguments = [text for name in sizes for text in (name, str(getattr(args, name[2:])))]
    peak = peak_memory(["--memory_of", flipped, *arguments])
    rows.append(row("peak memory of the loop, over the cache", peak / 2**20, "MiB"))
    print_rows(rows)
    write_results(args.output, vars(args), rows)


if __name__ == "__main__":
    main()
