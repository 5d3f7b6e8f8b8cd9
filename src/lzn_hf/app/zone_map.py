# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The map of the latent zones that people click on: every place of it is a latent of the prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checks_lzn import check_at_least
from ..modeling_lzn import LZNModel
from ..sampling_lzn import slerp
from ..visualization.figures import palette_colours
from ..visualization.zones import LONG_NAME, ZoneWheel, zone_colours


APART = (0.5, 0.11)  # across and down, in radii of the disk, between names that do not cover each other
KEY_DISTANCE = 0.3  # along a path, in radii of the disk, between the latents that it is led through


class ZoneMap:
    """A [`ZoneWheel`] of a model in which each place stands for the nearest of its prior samples.

    The wheel has two dimensions and the latent space many: a place does not say which latent is meant. So the map does not make latents
    up. It holds `num_samples` draws of the prior, and a place means the one that lies nearest to it.

    Args:
        model ([`LZNModel`]): a model with at least two labels and an image encoder.
        num_samples (`int`, *optional*, defaults to 10000): prior samples, on average 0.02 radii apart.
        seed (`int`, *optional*, defaults to 0): draws them.

    Raises:
        ValueError: for a model without label anchors, or with fewer than two.
    """

    def __init__(self, model: LZNModel, *, num_samples: int = 10_000, seed: int = 0):
        from scipy.spatial import cKDTree

        config = model.config
        self.wheel = ZoneWheel(
            model.require_label_anchors(),
            solver=config.alignment_solver,
            num_steps=config.alignment_num_steps,
            num_prior_samples=num_samples,
            seed=seed,
        )
        self.names = [config.id2label[i] for i in range(config.num_labels)]
        self.colours = palette_colours(len(self.names))
        self._tree = cKDTree(self.wheel.prior_points)

    def latents_at(self, points: Sequence[Sequence[float]]) -> tuple[Tensor, np.ndarray]:
        """Returns the prior samples `(N, D)` nearest to points of the map, each in [-1, 1] x [-1, 1], and where they lie `(N, 2)`."""
        places = np.asarray(points, dtype=float)
        if places.ndim != 2 or places.shape[1] != 2 or not len(places) or not (np.abs(places) <= 1.5).all():
            raise ValueError(f"`points` must be at least one pair of numbers in [-1, 1], got {str(points)[:100]}.")
        rows = self._tree.query(places)[1]
        return self.wheel.prior[torch.from_numpy(rows)], self.wheel.prior_points[rows]

    def latents_along(self, path: Sequence[Sequence[float]], num_frames: int) -> tuple[Tensor, np.ndarray]:
        """Leads an interpolation along a path that was drawn on the map.

        The path is led through the prior samples nearest to points of it, about 0.3 radii apart, both ends among them. Between two of
        those, latents follow the great circle, which keeps the norm of the prior. They may lie beside the line that was drawn, as the
        latent space has more dimensions than the map; the second output says where.

        Args:
            path (list of pairs): points of the map, at least two.
            num_frames (`int`): latents to return, at least 2.

        Returns:
            `tuple(Tensor, np.ndarray)`: the latents `(num_frames, D)`, and the places of the map `(num_frames, 2)` that they lie at.
        """
        check_at_least(2, num_frames=num_frames)
        points = np.asarray(path, dtype=float)
        travelled = np.concatenate([[0.0], np.hypot(*np.diff(points, axis=0).T).cumsum()])
        num_keys = min(max(2, 1 + round(travelled[-1] / KEY_DISTANCE)), num_frames)
        at = np.linspace(0, travelled[-1], num_keys)
        keys, _ = self.latents_at(np.stack([np.interp(at, travelled, axis) for axis in points.T], axis=1).tolist())
        latents = []
        for position in np.linspace(0, num_keys - 1, num_frames):
            first = min(int(position), num_keys - 2)
            latents.append(slerp(keys[first], keys[first + 1], float(position - first)))
        rows = torch.stack(latents)
        return rows, self.wheel.place(rows)[0]

    def zones_of(self, latents: Tensor) -> list[str]:
        """Returns the names of the label zones that latents `(N, D)` lie in."""
        return [self.names[zone] for zone in self.wheel.place(latents)[1]]

    def background(self, size: int = 400) -> Image.Image:
        """Draws the disk, without names: mode RGBA, transparent where zones mix and outside."""
        pixels = np.flipud(zone_colours(self.wheel, self.colours, size))  # row 0 of an image is its top
        return Image.fromarray((pixels * 255).round().astype(np.uint8), "RGBA")

    def name_places(self) -> list[tuple[str, float, float, str]]:
        """Returns the names of zones, the largest first, wherever there is room: name, place on the edge of the disk, and colour as hex."""
        places: list[tuple[str, float, float, str]] = []
        sizes = np.bincount(self.wheel.prior_zones, minlength=len(self.names))
        for zone in np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]:  # a zone without mass has no place
            middle = self.wheel.prior_points[self.wheel.prior_zones == zone].mean(0)
            x, y = (float(part) for part in middle / np.hypot(*middle))
            if not any(abs(x - at[1]) < APART[0] and abs(y - at[2]) < APART[1] for at in places):
                name = self.names[zone]
                colour = "#" + "".join(f"{round(255 * part):02x}" for part in self.colours[zone])
                places.append((name if len(name) <= LONG_NAME else f"{name[: LONG_NAME - 1]}…", x, y, colour))
        return places


__all__ = ["ZoneMap"]
