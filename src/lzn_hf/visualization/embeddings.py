# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A two-dimensional map of embeddings, in which images that are alike lie together.

`matplotlib` and `scikit-learn` are imported where they are used, and nothing needs a screen.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .grids import PALETTE


NUM_COMPONENTS = 50  # principal components that the map is made from
PERPLEXITY = 30
MARKERS = "osD^vP*X"  # together with the colours: as many different dots as 8 x 10 labels
CELL = 0.05  # side of a cell with a thumbnail, as a share of the map's


def map_to_plane(features: Tensor, *, seed: int = 0) -> np.ndarray:
    """Points `(N, 2)` in [0, 1] for features `(N, F)`: t-SNE (van der Maaten and Hinton, 2008) of their directions.

    Rows are divided by their norm, so that neighbours are those of the cosine similarity, as in
    [`evaluation.probes.knn_accuracy`]; they are reduced to 50 principal components and placed by t-SNE with
    perplexity 30 (less for fewer than 91 rows), which starts from the first two components. Groups and neighbours mean
    something in such a map; distances between groups and their sizes do not.

    Raises:
        ValueError: for anything but finite floating point `(N, F)` with at least 4 rows that are not all the same.
    """
    if features.ndim != 2 or len(features) < 4 or not features.is_floating_point():
        raise ValueError(
            f"`features` must be floating point (N, F) with N > 3, got {features.dtype} of shape {tuple(features.shape)}."
        )
    if not torch.isfinite(features).all():
        raise ValueError("`features` must be finite, got NaN or infinite values.")

    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = F.normalize(features.detach().cpu().double(), dim=1).numpy()
    if np.ptp(rows, axis=0).max() < 1e-12:
        raise ValueError("`features` must not all have the same direction: there is nothing to place.")
    count, size = rows.shape
    if size > 2:
        rows = PCA(min(NUM_COMPONENTS, count, size), svd_solver="full").fit_transform(rows)
    perplexity = min(PERPLEXITY, (count - 1) / 3)
    init = "pca" if rows.shape[1] > 1 else "random"
    points = TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(rows)
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
) -> Image.Image:
    """Features as dots in the colour of their label, at their [`map_to_plane`], with names at the groups' middles.

    Args:
        features (`Tensor` of shape `(N, F)`): see [`map_to_plane`]; 2,000 rows take about 10 s.
        labels (`Tensor` of shape `(N,)`): int64; the map knows nothing of them.
        label_names (list of `str`): a name for each label id.
        images (`Tensor` of shape `(N, C, H, W)`, *optional*): the images, `uint8` with 1 or 3 channels; some are shown
            where there are no dots, in the colour of their label, with a line to their dot.
        title, what (`str`, *optional*): heading, and what the dots are, for the caption.
        seed (`int`, *optional*, defaults to 0): of t-SNE.

    Returns:
        `PIL.Image.Image`: 1200 x 1050 pixels, mode RGB.

    Raises:
        ValueError: as [`map_to_plane`], or if labels, names or images do not fit.
    """
    count = len(features)
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise ValueError(
            f"`labels` must be int64 of shape ({count},), got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    if count and not (labels.min() >= 0 and labels.max() < len(label_names)):
        raise ValueError(
            f"`labels` must be in 0..{len(label_names) - 1} as there are {len(label_names)} names, got "
            f"{labels.min().item()}..{labels.max().item()}."
        )
    if images is not None and (
        images.dtype != torch.uint8 or images.ndim != 4 or len(images) != count or images.shape[1] not in (1, 3)
    ):
        raise ValueError(
            f"`images` must be uint8 ({count}, C, H, W) with 1 or 3 channels, got {images.dtype} of shape "
            f"{tuple(images.shape)}."
        )

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    points, labels = map_to_plane(features, seed=seed), labels.cpu().numpy()
    colours = np.array([to_rgb(PALETTE[label % len(PALETTE)]) for label in range(len(label_names))])
    figure = Figure(figsize=(12, 10.5), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)  # no pyplot: no screen, no global state
    axes = figure.add_axes((0.01, 0.08, 0.80, 0.86))
    shown = np.unique(labels)
    for label in shown:
        marker = MARKERS[label // len(PALETTE) % len(MARKERS)]
        style = {"color": colours[label], "marker": marker, "linewidths": 0.4, "edgecolors": "white"}
        axes.scatter(*points[labels == label].T, s=24, zorder=2, **style)
        axes.scatter([], [], s=60, label=label_names[label], **style)
    if images is not None:
        _draw_thumbnails(axes, points, images.permute(0, 2, 3, 1).cpu().numpy(), colours[labels])
    for label in shown if len(shown) <= 3 * len(PALETTE) else ():
        x, y = _middle(points[labels == label])
        text = axes.text(x, y, label_names[label], ha="center", va="center", fontsize=13, fontweight="bold", zorder=4)
        text.set(color=0.6 * colours[label], path_effects=[withStroke(linewidth=3, foreground="white")])
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), aspect="equal")
    axes.axis("off")
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize=12,
        ncols=math.ceil(len(shown) / 30),
        title="true label",
    )
    figure.text(0.5, 0.965, title, ha="center", va="center", fontsize=18)
    caption = textwrap.fill(
        f"{count:,} {what}, placed by t-SNE of the directions of their features, without their labels. Near dots are images "
        "that the model finds alike; distances between groups and the sizes of groups mean nothing.",
        width=130,
    )
    figure.text(0.03, 0.045, caption, ha="left", va="center", fontsize=11, color="0.25", linespacing=1.4)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _middle(points: np.ndarray) -> np.ndarray:
    """The point with the most others around it: of a label that is in several places, one of them."""
    squares = ((points[:, None] - points) ** 2).sum(-1)
    return points[(squares < 0.05**2).sum(1).argmax()]


def _draw_thumbnails(axes, points: np.ndarray, images: np.ndarray, colours: np.ndarray) -> None:
    """Images in empty cells of a grid over the map, each the nearest one not shown yet, with a line to its dot."""
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
