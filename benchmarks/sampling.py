# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Samplers of the image flow: error by number of network evaluations, and throughput of one pipeline call.

    python benchmarks/sampling.py                                  # an image flow that is known exactly
    python benchmarks/sampling.py --model outputs/demo/model       # the flow of a model's decoder, in the zones of its labels

The known flow goes to the 1,797 digits of scikit-learn (8x8, [-1, 1]) blurred by noise of standard deviation h (`--blur`). With
x_t = t x + (1 - t) e it is that of a mixture of Gaussians: x_t given digit i is N(t d_i, (t^2 h^2 + (1 - t)^2) I), so
E[x - e | x_t] is a softmax and two lines.

Errors are root mean squares per pixel against 1,000 classical Runge-Kutta steps in float64 (fixed steps: a decoder that embeds
sinusoids of 999 t oscillates along t, so adaptive steps miss their tolerance); their baseline is FlowMatchEuler with as many
evaluations. Throughput is that of `LZNPipeline` with its default scheduler, of the model given or else of the digits preset with
random weights; its baseline is a call for one image. The latency of such a call stands beside its network evaluations alone, which
took turns with it.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from functools import partial

import torch
from common import ROOT, Row, median_times, peak_memory, row, run_benchmark
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from diffusers import UniPCMultistepScheduler as UniPC
from sklearn.datasets import load_digits
from torch import Tensor

from lzn_hf import LZNModel, LZNPipeline
from lzn_hf.rk45_lzn import integrate_rk45
from lzn_hf.sampling_lzn import ImageFlow, default_scheduler, integrate_velocity
from lzn_hf.training.models import build_model


ARGUMENTS = {
    "model": (None, "folder or Hub id of a pipeline, such as outputs/demo/model after `make demo`"),
    "images": (200, "images to generate"),
    "evaluations": ([10, 20, 40], "network evaluations, even numbers"),
    "tolerances": ([1e-3, 1e-4, 1e-5], "of RK45"),
    "reference_steps": (1000, "steps of the reference, four evaluations each"),
    "blur": (0.2, "the h above, without --model"),
    "steps": (20, "sampling steps where throughput is measured"),
    "batch_sizes": ([16, 64], "images at once"),
    "device": ("cpu", "where the model runs"),
}
QUICK = {"images": 64, "evaluations": [10, 20], "repeats": 2}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
# Makes the scheduler; the number of steps for a number of evaluations.
SCHEDULERS = {
    "FlowMatchEuler": (FlowMatchEulerDiscreteScheduler, lambda n: n),
    "UniPC, order 3 (default)": (default_scheduler, lambda n: n),
    "UniPC, order 2": (lambda: UniPC(solver_order=2, **FLOW), lambda n: n),
    "DPM-Solver++, order 3": (lambda: DPMSolverMultistepScheduler(solver_order=3, **FLOW), lambda n: n),
    "FlowMatchHeun": (FlowMatchHeunDiscreteScheduler, lambda n: n // 2),  # one evaluation fewer: (-1)
}
SOLVERS = {"euler": lambda n: n, "heun": lambda n: n // 2}
Velocity = Callable[..., Tensor]  # (x, t, rows=slice(None)) with t a float or a tensor (R,)


# Flows


class DigitsFlow:
    """E[data - noise | x_t = x] for the blurred digits, in float64."""

    def __init__(self, blur: float):
        self.digits, self.blur = torch.from_numpy(load_digits().data) / 8 - 1, blur

    def __call__(self, x: Tensor, t: float | Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))[:, None]
        h2, flat = self.blur**2, x.flatten(1).double()
        variance = t * t * h2 + (1 - t) ** 2
        p = ((t * flat @ self.digits.T - 0.5 * t * t * self.digits.square().sum(1)) / variance).softmax(1)
        mean = p @ self.digits
        residual = (flat - t * mean) / variance  # E[noise | x] = (1 - t) residual, E[data | x] = mean + t h^2 residual
        return (mean + t * h2 * residual - (1 - t) * residual).view_as(x).to(x)


class DecoderFlow:
    """The decoder's velocity for given latents and labels."""

    def __init__(self, model: LZNModel, latents: Tensor, labels: Tensor | None):
        self.model, self.latents, self.labels = model, latents, labels

    def __call__(self, x: Tensor, t: float | Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        labels = None if self.labels is None else self.labels[rows]
        return self.model.predict_velocity(x, t, self.latents[rows], labels).to(x)


def decoder_flow(pipe: LZNPipeline, num_images: int) -> tuple[Velocity, Velocity]:
    """Returns the flow for images of all labels in turn, in float32 and in float64."""
    model, config = pipe.model, pipe.model.config
    latents, labels = torch.randn(num_images, config.latent_dim, device=model.device), None
    if config.num_labels:
        labels = torch.arange(num_images, device=model.device) % config.num_labels
        latents = model.get_label_latents(labels, noise=latents)
    return DecoderFlow(model, latents, labels), DecoderFlow(copy.deepcopy(model).double(), latents, labels)


# Errors


def runge_kutta(velocity: Velocity, x: Tensor, num_steps: int) -> Tensor:
    """Integrates from t = 0 to 1 by uniform classical Runge-Kutta steps of order 4."""
    h = 1 / num_steps
    for k in range(num_steps):
        t = k * h
        a = velocity(x, t)
        b = velocity(x + h / 2 * a, t + h / 2)
        c = velocity(x + h / 2 * b, t + h / 2)
        d = velocity(x + h * c, t + h)
        x = x + h / 6 * (a + 2 * b + 2 * c + d)
    return x


def error_rows(velocity: Velocity, exact: Velocity, noise: Tensor, args: argparse.Namespace) -> list[Row]:
    calls = [0]

    def counted(x: Tensor, t: float | Tensor) -> Tensor:
        calls[0] += 1
        return velocity(x, t)

    reference = runge_kutta(exact, noise.double(), args.reference_steps)

    def error(sample: Tensor) -> float:
        return (sample - reference).square().mean().sqrt().item()

    rows, baselines = [], {}
    for name, (make, steps) in SCHEDULERS.items():
        for evaluations in args.evaluations:
            calls[0] = 0
            value = error(ImageFlow(make(), steps(evaluations)).to_images(counted, noise))
            full = name if calls[0] == evaluations else f"{name} ({calls[0] - evaluations:+d})"
            column = f"{evaluations} evaluations"
            rows.append(row(full, value, "rms", baseline=baselines.get(evaluations), column=column))
            baselines.setdefault(evaluations, value)  # of the first scheduler
    for method, steps in SOLVERS.items():
        for evaluations in args.evaluations:
            times = torch.linspace(0, 1, steps(evaluations) + 1).tolist()
            value = error(integrate_velocity(velocity, noise, times, method))
            column = f"{evaluations} evaluations"
            rows.append(row(f'solver="{method}"', value, "rms", baseline=baselines[evaluations], column=column))
    for tolerance in args.tolerances:
        sample, counts = integrate_rk45(velocity, noise, 0.0, 1.0, rtol=tolerance, atol=tolerance)
        average, most = counts.double().mean().item(), counts.max().item()
        name = f'solver="rk45", tolerance {tolerance:g}, {average:.0f} evaluations (at most {most})'
        rows.append(row(name, error(sample), "rms"))
    return rows


# Throughput


def load_pipeline(args: argparse.Namespace) -> LZNPipeline:
    """Returns the pipeline in the folder, or one of the digits preset with random weights."""
    if args.model:
        pipe = LZNPipeline.from_pretrained(args.model)
    else:
        settings = json.loads((ROOT / "src/lzn_hf/presets/joint/digits.json").read_text())["model"]
        names = [str(digit) for digit in range(10)]
        pipe = LZNPipeline.from_model(build_model(settings, image_size=8, num_channels=1, label_names=names))
    pipe.set_progress_bar_config(disable=True)
    pipe.model.eval()
    return pipe.to(args.device)


def generate(pipe: LZNPipeline, num_images: int, batch_size: int, num_steps: int) -> Tensor:
    num_labels = pipe.model.config.num_labels
    label = [i % num_labels for i in range(num_images)] if num_labels else None
    count = 1 if num_labels else num_images
    settings = {"num_inference_steps": num_steps, "batch_size": batch_size, "output_type": "pt"}
    return pipe(label=label, num_images_per_label=count, **settings).images


def throughput_rows(pipe: LZNPipeline, args: argparse.Namespace) -> list[Row]:
    calls = {1: 1, **dict.fromkeys(args.batch_sizes, args.images)}  # images of a call by its batch size
    functions = {size: partial(generate, pipe, images, size, args.steps) for size, images in calls.items()}
    seconds = median_times(functions, args.repeats)
    rates = {size: images / seconds[size] for size, images in calls.items()}
    title = f"{args.images} images in batches of {{}}, {args.steps} steps"
    return [row(title.format(size), rates[size], "images/s", baseline=rates[1]) for size in args.batch_sizes]


def latency_rows(pipe: LZNPipeline, args: argparse.Namespace) -> list[Row]:
    """The time of a call for one PIL image, and the part of it that its network evaluations alone do not take."""
    velocity, _ = decoder_flow(pipe, 1)
    config = pipe.model.config
    noise = torch.randn(1, config.num_channels, config.image_size, config.image_size, device=pipe.device)

    def call() -> None:
        pipe(label=0 if config.num_labels else None, num_inference_steps=args.steps)

    def network() -> None:
        for k in range(args.steps):
            velocity(noise, k / args.steps)

    # a call takes milliseconds: its median needs more rounds
    seconds = median_times({"call": call, "network": network}, 10 * args.repeats, warmup=3)
    title = f"one image a call, {args.steps} steps"
    overhead = 100 * (seconds["call"] / seconds["network"] - 1)
    return [
        row(f"{title}: latency", 1e3 * seconds["call"], "ms"),
        row(f"{title}: latency over that of its network evaluations", overhead, "%"),
    ]


@torch.no_grad()
def measure(args: argparse.Namespace) -> list[Row]:
    if any(evaluations < 2 or evaluations % 2 for evaluations in args.evaluations):
        raise SystemExit(f"--evaluations must be even numbers from 2, got {args.evaluations}")
    pipe, largest = load_pipeline(args), max(args.batch_sizes)
    config = pipe.model.config
    if args.model:
        velocity, exact = decoder_flow(pipe, args.images)
        shape, device = (args.images, config.num_channels, config.image_size, config.image_size), args.device
    else:
        velocity = exact = DigitsFlow(args.blur)
        shape, device = (args.images, 1, 8, 8), "cpu"
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(args.seed)).to(device)
    rows = error_rows(velocity, exact, noise, args) + throughput_rows(pipe, args) + latency_rows(pipe, args)
    peak = peak_memory(args, "call", batch_sizes=[largest]) / 2**20
    return [*rows, row(f"peak memory of such a call in batches of {largest}, over the model", peak, "MiB")]


def one_call(args: argparse.Namespace, case: str) -> Callable[[], Tensor]:
    return partial(generate, load_pipeline(args), args.images, max(args.batch_sizes), args.steps)


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick=QUICK, memory=one_call)
