# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The map of embeddings: what is alike lies together, and the picture shows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from lzn_hf.visualization.embeddings import map_to_plane, plot_embeddings
from lzn_hf.visualization.figures import PALETTE, draw_figure


NAMES = ["ant", "bee", "cow"]


def draw_embeddings(*arguments, **options) -> Image.Image:
    return draw_figure(plot_embeddings(*arguments, **options))


def directions(count: int = 90, size: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Three bundles of directions, of rows with very different norms."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    rows = torch.eye(size)[labels] + 0.05 * torch.randn(count, size, generator=generator)
    return rows * torch.logspace(-2, 2, count)[:, None], labels


def colour_share(picture, colour) -> float:
    """Share of pixels that are nearly of a colour."""
    pixels = np.asarray(picture).astype(float)
    return float((np.abs(pixels - 255 * np.array(to_rgb(colour))).max(-1) < 12).mean())


def test_rows_of_like_direction_lie_together_whatever_their_norm():
    features, labels = directions()
    points = map_to_plane(features)
    assert points.shape == (90, 2)
    assert points.min() >= 0 and points.max() <= 1 and np.isclose(np.ptp(points, axis=0).max(), 1)
    middles = np.stack([points[labels == label].mean(0) for label in range(3)])
    distances = ((points[:, None] - middles) ** 2).sum(-1)
    assert (distances.argmin(1) == labels.numpy()).all()
    # Norms do not count at all.
    assert np.allclose(map_to_plane(torch.nn.functional.normalize(features.double())), points, atol=1e-4)


def test_the_map_follows_from_the_seed():
    features, _ = directions(30)
    assert np.array_equal(map_to_plane(features, seed=1), map_to_plane(features, seed=1))


@pytest.mark.parametrize(("count", "size"), [(4, 3), (5, 2), (6, 60), (70, 1)])
def test_few_rows_or_features_have_a_map(count, size):
    features = torch.randn(count, size, generator=torch.Generator().manual_seed(0))
    assert np.isfinite(map_to_plane(features)).all()


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_the_picture_has_the_colours_of_the_labels_that_there_are(channels):
    features, labels = directions(60)
    features, labels = features[labels < 2], labels[labels < 2]
    images = None if channels is None else torch.full((len(labels), channels, 8, 8), 40, dtype=torch.uint8)
    picture = draw_embeddings(features, labels, NAMES, images=images)
    assert picture.size == (1200, 1050) and picture.mode == "RGB"
    for label, expected in enumerate((True, True, False)):
        assert (colour_share(picture, PALETTE[label]) > 2e-4) == expected
    thumbnails = colour_share(picture, (40 / 255,) * 3)
    assert thumbnails > 0.01 if channels else thumbnails < 0.01


def test_thumbnails_are_where_no_dots_are():
    features, labels = directions(60)
    without = np.asarray(draw_embeddings(features, labels, NAMES)).astype(int)
    images = torch.zeros(60, 1, 4, 4, dtype=torch.uint8)
    with_images = np.asarray(draw_embeddings(features, labels, NAMES, images=images)).astype(int)
    colours = [255 * np.array(to_rgb(colour)) for colour in PALETTE[:3]]
    dots = np.min([np.abs(without - colour).max(-1) for colour in colours], axis=0) < 12
    assert dots.sum() > 400
    assert (np.abs(without - with_images).max(-1)[dots] < 40).mean() > 0.97  # the rest are their edges
    black = (with_images.max(-1) < 10) & (without.min(-1) > 200)
    assert black.sum() > 10_000
    around = np.zeros_like(dots)  # a square of 13 pixels around every pixel of a dot
    for down in range(-6, 7):
        for right in range(-6, 7):
            around |= np.roll(dots, (down, right), axis=(0, 1))
    assert black[around].mean() < 0.05


def test_more_labels_than_colours_have_other_markers():
    features = torch.randn(44, 5, generator=torch.Generator().manual_seed(0))
    first = draw_embeddings(features, torch.zeros(44, dtype=torch.int64), ["x"] * 11)
    second = draw_embeddings(features, torch.full((44,), 10), ["x"] * 11)
    assert not np.array_equal(np.asarray(first), np.asarray(second))
    assert colour_share(first, PALETTE[0]) > 2e-4 and colour_share(second, PALETTE[0]) > 2e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.ones(3, 4)}, "`features` must have at least 4 rows, got 3"),
        ({"features": torch.ones(5, 4, dtype=torch.int64)}, "`features` must be floating point"),
        ({"features": torch.full((5, 4), float("inf"))}, "`features` must be finite"),
        ({"features": torch.ones(5, 4)}, "`features` must not all have the same direction"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, r"`labels` must be whole numbers of shape \(5,\)"),
        ({"labels": torch.full((5,), 3)}, "`labels` must be in 0..2 as there are 3 names, got 3..3"),
        ({"images": torch.zeros(5, 1, 8, 8)}, "`images` must be uint8 .* got torch.float32"),
        ({"images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}, r"`images` must be uint8 \(5, C, H, W\)"),
        ({"images": torch.zeros(5, 2, 8, 8, dtype=torch.uint8)}, "`images` must be .* with 1 or 3 channels"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    arguments = {"features": torch.randn(5, 4), "labels": torch.arange(5) % 3, "label_names": NAMES, **change}
    if len(arguments["features"]) != 5:
        arguments["labels"] = arguments["labels"][: len(arguments["features"])]
    with pytest.raises(ValueError, match=message):
        draw_embeddings(**arguments)
