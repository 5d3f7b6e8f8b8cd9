# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The picture of quality against cost by its colours: one for each family of samplers."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from lzn_hf.visualization.curves import plot_measures, plot_quality
from lzn_hf.visualization.figures import PALETTE, draw_figure


POINTS = [(5.0, 3.0), (20.0, 1.0), (10.0, 2.0)]


def draw_quality(*arguments, **options) -> Image.Image:
    return draw_figure(plot_quality(*arguments, **options))


def draw_measures(*arguments, **options) -> Image.Image:
    return draw_figure(plot_measures(*arguments, **options))


def colour_fraction(picture: Image.Image, colour: str) -> float:
    pixels = np.asarray(picture).astype(int)
    return float((abs(pixels - ImageColor.getrgb(colour)).max(-1) < 10).mean())


def test_families_have_colours_and_methods_share_them():
    picture = draw_quality({"": {"unipc": POINTS, "heun": [(4.0, 2.0)]}})
    assert picture.mode == "RGB" and picture.size == (840, 540)
    assert all(colour_fraction(picture, colour) > 1e-4 for colour in PALETTE[:2])
    assert colour_fraction(picture, PALETTE[2]) == 0
    both = draw_quality({"lzn": {"heun": POINTS}, "flow": {"heun": [(x, y + 1) for x, y in POINTS]}})
    assert colour_fraction(both, PALETTE[0]) > 1.2 * colour_fraction(
        draw_quality({"lzn": {"heun": POINTS}}), PALETTE[0]
    )
    assert colour_fraction(both, PALETTE[1]) == 0


def test_the_order_of_points_does_not_matter():
    first, second = (draw_quality({"": {"unipc": points}}) for points in (POINTS, sorted(POINTS)))
    assert np.array_equal(np.asarray(first), np.asarray(second))


@pytest.mark.parametrize("change", [{"real_images": 0.5}, {"title": "x"}, {"ylabel": "x"}])
def test_every_setting_shows(change):
    curves = {"": {"unipc": POINTS}}
    assert not np.array_equal(np.asarray(draw_quality(curves)), np.asarray(draw_quality(curves, **change)))


def test_measures_have_panels_and_names_have_colours():
    measures = {"precision": {"one": POINTS, "two": [(x, y + 1) for x, y in POINTS]}, "recall": {"two": POINTS}}
    picture = draw_measures(measures, xlabel="scale")
    assert picture.mode == "RGB" and picture.size == (768, 408)
    left, right = picture.crop((0, 0, 384, 408)), picture.crop((384, 0, 768, 408))
    assert all(colour_fraction(left, colour) > 1e-4 for colour in PALETTE[:2])
    assert colour_fraction(right, PALETTE[0]) == 0 and colour_fraction(right, PALETTE[1]) > 1e-4
    for change in ({"xlabel": "x"}, {"title": "x"}, {"real_images": {"recall": 2.0}}):
        other = draw_measures(**{"measures": measures, "xlabel": "scale", **change})
        assert not np.array_equal(np.asarray(picture), np.asarray(other))
