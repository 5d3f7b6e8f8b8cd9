# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The reliability diagram by its colours: higher bars of accuracy, more of their colour."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageColor

from lzn_hf.visualization.figures import PALETTE
from lzn_hf.visualization.reliability import plot_reliability


def colour_fraction(picture, colour):
    return float((abs(np.asarray(picture).astype(int) - ImageColor.getrgb(colour)).max(-1) < 10).mean())


def test_bars_are_as_high_as_the_accuracy():
    areas = []
    for accuracy in (0.25, 0.5, 0.9):
        bins = [{"confidence": x, "accuracy": accuracy, "count": 10} for x in (0.3, 0.9)]
        picture = plot_reliability(bins)
        assert picture.mode == "RGB" and picture.size == (540, 600)
        areas.append(colour_fraction(picture, PALETTE[0]))
    assert areas[1] == pytest.approx(2 * areas[0], rel=0.1) and areas[2] == pytest.approx(3.6 * areas[0], rel=0.1)


def test_no_bins_are_refused():
    with pytest.raises(ValueError, match="`bins` must hold at least one bin"):
        plot_reliability([])
