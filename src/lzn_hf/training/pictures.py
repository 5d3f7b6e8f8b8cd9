# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The pictures of a final folder: those that the script draws, the curves of the run, and the latent zones of its labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from ..data.batches import image_batches, to_pixel_values
from ..evaluation.cards import CURVES_PICTURE, ZONES_PICTURE
from ..modeling_lzn import evaluation_mode
from ..visualization.figures import draw_figure
from ..visualization.runs import plot_metrics, read_metrics
from ..visualization.zones import MIN_LABELS, plot_zones
from .loop import Draw
from .setup import EVAL_BATCH_SIZE, TrainingSetup
from .space import is_out_of_space


logger = logging.getLogger(__name__)

MAX_DOTS = 1000  # images on the map of the zones
PRIOR_SAMPLES = 10_000  # enough for smooth zones, in a second


def draw_pictures(
    setup: TrainingSetup, folder: Path, draws: Mapping[str, Draw], *, last_line: Mapping[str, float]
) -> list[str]:
    """Draws the pictures of a final folder. One that cannot be drawn is a warning: no training is lost for a picture.

    Args:
        setup (`TrainingSetup`): the run, whose model has its averaged weights and its reference anchors.
        folder (`Path`): the folder for the files.
        draws (`Mapping[str, Callable]`): the pictures of the script by their file names; each is called with a path.
        last_line (`Mapping[str, float]`): the line of metrics that is still to be written, with its step.

    Returns:
        `list[str]`: the names of the files that were drawn.

    Raises:
        OSError: if the device is full. The caller finds room for the model as well.
    """
    model = setup.model
    pictures: dict[str, Draw] = {**draws, CURVES_PICTURE: partial(_draw_curves, setup, last_line)}
    has_zones = model.label_anchors is not None and model.reference_anchors is not None
    if has_zones and model.config.num_labels >= MIN_LABELS:
        pictures[ZONES_PICTURE] = partial(_draw_zones, setup)
    drawn = []
    for name, draw in pictures.items():
        try:
            draw(folder / name)
        except Exception as error:  # of whatever kind: the model must be saved
            if is_out_of_space(error):
                raise
            (folder / name).unlink(missing_ok=True)
            logger.warning(f"{name} was not drawn: {type(error).__name__}: {error}. The model is saved without it.")
        else:
            drawn.append(name)
    return drawn


def _draw_curves(setup: TrainingSetup, last_line: Mapping[str, float], path: Path) -> None:
    lines = [*read_metrics(setup.tracker.path), last_line]
    draw_figure(plot_metrics({f"Training on {setup.data.name}": lines})).save(path)


def _draw_zones(setup: TrainingSetup, path: Path) -> None:
    """Validation images, or training images if there are no others, each at a place of its zone that the seed draws."""
    model, config, seed = setup.model, setup.model.config, setup.run.seed
    what = "training" if setup.data.validation is None else "validation"
    dataset = setup.data.train if setup.data.validation is None else setup.data.validation
    generator = torch.Generator().manual_seed(seed)
    latents, labels = [], []
    with evaluation_mode(model):
        for batch in image_batches(dataset, EVAL_BATCH_SIZE, limit=MAX_DOTS, seed=seed):
            images = to_pixel_values(batch["pixel_values"].to(model.device))
            noise = torch.randn(len(images), config.latent_dim, generator=generator)
            latents.append(model.get_image_latents(images, noise=noise.to(model.device)).cpu())
            labels.append(batch["labels"].cpu())
    figure = plot_zones(
        torch.cat(latents),
        torch.cat(labels),
        model.require_label_anchors(),
        [config.id2label[label] for label in range(config.num_labels)],
        solver=config.alignment_solver,
        num_steps=config.alignment_num_steps,
        num_prior_samples=PRIOR_SAMPLES,
        seed=seed,
        title=f"Latent zones of {setup.data.name}",
        what=f"{what} images, each at a random place in the zone of its own anchor",
    )
    draw_figure(figure).save(path)


__all__ = ["draw_pictures"]
