# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Probabilities of labels as heat maps: at the end of the flow to the label anchors, and along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checks_lzn import check_at_least
from ..latent_zones import trace_assignments
from .figures import check_labels, check_rows, new_figure
from .grids import to_pil_images


if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "Blues"  # from white to dark: in grey as well, darker is more probable
MAX_ROWS = 64  # images in a heat map
MAX_NUMBERS = 12  # labels of a heat map with its numbers
LEAST_SHOWN = 0.005  # of a number, which would be 0.00
MAX_PANELS = 40
FONT_SIZE = 9


def plot_assignments(
    log_probs: Tensor,
    label_names: Sequence[str],
    *,
    labels: Tensor | None = None,
    images: Sequence[Image.Image] | Tensor | None = None,
    row_names: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Plots the probabilities of labels: one row an image, or one a true label with the means over its images, one column a label.

    Args:
        log_probs (`Tensor` of shape `(N, C)`): log-probabilities of the labels, such as `model.classify_images` and
            `model.classify_latents` return.
        label_names (list of `str`): the names of the C labels.
        labels (`Tensor` of shape `(N,)`, *optional*): true labels. With them a row is a label, and the diagonal is right.
        images (list of PIL images or `Tensor` of shape `(N, C, H, W)`, *optional*): shown beside their rows, see [`image_grid`]; not
            with `labels`.
        row_names (list of `str`, *optional*): a name for each image; not with `labels`.
        title (`str`, *optional*, defaults to `""`): heading.

    Returns:
        `Figure`: with the numbers, if there are few labels.

    Raises:
        ValueError: if shapes do not fit, values are not finite below 0, or there are more than 64 rows of images.
    """
    _check_log_probs(log_probs, label_names)
    probs, by_label = log_probs.detach().double().cpu().exp(), labels is not None
    if labels is not None:
        check_labels(labels, len(probs), label_names)
        if images is not None or row_names is not None:
            raise ValueError(
                "`images` and `row_names` are of single images, but with `labels` a row is a label: give either."
            )
        counts = torch.bincount(labels.cpu(), minlength=len(label_names))
        shown = counts.nonzero().flatten()
        probs = torch.stack([probs[labels.cpu() == label].mean(0) for label in shown])
        row_names = [f"{label_names[label]}  ({counts[label]:,})" for label in shown]
    elif len(probs) > MAX_ROWS:
        raise ValueError(
            f"`log_probs` must hold at most {MAX_ROWS} images to show each, got {len(probs)}: pass fewer, or their `labels`."
        )
    pictures = None if images is None else to_pil_images(images)
    for name, values in (("images", pictures), ("row_names", row_names)):
        if values is not None and len(values) != len(probs):
            raise ValueError(f"`{name}` must hold {len(probs)}, one for each row of `log_probs`, got {len(values)}.")

    rows, columns = probs.shape
    numbers = columns <= MAX_NUMBERS
    cell = 0.48 if numbers else max(0.13, min(0.3, 9 / columns))
    down = max(cell * 0.8, 0.16) if pictures is None else 0.5
    if by_label:
        down = max(down, 1.4 / rows)  # room for the name of the axis
    longest = max(map(len, row_names), default=0) if row_names is not None else 0
    left = 0.35 + 0.085 * longest + (0 if pictures is None else down)
    turned = max(map(len, label_names)) * 0.09 > cell
    bottom = 0.45 + (0.085 * max(map(len, label_names)) if turned else 0.15)
    top = 0.5 if title else 0.2
    width, height = left + columns * cell + 0.9, top + rows * down + bottom
    figure = new_figure(max(width, 3.2), height)
    width = max(width, 3.2)
    axes = figure.add_axes((left / width, bottom / height, columns * cell / width, rows * down / height))
    picture = axes.imshow(probs.numpy(), cmap=COLOURS, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    if numbers:
        for (row, column), value in np.ndenumerate(probs.numpy()):
            if value >= LEAST_SHOWN:
                colour = "white" if value > 0.55 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(columns), label_names, fontsize=FONT_SIZE, rotation=90 if turned else 0)
    axes.set_yticks(range(rows), row_names or [""] * rows, fontsize=FONT_SIZE)
    axes.tick_params(length=0)
    if pictures is not None:
        axes.tick_params(axis="y", pad=2 + 72 * down)
        for row, image in enumerate(pictures):
            box = ((left - down) / width, (bottom + (rows - row - 1) * down + 0.02) / height)
            inset = figure.add_axes((*box, (down - 0.04) / width, (down - 0.04) / height))
            inset.imshow(np.asarray(image.convert("RGB")), interpolation="antialiased")
            inset.axis("off")
    axes.set_xlabel("label", fontsize=FONT_SIZE, color="0.25")
    if by_label:
        axes.set_ylabel("true label (images)", fontsize=FONT_SIZE, color="0.25")
    _draw_scale(figure, picture, (left + columns * cell + 0.15) / width, bottom / height, rows * down / height, width)
    figure.text(0.12 / width, 1 - 0.12 / height, title, va="top", fontsize=11)
    return figure


def plot_assignment_flow(
    latents: Tensor,
    label_anchors: Tensor,
    label_names: Sequence[str],
    *,
    images: Sequence[Image.Image] | Tensor | None = None,
    row_names: Sequence[str] | None = None,
    solver: str = "adams",
    num_steps: int = 20,
    num_times: int = 25,
    end: float = 1.0,
    columns: int = 5,
    title: str = "",
) -> Figure:
    """Plots how latents decide: the probabilities of the label zones along the flow from the prior to the label anchors.

    One panel a latent, with its labels from top to bottom and time from left to right. At a time t there are those probabilities that a
    flow gives which ends at t. At t = 0 all labels are equally probable, at t = 1 each latent lies in one zone.
    Where a latent on a border changes sides from time to time, it is the error of the solver that decides: more steps show where it lies.

    Args:
        latents (`Tensor` of shape `(N, D)`): at most 40 latents.
        label_anchors (`Tensor` of shape `(C, D)`): the anchors of the zones.
        label_names (list of `str`): the names of the C labels.
        images (list of PIL images or `Tensor` of shape `(N, C, H, W)`, *optional*): shown above their panels, see [`image_grid`].
        row_names (list of `str`, *optional*): a name for each latent.
        solver, num_steps: of the flow, see [`trace_assignments`]. Those of the model show its own zones.
        num_times (`int`, *optional*, defaults to 25): times, evenly from 0 to `end`, at least 2.
        end (`float`, *optional*, defaults to 1.0): the last time, in (0, 1]. Where all is decided early, less shows more.
        columns (`int`, *optional*, defaults to 5): panels side by side.
        title (`str`, *optional*, defaults to `""`): heading.

    Returns:
        `Figure`: a panel for each latent.

    Raises:
        ValueError: if shapes or numbers do not fit, or [`trace_assignments`] refuses the solver.
    """
    check_rows("latents", latents)
    check_at_least(2, num_times=num_times)
    check_at_least(1, columns=columns)
    if not 0 < end <= 1:
        raise ValueError(f"`end` must be in (0, 1], got {end}.")
    if len(latents) > MAX_PANELS:
        raise ValueError(f"`latents` must hold at most {MAX_PANELS} to show each, got {len(latents)}: pass fewer.")
    if label_anchors.ndim != 2 or len(label_names) != len(label_anchors):
        raise ValueError(
            f"`label_names` must hold a name for each label anchor (C, D), got {len(label_names)} for {tuple(label_anchors.shape)}."
        )
    pictures = None if images is None else to_pil_images(images)
    for name, values in (("images", pictures), ("row_names", row_names)):
        if values is not None and len(values) != len(latents):
            raise ValueError(f"`{name}` must hold {len(latents)}, one for each latent, got {len(values)}.")
    probs = assignments_along_flow(
        latents, label_anchors, np.linspace(0, end, num_times).tolist(), solver=solver, num_steps=num_steps
    )

    columns = min(columns, len(latents))
    rows, count = math.ceil(len(latents) / columns), len(label_names)
    panel_width, panel_height = 1.7, max(1.3, min(2.6, 0.14 * count))
    name_height = 0.24 if row_names is not None else 0.04
    head = 0.12 + name_height + (0.5 if pictures is not None else 0)
    left, bottom, gap = 0.3 + 0.085 * max(map(len, label_names)), 0.5, 0.18
    top = 0.4 if title else 0.1
    width = left + columns * (panel_width + gap) + 0.75
    height = top + rows * (panel_height + head) + bottom
    figure = new_figure(width, height)
    ticks = range(0, count, math.ceil(0.13 * count / panel_height))  # every name, or every other, ...
    for number, own in enumerate(probs.numpy()):
        row, column = divmod(number, columns)
        x, y = left + column * (panel_width + gap), height - top - (row + 1) * (panel_height + head)
        axes = figure.add_axes((x / width, y / height, panel_width / width, panel_height / height))
        extent = (0, end, count - 0.5, -0.5)
        picture = axes.imshow(
            own.T, cmap=COLOURS, vmin=0, vmax=1, aspect="auto", interpolation="nearest", extent=extent
        )
        axes.set_yticks(ticks, [label_names[tick] for tick in ticks] if column == 0 else [""] * len(ticks), fontsize=8)
        below = number + columns >= len(latents)
        axes.set_xticks([0, end / 2, end], ["0", f"{end / 2:g}", f"{end:g}"] if below else [""] * 3, fontsize=8)
        axes.tick_params(length=2, color="0.5")
        if below:
            axes.set_xlabel("time", fontsize=8, color="0.25")
        if row_names is not None:
            axes.set_title(row_names[number], fontsize=FONT_SIZE, pad=3)
        if pictures is not None:
            place = (x + panel_width / 2 - 0.225, y + panel_height + name_height)
            inset = figure.add_axes((place[0] / width, place[1] / height, 0.45 / width, 0.45 / height))
            inset.imshow(np.asarray(pictures[number].convert("RGB")), interpolation="antialiased")
            inset.axis("off")
    _draw_scale(
        figure, picture, 1 - 0.65 / width, (height - top - panel_height - head) / height, panel_height / height, width
    )
    figure.text(0.12 / width, 1 - 0.12 / height, title, va="top", fontsize=11)
    return figure


def assignments_along_flow(
    latents: Tensor, label_anchors: Tensor, times: Sequence[float], *, solver: str, num_steps: int
) -> Tensor:
    """Probabilities `(N, T, C)` of the label zones at T times, in float64 on the CPU: those that a flow gives which ends then.

    Args:
        latents, label_anchors, solver, num_steps: of [`trace_assignments`].
        times (list of T `float`): the times in [0, 1]. At time 0 all labels are equally probable.
    """
    latents, label_anchors = latents.detach().cpu(), label_anchors.detach().cpu()
    start = latents.new_full((len(latents), len(label_anchors)), 1 / len(label_anchors)).double()
    found = [start] * len(times)
    for number, time in enumerate(times):
        if time > 0:
            _, log_probs = trace_assignments(latents, label_anchors, solver=solver, num_steps=num_steps, end=time)
            found[number] = log_probs[-1].double().exp()
    return torch.stack(found, dim=1)


def _draw_scale(figure: Figure, picture: Any, left: float, bottom: float, height: float, width: float) -> None:
    """The scale of the colours, on the right."""
    axes = figure.add_axes((left, bottom, 0.13 / width, height))
    figure.colorbar(picture, cax=axes, ticks=[0, 0.5, 1])
    axes.tick_params(labelsize=8)
    axes.set_ylabel("probability", fontsize=8, color="0.25")


def _check_log_probs(log_probs: Tensor, label_names: Sequence[str]) -> None:
    check_rows(
        "log_probs", log_probs.nan_to_num(nan=math.nan, neginf=-1e3) if log_probs.is_floating_point() else log_probs
    )
    if log_probs.shape[1] != len(label_names):
        raise ValueError(
            f"`label_names` must hold {log_probs.shape[1]} names, one for each label, got {len(label_names)}."
        )
    if log_probs.max() > 1e-4:
        raise ValueError(
            f"`log_probs` must be logarithms of probabilities, at most 0, got {log_probs.max().item():.3g}."
        )


__all__ = ["assignments_along_flow", "plot_assignment_flow", "plot_assignments"]
