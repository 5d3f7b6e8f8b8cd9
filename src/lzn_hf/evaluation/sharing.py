# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A saved model as the folder that is shared: complete, with its code, for those who do not have this package.

config.json, model.safetensors, ...    as saved; config.json names the classes in the code (`auto_map`)
*.py                                   the code that `trust_remote_code=True` runs
README.md, samples.png, examples/      the model card, a grid of samples, images for the widget of the Hub
.eval_results/*.yaml                   the results of the card, as the Hub collects them by dataset
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.dynamic_module_utils import get_relative_import_files

from ..card_lzn import check_license, hub_task, label_names
from ..configuration_lzn import LZNConfig
from ..image_processing_lzn import LZNImageProcessor
from ..modeling_classification_lzn import LZNForImageClassification
from ..modeling_lzn import LZNModel
from ..modeling_zero_shot_lzn import LZNForZeroShotImageClassification
from ..pipeline_folder_lzn import CONFIG_FILES, WEIGHTS
from ..pipeline_lzn import LZNPipeline
from ..processing_lzn import TOKENIZER_FILE, LZNProcessor
from ..saving_lzn import share_weights
from .results import write_json
from .shared_cards import complete_card, eval_result_files, linked_files, tried_texts


MODEL_FILES = ("config.json", "preprocessor_config.json", "scheduler_config.json", "model_index.json")
OTHER_FILES = ("README.md", "samples.png", "training_settings.json")  # that training writes; see also [`linked_files`]
EXAMPLES_DIR = "examples"
NUM_EXAMPLES = 4
DrawSamples = Callable[[LZNPipeline], Image.Image]


def auto_map(config: Any) -> dict[str, str]:
    """The classes in the code by the auto class of transformers that loads them."""
    classes: dict[str, type] = {"AutoConfig": LZNConfig, "AutoModel": LZNModel}
    if config.encoder_type is not None and config.num_labels:
        classes["AutoModelForImageClassification"] = LZNForImageClassification
    classes["AutoImageProcessor"] = LZNImageProcessor
    if config.text_config is not None:
        classes["AutoModelForZeroShotImageClassification"] = LZNForZeroShotImageClassification
        classes["AutoProcessor"] = LZNProcessor
    return {auto_class: f"{_module(cls).stem}.{cls.__name__}" for auto_class, cls in classes.items()}


def code_files() -> list[Path]:
    """The files of this package that models and processors need: those that import each other, as transformers finds them."""
    models = (LZNModel, LZNForImageClassification, LZNForZeroShotImageClassification)
    modules = {_module(cls) for cls in (*models, LZNImageProcessor, LZNProcessor)}
    return sorted(modules.union(*(map(Path, get_relative_import_files(module)) for module in modules)))


def _module(cls: type) -> Path:
    return Path(inspect.getfile(cls))


def export_folder(
    folder: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    model_id: str | None = None,
    license: str | None = None,
    dataset_id: str | None = None,
    draw_samples: DrawSamples | None = None,
) -> Path:
    """Writes the folder that is shared, of a folder that training, `save_pretrained` or the converter wrote.

    Weights are copied as they are, variants and shards, too. What is missing beside them (image processor, scheduler, card) is made.

    Args:
        folder (`str` or `os.PathLike`): the saved model.
        output_dir (`str` or `os.PathLike`): a folder that is new or empty, or `folder` itself, which is completed then.
        model_id (`str`, *optional*): argument of `from_pretrained` in the code of the card. Defaults to `output_dir`.
        license (`str`, *optional*): licence of the weights, see [`check_license`]. The card keeps its own if there is one.
        dataset_id (`str`, *optional*): id on the Hub of the data that the results in the card are of.
        draw_samples (`Callable`, *optional*): draws a grid of samples for a folder that has none.

    Returns:
        `Path`: the folder, written whole or not at all.

    Raises:
        ValueError: if `folder` is no saved model, weights are missing or of another model, or another argument is unusable.
        OSError: if a file is damaged.
    """
    source, target = Path(folder).resolve(), Path(output_dir).resolve()
    check_saved_model(source)
    check_license(license)
    if dataset_id is not None:
        validate_repo_id(dataset_id)
    in_place = source == target
    if target.exists() and not in_place and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(
            f"`output_dir` must be a folder that is new or empty, got {os.fspath(output_dir)!r}. Name another one."
        )
    model = LZNModel.from_pretrained(source)
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    with _staged(target) as staged:
        for name in _files(source, with_weights=not in_place):
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, staged / name)
        has_tokenizer = model.config.text_config is not None and (source / TOKENIZER_FILE).exists()
        save_components(model, staged, AutoTokenizer.from_pretrained(source) if has_tokenizer else None)
        _name_classes(staged, model.config)
        for path in code_files():
            shutil.copyfile(path, staged / path.name)
        card = ModelCard.load(staged / "README.md") if (staged / "README.md").is_file() else None
        widget = getattr(card and card.data, "widget", None)
        texts = tried_texts(card) if has_tokenizer else None
        if model.decoder is not None:
            pipe = LZNPipeline.from_pretrained(staged, model=model)
            pipe.set_progress_bar_config(disable=True)
            if not widget:
                widget = _draw_examples(pipe, staged, texts)
            if draw_samples is not None and not (staged / "samples.png").exists():
                draw_samples(pipe).save(staged / "samples.png")
        card = complete_card(
            card,
            model.config,
            model_id=model_id or os.fspath(output_dir),
            license=license,
            dataset_id=dataset_id,
            widget=widget,
            samples="samples.png" if (staged / "samples.png").exists() else None,
            texts=texts,
        )
        card.save(staged / "README.md")
        for name, text in eval_result_files(card).items():
            (staged / name).parent.mkdir(exist_ok=True)
            (staged / name).write_text(text, encoding="utf-8")
        share_weights(staged)
    share_weights(target)
    return target


def check_saved_model(folder: Path) -> None:
    """Raises a `ValueError` unless a folder holds the config and all weights of a model of this package."""
    if not folder.is_dir():
        raise ValueError(f"`folder` must be the folder of a saved model, but there is no folder {folder}.")
    found = sorted(path.name for path in folder.iterdir())
    if "adapter_config.json" in found:
        raise ValueError(f"{folder} holds adapters of PEFT alone. Merge them into their model, and save that.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if "config.json" in found else {}
    if config.get("model_type") != "lzn":
        what = f"a model of type {config['model_type']!r}" if "model_type" in config else "no config.json of a model"
        inside = ", ".join(path.parent.name for path in sorted(folder.glob("*/config.json")))
        hint = f" Saved models are in {inside}." if inside else ""
        raise ValueError(f"`folder` must be the folder of a saved model of lzn_hf, but {folder} has {what}.{hint}")
    variants = {match[1] or match[2] for name in found if (match := WEIGHTS.fullmatch(name))}
    if None not in variants:
        named = ", ".join(sorted(filter(None, variants)))
        has = f"only the variants {named}: save one without `variant`" if named else f"only {', '.join(found)}"
        raise ValueError(f"{folder} lacks model.safetensors. It has {has}.")


def save_components(model: LZNModel, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Writes what a model's folder lacks beside its weights: an image processor, and, for one that generates, scheduler and index; and the
    tokenizer of a model that has texts."""
    pipe = None if model.decoder is None else LZNPipeline.from_model(model, tokenizer=tokenizer)
    if not (folder / CONFIG_FILES["image_processor"]).exists():
        size, half = model.config.image_size, [0.5] * model.config.num_channels
        LZNImageProcessor(size={"height": size, "width": size}, image_mean=half, image_std=half).save_pretrained(
            folder
        )
    if tokenizer is not None:
        LZNProcessor(LZNImageProcessor.from_pretrained(folder), tokenizer).save_pretrained(folder)
    if pipe is not None and not (folder / CONFIG_FILES["scheduler"]).exists():
        pipe.scheduler.save_pretrained(folder)
    if pipe is not None and not (folder / "model_index.json").exists():
        pipe.save_config(folder)


def _files(folder: Path, with_weights: bool) -> Iterator[str]:
    """The files of a saved model that are shared: not checkpoints, logs or whatever else lies there."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    yield from (name for name in (*MODEL_FILES, *OTHER_FILES) if name in names)
    if with_weights:
        yield from (name for name in sorted(names) if WEIGHTS.fullmatch(name))
    if "README.md" in names:
        for name in linked_files(ModelCard.load(folder / "README.md")):
            if name not in (*MODEL_FILES, *OTHER_FILES) and (folder / name).is_file():
                yield name


def _name_classes(folder: Path, config: Any) -> None:
    classes = auto_map(config)
    # Of a plain string, transformers would derive the name of a video processor, and its pipelines would ask whether to run that code
    # even where this package is installed. A list is [the processor, its fast variant].
    processor = {"AutoImageProcessor": [classes["AutoImageProcessor"], None]}
    files = [("config.json", classes), ("preprocessor_config.json", processor)]
    if (folder / "processor_config.json").exists():
        files.append(("processor_config.json", {"AutoProcessor": classes["AutoProcessor"]}))
    for name, named in files:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        write_json(folder / name, {**values, "auto_map": named})


def _draw_examples(pipe: LZNPipeline, folder: Path, texts: Sequence[str] | None) -> list[dict[str, Any]]:
    """Generates a few images for the widget of the Hub: no images of the training data, which may not be ours to publish."""
    names = label_names(pipe.model.config)[:NUM_EXAMPLES]
    generator = torch.Generator().manual_seed(0)
    labels = list(range(len(names))) or None
    output: Any = pipe(label=labels, num_images_per_label=1 if names else NUM_EXAMPLES, generator=generator)
    (folder / EXAMPLES_DIR).mkdir()
    widget: list[dict[str, Any]] = []
    for number, image in enumerate(output.images):
        path, title = f"{EXAMPLES_DIR}/{number}.png", names[number] if names else f"Generated image {number + 1}"
        image.save(folder / path)
        if pipe.model.encoder is None:  # nothing that a widget could do with an image
            widget.append({"text": title, "output": {"url": path}})
        else:
            widget.append({"src": path, "example_title": title})
            if texts and hub_task(pipe.model.config) == "zero-shot-image-classification":
                widget[-1]["candidate_labels"] = ", ".join(texts)
    return widget


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, which takes its place at the end, or whose files move there, if nothing went wrong before."""
    staged = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()
        if not target.exists():
            os.replace(staged, target)
            return
        for path in sorted(path for path in staged.rglob("*") if path.is_file()):
            place = target / path.relative_to(staged)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


__all__ = ["DrawSamples", "auto_map", "check_saved_model", "code_files", "export_folder", "save_components"]
