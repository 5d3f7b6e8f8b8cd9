# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Training runs as curves, from the lines of metrics that they write."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks_lzn import check_at_least
from .figures import PALETTE, new_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS_FILE = "metrics.jsonl"
# Beside the colours, so that runs can be told apart in grey.
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v")
# The speed depends on what else the machine does: a resumed run could not have the curve of one that went through.
NOT_SHOWN = ("step", "images_per_second")
SKIPPED = "nonfinite_steps"  # shown if there were any
IDEALS = {"latent_mean": 0.0, "latent_std": 1.0}  # of latents that are distributed like the prior
POINTS_OF_A_MEAN = 40  # of a curve, by default: a point is the mean of a fortieth of it
MAX_COLUMNS = 4
LOG_RATIO = 10  # of the largest to the smallest value of a logarithmic axis
WIDTH, HEIGHT = 3.1, 2.1  # of a panel with the room around it, in inches


def read_metrics(run: str | os.PathLike) -> list[dict[str, float]]:
    """Reads the lines of metrics of a training run in their order.

    Where the steps go back, a run was resumed from there: earlier lines of that step and of later ones are left out. So is a last line
    without an end: the run is about to write it.

    Args:
        run (`str` or `os.PathLike`): the folder of a run, or its `metrics.jsonl`.

    Returns:
        `list[dict[str, float]]`: the lines, each with its `step`.

    Raises:
        ValueError: if there is no such file, it has no metrics yet, or a line is something else.
    """
    path = Path(run)
    if path.is_dir():
        path = path / METRICS_FILE
    if not path.is_file():
        raise ValueError(f"`run` must be the folder of a training run or its {METRICS_FILE}, but there is no {path}.")
    lines: list[dict[str, float]] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not text.endswith("\n"):
            break
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {path} is no JSON: {error}.") from error
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise ValueError(
                f'line {number} of {path} must be like {{"step": 10, "loss": 1.5}}, got {text.strip()[:80]}.'
            )
        if lines and line["step"] < lines[-1]["step"]:
            lines = [earlier for earlier in lines if earlier["step"] < line["step"]]
        lines.append(line)
    if not lines:
        raise ValueError(f"{path} has no metrics yet: a run writes the first after `--logging_steps` steps.")
    return lines


def plot_curves(
    runs: Sequence[str | os.PathLike], *, names: Sequence[str] | None = None, smoothing: int | None = None
) -> Figure:
    """Plots the metrics of training runs over their steps, the runs over one another.

    Args:
        runs (list of `str` or `os.PathLike`): folders of runs, or their `metrics.jsonl`, see [`read_metrics`].
        names (list of `str`, *optional*): a name for each run. Default: the shortest ends of their paths that differ.
        smoothing (`int`, *optional*): see [`plot_metrics`].

    Returns:
        `Figure`: see [`plot_metrics`].

    Raises:
        ValueError: as [`read_metrics`] and [`plot_metrics`], for a run that is there twice, and for another number of names.
    """
    if isinstance(runs, str | os.PathLike):
        raise ValueError(f"`runs` must be a list of runs, got {os.fspath(runs)!r}: put it into brackets.")
    paths = [Path(run) for run in runs]
    names = _run_names(paths) if names is None else list(names)
    if len(names) != len(paths) or len(set(names)) != len(names):
        raise ValueError(f"`names` must hold {len(paths)} different names, one for each run, got {names}.")
    return plot_metrics(
        {name: read_metrics(path) for name, path in zip(names, paths, strict=True)}, smoothing=smoothing
    )


def plot_metrics(runs: Mapping[str, Sequence[Mapping[str, float]]], *, smoothing: int | None = None) -> Figure:
    """Plots lines of metrics over their steps: one panel a metric, with the losses first, then what else is measured in training, the
    validation and the learning rates.

    A run has one colour and one kind of line in all panels. Metrics of training are pale as they were logged, and strong as means over
    the last lines; the caption says over how many. The axis of a metric is logarithmic if its values are positive and differ tenfold.
    The number of skipped steps is shown if there were any, the speed never. With one run, its last values are in the headings.

    Args:
        runs (`dict`): the lines of each run, `{"run": [{"step": 10, "loss": 1.5}, ...]}`.
        smoothing (`int`, *optional*): lines that a point of a strong curve is the mean of; 1 for none. Default: a fortieth of the longest
            curve.

    Returns:
        `Figure`: up to four panels side by side.

    Raises:
        ValueError: for runs without metrics, and for a `smoothing` below 1.
    """
    lines = list(chain.from_iterable(runs.values()))
    panels = _panels(lines)
    if not panels:
        raise ValueError(
            f"`runs` must hold metrics besides {' and '.join(NOT_SHOWN)}, got {len(lines)} lines of {len(runs)} runs."
        )
    if smoothing is None:
        longest = max(sum(name in line for line in own) for own in runs.values() for name in panels)
        smoothing = max(1, longest // POINTS_OF_A_MEAN)
    check_at_least(1, smoothing=smoothing)

    columns = min(MAX_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = 0.4 + WIDTH * max(columns, 2)
    entries = max(1, int(14 * width / (8 + max(map(len, runs)))))  # names in a line of the legend
    top = 0.4 + (0.3 if len(runs) == 1 else 0.1 + 0.2 * math.ceil(len(runs) / entries))
    height = top + HEIGHT * rows + 0.3
    figure = new_figure(width, height)
    inside = {"left": 0.65 / width, "right": 1 - 0.2 / width, "bottom": 0.8 / height, "top": 1 - top / height}
    grid = figure.add_gridspec(rows, columns, wspace=0.34, hspace=0.48, **inside)
    last_step = max(line["step"] for line in lines)
    for number, name in enumerate(panels):
        axes = figure.add_subplot(grid[divmod(number, columns)])
        _draw_metric(axes, name, runs, smoothing)
        axes.set_xlim(-0.02 * last_step, 1.04 * last_step)
        if number + columns >= len(panels):
            axes.set_xlabel("step", fontsize=8, color="0.25")
    if len(runs) == 1:
        figure.text(0.2 / width, 1 - 0.12 / height, next(iter(runs)), va="top", fontsize=12)
    else:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], label=name, **_style(number)) for number, name in enumerate(runs)]
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.0, 1.0), "ncols": min(entries, len(runs))}
        figure.legend(handles=handles, frameon=False, fontsize=9, handlelength=3.2, **place)
    smooth = "Each line of metrics as it was logged, not smoothed."
    if smoothing > 1:
        smooth = f"Pale: each line of metrics. Strong: the mean over the last {smoothing} lines."
    dots = " Dots: measured now and then." if any(_kind(name) == VALIDATION for name in panels) else ""
    last = " On the right above: the last value." if len(runs) == 1 else ""
    caption = smooth + dots + last
    figure.text(0.2 / width, 0.12 / height, caption, fontsize=8.5, color="0.25")
    return figure


def _draw_metric(axes: Axes, name: str, runs: Mapping[str, Sequence[Mapping[str, float]]], smoothing: int) -> None:
    """One metric of all runs."""
    from matplotlib.ticker import MaxNLocator

    everything, last = [], math.nan
    for number, lines in enumerate(runs.values()):
        points = [(line["step"], float(line[name])) for line in lines if name in line]
        if not points:
            continue
        steps, values = np.array(points).T
        style, last = _style(number), values[-1]
        everything.append(values[np.isfinite(values)])
        if _kind(name) == VALIDATION:
            axes.plot(steps, values, marker=MARKERS[number % len(MARKERS)], markersize=4, **style)
        elif _kind(name) in (LOSS, MEASURE) and smoothing > 1:
            axes.plot(steps, values, color=style["color"], linewidth=0.7, alpha=0.35)
            axes.plot(steps, running_mean(values, smoothing), **style)
        else:
            axes.plot(steps, values, **style)
    if name in IDEALS:
        axes.axhline(IDEALS[name], color="0.35", linestyle=":", linewidth=1, zorder=0.5)
    finite = np.concatenate(everything)
    if len(finite) and finite.min() > 0 and finite.max() >= LOG_RATIO * finite.min() and _kind(name) != LEARNING_RATE:
        axes.set_yscale("log")
    axes.set_title(name.replace("_", " "), fontsize=9, loc="left")
    if len(runs) == 1:
        axes.set_title(f"{last:.3g}", fontsize=8, loc="right", color="0.35")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(labelsize=7, color="0.5")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def running_mean(values: np.ndarray, count: int) -> np.ndarray:
    """The mean of each value `(N,)` and the `count - 1` before it, of as many as there are. Those that are not finite do not count."""
    valid = np.isfinite(values)
    sums, counts = np.cumsum(np.where(valid, values, 0.0)), np.cumsum(valid)
    sums[count:], counts[count:] = sums[count:] - sums[:-count], counts[count:] - counts[:-count]
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


LOSS, MEASURE, COUNT, VALIDATION, LEARNING_RATE = range(5)  # kinds of metrics, in the order of their panels


def _kind(name: str) -> int:
    if name.endswith("_learning_rate"):
        return LEARNING_RATE
    if name.startswith("validation_"):
        return VALIDATION
    if name == SKIPPED:
        return COUNT
    return LOSS if name == "loss" or name.endswith("_loss") else MEASURE


def _panels(lines: Sequence[Mapping[str, float]]) -> list[str]:
    """The metrics that are shown, in their order."""
    names = [name for name in dict.fromkeys(chain.from_iterable(lines)) if name not in NOT_SHOWN]
    if not any(line.get(SKIPPED) for line in lines):
        names = [name for name in names if name != SKIPPED]
    return sorted(names, key=_kind)


def _style(number: int) -> dict[str, Any]:
    """The colour and the kind of line of a run."""
    return {"color": PALETTE[number % len(PALETTE)], "linestyle": STYLES[number % len(STYLES)], "linewidth": 1.5}


def _run_names(runs: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths of runs, in whole parts, by which they differ."""
    parts = [(path.parent if path.name == METRICS_FILE else path).resolve().parts for path in runs]
    if len(set(parts)) != len(parts):
        raise ValueError(f"`runs` must differ, got {', '.join(map(str, runs))}.")
    lengths = range(1, 1 + max(map(len, parts), default=1))
    length = next(n for n in lengths if len({one[-n:] for one in parts}) == len(parts))
    return ["/".join(one[-length:]) for one in parts]


__all__ = ["METRICS_FILE", "plot_curves", "plot_metrics", "read_metrics", "running_mean"]
