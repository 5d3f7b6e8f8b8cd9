# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Specialists to compare a Latent Zoning Network with: one of its parts alone, trained as the whole model is.

`rectified_flow` is the decoder without latents, `classifier` the encoder with a linear layer on its anchors.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.batches import to_pixel_values
from ..losses_lzn import reconstruction_loss
from ..modeling_lzn import LZNModel, evaluation_mode
from ..zones_lzn import draw_noise
from .arguments import ModelArguments
from .parsing import parse_overrides
from .setup import TrainingSetup


Baseline = Literal["none", "rectified_flow", "classifier"]
# The part that a baseline has not.
LACKS = {"none": None, "rectified_flow": "encoder", "classifier": "decoder"}


def remove_part(model_args: ModelArguments, baseline: Baseline) -> None:
    """Makes a new model one without the part that a baseline has not. Raises a `ValueError` if the arguments ask for that part."""
    part = LACKS[baseline]
    if part is None:
        return
    if part == "encoder" and model_args.encoder_name_or_path is not None:
        raise ValueError(f"`encoder_name_or_path` names an image encoder, and `baseline` {baseline} has none.")
    requested = parse_overrides(model_args.config_overrides).get(f"{part}_type")
    if requested is not None:
        raise ValueError(
            f"`config_overrides` ask for `{part}_type={requested}`, and `baseline` {baseline} has no {part}."
        )
    if model_args.model_name_or_path is None:
        model_args.config[f"{part}_type"] = None


def check_parts(model: LZNModel, baseline: Baseline) -> None:
    """Raises a `ValueError` unless a model has an image encoder and an image decoder, but for the one that a baseline has not."""
    for part in ("decoder", "encoder"):
        if (getattr(model, part) is None) != (LACKS[baseline] == part):
            needs = "without" if LACKS[baseline] == part else "with"
            raise ValueError(
                f"`baseline` {baseline} needs a model {needs} image {part}, but `{part}_type` of the model is "
                f"{getattr(model.config, f'{part}_type')!r}."
            )


def classifier_loss(anchors: Tensor, label_anchors: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes the cross-entropy of a linear layer on the anchors a of images, with the label anchors l as its weights:

        loss = mean_b -log softmax_c(a_b · l_c) at the label of image b

    Args:
        anchors (`Tensor` of shape `(B, D)`): anchors of images, from the prepared model.
        label_anchors (`Tensor` of shape `(C, D)`): the label anchors of the model.
        labels (`Tensor` of shape `(B,)`): int64 labels.

    Returns:
        `tuple`: the loss, a scalar, and the share of images with the right label, to log.
    """
    scores = F.linear(anchors.float(), label_anchors)
    return F.cross_entropy(scores, labels), {"train_accuracy": (scores.argmax(1) == labels).float().mean()}


def validation_loss(setup: TrainingSetup) -> dict[str, float]:
    """Computes the loss of the image flow on the validation images, with fixed noise and times; empty without images."""
    generator = torch.Generator(device=setup.accelerator.device)
    total = torch.zeros(2, dtype=torch.float64)
    with evaluation_mode(setup.model):
        # Every process evaluates all images: the pools are those of one process, whatever the number of processes.
        for number, batch in enumerate(setup.validation_batches()):
            if len(batch["pixel_values"]) == 1:  # a single last image has no pool
                continue
            batch = {name: value.to(setup.accelerator.device) for name, value in batch.items()}
            pixel_values = to_pixel_values(batch["pixel_values"])
            generator.manual_seed(number)
            loss = local_loss(setup.model, pixel_values, batch.get("labels"), generator)
            total += torch.tensor([loss * len(pixel_values), len(pixel_values)], dtype=torch.float64)
    return {"validation_loss": (total[0] / total[1]).item()} if total[1] else {}


def local_loss(model: LZNModel, pixel_values: Tensor, labels: Tensor | None, generator: torch.Generator) -> float:
    """Computes the reconstruction loss with the images of this process as the pool. The model has no reference anchors."""
    latents = None if model.encoder is None else model.get_image_latents(pixel_values, generator=generator)
    noise = draw_noise(pixel_values, generator)
    times = torch.rand(len(pixel_values), device=pixel_values.device, generator=generator)
    return reconstruction_loss(model.predict_velocity, pixel_values, latents, labels, noise, times).item()
