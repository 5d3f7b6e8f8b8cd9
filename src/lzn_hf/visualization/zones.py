# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The latent space of a model as a picture: zones of the labels, and latents in them.

`scipy` and `matplotlib` are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks_lzn import check_at_least
from ..latent_zones import trace_assignments
from .figures import check_labels, check_rows, finish_map, load_library, new_figure, palette_colours


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHUNK = 2048  # latents traced at once, if there are few labels
MAX_TRACED = 2**25  # probabilities held at once, (steps, latents, labels)
MIN_LABELS = 2
EDGE = 1.02  # half the side of the background, a little more than the disk
SHORT_NAME, LONG_NAME = 3, 12  # letters: names that fit between disk and edge, and what is left of longer ones
MAX_ENTRIES = 48  # labels in the legend
NEIGHBOURS = 25  # prior samples that vote on the colour of a background pixel


class ZoneWheel:
    """A map of the latent space to the unit disk in which the label zones are wedges.

    No plane through the latent space can show C zones: they differ in C - 1 directions. The position of a latent follows
    from its assignment probabilities p instead, averaged over the flow to the label anchors. With corners v_c of the labels
    on a circle, zones that compete for the same latents beside each other:

    - The angle is the direction of sum_c p_c v_c, replaced by its rank among prior samples. So the width of a wedge is the
      probability of its zone.
    - The radius is the length of that sum, which is larger the earlier the flow decides, replaced by its rank among the
      prior samples of the latent's own zone.

    Two labels have no plane of corners, but a line: there, a direction of the latent space that tells them not apart is the other
    coordinate of the angle.

    So prior noise fills the disk evenly; a hole is a part of the prior that no latent uses.

    Args:
        label_anchors (`Tensor` of shape `(C, D)`): at least two.
        solver, num_steps: of the flow, see [`trace_assignments`]. Those of the model show its own zones.
        num_prior_samples (`int`, *optional*, defaults to 20000): prior samples for the ranks.
        seed (`int`, *optional*, defaults to 0): draws the prior samples.

    Attributes:
        prior, prior_points, prior_zones: the prior samples `(num_prior_samples, D)`, their points in the disk, and their zones.

    Raises:
        ValueError: for fewer than two label anchors, or arguments that [`trace_assignments`] refuses.
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
        if label_anchors.ndim != 2 or len(label_anchors) < MIN_LABELS:
            raise ValueError(
                f"`label_anchors` must be (C, D) with at least {MIN_LABELS} labels, got {tuple(label_anchors.shape)}."
            )
        check_at_least(1, num_prior_samples=num_prior_samples)
        self.label_anchors = label_anchors.detach().float().cpu()
        self.solver, self.num_steps = solver, num_steps
        num_labels, dim = self.label_anchors.shape
        self.prior = torch.randn(num_prior_samples, dim, generator=torch.Generator().manual_seed(seed))
        self._across = _direction_across(self.label_anchors)
        mean_probs, self.prior_zones = self._trace(self.prior)
        position = np.empty(num_labels)
        position[_chain(mean_probs.T @ mean_probs)] = np.arange(num_labels)
        angle = 2 * np.pi * position / num_labels
        self.corners = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        angles, lengths = self._polar(mean_probs, self.prior)
        self._sorted_angles = np.sort(angles)
        self._sorted_lengths = [np.sort(lengths[self.prior_zones == zone]) for zone in range(num_labels)]
        self.prior_points = self._place(mean_probs, self.prior_zones, self.prior)

    def place(self, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Points in the disk `(N, 2)` and zones `(N,)`, as label ids, of latents `(N, D)`."""
        latents = latents.detach().float().cpu()
        mean_probs, zones = self._trace(latents)
        return self._place(mean_probs, zones, latents), zones

    def _trace(self, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Mean assignment probabilities over the flow `(N, C)`, and the zones at its end `(N,)`."""
        mean_probs, zones = [], []
        rows = max(1, min(CHUNK, MAX_TRACED // (self.num_steps * len(self.label_anchors))))
        for chunk in latents.split(rows):
            _, log_probs = trace_assignments(chunk, self.label_anchors, solver=self.solver, num_steps=self.num_steps)
            mean_probs.append(log_probs.exp().mean(0))
            zones.append(log_probs[-1].argmax(-1))
        return torch.cat(mean_probs).double().numpy(), torch.cat(zones).numpy()

    def _polar(self, mean_probs: np.ndarray, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
        x, y = (mean_probs @ self.corners).T
        across = (latents @ self._across).double().numpy()
        return np.arctan2(y + across, x), np.hypot(x, y)

    def _place(self, mean_probs: np.ndarray, zones: np.ndarray, latents: Tensor) -> np.ndarray:
        angles, lengths = self._polar(mean_probs, latents)
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
) -> Figure:
    """Draws latents as dots in the colours of their labels over the label zones, on a [`ZoneWheel`].

    The background shows the zone of most prior samples near a place, paler where they disagree. Latents in the zone of
    another label are ringed and counted in the legend.

    Args:
        latents (`Tensor` of shape `(N, D)`): latents of samples.
        labels (`Tensor` of shape `(N,)`): their true labels.
        label_anchors (`Tensor` of shape `(C, D)`): the anchors of the zones.
        label_names (list of `str`): the names of the C labels.
        solver, num_steps, num_prior_samples, seed: see [`ZoneWheel`].
        title (`str`, *optional*, defaults to `"Latent zones"`): heading.
        what (`str`, *optional*, defaults to `"images"`): name of the samples in the caption.

    Returns:
        `Figure`: 1200 x 1050 pixels.

    Raises:
        ValueError: if shapes do not fit, latents are not finite, or there are fewer than two labels.
    """
    check_rows("latents", latents)
    if latents.shape[1:] != label_anchors.shape[1:]:
        raise ValueError(f"`latents` must be (N, {label_anchors.shape[-1]}), got {tuple(latents.shape)}.")
    if len(label_names) != len(label_anchors):
        raise ValueError(
            f"`label_names` must hold {len(label_anchors)} names, one for each label anchor, got {len(label_names)}."
        )
    check_labels(labels, len(latents), label_names)

    wheel = ZoneWheel(
        label_anchors, solver=solver, num_steps=num_steps, num_prior_samples=num_prior_samples, seed=seed
    )
    points, zones = wheel.place(latents)
    label_ids, colours = labels.cpu().numpy(), palette_colours(len(label_names))
    figure = new_figure(12, 10.5)
    axes = figure.add_axes((0.01, 0.1, 0.76, 0.84))
    # A little more than the disk, which the figure cuts out with a smooth edge.
    background = axes.imshow(
        zone_colours(wheel, colours, radius=EDGE),
        origin="lower",
        extent=(-EDGE, EDGE, -EDGE, EDGE),
        interpolation="bilinear",
    )
    background.set_clip_path(load_library("matplotlib.patches", "train").Circle((0, 0), 1, transform=axes.transData))
    for wrong in (False, True):  # the ringed ones on top
        rows = (zones != label_ids) == wrong
        x, y = points[rows].T
        axes.scatter(
            x,
            y,
            c=0.85 * colours[label_ids[rows]],
            s=46 if wrong else 22,
            linewidths=1.6 if wrong else 0.5,
            edgecolors="black" if wrong else "white",
        )
    _write_names(axes, wheel, label_names, colours)
    room = 1.18 if max(map(len, label_names)) <= SHORT_NAME else 1.4
    axes.set(xlim=(-room, room), ylim=(-1.12, 1.12), aspect="equal")

    shown = np.unique(label_ids)
    for label in shown if len(shown) <= MAX_ENTRIES else ():
        axes.scatter([], [], color=0.85 * colours[label], s=60, label=label_names[label])
    ringed = f"in another label's\nzone ({(zones != label_ids).sum()} of {len(label_ids)})"
    axes.scatter([], [], s=60, facecolors="none", edgecolors="black", linewidths=1.6, label=ringed)
    angle = "the zones that a latent leans to"
    if len(label_names) == 2:
        angle = "the zone that a latent leans to and a direction that decides nothing"
    caption = (
        f"Dots: latents of {len(label_ids):,} {what}. Background: the label zone of prior noise at that place, paler where "
        f"zones mix in this picture. Angle: {angle}, as a share of the prior, so a wedge is as wide as its zone is probable. "
        "Outwards: decided earlier on the way to the label anchors (rank within its zone). "
        "Prior noise fills the disk in all directions alike."
    )
    finish_map(
        figure,
        axes,
        title=title,
        caption=caption,
        caption_height=0.055,
        num_entries=1 + len(shown) * (len(shown) <= MAX_ENTRIES),
        entries_per_column=24,
    )
    return figure


def _write_names(axes: Axes, wheel: ZoneWheel, label_names: Sequence[str], colours: np.ndarray) -> None:
    """The names of labels around the disk, the largest zones first, wherever there is room."""
    longest = max(map(len, label_names))
    size, apart = (16, (0.17, 0.07)) if longest <= SHORT_NAME else (13 if longest <= 10 else 10, (0.4, 0.06))
    written = np.empty((0, 2))
    sizes = np.bincount(wheel.prior_zones, minlength=len(label_names))
    for zone in np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]:  # a zone with no mass has no place
        middle = wheel.prior_points[wheel.prior_zones == zone].mean(0)
        place = middle / np.hypot(*middle)
        if len(written) and (np.abs(written - place) < apart).all(1).any():
            continue
        written = np.concatenate([written, place[None]])
        x, y = 1.03 * place
        left, right = place[0] > 0.3, place[0] < -0.3
        name = label_names[zone] if len(label_names[zone]) <= LONG_NAME else f"{label_names[zone][: LONG_NAME - 1]}…"
        style = {"fontsize": size, "fontweight": "bold", "color": 0.75 * colours[zone]}
        vertical = "center" if left or right else "bottom" if y > 0 else "top"
        axes.text(x, y, name, ha="left" if left else "right" if right else "center", va=vertical, **style)


def zone_colours(wheel: ZoneWheel, colours: np.ndarray, size: int = 250, radius: float = 1.0) -> np.ndarray:
    """The disk as RGBA `(size, size, 4)` in [0, 1], lowest row first: the majority colour of the nearest prior samples, more transparent
    for a smaller majority, and nothing outside."""
    cKDTree = load_library("scipy.spatial", "train").cKDTree
    axis = ((np.arange(size) + 0.5) / size * 2 - 1) * EDGE
    pixels = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    inside = np.hypot(*pixels.T) <= radius
    nearest = wheel.prior_zones[
        cKDTree(wheel.prior_points).query(pixels[inside], k=min(NEIGHBOURS, len(wheel.prior_zones)))[1]
    ]
    nearest = nearest.reshape(inside.sum(), -1)
    votes = np.stack([(nearest == zone).sum(1) for zone in range(len(colours))], axis=1)
    image = np.concatenate([np.ones((size * size, 3)), np.zeros((size * size, 1))], axis=1)
    image[inside, :3] = colours[votes.argmax(1)]
    image[inside, 3] = 0.5 * votes.max(1) / nearest.shape[1]
    return image.reshape(size, size, 4)


def _direction_across(label_anchors: Tensor) -> Tensor:
    """For two labels `(2, D)` a unit vector that is orthogonal to their difference, for more zeros `(D,)`."""
    if len(label_anchors) > 2:
        return torch.zeros_like(label_anchors[0])
    between = F.normalize(label_anchors[0] - label_anchors[1], dim=0)
    across = torch.zeros_like(between)
    across[between.abs().argmin()] = 1
    return F.normalize(across - (across @ between) * between, dim=0)


def _chain(similarity: np.ndarray) -> list[int]:
    """An order of the rows of `(C, C)` with similar ones side by side: the most similar remaining one comes next."""
    order, left = [0], set(range(1, len(similarity)))
    while left:
        order.append(max(sorted(left), key=lambda label: similarity[order[-1], label]))
        left.remove(order[-1])
    return order


__all__ = ["EDGE", "LONG_NAME", "MIN_LABELS", "ZoneWheel", "plot_zones", "zone_colours"]
