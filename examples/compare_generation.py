# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Compare a Latent Zoning Network with the rectified flow alone: the same decoder, data, steps and seeds.

    python examples/compare_generation.py --presets digits
    python examples/compare_generation.py --presets digits fashion-mnist-small --data_dir fashion-mnist --workers 2

Each run is one call of `train_unconditional.py`, with and without `--baseline rectified_flow`, in a process of one thread;
`--workers` of them go side by side. Then each folder is measured as `evaluate_generation.py` does it, on the features of a classifier of
the same data that `train_metric_features.py` trains first. Whatever is there already is not repeated. It writes

    output_dir/PRESET/features/         the classifier
    output_dir/PRESET/METHOD-SEED/      the model folder of each run, with its `evaluation/evaluation.json`
    output_dir/results.json, table.md   means and standard deviations over the seeds
    output_dir/PRESET.png               quality against network evaluations, for each method and sampler
"""

from __future__ import annotations

import json
import logging
import os
import platform
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from compare_representations import EXAMPLES, call
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from lzn_hf.evaluation.results import write_json
from lzn_hf.training.arguments import require_at_least
from lzn_hf.visualization.grids import PALETTE


METHODS = {"lzn": "latent zones", "rectified_flow": "rectified flow alone"}
SAMPLED = {"frechet_distance": "Fréchet distance", "precision": "precision", "recall": "recall"}
LINES = {"lzn": "-", "rectified_flow": "--"}
logger = logging.getLogger(__name__)


@dataclass
class ComparisonArguments:
    """What to compare, and where to write."""

    _argument_group_name = "comparison"

    output_dir: str = field(default="outputs/compare_generation", metadata={"help": "Folder of all runs."})
    presets: list[str] = field(
        default_factory=lambda: ["digits"], metadata={"help": "Of examples/presets/unconditional."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the runs."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the images of Fashion-MNIST."})
    max_train_steps: int | None = field(default=None, metadata={"help": "Steps of every run; default: the preset's."})
    num_samples: int = field(default=1000, metadata={"help": "Images of each sampler to measure."})
    samplers: list[str] = field(
        default_factory=lambda: ["heun:10", "euler:5", "euler:10", "euler:20", "unipc:5", "unipc:10"],
        metadata={"help": "The first one is that of the table; all are in the picture."},
    )
    reconstruction_samplers: list[str] = field(
        default_factory=lambda: ["euler:20", "heun:10", "rk45"], metadata={"help": "Both ways by the same solver."}
    )
    num_reconstructions: int = field(default=50, metadata={"help": "Held-out images to reconstruct."})
    workers: int = field(default=1, metadata={"help": "Runs side by side, each of one thread."})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "max_train_steps", "num_samples", "num_reconstructions", "workers")
        if not (self.seeds and self.presets and self.samplers and self.reconstruction_samplers):
            raise ValueError("`seeds`, `presets`, `samplers` and `reconstruction_samplers` must not be empty.")


def main(argv: Sequence[str] | None = None) -> Path:
    """Compares by the command line `argv` (None: the process's own). Returns the folder."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    parser = HfArgumentParser(ComparisonArguments, description=__doc__, allow_abbrev=False)
    (args,) = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    output_dir = Path(args.output_dir)
    jobs = [(preset, method, seed) for seed in args.seeds for preset in args.presets for method in METHODS]
    with ThreadPoolExecutor(args.workers) as pool:
        features = dict(
            zip(args.presets, pool.map(lambda preset: train_features(args, preset), args.presets), strict=True)
        )
        runs = list(tqdm(pool.map(lambda job: run(args, features, *job), jobs), total=len(jobs), desc="runs"))
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread a run",
        "arguments": {name: value for name, value in vars(args).items() if name not in ("output_dir", "data_dir")},
        "runs": runs,
        "summary": summarise(args, runs),
    }
    write_json(output_dir / "results.json", results)
    (output_dir / "table.md").write_text(table(args, results["summary"]) + "\n")
    for preset in args.presets:
        plot(args, preset, [one for one in runs if one["preset"] == preset], output_dir / f"{preset}.png")
    print(table(args, results["summary"]))
    return output_dir


def data_flags(args: ComparisonArguments, preset: str) -> list[Any]:
    """The images of a preset, for the scripts that do not know presets."""
    data = json.loads((EXAMPLES / "presets" / "unconditional" / f"{preset}.json").read_text()).get("data", {})
    flags = ["--dataset_name", data.get("dataset_name", "digits")]
    flags += ["--data_dir", args.data_dir] if data.get("dataset_name") == "fashion-mnist" else []
    for name in ("image_size", "max_eval_samples"):
        flags += [f"--{name}", data[name]] if name in data else []
    return flags


def train_features(args: ComparisonArguments, preset: str) -> Path:
    """Trains the classifier whose features measure the images, unless it is there already."""
    folder = Path(args.output_dir) / preset / "features"
    if not (folder / "config.json").is_file():
        call(folder, "train_metric_features.py", "--output_dir", folder, *data_flags(args, preset))
    return folder


def run(args: ComparisonArguments, features: dict[str, Path], preset: str, method: str, seed: int) -> dict[str, Any]:
    """Trains and measures one model, unless that is done already."""
    folder = Path(args.output_dir) / preset / f"{method}-{seed}"
    results = folder / "evaluation" / "evaluation.json"
    flags = data_flags(args, preset)
    if not (folder / "model_index.json").is_file():
        command = ["--preset", preset, "--seed", seed, "--output_dir", folder, "--overwrite_output_dir", *flags]
        command += ["--baseline", method] if method != "lzn" else []
        command += ["--max_train_steps", args.max_train_steps] if args.max_train_steps else []
        call(folder, "train_unconditional.py", *command)
    if not results.is_file():
        command = ["--model_name_or_path", folder, "--output_dir", results.parent, "--seed", seed, *flags]
        command += ["--feature_extractor", features[preset], "--num_samples", args.num_samples]
        command += ["--num_reconstructions", args.num_reconstructions]
        command += ["--samplers", *args.samplers, "--reconstruction_samplers", *args.reconstruction_samplers]
        call(folder, "evaluate_generation.py", *command)
    return {**json.loads(results.read_text()), "model": folder.name, "preset": preset, "method": method, "seed": seed}


def mean_and_deviation(values: Sequence[float]) -> list[float | None]:
    return [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None]


def summarise(args: ComparisonArguments, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means and standard deviations over the seeds."""
    rows = []
    for preset, method in dict.fromkeys((one["preset"], one["method"]) for one in runs):
        chosen = [one for one in runs if (one["preset"], one["method"]) == (preset, method)]
        row = {"preset": preset, "method": method, "seeds": len(chosen), "features": chosen[0]["feature_extractor"]}
        for measure in SAMPLED:
            row[measure] = mean_and_deviation([one["samplers"][args.samplers[0]][measure] for one in chosen])
        for sampler in args.reconstruction_samplers:
            errors = [one["reconstruction"][sampler]["reconstruction_l2"] for one in chosen]
            row[f"reconstruction_{sampler}"] = mean_and_deviation(errors)
        rows.append(row)
    return rows


def table(args: ComparisonArguments, summary: Sequence[dict[str, Any]]) -> str:
    names = {
        **SAMPLED,
        **{f"reconstruction_{name}": f"reconstruction, {name}" for name in args.reconstruction_samplers},
    }
    lines = [f"| data | method | {' | '.join(names.values())} |", "|---" * (len(names) + 2) + "|"]
    for row in summary:
        cells = []
        for name in names:
            mean, deviation = row[name]
            cells.append(f"{mean:.3g}" + ("" if deviation is None else f" ± {deviation:.1g}"))
        lines.append(f"| {row['preset']} | {METHODS[row['method']]} | {' | '.join(cells)} |")
    features = "; ".join(dict.fromkeys(f"{row['preset']}: {row['features']}" for row in summary))
    lines += ["", f"Samples: {args.num_samples} by {args.samplers[0]}. Features: {features}."]
    return "\n".join(lines)


def plot(args: ComparisonArguments, preset: str, runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Fréchet distance against network evaluations an image, a line for each method and sampler: means over the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    figure = Figure(figsize=(7, 4.5), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: no screen, no global state
    axes = figure.subplots()
    families = list(dict.fromkeys(name.partition(":")[0] for name in args.samplers))
    for method, style in LINES.items():
        chosen = [one["samplers"] for one in runs if one["method"] == method]
        for family, colour in zip(families, PALETTE, strict=True):
            points = []
            for name in (name for name in args.samplers if name.partition(":")[0] == family):
                means = (
                    statistics.mean(one[name][key] for one in chosen) for key in ("evaluations", "frechet_distance")
                )
                points.append(tuple(means))
            label = f"{METHODS[method]}, {family}"
            axes.plot(*zip(*sorted(points), strict=True), style, color=colour, marker="o", markersize=5, label=label)
    floor = statistics.mean(one["real_images"]["frechet_distance"] for one in runs)
    axes.axhline(floor, color="0.4", linestyle=":", linewidth=1.2, label="training images")
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({round(x) for line in axes.get_lines()[:-1] for x in line.get_xdata()})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatter(ScalarFormatter())
    axes.set_xlabel("network evaluations an image")
    axes.set_ylabel("Fréchet distance to held-out images")
    axes.set_title(f"{preset}; features: {runs[0]['feature_extractor']}", fontsize=10, color="0.25")
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    main()
