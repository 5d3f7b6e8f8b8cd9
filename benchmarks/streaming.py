# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images that a stream hands to training, decoded, over all processes: per second of the clock, and of the busiest process's processor time.

    python benchmarks/streaming.py
    python benchmarks/streaming.py --processes 1 2 4 --num_workers 2

The path is that of `examples/train_joint.py`: `load_image_data(streaming=True)` and the batches of `make_train_loader`, where each
process reads and decodes images of its own. The baseline is accelerate's way for the same stream: with several processes the main one
reads and decodes the images of all, and sends them. The images are JPEG files in parquet shards.

The clock counts what else the machine does. Processor time does not: the busiest process bounds the speed where each has a core of its own.
It does not see workers, so that it is left out with `--num_workers`.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from accelerate import Accelerator, debug_launcher
from common import Row, row, run_benchmark
from PIL import Image
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader

from lzn_hf.data.batches import collate_images
from lzn_hf.data.images import load_image_data
from lzn_hf.training.batches import make_train_loader


ARGUMENTS = {
    "processes": ([1, 2], "numbers of processes"),
    "num_workers": (0, "workers of each process"),
    "files": (8, "parquet files"),
    "images": (128, "images in a file"),
    "image_size": (128, "side in pixels"),
    "batch": (64, "images in a batch of all processes"),
    "batches": (40, "batches in a timed run"),
}
QUICK = {"batches": 8, "repeats": 1}
FORMS = ("by file", "accelerate")


def write_shards(args: argparse.Namespace, folder: Path) -> None:
    draw = np.random.default_rng(args.seed)
    for file in range(args.files):
        images = []
        for _ in range(args.images):
            rough = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            content = io.BytesIO()
            rough.resize((args.image_size, args.image_size), Image.Resampling.BICUBIC).save(
                content, "JPEG", quality=90
            )
            images.append({"bytes": content.getvalue(), "path": None})
        pyarrow.parquet.write_table(pyarrow.table({"image": images}), folder / f"train-{file:03}.parquet")


def take_batches(args: argparse.Namespace, folder: Path, form: str) -> None:
    """In each process: writes the seconds of the timed batches, by the clock and of the busiest process, into the folder."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    count = accelerator.num_processes
    options = {"validation_fraction": 0, "use_labels": False, "shuffle_buffer_size": args.batch}
    stream = load_image_data(data_dir=folder, streaming=True, **options).train
    size = args.batch // count
    if form == "by file":
        batches = iter(make_train_loader(stream, size, count, args.num_workers))
    else:
        loader = DataLoader(stream, size, drop_last=True, collate_fn=collate_images, num_workers=args.num_workers)
        batches = chain.from_iterable(repeat(accelerator.prepare(loader)))
    next(batches)  # opens files, starts workers and fills the block of the shuffling
    accelerator.wait_for_everyone()
    start, own = time.perf_counter(), time.process_time()
    for _ in range(args.batches):
        assert len(next(batches)["pixel_values"]) == size
    busiest = accelerator.gather(torch.tensor([time.process_time() - own], dtype=torch.float64)).max().item()
    if accelerator.is_main_process:
        (folder / "seconds").write_text(json.dumps([time.perf_counter() - start, busiest]))


def seconds_of(args: argparse.Namespace, folder: Path, form: str, processes: int) -> list[float]:
    def work(*_: int) -> None:
        take_batches(args, folder, form)

    if processes == 1:
        start_processes(work, nprocs=1, start_method="fork")
    else:
        debug_launcher(work, num_processes=processes)
    return json.loads((folder / "seconds").read_text())


def measure(args: argparse.Namespace) -> list[Row]:
    seconds: dict[tuple[str, int], list[list[float]]] = {(form, n): [] for n in args.processes for form in FORMS}
    with tempfile.TemporaryDirectory() as name:
        write_shards(args, Path(name))
        for _ in range(args.repeats):  # in turns, so that a slow moment of the machine hits all
            for (form, count), values in seconds.items():
                values.append(seconds_of(args, Path(name), form, count))
    rows = []
    for count in args.processes:
        by_file, dispatched = (
            [args.batches * args.batch / statistics.median(times) for times in zip(*seconds[form, count], strict=True)]
            for form in FORMS
        )
        for kind, ours, baseline in zip(("the clock", "processor time"), by_file, dispatched, strict=True):
            if kind == "the clock" or not args.num_workers:
                rows.append(row(f"{count} process(es), by {kind}", ours, "images/s", baseline=baseline))
    return rows


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick=QUICK, threads=1)
