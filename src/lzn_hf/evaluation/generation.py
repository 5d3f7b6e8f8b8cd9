# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Quality of the images that a saved pipeline generates and reconstructs: [`evaluate_folder`] measures it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from huggingface_hub import ModelCard
from torch import Tensor

from ..card_lzn import label_names
from ..data.batches import image_batches, to_pixel_values
from ..data.images import ImageData
from ..guidance_lzn import resolve_guidance
from ..modeling_lzn import LZNModel
from ..pipeline_lzn import LZNPipeline
from .cards import add_results, evaluation_results
from .features import FeatureExtractor
from .joint import accuracy, class_consistency
from .metrics import (
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    psnr,
    reconstruction_l2,
)
from .processes import gather_rows, process_state
from .results import markdown_table
from .samplers import SOLVERS, Sampler, counted_evaluations, generated_batches, sample_generator


TASK = "unconditional-image-generation"  # of our results in a model card
MAX_CLASSIFIED = 5000  # images for the support vector classifier, as its time grows with their square
NEIGHBOURS = 3  # of precision and recall


def evaluate_folder(
    model_name_or_path: str | os.PathLike,
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
    guide_name_or_path: str | os.PathLike | None = None,
    progress: bool = False,
) -> dict[str, Any] | None:
    """Measures the images of a saved pipeline.

    All processes call this and share the work. The result does not depend on their number, up to rounding.

    Args:
        model_name_or_path (`str` or `os.PathLike`): folder or hub id of the pipeline.
        data (`ImageData`): real images, of the size, channels and labels of the model.
        extractor ([`FeatureExtractor`]): the features of the distances, see [`load_feature_extractor`].
        samplers (list of `str`): see [`Sampler.parse`].
        num_samples (`int`): images of each sampler, at least one on each process and more than three in all.
        seed (`int`, *optional*, defaults to 0): decides the samples, and the real images where not all are taken.
        reference (`str`, *optional*, defaults to `"validation"`): `"validation"` or `"train"`: the real images that the
            samples are compared with.
        max_reference_images (`int`, *optional*): at most so many of them; all if not given.
        num_reconstructions (`int`, *optional*, defaults to 100): real images to reconstruct, at most, from the validation
            split if there is one.
        reconstruction_samplers (list of `str`, *optional*): samplers that integrate in both directions.
        batch_size (`int`, *optional*, defaults to 64): images per batch on each process.
        guide_name_or_path (`str` or `os.PathLike`, *optional*): folder or hub id of a weaker model, for samplers with a guidance scale.
        progress (`bool`, *optional*, defaults to `False`): whether to show progress bars.

    Returns:
        `dict` of JSON values on the main process, None on the others:
        - `model`, `guide`, `dataset`, `settings` (`feature_extractor`, `num_samples`, `seed`), and `reference` with its `split` and
          number of `images`;
        - `samplers`: for each sampler network `evaluations` per image, `frechet_distance`, `kernel_distance`, `precision`
          and `recall`; with an extractor that has them `spatial_frechet_distance` and `inception_score`; with labels
          `class_consistency`, by the extractor if it classifies by as many labels, or else by a support vector
          classifier on pixels of training images;
        - `real_images`: the same numbers for real images of the other split, as many as samples or all there are: the
          values of a perfect model. None without another split;
        - `reconstruction`: for each of its samplers `evaluations`, `reconstruction_l2` and `psnr` of `images` images.

    Raises:
        ValueError: for arguments out of range, and data that do not fit the model.
    """
    # 1. Check everything before anything is computed.
    state = process_state()
    parsed = [Sampler.parse(text) for text in samplers]
    both_ways = [Sampler.parse(text, SOLVERS) for text in reconstruction_samplers] if num_reconstructions else []
    if any(sampler.guidance_scale != 1 for sampler in both_ways):
        raise ValueError(
            f"`reconstruction_samplers` must be without guidance, which images are not inverted with, got {', '.join(reconstruction_samplers)}."
        )
    for name, texts in (("samplers", samplers), ("reconstruction_samplers", reconstruction_samplers)):
        if len(set(texts)) < len(texts):
            raise ValueError(f"`{name}` must all be different, got {', '.join(texts)}.")
    smallest = max(NEIGHBOURS + 1, state.num_processes)
    if num_samples < smallest:
        raise ValueError(f"`num_samples` must be at least {smallest}, got {num_samples}.")
    splits = {"validation": data.validation, "train": data.train}
    if splits.get(reference) is None:
        known = " or ".join(repr(name) for name, split in splits.items() if split is not None)
        raise ValueError(f"`reference` must be {known} with these data, got {reference!r}.")
    pipe = LZNPipeline.from_pretrained(model_name_or_path).to(state.device)
    pipe.set_progress_bar_config(disable=True)
    model = pipe.model
    _check_data(model, data)
    if both_ways and model.encoder is not None and model.reference_anchors is None:
        raise ValueError(
            "`num_reconstructions` must be 0 for a model without reference anchors, which cannot place an image, got "
            f"{num_reconstructions}."
        )
    num_labels = len(label_names(model.config))
    has_labels = num_labels > 0 and data.label_names is not None
    guide = None
    for sampler in parsed:
        given = guide_name_or_path if guide is None else guide
        guide = resolve_guidance(model, sampler.guidance_scale, given, state.device, has_label=num_labels > 0).guide

    # 2. Features of real and generated images, and reconstructions, from all processes.
    draw = {"seed": seed, "process_index": state.process_index, "num_processes": state.num_processes}
    real, num_others = {}, max(num_samples, MAX_CLASSIFIED) if has_labels else num_samples
    for name, split in splits.items():
        if split is not None:
            limit = max_reference_images if name == reference else num_others
            batches = image_batches(split, batch_size, limit=limit, **draw)
            real[name] = _collect_statistics(state, extractor, batches, has_labels)
    indices = range(state.process_index, num_samples, state.num_processes)
    progress = progress and state.is_main_process
    networks = [model] if guide is None else [model, guide]
    generated, evaluations = {}, {}
    for sampler in parsed:
        with counted_evaluations(*networks) as counts:
            batches = generated_batches(pipe, sampler, indices, seed, batch_size, guide=guide, progress=progress)
            generated[sampler.name] = _collect_statistics(state, extractor, batches, has_labels)
        evaluations[sampler.name] = _total(state, counts) / num_samples
    reconstruction = {}
    held_out = data.train if data.validation is None else data.validation
    for sampler in both_ways:
        batches = image_batches(held_out, batch_size, limit=num_reconstructions, **draw)
        reconstruction[sampler.name] = _measure_reconstruction(state, pipe, sampler, batches, seed)
    if not state.is_main_process:
        return None

    # 3. Numbers. Nothing is exchanged from here on, so the other processes do not wait.
    real_images = None
    other = next((name for name in real if name != reference), None)
    if other is not None:
        as_many = {name: rows[:num_samples] for name, rows in real[other].items()}
        real_images = {"split": other, "images": len(as_many["features"]), **_distances(as_many, real[reference])}
        if has_labels:
            real_images["class_consistency"] = _consistency(real["validation"], real["train"], num_labels)
    numbers = {}
    for name, statistics in generated.items():
        numbers[name] = {"evaluations": evaluations[name], **_distances(statistics, real[reference])}
        if has_labels:
            numbers[name]["class_consistency"] = _consistency(statistics, real["train"], num_labels)
    return {
        "model": os.fspath(model_name_or_path),
        "guide": None if guide_name_or_path is None else os.fspath(guide_name_or_path),
        "dataset": data.name,
        "settings": {"feature_extractor": extractor.name, "num_samples": num_samples, "seed": seed},
        "reference": {"split": reference, "images": len(real[reference]["features"])},
        "samplers": numbers,
        "real_images": real_images,
        "reconstruction": reconstruction,
    }


def _check_data(model: LZNModel, data: ImageData) -> None:
    """Raises a ValueError unless the images have the size, channels and (if both have any) labels of the model."""
    for name in ("image_size", "num_channels"):
        expected, found = getattr(model.config, name), getattr(data, name)
        if found != expected:
            raise ValueError(f"`{name}` must be the model's, {expected}, but is {found}.")
    names = label_names(model.config)
    if names and data.label_names is not None and names != list(data.label_names):
        raise ValueError(
            f"the data must have the labels of the model, {', '.join(names[:10])}, but have {', '.join(data.label_names[:10])}."
        )


def _collect_statistics(
    state: PartialState, extractor: FeatureExtractor, batches: Iterable[dict[str, Tensor]], keep_images: bool
) -> dict[str, Tensor]:
    """The statistics that the metrics need, from all processes and in the order of the images.

    `batches` are this process's `uint8` images, every num_processes-th of all. `keep_images` keeps `labels`, and as `images`
    the first `MAX_CLASSIFIED` of them.
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
    statistics = {name: gather_rows(state, torch.cat(rows)) for name, rows in parts.items()}
    if "images" in statistics:
        statistics["images"] = statistics["images"][:MAX_CLASSIFIED]
    return statistics


def _total(state: PartialState, counts: list[int]) -> int:
    """The sum over all processes."""
    return int(gather_rows(state, torch.tensor([sum(counts)])).sum())


def _distances(statistics: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, float]:
    """All metrics of some images against those of the reference."""
    features = reference["features"], statistics["features"]
    numbers = {
        "frechet_distance": frechet_distance(*features),
        "kernel_distance": kernel_distance(*features),
        **precision_recall(*features, k=NEIGHBOURS),
    }
    if "spatial_features" in statistics:
        spatial = reference["spatial_features"], statistics["spatial_features"]
        numbers["spatial_frechet_distance"] = frechet_distance(*spatial)
    if "log_probs" in statistics:
        numbers["inception_score"] = inception_score(statistics["log_probs"])
    return numbers


def _consistency(statistics: dict[str, Tensor], train: dict[str, Tensor], num_labels: int) -> float:
    """Fraction of images that a classifier of real images assigns to their label."""
    if "log_probs" in statistics and statistics["log_probs"].shape[1] == num_labels:
        return accuracy(statistics["log_probs"], statistics["labels"])
    sides = [(to_pixel_values(side["images"]), side["labels"][: len(side["images"])]) for side in (statistics, train)]
    return class_consistency(*sides[0], *sides[1])


def _measure_reconstruction(
    state: PartialState, pipe: LZNPipeline, sampler: Sampler, batches: Iterable[dict[str, Tensor]], seed: int
) -> dict[str, float]:
    """Error of images that go to noise (and latents) and back by the same solver, clipped to [-1, 1]."""
    originals, reconstructions, done = [], [], 0
    with counted_evaluations(pipe.model) as counts:
        for batch in batches:
            images = to_pixel_values(batch["pixel_values"])
            places = [state.process_index + (done + i) * state.num_processes for i in range(len(images))]
            output: Any = pipe.reconstruct(
                {"pixel_values": images},
                generator=[sample_generator(seed, place) for place in places],
                batch_size=len(images),
                output_type="pt",
                **sampler.options,
            )
            originals.append(images)
            reconstructions.append(output.images.cpu() * 2 - 1)
            done += len(images)
    if not originals:
        raise ValueError(f"`num_reconstructions` must be at least one for each of {state.num_processes} processes.")
    pairs = [gather_rows(state, torch.cat(rows)) for rows in (originals, reconstructions)]
    return {
        "evaluations": _total(state, counts) / len(pairs[0]),
        "reconstruction_l2": reconstruction_l2(*pairs),
        "psnr": psnr(*pairs),
        "images": len(pairs[0]),
    }


def results_table(results: Mapping[str, Any]) -> str:
    """The results of [`evaluate_folder`] as Markdown."""
    rows = dict(results["samplers"])
    if results["real_images"]:
        rows[f"real ({results['real_images']['split']})"] = results["real_images"]
    tables = [("sampler", rows), ("reconstruction", results["reconstruction"])]
    texts = []
    for title, numbers in tables:
        names = list(next(iter(numbers.values()), {}))
        cells = [[row, *(f"{x[name]:.5g}" if name in x else "-" for name in names)] for row, x in numbers.items()]
        texts += [markdown_table([title, *names], cells)] if cells else []
    return "\n\n".join(texts)


def update_model_card(
    folder: str | os.PathLike, results: Mapping[str, Any], *, hub_dataset: str | None = None
) -> ModelCard:
    """Puts results into the metadata of a folder's model card, in place of those on the same dataset.

    Args:
        folder (`str` or `os.PathLike`): the folder of the model.
        results (`dict`): see [`evaluate_folder`].
        hub_dataset (`str`, *optional*): id of the dataset on the Hub.

    Returns:
        `ModelCard`: not saved yet.
    """
    about = "{feature_extractor}, {num_samples} samples".format(**results["settings"])
    about += f", guide {results['guide']}" if results.get("guide") is not None else ""
    values = [
        (metric, f"{metric.replace('_', ' ')} ({sampler}; {about})", round(value, 6))
        for sampler, numbers in results["samplers"].items()
        for metric, value in numbers.items()
        if metric != "evaluations" and math.isfinite(value)
    ]
    split = results["reference"]["split"]
    return add_results(
        folder, evaluation_results(TASK, results["dataset"], values, hub_dataset=hub_dataset, split=split)
    )


__all__ = [
    "evaluate_folder",
    "results_table",
    "update_model_card",
]
