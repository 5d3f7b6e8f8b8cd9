# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Train on handwritten digits, then measure the saved model and draw pictures of its images and latents.

    lzn demo --output_dir outputs/demo     # minutes on a CPU; `make demo` does the same
    lzn demo --quick                       # a minute: some training and the first images, nothing measured

writes there
    model/                the model, as `lzn train joint` saves it
    metrics.json          the numbers, with versions, machine and seed
    samples.png           generated digits, one row per label
    reconstructions.png   test images, their reconstructions from latent and noise, and images from their latents with new noise
    zones.png             the latent space: test images in the zones of the labels

With --quick, only model/ and samples.png are written.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageClassification

import lzn_hf

from ..data.batches import to_pixel_values
from ..data.images import load_image_data
from ..evaluation.joint import (
    accuracy,
    class_consistency,
    class_diversity,
    joint_latents,
    latent_statistics,
    novelty,
    pixel_frechet_distance,
    predict_log_probs,
)
from ..evaluation.metrics import reconstruction_error
from ..evaluation.results import write_json
from ..training.command_line import parse_command_line, run_as_script
from ..visualization.figures import draw_figure
from ..visualization.grids import comparison_grid, image_grid
from ..visualization.zones import plot_zones
from .files import terminal_picture


RESULTS = ("metrics.json", "samples.png", "reconstructions.png", "zones.png")
IMAGES_PER_LABEL = 100
SHOWN_PER_LABEL = 20
NUM_RECONSTRUCTIONS = 100  # test images
SHOWN_RECONSTRUCTIONS = 40
# Fewer and smaller steps of the same training.
QUICK = "--max_train_steps 220 --total_batch_size 64 --warmup_steps 10 --num_reference_anchors 512 --logging_steps 20".split()
# The smallest and largest values allowed in a run with the default settings.
TARGETS = {
    "test_accuracy": (0.97, 1.0),
    "class_consistency": (0.97, 1.0),
    "pixel_frechet_distance": (0.0, 0.60),
    "latent_mean": (-0.02, 0.02),
    "latent_std": (0.97, 1.03),
}
MEANINGS = {
    "test_accuracy": "held-out digits, each classified by itself",
    "class_consistency": "generated digits that a classifier trained on real ones assigns to their label",
    "class_consistency_of_test_images": "the same for held-out digits: the accuracy of that classifier",
    "pixel_frechet_distance": "generated against held-out digits, on raw pixels",
    "pixel_frechet_distance_of_train_images": "training against held-out digits: the value of real images",
    "class_diversity": "spread of the generated digits of a label, relative to real ones",
    "class_diversity_min": "the same for the least varied label",
    "novelty": "distance to the nearest training digit, relative to held-out digits; near 0: copies",
    "reconstruction_error": "mean squared error per pixel in [-1, 1], held-out digits from latent and noise",
    "latent_mean": "all training digits under prior noise; the prior has 0",
    "latent_std": "the same; the prior has 1",
    "latent_max_abs_coordinate_mean": "largest mean of one coordinate of them",
}


@dataclass
class DemoArguments:
    """Output and training of the demo."""

    _argument_group_name = "demo"

    output_dir: str = field(
        default="outputs/demo",
        metadata={"help": "Folder for the results; those of an earlier demo are replaced."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of training and of generation."})
    max_train_steps: int | None = field(
        default=None, metadata={"help": "Optimizer steps; default: those of the preset."}
    )
    quick: bool = field(default=False, metadata={"help": "Train for a minute only and show the images."})


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Runs the demo by the command line `argv` (None: that of the process). Returns the content of `metrics.json`, if it is written."""
    (args,) = parse_command_line([DemoArguments], argv, __doc__)
    started, output_dir = time.perf_counter(), Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in RESULTS:  # model/ is replaced by the training
        (output_dir / name).unlink(missing_ok=True)

    if args.quick:
        show_quickly(args, output_dir)
        return None
    train(args, output_dir / "model")
    trained = time.perf_counter()
    numbers, pictures = evaluate(output_dir / "model", args.seed)
    finished = time.perf_counter()

    metrics = {
        **numbers,
        "seconds": {"train": trained - started, "evaluation": finished - trained, "total": finished - started},
        "seed": args.seed,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "diffusers", "accelerate", "datasets")},
            "lzn_hf": lzn_hf.__version__,
        },
        "machine": {"platform": platform.platform(), "cpu_count": os.cpu_count(), "threads": torch.get_num_threads()},
    }
    for name, picture in pictures.items():
        picture.save(output_dir / name)
    write_json(output_dir / "metrics.json", metrics)
    print(summary(metrics, output_dir))
    return metrics


def train(args: DemoArguments, model_dir: Path) -> None:
    """Trains by the command that a user would type, in another process."""
    # One process on any machine, independent of the user's settings of accelerate and its default of one thread.
    threads = os.environ.get("OMP_NUM_THREADS", str(torch.get_num_threads()))
    launch = [
        "--quiet",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    script = ["-m", "lzn_hf.train_joint", "--preset", "digits"]
    script += ["--seed", str(args.seed), "--output_dir", str(model_dir), "--overwrite_output_dir"]
    if args.max_train_steps is not None:
        script += ["--max_train_steps", str(args.max_train_steps)]
    command = [*launch, "--num_cpu_threads_per_process", threads, *script]
    print(f"$ accelerate launch {shlex.join(command)}", flush=True)
    # The interpreter's own accelerate, whatever is on the PATH.
    code = subprocess.run([sys.executable, "-m", "accelerate.commands.launch", *command], check=False).returncode
    if code:
        sys.exit(f"Training failed with exit code {code}: see the messages above.")


def show_quickly(args: DemoArguments, output_dir: Path) -> None:
    """Trains for less than a minute and shows the images of the model.

    In this process, as a second one would import everything again, and on one thread: networks this small wait for other threads longer
    than these take work from them.
    """
    from ..train_joint import main as train_joint

    folder = output_dir / "model"
    flags = ["--preset", "digits", "--seed", str(args.seed), "--output_dir", str(folder), "--overwrite_output_dir"]
    steps = [] if args.max_train_steps is None else ["--max_train_steps", str(args.max_train_steps)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train_joint([*flags, *QUICK, *steps])
    finally:
        torch.set_num_threads(threads)
    picture = Image.open(folder / "samples.png")
    picture.save(output_dir / "samples.png")
    if sys.stdout.isatty():
        print(terminal_picture(picture))
    print(f"Generated digits, one row per label: {output_dir / 'samples.png'}\nGo on with:")
    print(f"  lzn generate {folder} --label 7 --show\n  lzn info {folder}\n  lzn demo      # trains ten times as long")


def evaluate(model_dir: Path, seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """The numbers, and the pictures by file name, of a saved model."""
    from .. import LZNPipeline  # takes a second, which a quick demo does not need

    print("Evaluating the saved model ...", flush=True)
    classifier = AutoModelForImageClassification.from_pretrained(model_dir)
    pipe: Any = LZNPipeline.from_pretrained(model_dir)
    pipe.set_progress_bar_config(desc="generating", leave=False)
    model, generator = pipe.model, torch.Generator().manual_seed(seed)

    # 1. Data: the split of the training.
    data: Any = load_image_data("digits")
    (train_images, train_labels), (test_images, test_labels) = (
        (to_pixel_values(part.pixel_values), part.labels) for part in (data.train, data.validation)
    )
    names = [model.config.id2label[label] for label in range(model.config.num_labels)]

    # 2. Label to image, image to label, image to image, and the latents.
    labels = torch.arange(len(names)).repeat_interleave(IMAGES_PER_LABEL)
    images = to_signed(
        pipe(label=names, num_images_per_label=IMAGES_PER_LABEL, generator=generator, output_type="pt").images
    )
    log_probs = predict_log_probs(classifier, test_images)
    originals = test_images[:NUM_RECONSTRUCTIONS]
    reconstructions = to_signed(
        pipe.reconstruct({"pixel_values": originals}, generator=generator, output_type="pt").images
    )
    statistics = latent_statistics(joint_latents(model, train_images, generator=generator))
    with torch.no_grad():
        test_latents = model.get_image_latents(test_images, generator=generator)
    shown = slice(0, SHOWN_RECONSTRUCTIONS)
    variations = to_signed(pipe(latents=test_latents[shown], generator=generator, output_type="pt").images)

    # 3. Numbers.
    diversity = class_diversity(images, labels, train_images, train_labels)
    numbers = {
        "test_accuracy": accuracy(log_probs, test_labels),
        "class_consistency": class_consistency(images, labels, train_images, train_labels),
        "class_consistency_of_test_images": class_consistency(test_images, test_labels, train_images, train_labels),
        "pixel_frechet_distance": pixel_frechet_distance(images, test_images),
        "pixel_frechet_distance_of_train_images": pixel_frechet_distance(train_images, test_images),
        "class_diversity": diversity["mean"],
        "class_diversity_min": diversity["min"],
        "novelty": novelty(images, train_images, test_images),
        "reconstruction_error": reconstruction_error(originals, reconstructions),
        "latent_mean": statistics["mean"],
        "latent_std": statistics["std"],
        "latent_max_abs_coordinate_mean": statistics["max_abs_coordinate_mean"],
    }

    # 4. Pictures.
    rows = images.unflatten(0, (len(names), IMAGES_PER_LABEL))[:, :SHOWN_PER_LABEL].flatten(0, 1)
    zones = plot_zones(
        test_latents,
        test_labels,
        model.require_label_anchors(),
        names,
        solver=model.config.alignment_solver,
        num_steps=model.config.alignment_num_steps,
        title="Latent zones of handwritten digits",
        what="held-out digits, each at a random place in the zone of its own anchor",
    )
    pictures = {
        "samples.png": image_grid(rows, SHOWN_PER_LABEL, row_labels=names),
        "reconstructions.png": comparison_grid(
            {
                "original": originals[shown],
                "latent and noise": reconstructions[shown],
                "latent, new noise": variations,
            },
            SHOWN_PER_LABEL,
        ),
        "zones.png": draw_figure(zones),
    }
    return numbers, pictures


def to_signed(images: Tensor) -> Tensor:
    """Images of a pipeline, in [0, 1], to [-1, 1]."""
    return images.float().cpu() * 2 - 1


def summary(metrics: dict[str, Any], output_dir: Path) -> str:
    """The numbers with their targets, and where the files are."""
    lines = ["", f"{'':38} {'got':>9}  {'target':<16}"]
    for name, meaning in MEANINGS.items():
        low, high = TARGETS.get(name, (None, None))
        target = verdict = ""
        if low is not None:
            target = f"{low:g} to {high:g}"
            verdict = "met" if low <= metrics[name] <= high else "MISSED"
        lines.append(f"{name:38} {metrics[name]:9.4g}  {target:<14} {verdict:<7} {meaning}")
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in metrics["seconds"].items())
    lines += ["", f"Seconds: {seconds}", "Files:"]
    lines += [f"  {output_dir / name}" for name in ("model", *RESULTS)]
    return "\n".join(lines)


if __name__ == "__main__":
    run_as_script(main)
