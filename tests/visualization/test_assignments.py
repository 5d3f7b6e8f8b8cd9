# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Heat maps of probabilities: their cells by hand, and the way through the flow by its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lzn_hf.latent_zones import trace_assignments
from lzn_hf.visualization.assignments import assignments_along_flow, plot_assignment_flow, plot_assignments
from lzn_hf.visualization.figures import draw_figure


NAMES = ["ant", "bee", "cat", "dog"]


def log_probs(count: int = 9, labels: int = 4) -> torch.Tensor:
    return torch.randn(count, labels, generator=torch.Generator().manual_seed(0)).log_softmax(-1)


@pytest.fixture(scope="module")
def zones() -> tuple[torch.Tensor, torch.Tensor]:
    """Latents, and label anchors so far apart that all is decided early."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 8, generator=generator), 3 * torch.randn(4, 8, generator=generator)


def cells(figure, number: int = 0) -> np.ndarray:
    return np.asarray(figure.axes[number].get_images()[0].get_array())


def names(figure, axis: str, number: int = 0) -> list[str]:
    return [text.get_text() for text in getattr(figure.axes[number], f"get_{axis}ticklabels")()]


def test_a_row_is_an_image():
    scores = log_probs()
    figure = plot_assignments(scores, NAMES, row_names=[f"image {i}" for i in range(9)])
    assert np.allclose(cells(figure), scores.exp())
    assert names(figure, "x") == NAMES and names(figure, "y")[3] == "image 3"
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == [f"{p:.2f}" for p in scores.exp().flatten().tolist() if p >= 0.005]


def test_with_labels_a_row_is_the_mean_of_the_images_of_a_label():
    scores, labels = log_probs(), torch.tensor([0, 0, 2, 2, 2, 0, 3, 3, 3])
    figure = plot_assignments(scores, NAMES, labels=labels)
    expected = np.stack([scores.exp()[labels == label].mean(0) for label in (0, 2, 3)])
    assert np.allclose(cells(figure), expected)
    assert names(figure, "y") == ["ant  (3)", "cat  (3)", "dog  (3)"]  # none of a label without images


def test_impossible_labels_are_white():
    scores = torch.tensor([[0.0, -torch.inf]])
    assert cells(plot_assignments(scores, ["a", "b"])).tolist() == [[1, 0]]


def test_the_flow_is_read_at_its_times(zones):
    latents, anchors = zones
    times = [0.0, 0.1, 0.4, 1.0]
    found = assignments_along_flow(latents, anchors, times, solver="euler", num_steps=7)
    assert torch.allclose(found[:, 0], torch.full((5, 4), 0.25, dtype=torch.float64))
    for number, time in enumerate(times[1:], start=1):
        expected = trace_assignments(latents, anchors, solver="euler", num_steps=7, end=time)[1][-1].exp()
        assert torch.allclose(found[:, number], expected.double())


def test_a_panel_is_a_latent(zones):
    latents, anchors = zones
    images = torch.zeros(5, 1, 8, 8)
    options = {"images": images, "row_names": [f"latent {i}" for i in range(5)], "num_times": 6, "columns": 3}
    figure = plot_assignment_flow(latents, anchors, NAMES, end=0.5, **options)
    panels = [axes for axes in figure.axes if axes.get_title().startswith("latent")]
    assert [axes.get_title() for axes in panels] == options["row_names"]
    times = np.linspace(0, 0.5, 6).tolist()
    expected = assignments_along_flow(latents, anchors, times, solver="adams", num_steps=20)
    for axes, own in zip(panels, expected, strict=True):
        (picture,) = axes.get_images()
        assert np.allclose(picture.get_array(), own.T)
        assert picture.get_extent()[:2] == [0, 0.5] or picture.get_extent()[:2] == (0, 0.5)
    assert names(figure, "y") == NAMES


@pytest.mark.parametrize(("count", "name"), [(2, "{}"), (11, "{}"), (40, "a label with number {}")])
@pytest.mark.parametrize("with_images", [False, True])
def test_no_text_lies_on_another_or_leaves_the_picture(count, name, with_images):
    """Of few labels and many, with short names and long ones."""
    labels = [name.format(number) for number in range(count)]
    images = torch.zeros(7, 3, 8, 8) if with_images else None
    rows = [f"image {number}" for number in range(7)]
    generator = torch.Generator().manual_seed(0)
    latents, anchors = torch.randn(7, 6, generator=generator), torch.randn(count, 6, generator=generator)
    options = {"images": images, "row_names": rows, "title": "A title"}
    heat_map = plot_assignments(log_probs(7, count), labels, **options)
    flow = plot_assignment_flow(latents, anchors, labels, num_times=3, **options)
    by_label = plot_assignments(log_probs(7, count), labels, labels=torch.arange(7) % count, title="A title")
    for figure in (heat_map, flow, by_label):
        draw_figure(figure)
        shown = [axes for axes in figure.axes if axes.axison]
        texts = [text for axes in shown for text in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        texts += [text for axes in shown for text in (axes.title, axes.xaxis.label, axes.yaxis.label)] + figure.texts
        parts = [text for text in texts if text.get_text()] + figure.axes
        boxes = [part.get_window_extent() for part in parts]
        for number, box in enumerate(boxes):
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, parts[number]
            below = [parts[other] for other in range(number) if box.overlaps(boxes[other])]
            assert not below, f"{parts[number]} lies on {below}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_probs": torch.zeros(3, 4, dtype=torch.int64)}, "`log_probs` must be floating point"),
        ({"log_probs": torch.full((3, 4), torch.nan)}, "`log_probs` must be finite"),
        ({"log_probs": torch.full((3, 4), 0.5)}, "must be logarithms of probabilities, at most 0, got 0.5"),
        ({"log_probs": log_probs(65)}, "at most 64 images to show each, got 65"),
        ({"label_names": ["a"]}, "`label_names` must hold 4 names"),
        ({"labels": torch.tensor([0, 1])}, r"`labels` must be whole numbers of shape \(9,\)"),
        ({"labels": torch.zeros(9, dtype=torch.int64), "row_names": ["a"] * 9}, "`row_names` are of single images"),
        ({"row_names": ["a"]}, "`row_names` must hold 9"),
        ({"images": torch.zeros(2, 1, 8, 8)}, "`images` must hold 9"),
    ],
)
def test_a_heat_map_refuses_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        plot_assignments(**{"log_probs": log_probs(), "label_names": NAMES, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.full((5, 8), torch.nan)}, "`latents` must be finite"),
        ({"latents": torch.zeros(41, 8)}, "at most 40 to show each, got 41"),
        ({"label_names": ["a"]}, "`label_names` must hold a name for each label anchor"),
        ({"num_times": 1}, "`num_times` must be a whole number of at least 2"),
        ({"columns": 0}, "`columns` must be a whole number of at least 1"),
        ({"end": 0.0}, r"`end` must be in \(0, 1\], got 0"),
        ({"solver": "rk4"}, "`solver` must be"),
        ({"row_names": ["a"]}, "`row_names` must hold 5"),
        ({"images": torch.zeros(2, 1, 8, 8)}, "`images` must hold 5"),
    ],
)
def test_a_flow_refuses_wrong_arguments(zones, change, message):
    latents, anchors = zones
    with pytest.raises(ValueError, match=message):
        plot_assignment_flow(**{"latents": latents, "label_anchors": anchors, "label_names": NAMES, **change})
