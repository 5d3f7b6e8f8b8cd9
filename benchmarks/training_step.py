# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Throughput of the joint training step of a preset, and where its time goes.

    python benchmarks/training_step.py --preset digits fashion-mnist
    python benchmarks/training_step.py --preset cifar10 --batch 256 --device cuda --mixed_precision bf16 --compile

A step is that of `lzn_hf.train_joint`, by the same functions with the settings of the preset, on random images of the shape
of its data set: batch from the tensor cache, encoder, latent zones, decoder, alignment, backward, clipping, Adam, moving averages,
metrics. Three forms run in turn:
    plain      float32, contiguous tensors, the latent flow over all pairs of rows and anchors
    lzn_hf     float32, as train_joint.py does it; the baseline is `plain`
    chosen     with --mixed_precision and/or --compile; the baseline is `lzn_hf`
The percentages of time are those of the form lzn_hf, synchronized with the device after each part, also with --compile or another
precision.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from common import Row, median_times, peak_memory, row, run_benchmark, synchronize
from latent_zones import direct_latents
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from lzn_hf import train_joint, zones_lzn
from lzn_hf.data.images import ImageData, TensorImageDataset
from lzn_hf.training.arguments import learning_rates
from lzn_hf.training.batches import make_train_loader
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.metrics import JSONLinesTracker
from lzn_hf.training.models import build_model
from lzn_hf.training.parsing import PRESETS_DIR, parse_arguments
from lzn_hf.training.setup import TrainingSetup


ARGUMENTS = {
    "preset": (["digits", "fashion-mnist"], "presets", {"choices": ("cifar10", "digits", "fashion-mnist")}),
    "batch": (None, "batch size (that of the preset)", {"type": int}),
    "device": ("cpu", "cpu or cuda"),
    "mixed_precision": ("no", "of the form `chosen`", {"choices": ("no", "bf16")}),
    "compile": (False, "compile the networks of the form `chosen`"),
    "peak_tflops": (None, "peak of the device: adds a row with the achieved percentage", {"type": float}),
}
QUICK = {"preset": ["digits"], "repeats": 3}
SHAPES = {"digits": (8, 1), "fashion-mnist": (28, 1), "cifar10": (32, 3)}  # image size and channels
FORMS = ("plain", "lzn_hf", "chosen")


class TrainingStep:
    """A call is one step of train_joint.py, by its own loop and loss."""

    def __init__(self, preset: str, form: str, args: argparse.Namespace):
        size, channels = SHAPES[preset]
        command = ["--preset", preset, "--output_dir", "unused", "--mixed_precision", "no"]
        settings = parse_arguments(train_joint.ARGUMENTS, PRESETS_DIR / "joint", command, description=None)
        model_args, data_args, run, joint = settings
        self.batch_size = args.batch or run.total_batch_size
        self.device, self.plain = torch.device(args.device), form == "plain"
        dtype = {"no": torch.float32, "bf16": torch.bfloat16}[args.mixed_precision if form == "chosen" else "no"]
        self.autocast = lambda: torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

        torch.manual_seed(args.seed)
        names = [str(label) for label in range(10)]
        model = build_model(model_args.config, image_size=size, num_channels=channels, label_names=names)
        model = model.to(self.device).train()
        if not self.plain:
            model.to(memory_format=torch.channels_last)
        if form == "chosen" and args.compile:
            model.encoder.compile()
            model.decoder.compile()
        self.model = model
        configuration = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=args.seed)
        accelerator = Accelerator(cpu=self.device.type == "cpu", dataloader_config=configuration)
        shape = (4 * self.batch_size, channels, size, size)
        cache = TensorImageDataset(torch.randint(0, 256, shape, dtype=torch.uint8), torch.randint(0, 10, shape[:1]))
        loader = make_train_loader(cache, self.batch_size, 1)
        data, tracker = ImageData(cache, None, names, size, channels, preset), JSONLinesTracker(Path("unused"))
        setup = TrainingSetup("benchmark", run, data_args, accelerator, tracker, data, model, loader)
        self.loop = TrainingLoop(setup, learning_rates(joint), self.compute_loss)

    def compute_loss(self, model: torch.nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Any:
        with self.autocast():
            return train_joint.joint_loss(self.loop.setup, model, batch, generator)

    def __call__(self) -> None:
        with patch.object(zones_lzn, "compute_latents", direct_latents) if self.plain else nullcontext():
            self.loop.take_step()


def time_rows(preset: str, step: TrainingStep, repeats: int) -> list[Row]:
    """Returns the percentage of a step's time by part. Each part ends where a hook of torch is called, in this order."""
    seconds: dict[str, float] = defaultdict(float)
    last = 0.0

    def end_of(part: str) -> Callable[..., None]:
        def lap(*_: Any) -> None:
            nonlocal last
            synchronize()
            now = time.perf_counter()
            seconds[part] += now - last
            last = now

        return lap

    def watch_anchors(module: torch.nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, Tensor]) -> None:
        outputs[1].register_hook(end_of("zones, backward"))

    encoder, decoder = step.model.encoder, step.model.decoder
    hooks = [
        encoder.register_forward_pre_hook(end_of("data")),
        encoder.register_forward_hook(end_of("encoder, forward")),
        decoder.register_forward_pre_hook(end_of("zones, forward")),
        decoder.register_forward_hook(end_of("decoder, forward")),
        decoder.register_full_backward_pre_hook(end_of("alignment, forward and backward")),
        decoder.register_full_backward_hook(end_of("decoder, backward")),
        encoder.register_forward_hook(watch_anchors),
        register_optimizer_step_pre_hook(end_of("encoder, backward, and clipping")),
    ]
    end_of_step = end_of("Adam, moving averages, metrics")
    for turn in range(1 + repeats):
        step()
        end_of_step()
        if turn == 0:  # the warm-up
            seconds.clear()
    for hook in hooks:
        hook.remove()
    total = sum(seconds.values())
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return [row(f"{preset}: time in {part}", 100 * value / total, "%", detail=True) for part, value in ordered]


def preset_rows(preset: str, args: argparse.Namespace) -> list[Row]:
    is_chosen = args.compile or args.mixed_precision != "no"
    steps = {form: TrainingStep(preset, form, args) for form in FORMS if form != "chosen" or is_chosen}
    batch = steps["lzn_hf"].batch_size
    seconds = median_times(steps, args.repeats, warmup=4 if args.compile else 1)
    rates = {form: batch / seconds[form] for form in steps}
    label = f"{preset}, batch {batch}"
    rows = [row(f"{label}: training step", rates["lzn_hf"], "images/s", baseline=rates["plain"])]
    with FlopCounterMode(display=False) as counter:
        steps["lzn_hf"]()
    ours, baseline = ("chosen", "lzn_hf") if is_chosen else ("lzn_hf", "plain")
    teraflops = counter.get_total_flops() / seconds[ours] / 1e12
    if is_chosen:
        form = ", ".join([args.mixed_precision] * (args.mixed_precision != "no") + ["compiled"] * args.compile)
        rows.append(row(f"{label}: training step, {form}", rates[ours], "images/s", baseline=rates[baseline]))
    rows.append(row(f"{label}: arithmetic of it", teraflops, "TFLOP/s", detail=True))
    if args.peak_tflops:
        rows.append(
            row(f"{label}: percentage of {args.peak_tflops:g} TFLOP/s", 100 * teraflops / args.peak_tflops, "%")
        )
    rows += time_rows(preset, steps["lzn_hf"], args.repeats)
    peaks = [peak_memory(args, form, preset=[preset]) / 2**20 for form in (ours, baseline)]
    return [*rows, row(f"{preset}: peak memory", peaks[0], "MiB", baseline=peaks[1])]


def measure(args: argparse.Namespace) -> list[Row]:
    return [result for preset in args.preset for result in preset_rows(preset, args)]


def two_steps(args: argparse.Namespace, form: str) -> Callable[[], None]:
    def run() -> None:
        step = TrainingStep(args.preset[0], form, args)
        step()
        step()

    return run


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick=QUICK, repeats=10, memory=two_steps)
