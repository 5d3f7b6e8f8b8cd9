# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Time and memory of a training step with a large pool in small micro-batches (`--pool_batch_size`), by the training scripts.

    python benchmarks/pools.py                                                # the published pool of CIFAR-10: 2,000
    python benchmarks/pools.py --preset imagenet --pool 8192 --image_size 64   # that of ImageNet, at fewer pixels

Runs a script for one step on images of noise. The baseline is gradient accumulation, which has a pool for each micro-batch and encodes
each image once. Memory is the peak of the process, with Python and its libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import ROOT, Row, row, run_benchmark
from PIL import Image


ARGUMENTS = {
    "preset": ("cifar10", "of train_joint.py or train_representation.py", {"choices": ("cifar10", "imagenet")}),
    "pool": (2000, "images that share a pool"),
    "micro_batch": (20, "images of a forward pass"),
    "image_size": (32, "height and width in pixels"),
    "accumulated": (2, "micro-batches of the baseline"),
    "mixed_precision": ("no", "precision of the networks", {"choices": ("no", "bf16")}),
    "config_overrides": ([], "fields of LZNConfig, as for the scripts", {"type": str}),
}
QUICK = {
    "pool": 16,
    "micro_batch": 8,
    "image_size": 32,
    "config_overrides": ["encoder_base_channels=16", "decoder_base_channels=16"],
}
SCRIPTS = {"cifar10": "train_joint.py", "imagenet": "train_representation.py"}


def write_images(folder: Path, count: int, size: int) -> None:
    """Writes images of noise in ten folders, as many in each."""
    draws = np.random.default_rng(0)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for number in range(count):
        pixels = draws.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / str(number % 10) / f"{number}.jpg")


def one_step(args: argparse.Namespace, folder: Path, total: int, flags: list[str]) -> tuple[float, float]:
    """Returns the seconds per image of a step, and the peak memory of the run in MiB."""
    output = folder.parent / "run"
    common = f"--preset {args.preset} --data_dir {folder} --image_size {args.image_size} --validation_fraction 0 --seed {args.seed}"
    common += f" --total_batch_size {total} --gradient_accumulation_steps {total // args.micro_batch} --num_reference_anchors 2"
    common += (
        f" --max_train_steps 1 --checkpointing_minutes 0 --mixed_precision {args.mixed_precision} --num_workers 0"
    )
    common += " --samples_per_label 1 --num_inference_steps 1" if args.preset == "cifar10" else ""
    overrides = ["--config_overrides", *args.config_overrides] if args.config_overrides else []
    command = [sys.executable, str(ROOT / "examples" / SCRIPTS[args.preset]), *common.split(), *flags, *overrides]
    process = subprocess.Popen(
        [*command, "--output_dir", str(output), "--overwrite_output_dir"], stderr=subprocess.PIPE
    )
    message = process.stderr.read().decode() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed:\n{message[-2000:]}")
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    rate = next(line["images_per_second"] for line in lines if "images_per_second" in line)
    return 1 / rate, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(args: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "images"
        write_images(folder, args.pool, args.image_size)
        few = args.accumulated * args.micro_batch
        baseline, memory = one_step(args, folder, few, [])
        seconds, peak = one_step(args, folder, args.pool, ["--pool_batch_size", str(args.pool)])
    label = f"{args.preset}, {args.image_size} px, pool of {args.pool:,} in micro-batches of {args.micro_batch}"
    return [
        row(f"{label}: time per image", seconds, "s", baseline=baseline),
        row(f"{label}: step", seconds * args.pool, "s"),
        row(f"{label}: peak memory", peak, "MiB", baseline=memory),
    ]


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick=QUICK, repeats=1)
