# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The map of the zones by its definition, and the picture by its colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from lzn_hf.latent_zones import trace_assignments
from lzn_hf.visualization.figures import PALETTE, draw_figure
from lzn_hf.visualization.zones import ZoneWheel, plot_zones


NAMES = ["ant", "bee", "cat", "dog", "eel"]


def draw_zones(*arguments, **options) -> Image.Image:
    return draw_figure(plot_zones(*arguments, **options))


@pytest.fixture(scope="module")
def label_anchors() -> torch.Tensor:
    return torch.randn(len(NAMES), 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def wheel(label_anchors) -> ZoneWheel:
    return ZoneWheel(label_anchors, num_prior_samples=5000)


def test_zones_of_the_wheel_are_those_of_the_flow(wheel, label_anchors):
    latents = torch.randn(300, 12)
    zones = wheel.place(latents)[1]
    assert (zones == trace_assignments(latents, label_anchors)[1][-1].argmax(-1).numpy()).all()
    # Another solver has zones of its own.
    for settings in ({"solver": "euler"}, {"num_steps": 3}):
        other = ZoneWheel(label_anchors, num_prior_samples=100, **settings).place(latents)[1]
        assert (other == trace_assignments(latents, label_anchors, **settings)[1][-1].argmax(-1).numpy()).all()


def test_prior_noise_fills_the_disk(wheel):
    points, _ = wheel.place(torch.randn(4000, 12, generator=torch.Generator().manual_seed(5)))
    radius = np.hypot(*points.T)
    assert radius.max() <= 1
    turns = np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) % 1
    for share in (turns, radius**2):
        # Uniform: the largest gap to the diagonal is above 1.6 / sqrt(4000) in 1 % of the cases, and both have sampling noise.
        gap = np.abs(np.sort(share) - np.arange(4000) / 4000).max()
        assert gap < 0.04


def test_zones_are_wedges_of_the_disk(wheel):
    points, zones = wheel.place(torch.randn(2000, 12, generator=torch.Generator().manual_seed(6)))
    turns = np.arctan2(points[:, 1], points[:, 0])
    for zone in range(len(NAMES)):
        own = turns[zones == zone]
        middle = np.angle(np.exp(1j * own).mean())
        off = np.abs(np.angle(np.exp(1j * (own - middle))))
        assert np.mean(off < np.pi / len(NAMES) + 0.2) > 0.95
    # A latent far out on the way to an anchor is near the rim, in its wedge; the middle of the prior is near the centre.
    far, far_zones = wheel.place(wheel.label_anchors * 3)
    assert far_zones.tolist() == list(range(len(NAMES))) and (np.hypot(*far.T) > 0.97).all()
    assert np.hypot(*wheel.place(torch.zeros(1, 12))[0][0]) < 0.5


def test_neighbouring_zones_are_neighbours_on_the_wheel():
    # Anchors around a circle in the plane, in another order than that of their labels.
    order = torch.tensor([0, 3, 5, 1, 4, 2])
    angles = torch.arange(6) * torch.pi / 3
    label_anchors = torch.zeros(6, 4)
    label_anchors[order, 0], label_anchors[order, 1] = 3 * angles.cos(), 3 * angles.sin()
    corners = torch.from_numpy(ZoneWheel(label_anchors, num_prior_samples=2000).corners)[order]
    gaps = (corners - corners.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(gaps, torch.ones_like(gaps))  # the side of a hexagon in the unit circle


@pytest.mark.parametrize("dim", [1, 12])
def test_two_zones_are_halves_that_prior_noise_fills(dim):
    """Of probabilities 3 : 1, too: a wedge is as wide as its zone is probable."""
    anchors = torch.zeros(2, dim)
    anchors[0, 0], anchors[1, 0] = 0.7, -3.0  # the flow takes more to the near one
    points, zones = ZoneWheel(anchors, num_prior_samples=4000).place(
        torch.randn(4000, dim, generator=torch.Generator().manual_seed(8))
    )
    share = (zones == 0).mean()
    assert np.hypot(*points.T).max() <= 1
    turns = np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) % 1
    if dim > 1:
        assert np.abs(np.sort(turns) - np.arange(4000) / 4000).max() < 0.04
        own = np.sort(turns[zones == 0])
        gaps = np.diff(np.append(own, own[0] + 1))
        assert 1 - gaps.max() == pytest.approx(share, abs=0.02)  # all of the wedge, and nothing else


def test_the_wheel_depends_on_its_seed_only(label_anchors):
    latents = torch.randn(50, 12)
    first, second, other = (
        ZoneWheel(label_anchors, num_prior_samples=500, seed=seed).place(latents)[0] for seed in (0, 0, 1)
    )
    assert (first == second).all() and (first != other).any()


@pytest.fixture(scope="module")
def zone_latents(label_anchors) -> tuple[torch.Tensor, torch.Tensor]:
    latents = torch.randn(150, 12, generator=torch.Generator().manual_seed(7))
    return latents, trace_assignments(latents, label_anchors)[1][-1].argmax(-1)


def colour_share(picture: Image.Image, colour: np.ndarray) -> float:
    return (np.abs(np.asarray(picture).astype(float) - colour).max(-1) < 6).mean()


def test_zone_picture_shows_zones_dots_and_mistakes(label_anchors, zone_latents, tmp_path):
    latents, labels = zone_latents
    settings = {"num_prior_samples": 2000}
    picture = draw_zones(latents, labels, label_anchors, NAMES, **settings)
    assert picture.mode == "RGB" and picture.size == (1200, 1050)
    picture.save(tmp_path / "zones.png")
    assert np.asarray(Image.open(tmp_path / "zones.png")).std() > 20
    for name in PALETTE[: len(NAMES)]:
        colour = np.array(ImageColor.getrgb(name), dtype=float)
        # Its zone: a fifth of a disk that fills nearly half of the picture. And its dots.
        assert colour_share(picture, (colour + 255) / 2) > 0.02
        assert colour_share(picture, 0.85 * colour) > 0.0002
    unused = np.array(ImageColor.getrgb(PALETTE[len(NAMES)]), dtype=float)
    assert colour_share(picture, 0.85 * unused) < 0.00005
    # Latents that lie in another zone are ringed in black.
    wrong = draw_zones(latents, (labels + 1) % 5, label_anchors, NAMES, **settings)
    assert colour_share(wrong, np.zeros(3)) > 2 * colour_share(picture, np.zeros(3))


def test_zone_picture_depends_on_every_setting(label_anchors, zone_latents):
    base = {"num_prior_samples": 300}
    reference = np.asarray(draw_zones(*zone_latents, label_anchors, NAMES, **base))
    assert (np.asarray(draw_zones(*zone_latents, label_anchors, NAMES, **base)) == reference).all()
    changes = [{"solver": "euler"}, {"num_steps": 3}, {"num_prior_samples": 400}, {"seed": 1}, {"title": "x"}]
    for change in [*changes, {"what": "x"}]:
        changed = draw_zones(*zone_latents, label_anchors, NAMES, **{**base, **change})
        assert (np.asarray(changed) != reference).any(), change


def test_zone_picture_of_more_labels_than_colours(zone_latents):
    label_anchors = torch.randn(13, 12) * 2
    picture = draw_zones(
        zone_latents[0],
        torch.arange(150) % 13,
        label_anchors,
        [f"label {i}" for i in range(13)],
        num_prior_samples=500,
    )
    assert np.asarray(picture).std() > 20


@pytest.mark.parametrize(("count", "length"), [(2, 5), (10, 12), (10, 1), (60, 30), (200, 3)])
def test_names_of_zones_lie_neither_on_each_other_nor_outside(count, length):
    generator = torch.Generator().manual_seed(0)
    anchors, latents = 2 * torch.randn(count, 12, generator=generator), torch.randn(90, 12, generator=generator)
    names = [f"{number:x}".ljust(length, "e") for number in range(count)]
    figure = plot_zones(latents, torch.arange(90) % count, anchors, names, num_prior_samples=2000)
    draw_figure(figure)
    (axes,) = figure.axes
    parts = [*axes.texts, axes.get_legend(), *figure.texts]
    assert len(axes.texts) == count or count > 10  # the names of small zones may be left out
    boxes = [part.get_window_extent() for part in parts]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, parts[number]
        below = [parts[other] for other in range(number) if box.overlaps(boxes[other])]
        assert not below, f"{parts[number]} lies on {below}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.zeros(3, 5)}, r"`latents` must be \(N, 12\), got \(3, 5\)"),
        ({"latents": torch.zeros(0, 12)}, "`latents` must be"),
        ({"latents": torch.full((3, 12), float("nan"))}, "`latents` must be finite"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, r"`labels` must be whole numbers of shape \(3,\)"),
        ({"labels": torch.tensor([0, 1, 5])}, r"`labels` must be in 0\.\.4 as there are 5 names, got 0\.\.5"),
        ({"label_names": ["a"]}, "`label_names` must hold 5 names"),
        (
            {"label_anchors": torch.zeros(1, 12), "label_names": ["a"], "labels": torch.zeros(3, dtype=torch.int64)},
            "at least 2 labels",
        ),
        ({"num_prior_samples": 0}, "`num_prior_samples` must be a whole number of at least 1"),
        ({"solver": "rk4"}, "`solver` must be"),
    ],
)
def test_zone_picture_refuses_bad_arguments(label_anchors, change, message):
    arguments = {
        "latents": torch.zeros(3, 12),
        "labels": torch.tensor([0, 1, 1]),
        "label_anchors": label_anchors,
        "label_names": NAMES,
    }
    with pytest.raises(ValueError, match=message):
        draw_zones(**{**arguments, **change})
