# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Confidence against accuracy, as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..checks_lzn import check_at_least
from .figures import PALETTE, new_figure


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_reliability(bins: Sequence[Mapping[str, float]], *, num_bins: int = 15, title: str = "") -> Figure:
    """Draws a reliability diagram (Guo et al., arXiv 1706.04599): accuracy by confidence above, the number of images below.

    A point is at the mean confidence and the accuracy of a bin; the bar below it is as wide as the bin.

    Args:
        bins (list of `dict`): mean `confidence` and `accuracy` in [0, 1] and `count` of each bin that holds any image.
        num_bins (`int`, *optional*, defaults to 15): number of equal bins of [0, 1], the empty ones too.
        title (`str`, *optional*, defaults to `""`): heading.

    Returns:
        `Figure`: 540 x 600 pixels.

    Raises:
        ValueError: without any bin, and if `num_bins` is below 1.
    """
    check_at_least(1, num_bins=num_bins)
    if not bins:
        raise ValueError("`bins` must hold at least one bin, got none.")
    confidences, accuracies, counts = ([one[key] for one in bins] for key in ("confidence", "accuracy", "count"))
    # Bin m of M holds ((m - 1) / M, m / M]. The mean of equal confidences may be rounded over the edge.
    numbers = [max(1, math.ceil(confidence * num_bins - 1e-9)) for confidence in confidences]
    centres, width = [(number - 0.5) / num_bins for number in numbers], 0.9 / num_bins
    figure = new_figure(4.5, 5, dpi=120)
    figure.set_layout_engine("constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    above.bar(centres, accuracies, width=width, color=PALETTE[0], label="accuracy")
    above.plot([0, 1], [0, 1], "--", color="0.3", linewidth=1.2, label="as sure as right")
    above.plot(
        confidences, accuracies, "o", color="0.2", markersize=4, clip_on=False, label="accuracy at the mean score"
    )
    above.set_xlim(0, 1.01)
    above.set_ylim(0, 1.02)
    above.set_ylabel("accuracy")
    figure.suptitle(title, fontsize=10, color="0.25")
    figure.legend(
        frameon=False, fontsize=7.5, loc="outside lower center", ncols=3, handlelength=1.8, columnspacing=1.2
    )
    below.bar(centres, counts, width=width, color=PALETTE[3])
    below.set_yscale("log")
    below.set_ylim(0.8, 2 * max(counts))
    below.set_ylabel("images")
    below.set_xlabel("score of the most probable label")
    for axes in (above, below):
        axes.grid(alpha=0.25, axis="y")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


__all__ = ["plot_reliability"]
