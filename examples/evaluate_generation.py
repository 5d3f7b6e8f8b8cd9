# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Measure how good the images of a saved model are, for any number of samplers:

    python examples/evaluate_generation.py --model_name_or_path outputs/demo/model --samplers unipc:10 unipc:20 euler:50 rk45
    torchrun --nproc_per_node 4 examples/evaluate_generation.py --model_name_or_path outputs/mine --data_dir my_images \\
        --feature_extractor outputs/metric_features --num_samples 50000 --update_model_card

writes into `--output_dir`
    evaluation.json    all numbers, with the name of the feature extractor, without which they say nothing
    quality.png        Fréchet distance against network evaluations, if a sampler was given with several numbers of steps

Samplers are `unipc:STEPS`, `dpmsolver++:STEPS`, `euler:STEPS`, `heun:STEPS` (two evaluations a step) and `rk45`. Sample i is
drawn by a generator of its own, made of the seed and i, as is its label; so samples depend neither on the batch size nor
on the number of processes (but for rounding), and all samplers start from the same noise.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather
from diffusers import DPMSolverMultistepScheduler
from huggingface_hub import EvalResult, ModelCard
from torch import Tensor
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from lzn_hf import LZNModel, LZNPipeline
from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.data.images import ImageData
from lzn_hf.evaluation.features import FeatureExtractor, load_feature_extractor
from lzn_hf.evaluation.joint import accuracy, class_consistency
from lzn_hf.evaluation.metrics import (
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    psnr,
    reconstruction_l2,
)
from lzn_hf.evaluation.results import write_json
from lzn_hf.sampling_lzn import default_scheduler
from lzn_hf.training.arguments import DataArguments, require_at_least
from lzn_hf.training.batches import load_data
from lzn_hf.training.processes import check_num_processes
from lzn_hf.visualization.grids import PALETTE


logger = logging.getLogger("lzn_hf.evaluate_generation")

SCHEDULERS = {
    "unipc": default_scheduler,
    "dpmsolver++": lambda: DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
}
SOLVERS = ("euler", "heun", "rk45")  # those of the pipeline itself, which go both ways
MAX_CLASSIFIED = 5000  # images for the support vector classifier, whose time grows with their square
NEIGHBOUR = 3  # of precision and recall
RESULTS_FILE, PLOT_FILE = "evaluation.json", "quality.png"


@dataclass
class EvaluationArguments:
    """What to measure, and how."""

    _argument_group_name = "evaluation"

    model_name_or_path: str = field(metadata={"help": "Folder or hub id of a saved pipeline."})
    output_dir: str = field(default="outputs/evaluation", metadata={"help": "Folder for the results."})
    samplers: list[str] = field(
        default_factory=lambda: ["unipc:20"],
        metadata={"help": "unipc:STEPS, dpmsolver++:STEPS, euler:STEPS, heun:STEPS or rk45, any number of them."},
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
    batch_size: int = field(default=64, metadata={"help": "Images at once on each process."})
    seed: int = field(default=0, metadata={"help": "Decides the samples, and which real images are taken."})
    update_model_card: bool = field(
        default=False, metadata={"help": "Write the results into the metadata of the folder's README.md, too."}
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "batch_size")
        require_at_least(self, 0, "num_reconstructions", "seed")
        if self.update_model_card and not (Path(self.model_name_or_path) / "README.md").is_file():
            raise ValueError(f"`update_model_card` needs a README.md in the folder {self.model_name_or_path!r}.")


@dataclass(frozen=True)
class Sampler:
    """A solver of the image flow with its number of steps, from text such as `"unipc:20"` or `"rk45"`."""

    name: str
    family: str
    num_inference_steps: int

    @classmethod
    def parse(cls, text: str, families: Sequence[str] = (*SCHEDULERS, *SOLVERS)) -> Sampler:
        family, colon, steps = text.partition(":")
        if family == "rk45" and family in families and not colon:
            return cls(text, family, 1)  # it chooses its steps
        if family not in families or family == "rk45" or not steps.isdecimal() or int(steps) < 1:
            known = " or ".join(name if name == "rk45" else f"{name}:STEPS" for name in families)
            raise ValueError(f"a sampler must be {known} with STEPS of at least 1, got {text!r}.")
        return cls(text, family, int(steps))

    def options(self, pipe: LZNPipeline) -> dict[str, Any]:
        """Arguments for the pipeline, which gets the scheduler where it needs one."""
        if self.family in SCHEDULERS:
            pipe.scheduler = SCHEDULERS[self.family]()
            return {"solver": None, "num_inference_steps": self.num_inference_steps}
        return {"solver": self.family, "num_inference_steps": self.num_inference_steps}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluates by the command line `argv` (None: that of the process). Returns the results, on the main process."""
    parser = HfArgumentParser([EvaluationArguments, DataArguments], description=__doc__, allow_abbrev=False)
    args, data_args = parser.parse_args_into_dataclasses(argv)
    state = PartialState(cpu=not torch.accelerator.is_available())
    check_num_processes(state.num_processes)
    logging.basicConfig(format="%(message)s", level=logging.INFO if state.is_main_process else logging.ERROR)
    config = LZNModel.config_class.from_pretrained(args.model_name_or_path)
    data_args.image_size = data_args.image_size or config.image_size
    data_args.num_channels = data_args.num_channels or config.num_channels
    data = load_data(state, data_args)
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
    )
    if state.is_main_process:
        output_dir = Path(args.output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(output_dir / RESULTS_FILE, results)
        (output_dir / PLOT_FILE).unlink(missing_ok=True)  # of an earlier run
        plot_quality(results, output_dir / PLOT_FILE)
        if args.update_model_card:
            update_model_card(Path(args.model_name_or_path), results, data_args.hub_dataset)
        print(table(results))
    state.destroy_process_group()
    return results


def evaluate_folder(
    folder: str | Path,
    data: ImageData,
    extractor: FeatureExtractor,
    samplers: Sequence[str],
    num_samples: int,
    seed: int = 0,
    *,
    reference: str = "validation",
    max_reference_images: int | None = None,
    num_reconstructions: int = 100,
    reconstruction_samplers: Sequence[str] = ("rk45",),
    batch_size: int = 64,
) -> dict[str, Any]:
    """Measures a saved pipeline, on all processes there are (each calls this).

    Args:
        folder: Folder or hub id of the pipeline.
        data: Real images, of the size, channels and labels of the model.
        extractor: Features, as of `load_feature_extractor`.
        samplers: As of the command line, see above.
        num_samples: Images of each sampler, at least one on each process and more than three in all.
        seed: Decides the samples, and which real images are taken where not all are.
        reference: `"validation"` or `"train"`: the real images that the samples are compared with.
        max_reference_images: At most so many of them; None takes all.
        num_reconstructions: Real images to reconstruct (of the validation split, if there is one), at most; 0: none.
        reconstruction_samplers: Those of them that go both ways.
        batch_size: Images at once on each process.

    Returns:
        On the main process (elsewhere an empty dictionary)
        - `model`, `data`, `feature_extractor`, `num_samples`, `seed`, and `reference` with its `split` and `images`;
        - `samplers`: for each sampler network `evaluations` an image, `frechet_distance`, `kernel_distance`, `precision`
          and `recall`; with an extractor that has them `spatial_frechet_distance` and `inception_score`; with labels
          `class_consistency`, by the extractor if it classifies by as many labels, or else by a support vector
          classifier on pixels of training images;
        - `real_images`: the same numbers for real images of the split that is not the reference, as many as samples
          or all there are: what a perfect model would have. None without another split;
        - `reconstruction`: for each of its samplers `evaluations`, `reconstruction_l2` and `psnr` of `images` images.

    Raises:
        ValueError: for arguments out of range, and data that do not fit the model.
    """
    # 1. Check everything before anything is computed.
    state = PartialState(cpu=not torch.accelerator.is_available())
    parsed = [Sampler.parse(text) for text in samplers]
    both_ways = [Sampler.parse(text, SOLVERS) for text in reconstruction_samplers] if num_reconstructions else []
    for name, texts in (("samplers", samplers), ("reconstruction_samplers", reconstruction_samplers)):
        if len(set(texts)) < len(texts):
            raise ValueError(f"`{name}` must all be different, got {', '.join(texts)}.")
    smallest = max(NEIGHBOUR + 1, state.num_processes)
    if num_samples < smallest:
        raise ValueError(f"`num_samples` must be at least {smallest}, got {num_samples}.")
    splits = {"validation": data.validation, "train": data.train}
    if splits.get(reference) is None:
        known = " or ".join(repr(name) for name, split in splits.items() if split is not None)
        raise ValueError(f"`reference` must be {known} with these data, got {reference!r}.")
    pipe = LZNPipeline.from_pretrained(folder).to(state.device)
    pipe.set_progress_bar_config(disable=True)
    model = pipe.model
    check_data(model, data)
    if both_ways and model.encoder is not None and model.reference_anchors is None:
        raise ValueError(
            "`num_reconstructions` must be 0 for a model without reference anchors, which cannot place an image, got "
            f"{num_reconstructions}."
        )
    has_labels = model.config.num_labels > 0 and data.label_names is not None

    # 2. Features of real and generated images, and reconstructions, from all processes.
    share = {"seed": seed, "process_index": state.process_index, "num_processes": state.num_processes}
    real, num_others = {}, max(num_samples, MAX_CLASSIFIED) if has_labels else num_samples
    for name, split in splits.items():
        if split is not None:
            limit = max_reference_images if name == reference else num_others
            real[name] = describe(state, extractor, image_batches(split, batch_size, limit=limit, **share), has_labels)
    indices = range(state.process_index, num_samples, state.num_processes)
    generated, evaluations = {}, {}
    for sampler in parsed:
        with counted_evaluations(model) as counts:
            batches = generated_batches(pipe, sampler, indices, seed, batch_size, quiet=not state.is_main_process)
            generated[sampler.name] = describe(state, extractor, batches, has_labels)
        evaluations[sampler.name] = total(state, sum(counts)) / num_samples
    reconstruction = {}
    held_out = data.train if data.validation is None else data.validation
    for sampler in both_ways:
        batches = image_batches(held_out, batch_size, limit=num_reconstructions, **share)
        reconstruction[sampler.name] = measure_reconstruction(state, pipe, sampler, batches, seed)
    if not state.is_main_process:
        return {}

    # 3. Numbers. The others do not wait for them: nothing is exchanged from here on.
    num_labels, real_images = model.config.num_labels, None
    other = next((name for name in real if name != reference), None)
    if other is not None:
        as_many = {name: rows[:num_samples] for name, rows in real[other].items()}
        real_images = {"split": other, "images": len(as_many["features"]), **distances(as_many, real[reference])}
        if has_labels:
            real_images["class_consistency"] = consistency(real["validation"], real["train"], num_labels)
    numbers = {}
    for name, described in generated.items():
        numbers[name] = {"evaluations": evaluations[name], **distances(described, real[reference])}
        if has_labels:
            numbers[name]["class_consistency"] = consistency(described, real["train"], num_labels)
    return {
        "model": str(folder),
        "data": data.name,
        "feature_extractor": extractor.name,
        "num_samples": num_samples,
        "seed": seed,
        "reference": {"split": reference, "images": len(real[reference]["features"])},
        "samplers": numbers,
        "real_images": real_images,
        "reconstruction": reconstruction,
    }


def check_data(model: LZNModel, data: ImageData) -> None:
    """Raises a ValueError unless the images have the size, channels and (if both have any) labels of the model."""
    config = model.config
    for name in ("image_size", "num_channels"):
        if getattr(data, name) != getattr(config, name):
            raise ValueError(f"`{name}` must be the model's, {getattr(config, name)}, but is {getattr(data, name)}.")
    names = [config.id2label[label] for label in range(config.num_labels)]
    if names and data.label_names is not None and names != list(data.label_names):
        raise ValueError(
            f"the data must have the labels of the model, {', '.join(names[:10])}, but have {', '.join(data.label_names[:10])}."
        )


# Samples and features


def sample_generator(seed: int, index: int) -> torch.Generator:
    """The generator of one sample, on the CPU: the same noise on every device."""
    return torch.Generator().manual_seed(_random_numbers(seed, index)[0])


def sample_label(seed: int, index: int, num_labels: int) -> int:
    """The label of one sample. Not in turn: equally many of each would be nearer to the data than real images are."""
    return _random_numbers(seed, index)[1] % num_labels


def _random_numbers(seed: int, index: int) -> list[int]:
    return np.random.SeedSequence([seed, index]).generate_state(2, np.uint64).tolist()


def generated_batches(
    pipe: LZNPipeline, sampler: Sampler, indices: Sequence[int], seed: int, batch_size: int, quiet: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Batches `{"pixel_values": uint8, "labels"}` of the samples with these indices, rounded as saved images are."""
    num_labels, options = pipe.model.config.num_labels, sampler.options(pipe)
    with tqdm(total=len(indices), desc=sampler.name, unit="img", disable=quiet) as progress:
        for start in range(0, len(indices), batch_size):
            chunk = indices[start : start + batch_size]
            labels = [sample_label(seed, index, num_labels) for index in chunk] if num_labels else None
            images = pipe(
                label=labels,
                num_images_per_label=1 if num_labels else len(chunk),
                generator=[sample_generator(seed, index) for index in chunk],
                batch_size=batch_size,
                output_type="pt",
                **options,
            ).images
            batch = {"pixel_values": (images * 255).round().to(torch.uint8).cpu()}
            yield batch if labels is None else {**batch, "labels": torch.tensor(labels)}
            progress.update(len(chunk))


@contextmanager
def counted_evaluations(model: LZNModel) -> Iterator[list[int]]:
    """Inside, the list gets the number of images of each call of the decoder."""
    counts: list[int] = []
    hook = model.decoder.register_forward_hook(lambda module, inputs, output: counts.append(len(output)))
    try:
        yield counts
    finally:
        hook.remove()


def describe(
    state: PartialState, extractor: FeatureExtractor, batches: Iterable[dict[str, Tensor]], keep_images: bool
) -> dict[str, Tensor]:
    """What the metrics need of images, from all processes and in the order of the images.

    Args:
        state: The processes.
        extractor: Gives `features`, and `spatial_features` and `log_probs` if it has them.
        batches: This process's share of the `uint8` images: every num_processes-th of them.
        keep_images: Whether to keep `labels`, and as `images` the first `MAX_CLASSIFIED` of the `uint8` images.
    """
    parts: dict[str, list[Tensor]] = {}
    kept = 0
    for batch in batches:
        images = to_pixel_values(batch["pixel_values"])
        found = {name: getattr(extractor, name)(images) for name in ("features", "spatial_features", "log_probs")}
        if keep_images:
            found["labels"] = batch["labels"]
            if kept < MAX_CLASSIFIED:
                found["images"] = batch["pixel_values"]
                kept += len(images) * state.num_processes
        for name, rows in found.items():
            if rows is not None:
                parts.setdefault(name, []).append(rows)
    if not parts:
        raise ValueError(f"there are fewer real images than {state.num_processes} processes, but each needs one.")
    described = {name: gather_rows(state, torch.cat(rows)) for name, rows in parts.items()}
    if "images" in described:
        described["images"] = described["images"][:MAX_CLASSIFIED]
    return described


def gather_rows(state: PartialState, rows: Tensor) -> Tensor:
    """Rows i, i + P, i + 2 P, ... of each process i of P to all rows in their order, on the CPU."""
    if state.num_processes == 1:
        return rows.cpu()
    counts = gather(torch.tensor([len(rows)], device=state.device))
    padded = rows.new_zeros(int(counts.max()), *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = gather(padded.to(state.device)).cpu().unflatten(0, (state.num_processes, -1))
    return gathered.transpose(0, 1).flatten(0, 1)[: int(counts.sum())]


def total(state: PartialState, count: int) -> int:
    """The sum over all processes."""
    return int(gather_rows(state, torch.tensor([count])).sum())


# Numbers


def distances(described: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, float]:
    """All metrics of the features of some images, those of the reference beside them."""
    features = reference["features"], described["features"]
    numbers = {
        "frechet_distance": frechet_distance(*features),
        "kernel_distance": kernel_distance(*features),
        **precision_recall(*features, k=NEIGHBOUR),
    }
    if "spatial_features" in described:
        spatial = reference["spatial_features"], described["spatial_features"]
        numbers["spatial_frechet_distance"] = frechet_distance(*spatial)
    if "log_probs" in described:
        numbers["inception_score"] = inception_score(described["log_probs"])
    return numbers


def consistency(described: dict[str, Tensor], train: dict[str, Tensor], num_labels: int) -> float:
    """Share of images that a classifier of real images takes for their label."""
    if "log_probs" in described and described["log_probs"].shape[1] == num_labels:
        return accuracy(described["log_probs"], described["labels"])
    sides = [(to_pixel_values(side["images"]), side["labels"][: len(side["images"])]) for side in (described, train)]
    return class_consistency(*sides[0], *sides[1])


def measure_reconstruction(
    state: PartialState, pipe: LZNPipeline, sampler: Sampler, batches: Iterable[dict[str, Tensor]], seed: int
) -> dict[str, float]:
    """Images to noise (and latents) and back, by the same solver: how far from where they started; clipped to [-1, 1]."""
    originals, reconstructions, done = [], [], 0
    with counted_evaluations(pipe.model) as counts:
        for batch in batches:
            images = to_pixel_values(batch["pixel_values"])
            places = [state.process_index + (done + i) * state.num_processes for i in range(len(images))]
            again = pipe.reconstruct(
                {"pixel_values": images},
                generator=[sample_generator(seed, place) for place in places],
                batch_size=len(images),
                output_type="pt",
                **sampler.options(pipe),
            ).images
            originals.append(images)
            reconstructions.append(again.cpu() * 2 - 1)
            done += len(images)
    if not originals:
        raise ValueError(f"`num_reconstructions` must be at least one for each of {state.num_processes} processes.")
    pairs = [gather_rows(state, torch.cat(rows)) for rows in (originals, reconstructions)]
    return {
        "evaluations": total(state, sum(counts)) / len(pairs[0]),
        "reconstruction_l2": reconstruction_l2(*pairs),
        "psnr": psnr(*pairs),
        "images": len(pairs[0]),
    }


# Reports


def table(results: dict[str, Any]) -> str:
    """The numbers as text."""
    rows = dict(results["samplers"])
    if results["real_images"]:
        rows[f"real ({results['real_images']['split']})"] = results["real_images"]
    names = list(next(iter(results["samplers"].values()), {"evaluations": 0.0}))
    lines = [
        f"{results['num_samples']} samples of {results['model']} against {results['reference']['images']} "
        f"{results['reference']['split']} images of {results['data']}. Features: {results['feature_extractor']}",
        *_aligned(
            ["sampler", *names], [[row, *(numbers.get(name) for name in names)] for row, numbers in rows.items()]
        ),
    ]
    if results["reconstruction"]:
        names = list(next(iter(results["reconstruction"].values())))
        rows = [[row, *(numbers[name] for name in names)] for row, numbers in results["reconstruction"].items()]
        lines += ["", *_aligned(["reconstruction", *names], rows)]
    return "\n".join(lines)


def _aligned(header: list[str], rows: list[list[Any]]) -> list[str]:
    cells = [header, *([f"{x:.5g}" if isinstance(x, (int, float)) else x or "-" for x in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]


def plot_quality(results: dict[str, Any], path: Path) -> None:
    """Fréchet distance against network evaluations an image, a line a sampler; nothing unless one has two points."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, numbers in results["samplers"].items():
        point = numbers["evaluations"], numbers["frechet_distance"]
        lines.setdefault(name.partition(":")[0], []).append(point)
    if max(map(len, lines.values()), default=0) < 2:
        return

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(7, 4.5), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: no screen, no global state
    axes = figure.subplots()
    for colour, (family, points) in zip(PALETTE, lines.items(), strict=True):
        axes.plot(
            *zip(*sorted(points), strict=True), color=colour, marker="o", markersize=6, linewidth=2, label=family
        )
    if results["real_images"]:
        floor = results["real_images"]["frechet_distance"]
        axes.axhline(floor, color="0.4", linestyle="--", linewidth=1.2, label=f"real images: {floor:.4g}")
    ticks = sorted({round(x) for points in lines.values() for x, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("network evaluations an image")
    axes.set_ylabel("Fréchet distance")
    axes.set_title(
        f"{results['num_samples']:,} samples; features: {results['feature_extractor']}", fontsize=11, color="0.25"
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)


def update_model_card(folder: Path, results: dict[str, Any], hub_dataset: str | None) -> None:
    """Puts the results into the metadata of the folder's README.md, in the place of those of an earlier evaluation."""
    card = ModelCard.load(folder / "README.md")
    card.data.model_name = card.data.model_name or folder.resolve().name
    task, about = "unconditional-image-generation", f"{results['feature_extractor']}, {results['num_samples']} samples"
    card.data.eval_results = [old for old in card.data.eval_results or [] if old.task_type != task] + [
        EvalResult(
            task_type=task,
            dataset_type=hub_dataset or "image-generation",
            dataset_name=results["data"],
            dataset_split=results["reference"]["split"],
            metric_type=metric,
            metric_name=f"{metric.replace('_', ' ')} ({sampler}; {about})",
            metric_value=round(value, 6),
        )
        for sampler, numbers in results["samplers"].items()
        for metric, value in numbers.items()
        if metric != "evaluations" and math.isfinite(value)
    ]
    card.save(folder / "README.md")


if __name__ == "__main__":
    main()
