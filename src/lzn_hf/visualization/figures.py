# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Parts of figures. `matplotlib` is imported where it is used, without pyplot: no screen and no global state is needed."""

from __future__ import annotations

import importlib
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Petroff (arXiv 2107.02270): ten colours that people with colour-vision deficiencies can tell apart.
PALETTE = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip


def load_library(module: str, extra: str) -> Any:
    """Imports a module that only an extra of this package brings.

    Args:
        module, extra (`str`): the names of the module and of the extra.

    Raises:
        ImportError: if it is not installed. The message says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name != library:
            raise
        raise ImportError(
            f'this picture needs {library}, which is not installed: pip install "lzn_hf[{extra}]"', name=library
        ) from error


def new_figure(width: float, height: float, dpi: int = 100) -> Figure:
    """An empty white figure.

    Args:
        width, height, dpi: its size in inches, and pixels per inch.
    """
    figure = load_library("matplotlib.figure", "train")
    return figure.Figure(figsize=(width, height), dpi=dpi, facecolor="white")


def draw_figure(figure: Figure) -> Image.Image:
    """A figure as an RGB image, `figure.get_size_inches() * figure.dpi` pixels large. Its pixels, saved, hold no date and no version."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def palette_colours(count: int) -> np.ndarray:
    """RGB colours `(count, 3)` in [0, 1], which repeat after ten."""
    to_rgb = load_library("matplotlib.colors", "train").to_rgb
    return np.array([to_rgb(PALETTE[number % len(PALETTE)]) for number in range(count)])


def finish_map(
    figure: Figure,
    axes: Axes,
    *,
    title: str,
    caption: str,
    caption_height: float,
    num_entries: int,
    entries_per_column: int,
) -> None:
    """Adds a legend on the right, a title and a caption to a map.

    Args:
        figure (`Figure`): the figure of the map.
        axes (`Axes`): the map, with a label for each entry of the legend.
        title, caption (`str`): texts above and below.
        caption_height (`float`): middle of the caption, from 0 to 1.
        num_entries, entries_per_column (`int`): entries of the legend.
    """
    axes.axis("off")
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize=12,
        ncols=math.ceil(num_entries / entries_per_column),
        title="true label",
    )
    figure.text(0.5, 0.965, title, ha="center", va="center", fontsize=18)
    text = textwrap.fill(caption, width=130)
    figure.text(0.03, caption_height, text, ha="left", va="center", fontsize=11, color="0.25", linespacing=1.4)


def check_rows(name: str, rows: Tensor) -> None:
    """Raises a ValueError unless features or latents are finite floating point `(N, D)`, at least one row."""
    if rows.ndim != 2 or len(rows) == 0 or not rows.is_floating_point():
        raise ValueError(
            f"`{name}` must be floating point (N, D) and not empty, got {rows.dtype} of shape {tuple(rows.shape)}."
        )
    if not torch.isfinite(rows).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinite values.")


def check_labels(labels: Tensor, count: int, label_names: Sequence[str]) -> None:
    """Raises a ValueError unless there is one label id with a name for each row.

    Args:
        labels, count, label_names: the label ids, the number of rows and the names.
    """
    if labels.shape != (count,) or labels.is_floating_point():
        raise ValueError(
            f"`labels` must be whole numbers of shape ({count},), got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    if labels.min() < 0 or labels.max() >= len(label_names):
        raise ValueError(
            f"`labels` must be in 0..{len(label_names) - 1} as there are {len(label_names)} names, got "
            f"{labels.min().item()}..{labels.max().item()}."
        )


__all__ = [
    "PALETTE",
    "check_labels",
    "check_rows",
    "draw_figure",
    "finish_map",
    "load_library",
    "new_figure",
    "palette_colours",
]
