# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Compare a Latent Zoning Network with the rectified flow alone: the same decoder, data, steps and seeds.

    python examples/compare_generation.py --presets digits
    python examples/compare_generation.py --presets digits fashion-mnist-small --data_dir fashion-mnist --workers 2

Each run is one call of `train_unconditional.py`, with and without `--baseline rectified_flow`, in a process of one thread,
`--workers` of them at a time. Each folder is then measured by `evaluate_generation.py`, on the features of a classifier of
the same data that `train_metric_features.py` trains first. Finished runs are not repeated. It writes

    output_dir/PRESET/features/         the classifier
    output_dir/PRESET/METHOD-SEED/      the model folder of each run, with its `evaluation/evaluation.json`
    output_dir/results.json, table.md   means and standard deviations over the seeds
    output_dir/PRESET.png               quality against network evaluations, for each method and sampler
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import comparison
from comparison import Row, run_script
from PIL import Image

from lzn_hf.training.arguments import require_at_least
from lzn_hf.training.command_line import run_as_script
from lzn_hf.training.parsing import PRESETS_DIR
from lzn_hf.visualization.curves import plot_quality
from lzn_hf.visualization.figures import draw_figure


METHODS = {"lzn": "latent zones", "rectified_flow": "rectified flow alone"}
SAMPLED = {"frechet_distance": "Fréchet distance", "precision": "precision", "recall": "recall"}


@dataclass
class ComparisonArguments(comparison.PresetsArguments):
    """What to compare, and where to write."""

    output_dir: str = field(default="outputs/compare_generation", metadata={"help": "Folder of all runs."})
    num_samples: int = field(default=1000, metadata={"help": "Images of each sampler to measure."})
    samplers: list[str] = field(
        default_factory=lambda: ["heun:10", "euler:5", "euler:10", "euler:20", "unipc:5", "unipc:10"],
        metadata={"help": "The first one is that of the table; all are in the picture."},
    )
    reconstruction_samplers: list[str] = field(
        default_factory=lambda: ["euler:20", "heun:10", "rk45"], metadata={"help": "Both ways by the same solver."}
    )
    num_reconstructions: int = field(default=50, metadata={"help": "Held-out images to reconstruct."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_entries("samplers", "reconstruction_samplers")
        require_at_least(self, 1, "num_samples", "num_reconstructions")


def main(argv: Sequence[str] | None = None) -> Path:
    """Compares by the command line `argv` (None: that of the process). Returns the folder."""
    args = comparison.parse_arguments(ComparisonArguments, __doc__, argv)
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(partial(train_features, args), args.presets))
    runs = comparison.run_all(args, args.presets, list(METHODS), partial(run, args))

    measures = {name: lambda run, name=name: run["samplers"][args.samplers[0]][name] for name in SAMPLED}
    headings = dict(SAMPLED)
    for sampler in args.reconstruction_samplers:
        name = f"reconstruction_{sampler}"
        headings[name] = f"reconstruction, {sampler}"
        measures[name] = lambda run, sampler=sampler: run["reconstruction"][sampler]["reconstruction_l2"]
    cell = partial(comparison.with_deviation, mean="{:.3g}", deviation="{:.1g}")
    columns = {"data": lambda row: row["preset"], "method": lambda row: METHODS[row["method"]]}
    columns |= {heading: partial(cell, name=name) for name, heading in headings.items()}
    features = {run["preset"]: run["settings"]["feature_extractor"] for run in runs}
    names = "; ".join(f"{preset}: {name}" for preset, name in features.items())
    note = f"Samples: {args.num_samples} by {args.samplers[0]}. Features: {names}."
    output_dir = comparison.write_results(args, runs, comparison.summarise(runs, measures), columns, note)
    for preset in args.presets:
        picture = plot([one for one in runs if one["preset"] == preset], preset)
        picture.save(output_dir / f"{preset}.png")
    return output_dir


def data_flags(args: ComparisonArguments, preset: str) -> list[Any]:
    """The images of a preset, for the scripts that do not know presets."""
    data = json.loads((PRESETS_DIR / "unconditional" / f"{preset}.json").read_text()).get("data", {})
    flags = ["--dataset_name", data.get("dataset_name", "digits")]
    flags += ["--data_dir", args.data_dir] if data.get("dataset_name") == "fashion-mnist" else []
    for name in ("image_size", "max_eval_samples"):
        flags += [f"--{name}", data[name]] if name in data else []
    return flags


def train_features(args: ComparisonArguments, preset: str) -> None:
    """Trains the classifier that computes the features of the metrics, unless it is there already."""
    folder = Path(args.output_dir) / preset / "features"
    if not (folder / "config.json").is_file():
        run_script(folder, "train_metric_features.py", "--output_dir", folder, *data_flags(args, preset))


def run(args: ComparisonArguments, preset: str, method: str, seed: int) -> Row:
    """Trains and measures one model, unless that is done already."""
    folder = Path(args.output_dir) / preset / f"{method}-{seed}"
    results = folder / "evaluation" / "evaluation.json"
    flags = data_flags(args, preset)
    if not (folder / "model_index.json").is_file():
        command = ["--preset", preset, "--seed", seed, "--output_dir", folder, "--overwrite_output_dir", *flags]
        command += ["--baseline", method] if method != "lzn" else []
        command += ["--max_train_steps", args.max_train_steps] if args.max_train_steps else []
        run_script(folder, "train_unconditional.py", *command)
    if not results.is_file():
        command = ["--model_name_or_path", folder, "--output_dir", results.parent, "--seed", seed, *flags]
        command += ["--feature_extractor", folder.parent / "features", "--num_samples", args.num_samples]
        command += ["--num_reconstructions", args.num_reconstructions]
        command += ["--samplers", *args.samplers, "--reconstruction_samplers", *args.reconstruction_samplers]
        run_script(folder, "evaluate_generation.py", *command)
    return {**json.loads(results.read_text()), "model": folder.name}


def plot(runs: Sequence[Row], preset: str) -> Image.Image:
    """Fréchet distance against network evaluations, a line for each method and family of samplers: means over the seeds."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for method, title in METHODS.items():
        chosen = [run["samplers"] for run in runs if run["method"] == method]
        for name in chosen[0]:
            point = [statistics.mean(one[name][key] for one in chosen) for key in ("evaluations", "frechet_distance")]
            curves.setdefault(title, {}).setdefault(name.partition(":")[0], []).append((point[0], point[1]))
    figure = plot_quality(
        curves,
        real_images=statistics.mean(run["real_images"]["frechet_distance"] for run in runs),
        title=f"{preset}; features: {runs[0]['settings']['feature_extractor']}",
        ylabel="Fréchet distance to held-out images",
    )
    return draw_figure(figure)


if __name__ == "__main__":
    run_as_script(main)
