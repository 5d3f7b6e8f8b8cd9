# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Pictures: the pixels of grids exactly, the map of the zones by what it promises, the figure by what can be seen in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from lzn_hf.latent_zones import trace_assignments
from lzn_hf.visualization.grids import GAP, PALETTE, comparison_grid, image_grid, trajectory_strip
from lzn_hf.visualization.zones import ZoneWheel, plot_zones


# Grids


def grey(*values: int, size: int = 8) -> list[Image.Image]:
    return [Image.new("L", (size, size), value) for value in values]


def test_grid_places_and_enlarges_every_pixel():
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    grid = np.asarray(image_grid(images, 3))
    assert grid.shape == (GAP + 2 * (32 + GAP), GAP + 3 * (32 + GAP))
    expected = np.full_like(grid, 255)
    for number, image in enumerate(images.numpy()):
        top, left = (GAP + place * (32 + GAP) for place in divmod(number, 3))
        expected[top : top + 32, left : left + 32] = np.kron(image[0], np.ones((4, 4), dtype=np.uint8))
    assert (grid == expected).all()


def test_grid_takes_uint8_floating_point_and_pil_alike():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    pils = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    grids = [np.asarray(image_grid(x, 2)) for x in (images, images / 127.5 - 1, pils, iter(pils))]
    assert grids[0].ndim == 3
    assert all((grid == grids[0]).all() for grid in grids)
    # What lies beyond [-1, 1] is clipped.
    assert np.asarray(image_grid(torch.full((1, 1, 32, 32), -1.2), 1))[GAP, GAP] == 0
    # Grey beside colour becomes colour.
    assert image_grid([*grey(0), Image.new("RGB", (8, 8), "red")], 2).mode == "RGB"


@pytest.mark.parametrize(
    ("size", "min_cell_size", "cell"), [(8, 32, 32), (12, 32, 36), (64, 32, 64), (8, 8, 8), (7, 64, 70)]
)
def test_grid_enlarges_by_whole_factors(size, min_cell_size, cell):
    assert image_grid(grey(0, size=size), 1, min_cell_size=min_cell_size).size == (cell + 2 * GAP, cell + 2 * GAP)


def test_grid_draws_row_labels_to_the_left():
    images = grey(100, 100, 100, 100)
    plain = np.asarray(image_grid(images, 2))
    labelled = np.asarray(image_grid(images, 2, row_labels=["seven", ""]))
    left = labelled.shape[1] - plain.shape[1]
    assert left > 20
    assert (labelled[:, left:] == plain).all()
    assert (labelled[: GAP + 32, :left] < 128).any()  # ink beside the first row
    assert (labelled[GAP + 32 :, :left] == 255).all()  # and none beside the second
    assert (labelled[:, left - GAP : left] == 255).all()


@pytest.mark.parametrize("row_labels", [None, ["seven", "eight"]])
def test_grid_draws_column_labels_above(row_labels):
    images = grey(100, 100, 100, 100)
    plain = np.asarray(image_grid(images, 2, row_labels=row_labels))
    labelled = np.asarray(image_grid(images, 2, row_labels=row_labels, column_labels=["a long text", ""]))
    top = labelled.shape[0] - plain.shape[0]
    assert top >= 6 and labelled.shape[1] == plain.shape[1]
    assert (labelled[top:] == plain).all()
    left = plain.shape[1] - 2 * (32 + GAP)
    first, second = labelled[:top, : left + 32 + GAP // 2], labelled[:top, left + 32 + GAP // 2 :]
    assert (first < 128).any() and (second == 255).all()  # ink above the first column and none above the second
    assert (first[:, : left - GAP] == 255).all()  # nor left of it: the text is made to fit


def test_strip_shows_the_trajectory_from_left_to_right():
    trajectory = torch.linspace(-1, 1, 7)[:, None, None, None, None] * torch.tensor([1.0, 0.5]).view(1, 2, 1, 1, 1)
    trajectory = trajectory.expand(7, 2, 1, 8, 8)
    times = [0, 0.1, 0.2, 0.5, 0.7, 0.9, 1]
    strip = trajectory_strip(trajectory, times, columns=4)
    chosen = trajectory[[0, 2, 4, 6]].transpose(0, 1).flatten(0, 1)
    assert strip == image_grid(chosen, 4, column_labels=["0", "0.2", "0.7", "1"])
    everything = trajectory_strip(trajectory, times, min_cell_size=8)
    texts = [str(time) for time in times]
    assert everything == image_grid(trajectory.transpose(0, 1).flatten(0, 1), 7, column_labels=texts, min_cell_size=8)


@pytest.mark.parametrize(
    ("shape", "times", "columns", "message"),
    [
        ((3, 2, 1, 8, 8), [0, 1], 3, "`times` must hold one time for each of the 3 samples, got 2"),
        ((3, 2, 1, 8, 8), [0, 0.5, 1], 1, "`columns` must be at least 2, got 1"),
        ((3, 1, 8, 8), [0, 0.5, 1], 3, r"`trajectory` must be \(S, B, C, H, W\) .*, got \(3, 1, 8, 8\)"),
        ((1, 2, 1, 8, 8), [0], 3, "`trajectory` must be .* with S at least 2"),
    ],
)
def test_strip_refuses_bad_arguments(shape, times, columns, message):
    with pytest.raises(ValueError, match=message):
        trajectory_strip(torch.zeros(shape), times, columns)


def test_comparison_grid_pairs_rows():
    first, second = grey(10, 20, 30), grey(110, 120, 130)
    grid = comparison_grid({"original": first, "copy": second}, columns=2)
    expected = image_grid(
        grey(10, 20, 110, 120, 30, 255, 130, 255), 2, row_labels=["original", "copy", "original", "copy"]
    )
    assert (np.asarray(grid) == np.asarray(expected)).all()
    tensor = torch.full((3, 1, 8, 8), 10, dtype=torch.uint8)
    assert comparison_grid({"a": tensor}, 3, min_cell_size=8).size[1] == 8 + 2 * GAP


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "`images` must hold at least one image"),
        ({"images": [*grey(0), *grey(0, size=9)]}, "one size, got 8x8, 9x9"),
        ({"images": grey(0), "columns": 0}, "`columns` must be at least 1, got 0"),
        ({"images": grey(0), "min_cell_size": 0}, "`min_cell_size` must be at least 1"),
        ({"images": grey(0, 0, 0), "row_labels": ["a"]}, "one text for each of the 2 rows, got 1"),
        ({"images": grey(0), "column_labels": ["a"]}, "one text for each of the 2 columns, got 1"),
        ({"images": torch.zeros(2, 2, 8, 8)}, "with 1 or 3 channels"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.int64)}, "uint8 or floating point"),
        ({"images": torch.full((2, 1, 8, 8), float("nan"))}, "`images` must be finite"),
    ],
)
def test_grid_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        image_grid(**{"columns": 2, **arguments})


def test_comparison_grid_refuses_bad_arguments():
    with pytest.raises(ValueError, match=r"as many images under each name, at least one, got {'a': 1, 'b': 2}"):
        comparison_grid({"a": grey(0), "b": grey(0, 0)})
    for empty in ({}, {"a": []}):
        with pytest.raises(ValueError, match="at least one, got"):
            comparison_grid(empty)
    with pytest.raises(ValueError, match="`columns` must be at least 1"):
        comparison_grid({"a": grey(0)}, 0)


# Zones

NAMES = ["ant", "bee", "cat", "dog", "eel"]


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
    picture = plot_zones(latents, labels, label_anchors, NAMES, **settings)
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
    wrong = plot_zones(latents, (labels + 1) % 5, label_anchors, NAMES, **settings)
    assert colour_share(wrong, np.zeros(3)) > 2 * colour_share(picture, np.zeros(3))


def test_zone_picture_depends_on_every_setting(label_anchors, zone_latents):
    base = {"num_prior_samples": 300}
    reference = np.asarray(plot_zones(*zone_latents, label_anchors, NAMES, **base))
    assert (np.asarray(plot_zones(*zone_latents, label_anchors, NAMES, **base)) == reference).all()
    changes = [{"solver": "euler"}, {"num_steps": 3}, {"num_prior_samples": 400}, {"seed": 1}, {"title": "x"}]
    for change in [*changes, {"what": "x"}]:
        changed = plot_zones(*zone_latents, label_anchors, NAMES, **{**base, **change})
        assert (np.asarray(changed) != reference).any(), change


def test_zone_picture_of_more_labels_than_colours(zone_latents):
    label_anchors = torch.randn(13, 12) * 2
    picture = plot_zones(
        zone_latents[0],
        torch.arange(150) % 13,
        label_anchors,
        [f"label {i}" for i in range(13)],
        num_prior_samples=500,
    )
    assert np.asarray(picture).std() > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.zeros(3, 5)}, r"`latents` must be \(N, 12\) and not empty, got \(3, 5\)"),
        ({"latents": torch.zeros(0, 12)}, "`latents` must be"),
        ({"latents": torch.full((3, 12), float("nan"))}, "`latents` must be finite"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, r"`labels` must have shape \(3,\)"),
        ({"labels": torch.tensor([0, 1, 5])}, r"`labels` must be in 0\.\.4, got 0\.\.5"),
        ({"label_names": ["a"]}, "`label_names` must hold 5 names"),
        ({"label_anchors": torch.zeros(2, 12), "label_names": ["a", "b"]}, "at least 3 labels"),
        ({"num_prior_samples": 0}, "`num_prior_samples` must be at least 1"),
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
        plot_zones(**{**arguments, **change})
