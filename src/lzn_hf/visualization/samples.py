# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images with their labels, and the way from noise to images, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from .figures import new_figure
from .grids import check_grid, to_pil_images, trajectory_cells


if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 0.75  # inches of the shorter side of an image
GAP = 0.05  # inches between two images
LINE = 0.19  # inches of a line of text of FONT_SIZE
LETTER = 0.08
FONT_SIZE = 9


def plot_samples(
    images: Sequence[Image.Image] | Tensor,
    columns: int = 10,
    *,
    captions: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str = "",
    xlabel: str = "",
) -> Figure:
    """Plots images of one size side by side, row by row, with texts.

    Args:
        images (list of PIL images, or `Tensor` of shape `(N, C, H, W)`): as of [`image_grid`].
        columns (`int`, *optional*, defaults to 10): images in a row.
        captions (list of `str`, *optional*): text above each image, of one or more lines.
        row_labels (list of `str`, *optional*): text to the left of each row.
        column_labels (list of `str`, *optional*): text above each column.
        title (`str`, *optional*, defaults to `""`): heading.
        xlabel (`str`, *optional*, defaults to `""`): text below all columns.

    Returns:
        `Figure`: 80 pixels or more an image. Images have sharp pixels if they are enlarged.

    Raises:
        ValueError: as [`image_grid`], and for a number of `captions` that is not that of the images.
    """
    cells = to_pil_images(images)
    columns = min(columns, max(len(cells), 1)) if column_labels is None else columns
    rows = check_grid(cells, columns, row_labels, column_labels)
    if captions is not None and len(captions) != len(cells):
        raise ValueError(f"`captions` must hold one text for each of the {len(cells)} images, got {len(captions)}.")

    # Everything in inches, from the upper left corner.
    scale = CELL / min(cells[0].size)
    width, height = (scale * side for side in cells[0].size)
    lines = max((text.count("\n") + 1 for text in captions or ()), default=0)
    left = 0.12 + (0.08 + LETTER * max(len(text) for text in row_labels) if row_labels else 0)
    top = 0.1 + (0.3 if title else 0) + (LINE if column_labels else 0)
    right, bottom = 0.12, 0.12 + (LINE if xlabel else 0)
    across, down = width + GAP, height + GAP + lines * LINE
    total_width = max(left + columns * across - GAP + right, 0.24 + 1.3 * LETTER * len(title))
    total_height = top + rows * down - GAP + bottom
    figure = new_figure(total_width, total_height, dpi=max(100, round(max(cells[0].size) / max(width, height) / 2)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, total_width), ylim=(total_height, 0))
    axes.axis("off")
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        x, y = left + column * across, top + row * down + lines * LINE
        pixels = np.asarray(cell.convert("RGB"))
        axes.imshow(pixels, extent=(x, x + width, y + height, y), aspect="auto", interpolation="antialiased")
        if captions is not None:
            axes.text(x + width / 2, y - 0.03, captions[number], ha="center", va="bottom", fontsize=FONT_SIZE)
    for row, text in enumerate(row_labels or ()):
        y = top + row * down + lines * LINE + height / 2
        axes.text(left - 0.08, y, text, ha="right", va="center", fontsize=FONT_SIZE)
    for column, text in enumerate(column_labels or ()):
        axes.text(left + column * across + width / 2, top - 0.04, text, ha="center", va="bottom", fontsize=FONT_SIZE)
    axes.set(xlim=(0, total_width), ylim=(total_height, 0))  # `imshow` has moved them
    axes.text(0.12, 0.08, title, va="top", fontsize=11)
    middle = left + (columns * across - GAP) / 2
    axes.text(middle, total_height - 0.07, xlabel, ha="center", va="bottom", fontsize=FONT_SIZE, color="0.25")
    return figure


def plot_trajectory(
    trajectory: Tensor,
    times: Sequence[float],
    columns: int = 11,
    *,
    row_labels: Sequence[str] | None = None,
    title: str = "From noise to images",
) -> Figure:
    """Plots samples along the flow from noise to images: one row per image, the times from left to right.

    Args:
        trajectory (`Tensor` of shape `(S, B, C, H, W)`): of a pipeline called with `return_trajectory=True`.
        times (list of S `float`): its times, 0 for noise and 1 for images.
        columns (`int`, *optional*, defaults to 11): samples of each image, see [`trajectory_strip`].
        row_labels (list of B `str`, *optional*): text to the left of each row, such as its label.
        title (`str`, *optional*, defaults to `"From noise to images"`): heading.

    Returns:
        `Figure`: see [`plot_samples`].

    Raises:
        ValueError: as [`trajectory_strip`] and [`plot_samples`].
    """
    images, texts = trajectory_cells(trajectory, times, columns)
    xlabel = "time of the flow, from noise (0) to images (1)"
    return plot_samples(images, len(texts), row_labels=row_labels, column_labels=texts, title=title, xlabel=xlabel)


__all__ = ["plot_samples", "plot_trajectory"]
