# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the pages of the documentation read: tiny models and images under the names that the pages give them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import AutoConfig, AutoModel

from lzn_hf import LZNModel, LZNPipeline

from .backbones import BACKBONES
from .images import write_idx
from .pages import Command, named_paths, run_here
from .pipelines import make_pipeline
from .texts import make_text_pipeline


DIGITS = list("0123456789")


def still(pipe: LZNPipeline) -> LZNPipeline:
    """A pipeline whose decoder does nothing: of a random velocity, the adaptive solver would take thousands of steps."""
    with torch.no_grad():
        for parameter in pipe.model.decoder.parameters():
            parameter.zero_()
    return pipe


def save_model(folder: Path, names=DIGITS, **options) -> None:
    still(make_pipeline(names=names, **options)).save_pretrained(folder)


def save_run(folder: Path, **options) -> None:
    """What a training run leaves: a model with the metrics of its training."""
    save_model(folder, **options)
    lines = ({"step": step, "loss": 1 / step, "validation_accuracy": 0.5} for step in range(1, 9))
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def save_encoder(folder: Path) -> None:
    config = make_pipeline(names=[]).model.config
    config.decoder_type = None
    model = LZNModel(config)
    model.set_reference_anchors(torch.randn(config.num_reference_anchors, config.latent_dim))
    model.save_pretrained(folder)


def save_text_model(folder: Path) -> None:
    still(make_text_pipeline()).save_pretrained(folder)


def save_dinov2(folder: Path) -> None:
    AutoModel.from_config(AutoConfig.for_model("dinov2", image_size=64, **BACKBONES["dinov2"])).save_pretrained(folder)


def write_photos(folder: Path, labels=("cat", "dog"), each: int = 12, size: int = 40) -> None:
    """Colour images of noise, one folder per label."""
    rng = np.random.default_rng(0)
    for split, count in (("train", each), ("test", each // 2)):
        for label in labels:
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
                image.save(folder / split / label / f"{i}.png")


def write_flat(folder: Path) -> None:
    """Colour images of noise without labels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")


def write_captioned(folder: Path) -> None:
    """Colour images of noise with a caption each."""
    write_flat(folder)
    rows = [f"{i}.png,a photo of a {('cat', 'dog')[i % 2]}" for i in range(24)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,caption", *rows]))


def write_idx_digits(folder: Path, size: int = 28) -> None:
    """Grey images of noise in the files of MNIST."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 400), ("t10k", 40)):
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, size, size), dtype=np.uint8))
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))


def write_digit(digit: int, path: Path) -> None:
    """A digit of scikit-learn as a file."""
    Image.fromarray((load_digits().images[digit] * 255 / 16).round().astype("uint8")).save(path)


def share_model(folder: Path) -> None:
    save_model(folder.parent / "saved")
    run_here(Command((), "utils/export_to_hub.py", (str(folder.parent / "saved"), "--output_dir", str(folder))))


def train_features(data: str, folder: Path) -> None:
    arguments = f"{data} --batch_size 32 --max_train_steps 2 --output_dir {folder}"
    run_here(Command((), "examples/train_metric_features.py", tuple(arguments.split())))


MAKERS: dict[str, Callable[[Path], object]] = {
    "outputs/demo/model": save_run,
    "outputs/digits": save_model,
    "outputs/digits-dropout": partial(save_model, condition_dropout=0.1),
    "outputs/digits-guide": save_model,
    "outputs/mine": partial(save_run, names=["cat", "dog"], channels=3, image_size=32),
    "outputs/unconditional-digits": partial(save_model, names=[]),
    "outputs/representation-digits": save_encoder,
    "outputs/features": partial(train_features, "--dataset_name digits"),
    "outputs/digits-plain/data/digits": partial(write_idx_digits, size=8),
    "outputs/digits-plain/features": partial(train_features, "--dataset_name digits"),
    "lzn-cifar10": partial(save_model, names=["cat", "dog"], channels=3, image_size=32, num_reference_anchors=0),
    "me/lzn-digits": share_model,
    "path/to/folder": save_text_model,
    "outputs/digits-captions": save_text_model,
    "outputs/weaker": save_model,
    "three.png": partial(write_digit, 3),
    "eight.png": partial(write_digit, 8),
    "facebook/dinov2-small": save_dinov2,
    "my_images": write_photos,
    "others": partial(write_photos, labels=("cat", "eel")),
    "emoji": write_photos,
    "afhq/train/cat": write_flat,
    "fashion-mnist": write_idx_digits,
    "usr/share/datasets/fashion-mnist": write_idx_digits,
}


def prepare(text: str) -> None:
    """Makes in the current folder what a text of a page reads and nothing has made yet."""
    for path in named_paths(text, MAKERS):
        if not Path(path).exists():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            make = write_captioned if "--caption_column" in text and path == "my_images" else MAKERS[path]
            make(Path(path))
