# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Compare what latent zones, SimCLR and momentum contrast learn, all else being equal, over several seeds:

    python examples/compare_representations.py --presets digits
    python examples/compare_representations.py --presets digits fashion-mnist --data_dir fashion-mnist --workers 2

Every method has the encoder, views, batches, steps, learning rate and schedule of the preset; `random` is the encoder before any
step. Each run is one call of `train_representation.py`, a process of one thread; `--workers` of them go side by side. Each folder is
measured by the linear probe and by nearest neighbours on held-out images. Runs that are there already are not repeated. It writes

    output_dir/PRESET/METHOD-SEED/    the model folder of each run, with its `representation.json`
    output_dir/results.json, table.md mean and standard deviation over the seeds
"""

from __future__ import annotations

import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from lzn_hf.evaluation.results import write_json
from lzn_hf.training.arguments import require_at_least


EXAMPLES = Path(__file__).resolve().parent
LEARNING = ("lzn", "simclr", "moco")
METHODS = (*LEARNING, "random")
MEASURES = {"linear": "linear probe", "knn": "nearest neighbours"}
logger = logging.getLogger(__name__)


@dataclass
class ComparisonArguments:
    """What to compare, and where to write."""

    _argument_group_name = "comparison"

    output_dir: str = field(default="outputs/compare_representations", metadata={"help": "Folder of all runs."})
    presets: list[str] = field(
        default_factory=lambda: ["digits"], metadata={"help": "Of examples/presets/representation."}
    )
    methods: list[str] = field(
        default_factory=lambda: list(METHODS), metadata={"help": f"Among {', '.join(METHODS)}."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the runs."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the images of `fashion-mnist`."})
    max_train_steps: int | None = field(default=None, metadata={"help": "Steps of every run; default: the preset's."})
    flags: list[str] = field(
        default_factory=list,
        metadata={
            "help": "More flags of train_representation.py for every run, as name=value: `total_batch_size=128`."
        },
    )
    max_train_samples: int = field(
        default=20000, metadata={"help": "Training images that the probe and the neighbours are fitted on, at most."}
    )
    workers: int = field(default=1, metadata={"help": "Runs side by side, each of one thread."})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "max_train_steps", "max_train_samples", "workers")
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"`methods` must be among {', '.join(METHODS)}, but one is {method!r}.")
        if not self.seeds or not self.presets or not self.methods:
            raise ValueError("`seeds`, `presets` and `methods` must not be empty.")


def main(argv: Sequence[str] | None = None) -> Path:
    """Compares by the command line `argv` (None: the process's own). Returns the folder."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    parser = HfArgumentParser(ComparisonArguments, description=__doc__, allow_abbrev=False)
    (args,) = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    output_dir = Path(args.output_dir)
    jobs = [(preset, method, seed) for seed in args.seeds for preset in args.presets for method in args.methods]
    with ThreadPoolExecutor(args.workers) as pool:
        runs = list(tqdm(pool.map(lambda job: run(args, *job), jobs), total=len(jobs), desc="runs"))
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread a run",
        "arguments": {name: value for name, value in vars(args).items() if name not in ("output_dir", "data_dir")},
        "runs": runs,
        "summary": summarise(runs),
    }
    write_json(output_dir / "results.json", results)
    (output_dir / "table.md").write_text(table(results["summary"]) + "\n")
    print(table(results["summary"]))
    return output_dir


def run(args: ComparisonArguments, preset: str, method: str, seed: int) -> dict:
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
        call(folder, "train_representation.py", *command)
    if not results.is_file():
        flags = ["--dataset_name", "digits"] if preset == "digits" else data
        flags = [*flags, "--max_train_samples", args.max_train_samples, "--map_samples", 0]
        call(folder, "evaluate_representation.py", "--model_name_or_path", folder, *flags)
    seconds = time.perf_counter() - start if is_new else None  # of training and measuring
    about = {"model": folder.name, "preset": preset, "method": method, "seed": seed, "seconds": seconds}
    return {**json.loads(results.read_text()), **about}


def call(folder: Path, script: str, *arguments: object) -> None:
    """Runs a script of this folder in a process of one thread, with its output in a file beside the folder of the run."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("a") as file:
        command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
        code = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
    if code:
        raise RuntimeError(f"{script} ended with {code}: see {log}, which ends with\n{log.read_text()[-2000:]}")


def summarise(runs: Sequence[dict]) -> list[dict]:
    """Mean and standard deviation over the seeds."""
    rows = []
    for preset, method in dict.fromkeys((one["preset"], one["method"]) for one in runs):
        chosen = [one for one in runs if (one["preset"], one["method"]) == (preset, method)]
        row = {"preset": preset, "method": method, "seeds": len(chosen)}
        for measure in MEASURES:
            values = [one["embeddings"][measure] for one in chosen]
            row[measure] = statistics.mean(values)
            row[f"{measure}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
        rows.append(row)
    return rows


def table(summary: Sequence[dict]) -> str:
    lines = [f"| data | method | {' | '.join(MEASURES.values())} | seeds |", "|---|---|---|---|---|"]
    for row in summary:
        cells = []
        for measure in MEASURES:
            deviation = row[f"{measure}_deviation"]
            spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
            cells.append(f"{100 * row[measure]:.2f} %{spread}")
        lines.append(f"| {row['preset']} | {row['method']} | {' | '.join(cells)} | {row['seeds']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
