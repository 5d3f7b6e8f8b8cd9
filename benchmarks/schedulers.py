# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Accuracy of diffusers' schedulers on an image flow that is known exactly: the table in `lzn_hf.sampling_lzn.default_scheduler`.

The data are the 1,797 digits of scikit-learn (8x8, [-1, 1]) blurred by noise of standard deviation h. With x_t = t x + (1 - t) e their
flow is that of a mixture of Gaussians: x_t given digit i is N(t d_i, (t^2 h^2 + (1 - t)^2) I), so E[x - e | x_t] is a softmax and two lines.
Printed is the root mean square error per pixel against 1,000 classical Runge-Kutta steps in float64.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from diffusers import UniPCMultistepScheduler as UniPC
from sklearn.datasets import load_digits
from torch import Tensor

from lzn_hf.sampling_lzn import default_scheduler, run_scheduler


def exact_velocity(x: Tensor, t: float, digits: Tensor, h: float) -> Tensor:
    """E[data - noise | x_t = x] in float64."""
    flat, variance = x.flatten(1).double(), t * t * h * h + (1 - t) ** 2
    p = ((t * flat @ digits.T - 0.5 * t * t * digits.square().sum(1)) / variance).softmax(1)
    mean = p @ digits
    residual = (flat - t * mean) / variance  # E[noise | x] = (1 - t) residual, E[data | x] = mean + t h^2 residual
    return (mean + t * h * h * residual - (1 - t) * residual).view_as(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="images to generate")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[10, 20, 40], help="network evaluations")
    parser.add_argument("--blur", type=float, default=0.2, help="the h above")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="benchmarks/results/schedulers.json", help="where the JSON goes")
    args = parser.parse_args()

    digits = torch.from_numpy(load_digits().data) / 8 - 1
    noise = torch.randn(args.images, 1, 8, 8, generator=torch.Generator().manual_seed(args.seed))

    def velocity(x: Tensor, t: float) -> Tensor:
        return exact_velocity(x, t, digits, args.blur)

    reference, steps = noise.double(), 1000
    for k in range(steps):
        t, step = k / steps, 1 / steps
        a = velocity(reference, t)
        b = velocity(reference + step / 2 * a, t + step / 2)
        c = velocity(reference + step / 2 * b, t + step / 2)
        d = velocity(reference + step * c, t + step)
        reference = reference + step / 6 * (a + 2 * b + 2 * c + d)

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    schedulers = {
        "UniPC, order 3 (default)": (default_scheduler(), 1),
        "UniPC, order 2": (UniPC(solver_order=2, **flow), 1),
        "DPM-Solver++, order 3": (DPMSolverMultistepScheduler(solver_order=3, **flow), 1),
        "Heun": (FlowMatchHeunDiscreteScheduler(), 2),
        "Euler": (FlowMatchEulerDiscreteScheduler(), 1),
    }
    results = {}
    for name, (scheduler, cost) in schedulers.items():
        errors = {}
        for evaluations in args.evaluations:
            sample = run_scheduler(scheduler, evaluations // cost, lambda x, t: velocity(x, t).float(), noise)
            errors[evaluations] = (sample - reference).square().mean().sqrt().item()
        results[name] = errors
        print(f"{name:26}" + "".join(f"{n:6}: {error:.4f}" for n, error in errors.items()), flush=True)
    report = {"torch": torch.__version__, "settings": vars(args), "rms_errors": results}
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
