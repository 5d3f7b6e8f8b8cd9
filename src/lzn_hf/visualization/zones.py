# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The latent space of a model as a picture: zones of the labels, and latents in them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..latent_zones import trace_assignments
from .grids import PALETTE


CHUNK = 2048  # latents traced at once: (steps, CHUNK, labels) stays small for a thousand labels
EDGE = 1.02  # half the side of the background, a little more than the disk
NEIGHBOURS = 25  # prior samples that vote on the colour of a background pixel


class ZoneWheel:
    """A map of the latent space to the unit disk in which the label zones are wedges.

    No plane through the latent space can show C zones: they differ in C - 1 directions. So a latent is placed by what
    the flow to the label anchors says about it, the mean over the flow of its assignment probabilities p:

    - direction of sum_c p_c v_c, with the labels' corners v_c around a circle, zones that compete for the same latents
      next to each other: the zones it leans to. Directions are replaced by their ranks among prior samples, so an
      angle is a share of the prior.
    - length of that sum: how early it was decided, replaced by its rank among the prior samples of its own zone.

    So prior noise fills the disk, with no more mass in one direction than in another; a hole is a part of the prior
    that is not used.

    Args:
        label_anchors (`Tensor` of shape `(C, D)`): at least three.
        solver, num_steps: of the flow, see [`trace_assignments`]; those of the model make its zones.
        num_prior_samples (`int`, *optional*, defaults to 20000): prior samples that the ranks refer to.
        seed (`int`, *optional*, defaults to 0): draws them.

    Raises:
        ValueError: for fewer than three label anchors, or arguments that [`trace_assignments`] refuses.
    """

    def __init__(
        self,
        label_anchors: Tensor,
        *,
        solver: str = "adams",
        num_steps: int = 20,
        num_prior_samples: int = 20_000,
        seed: int = 0,
    ):
        if label_anchors.ndim != 2 or len(label_anchors) < 3:
            raise ValueError(
                f"`label_anchors` must be (C, D) with at least 3 labels, got {tuple(label_anchors.shape)}."
            )
        if num_prior_samples < 1:
            raise ValueError(f"`num_prior_samples` must be at least 1, got {num_prior_samples}.")
        self.label_anchors = label_anchors.detach().float().cpu()
        self.solver, self.num_steps = solver, num_steps
        num_labels, dim = self.label_anchors.shape
        prior = torch.randn(num_prior_samples, dim, generator=torch.Generator().manual_seed(seed))
        shares, self.prior_zones = self._trace(prior)
        position = np.empty(num_labels)
        position[_chain(shares.T @ shares)] = np.arange(num_labels)
        angle = 2 * np.pi * position / num_labels
        self.corners = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        angles, lengths = self._polar(shares)
        self._sorted_angles = np.sort(angles)
        self._sorted_lengths = [np.sort(lengths[self.prior_zones == zone]) for zone in range(num_labels)]
        self.prior_points = self._place(shares, self.prior_zones)

    def place(self, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Points in the disk `(N, 2)` and zones `(N,)`, as label ids, of latents `(N, D)`."""
        shares, zones = self._trace(latents.detach().float().cpu())
        return self._place(shares, zones), zones

    def _trace(self, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Mean assignment probabilities over the flow `(N, C)`, and the zones that it ends in `(N,)`."""
        shares, zones = [], []
        for chunk in latents.split(CHUNK):
            _, log_probs = trace_assignments(chunk, self.label_anchors, solver=self.solver, num_steps=self.num_steps)
            shares.append(log_probs.exp().mean(0))
            zones.append(log_probs[-1].argmax(-1))
        return torch.cat(shares).double().numpy(), torch.cat(zones).numpy()

    def _polar(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = shares @ self.corners
        return np.arctan2(points[:, 1], points[:, 0]), np.hypot(points[:, 0], points[:, 1])

    def _place(self, shares: np.ndarray, zones: np.ndarray) -> np.ndarray:
        angles, lengths = self._polar(shares)
        angle = 2 * np.pi * np.searchsorted(self._sorted_angles, angles) / len(self._sorted_angles)
        radius = np.empty(len(zones))
        for zone in np.unique(zones):
            reference, rows = self._sorted_lengths[zone], zones == zone
            radius[rows] = np.sqrt((np.searchsorted(reference, lengths[rows]) + 0.5) / (len(reference) + 1))
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def plot_zones(
    latents: Tensor,
    labels: Tensor,
    label_anchors: Tensor,
    label_names: Sequence[str],
    *,
    solver: str = "adams",
    num_steps: int = 20,
    num_prior_samples: int = 20_000,
    seed: int = 0,
    title: str = "Latent zones",
    what: str = "images",
) -> Image.Image:
    """Latents as dots in the colour of their label, and behind them the label zones, on a [`ZoneWheel`].

    The background is what zone prior samples near a place lie in, paler where they disagree. Latents in the zone of
    another label are ringed and counted in the legend: this picture hides no mistakes.

    Args:
        latents (`Tensor` of shape `(N, D)`): latents of samples.
        labels (`Tensor` of shape `(N,)`): their true labels.
        label_anchors (`Tensor` of shape `(C, D)`): what makes the zones.
        label_names (list of `str`): the names of the C labels.
        solver, num_steps, num_prior_samples, seed: see [`ZoneWheel`].
        title, what (`str`, *optional*): the heading, and what the samples are, for the caption.

    Returns:
        `PIL.Image.Image`: 1200 x 1050 pixels, RGB.

    Raises:
        ValueError: if shapes do not fit, latents are not finite, or there are fewer than three labels.
    """
    if latents.ndim != 2 or len(latents) == 0 or latents.shape[1:] != label_anchors.shape[1:]:
        raise ValueError(
            f"`latents` must be (N, {label_anchors.shape[-1]}) and not empty, got {tuple(latents.shape)}."
        )
    if not torch.isfinite(latents).all():
        raise ValueError("`latents` must be finite, got NaN or infinite values.")
    if labels.shape != latents.shape[:1]:
        raise ValueError(
            f"`labels` must have shape ({len(latents)},), one for each latent, got {tuple(labels.shape)}."
        )
    if len(label_names) != len(label_anchors):
        raise ValueError(
            f"`label_names` must hold {len(label_anchors)} names, one a label anchor, got {len(label_names)}."
        )
    if ((labels < 0) | (labels >= len(label_anchors))).any():
        raise ValueError(f"`labels` must be in 0..{len(label_anchors) - 1}, got {labels.min()}..{labels.max()}.")

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    wheel = ZoneWheel(
        label_anchors, solver=solver, num_steps=num_steps, num_prior_samples=num_prior_samples, seed=seed
    )
    points, zones = wheel.place(latents)
    labels = labels.cpu().numpy()
    colours = np.array([to_rgb(PALETTE[label % len(PALETTE)]) for label in range(len(label_names))])

    figure = Figure(figsize=(12, 10.5), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)  # no pyplot: no screen, no global state
    axes = figure.add_axes((0.01, 0.1, 0.76, 0.84))
    axes.imshow(
        _background(wheel, colours), origin="lower", extent=(-EDGE, EDGE, -EDGE, EDGE), interpolation="bilinear"
    )
    for wrong in (False, True):  # the ringed ones on top
        rows = (zones != labels) == wrong
        axes.scatter(
            *points[rows].T,
            c=0.85 * colours[labels[rows]],
            s=46 if wrong else 22,
            linewidths=1.6 if wrong else 0.5,
            edgecolors="black" if wrong else "white",
        )
    for zone, name in enumerate(label_names):
        members = wheel.prior_points[wheel.prior_zones == zone]
        if len(members):  # a zone with no mass has no place
            x, y = members.mean(0) / np.hypot(*members.mean(0)) * 1.06
            axes.text(x, y, name, ha="center", va="center", fontsize=16, fontweight="bold", color=0.75 * colours[zone])
    axes.set(xlim=(-1.12, 1.12), ylim=(-1.12, 1.12), aspect="equal")
    axes.axis("off")

    for label in np.unique(labels):
        axes.scatter([], [], color=0.85 * colours[label], s=60, label=label_names[label])
    ringed = f"in another label's\nzone ({(zones != labels).sum()} of {len(labels)})"
    axes.scatter([], [], s=60, facecolors="none", edgecolors="black", linewidths=1.6, label=ringed)
    legend_columns = math.ceil((len(np.unique(labels)) + 1) / 24)
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize=12,
        ncols=legend_columns,
        title="true label",
    )
    figure.text(0.5, 0.965, title, ha="center", va="center", fontsize=18)
    caption = textwrap.fill(
        f"Dots: latents of {len(labels):,} {what}. Background: the label zone of prior noise at that place, paler where "
        "zones mix in this picture. Angle: the zones that a latent leans to, as a share of the prior, so a wedge is as "
        "wide as its zone is probable. Outwards: decided earlier on the way to the label anchors (rank within its zone). "
        "Prior noise fills the disk in all directions alike.",
        width=130,
    )
    figure.text(0.03, 0.055, caption, ha="left", va="center", fontsize=11, color="0.25", linespacing=1.4)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _background(wheel: ZoneWheel, colours: np.ndarray, size: int = 400) -> np.ndarray:
    """The disk `(size, size, 3)` in [0, 1]: colours of most of the nearest prior samples, paler with less of them."""
    from scipy.spatial import cKDTree

    axis = ((np.arange(size) + 0.5) / size * 2 - 1) * EDGE
    pixels = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    inside = np.hypot(*pixels.T) <= 1
    nearest = wheel.prior_zones[
        cKDTree(wheel.prior_points).query(pixels[inside], k=min(NEIGHBOURS, len(wheel.prior_zones)))[1]
    ]
    nearest = np.sort(nearest.reshape(inside.sum(), -1), axis=1)
    # In sorted votes, the length of the run that ends at each vote; the longest run is the majority.
    run = np.ones(nearest.shape, dtype=int)
    for column in range(1, nearest.shape[1]):
        run[:, column] += run[:, column - 1] * (nearest[:, column] == nearest[:, column - 1])
    rows = np.arange(len(nearest))
    best = run.argmax(1)
    strength = 0.5 * (run[rows, best] / nearest.shape[1])[:, None]
    image = np.ones((size * size, 3))
    image[inside] = strength * colours[nearest[rows, best]] + (1 - strength)
    return image.reshape(size, size, 3)


def _chain(similarity: np.ndarray) -> list[int]:
    """An order of the rows of `(C, C)` with similar ones side by side: each time the most similar one that is left."""
    order, left = [0], set(range(1, len(similarity)))
    while left:
        order.append(max(sorted(left), key=lambda label: similarity[order[-1], label]))
        left.remove(order[-1])
    return order


__all__ = ["ZoneWheel", "plot_zones"]
