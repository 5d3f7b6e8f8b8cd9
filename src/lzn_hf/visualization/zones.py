# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The latent space of a model as a picture: zones of the labels, and latents in them.

`scipy` and `matplotlib` are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checks_lzn import check_at_least
from ..latent_zones import trace_assignments
from .figures import check_labels, check_rows, draw_map, new_figure, palette_colours


CHUNK = 2048  # latents traced at once: (steps, CHUNK, labels) stays small for a thousand labels
EDGE = 1.02  # half the side of the background, a little more than the disk
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

    So prior noise fills the disk evenly; a hole is a part of the prior that no latent uses.

    Args:
        label_anchors (`Tensor` of shape `(C, D)`): at least three.
        solver, num_steps: of the flow, see [`trace_assignments`]. Those of the model show its own zones.
        num_prior_samples (`int`, *optional*, defaults to 20000): prior samples for the ranks.
        seed (`int`, *optional*, defaults to 0): draws the prior samples.

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
        check_at_least(1, num_prior_samples=num_prior_samples)
        self.label_anchors = label_anchors.detach().float().cpu()
        self.solver, self.num_steps = solver, num_steps
        num_labels, dim = self.label_anchors.shape
        prior = torch.randn(num_prior_samples, dim, generator=torch.Generator().manual_seed(seed))
        mean_probs, self.prior_zones = self._trace(prior)
        position = np.empty(num_labels)
        position[_chain(mean_probs.T @ mean_probs)] = np.arange(num_labels)
        angle = 2 * np.pi * position / num_labels
        self.corners = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        angles, lengths = self._polar(mean_probs)
        self._sorted_angles = np.sort(angles)
        self._sorted_lengths = [np.sort(lengths[self.prior_zones == zone]) for zone in range(num_labels)]
        self.prior_points = self._place(mean_probs, self.prior_zones)

    def place(self, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Points in the disk `(N, 2)` and zones `(N,)`, as label ids, of latents `(N, D)`."""
        mean_probs, zones = self._trace(latents.detach().float().cpu())
        return self._place(mean_probs, zones), zones

    def _trace(self, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Mean assignment probabilities over the flow `(N, C)`, and the zones at its end `(N,)`."""
        mean_probs, zones = [], []
        for chunk in latents.split(CHUNK):
            _, log_probs = trace_assignments(chunk, self.label_anchors, solver=self.solver, num_steps=self.num_steps)
            mean_probs.append(log_probs.exp().mean(0))
            zones.append(log_probs[-1].argmax(-1))
        return torch.cat(mean_probs).double().numpy(), torch.cat(zones).numpy()

    def _polar(self, mean_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = mean_probs @ self.corners
        return np.arctan2(points[:, 1], points[:, 0]), np.hypot(points[:, 0], points[:, 1])

    def _place(self, mean_probs: np.ndarray, zones: np.ndarray) -> np.ndarray:
        angles, lengths = self._polar(mean_probs)
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
        `PIL.Image.Image`: 1200 x 1050 pixels, RGB.

    Raises:
        ValueError: if shapes do not fit, latents are not finite, or there are fewer than three labels.
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
    axes.imshow(
        _background(wheel, colours), origin="lower", extent=(-EDGE, EDGE, -EDGE, EDGE), interpolation="bilinear"
    )
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
    for zone, name in enumerate(label_names):
        members = wheel.prior_points[wheel.prior_zones == zone]
        if len(members):  # a zone with no mass has no place
            x, y = members.mean(0) / np.hypot(*members.mean(0)) * 1.06
            axes.text(x, y, name, ha="center", va="center", fontsize=16, fontweight="bold", color=0.75 * colours[zone])
    axes.set(xlim=(-1.12, 1.12), ylim=(-1.12, 1.12), aspect="equal")

    shown = np.unique(label_ids)
    for label in shown:
        axes.scatter([], [], color=0.85 * colours[label], s=60, label=label_names[label])
    ringed = f"in another label's\nzone ({(zones != label_ids).sum()} of {len(label_ids)})"
    axes.scatter([], [], s=60, facecolors="none", edgecolors="black", linewidths=1.6, label=ringed)
    caption = (
        f"Dots: latents of {len(label_ids):,} {what}. Background: the label zone of prior noise at that place, paler where "
        "zones mix in this picture. Angle: the zones that a latent leans to, as a share of the prior, so a wedge is as "
        "wide as its zone is probable. Outwards: decided earlier on the way to the label anchors (rank within its zone). "
        "Prior noise fills the disk in all directions alike."
    )
    return draw_map(
        figure,
        axes,
        title=title,
        caption=caption,
        caption_height=0.055,
        num_entries=len(shown) + 1,
        entries_per_column=24,
    )


def _background(wheel: ZoneWheel, colours: np.ndarray, size: int = 400) -> np.ndarray:
    """The disk `(size, size, 3)` in [0, 1]: the majority colour of the nearest prior samples, paler for a smaller majority."""
    from scipy.spatial import cKDTree

    axis = ((np.arange(size) + 0.5) / size * 2 - 1) * EDGE
    pixels = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    inside = np.hypot(*pixels.T) <= 1
    nearest = wheel.prior_zones[
        cKDTree(wheel.prior_points).query(pixels[inside], k=min(NEIGHBOURS, len(wheel.prior_zones)))[1]
    ]
    nearest = nearest.reshape(inside.sum(), -1)
    votes = np.stack([(nearest == zone).sum(1) for zone in range(len(colours))], axis=1)
    strength = 0.5 * votes.max(1, keepdims=True) / nearest.shape[1]
    image = np.ones((size * size, 3))
    image[inside] = strength * colours[votes.argmax(1)] + (1 - strength)
    return image.reshape(size, size, 3)


def _chain(similarity: np.ndarray) -> list[int]:
    """An order of the rows of `(C, C)` with similar ones side by side: the most similar remaining one comes next."""
    order, left = [0], set(range(1, len(similarity)))
    while left:
        order.append(max(sorted(left), key=lambda label: similarity[order[-1], label]))
        left.remove(order[-1])
    return order


__all__ = ["ZoneWheel", "plot_zones"]
