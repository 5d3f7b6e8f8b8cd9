# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Everything that a GPU is asked for, in one call of at most nine minutes:

    python benchmarks/gpu.py --data_dir fashion-mnist          # a folder of the four IDX files
    python benchmarks/gpu.py --minutes 0                       # without the training

    training step    of the `cifar10` joint preset: bf16 and compiled against float32, with the share of the peak that the largest
                     matrix product in bf16 reaches on the device, and the memory
    zones            1,024 rows, 8,192 anchors, 256 dimensions, forward and backward
    sampling         images/s of the pipeline of that preset with random weights, in bf16 against float32; the latency of one image
    Fashion-MNIST    a joint model trained for `--minutes` in bf16: accuracy, Fréchet distance to the test images on the features of a
                     classifier trained here, beside that of as many training images

It writes benchmarks/results/gpu_DEVICE.json, after each part anew, so that a run that is cut short leaves what it has measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from common import ROOT, Row, median_times, row, run_benchmark, write_results
from latent_zones import encode
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from training_step import SHAPES, TrainingStep

from lzn_hf import LZNForImageClassification, LZNPipeline
from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.data.images import load_image_data
from lzn_hf.evaluation.joint import accuracy
from lzn_hf.latent_zones import compute_latents
from lzn_hf.training.models import build_model


generate = importlib.import_module("sampling").generate

ARGUMENTS = {
    "device": ("cuda", "a device of torch; others than cuda to try this script"),
    "preset": ("cifar10", "joint preset of the training step and of the sampling", {"choices": tuple(SHAPES)}),
    "eager": (False, "do not compile"),
    "batch": (256, "images of a training step, and at most of a sampling step"),
    "rows": (1024, "rows of the zones"),
    "anchors": (8192, "anchors of the zones"),
    "latent_dim": (256, "dimensions of the zones"),
    "product": (8192, "rows of the matrices whose product is the peak"),
    "steps": (20, "sampling steps"),
    "train_preset": ("fashion-mnist", "joint preset of the training", {"choices": tuple(SHAPES)}),
    "data_dir": (None, "images of that preset; not needed for `digits`"),
    "minutes": (3.5, "time of the training; 0: none"),
    "max_train_steps": (None, "steps of the training, instead of its time", {"type": int}),
    "feature_steps": (1200, "training steps of the classifier whose features are compared"),
    "samples": (5000, "generated images that are compared"),
}
QUICK = {"repeats": 2, "batch": 128, "minutes": 0.5, "samples": 1000}


# The parts


def training_rows(args: argparse.Namespace) -> list[Row]:
    settings = argparse.Namespace(**vars(args), mixed_precision="bf16", compile=not args.eager)
    title, form_title = f"{args.preset}, batch {args.batch}", "bf16" if args.eager else "bf16 and compiled"
    seconds, peaks, flops = {}, {}, 0
    for form in ("lzn_hf", "chosen"):  # one after the other: the memory is that of one model
        step = TrainingStep(args.preset, form, settings)
        if form == "lzn_hf":
            with FlopCounterMode(display=False) as counter:
                step()
            flops = counter.get_total_flops()
        reset_memory()
        seconds[form] = median_times({form: step}, args.repeats, warmup=4)[form]
        peaks[form] = memory_gib()
        del step
    matrix = torch.randn(args.product, args.product, device=args.device, dtype=torch.bfloat16)
    product = median_times({"product": lambda: matrix @ matrix}, args.repeats, warmup=3)["product"]
    peak = 2 * args.product**3 / product / 1e12
    rates = {form: args.batch / taken for form, taken in seconds.items()}
    achieved = flops / seconds["chosen"] / 1e12
    return [
        row(f"{title}: training step, {form_title}", rates["chosen"], "images/s", baseline=rates["lzn_hf"]),
        row(f"{title}: arithmetic of it", achieved, "TFLOP/s"),
        row("largest bf16 matrix product", peak, "TFLOP/s"),
        row(f"{title}: arithmetic of it, share of that product", 100 * achieved / peak, "%"),
        *memory_row(f"{title}: training step, peak memory", peaks["chosen"], peaks["lzn_hf"]),
    ]


def zone_rows(args: argparse.Namespace) -> list[Row]:
    generator = torch.Generator().manual_seed(args.seed)
    shapes = (args.anchors, args.latent_dim), (args.rows, args.latent_dim)
    pool, noise = (torch.randn(shape, generator=generator).to(args.device).requires_grad_() for shape in shapes)

    def adams(pool: Tensor, noise: Tensor, steps: int) -> Tensor:
        return compute_latents(pool[: len(noise)], noise, pool, num_steps=steps).square().sum()

    def run(form: Callable[..., Tensor]) -> None:
        torch.autograd.grad(form(pool, noise, 20), (pool, noise))

    forms = {"default solver": partial(run, adams), "euler": partial(run, encode)}
    reset_memory()
    seconds = median_times(forms, args.repeats, warmup=2)
    title = f"zones, {args.rows} rows, {args.anchors} anchors, {args.latent_dim} dimensions, forward + backward"
    rows = [row(f"{title}, {name}", 1e3 * taken, "ms") for name, taken in seconds.items()]
    return [*rows, *memory_row(f"{title}: peak memory", memory_gib())]


def sampling_rows(args: argparse.Namespace) -> list[Row]:
    size, channels = SHAPES[args.preset]
    settings = json.loads((ROOT / f"src/lzn_hf/presets/joint/{args.preset}.json").read_text())["model"]
    pipes = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(args.seed)
        names = [str(label) for label in range(10)]
        model = build_model(settings, image_size=size, num_channels=channels, label_names=names).eval()
        pipes[dtype] = LZNPipeline.from_model(model.to(args.device, dtype, memory_format=torch.channels_last))
        pipes[dtype].set_progress_bar_config(disable=True)
    title, rows = f"{args.preset}, {args.steps} sampling steps, bf16", []
    for batch in (1, args.batch):
        calls = {dtype: partial(generate, pipe, batch, batch, args.steps) for dtype, pipe in pipes.items()}
        reset_memory()
        seconds = median_times(calls, args.repeats)
        ours, baseline = (batch / seconds[dtype] for dtype in (torch.bfloat16, torch.float32))
        rows.append(row(f"{title}, batch {batch}", ours, "images/s", baseline=baseline))
    return [*rows, *memory_row(f"{title}: peak memory beside that of float32", memory_gib())]


def fashion_rows(args: argparse.Namespace) -> list[Row]:
    """Trains the model and the classifier by the scripts of examples/, then measures what they wrote."""
    if not args.max_train_steps and not args.minutes:
        return []
    settings = json.loads((ROOT / f"src/lzn_hf/presets/joint/{args.train_preset}.json").read_text())
    batch, name = settings["training"]["total_batch_size"], settings["data"]["dataset_name"]
    steps = args.max_train_steps
    if not steps:
        chosen = argparse.Namespace(**{**vars(args), "batch": batch}, mixed_precision="bf16", compile=False)
        step = TrainingStep(args.train_preset, "chosen", chosen)
        steps = max(1, int(60 * args.minutes / median_times({"step": step}, 20, warmup=5)["step"]))
        del step
    place = ["--data_dir", args.data_dir] if args.data_dir else []
    with tempfile.TemporaryDirectory() as folder:
        features, model, results = (f"{folder}/{part}" for part in ("features", "model", "results"))
        number = ["--max_train_steps", str(args.feature_steps), "--output_dir", features]
        run_example("train_metric_features.py", "--dataset_name", name, *place, *number)
        options = ["--mixed_precision", "bf16", "--max_train_steps", str(steps), "--output_dir", model]
        preset = settings["training"]["warmup_steps"]
        options += ["--eval_steps", str(steps), "--warmup_steps", str(min(preset, steps // 2))]
        run_example("train_joint.py", "--preset", args.train_preset, *place, *options)
        options = ["--num_samples", str(args.samples), "--num_reconstructions", "0", "--batch_size", "256"]
        options += ["--feature_extractor", features, "--output_dir", results]
        folders = ["--model_name_or_path", model, "--dataset_name", name]
        run_example("evaluate_generation.py", *folders, *place, *options)
        numbers = json.loads((Path(results) / "evaluation.json").read_text())
        share = measured_accuracy(model, name, args)
    title = f"{args.train_preset}, {steps:,} training steps of {batch} in bf16"
    sampler = numbers["samplers"]["unipc:20"]
    real = numbers["real_images"]["frechet_distance"]
    return [
        row(f"{title}: accuracy", 100 * share, "%"),
        row(
            f"{title}: Fréchet distance, real training images as baseline",
            sampler["frechet_distance"],
            "",
            baseline=real,
        ),
        row(f"{title}: class consistency", 100 * sampler["class_consistency"], "%"),
    ]


PARTS = (training_rows, zone_rows, sampling_rows, fashion_rows)


# What they share


def run_example(script: str, *arguments: str) -> None:
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} ended with {done.returncode}:\n{done.stderr[-3000:]}")


@torch.no_grad()
def measured_accuracy(folder: str, name: str, args: argparse.Namespace) -> float:
    """The share of validation images that the saved model classifies right, each by itself, in float32."""
    data = load_image_data(name, args.data_dir)
    model = LZNForImageClassification.from_pretrained(folder).to(args.device).eval()
    logits, labels = [], []
    for batch in image_batches(data.validation, 256):
        logits.append(model(to_pixel_values(batch["pixel_values"].to(args.device))).logits.cpu())
        labels.append(batch["labels"])
    return accuracy(torch.cat(logits), torch.cat(labels))


def reset_memory() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory_gib() -> float | None:
    """The most bytes of the device that tensors had since [`reset_memory`]; `None` for a processor."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_initialized() else None


def memory_row(name: str, value: float | None, baseline: float | None = None) -> list[Row]:
    return [] if value is None else [row(name, value, "GiB", baseline=baseline)]


def measure(args: argparse.Namespace) -> list[Row]:
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("No GPU: torch finds no CUDA device here (--device cpu and small sizes only try the script).")
    trains = args.max_train_steps or args.minutes
    if trains and args.train_preset != "digits" and not args.data_dir:
        raise SystemExit(
            f"--data_dir must be the folder of {args.train_preset} for --minutes {args.minutes:g}, or pass --minutes 0."
        )
    if args.output == ROOT / ("outputs/bench" if args.quick else "benchmarks/results") / "gpu.json":  # none was chosen
        name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
        args.output = args.output.with_name(f"gpu_{re.sub(r'[^a-z0-9]+', '_', name.lower())}.json")
    rows: list[Row] = []
    for part in PARTS:
        rows += part(args)
        write_results(args.output, vars(args), rows)
    return rows


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick=QUICK)
