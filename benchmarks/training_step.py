# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images a second of the joint training step of a preset, and where its time goes.

    python benchmarks/training_step.py --preset digits fashion-mnist
    python benchmarks/training_step.py --preset cifar10 --batch 256 --device cuda --mixed_precision bf16 --compile

A step is that of `examples/train_joint.py`, by the same functions with the settings of the preset, on random images in the shape
of its data set: batch from the tensor cache, encoder, latent zones, decoder, alignment, backward, clipping, Adam, moving averages,
metrics. Three forms are timed in turn:
    plain      float32, contiguous tensors, the latent flow over all pairs of rows and anchors
    lzn_hf     float32, as train_joint.py does it: the baseline is `plain`
    chosen     with --mixed_precision and/or --compile: the baseline is `lzn_hf`
The shares of time are of the form lzn_hf, each part between synchronisations with the device. With --compile or another
precision they say what the step without it does.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from common import (
    ROOT,
    Row,
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
from torch.utils.flop_counter import FlopCounterMode

from lzn_hf import modeling_lzn
from lzn_hf.data.images import ImageData, TensorImageDataset
from lzn_hf.latent_schedules import EULER_EPS
from lzn_hf.training.arguments import learning_rates
from lzn_hf.training.batches import make_train_loader
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.metrics import JSONLinesTracker
from lzn_hf.training.models import build_model
from lzn_hf.training.parsing import parse_arguments
from lzn_hf.training.setup import TrainingSetup


sys.path.insert(0, str(ROOT / "examples"))
train_joint = importlib.import_module("train_joint")

QUICK = {"preset": ["digits"], "repeats": 3}
SHAPES = {"digits": (8, 1), "fashion-mnist": (28, 1), "cifar10": (32, 3)}  # image size and channels
FORMS = ("plain", "lzn_hf", "chosen")
# What modeling_lzn calls for the alignment.
ALIGNMENT = ("trace_assignments", "alignment_loss")


def direct_latents(anchors: Tensor, noise: Tensor, pool: Tensor, num_steps: int, **_: Any) -> Tensor:
    """The published Euler encoding, written out over all pairs of rows and anchors."""
    x, size = EULER_EPS * noise + (1 - EULER_EPS) * anchors, (1 - EULER_EPS) / num_steps
    for k in range(num_steps):
        tau = EULER_EPS + k * size
        residuals = (x[:, None] - (1 - tau) * pool) / tau  # (B, N, D)
        p = (-0.5 * residuals.square().sum(-1)).softmax(-1)
        x = x + size * (p[..., None] * (residuals - pool)).sum(1)
    return x


class Stopwatch:
    """Seconds by part. Inside a part, other parts do not count."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = False
        self._last = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        if self._inside:
            yield
            return
        self._inside = True
        start = self.now()
        try:
            yield
        finally:
            self.seconds[name] += self.now() - start
            self._inside = False

    def wrap(self, name: str, function: Callable) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return timed

    @staticmethod
    def now() -> float:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter()

    def lap(self, name: str | None = None) -> None:
        """Adds the time since the last lap to a part."""
        now = self.now()
        if name is not None:
            self.seconds[name] += now - self._last
        self._last = now


class TrainingStep:
    """A call is one step of train_joint.py, by its own loop and loss."""

    def __init__(self, preset: str, form: str, args: argparse.Namespace):
        size, channels = SHAPES[preset]
        command = ["--preset", preset, "--output_dir", "unused", "--mixed_precision", "no"]
        settings = parse_arguments(train_joint.ARGUMENTS, ROOT / "examples/presets/joint", command, description=None)
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
        with patch.object(modeling_lzn, "compute_latents", direct_latents) if self.plain else nullcontext():
            self.loop.take_step()


@contextmanager
def watched(loop: TrainingLoop, watch: Stopwatch) -> Iterator[None]:
    """Inside this context the parts of a step are timed, those of the model's forward and backward passes among them.

    Backward runs from the loss to the encoder; the gradient of the decoder's output, of the latents and of the anchors are
    complete when the alignment, the decoder and the zones have been passed.
    """

    def encoder(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        with watch.part("encoder, forward"):
            features, anchors = encode(*inputs)
        if anchors.requires_grad:
            anchors.register_hook(lambda _: watch.lap("zones, backward"))
        return features, anchors

    def decoder(*inputs: Tensor) -> Tensor:
        with watch.part("decoder, forward"):
            velocity = decode(*inputs)
        velocity.register_hook(lambda _: watch.lap("alignment, backward"))
        return velocity

    def zones(*args: Any, **kwargs: Any) -> Tensor:
        with watch.part("zones, forward"):
            latents = modeled["compute_latents"](*args, **kwargs)
        latents.register_hook(lambda _: watch.lap("decoder, backward"))
        return latents

    def backward(loss: Tensor) -> None:
        watch.lap()
        run_backward(loss)
        watch.lap("encoder, backward")  # the last of its parts

    def batches() -> Iterator[Any]:
        while True:
            with watch.part("data"):
                batch = next(unwatched)
            yield batch

    model, accelerator, unwatched = loop.setup.model, loop.accelerator, loop.batches
    encode, decode, run_backward = model.encoder.forward, model.decoder.forward, accelerator.backward
    steps = {
        (accelerator, "clip_grad_norm_"): "clipping",
        (loop.guard, "step_is_finite"): "clipping",
        (loop.optimizer, "step"): "Adam",
        (loop.optimizer, "zero_grad"): "Adam",
        (loop.ema, "step"): "moving averages",
        (loop.averages, "add"): "metrics",
        (train_joint, "step_metrics"): "metrics",
        (train_joint, "to_pixel_values"): "data",
    }
    modeled = {name: getattr(modeling_lzn, name) for name in ("compute_latents", *ALIGNMENT)}
    timed = {name: watch.wrap("alignment, forward", modeled[name]) for name in ALIGNMENT}
    with ExitStack() as stack:
        for (owner, name), part in steps.items():
            stack.enter_context(patch.object(owner, name, watch.wrap(part, getattr(owner, name))))
        stack.enter_context(patch.object(accelerator, "backward", backward))
        stack.enter_context(patch.object(loop, "batches", batches()))
        stack.enter_context(patch.object(model.encoder, "forward", encoder))
        stack.enter_context(patch.object(model.decoder, "forward", decoder))
        stack.enter_context(patch.multiple(modeling_lzn, compute_latents=zones, **timed))
        yield


def share_rows(preset: str, step: TrainingStep, repeats: int) -> list[Row]:
    """Percent of a step by part, and what is left."""
    watch = Stopwatch()
    step()
    start = watch.now()
    with watched(step.loop, watch):
        for _ in range(repeats):
            step()
    total = watch.now() - start
    shares = {name: 100 * seconds / total for name, seconds in watch.seconds.items()}
    shares["rest"] = 100 - sum(shares.values())
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return [row(f"{preset}: share of {name}", share, "%", detail=True) for name, share in ordered]


def preset_rows(preset: str, args: argparse.Namespace) -> list[Row]:
    chosen = args.compile or args.mixed_precision != "no"
    steps = {form: TrainingStep(preset, form, args) for form in FORMS if form != "chosen" or chosen}
    batch = steps["lzn_hf"].batch_size
    warmup = 4 if args.compile else 1
    seconds = median_times(steps, args.repeats, warmup=warmup)
    rates = {form: batch / seconds[form] for form in steps}
    label = f"{preset}, batch {batch}"
    rows = [row(f"{label}: training step", rates["lzn_hf"], "images/s", baseline=rates["plain"])]
    with FlopCounterMode(display=False) as counter:
        steps["lzn_hf"]()
    flops = counter.get_total_flops()
    if chosen:
        form = ", ".join([args.mixed_precision] * (args.mixed_precision != "no") + ["compiled"] * args.compile)
        target = ">= 4x" if args.device.startswith("cuda") and preset == "cifar10" else None
        name = f"{label}: training step, {form}"
        rows.append(row(name, rates["chosen"], "images/s", baseline=rates["lzn_hf"], target=target))
    fastest = "chosen" if chosen else "lzn_hf"
    rows.append(row(f"{label}: arithmetic of it", flops / seconds[fastest] / 1e12, "TFLOP/s", detail=True))
    if args.peak_tflops:
        share = 100 * flops / seconds[fastest] / 1e12 / args.peak_tflops
        rows.append(row(f"{label}: share of {args.peak_tflops:g} TFLOP/s", share, "%"))
    return rows + share_rows(preset, steps["lzn_hf"], args.repeats)


def memory_row(preset: str, args: argparse.Namespace) -> Row:
    command = ["--preset", preset, "--device", args.device, "--mixed_precision", args.mixed_precision]
    command += [*(["--batch", str(args.batch)] if args.batch else []), *(["--compile"] if args.compile else [])]
    ours = "chosen" if args.compile or args.mixed_precision != "no" else "lzn_hf"
    baseline = "lzn_hf" if ours == "chosen" else "plain"
    mebibytes = {form: peak_memory(["--memory_of", form, *command]) / 2**20 for form in (ours, baseline)}
    return row(f"{preset}: peak memory", mebibytes[ours], "MiB", baseline=mebibytes[baseline])


def main() -> None:
    parser = benchmark_parser(__doc__, "training_step", repeats=10)
    parser.add_argument(
        "--preset",
        nargs="+",
        choices=sorted(SHAPES),
        default=["digits", "fashion-mnist"],
        help="(digits fashion-mnist)",
    )
    parser.add_argument("--batch", type=int, help="images a step (that of the preset)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="no", help="of the form `chosen` (no)")
    parser.add_argument("--compile", action="store_true", help="compile the networks of the form `chosen`")
    parser.add_argument("--peak_tflops", type=float, help="what the device could do: adds a row with the share of it")
    parser.add_argument("--memory_of", choices=FORMS, help=argparse.SUPPRESS)
    args = parse(parser, QUICK)
    if args.memory_of:

        def two_steps() -> None:
            step = TrainingStep(args.preset[0], args.memory_of, args)
            step()
            step()

        return print_peak_memory(two_steps)
    rows = [result for preset in args.preset for result in [*preset_rows(preset, args), memory_row(preset, args)]]
    print_rows(rows)
    write_results(args.output, vars(args), rows)


if __name__ == "__main__":
    main()
