# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Compare the representations that latent zones, SimCLR and momentum contrast learn, all else being equal, over several seeds:

    python examples/compare_representations.py --presets digits
    python examples/compare_representations.py --presets digits fashion-mnist --data_dir fashion-mnist --workers 2

All methods have the encoder, views, batches, steps, learning rate and schedule of the preset; `random` is the encoder before any
step. Each run is one call of `train_representation.py` in a process of one thread, `--workers` of them at a time. Each folder is
measured by the linear probe and by nearest neighbours on held-out images. Finished runs are not repeated. It writes

    output_dir/PRESET/METHOD-SEED/    the model folder of each run, with its `representation.json`
    output_dir/results.json, table.md mean and standard deviation over the seeds
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import comparison
from comparison import Row, run_script

from lzn_hf.training.arguments import require_at_least
from lzn_hf.training.command_line import run_as_script


LEARNING = ("lzn", "simclr", "moco")
METHODS = (*LEARNING, "random")
MEASURES = {"linear": lambda run: run["embeddings"]["linear"], "knn": lambda run: run["embeddings"]["knn"]}
percent = partial(comparison.with_deviation, mean="{:.2f} %", deviation="{:.2f}", factor=100)
COLUMNS = {
    "data": lambda row: row["preset"],
    "method": lambda row: row["method"],
    "linear probe": lambda row: percent(row, "linear"),
    "nearest neighbours": lambda row: percent(row, "knn"),
    "seeds": lambda row: row["seeds"],
}


@dataclass
class ComparisonArguments(comparison.PresetsArguments):
    """What to compare, and where to write."""

    output_dir: str = field(default="outputs/compare_representations", metadata={"help": "Folder of all runs."})
    methods: list[str] = field(
        default_factory=lambda: list(METHODS), metadata={"help": f"Among {', '.join(METHODS)}."}
    )
    flags: list[str] = field(
        default_factory=list,
        metadata={
            "help": "More flags of train_representation.py for every run, as name=value: `total_batch_size=128`."
        },
    )
    max_train_samples: int = field(
        default=20000, metadata={"help": "Training images that the probe and the neighbours are fitted on, at most."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_known("methods", METHODS)
        require_at_least(self, 1, "max_train_samples")


def main(argv: Sequence[str] | None = None) -> Path:
    """Compares by the command line `argv` (None: that of the process). Returns the folder."""
    args = comparison.parse_arguments(ComparisonArguments, __doc__, argv)
    runs = comparison.run_all(args, args.presets, args.methods, partial(run, args))
    return comparison.write_results(args, runs, comparison.summarise(runs, MEASURES), COLUMNS)


def run(args: ComparisonArguments, preset: str, method: str, seed: int) -> Row:
    """Trains and measures one model, unless that is done already."""
    folder = Path(args.output_dir) / preset / f"{method}-{seed}"
    results = folder / "representation.json"
    data = ["--dataset_name", "fashion-mnist", "--data_dir", args.data_dir] if preset == "fashion-mnist" else []
    start, is_new = time.perf_counter(), not (folder / "config.json").is_file()
    if is_new:
        command = ["--preset", preset, "--seed", seed, "--output_dir", folder, "--overwrite_output_dir", *data]
        command += ["--method", method] if method in LEARNING else ["--encoder_learning_rate", 0]
        steps = args.max_train_steps if method in LEARNING else 1
        command += [] if steps is None else ["--max_train_steps", steps]
        for flag in args.flags:
            name, _, value = flag.partition("=")
            command += [f"--{name}", value]
        run_script(folder, "train_representation.py", *command)
    if not results.is_file():
        flags = ["--dataset_name", "digits"] if preset == "digits" else data
        flags = [*flags, "--max_train_samples", args.max_train_samples, "--map_samples", 0]
        run_script(folder, "evaluate_representation.py", "--model_name_or_path", folder, *flags)
    seconds = time.perf_counter() - start if is_new else None  # of training and measuring
    return {**json.loads(results.read_text()), "model": folder.name, "seconds": seconds}


if __name__ == "__main__":
    run_as_script(main)
