# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Validation of a model in training: temporary reference anchors, its accuracy with them, and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..data.batches import to_pixel_values
from ..evaluation.calibration import (
    calibration_error,
    fit_prediction_time,
    negative_log_likelihood,
    reliability,
    score_places,
)
from ..evaluation.joint import accuracy
from ..modeling_lzn import LZNModel, evaluation_mode
from ..pipeline_lzn import LZNPipeline
from ..zones_lzn import place_images


MAX_FITTED = 5000  # images that the time of the scores is fitted to


def encode_anchors(model: LZNModel, batches: Iterable[dict[str, Tensor]]) -> Tensor:
    """Returns the anchors `(N, D)` of batches of `uint8` images, on the model's device."""
    with evaluation_mode(model):
        return torch.cat(
            [model.get_image_anchors(to_pixel_values(b["pixel_values"].to(model.device))) for b in batches]
        )


@contextmanager
def reference_anchors(model: LZNModel, anchors: Tensor, data_type: str | None = None) -> Iterator[None]:
    """Gives the model these reference anchors, of images or of a data type, inside the context, and afterwards those of before."""
    config, images, samples = model.config, model.reference_anchors, dict(model.reference_samples)
    counts = config.num_reference_anchors, config.num_type_reference_anchors
    if data_type is None:
        model.set_reference_anchors(anchors)
    else:
        model.set_type_reference_anchors(data_type, anchors)
    try:
        yield
    finally:
        model.reference_anchors, model.reference_samples = images, nn.ModuleDict(samples)
        config.num_reference_anchors, config.num_type_reference_anchors = counts


def measure_accuracy(
    accelerator: Accelerator,
    model: LZNModel,
    batches: Iterable[dict[str, Tensor]],
    classify: Callable[[Tensor], Tensor],
) -> float:
    """Measures the accuracy of a model in evaluation mode.

    Args:
        accelerator (`Accelerator`): sums the counts of all processes.
        model (`LZNModel`): the unwrapped model.
        batches (`Iterable`): this process's part of the `uint8` images with labels.
        classify (`Callable`): log-probabilities `(B, C)` of images `(B, C, H, W)` by the model, such as `model.classify_images`.

    Returns:
        `float`: the fraction of images whose most probable label is theirs.
    """
    correct, total = torch.zeros((), dtype=torch.int64, device=model.device), 0
    with evaluation_mode(model):
        for batch in batches:
            log_probs = classify(to_pixel_values(batch["pixel_values"].to(model.device)))
            correct += (log_probs.argmax(-1) == batch["labels"].to(model.device)).sum()
            total += len(log_probs)
    counts = accelerator.reduce(torch.stack([correct, torch.full_like(correct, total)]), reduction="sum").tolist()
    return counts[0] / max(counts[1], 1)


def calibrate(
    model: LZNModel, batches: Iterable[dict[str, Tensor]], seed: int, anchors_of_labels: Tensor | None = None
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Fits the time at which a model reads its scores, and sets `config.prediction_time`.

    Args:
        model (`LZNModel`): the unwrapped model, with labels and reference anchors.
        batches (`Iterable`): all `uint8` validation images with labels.
        seed (`int`): draws the images of the fit, where there are more than `MAX_FITTED`.
        anchors_of_labels (`Tensor` of shape `(C, D)`, *optional*): anchors that stand for the labels, those of the model by default.

    Returns:
        `tuple`: `validation_accuracy`, `validation_nll` and `validation_calibration_error` of all images by the model as it is now, and
        their [`reliability`].

    Raises:
        ValueError: for a model without labels or reference anchors.
    """
    config = model.config
    if (model.label_anchors is None and anchors_of_labels is None) or model.reference_anchors is None:
        raise ValueError("`model` must have labels, an image encoder and reference anchors to be calibrated.")
    label_anchors = model.require_label_anchors() if anchors_of_labels is None else anchors_of_labels
    reference_anchors = model.reference_anchors()
    latents, labels = [], []
    with evaluation_mode(model):
        for batch in batches:
            anchors = model.get_image_anchors(to_pixel_values(batch["pixel_values"].to(model.device)))
            latents.append(place_images(config, anchors, reference_anchors))
            labels.append(batch["labels"])
        places, truth = torch.cat(latents), torch.cat(labels)
        chosen = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))[:MAX_FITTED]
        config.prediction_time = fit_prediction_time(
            config, places[chosen.to(places.device)], label_anchors, truth[chosen]
        )
        log_probs = score_places(config, places, label_anchors, config.prediction_time)
    measures = {"accuracy": accuracy, "nll": negative_log_likelihood, "calibration_error": calibration_error}
    metrics = {f"validation_{name}": measure(log_probs, truth) for name, measure in measures.items()}
    return metrics, reliability(log_probs, truth)


def generate_samples(
    model: LZNModel, seed: int, tokenizer: PreTrainedTokenizerBase | None = None, **options: Any
) -> list[Image.Image]:
    """Generates images by [`LZNPipeline.__call__`] with these options, always from the same noise."""
    pipe: Any = LZNPipeline.from_model(model, tokenizer)
    pipe.set_progress_bar_config(disable=True)
    output: Any = pipe(generator=torch.Generator().manual_seed(seed), **options)
    return output.images
