# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Quality of samples against their cost, and against a scale, as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .figures import PALETTE, new_figure


if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES = ("-", "--", ":", "-.")


def plot_quality(
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    *,
    real_images: float | None = None,
    title: str = "",
    ylabel: str = "Fréchet distance",
) -> Figure:
    """Plots a distance against network evaluations per image, on logarithmic axes.

    Args:
        curves (`dict`): lists of points (evaluations, distance) by method and family of samplers, `{"lzn": {"heun": [(4, 0.5),
            (8, 0.3)]}}`. Methods have different line styles and families different colours. Methods are in the legend if there are
            several.
        real_images (`float`, *optional*): the distance of other real images, drawn as a horizontal line.
        title (`str`, *optional*, defaults to `""`): heading.
        ylabel (`str`, *optional*, defaults to `"Fréchet distance"`): name of the distance.

    Returns:
        `Figure`: 840 x 540 pixels.
    """
    figure = new_figure(7, 4.5, dpi=120)
    from matplotlib.ticker import NullLocator, ScalarFormatter

    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    families = list(dict.fromkeys(family for lines in curves.values() for family in lines))
    for style, (method, lines) in zip(STYLES, curves.items(), strict=False):
        for family, points in lines.items():
            label = f"{method}, {family}" if len(curves) > 1 else family
            colour = PALETTE[families.index(family) % len(PALETTE)]
            axes.plot(*zip(*sorted(points), strict=True), style, color=colour, marker="o", markersize=5, label=label)
    ticks = sorted({round(x) for lines in curves.values() for points in lines.values() for x, _ in points})
    if real_images is not None:
        axes.axhline(real_images, color="0.4", linestyle=":", linewidth=1.2, label=f"real images: {real_images:.4g}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(ScalarFormatter())
    axes.set_xlabel("network evaluations per image")
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=10, color="0.25")
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def plot_measures(
    measures: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    *,
    xlabel: str,
    real_images: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Plots several measures against one quantity, side by side.

    Args:
        measures (`dict`): for each measure the lines of points by their names, `{"precision": {"guided": [(1, 0.8), (2, 0.9)]}}`. Lines of
            one name have one colour.
        xlabel (`str`): name of the quantity.
        real_images (`dict` of `str` to `float`, *optional*): the value of real images for each measure, drawn as a horizontal line.
        title (`str`, *optional*, defaults to `""`): heading.

    Returns:
        `Figure`: 384 x 408 pixels a measure.
    """
    figure = new_figure(3.2 * len(measures), 3.4, dpi=120)
    figure.set_layout_engine("constrained")
    names = list(dict.fromkeys(name for lines in measures.values() for name in lines))
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, (measure, lines) in zip(panels, measures.items(), strict=True):
        for name, points in lines.items():
            colour = PALETTE[names.index(name) % len(PALETTE)]
            axes.plot(*zip(*sorted(points), strict=True), color=colour, marker="o", markersize=4, label=name)
        if real_images is not None and measure in real_images:
            axes.axhline(real_images[measure], color="0.4", linestyle=":", linewidth=1.2, label="real images")
        axes.set_title(measure, fontsize=10)
        axes.set_xlabel(xlabel)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, color="0.25")
    return figure


__all__ = ["plot_measures", "plot_quality"]
