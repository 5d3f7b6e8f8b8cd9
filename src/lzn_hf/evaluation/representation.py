# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Quality of the representation of a saved model: [`evaluate_folder`] measures it on labelled images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from huggingface_hub import ModelCard

from ..data.batches import image_batches
from ..data.images import ImageData
from ..modeling_lzn import LZNModel
from .cards import add_results, evaluation_results
from .fine_tuning import fine_tune, labelled_subset
from .probes import FEATURE_KINDS, collect_all_features, knn_accuracy, linear_probe, require_encoder
from .processes import gather_rows, process_state
from .results import markdown_table


TASK = "image-feature-extraction"  # of our results in a model card
DESCRIPTIONS = {
    "features": "features, before the head",
    "anchors": "anchors, after the head",
    "latents": "latents, in the middle of the zone",
}


def evaluate_folder(
    model_name_or_path: str | os.PathLike,
    data: ImageData,
    *,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    k: int = 20,
    fine_tune_fractions: Sequence[float] = (),
    fine_tune_steps: int = 500,
    flip: bool = False,
    shift: int = 0,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any] | None:
    """Measures the features of a saved model on labelled images.

    All processes call this and share the encoding; the main process does the rest. The result does not depend on their
    number, up to rounding.

    Args:
        model_name_or_path (`str` or `os.PathLike`): folder or hub id of a saved [`LZNModel`] (or pipeline) with an image
            encoder.
        data (`ImageData`): with labels, and validation images to test on.
        max_train_samples, max_eval_samples (`int`, *optional*): take so many of the images, drawn by `seed`; all if not
            given.
        k (`int`, *optional*, defaults to 20): neighbours of [`knn_accuracy`].
        fine_tune_fractions (list of `float`, *optional*): fractions of the training labels for [`fine_tune`].
        fine_tune_steps, flip, shift: arguments of [`fine_tune`].
        batch_size (`int`, *optional*, defaults to 256): images per batch of the encoder, on each process.
        seed (`int`, *optional*, defaults to 0): decides everything random.
        progress (`bool`, *optional*, defaults to `False`): whether to show progress bars.

    Returns:
        `dict` of JSON values on the main process, None on the others: `model`, `dataset`, `settings`, `labels`,
        `train_images`, `test_images`; `features`, `anchors` and, of a model with reference anchors, `latents`: each
        with `size` (F), `linear` and `knn` (top-1 accuracies); `embeddings`, which repeats the `kind` of them that is the
        embedding; `fine_tune`: accuracy by fraction, as text.

    Raises:
        OSError: if there is no model.
        ValueError: if the folder does not hold a whole model with an image encoder, the images have another shape, or as
            the functions named above.
    """
    if data.label_names is None or data.validation is None:
        raise ValueError("`data` must have labels, and validation images to test on.")
    for fraction in fine_tune_fractions:
        labelled_subset(data, fraction, seed)  # raises before the long work
    state = process_state()
    model = load_model(model_name_or_path).to(state.device)
    kinds = ["features", "anchors"] + (["latents"] if model.reference_anchors is not None else [])
    progress = progress and state.is_main_process
    splits = []
    for dataset, limit in ((data.train, max_train_samples), (data.validation, max_eval_samples)):
        processes = {"process_index": state.process_index, "num_processes": state.num_processes}
        batches = image_batches(dataset, batch_size, limit=limit, seed=seed, **processes)
        features, labels = collect_all_features(model, batches, kinds, progress=progress)
        splits.append(
            ({kind: gather_rows(state, rows) for kind, rows in features.items()}, gather_rows(state, labels))
        )
    if not state.is_main_process:
        return None

    (train, train_labels), (test, test_labels) = splits
    results: dict[str, Any] = {
        "model": os.fspath(model_name_or_path),
        "dataset": data.name,
        "settings": {"k": k, "fine_tune_steps": fine_tune_steps, "flip": flip, "shift": shift, "seed": seed},
        "labels": len(data.label_names),
        "train_images": len(train_labels),
        "test_images": len(test_labels),
    }
    for kind in kinds:
        sets = (train[kind], train_labels, test[kind], test_labels)
        x, y, test_x, test_y = (rows.to(state.device) for rows in sets)
        results[kind] = {
            "size": train[kind].shape[1],
            "linear": linear_probe(*sets, seed=seed, progress=progress),
            "knn": knn_accuracy(x, y, test_x, test_y, k, progress=progress),
        }
    results["embeddings"] = {**results[model.config.embedding_kind], "kind": model.config.embedding_kind}
    options: dict[str, Any] = {"flip": flip, "shift": shift, "seed": seed, "progress": progress}
    options |= {"num_steps": fine_tune_steps, "max_eval_samples": max_eval_samples}
    results["fine_tune"] = {f"{x:g}": fine_tune(model, data, x, **options) for x in fine_tune_fractions}
    return results


def load_model(model_name_or_path: str | os.PathLike) -> LZNModel:
    """Loads a model in float32; a ValueError if weights are missing or do not fit, and without image encoder."""
    model: LZNModel = LZNModel.from_pretrained(model_name_or_path, dtype=torch.float32)
    require_encoder(model)
    return model


def results_table(results: Mapping[str, Any]) -> str:
    """The results of [`evaluate_folder`] as Markdown."""
    rows = [
        [
            DESCRIPTIONS[kind] + (" (the embeddings)" if kind == results["embeddings"]["kind"] else ""),
            found["size"],
            f"{100 * found['linear']:.2f} %",
            f"{100 * found['knn']:.2f} %",
        ]
        for kind, found in results.items()
        if kind in DESCRIPTIONS
    ]
    neighbours = f"{results['settings']['k']} nearest neighbours"
    table = markdown_table(["features", "size", "linear probe", neighbours], rows)
    if results["fine_tune"]:
        rows = [[f"{100 * float(x):g} %", f"{100 * value:.2f} %"] for x, value in results["fine_tune"].items()]
        table += "\n\n" + markdown_table(["labels used", "fine-tuned encoder"], rows)
    return table


def update_model_card(
    folder: str | os.PathLike,
    results: Mapping[str, Any],
    *,
    hub_dataset: str | None = None,
    picture: str | None = None,
) -> ModelCard:
    """Puts results into the metadata and a section of a folder's model card, in place of those on the same dataset.

    Args:
        folder (`str` or `os.PathLike`): the folder of the model, with or without README.md.
        results (`dict`): see [`evaluate_folder`].
        hub_dataset (`str`, *optional*): id of the dataset on the Hub.
        picture (`str`, *optional*): file name of the map in the folder.

    Returns:
        `ModelCard`: not saved yet.
    """
    accuracies = {}
    for kind in FEATURE_KINDS:
        if kind in results:
            accuracies[f"linear probe, {kind}"] = results[kind]["linear"]
            accuracies[f"{results['settings']['k']} nearest neighbours, {kind}"] = results[kind]["knn"]
    for fraction, value in results["fine_tune"].items():
        accuracies[f"fine-tuned on {100 * float(fraction):g} % of the labels"] = value
    section = (
        f"## Representation\n\nTop-1 accuracy on {results['test_images']:,} test images of {results['dataset']}; linear probe and "
        f"neighbours use {results['train_images']:,}\ntraining images and frozen features.\n\n{results_table(results)}\n"
    )
    if picture is not None:
        section += f"\n![Map of the embeddings of test images]({picture})\n"
    values = [("accuracy", name, round(value, 4)) for name, value in accuracies.items()]
    return add_results(folder, evaluation_results(TASK, results["dataset"], values, hub_dataset=hub_dataset), section)


__all__ = ["evaluate_folder", "load_model", "results_table", "update_model_card"]
