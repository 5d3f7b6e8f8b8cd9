# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Converts a checkpoint of the published Latent Zoning Network trainer into one folder that `from_pretrained` opens.

    python utils/convert_original_checkpoint.py --checkpoint X.pt --case case_study_3 --output_dir lzn-cifar10

A published file is a dict: the state dicts `encoder`, `decoder`, `label_anchor` (the last two not in all), whose keys begin
with `model.module.`; `<part>_ema`, with the moving averages of the trainable parameters as an unnamed list in the order of
registration; and the state of the trainer. `published_format.py` knows configs and names.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import pickle
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from published_format import (  # noqa: F401 - some of it for those who import this module
    CASES,
    config_from_published,
    numbered_modules,
    published_entries,
    published_keys,
    to_ours,
    to_published,
)
from torch import Tensor

from lzn_hf import LZNConfig, LZNImageProcessor, LZNModel, LZNPipeline


logger = logging.getLogger("convert_original_checkpoint")

PREFIX = "model.module."
PARTS = ("encoder", "decoder", "label_anchor")
WEIGHTS = ("ema", "raw")
# What a checkpoint has besides weights, and what becomes of it. The model card tells the iteration.
NOT_WEIGHTS = {
    "optimizer": "optimizer state is not carried over",
    "lr_scheduler": "the state of the learning rate schedule is not carried over",
    "grad_scalar": "the state of the gradient scaler is not carried over",
    "epoch": None,
    "iteration": None,
}
BUFFERS = {"decoder": ("sigmas",)}  # a table of noise levels that no supported network reads

# --- 1. Reading and checking ---------------------------------------------------------------------------------------------


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Opens a trainer checkpoint without running anything that is in it; tensors are read from the disk when they are used.

    Raises:
        ValueError: for a file that is not there, is truncated, is not of the trainer, or only opens by unpickling objects.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"the checkpoint {path} is not there, or not a file.")
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            start = file.read(8)
        found = f"{path} ({path.stat().st_size:,} bytes)"
        if start.startswith(b"PK"):
            raise ValueError(f"the checkpoint {found} is truncated: its end is missing. Download or copy it again.")
        raise ValueError(
            f"{found} is not a checkpoint: it begins with {start!r}, and not as the zip archives of torch.save do. Name "
            "the .pt file that the trainer has written."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or "no reason given"
        raise ValueError(
            f"{path} is refused: it cannot be read as tensors and plain values alone ({reason}), and unpickling more can "
            "run any code. If you trust it, load it with the code that wrote it, and save the tensors with torch.save."
        ) from error
    except Exception as error:  # torch has no class of its own for the many things that may be wrong here
        with zipfile.ZipFile(path) as archive:
            inside = _some(archive.namelist())
        raise ValueError(
            f"{path} is a zip archive, but not one of torch.save (or a damaged one): it holds {inside}. Name "
            "the .pt file that the trainer has written."
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("encoder"), Mapping):
        found = type(checkpoint).__name__ + (f" of {_some(checkpoint)}" if isinstance(checkpoint, dict) else "")
        raise ValueError(
            f"{path} is not a checkpoint of the trainer: it holds a {found}, where a dict with the state dict `encoder` "
            "should be. Name the .pt file that the trainer has written."
        )
    return checkpoint


def _some(names: Collection) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:5] or ["nothing"]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _shapes(config: LZNConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of the published tensors by part and key, with the prefix, in the order of the trainer."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for entry in published_entries(config):
        shapes.setdefault(entry.part, {})[PREFIX + entry.key] = entry.shape
    return shapes


def published_weights(
    checkpoint: Mapping[str, Any], config: LZNConfig, weights: str = "ema"
) -> dict[str, dict[str, Tensor]]:
    """The weights of a checkpoint by part and published key (without the prefix), all of which the config has a place for.

    Args:
        checkpoint: As of [`load_checkpoint`].
        config: The config of the model.
        weights: `"ema"`, the moving averages with what is not trained and hence not averaged; or `"raw"`, as trained.

    Raises:
        ValueError: if anything is missing, left over, of a wrong shape or not finite. It lists it all, and says which
            published model the checkpoint looks like.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"`weights` must be 'ema' or 'raw', got {weights!r}.")
    shapes = _shapes(config)
    trainable = {(entry.part, PREFIX + entry.key) for entry in published_entries(config) if entry.trainable}
    known = {*shapes, *(f"{part}_ema" for part in shapes), *NOT_WEIGHTS}
    problems = [f"`{key}` is unknown" for key in checkpoint if key not in known]
    used: dict[str, dict[str, Tensor]] = {}
    for part, wanted in shapes.items():
        if not isinstance(checkpoint.get(part), Mapping):
            problems.append(f"`{part}` is missing")
            continue
        found, averages = _parameters(checkpoint, part), checkpoint.get(f"{part}_ema")
        problems += _problems(part, found, wanted)
        if weights == "raw":
            used[part] = found
            continue
        names = [key for key in wanted if (part, key) in trainable]
        if averages is None:
            problems.append(f"`{part}_ema` is missing: use `--weights raw` for the weights as trained")
        elif not isinstance(averages, Mapping) or not isinstance(averages.get("shadow_params"), list):
            problems.append(f"`{part}_ema` has no list `shadow_params`")
        elif len(averages["shadow_params"]) != len(names):
            problems.append(f"`{part}_ema` has {len(averages['shadow_params'])} tensors, not {len(names)}")
        elif list(found) != list(wanted) and set(found) == set(wanted):
            problems.append(
                f"`{part}` has its tensors in another order than the trainer, which leaves the unnamed ones of "
                f"`{part}_ema` without names: use `--weights raw` for the weights as trained"
            )
        else:
            shadows = dict(zip(names, averages["shadow_params"], strict=True))
            problems += _problems(f"{part}_ema", shadows, {key: wanted[key] for key in names})
            used[part] = {key: shadows.get(key, found.get(key)) for key in wanted}
    for part, tensors in used.items():
        for key, tensor in tensors.items():
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
                where = f"{part}_ema" if weights == "ema" and (part, key) in trainable else part
                problems.append(f"`{where}`: `{key}` has values that are NaN or infinite")
    if problems:
        raise ValueError(_misfit(checkpoint, shapes, problems))
    _log_what_is_dropped(checkpoint, used, weights)
    return {
        part: {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()} for part, tensors in used.items()
    }


def _parameters(checkpoint: Mapping[str, Any], part: str) -> dict[str, Any]:
    """A state dict without its buffers."""
    buffers = [PREFIX + name for name in BUFFERS.get(part, ())]
    return {key: tensor for key, tensor in checkpoint[part].items() if key not in buffers}


def _problems(where: str, found: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    yield from (f"`{where}`: `{key}` {shape} is missing" for key, shape in wanted.items() if key not in found)
    for key, tensor in found.items():
        if key not in wanted:
            yield f"`{where}`: `{key}` is unknown"
        elif not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            yield f"`{where}`: `{key}` is not a tensor of floating point numbers"
        elif tuple(tensor.shape) != wanted[key]:
            yield f"`{where}`: `{key}` has shape {tuple(tensor.shape)}, but the config makes it {wanted[key]}"


def _misfit(checkpoint: Mapping[str, Any], shapes: Mapping[str, Mapping], problems: Sequence[str]) -> str:
    """What to say of a checkpoint that has `problems` with a config of the given shapes."""

    def tensors(parts: Mapping[str, Mapping]) -> set:
        return {(part, key, shape) for part, keys in parts.items() for key, shape in keys.items()}

    parts = [part for part in PARTS if isinstance(checkpoint.get(part), Mapping)]
    found = {
        part: {key: tuple(getattr(tensor, "shape", ())) for key, tensor in _parameters(checkpoint, part).items()}
        for part in parts
    }
    counts = [f"`{part}` ({len(checkpoint[part])} tensors)" for part in parts]
    message = f"It has {', '.join([*counts, *(f'`{key}`' for key in checkpoint if key not in parts)])}."
    common = {}
    for name, config in CASES.items():
        case = tensors(_shapes(config))
        common[name] = len(tensors(found) & case) / len(tensors(found) | case)
    most = max(common.values())
    cases = " or ".join(name for name, share in common.items() if share == most)
    if most == 1 and tensors(found) != tensors(shapes):
        return (
            f"the checkpoint is not of this model. {message} These are the tensors of {cases}: pass that as `--case`."
        )
    looks = (
        f" It looks most like {cases}, with {int(100 * most)} % of the tensors in common." if 0.1 < most < 1 else ""
    )
    listed = "".join(f"\n  {problem}" for problem in problems)
    return f"the checkpoint does not fit the config:{listed}\n{message}{looks}"


def _log_what_is_dropped(checkpoint: Mapping[str, Any], used: Mapping[str, Mapping], weights: str) -> None:
    for key, note in NOT_WEIGHTS.items():
        if key in checkpoint and note is not None:
            logger.info("%s: %s", key, note)
    for part, buffers in BUFFERS.items():
        for name in buffers:
            if PREFIX + name in checkpoint.get(part, ()):
                logger.info("%s: the buffer `%s` is not carried over, as nothing reads it", part, name)
    if weights == "ema":
        logger.info("%s: the weights as trained are not carried over, but the moving averages", ", ".join(used))
    elif averages := [f"{part}_ema" for part in used if f"{part}_ema" in checkpoint]:
        logger.info("%s: the moving averages are not carried over, but the weights as trained", ", ".join(averages))


# --- 2. Converting and writing -------------------------------------------------------------------------------------------


def convert(checkpoint: Mapping[str, Any], config: LZNConfig, weights: str = "ema") -> LZNModel:
    """The model of a checkpoint, in float32 and evaluation mode. Arguments and errors: [`published_weights`]."""
    tensors = to_ours(config, published_weights(checkpoint, config, weights))
    with torch.device("meta"):  # no time for an initialisation that is overwritten
        model = LZNModel(copy.deepcopy(config))
    # copied, so that the model does not depend on the file any more
    state = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


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
    """The README.md of a converted model: its `source` (title, case, checkpoint, iteration, weights) and how to use it."""
    if config.decoder_type is None:
        task, usage = "image-feature-extraction", ENCODER_USAGE.format(size=config.image_size)
    else:
        task = "unconditional-image-generation"
        label, what, calls = "", "Reconstructing an image", "again = pipe.reconstruct(images[0]).images[0]"
        if config.num_labels:
            label, what = f'label="{config.id2label[0]}", ', "Classifying or reconstructing a single image"
            calls = f"prediction = pipe.classify(images[0])[0]\n{calls}"
        usage = GENERATOR_USAGE.format(label=label, what=what, calls=calls)
    tags = ["latent-zoning-network", task] + ["image-classification"] * bool(config.num_labels)
    return CARD.format(
        metadata=ModelCardData(library_name="lzn_hf", pipeline_tag=task, tags=tags).to_yaml(),
        usage=usage,
        **source,
    )


def check_output_dir(output_dir: str | os.PathLike) -> Path:
    """The absolute path of a folder that is not there yet, or empty.

    Raises:
        ValueError: for any other.
    """
    path = Path(os.path.abspath(output_dir))
    if path.exists() and not path.is_dir():
        raise ValueError(f"`--output_dir` {path} is a file. Name a new folder.")
    if path.exists() and (names := sorted(os.listdir(path))):
        raise ValueError(
            f"`--output_dir` {path} is not empty: it holds {_some(names)}. Name a new folder, or empty it."
        )
    return path


def save(model: LZNModel, output_dir: str | os.PathLike, card: str) -> None:
    """Saves model, image processor and card to a new folder, which is there with all its files or not at all.

    Raises:
        ValueError: as [`check_output_dir`].
    """
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


# --- 3. Command line -----------------------------------------------------------------------------------------------------

EPILOG = f"""\
cases (the published models):
  case_study_1_cifar10, case_study_1_afhqcat, case_study_1_celebahq,
  case_study_1_lsunbedroom    images without labels
  case_study_2                ResNet-50, embeddings of ImageNet
  case_study_3                CIFAR-10, ten labels: generation and classification

examples:
  python utils/convert_original_checkpoint.py --checkpoint 000000123-000060000.pt --case case_study_3 --output_dir lzn-cifar10
  python utils/convert_original_checkpoint.py --checkpoint mine.pt --config mine.json --weights raw --output_dir mine

Afterwards: LZNPipeline.from_pretrained("lzn-cifar10"), or for a model that only embeds
AutoModel.from_pretrained(...); the README.md in the folder has the lines. Classifying or
reconstructing a single image needs model.set_reference_anchors(...) first: see there.

The file is opened without running code that may be in it. Nothing is written unless every
tensor has found its place; otherwise the message lists those that have not. Not carried over:
{", ".join(key for key, note in NOT_WEIGHTS.items() if note is not None)}.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
    """The config of the trainer's JSON file; a `ValueError` if it is not one or not of a supported model."""
    try:
        published = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"`--config` {path} cannot be read as JSON: {error}") from error
    if not isinstance(published, dict):
        raise ValueError(f"`--config` {path} must be a JSON object, the config of the trainer, got {published!r:.80}.")
    return config_from_published(published)


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logger.setLevel(logging.INFO)
    try:
        output_dir = check_output_dir(args.output_dir)
        config = CASES[args.case] if args.case else read_config(args.config)
        logger.info("Reading %s", args.checkpoint)
        checkpoint = load_checkpoint(args.checkpoint)
        model = convert(checkpoint, config, args.weights)
        logger.info("Writing %s (%s parameters)", output_dir, f"{model.num_parameters():,}")
        card = model_card(
            config,
            title=output_dir.name,
            case=args.case or f"`{Path(args.config).name}`",
            checkpoint=Path(args.checkpoint).name,
            iteration=checkpoint.get("iteration", "unknown"),
            weights="ema (moving averages)" if args.weights == "ema" else "raw (as trained)",
        )
        save(model, output_dir, card)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    opener = "LZNPipeline" if model.decoder is not None else "AutoModel"
    logger.info('Done: %s.from_pretrained("%s")', opener, args.output_dir)


if __name__ == "__main__":
    main()
