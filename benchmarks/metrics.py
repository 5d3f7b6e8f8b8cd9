# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Time, memory and rounding of the metrics of generated images, on random features of the size of Inception's.

    python benchmarks/metrics.py
    python benchmarks/metrics.py --samples 10000 --threads 2

The baseline is the formula as it is usually written, in float64 and with all pairs in one matrix, on `--plain_samples`
samples: scipy's matrix square root, scikit-learn's distances. Features are float32. Peak memory is that of a fresh process over
its imports, both sets of features included.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from common import Row, median_times, peak_memory, row, run_benchmark
from scipy.linalg import sqrtm
from scipy.special import rel_entr
from sklearn.metrics import pairwise_distances
from torch import Tensor

from lzn_hf.evaluation.metrics import frechet_distance, inception_score, kernel_distance, precision_recall


ARGUMENTS = {
    "samples": (50_000, "samples in each set"),
    "features": (2048, "features of a sample"),
    "labels": (1008, "labels, for the Inception score"),
    "plain_samples": (5000, "samples for the baseline"),
    "threads": (1, "threads; with one, seconds are processor time"),
}
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
    """Returns two sets of features, non-negative and of many scales like those of a network; or log-probabilities."""
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


def metric_rows(name: str, args: argparse.Namespace) -> list[Row]:
    """Compares with the baseline on a small set; measures time and memory at the size of an evaluation."""
    peak = peak_memory(args, name)  # before this process holds features too
    metric, plain = METRICS[name]
    inputs = make_inputs(name, args.plain_samples, args)
    in_float64 = [x.double().numpy() for x in inputs]
    values: dict[str, float | dict[str, float]] = {}
    functions = {
        "ours": lambda: values.update(ours=metric(*inputs)),
        "plain": lambda: values.update(plain=plain(*in_float64)),
    }
    small = median_times(functions, args.repeats, warmup=0)
    inputs = make_inputs(name, args.samples, args)
    large = median_times({"ours": lambda: metric(*inputs)}, args.repeats, warmup=0)
    title, large_title = (f"{name}, {samples:,} samples" for samples in (args.plain_samples, args.samples))
    return [
        row(title, small["ours"], "s", baseline=small["plain"]),
        row(f"{title}, difference from float64", relative_difference(**values), ""),
        row(large_title, large["ours"], "s"),
        row(f"{large_title}, peak memory", peak / 2**30, "GiB"),
    ]


def measure(args: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(args.threads)
    return [result for name in METRICS for result in metric_rows(name, args)]


def large_case(args: argparse.Namespace, name: str) -> Callable[[], object]:
    torch.set_num_threads(args.threads)
    return lambda: METRICS[name][0](*make_inputs(name, args.samples, args))


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick=QUICK, repeats=1, memory=large_case)
