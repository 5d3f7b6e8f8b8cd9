# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Measure the images of a saved model, for any number of samplers:

    lzn evaluate outputs/demo/model --samplers unipc:10 unipc:20 euler:50 rk45
    torchrun --nproc_per_node 4 -m lzn_hf.commands.evaluate_generation --model_name_or_path outputs/mine \\
        --data_dir my_images --feature_extractor outputs/metric_features --num_samples 50000 --update_model_card

writes into `--output_dir`
    evaluation.json    all numbers, with the name of the feature extractor, without which they mean nothing
    quality.png        Fréchet distance against network evaluations, if a sampler was given with several numbers of steps

Samplers are `unipc:STEPS`, `dpmsolver++:STEPS`, `euler:STEPS`, `heun:STEPS` (two evaluations per step) and `rk45`; `heun:10@1.5` is guided
at a scale of 1.5, by the model of `--guide_name_or_path` or by a model trained with condition dropout itself. All start
from the same noise and labels, which depend neither on the batch size nor on the number of processes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import LZNConfig
from ..evaluation.features import load_feature_extractor
from ..evaluation.generation import evaluate_folder, results_table, update_model_card
from ..evaluation.processes import process_state
from ..evaluation.results import write_json
from ..training.arguments import DataArguments, require_at_least
from ..training.batches import load_data
from ..training.command_line import parse_command_line, run_as_script
from ..training.processes import check_num_processes
from ..visualization.curves import plot_quality
from ..visualization.figures import draw_figure


RESULTS_FILE, PLOT_FILE = "evaluation.json", "quality.png"


@dataclass
class EvaluationArguments:
    """What to measure, and how."""

    _argument_group_name = "evaluation"

    model_name_or_path: str = field(metadata={"help": "Folder or hub id of a saved pipeline."})
    output_dir: str = field(default="outputs/evaluation", metadata={"help": "Folder for the results."})
    samplers: list[str] = field(
        default_factory=lambda: ["unipc:20"],
        metadata={
            "help": "unipc:STEPS, dpmsolver++:STEPS, euler:STEPS, heun:STEPS or rk45, any number of them, and @SCALE after one for guidance."
        },
    )
    guide_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or hub id of a weaker model, which guides samplers with @SCALE."}
    )
    num_samples: int = field(
        default=2000, metadata={"help": "Images of each sampler. Compare distances of equal numbers only."}
    )
    feature_extractor: str = field(
        default="pixels",
        metadata={"help": "pixels, inception, or folder or hub id of an image model of transformers."},
    )
    reference: Literal["validation", "train"] = field(
        default="validation",
        metadata={
            "help": "Real images to compare with; --max_eval_samples takes some of them. The literature: train."
        },
    )
    num_reconstructions: int = field(
        default=100, metadata={"help": "Real images (held out, where there are any) to reconstruct; 0: none."}
    )
    reconstruction_samplers: list[str] = field(
        default_factory=lambda: ["rk45"], metadata={"help": "euler:STEPS, heun:STEPS or rk45, for both directions."}
    )
    batch_size: int = field(default=64, metadata={"help": "Images per batch on each process."})
    seed: int = field(default=0, metadata={"help": "Decides the samples, and which real images are taken."})
    update_model_card: bool = field(
        default=False, metadata={"help": "Write the results into the metadata of the folder's README.md, too."}
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "batch_size")
        require_at_least(self, 0, "num_reconstructions", "seed")
        if self.update_model_card and not (Path(self.model_name_or_path) / "README.md").is_file():
            raise ValueError(f"`update_model_card` needs a README.md in the folder {self.model_name_or_path!r}.")


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Evaluates by the command line `argv` (None: that of the process). Returns the results, on the main process."""
    args, data_args = parse_command_line([EvaluationArguments, DataArguments], argv, __doc__)
    state = process_state()
    check_num_processes(state.num_processes)
    logging.basicConfig(format="%(message)s", level=logging.INFO if state.is_main_process else logging.ERROR)
    config = LZNConfig.from_pretrained(args.model_name_or_path)
    data_args.image_size = data_args.image_size or config.image_size
    data_args.num_channels = data_args.num_channels or config.num_channels
    data = load_data(state, data_args, require_labels=False)
    results = evaluate_folder(
        args.model_name_or_path,
        data,
        load_feature_extractor(args.feature_extractor, state.device),
        args.samplers,
        args.num_samples,
        args.seed,
        reference=args.reference,
        max_reference_images=data_args.max_eval_samples,
        num_reconstructions=args.num_reconstructions,
        reconstruction_samplers=args.reconstruction_samplers,
        batch_size=args.batch_size,
        guide_name_or_path=args.guide_name_or_path,
        progress=True,
    )
    if results is not None:
        output_dir = Path(args.output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(output_dir / RESULTS_FILE, results)
        write_plot(results, output_dir / PLOT_FILE)
        if args.update_model_card:
            card = update_model_card(args.model_name_or_path, results, hub_dataset=data_args.hub_dataset)
            card.save(Path(args.model_name_or_path) / "README.md")
        print(f"{args.model_name_or_path} on {data.name}: {heading(results)}\n\n{results_table(results)}")
    state.destroy_process_group()
    return results


def write_plot(results: dict[str, Any], path: Path) -> None:
    """The distance against network evaluations. Only if a sampler has two points; the file of an earlier run goes."""
    path.unlink(missing_ok=True)
    curves: dict[str, list[tuple[float, float]]] = {}
    for name, numbers in results["samplers"].items():
        point = numbers["evaluations"], numbers["frechet_distance"]
        curves.setdefault(re.sub(r":\d+", "", name), []).append(point)  # "heun", "heun@1.5"
    if max(map(len, curves.values()), default=0) > 1:
        real = results["real_images"] and results["real_images"]["frechet_distance"]
        draw_figure(plot_quality({"": curves}, real_images=real, title=heading(results))).save(path)


def heading(results: dict[str, Any]) -> str:
    """Samples, reference and features of the numbers."""
    settings, reference = results["settings"], results["reference"]
    return (
        f"{settings['num_samples']:,} samples against {reference['images']:,} {reference['split']} images; "
        f"features: {settings['feature_extractor']}"
    )


if __name__ == "__main__":
    run_as_script(main)
