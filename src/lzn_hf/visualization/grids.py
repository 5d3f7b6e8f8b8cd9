# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Grids, comparisons and strips of images. Every function returns a PIL image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..checks_lzn import check_at_least
from ..image_processing_lzn import LZNImageProcessor


GAP = 2  # pixels between the cells of a grid


def image_grid(
    images: Sequence[Image.Image] | Tensor,
    columns: int,
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    min_cell_size: int = 32,
) -> Image.Image:
    """Puts images of one size side by side, row by row, on white with thin gaps.

    Args:
        images (list of PIL images, or `Tensor` of shape `(N, C, H, W)` with C 1 or 3): tensors are `uint8`, or
            floating point in [-1, 1] (other values are clipped). A last row that is not full ends in white.
        columns (`int`): images in a row.
        row_labels (list of `str`, *optional*): text to the left of each row.
        column_labels (list of `str`, *optional*): text above each column, in a smaller font where it is wider than the column.
        min_cell_size (`int`, *optional*, defaults to 32): smaller images are enlarged by a whole factor, without
            smoothing, until their shorter side has this many pixels.

    Returns:
        `PIL.Image.Image`: mode L if all images are grey, else RGB.

    Raises:
        ValueError: if there are no images, their sizes differ, the tensor is none of the above or has NaN, or the
            number of `row_labels` or `column_labels` is not that of the rows or columns.
    """
    check_at_least(1, min_cell_size=min_cell_size)
    cells = to_pil_images(images)
    rows = check_grid(cells, columns, row_labels, column_labels)

    factor = math.ceil(min_cell_size / min(cells[0].size)) if min(cells[0].size) < min_cell_size else 1
    width, height = (side * factor for side in cells[0].size)
    mode = "L" if all(cell.mode == "L" for cell in cells) else "RGB"
    font_size: float = max(10, min(height // 2, 24))
    font = ImageFont.load_default(font_size)
    left = 0 if row_labels is None else 4 * GAP + math.ceil(max(font.getlength(str(text)) for text in row_labels))
    top, small = 0, font
    if column_labels is not None:
        widest = max(font.getlength(str(text)) for text in column_labels)
        font_size = max(6, font_size * min(1, width / max(widest, 1)))
        small = ImageFont.load_default(font_size)
        top = math.ceil(font_size) + 2 * GAP
    size = (left + GAP + columns * (width + GAP), top + GAP + rows * (height + GAP))
    grid = Image.new(mode, size, "white")
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        cell = cell.convert(mode).resize((width, height), Image.Resampling.NEAREST)
        grid.paste(cell, (left + GAP + column * (width + GAP), top + GAP + row * (height + GAP)))
    draw = ImageDraw.Draw(grid)
    for row, text in enumerate(row_labels or ()):
        middle = top + GAP + row * (height + GAP) + height // 2
        draw.text((left - 2 * GAP, middle), str(text), fill="black", font=font, anchor="rm")
    for column, text in enumerate(column_labels or ()):
        middle = left + GAP + column * (width + GAP) + width // 2
        draw.text((middle, top // 2 + GAP // 2), str(text), fill="black", font=small, anchor="mm")
    return grid


def check_grid(
    images: Sequence[Image.Image],
    columns: int,
    row_labels: Sequence[str] | None,
    column_labels: Sequence[str] | None,
) -> int:
    """Returns the number of rows of a grid, or raises a ValueError for images or texts that do not fit one.

    Args:
        images, columns, row_labels, column_labels: of [`image_grid`].
    """
    check_at_least(1, columns=columns)
    if not images:
        raise ValueError("`images` must hold at least one image, got none.")
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        raise ValueError(f"`images` must all have one size, got {', '.join(f'{w}x{h}' for w, h in sizes)}.")
    rows = math.ceil(len(images) / columns)
    for name, texts, count in (("row", row_labels, rows), ("column", column_labels, columns)):
        if texts is not None and len(texts) != count:
            raise ValueError(f"`{name}_labels` must hold one text for each of the {count} {name}s, got {len(texts)}.")
    return rows


def comparison_grid(
    images_by_name: Mapping[str, Sequence[Image.Image] | Tensor], columns: int = 10, *, min_cell_size: int = 32
) -> Image.Image:
    """A grid with corresponding images in one column: `{"original": ..., "reconstruction": ...}` makes pairs of rows.

    Args:
        images_by_name (`dict` of `str` to images): equally many images under each name, see [`image_grid`]; names are
            written to the left.
        columns (`int`, *optional*, defaults to 10): images in a row.
        min_cell_size (`int`, *optional*, defaults to 32): see [`image_grid`].

    Returns:
        `PIL.Image.Image`: see [`image_grid`].

    Raises:
        ValueError: as [`image_grid`], and if the numbers of images differ.
    """
    check_at_least(1, columns=columns)
    stacks = {name: to_pil_images(images) for name, images in images_by_name.items()}
    counts = {name: len(stack) for name, stack in stacks.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"`images_by_name` must hold as many images under each name, at least one, got {counts}.")
    length = next(iter(counts.values()))
    cells, row_labels = [], []
    for start in range(0, length, columns):
        for name, stack in stacks.items():
            row = stack[start : start + columns]
            blank = Image.new(row[0].mode, row[0].size, "white")
            cells += row + [blank] * (columns - len(row))
            row_labels.append(name)
    return image_grid(cells, columns, row_labels=row_labels, min_cell_size=min_cell_size)


def trajectory_strip(
    trajectory: Tensor, times: Sequence[float], columns: int = 11, *, min_cell_size: int = 32
) -> Image.Image:
    """Samples along the flow from noise to images: one row per image, with (some of) the times from left to right.

    Args:
        trajectory (`Tensor` of shape `(S, B, C, H, W)`): of a pipeline called with `return_trajectory=True`.
        times (list of S `float`): its times, which are written above the columns.
        columns (`int`, *optional*, defaults to 11): samples of each image, at least 2, at even distances from the first to
            the last; all of them if there are no more.
        min_cell_size (`int`, *optional*, defaults to 32): see [`image_grid`].

    Returns:
        `PIL.Image.Image`: see [`image_grid`].

    Raises:
        ValueError: as [`image_grid`], and if the numbers of times and samples differ.
    """
    images, texts = trajectory_cells(trajectory, times, columns)
    return image_grid(images, len(texts), column_labels=texts, min_cell_size=min_cell_size)


def trajectory_cells(trajectory: Tensor, times: Sequence[float], columns: int) -> tuple[Tensor, list[str]]:
    """Returns the images `(B x columns, C, H, W)` of [`trajectory_strip`], row by row, and the texts of their times.

    Args:
        trajectory, times, columns: of [`trajectory_strip`].

    Raises:
        ValueError: as [`trajectory_strip`].
    """
    check_at_least(2, columns=columns)
    if trajectory.ndim != 5 or len(trajectory) < 2:
        raise ValueError(f"`trajectory` must be (S, B, C, H, W) with S at least 2, got {tuple(trajectory.shape)}.")
    if len(times) != len(trajectory):
        raise ValueError(f"`times` must hold one time for each of the {len(trajectory)} samples, got {len(times)}.")
    wanted = torch.linspace(0, len(times) - 1, min(columns, len(times)), dtype=torch.float64)
    shown = wanted.round().long().tolist()
    images = trajectory[shown].transpose(0, 1).flatten(0, 1)
    return images, [f"{times[step]:.2f}".rstrip("0").rstrip(".") for step in shown]


def to_pil_images(images: Sequence[Image.Image] | Tensor) -> list[Image.Image]:
    """Images as [`image_grid`] takes them, as a list of PIL images; raises a ValueError for other tensors."""
    if not isinstance(images, Tensor):
        return list(images)
    if (
        images.ndim != 4
        or images.shape[1] not in (1, 3)
        or not (images.dtype == torch.uint8 or images.is_floating_point())
    ):
        raise ValueError(
            "`images` must be a uint8 or floating point tensor (N, C, H, W) with 1 or 3 channels, "
            f"got {images.dtype} of shape {tuple(images.shape)}."
        )
    if images.is_floating_point():
        if not torch.isfinite(images).all():
            raise ValueError("`images` must be finite, got NaN or infinite values.")
    else:
        images = images / 127.5 - 1
    return cast(list[Image.Image], LZNImageProcessor().postprocess(images))


__all__ = ["comparison_grid", "image_grid", "trajectory_strip"]
