# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Measure what guidance gains, at several scales and numbers of network evaluations:

    python examples/compare_guidance.py --model_name_or_path outputs/digits --guide_name_or_path outputs/digits-guide \\
        --feature_extractor outputs/metric_features
    python examples/compare_guidance.py --model_name_or_path outputs/mine --data_dir my_images --test_split test --scales 1.5 2 3

    none               the model alone
    autoguidance       away from the weaker model of `--guide_name_or_path`
    classifier-free    away from the model without its condition, if it was trained with `condition_dropout`

Each is measured on the validation images of the data flags, which should be those of the training. With `--test_split`, the model alone
and the scale of the smallest Fréchet distance, chosen on the validation images, are then measured on the test images. It writes

    output_dir/guidance.json    all numbers
    output_dir/table.md         the table
    output_dir/scales.png       the measures against the scale
    output_dir/samples.png      images at each scale: one column a label, always from the same noise
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from comparison import Row
from PIL import Image

from lzn_hf import LZNConfig, LZNModel, LZNPipeline
from lzn_hf.data.images import ImageData
from lzn_hf.evaluation.features import FeatureExtractor, load_feature_extractor
from lzn_hf.evaluation.generation import evaluate_folder
from lzn_hf.evaluation.processes import process_state
from lzn_hf.evaluation.results import markdown_table, write_json
from lzn_hf.evaluation.samplers import Sampler, sample_generator
from lzn_hf.training.arguments import DataArguments, require_at_least
from lzn_hf.training.batches import load_data
from lzn_hf.training.command_line import parse_command_line, run_as_script
from lzn_hf.visualization.curves import plot_measures
from lzn_hf.visualization.figures import draw_figure
from lzn_hf.visualization.grids import image_grid


NONE, AUTO, FREE = "none", "autoguidance", "classifier-free"
# The measures by their headings.
MEASURES = {
    "Fréchet distance": "frechet_distance",
    "precision": "precision",
    "recall": "recall",
    "class consistency": "class_consistency",
}
MAX_LABELS_SHOWN = 10


@dataclass
class GuidanceArguments:
    """What to measure, and where to write."""

    _argument_group_name = "comparison"

    model_name_or_path: str = field(metadata={"help": "Folder or hub id of the model, which has labels."})
    guide_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or hub id of a weaker model with the same labels."}
    )
    output_dir: str = field(default="outputs/compare_guidance", metadata={"help": "Folder for the results."})
    scales: list[float] = field(
        default_factory=lambda: [1.25, 1.5, 2.0, 3.0], metadata={"help": "Guidance scales beside 1."}
    )
    samplers: list[str] = field(
        default_factory=lambda: ["heun:10", "heun:5", "heun:20"],
        metadata={
            "help": "unipc:STEPS, heun:STEPS, ...; the scale is chosen for the first one, which makes the pictures."
        },
    )
    num_samples: int = field(default=2000, metadata={"help": "Images of each sampler and scale."})
    feature_extractor: str = field(
        default="pixels",
        metadata={"help": "pixels, inception, or folder or hub id of an image model of transformers."},
    )
    test_split: str | None = field(
        default=None, metadata={"help": "Split of the data that is measured once, at the chosen scale."}
    )
    seed: int = field(default=0, metadata={"help": "Decides the samples."})

    def __post_init__(self) -> None:
        require_at_least(self, 4, "num_samples")
        require_at_least(self, 0, "seed")
        for name in ("scales", "samplers"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` must not be empty.")
        if 1 in self.scales or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"`scales` must all be different and not 1, which is always measured, got {self.scales}.")
        for sampler in self.samplers:
            for scale in self.scales:
                Sampler.parse(with_scale(sampler, scale))


def main(argv: Sequence[str] | None = None) -> Path:
    """Measures by the command line `argv` (None: that of the process). Returns the folder."""
    args, data_args = parse_command_line([GuidanceArguments, DataArguments], argv, __doc__)
    config = LZNConfig.from_pretrained(args.model_name_or_path)
    methods = ([AUTO] if args.guide_name_or_path else []) + ([FREE] if config.condition_dropout else [])
    if not methods or not config.num_labels:
        lack = (
            "has no labels"
            if methods
            else "was trained without `condition_dropout`, and there is no `guide_name_or_path`"
        )
        raise ValueError(
            f"`model_name_or_path` must name a model with labels and something to guide it, but it {lack}."
        )
    data_args.image_size, data_args.num_channels = config.image_size, config.num_channels
    data = load_data(process_state(), data_args)
    test = None
    if args.test_split is not None:
        test = load_data(process_state(), replace(data_args, validation_split=args.test_split))
    extractor = load_feature_extractor(args.feature_extractor, process_state().device)

    run = partial(measure, args, extractor, limit=data_args.max_eval_samples)
    rows, real = run(methods, args.samplers, dict.fromkeys(methods, args.scales), data)
    results: dict[str, Any] = {
        "settings": {
            "dataset": data.name,
            "feature_extractor": extractor.name,
            "num_samples": args.num_samples,
            "seed": args.seed,
            "condition_dropout": config.condition_dropout,
        },
        "validation": {"images": count(data, data_args), "rows": rows, "real_images": real},
    }
    if test is not None:
        chosen = {method: [best_scale(rows, method, args.samplers[0])] for method in methods}
        test_rows, real = run(methods, args.samplers[:1], chosen, test)
        results["test"] = {"images": count(test, data_args), "rows": test_rows, "real_images": real}

    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / "guidance.json", results)
    text = "\n\n".join(
        f"{split} images:\n\n{table(results[split])}" for split in ("validation", "test") if split in results
    )
    (output_dir / "table.md").write_text(text + "\n")
    draw_scales(results, args.samplers[0]).save(output_dir / "scales.png")
    draw_samples(args, methods).save(output_dir / "samples.png")
    print(text)
    return output_dir


def count(data: ImageData, data_args: DataArguments) -> int:
    """How many real images the generated ones are compared with."""
    return min(len(data.validation), data_args.max_eval_samples or len(data.validation))


def with_scale(sampler: str, scale: float) -> str:
    """The text of a guided sampler, see [`Sampler.parse`]."""
    return f"{sampler}@{scale:g}"


def measure(
    args: GuidanceArguments,
    extractor: FeatureExtractor,
    methods: Sequence[str],
    samplers: Sequence[str],
    scales: dict[str, list[float]],
    data: ImageData,
    limit: int | None = None,
) -> tuple[list[Row], Row]:
    """The numbers of each method at each of its scales by each sampler, on (at most `limit` of) the validation images of `data`; and those of
    real images.
    """
    rows: list[Row] = []
    found: Any = None
    for method in methods:
        guided = {with_scale(sampler, scale): (sampler, scale) for sampler in samplers for scale in scales[method]}
        alone = {} if rows else {sampler: (sampler, 1.0) for sampler in samplers}
        found = evaluate_folder(
            args.model_name_or_path,
            data,
            extractor,
            [*alone, *guided],
            args.num_samples,
            args.seed,
            max_reference_images=limit,
            num_reconstructions=0,
            guide_name_or_path=args.guide_name_or_path if method == AUTO else None,
            progress=True,
        )
        for text, (sampler, scale) in (alone | guided).items():
            numbers = found["samplers"][text]
            names = ("evaluations", *MEASURES.values())
            used = NONE if scale == 1 else method
            rows.append({"method": used, "sampler": sampler, "scale": scale} | {name: numbers[name] for name in names})
    return rows, {name: found["real_images"][name] for name in MEASURES.values()}


def best_scale(rows: Sequence[Row], method: str, sampler: str) -> float:
    """The scale of a method with the smallest Fréchet distance."""
    mine = [row for row in rows if (row["method"], row["sampler"]) == (method, sampler)]
    return min(mine, key=lambda row: row["frechet_distance"])["scale"]


def cells(row: Row) -> list[str]:
    """A row of the table."""
    numbers = [f"{row['frechet_distance']:.3g}", f"{row['precision']:.3f}", f"{row['recall']:.3f}"]
    return [
        row["method"],
        f"{row['scale']:g}",
        row["sampler"],
        f"{row['evaluations']:g}",
        *numbers,
        f"{100 * row['class_consistency']:.2f} %",
    ]


def table(results: Row) -> str:
    """The numbers of one split as Markdown, with those of real images in the last row."""
    real = {"method": "real images", "scale": 0, "sampler": "", "evaluations": 0, **results["real_images"]}
    last = [cell if place not in (1, 3) else "" for place, cell in enumerate(cells(real))]
    heading = ["guidance", "scale", "sampler", "evaluations", *MEASURES]
    return markdown_table(heading, [*map(cells, results["rows"]), last])


def draw_scales(results: Row, sampler: str) -> Image.Image:
    """The measures of one sampler on the validation images against the scale."""
    rows = [row for row in results["validation"]["rows"] if row["sampler"] == sampler]
    methods = dict.fromkeys(row["method"] for row in rows if row["method"] != NONE)
    measures = {
        heading: {
            method: [(row["scale"], row[name]) for row in rows if row["method"] in (NONE, method)]
            for method in methods
        }
        for heading, name in MEASURES.items()
    }
    real = {heading: results["validation"]["real_images"][name] for heading, name in MEASURES.items()}
    settings = results["settings"]
    title = f"{settings['dataset']}: {settings['num_samples']:,} images by {sampler}; features: {settings['feature_extractor']}"
    return draw_figure(plot_measures(measures, xlabel="guidance scale", real_images=real, title=title))


def draw_samples(args: GuidanceArguments, methods: Sequence[str]) -> Image.Image:
    """One image of each label, from the same noise in each row: without guidance, then at each scale of each method."""
    pipe = LZNPipeline.from_pretrained(args.model_name_or_path).to(process_state().device)
    pipe.set_progress_bar_config(disable=True)
    guide = None
    if args.guide_name_or_path is not None:
        guide = LZNModel.from_pretrained(args.guide_name_or_path).to(pipe.device)
    labels = list(range(pipe.model.config.num_labels))[:MAX_LABELS_SHOWN]
    rows = [(NONE, 1.0), *((method, scale) for method in methods for scale in args.scales)]
    options = Sampler.parse(args.samplers[0]).options
    pipe = Sampler.parse(args.samplers[0]).pipeline(pipe)
    images: list[Image.Image] = []
    for method, scale in rows:
        output: Any = pipe(
            label=labels,
            generator=[sample_generator(args.seed, label) for label in labels],
            guide=guide if method == AUTO else None,
            guidance_scale=scale,
            **options,
        )
        images += output.images
    names = [pipe.model.config.id2label[label] for label in labels]
    texts = [method if method == NONE else f"{method} {scale:g}" for method, scale in rows]
    return image_grid(images, len(labels), row_labels=texts, column_labels=names)


if __name__ == "__main__":
    run_as_script(main)
