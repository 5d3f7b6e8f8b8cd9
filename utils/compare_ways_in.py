# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Accuracy of one model on the same images as files, by every way that reads them: training, pipeline and image processor.

    python utils/compare_ways_in.py --model outputs/demo/model

The files are the 360 held-out digits of the demo: on a wide canvas, turned as a phone stores them, with transparency, and in 16 bits. All
columns of a row are equal, except that `transformers.pipeline` converts images to RGB before an image processor sees them: it drops
alpha channels and clips 16 bits.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from lzn_hf import LZNPipeline
from lzn_hf.data import load_image_data, to_pixel_values


def save_wide(digit: np.ndarray, path: Path) -> None:
    canvas = np.zeros((8, 16), np.uint8)
    canvas[:, 4:12] = digit
    Image.fromarray(canvas).save(path)


def save_turned(digit: np.ndarray, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the reader has to turn the image clockwise by 90 degrees
    Image.fromarray(np.rot90(digit)).save(path, exif=exif)


def save_transparent(digit: np.ndarray, path: Path) -> None:
    """Black ink on nothing, which laid on white is the negative of the digit; so the digit is inverted first."""
    ink = 255 - digit
    Image.merge("LA", [Image.fromarray(np.zeros_like(digit)), Image.fromarray(ink)]).save(path)


def save_deep(digit: np.ndarray, path: Path) -> None:
    Image.fromarray(digit.astype(np.uint16) * 257).save(path)


FILES: dict[str, Callable[[np.ndarray, Path], None]] = {
    "16 x 8 canvas, digit in the middle": save_wide,
    "EXIF orientation 6": save_turned,
    "grey with alpha": save_transparent,
    "16-bit grey": save_deep,
}


def accuracies(model: str, root: Path, labels: list[str]) -> dict[str, float]:
    """The accuracy of each way in on the files `root/LABEL/NUMBER.png`."""
    pipe = LZNPipeline.from_pretrained(model)
    data = load_image_data(data_dir=root, validation_fraction=0, image_size=8, num_channels=1)
    files = sorted(root.rglob("*.png"))
    targets = [file.parent.name for file in files]

    def fraction(predicted: list[str]) -> float:
        return float(np.mean([guess == target for guess, target in zip(predicted, targets, strict=True)]))

    with torch.no_grad():
        trained = pipe.model.classify_images(to_pixel_values(data.train.pixel_values)).argmax(-1)
        processor = AutoImageProcessor.from_pretrained(model)
        classifier = AutoModelForImageClassification.from_pretrained(model).eval()
        logits = classifier(**processor([Image.open(file) for file in files], return_tensors="pt")).logits
    return {
        "training": (trained == data.train.labels).double().mean().item(),
        "pipe.classify(path)": fraction([row[0]["label"] for row in pipe.classify(files)]),
        "pipe.classify(Image)": fraction([row[0]["label"] for row in pipe.classify([Image.open(f) for f in files])]),
        "AutoImageProcessor": fraction([labels[i] for i in logits.argmax(-1)]),
        "transformers.pipeline": fraction(
            [rows[0]["label"] for rows in pipeline("image-classification", model=model)([str(f) for f in files])]
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/demo/model", help="folder of `make demo` (%(default)s)")
    model = parser.parse_args().model
    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)
    held_out = train_test_split(np.arange(len(images)), test_size=360, random_state=0, stratify=digits.target)[1]
    for number, (name, save) in enumerate(FILES.items()):
        with tempfile.TemporaryDirectory() as folder:
            for i in held_out:
                path = Path(folder, str(digits.target[i]), f"{i:04d}.png")
                path.parent.mkdir(exist_ok=True)
                save(images[i], path)
            row = accuracies(model, Path(folder), [str(label) for label in range(10)])
        if number == 0:
            print("| files |", " | ".join(row), "|\n|---|" + "---|" * len(row))
        print(f"| {name} |", " | ".join(f"{100 * value:.1f} %" for value in row.values()), "|", flush=True)


if __name__ == "__main__":
    main()
