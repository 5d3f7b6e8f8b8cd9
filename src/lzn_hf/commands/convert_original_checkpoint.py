# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Converts a checkpoint of the published Latent Zoning Network trainer into one folder that `from_pretrained` opens.

    lzn convert --checkpoint X.pt --case case_study_3 --output_dir lzn-cifar10

`published_checkpoint.py` reads the file. Here are the folder, its model card, and the command line.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import LZNConfig, LZNImageProcessor, LZNModel, LZNPipeline
from ..card_lzn import card_metadata, label_names, quoted
from ..checks_lzn import printable
from ..training.command_line import StrictParser, run_as_script
from .published_archive import some
from .published_checkpoint import NOT_WEIGHTS, WEIGHTS, convert, load_checkpoint, logger
from .published_config import CASES, config_from_published


CARD = """---
{metadata}
---

# {title}

A [Latent Zoning Network](https://arxiv.org/abs/2509.15591), converted for lzn_hf from a checkpoint of the published trainer:

| case | checkpoint | iteration | weights |
|---|---|---|---|
| {case} | `{checkpoint}` | {iteration} | {weights} |

## How to use

{usage}"""

GENERATOR_USAGE = """```py
from lzn_hf import LZNPipeline

pipe = LZNPipeline.from_pretrained("path/to/this/folder")
images = pipe({label}num_images_per_label=4).images  # published sampler: pipe(..., solver="rk45", t_min=1e-3)
embeddings = pipe.embed(images)
```

{what} places it among the anchors of other images, which the
checkpoint does not have. Give the model those of some thousands of training images once, and save it:

```py
import torch

with torch.no_grad():
    anchors = [
        pipe.model.get_image_anchors(pipe.image_processor(batch, return_tensors="pt").pixel_values)
        for batch in batches_of_training_images  # PIL images or arrays
    ]
pipe.model.set_reference_anchors(torch.cat(anchors))
pipe.save_pretrained("path/to/this/folder")
{calls}
```
"""

ENCODER_USAGE = """```py
import lzn_hf  # registers the model with transformers
import torch
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("path/to/this/folder")
model = AutoModel.from_pretrained("path/to/this/folder").eval()
with torch.no_grad():
    output = model(**processor(images, return_tensors="pt"))
embeddings, anchors = output.embeddings, output.anchors  # before and after the projection head
```

The processor resizes to {size} x {size} pixels without cropping. To place a single image in the latent space, give the
model the anchors of some thousands of training images once, `model.set_reference_anchors(anchors)`, and save it.
"""


def model_card(config: LZNConfig, **source: Any) -> str:
    """Returns the README.md of a converted model: `source` (title, case, checkpoint, iteration, weights) and usage."""
    # Of names of files, no character ends a line or a cell of the table.
    source = {name: printable(value).replace("|", "\\|") for name, value in source.items()}
    if config.decoder_type is None:
        usage = ENCODER_USAGE.format(size=config.image_size)
    else:
        label, what, calls = "", "Reconstructing an image", "again = pipe.reconstruct(images[0]).images[0]"
        if config.num_labels:
            label, what = f"label={quoted(label_names(config)[0])}, ", "Classifying or reconstructing a single image"
            calls = f"prediction = pipe.classify(images[0])[0]\n{calls}"
        usage = GENERATOR_USAGE.format(label=label, what=what, calls=calls)
    return CARD.format(metadata=card_metadata(config).to_yaml(), usage=usage, **source)


def check_output_dir(output_dir: str | os.PathLike) -> Path:
    """Returns the absolute path of a folder that does not exist or is empty; a `ValueError` for any other."""
    path = Path(os.path.abspath(output_dir))
    if path.exists() and not path.is_dir():
        raise ValueError(f"`--output_dir` {path} is a file. Name a new folder.")
    if path.exists() and (names := sorted(os.listdir(path))):
        raise ValueError(
            f"`--output_dir` {path} is not empty: it holds {some(names)}. Name a new folder, or empty it."
        )
    return path


def save(model: LZNModel, output_dir: str | os.PathLike, card: str) -> None:
    """Saves model, image processor and card to a folder that is new or empty: all files or none."""
    path = check_output_dir(output_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        folder = Path(temporary) / path.name
        folder.mkdir()  # not the temporary one itself, which none but its owner may read
        (folder / "README.md").write_text(card, encoding="utf-8")
        if model.config.decoder_type is None:
            size, half = model.config.image_size, [0.5] * model.config.num_channels
            processor = LZNImageProcessor(size={"height": size, "width": size}, image_mean=half, image_std=half)
            for component in (model, processor):
                component.save_pretrained(folder)
        else:
            LZNPipeline.from_model(model).save_pretrained(folder)
        if path.exists():
            path.rmdir()  # it is empty, and not every system renames onto an empty folder
        folder.rename(path)


EPILOG = f"""\
cases (the published models):
  case_study_1_cifar10, case_study_1_afhqcat, case_study_1_celebahq,
  case_study_1_lsunbedroom    images without labels
  case_study_2                ResNet-50, embeddings of ImageNet
  case_study_3                CIFAR-10, ten labels: generation and classification

examples:
  lzn convert --checkpoint 000000123-000060000.pt --case case_study_3 --output_dir lzn-cifar10
  lzn convert --checkpoint mine.pt --config mine.json --weights raw --output_dir mine

Afterwards: LZNPipeline.from_pretrained("lzn-cifar10"), or for a model that only embeds
AutoModel.from_pretrained(...); the README.md in the folder has the lines. Classifying or
reconstructing a single image needs model.set_reference_anchors(...) first: see there.

The file is opened without running code that may be in it. Nothing is written unless every
tensor has found its place; otherwise the message lists those that have not. Not carried over:
{", ".join(key for key, note in NOT_WEIGHTS.items() if note is not None)}.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = StrictParser(
        description="Converts a checkpoint of the published Latent Zoning Network trainer (microsoft/"
        "latent-zoning-networks) into one folder that LZNPipeline.from_pretrained or AutoModel.from_pretrained opens.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", required=True, metavar="X.pt", help="the file that the trainer has written")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--case", choices=CASES, metavar="NAME", help="the published model that it is of, see below")
    model.add_argument("--config", metavar="C.json", help="or the config of the trainer, as JSON")
    parser.add_argument("--output_dir", required=True, metavar="D", help="a folder that is new or empty")
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="ema",
        help="ema: the moving averages, which the published results are of (default); raw: the weights as trained",
    )
    return parser


def read_config(path: str) -> LZNConfig:
    """Returns the config of a trainer's JSON file; a `ValueError` if it is none, or not of a supported model."""
    try:
        published = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"`--config` {path} cannot be read as JSON: {error}") from error
    if not isinstance(published, dict):
        raise ValueError(f"`--config` {path} must be a JSON object, the config of the trainer, got {published!r:.80}.")
    return config_from_published(published)


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logger.setLevel(logging.INFO)
    output_dir = check_output_dir(args.output_dir)
    config = CASES[args.case] if args.case else read_config(args.config)
    logger.info("Reading %s", args.checkpoint)
    checkpoint = load_checkpoint(args.checkpoint)
    model = convert(checkpoint, config, args.weights)
    logger.info("Writing %s (%s parameters)", output_dir, f"{model.num_parameters():,}")
    iteration = checkpoint.get("iteration")
    card = model_card(
        config,
        title=output_dir.name,
        case=args.case or f"`{Path(args.config).name}`",
        checkpoint=Path(args.checkpoint).name,
        iteration=str(iteration) if isinstance(iteration, int) else "unknown",
        weights="ema (moving averages)" if args.weights == "ema" else "raw (as trained)",
    )
    save(model, output_dir, card)
    opener = "LZNPipeline" if model.decoder is not None else "AutoModel"
    logger.info('Done: %s.from_pretrained("%s")', opener, args.output_dir)


if __name__ == "__main__":
    run_as_script(main)
