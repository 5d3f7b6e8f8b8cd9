# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""One model of images and texts beside specialists: CLIP for recognising, a label-conditional model for generating.

    python examples/compare_text_image.py --output_dir outputs/text-digits                                    # digits, 3 seeds
    python examples/compare_text_image.py --presets fashion-captions --data_dir fashion-mnist --output_dir outputs/text-fashion

Trains, for each seed, `train_text_image.py` (method `lzn`), its `--baseline clip` (the same encoders under InfoNCE), and `train_joint.py`
with the labels (method `labels`), and measures them on the validation images with captions that training never saw: templates that are held
out, filled with every name of a label. Settings were chosen on training images alone, but training fits
one number, the `prediction_time`, to the validation images: the calibration error is that of the fit. It writes `results.json` and `table.md`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from comparison import (
    PresetsArguments,
    Row,
    parse_arguments,
    run_all,
    run_script,
    summarise,
    with_deviation,
    write_results,
)
from torch import Tensor
from transformers import AutoTokenizer

from lzn_hf import LZNModel, LZNPipeline
from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.data.images import ImageData, load_image_data
from lzn_hf.evaluation.calibration import calibration_error
from lzn_hf.evaluation.joint import class_consistency
from lzn_hf.evaluation.results import write_json
from lzn_hf.modeling_lzn import evaluation_mode
from lzn_hf.train_text_image import captions_file
from lzn_hf.training.captions import read_captions, tokenize
from lzn_hf.training.command_line import run_as_script
from lzn_hf.zones_lzn import place_images, score_labels


METHODS = ("lzn", "clip", "labels")
LABEL_PRESETS = {"digits-captions": "digits", "fashion-captions": "fashion-mnist"}
CAPTIONS = {"digits-captions": "digits", "fashion-captions": "fashion-mnist"}
MAX_REFERENCE = 4000  # real images that the recognition of generated ones is trained on
MEASURES = (
    "zero_shot",
    "zero_shot_seen",
    "calibration_error",
    "text_to_image_1",
    "text_to_image_5",
    "recognised",
    "minutes",
)


@dataclass
class TextComparisonArguments(PresetsArguments):
    """What to compare, and how much to generate."""

    presets: list[str] = field(
        default_factory=lambda: ["digits-captions"], metadata={"help": "Presets of train_text_image.py."}
    )
    methods: list[str] = field(
        default_factory=lambda: list(METHODS), metadata={"help": "Which of lzn, clip and labels."}
    )
    num_images: int = field(default=50, metadata={"help": "Images generated for each label."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_known("methods", METHODS)
        self.require_known("presets", tuple(LABEL_PRESETS))


def main(argv: Sequence[str] | None = None) -> Path:
    """Trains, measures, and writes the table. Returns the folder."""
    args = parse_arguments(TextComparisonArguments, __doc__, argv)

    def run(preset: str, method: str, seed: int) -> Row:
        folder = Path(args.output_dir) / f"{preset}-{method}-{seed}"
        if not (folder / "seconds.json").is_file():
            start = time.perf_counter()
            run_script(
                folder,
                *training_command(args, preset, method),
                "--seed",
                seed,
                "--output_dir",
                folder,
                "--overwrite_output_dir",
            )
            write_json(folder / "seconds.json", {"minutes": (time.perf_counter() - start) / 60})
        if not (folder / "scores.json").is_file():
            write_json(folder / "scores.json", measure(args, preset, method, seed, folder))
        return json.loads((folder / "scores.json").read_text()) | json.loads((folder / "seconds.json").read_text())

    runs = run_all(args, args.presets, args.methods, run)
    summary = summarise(runs, {name: lambda row, name=name: row.get(name) for name in MEASURES})
    return write_results(args, runs, summary, table_columns())


def table_columns() -> dict[str, Any]:
    """The columns of the table: their headings, and the cell of a row of the summary."""
    percent = {
        "zero-shot accuracy, held-out captions": "zero_shot",
        "captions of training": "zero_shot_seen",
        "calibration error": "calibration_error",
        "image of a text, best": "text_to_image_1",
        "among 5": "text_to_image_5",
        "generated images recognised": "recognised",
    }
    columns: dict[str, Any] = {"preset": lambda row: row["preset"], "method": lambda row: row["method"]}
    columns |= {
        heading: lambda row, name=name: with_deviation(row, name, "{:.1f} %", "{:.1f}", 100)
        for heading, name in percent.items()
    }
    columns["minutes"] = lambda row: with_deviation(row, "minutes", "{:.1f}", "{:.1f}")
    return columns


def training_command(args: TextComparisonArguments, preset: str, method: str) -> list[object]:
    """The script and its flags, but seed and folder."""
    flags: list[object] = [] if args.data_dir is None else ["--data_dir", args.data_dir]
    flags += [] if args.max_train_steps is None else ["--max_train_steps", args.max_train_steps]
    if method == "labels":
        return ["train_joint.py", "--preset", LABEL_PRESETS[preset], *flags]
    return ["train_text_image.py", "--preset", preset, *flags, *(["--baseline", "clip"] if method == "clip" else [])]


def measure(args: TextComparisonArguments, preset: str, method: str, seed: int, folder: Path) -> Row:
    """The numbers of one saved model: those that its parts allow."""
    name = LABEL_PRESETS[preset]
    data = load_image_data(name, args.data_dir)
    scores: Row = {}
    if method == "labels":
        return {
            "recognised": recognised(data, generated_by_label(folder, data, args.num_images, seed), args.num_images)
        }
    model = LZNModel.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    captions = read_captions(captions_file(CAPTIONS[preset]), data.label_names or [])
    with evaluation_mode(model):
        batches = list(image_batches(data.validation, 256))
        anchors = torch.cat([model.get_image_anchors(to_pixel_values(batch["pixel_values"])) for batch in batches])
        labels = torch.cat([batch["labels"] for batch in batches])
        # Images are placed once: that is nearly all of the time.
        placed = anchors if method == "clip" else place_images(model.config, anchors, model.reference_anchors())
        for kind, sets in (("zero_shot", captions.held_out), ("zero_shot_seen", captions.by_label)):
            found = [score(model, method, placed, encode(model, tokenizer, texts)) for texts in rounds(sets)]
            scores[kind] = torch.stack([(one.argmax(1) == labels).float().mean() for one in found]).mean().item()
            if kind == "zero_shot":
                log_probs = found[0].float()
                nearest = log_probs.topk(5, dim=0).indices  # images of each text
        if method == "lzn":
            scores["calibration_error"] = calibration_error(log_probs, labels)
        of_text = labels[nearest] == torch.arange(nearest.shape[1])
        scores |= {
            "text_to_image_1": of_text[0].float().mean().item(),
            "text_to_image_5": of_text.any(0).float().mean().item(),
        }
        if method == "lzn":
            images = generated_by_text(folder, captions.held_out, args.num_images, seed)
            scores["recognised"] = recognised(data, images, args.num_images)
    return scores


def rounds(sets: Sequence[Sequence[str]]) -> list[list[str]]:
    """Texts for all labels at once, so that each caption of each label comes at least once."""
    return [[some[number % len(some)] for some in sets] for number in range(max(map(len, sets)))]


def encode(model: LZNModel, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    return model.get_text_anchors(**tokenize(tokenizer, texts))


def score(model: LZNModel, method: str, images: Tensor, candidates: Tensor) -> Tensor:
    """How well images fit texts `(C, D)`: cosines of their anchors by CLIP, or log-probabilities of the zones of their latents."""
    if method == "clip":
        return F.normalize(images, dim=1) @ F.normalize(candidates, dim=1).T
    return score_labels(model.config, images, candidates, model.config.prediction_time)


def generated_by_text(folder: Path, sets: Sequence[Sequence[str]], count: int, seed: int) -> Tensor:
    """Images of captions that training did not see, `count` for each label, in [-1, 1]."""
    texts = [texts[label] for label in range(len(sets)) for texts in (rounds(sets) * count)[:count]]
    pipe = LZNPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return 2 * pipe(prompt=texts, generator=torch.Generator().manual_seed(seed), output_type="pt").images - 1


def generated_by_label(folder: Path, data: ImageData, count: int, seed: int) -> Tensor:
    pipe = LZNPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    generator, labels = torch.Generator().manual_seed(seed), list(range(len(data.label_names or [])))
    return 2 * pipe(label=labels, num_images_per_label=count, generator=generator, output_type="pt").images - 1


def recognised(data: ImageData, images: Tensor, count: int) -> float:
    """The share of generated images that a classifier of real training images gives the label that they were generated for."""
    real = next(image_batches(data.train, MAX_REFERENCE, limit=MAX_REFERENCE))
    labels = torch.arange(len(data.label_names or [])).repeat_interleave(count)
    return class_consistency(images.clamp(-1, 1), labels, to_pixel_values(real["pixel_values"]), real["labels"])


if __name__ == "__main__":
    run_as_script(main)
