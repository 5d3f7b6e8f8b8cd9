# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Measure the features of a saved model: linear probe, nearest neighbours, fine-tuning on few labels.

    lzn evaluate outputs/mine --what representation --dataset_name digits
    lzn evaluate outputs/mine --what representation --fine_tune_fractions 0.01 0.1 \\
        --dataset_name fashion-mnist --data_dir fashion-mnist
    torchrun --nproc_per_node 4 -m lzn_hf.commands.evaluate_representation --model_name_or_path outputs/mine --data_dir my_images

The probe is trained on the training split and tested on the validation split, both with labels. Images of another size
are resized. Features are taken before the head (embeddings), after it (anchors), and as latents of a model with reference
anchors. Several processes share the encoding; the main process does the rest. It writes, into `--output_dir` or else into
the folder of the model,

    representation.json    all numbers and settings
    embeddings.png         a map of test images
    README.md              the model card with the results, in the folder of the model only; the rest of the card stays

As a baseline, measure an untrained model: `LZNModel(config).save_pretrained(folder)`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .. import LZNConfig
from ..data.batches import image_batches
from ..evaluation.probes import collect_features
from ..evaluation.processes import process_state
from ..evaluation.representation import evaluate_folder, load_model, results_table, update_model_card
from ..evaluation.results import write_json
from ..training.arguments import DataArguments, require_at_least
from ..training.batches import load_data
from ..training.command_line import parse_command_line, run_as_script
from ..training.processes import check_num_processes
from ..visualization.embeddings import plot_embeddings
from ..visualization.figures import draw_figure


RESULTS_FILE, MAP_FILE = "representation.json", "embeddings.png"


@dataclass
class EvaluationArguments:
    """What to measure, and how."""

    _argument_group_name = "evaluation"

    model_name_or_path: str = field(metadata={"help": "Folder or hub id of a saved model with an image encoder."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for the results; default: that of the model, whose card they go into."}
    )
    num_neighbours: int = field(
        default=20, metadata={"help": "Training images that vote on the label of a test image."}
    )
    fine_tune_fractions: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Fine-tune the encoder on these fractions of the training labels, balanced over labels: `0.01 0.1`; "
            "--random_flip and --max_shift apply there, and only there."
        },
    )
    fine_tune_steps: int = field(default=500, metadata={"help": "Optimizer steps of each fine-tuning."})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Fit probe and neighbours on this many training images; default: all."}
    )
    map_samples: int = field(default=2000, metadata={"help": "Test images on the map; 0: no map."})
    batch_size: int = field(default=256, metadata={"help": "Images per batch, on each process."})
    seed: int = field(default=0, metadata={"help": "Decides everything random."})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "num_neighbours", "fine_tune_steps", "max_train_samples", "batch_size")
        require_at_least(self, 0, "map_samples", "seed")
        if 0 < self.map_samples < 4:
            raise ValueError(f"`map_samples` must be 0 or at least 4, but is {self.map_samples}.")
        if self.output_dir is None and not Path(self.model_name_or_path).is_dir():
            raise ValueError(
                f"`model_name_or_path` {self.model_name_or_path} is no folder to write into: name an `--output_dir`."
            )


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Evaluates by the command line `argv` (None: the process's own). Returns the results, on the main process."""
    args, data_args = parse_command_line([EvaluationArguments, DataArguments], argv, __doc__)
    state = process_state()
    check_num_processes(state.num_processes)
    logging.basicConfig(format="%(message)s", level=logging.INFO if state.is_main_process else logging.ERROR)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line for each request to the Hub
    config = LZNConfig.from_pretrained(args.model_name_or_path)
    data_args.image_size = data_args.image_size or config.image_size
    data_args.num_channels = data_args.num_channels or config.num_channels
    data = load_data(state, data_args)
    output_dir = Path(args.output_dir or args.model_name_or_path)
    results = evaluate_folder(
        args.model_name_or_path,
        data,
        max_train_samples=args.max_train_samples,
        max_eval_samples=data_args.max_eval_samples,
        k=args.num_neighbours,
        fine_tune_fractions=args.fine_tune_fractions,
        fine_tune_steps=args.fine_tune_steps,
        flip=data_args.random_flip,
        shift=data_args.max_shift,
        batch_size=args.batch_size,
        seed=args.seed,
        progress=True,
    )
    if results is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(output_dir / RESULTS_FILE, results)
        written = [RESULTS_FILE]
        if args.map_samples:
            draw_map(args, data, min(args.map_samples, results["test_images"])).save(output_dir / MAP_FILE)
            written.append(MAP_FILE)
        if args.output_dir is None:
            picture = MAP_FILE if args.map_samples else None
            card = update_model_card(output_dir, results, hub_dataset=data_args.hub_dataset, picture=picture)
            card.save(output_dir / "README.md")
            written.append("README.md")
        print(f"{args.model_name_or_path} on {data.name}, {results['test_images']:,} test images\n")
        print(f"{results_table(results)}\n\nWrote {', '.join(str(output_dir / name) for name in written)}")
    state.destroy_process_group()
    return results


def draw_map(args: EvaluationArguments, data: Any, count: int) -> Image.Image:
    """A map of the embeddings of the first `count` measured test images."""
    model = load_model(args.model_name_or_path).to(process_state().device)
    batches = list(image_batches(data.validation, args.batch_size, limit=count, seed=args.seed))
    features, labels = collect_features(model, batches)
    figure = plot_embeddings(
        features,
        labels,
        data.label_names,
        images=torch.cat([batch["pixel_values"] for batch in batches]),
        title=f"Map of the embeddings of {data.name}",
        what="test images",
        seed=args.seed,
    )
    return draw_figure(figure)


if __name__ == "__main__":
    run_as_script(main)
