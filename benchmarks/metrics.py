# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Time, memory and rounding of the metrics of generated images, on random features of the size of Inception's.

    python benchmarks/metrics.py
    python benchmarks/metrics.py --samples 10000 --threads 2

The baseline is the formula as it is usually written, in float64 and with all pairs in one matrix, on `--plain_samples`
samples: scipy's matrix square root, scikit-learn's distances. Features are float32. Seconds are processor time with one
thread, and of the clock with more. Peak memory is that of a fresh process over its imports, both sets of features included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from common import (
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
from scipy.linalg import sqrtm
from scipy.special import rel_entr
from sklearn.metrics import pairwise_distances
from torch import Tensor

from lzn_hf.evaluation.metrics import frechet_distance, inception_score, kernel_distance, precision_recall


QUICK = {"samples": 3000, "features": 256, "plain_samples": 1500, "repeats": 3}


def plain_frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)


def plain_kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    def k(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    def mean_of_others(kernel):
        return (kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1))

    return mean_of_others(k(a, a)) + mean_of_others(k(b, b)) - 2 * k(a, b).mean()


def plain_precision_recall(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    radii_r, radii_g = (np.sort(pairwise_distances(x), axis=1)[:, 3] for x in (real, generated))
    across = pairwise_distances(real, generated)
    return {
        "precision": (across <= radii_r[:, None]).any(0).mean(),
        "recall": (across <= radii_g[None]).any(1).mean(),
    }


def plain_inception_score(log_probs: np.ndarray) -> float:
    probs = np.exp(log_probs)
    return np.exp(rel_entr(probs, probs.mean(0)).sum(1).mean())


METRICS: dict[str, tuple[Callable, Callable]] = {
    "Fréchet distance": (frechet_distance, plain_frechet_distance),
    "kernel distance": (kernel_distance, plain_kernel_distance),
    "precision and recall": (precision_recall, plain_precision_recall),
    "Inception score": (inception_score, plain_inception_score),
}


def make_inputs(name: str, samples: int, args: argparse.Namespace) -> tuple[Tensor, ...]:
    """Two sets of features, not negative and of many scales as those of a network; or log-probabilities."""
    generator = torch.Generator().manual_seed(args.seed)
    if name == "Inception score":
        return (torch.randn(samples, args.labels, generator=generator).mul_(3).log_softmax(1),)
    scales = torch.logspace(-2, 0, args.features)
    return tuple(
        torch.randn(samples, args.features, generator=generator).add_(shift).mul_(scales).relu_()
        for shift in (0.5, 0.55)
    )


def relative_difference(ours: float | dict[str, float], plain: float | dict[str, float]) -> float:
    if isinstance(plain, dict):
        return max(relative_difference(ours[key], plain[key]) for key in plain)
    return abs(ours - plain) / max(abs(plain), 1e-300)


def plain_rows(name: str, args: argparse.Namespace, clock: Callable[[], float]) -> list[Row]:
    """Against the baseline: time, and how far the values are apart."""
    metric, plain = METRICS[name]
    inputs = make_inputs(name, args.plain_samples, args)
    in_float64 = [x.double().numpy() for x in inputs]
    values = {}
    functions = {
        "ours": lambda: values.update(ours=metric(*inputs)),
        "plain": lambda: values.update(plain=plain(*in_float64)),
    }
    seconds = median_times(functions, args.repeats, warmup=0, clock=clock)
    title, difference = f"{name}, {args.plain_samples:,} samples", relative_difference(**values)
    return [
        row(title, seconds["ours"], "s", baseline=seconds["plain"]),
        row(f"{title}, difference from float64", difference, "", target="<= 1e-6"),
    ]


def large_rows(name: str, args: argparse.Namespace, clock: Callable[[], float]) -> list[Row]:
    """Time and memory at the size of a published evaluation."""
    full = (args.samples, args.features) == (50_000, 2048)
    sizes = ("samples", "features", "labels", "threads", "seed")
    arguments = [text for size in sizes for text in (f"--{size}", str(getattr(args, size)))]
    peak = peak_memory(["--memory_of", name, *arguments])  # before this process holds features too
    inputs = make_inputs(name, args.samples, args)
    seconds = median_times({name: lambda: METRICS[name][0](*inputs)}, args.repeats, warmup=0, clock=clock)[name]
    title = f"{name}, {args.samples:,} samples"
    return [
        row(title, seconds, "s", target="<= 180" if full else None),
        row(f"{title}, peak memory", peak / 2**30, "GiB", target="<= 4" if full else None),
    ]


def main() -> None:
    parser = benchmark_parser(__doc__, "metrics", repeats=1)
    parser.add_argument("--samples", type=int, default=50_000, help="samples in each set (50,000)")
    parser.add_argument("--features", type=int, default=2048, help="features of a sample (2048)")
    parser.add_argument("--labels", type=int, default=1008, help="labels, for the Inception score (1008)")
    parser.add_argument("--plain_samples", type=int, default=5000, help="samples for the baseline (5000)")
    parser.add_argument("--threads", type=int, default=1, help="threads (1)")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    args = parse(parser, QUICK)
    torch.set_num_threads(args.threads)
    if args.memory_of:
        return print_peak_memory(lambda: METRICS[args.memory_of][0](*make_inputs(args.memory_of, args.samples, args)))

    clock = time.process_time if args.threads == 1 else time.perf_counter
    rows = []
    for name in METRICS:
        rows += plain_rows(name, args, clock)
        rows += large_rows(name, args, clock)
    print_rows(rows)
    write_results(args.output, vars(args), rows)


if __name__ == "__main__":
    main()
