# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The curves of runs: which lines count, what is drawn where, and that the picture says how it was smoothed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lzn_hf.visualization.figures import draw_figure
from lzn_hf.visualization.runs import plot_curves, plot_metrics, read_metrics, running_mean


def lines(count: int = 80, scale: float = 1.0) -> list[dict[str, float]]:
    """Lines of a run as the training loop writes them, with an evaluation after each twentieth."""
    rng, found = np.random.default_rng(0), []
    for number in range(1, count + 1):
        loss = scale * (3 / number + 0.1 * rng.random())
        measures = {
            "loss": loss,
            "alignment_loss": -loss,
            "latent_mean": rng.normal(),
            "images_per_second": rng.random(),
        }
        found.append({"step": 10 * number, **measures, "encoder_learning_rate": 1 / number, "nonfinite_steps": 0})
        if number % 20 == 0:
            found.append({"step": 10 * number, "validation_accuracy": 1 - 1 / number})
    return found


def write(path: Path, metrics: list[dict[str, float]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in metrics))
    return path


def panels(figure) -> dict:
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def texts(figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def test_a_run_is_read_from_its_folder_or_its_file(tmp_path):
    path = write(tmp_path / "run" / "metrics.jsonl", lines(5))
    assert read_metrics(tmp_path / "run") == read_metrics(str(path)) == lines(5)


def test_where_steps_go_back_a_run_was_resumed(tmp_path):
    """Whatever was written of the step that it was resumed at, and later, is replaced."""
    whole = lines(60)
    interrupted = [{**line, "loss": 99.0} for line in whole if line["step"] > 300][:12]
    begin, end = ([line for line in whole if keep(line["step"])] for keep in (lambda s: s <= 300, lambda s: s > 300))
    path = write(tmp_path / "metrics.jsonl", begin + interrupted + end)
    assert read_metrics(path) == whole
    # Twice, and further back the second time.
    path = write(tmp_path / "metrics.jsonl", begin + interrupted + end[:5] + whole)
    assert read_metrics(path) == whole


def test_a_line_that_is_being_written_does_not_count(tmp_path):
    path = write(tmp_path / "metrics.jsonl", lines(5))
    with path.open("a") as file:
        file.write('{"step": 60, "lo')
    assert read_metrics(path) == lines(5)


def test_a_running_mean_is_of_the_last_values_that_are_finite():
    values = np.array([1.0, 2.0, math.nan, 4.0, 5.0, math.inf, 7.0])
    expected = [
        np.mean(kept) if (kept := [x for x in values[max(0, i - 2) : i + 1] if math.isfinite(x)]) else math.nan
        for i in range(7)
    ]
    assert np.allclose(running_mean(values, 3), expected)
    assert np.isnan(running_mean(np.array([math.nan, 1.0]), 2)).tolist() == [True, False]


def test_every_metric_has_a_panel_with_losses_first_and_rates_last():
    figure = plot_metrics({"run": lines()})
    names = ["loss", "alignment loss", "latent mean", "validation accuracy", "encoder learning rate"]
    assert list(panels(figure)) == names  # not the speed, and no skipped steps where there were none
    skipped = [{**line, "nonfinite_steps": 2} for line in lines()]
    assert list(panels(plot_metrics({"run": skipped})))[3] == "nonfinite steps"
    assert panels(figure)["loss"].get_yscale() == "log" and panels(figure)["alignment loss"].get_yscale() == "linear"


def test_metrics_of_training_are_smoothed_and_the_caption_says_so():
    figure = plot_metrics({"run": lines()}, smoothing=7)
    pale, strong = panels(figure)["loss"].get_lines()
    raw = [line["loss"] for line in lines() if "loss" in line]
    assert np.array_equal(pale.get_ydata(), raw) and pale.get_alpha() < 1
    assert np.allclose(strong.get_ydata(), running_mean(np.array(raw), 7))
    assert "the mean over the last 7 lines" in texts(figure)
    for name in ("validation accuracy", "encoder learning rate"):
        (line,) = panels(figure)[name].get_lines()
        assert len(line.get_ydata()) == (4 if name.startswith("validation") else 80)
    # By default over a fortieth of the run; none of a short one.
    assert "the mean over the last 2 lines" in texts(plot_metrics({"run": lines()}))
    assert "not smoothed" in texts(plot_metrics({"run": lines(30)}))
    assert len(panels(plot_metrics({"run": lines()}, smoothing=1))["loss"].get_lines()) == 1


def test_runs_lie_over_one_another_with_a_colour_and_a_kind_of_line_each(tmp_path):
    for name in ("a/first", "b/first", "b/second"):
        write(tmp_path / name / "metrics.jsonl", lines(60 if name == "a/first" else 40))
    runs = [tmp_path / "a" / "first", tmp_path / "b" / "first" / "metrics.jsonl", str(tmp_path / "b" / "second")]
    figure = plot_curves(runs, smoothing=1)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a/first", "b/first", "b/second"]
    drawn = panels(figure)["alignment loss"].get_lines()
    assert [len(line.get_xdata()) for line in drawn] == [60, 40, 40]
    assert len({line.get_color() for line in drawn}) == len({line.get_linestyle() for line in drawn}) == 3
    # A run without a metric is left out of its panel.
    other = [{"step": line["step"], "loss": 1.0} for line in lines(20)]
    figure = plot_metrics({"one": lines(), "other": other}, smoothing=1)
    assert [len(panels(figure)[name].get_lines()) for name in ("loss", "alignment loss")] == [2, 1]
    names = [text.get_text() for text in plot_curves(runs, names=["x", "y", "z"]).legends[0].get_texts()]
    assert names == ["x", "y", "z"]


def test_one_run_has_its_name_and_its_last_values(tmp_path):
    write(tmp_path / "mine" / "metrics.jsonl", lines())
    figure = plot_curves([tmp_path / "mine"])
    assert "mine" in texts(figure) and not figure.legends
    assert panels(figure)["validation accuracy"].get_title(loc="right") == "0.988"


def test_values_that_are_not_finite_are_gaps():
    spoilt = [{**line, "loss": math.nan} if line["step"] < 100 else line for line in lines()]
    draw_figure(plot_metrics({"run": spoilt}))
    draw_figure(plot_metrics({"run": [{"step": 1, "loss": math.nan}]}))


@pytest.mark.parametrize("count", [1, 2, 11])
def test_no_text_lies_on_another(count):
    """Whatever the number of panels and runs is; with long names, as paths are."""
    runs = {f"some/folder/with a long name/{number}": lines(50 + number) for number in range(count)}
    figure = plot_metrics(runs)
    draw_figure(figure)
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    boxes += [axes.get_tightbbox() for axes in figure.axes]
    whole = figure.bbox
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= whole.x1 and box.y1 <= whole.y1, box
        assert not any(box.overlaps(other) for other in boxes[:number])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no metrics yet"),
        ("nonsense\n", "line 1 of .*metrics.jsonl is no JSON"),
        ('{"step": 1, "loss": 2}\n[1]\n', r"line 2 of .* must be like .* got \[1\]"),
        ('{"loss": 1}\n', "line 1 of .* must be like"),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path, text, message):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        plot_curves([tmp_path])


def test_wrong_arguments_are_refused(tmp_path):
    path = write(tmp_path / "metrics.jsonl", lines(5))
    for runs, options, message in [
        ([tmp_path / "none"], {}, "there is no .*none"),
        ([tmp_path, path], {}, "`runs` must differ"),
        (tmp_path, {}, "`runs` must be a list of runs"),
        ([], {}, "`runs` must hold metrics"),
        ([path], {"names": ["a", "b"]}, "`names` must hold 1 different names"),
        ([path], {"smoothing": 0}, "`smoothing` must be a whole number of at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            plot_curves(runs, **options)
    with pytest.raises(ValueError, match="`runs` must hold metrics besides step and images_per_second, got 1 lines"):
        plot_metrics({"run": [{"step": 1, "images_per_second": 3.0}]})
