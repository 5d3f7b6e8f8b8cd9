# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The reliability diagram by its colours: higher bars of accuracy, more of their colour."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from lzn_hf.visualization.figures import PALETTE, draw_figure
from lzn_hf.visualization.reliability import plot_reliability


def draw_reliability(*arguments, **options) -> Image.Image:
    return draw_figure(plot_reliability(*arguments, **options))


def colour_fraction(picture, colour):
    return float((abs(np.asarray(picture).astype(int) - ImageColor.getrgb(colour)).max(-1) < 10).mean())


def test_bars_are_as_high_as_the_accuracy():
    areas = []
    for accuracy in (0.25, 0.5, 0.9):
        bins = [{"confidence": x, "accuracy": accuracy, "count": 10} for x in (0.3, 0.9)]
        picture = draw_reliability(bins)
        assert picture.mode == "RGB" and picture.size == (540, 600)
        areas.append(colour_fraction(picture, PALETTE[0]))
    assert areas[1] == pytest.approx(2 * areas[0], rel=0.1) and areas[2] == pytest.approx(3.6 * areas[0], rel=0.1)


def test_bars_of_neighbours_stay_apart_wherever_their_means_are():
    apart, near, edge = (
        draw_reliability([{"confidence": x, "accuracy": 0.8, "count": 10} for x in pair], num_bins=5)
        for pair in ((0.25, 0.75), (0.399, 0.401), (0.4 + 1e-16, 0.6))
    )
    blue = colour_fraction(apart, PALETTE[0])
    assert colour_fraction(near, PALETTE[0]) == pytest.approx(blue, rel=0.05)
    assert colour_fraction(edge, PALETTE[0]) == pytest.approx(blue, rel=0.05)


def test_the_number_of_bins_is_the_width_of_bars():
    bins = [{"confidence": 0.95, "accuracy": 0.9, "count": 10}]
    ten, twenty = (colour_fraction(draw_reliability(bins, num_bins=n), PALETTE[0]) for n in (10, 20))
    assert ten == pytest.approx(2 * twenty, rel=0.1)
    with pytest.raises(ValueError, match="`num_bins` must be a whole number of at least 1"):
        draw_reliability(bins, num_bins=0)


def test_no_bins_are_refused():
    with pytest.raises(ValueError, match="`bins` must hold at least one bin"):
        draw_reliability([])


def test_nothing_lies_on_another():
    """Bars may be anywhere: the legend is outside of them."""
    figure = plot_reliability([{"confidence": 0.1, "accuracy": 1.0, "count": 9}], title="validation images of digits")
    draw_figure(figure)
    parts = [figure._suptitle, *figure.legends, *figure.axes]
    boxes = [part.get_tightbbox() for part in parts]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, parts[number]
        assert not any(box.overlaps(other) for other in boxes[:number]), parts[number]
