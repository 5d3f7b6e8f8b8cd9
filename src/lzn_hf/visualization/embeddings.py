# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A two-dimensional map of embeddings, with similar images close together.

`matplotlib` and `scikit-learn` are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .figures import PALETTE, check_labels, check_rows, finish_map, load_library, new_figure, palette_colours


if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_COMPONENTS = 50  # principal components as input of t-SNE
PERPLEXITY = 30
MARKERS = "osD^vP*X"  # with ten colours: different dots for 80 labels
CELL = 0.05  # side of a cell with a thumbnail, relative to the map


def map_to_plane(features: Tensor, *, seed: int = 0) -> np.ndarray:
    """Places features `(N, F)` at points `(N, 2)` in [0, 1] by t-SNE (van der Maaten and Hinton, 2008) of their directions.

    Rows are divided by their norm, so neighbours are those of the cosine similarity, as in
    [`evaluation.probes.knn_accuracy`]; they are reduced to 50 principal components and placed by t-SNE with
    perplexity 30 (less for fewer than 91 rows), which starts from the first two components. Such a map shows groups and
    neighbours; distances between groups and their sizes have no meaning.

    Raises:
        ValueError: for anything but finite floating point `(N, F)` with at least 4 rows that are not all the same.
    """
    check_rows("features", features)
    if len(features) < 4:
        raise ValueError(f"`features` must have at least 4 rows, got {len(features)}.")

    decomposition, manifold = (load_library(f"sklearn.{name}", "eval") for name in ("decomposition", "manifold"))
    rows = F.normalize(features.detach().cpu().double(), dim=1).numpy()
    if np.ptp(rows, axis=0).max() < 1e-12:
        raise ValueError("`features` must not all have the same direction: there is nothing to place.")
    count, size = rows.shape
    if size > 2:
        rows = decomposition.PCA(min(NUM_COMPONENTS, count, size), svd_solver="full").fit_transform(rows)
    perplexity = min(PERPLEXITY, (count - 1) / 3)
    init = "pca" if rows.shape[1] > 1 else "random"
    points = manifold.TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(rows)
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) / (high - low).max() + 0.5


def plot_embeddings(
    features: Tensor,
    labels: Tensor,
    label_names: Sequence[str],
    *,
    images: Tensor | None = None,
    title: str = "Map of the embeddings",
    what: str = "images",
    seed: int = 0,
) -> Figure:
    """Draws features as dots in the colours of their labels, placed by [`map_to_plane`], with names in the middle of groups.

    Args:
        features (`Tensor` of shape `(N, F)`): see [`map_to_plane`]; 2,000 rows take about 10 s.
        labels (`Tensor` of shape `(N,)`): whole numbers; they do not affect the places.
        label_names (list of `str`): a name for each label id.
        images (`Tensor` of shape `(N, C, H, W)`, *optional*): the images, `uint8` with 1 or 3 channels; some are shown
            in empty places, with a frame in the colour of their label and a line to their dot.
        title (`str`, *optional*): heading.
        what (`str`, *optional*, defaults to `"images"`): name of the dots in the caption.
        seed (`int`, *optional*, defaults to 0): seed of t-SNE.

    Returns:
        `Figure`: 1200 x 1050 pixels.

    Raises:
        ValueError: as [`map_to_plane`], or if labels, names or images do not fit.
    """
    count = len(features)
    check_rows("features", features)
    check_labels(labels, count, label_names)
    if images is not None and (
        images.dtype != torch.uint8 or images.ndim != 4 or len(images) != count or images.shape[1] not in (1, 3)
    ):
        raise ValueError(
            f"`images` must be uint8 ({count}, C, H, W) with 1 or 3 channels, got {images.dtype} of shape "
            f"{tuple(images.shape)}."
        )

    effects = load_library("matplotlib.patheffects", "train")
    points, label_ids, colours = (
        map_to_plane(features, seed=seed),
        labels.cpu().numpy(),
        palette_colours(len(label_names)),
    )
    figure = new_figure(12, 10.5)
    axes = figure.add_axes((0.01, 0.08, 0.80, 0.86))
    shown = np.unique(label_ids)
    for label in shown:
        marker = MARKERS[label // len(PALETTE) % len(MARKERS)]
        style = {"color": colours[label], "marker": marker, "linewidths": 0.4, "edgecolors": "white"}
        x, y = points[label_ids == label].T
        axes.scatter(x, y, s=24, zorder=2, **style)
        axes.scatter([], [], s=60, label=label_names[label], **style)
    if images is not None:
        _draw_thumbnails(axes, points, images.permute(0, 2, 3, 1).cpu().numpy(), colours[label_ids])
    for label in shown if len(shown) <= 3 * len(PALETTE) else ():
        x, y = _middle(points[label_ids == label])
        text = axes.text(x, y, label_names[label], ha="center", va="center", fontsize=13, fontweight="bold", zorder=4)
        text.set(color=0.6 * colours[label], path_effects=[effects.withStroke(linewidth=3, foreground="white")])
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), aspect="equal")
    caption = (
        f"{count:,} {what}, placed by t-SNE of the directions of their features, without their labels. Near dots are images "
        "that the model finds alike; distances between groups and the sizes of groups mean nothing."
    )
    finish_map(
        figure,
        axes,
        title=title,
        caption=caption,
        caption_height=0.045,
        num_entries=len(shown),
        entries_per_column=30,
    )
    return figure


def _middle(points: np.ndarray) -> np.ndarray:
    """The point with the most others around it; the mean of several groups would be in none of them."""
    squares = ((points[:, None] - points) ** 2).sum(-1)
    return points[(squares < 0.05**2).sum(1).argmax()]


def _draw_thumbnails(axes, points: np.ndarray, images: np.ndarray, colours: np.ndarray) -> None:
    """Shows images in empty cells of a grid over the map, each the nearest one not shown yet, with a line to its dot."""
    from matplotlib.patches import Rectangle

    count = round(1 / CELL) + 2  # one more cell on each side
    taken = np.zeros((count, count), dtype=bool)
    taken[tuple((points / CELL).astype(int).T + 1)] = True
    left = np.arange(len(points))
    half = 0.44 * CELL
    for cell in np.argwhere(~taken):
        x, y = (cell - 0.5) * CELL
        distances = np.hypot(*(points[left] - (x, y)).T)
        if not len(left) or distances.min() > 1.5 * CELL:
            continue
        nearest = distances.argmin()
        row, left = left[nearest], np.delete(left, nearest)
        colour, image = colours[row], images[row]
        axes.plot(*np.stack([(x, y), points[row]], axis=1), color=colour, linewidth=0.8, zorder=1)
        axes.imshow(
            image[..., 0] if image.shape[-1] == 1 else image,
            extent=(x - half, x + half, y - half, y + half),
            cmap="gray",
            vmin=0,
            vmax=255,
            zorder=1.5,
        )
        axes.add_patch(
            Rectangle((x - half, y - half), 2 * half, 2 * half, fill=False, edgecolor=colour, linewidth=2, zorder=1.6)
        )


__all__ = ["map_to_plane", "plot_embeddings"]
