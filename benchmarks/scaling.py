# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Weak scaling of joint training: measured on 1 and 2 processes of a CPU, and as arithmetic for 8 to 1,024 GPUs.

    python benchmarks/scaling.py

Measured, with `--batch` images a process and a thread for each: the gather of the anchors with its gradient, the latent zones of a process
in the pool of all, the networks, the exchange of gradients, and a whole step of train_joint.py by DistributedDataParallel and by FSDP2.
The baseline is one process. Each time is the least of `--repeats`. Messages between processes of one machine go through its memory.

The arithmetic is what [`per_gpu`] says: bytes and operations of one GPU in a step, for the published batch and network of a preset.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, debug_launcher
from common import Row, row, run_benchmark
from training_step import SHAPES, TrainingStep

from lzn_hf import train_joint
from lzn_hf.distributed_lzn import gather_with_gradient
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.models import build_model
from lzn_hf.training.parsing import PRESETS_DIR, parse_arguments
from lzn_hf.training.sharding import allow_sharding, local
from lzn_hf.training.space import tensor_bytes
from lzn_hf.zones_lzn import place_anchors


ARGUMENTS = {
    "preset": ("digits", "preset of the measured steps", {"choices": tuple(SHAPES)}),
    "batch": (64, "images a process"),
    "processes": (2, "processes beside one"),
    "gpus": ([8, 64, 256, 1024], "numbers of GPUs of the arithmetic"),
    "large_preset": ("cifar10", "preset of the arithmetic", {"choices": tuple(SHAPES)}),
    "large_batch": (250, "images a GPU of the arithmetic"),
}
QUICK = {"batch": 32, "repeats": 2}
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
FLOAT, DOUBLE = 4, 8  # bytes
COPIES = 5  # weights, gradients, two moments of Adam, moving averages


# --- Measured --------------------------------------------------------------------------------------------------------------


def parts_of_a_step(args: argparse.Namespace, step: TrainingStep) -> dict[str, Callable[[], object]]:
    """Returns the parts of a step of this process, to be timed one by one."""
    model, count = step.model, dist.get_world_size()
    size, channels = SHAPES[args.preset]
    draw = torch.Generator().manual_seed(args.seed)
    pool = torch.randn(count * args.batch, model.config.latent_dim, generator=draw)
    first = dist.get_rank() * args.batch
    anchors = pool[first : first + args.batch].clone().requires_grad_()
    noise = torch.randn(anchors.shape, generator=draw)
    images = torch.randn(args.batch, channels, size, size, generator=draw)
    labels, t = torch.arange(args.batch) % 10, torch.rand(args.batch, generator=draw)
    gradients = torch.zeros(sum(parameter.numel() for parameter in model.parameters()))

    def gather() -> None:
        gather_with_gradient(anchors).square().sum().backward()

    def zones() -> None:
        place_anchors(model.config, anchors, noise, pool.requires_grad_()).square().sum().backward()

    def networks() -> None:
        anchors_of_images = model.encoder(images)[1]
        (anchors_of_images.sum() + model.predict_velocity(images, t, anchors_of_images, labels).sum()).backward()

    def exchange() -> None:
        dist.all_reduce(gradients)

    return {
        "gather of anchors": gather,
        "latent zones": zones,
        "networks": networks,
        "exchange of gradients": exchange,
    }


def least_seconds(function: Callable[[], object], repeats: int) -> float:
    """Returns the least time of a function that all processes call together: until the last one has done it.

    Not the median, as other programs may want the cores that the processes run on.
    """
    seconds = []
    for turn in range(1 + repeats):
        dist.barrier()
        start = time.perf_counter()
        function()
        dist.barrier()
        if turn:  # the first one warms up
            seconds.append(time.perf_counter() - start)
    return min(seconds)


def held_bytes(loop: TrainingLoop) -> int:
    """Returns the bytes of weights, moments of Adam and moving averages that this process holds after a step."""
    tensors = list(loop.setup.model.parameters())
    tensors += [value for state in loop.optimizer.state.values() for value in state.values()]
    tensors += [value for average in loop.ema.averages.values() for value in average.shadow_params]
    return tensor_bytes([local(tensor) for tensor in tensors])


def run_process(args: argparse.Namespace, sharded: bool, path: Path) -> None:
    """Measures as one of several processes; the first writes the results."""
    torch.set_num_threads(1)
    if sharded:
        os.environ.update(FSDP2)
    accelerator = Accelerator(cpu=True)
    allow_sharding(accelerator)
    options = argparse.Namespace(**vars(args), device="cpu", mixed_precision="no", compile=False)
    step = TrainingStep(args.preset, "lzn_hf", options)
    parts = {} if sharded else parts_of_a_step(args, step)
    way = "FSDP2" if sharded else "DDP"
    parts[f"whole step, {way}"] = step
    results = {name: (1000 * least_seconds(function, args.repeats), "ms") for name, function in parts.items()}
    results[f"weights, Adam and averages of process 0, {way}"] = (held_bytes(step.loop) / 2**20, "MiB")
    if accelerator.is_main_process:
        path.write_text(json.dumps(results))
    step.loop.close()


def measured_rows(args: argparse.Namespace) -> list[Row]:
    measured: dict[int, dict[str, tuple[float, str]]] = {1: {}, args.processes: {}}
    for count, results in measured.items():
        for sharded in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "results.json"
                debug_launcher(run_process, (args, sharded, path), num_processes=count)
                results |= json.loads(path.read_text())
    label = f"{args.preset}, {args.batch} images a process, {args.processes} processes"
    return [
        row(f"{label}: {name}", value, unit, baseline=measured[1][name][0])
        for name, (value, unit) in measured[args.processes].items()
    ]


# --- Arithmetic ------------------------------------------------------------------------------------------------------------


def model_sizes(preset: str) -> dict[str, int]:
    """Returns parameters of a preset's model: all, of its largest block, and of what is in no block; and its settings."""
    size, channels = SHAPES[preset]
    command = ["--preset", preset, "--output_dir", "unused"]
    model_args, *_ = parse_arguments(train_joint.ARGUMENTS, PRESETS_DIR / "joint", command, description=None)
    with torch.device("meta"):
        model = build_model(
            model_args.config, image_size=size, num_channels=channels, label_names=[str(label) for label in range(10)]
        )
    blocks = [
        sum(parameter.numel() for parameter in module.parameters())
        for module in model.modules()
        if type(module).__name__ in model._no_split_modules
    ]
    total = sum(parameter.numel() for parameter in model.parameters())
    return {
        "parameters": total,
        "largest block": max(blocks),
        "outside of blocks": total - sum(blocks),
        "latent_dim": model.config.latent_dim,
        "evaluations": model.config.latent_num_steps,
    }


def per_gpu(sizes: dict[str, int], batch: int, gpus: int) -> dict[str, tuple[float, str]]:
    """Returns what one of k GPUs receives, keeps and computes in a step, with units.

    A ring sends (k - 1) / k of what each process has at the end of a gather or at the beginning of a scatter; an all-reduce is both. An
    evaluation of the latent flow takes two products of b x D with N x D, and four in backward, of which one is done again.

    Args:
        sizes: as of [`model_sizes`].
        batch: b, images a GPU.
        gpus: k.
    """
    others, dim, weights = (gpus - 1) / gpus, sizes["latent_dim"], FLOAT * sizes["parameters"]
    pool = batch * gpus
    gathered = FLOAT * (sizes["outside of blocks"] + 2 * sizes["largest block"])
    flops = 6 * 2 * batch * pool * dim * sizes["evaluations"]
    mebi, giga = 2**20, 1e9
    return {
        "pool N of all GPUs": (pool, "anchors"),
        "anchors received, and as much for their gradient": (others * FLOAT * pool * dim / mebi, "MiB"),
        "the same, pools of 8 GPUs": (7 / 8 * FLOAT * 8 * batch * dim / mebi, "MiB"),
        "gradients by DDP: all-reduce": (2 * others * weights / mebi, "MiB"),
        "weights and gradients by FSDP2: two gathers and a scatter": (3 * others * weights / mebi, "MiB"),
        "weights, gradients, Adam, averages by DDP": (COPIES * weights / mebi, "MiB"),
        "the same by FSDP2, with the blocks that are gathered at once": (
            (COPIES * weights / gpus + gathered) / mebi,
            "MiB",
        ),
        "zones: a float64 matrix of b x N": (DOUBLE * batch * pool / mebi, "MiB"),
        "zones: forward and backward, pool of all GPUs": (flops / giga, "GFLOP"),
        "zones: the same, pools of 8 GPUs": (flops * 8 / gpus / giga, "GFLOP"),
    }


def arithmetic_rows(args: argparse.Namespace) -> list[Row]:
    sizes = model_sizes(args.large_preset)
    label = f"{args.large_preset}, {args.large_batch} images a GPU"
    results = {gpus: per_gpu(sizes, args.large_batch, gpus) for gpus in args.gpus}
    return [
        row(f"{label}: {name}", value, unit, column=f"{gpus} GPUs")
        for gpus, result in results.items()
        for name, (value, unit) in result.items()
    ]


def measure(args: argparse.Namespace) -> list[Row]:
    return [*measured_rows(args), *arithmetic_rows(args)]


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick=QUICK, repeats=10, threads=1)
