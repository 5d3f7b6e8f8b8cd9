# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Compare a joint Latent Zoning Network with two specialists, all else being equal, over several seeds:

    python examples/compare_joint.py --preset digits
    python examples/compare_joint.py --preset fashion-mnist --data_dir fashion-mnist --workers 2
    python examples/compare_joint.py --data_dir my_images --image_size 32 --max_train_steps 2000

    lzn              the joint model, which generates, classifies and embeds
    classifier       its encoder alone, with a linear layer on its anchors
    rectified_flow   its decoder alone, given labels

Each run is one call of `train_joint.py` in a process of one thread, `--workers` of them at a time: the same network parts, images,
batches, augmentation, optimiser and steps. The images of the test split are used for the table and for nothing else; data without
one gets one. What is chosen on held-out images is chosen on a part of the training split. Finished runs are not repeated. It writes

    output_dir/data/NAME/         the images, as training and test split
    output_dir/features/          the classifier on whose features generated images are compared, unless one is given
    output_dir/METHOD-SEED/       the model folder of each run, with its `scores.json`
    output_dir/comparison.json    the numbers of each run
    output_dir/table.md           means and standard deviations over the seeds; with all details in `results.json`

`docs/evaluation.md` explains the numbers.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import comparison
import torch
from comparison import Row, run_script
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lzn_hf import LZNModel, train_joint
from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.data.images import VALIDATION_SPLIT_NAMES, ImageData
from lzn_hf.evaluation import generation, representation
from lzn_hf.evaluation.calibration import calibration_error, fit_temperature, negative_log_likelihood
from lzn_hf.evaluation.features import FeatureExtractor, load_feature_extractor
from lzn_hf.evaluation.joint import accuracy, linear_log_probs
from lzn_hf.evaluation.probes import FEATURE_KINDS
from lzn_hf.evaluation.processes import process_state
from lzn_hf.evaluation.results import write_json
from lzn_hf.evaluation.samplers import Sampler
from lzn_hf.modeling_lzn import evaluation_mode
from lzn_hf.training.arguments import DataArguments, require_at_least
from lzn_hf.training.baselines import LACKS
from lzn_hf.training.batches import load_data
from lzn_hf.training.checkpoints import temporary_folder
from lzn_hf.training.command_line import run_as_script
from lzn_hf.training.parsing import PRESETS_DIR, parse_arguments, source_name


METHODS = {"lzn": "joint model", "classifier": "classifier alone", "rectified_flow": "rectified flow alone"}
BASELINES = {"lzn": "none", "classifier": "classifier", "rectified_flow": "rectified_flow"}
TEST_FRACTION = 0.2  # of data without a test split
NUM_NEIGHBOURS = 20  # k of the kNN vote
# Training of the classifier of the features, at most.
FEATURE_BATCH_SIZE, FEATURE_STEPS, FEATURE_EPOCHS = 128, 1200, 120
BATCH_SIZE = 256  # of classification
SAMPLED = ("frechet_distance", "precision", "recall", "class_consistency")
# Arguments that a comparison may be continued with.
MAY_CHANGE = ("output_dir", "seeds", "methods", "workers")
MEASURING = threading.Lock()  # loading models is not safe in threads

percent = partial(comparison.with_deviation, mean="{:.2f} %", deviation="{:.2f}", factor=100)
number = partial(comparison.with_deviation, mean="{:.3g}", deviation="{:.1g}")
# Heading and cell of each measure.
MEASURES: dict[str, tuple[str, Callable[..., str]]] = {
    "accuracy": ("accuracy", percent),
    "nll": ("NLL", number),
    "calibration_error": ("calibration error", percent),
    "frechet_distance": ("Fréchet distance", number),
    "precision": ("precision", number),
    "recall": ("recall", number),
    "class_consistency": ("class consistency", percent),
    "linear_probe": ("linear probe", percent),
    "knn": ("nearest neighbours", percent),
    "seconds": ("seconds", partial(comparison.with_deviation, mean="{:.0f}", deviation="{:.0f}")),
}


@dataclass
class ComparisonArguments(comparison.ComparisonArguments):
    """What to compare, and where to write."""

    output_dir: str = field(default="outputs/compare_joint", metadata={"help": "Folder of all runs."})
    preset: str = field(
        default="digits",
        metadata={"help": "Preset of train_joint.py, or the path of a JSON file: network and training."},
    )
    data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of labelled images, as for train_joint.py; default: the preset's data."},
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "`digits`, `fashion-mnist` or a dataset of the Hub; default: the preset's data."},
    )
    image_size: int | None = field(default=None, metadata={"help": "Bring all images to this size."})
    num_channels: int | None = field(default=None, metadata={"help": "1 (grayscale) or 3 (color)."})
    total_batch_size: int | None = field(
        default=None, metadata={"help": "Images per step of every run; default: the preset's."}
    )
    config_overrides: list[str] = field(
        default_factory=list, metadata={"help": "Fields of LZNConfig as name=value, for the parts that a method has."}
    )
    methods: list[str] = field(
        default_factory=lambda: list(METHODS), metadata={"help": f"Among {', '.join(METHODS)}."}
    )
    num_samples: int = field(default=2000, metadata={"help": "Images to generate and to measure."})
    samplers: list[str] = field(
        default_factory=lambda: ["heun:10"], metadata={"help": "The first one is that of the table."}
    )
    feature_extractor: str | None = field(
        default=None,
        metadata={
            "help": "Features of the distances: `pixels`, `inception`, or an image model of transformers; default: a classifier that is "
            "trained on the training images."
        },
    )
    max_probe_samples: int = field(
        default=10_000, metadata={"help": "Training images that probe and neighbours are fitted on, at most."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_known("methods", list(METHODS))
        self.require_entries("samplers")
        for sampler in self.samplers:
            Sampler.parse(sampler)
        require_at_least(self, 4, "num_samples")
        require_at_least(self, 1, "max_probe_samples", "total_batch_size")


@dataclass
class Task:
    """What all runs share.

    Args:
        data (`Path`): the folder of the images.
        images ([`ImageData`]): its training split, with the test split for `validation`.
        held_out (`Dataset`): the part of the training split that no run is trained on.
        extractor ([`FeatureExtractor`]): the features of the distances.
    """

    data: Path
    images: ImageData
    held_out: Dataset
    extractor: FeatureExtractor


def main(argv: Sequence[str] | None = None) -> Path:
    """Compares by the command line `argv` (None: that of the process). Returns the folder."""
    args = comparison.parse_arguments(ComparisonArguments, __doc__, argv)
    torch.set_num_threads(max(1, torch.get_num_threads() // args.workers))
    task = prepare(args)
    runs = comparison.run_all(args, [args.preset], args.methods, partial(run, args, task))

    rows = [{"method": one["method"], "seed": one["seed"], **one} for one in runs]
    numbers = [{name: value for name, value in row.items() if not isinstance(value, dict)} for row in rows]
    write_json(Path(args.output_dir) / "comparison.json", numbers)
    summary = comparison.summarise(runs, {name: lambda row, name=name: row.get(name) for name in MEASURES})
    columns: dict[str, Callable[[Row], object]] = {"method": lambda row: METHODS[row["method"]]}
    columns |= {heading: partial(cell, name=name) for name, (heading, cell) in MEASURES.items()}
    return comparison.write_results(args, runs, summary, columns, note(args, task, runs))


def note(args: ComparisonArguments, task: Task, runs: Sequence[Row]) -> str:
    """What the table was measured on."""
    test, train = len(task.images.validation), len(task.images.train) - len(task.held_out)
    lines = [
        f"{task.images.name}: {train:,} images to train on, {len(task.held_out):,} to validate on, {test:,} test images. Seeds: "
        f"{', '.join(map(str, args.seeds))}. Generated images: {args.num_samples:,} by {args.samplers[0]}; features: "
        f"{task.extractor.name}."
    ]
    real = next((row["real_images"] for row in runs if "real_images" in row), None)
    if real is not None:
        lines.append(
            f"{real['images']:,} real training images in place of generated ones: Fréchet distance {real['frechet_distance']:.3g}, "
            f"precision {real['precision']:.3g}, recall {real['recall']:.3g}; class consistency of the test images: "
            f"{100 * real['class_consistency']:.2f} %."
        )
    return " ".join(lines)


# Preparation


def prepare(args: ComparisonArguments) -> Task:
    """Opens the data, checks all settings before anything is trained, and trains the network of the features."""
    data_args = read_flags(training_flags(args, "lzn", source_flags(args)))[1]
    if data_args.validation_fraction == 0:
        raise ValueError(
            "`validation_fraction` of the preset must be above 0: probabilities are calibrated on held-out images."
        )
    output_dir, folder = Path(args.output_dir), Path("data") / source_name(vars(data_args))
    settings = {name: value for name, value in vars(args).items() if name not in MAY_CHANGE}
    settings["data_dir"] = data_args.data_dir and os.path.abspath(data_args.data_dir)
    if (output_dir / "data").is_dir():
        before = json.loads((output_dir / "data" / "arguments.json").read_text())
        changed = [
            f"`{name}` was {before.get(name)}, is {new}" for name, new in settings.items() if before.get(name) != new
        ]
        if changed:
            raise ValueError(
                f"`output_dir` {output_dir} has runs with other arguments ({'; '.join(changed)}): name another folder."
            )
    else:
        data = read_images(data_args)
        output_dir.mkdir(parents=True, exist_ok=True)
        with temporary_folder(output_dir, "data") as temporary:
            save_images(data, temporary / folder.name)
            write_json(temporary / "arguments.json", settings)
            for method in METHODS:
                with contextlib.redirect_stdout(io.StringIO()):
                    train_joint.main(
                        [*training_flags(args, method, split_flags(temporary / folder.name)), "--dry_run"]
                    )
            temporary.rename(output_dir / "data")

    folder, state = output_dir / folder, process_state()
    training = load_data(state, read_flags(training_flags(args, "lzn", split_flags(folder)))[1])
    images = load_data(state, DataArguments(data_dir=str(folder)))
    features = args.feature_extractor or str(output_dir / "features")
    if args.feature_extractor is None and not (output_dir / "features" / "config.json").is_file():
        count = len(training.train)
        size = min(FEATURE_BATCH_SIZE, count)
        steps = min(FEATURE_STEPS, FEATURE_EPOCHS * count // size)
        command = [*split_flags(folder), "--output_dir", features, "--batch_size", size, "--max_train_steps", steps]
        run_script(Path(features), "train_metric_features.py", *command)
    return Task(folder, images, training.validation, load_feature_extractor(features, state.device))


def read_flags(flags: Sequence[str]) -> tuple[Any, ...]:
    """The arguments of `train_joint.py`: of the model, the data, the training and the joint training."""
    return parse_arguments(train_joint.ARGUMENTS, PRESETS_DIR / "joint", flags)


def source_flags(args: ComparisonArguments) -> list[str]:
    """The flags of the images that the user named."""
    given = {"--dataset_name": args.dataset_name, "--data_dir": args.data_dir}
    return [word for flag, value in given.items() if value is not None for word in (flag, value)]


def split_flags(folder: Path) -> list[str]:
    """The flags of the images in `folder`, without its test split."""
    return ["--data_dir", str(folder), "--validation_split", "train"]


def training_flags(args: ComparisonArguments, method: str, data: Sequence[str]) -> list[str]:
    """The command line of `train_joint.py` for a method and the flags of its data, but for the seed and the output folder."""
    baseline = BASELINES[method]
    flags = ["--preset", args.preset, "--baseline", baseline, *data]
    for name in ("image_size", "num_channels", "total_batch_size", "max_train_steps"):
        if getattr(args, name) is not None:
            flags += [f"--{name}", str(getattr(args, name))]
    overrides = [one for one in args.config_overrides if not one.startswith(f"{LACKS[baseline]}_type=")]
    flags += ["--config_overrides", *overrides] if overrides else []
    if method == "rectified_flow":  # it ends where the decoder of the joint model is frozen
        _, _, training, joint = read_flags(flags)
        flags += ["--max_train_steps", str(min(training.max_train_steps, joint.decoder_train_steps or math.inf))]
    return flags


def read_images(data_args: DataArguments) -> ImageData:
    """The images, with the test split for `validation`: another split for want of it, or else a part that is cut off."""
    data_args = replace(data_args, validation_fraction=TEST_FRACTION)
    data = load_data(process_state(), data_args)
    splits = [name for name in VALIDATION_SPLIT_NAMES if name in data.summary.found]
    if data_args.validation_split is None and "test" in splits[1:]:
        data = load_data(process_state(), replace(data_args, validation_split="test"))
    return data


def save_images(data: ImageData, folder: Path) -> None:
    """Writes both splits as PNG images, pixel by pixel, to be opened as `data_dir`."""
    import datasets

    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=data.label_names)}
    splits = {}
    for name, images in (("train", data.train), ("test", data.validation)):
        rows: dict[str, list[Any]] = {column: [] for column in columns}
        for index in range(len(images)):
            item, file = images[index], io.BytesIO()
            Image.fromarray(item["pixel_values"].permute(1, 2, 0).squeeze(-1).numpy()).save(file, "PNG")
            rows["image"].append({"bytes": file.getvalue(), "path": None})
            rows["label"].append(int(item["labels"]))
        splits[name] = datasets.Dataset.from_dict(rows, datasets.Features(columns))
    datasets.DatasetDict(splits).save_to_disk(folder)


# One run


def run(args: ComparisonArguments, task: Task, preset: str, method: str, seed: int) -> Row:
    """Trains and measures one model, unless that is done already."""
    folder = Path(args.output_dir) / f"{method}-{seed}"
    if not (folder / "seconds.json").is_file():
        flags = ["--seed", seed, "--output_dir", folder, "--overwrite_output_dir"]
        start = time.perf_counter()
        run_script(folder, "train_joint.py", *training_flags(args, method, split_flags(task.data)), *flags)
        write_json(folder / "seconds.json", {"seconds": time.perf_counter() - start})
    if not (folder / "scores.json").is_file():
        with MEASURING:
            write_json(folder / "scores.json", measure(args, task, method, seed, folder))
    return {**json.loads((folder / "scores.json").read_text()), **json.loads((folder / "seconds.json").read_text())}


def measure(args: ComparisonArguments, task: Task, method: str, seed: int, folder: Path) -> Row:
    """The numbers of one saved model on the test images: those that its parts allow."""
    scores: Row = {}
    if method != "rectified_flow":
        scores |= measure_classification(task, method, folder)
        neighbours = min(NUM_NEIGHBOURS, args.max_probe_samples, len(task.images.train))
        limits = {"max_train_samples": args.max_probe_samples, "k": neighbours, "seed": seed}
        found = representation.evaluate_folder(folder, task.images, **limits)
        for kind in [kind for kind in FEATURE_KINDS if kind in found]:
            suffix = "" if kind == "embeddings" else f"_{kind}"
            scores |= {f"linear_probe{suffix}": found[kind]["linear"], f"knn{suffix}": found[kind]["knn"]}
    if method != "classifier":
        options = {"num_samples": args.num_samples, "seed": seed, "num_reconstructions": 0}
        found = generation.evaluate_folder(folder, task.images, task.extractor, args.samplers, **options)
        scores |= {name: found["samplers"][args.samplers[0]][name] for name in SAMPLED}
        scores |= {"samplers": found["samplers"], "real_images": found["real_images"]}
    return scores


def measure_classification(task: Task, method: str, folder: Path) -> Row:
    """Accuracy and quality of the probabilities, once these are calibrated on held-out training images, and as they were before.

    A classifier is calibrated by a temperature, a joint model by the time at which it reads its zones, which was chosen in training.
    """
    model = representation.load_model(folder).to(process_state().device)
    predict = partial(
        predict_log_probs, model, linear_log_probs if method == "classifier" else LZNModel.classify_images
    )
    log_probs, labels = predict(task.images.validation)
    if method == "classifier":
        chosen = {"temperature": fit_temperature(*predict(task.held_out))}
        versions = {"": (log_probs / chosen["temperature"]).log_softmax(1), "_uncalibrated": log_probs}
    else:
        chosen = {"prediction_time": model.config.prediction_time or 1.0}
        model.config.prediction_time = None
        versions = {"": log_probs, "_uncalibrated": predict(task.images.validation)[0]}
    scores: Row = chosen
    for suffix, version in versions.items():
        scores[f"accuracy{suffix}"] = accuracy(version, labels)
        scores[f"nll{suffix}"] = negative_log_likelihood(version, labels)
        scores[f"calibration_error{suffix}"] = calibration_error(version, labels)
    return scores


def predict_log_probs(
    model: LZNModel, classify: Callable[[LZNModel, Tensor], Tensor], images: Dataset
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and labels of images, on the CPU."""
    rows = []
    with evaluation_mode(model):
        for batch in image_batches(images, BATCH_SIZE):
            pixel_values = to_pixel_values(batch["pixel_values"].to(model.device))
            rows.append((classify(model, pixel_values).cpu(), batch["labels"]))
    log_probs, labels = zip(*rows, strict=True)
    return torch.cat(log_probs), torch.cat(labels)


if __name__ == "__main__":
    run_as_script(main)
