# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Time, memory and accuracy of the latent computation against the direct form, in one run.

    python benchmarks/latent_zones.py --rows 256 --anchors 512 --latent_dim 200

The direct form is the velocity as the paper writes it, sum_i p_i (e_i - a_i) with e_i = (x - (1 - t) a_i) / t, by broadcasting over rows,
anchors and dimensions. Both integrate the same 20 Euler steps, forward and backward. Memory is the growth of the process's peak over
the idle interpreter, each in a process of its own. Accuracy is the root mean square per coordinate against 400 steps in float64.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from lzn_hf.latent_zones import EULER_EPS, compute_latents


def direct_latents(anchors: Tensor, noise: Tensor, num_steps: int) -> Tensor:
    """The published Euler encoding, written out over all pairs of rows and anchors."""
    x, size = EULER_EPS * noise + (1 - EULER_EPS) * anchors[: len(noise)], (1 - EULER_EPS) / num_steps
    for k in range(num_steps):
        tau = EULER_EPS + k * size
        residuals = (x[:, None] - (1 - tau) * anchors) / tau  # (B, N, D)
        p = (-0.5 * residuals.square().sum(-1)).softmax(-1)
        x = x + size * (p[..., None] * (residuals - anchors)).sum(1)
    return x


def ours(anchors: Tensor, noise: Tensor, num_steps: int) -> Tensor:
    return compute_latents(anchors[: len(noise)], noise, anchors, solver="euler", num_steps=num_steps)


FORMS = {"ours": ours, "direct": direct_latents}


def inputs(args: argparse.Namespace, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(args.seed)
    anchors = torch.randn(args.anchors, args.latent_dim, generator=generator, dtype=dtype)
    return anchors, torch.randn(args.rows, args.latent_dim, generator=generator, dtype=dtype)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(args: argparse.Namespace) -> None:
    """Times one form, forward and backward, and prints a line of JSON."""
    anchors, noise = inputs(args)
    anchors.requires_grad_()
    idle, seconds = peak_bytes(), []
    for _ in range(args.repeats + 1):
        start = time.perf_counter()
        FORMS[args.form](anchors, noise, args.steps).square().sum().backward()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(seconds[1:]), "bytes": peak_bytes() - idle}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256, help="rows B")
    parser.add_argument("--anchors", type=int, default=512, help="anchors N of the pool, the rows' own among them")
    parser.add_argument("--latent_dim", type=int, default=200, help="latent dimensions D")
    parser.add_argument("--steps", type=int, default=20, help="evaluations of the expected anchor")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs after one to warm up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="benchmarks/results/latent_zones.json", help="where the JSON goes")
    parser.add_argument("--form", choices=sorted(FORMS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.form:
        return measure(args)

    results = {}
    for form in FORMS:
        command = [sys.executable, __file__, "--form", form]
        for name in ("rows", "anchors", "latent_dim", "steps", "repeats", "seed"):
            command += [f"--{name}", str(getattr(args, name))]
        results[form] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{form:8} {results[form]['seconds']:8.3f} s   {results[form]['bytes'] / 2**20:9.1f} MiB")
    ratios = {key: results["direct"][key] / results["ours"][key] for key in ("seconds", "bytes")}
    print(f"ratio    {ratios['seconds']:8.1f}     {ratios['bytes']:9.1f}")

    anchors, noise = inputs(args, torch.float64)
    reference = compute_latents(anchors[: args.rows], noise, anchors, num_steps=400)
    errors = {}
    for solver in ("adams", "euler", "dpmsolver++"):
        for steps in (10, 20):
            got = compute_latents(anchors[: args.rows], noise, anchors, solver=solver, num_steps=steps)
            errors[f"{solver} {steps}"] = (got - reference).square().mean().sqrt().item()
            print(f"{solver:12} {steps:3} evaluations: rms error {errors[f'{solver} {steps}']:.1e}")

    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    settings = {name: getattr(args, name) for name in ("rows", "anchors", "latent_dim", "steps", "repeats", "seed")}
    report = {
        "machine": machine,
        "torch": torch.__version__,
        "settings": settings,
        "forms": results,
        "ratios": ratios,
        "rms_errors": errors,
    }
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
