# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Sample grids and trajectories as figures: which image is where, with which text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lzn_hf.visualization.figures import draw_figure
from lzn_hf.visualization.samples import plot_samples, plot_trajectory


GREYS = torch.linspace(-1, 1, 6)


def flat(count: int = 6, channels: int = 1, size: tuple[int, int] = (8, 8)) -> torch.Tensor:
    """Images of one grey each, darkest first."""
    return GREYS[:count].reshape(-1, 1, 1, 1).expand(-1, channels, *size)


def drawn_images(figure) -> list[tuple[tuple[float, float], float]]:
    """The middle of each image in inches from the upper left corner, and its mean grey from 0 to 1."""
    found = []
    for image in figure.axes[0].get_images():
        left, right, bottom, top = image.get_extent()
        found.append((((left + right) / 2, (bottom + top) / 2), float(np.mean(image.get_array())) / 255))
    return found


def texts(figure) -> dict[str, tuple[float, float]]:
    return {text.get_text(): text.get_position() for text in figure.axes[0].texts if text.get_text()}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("as_pil", [False, True])
def test_images_stand_row_by_row_under_their_texts(channels, as_pil):
    images = flat(channels=channels)
    if as_pil:
        mode = "L" if channels == 1 else "RGB"
        pixels = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).squeeze(-1).numpy()
        images = [Image.fromarray(one, mode=mode) for one in pixels]
    figure = plot_samples(images, 4, captions=list("abcdef"), row_labels=["first", "second"], title="Greys")
    places, greys = zip(*drawn_images(figure), strict=True)
    assert np.allclose(greys, (GREYS + 1) / 2, atol=0.005)
    xs, ys = np.array(places).T
    assert (np.diff(xs[:4]) > 0).all() and np.allclose(xs[4:], xs[:2])
    assert np.allclose(ys[:4], ys[0]) and (ys[4:] > ys[0]).all()  # downwards
    found = texts(figure)
    for name, (x, y) in zip("abcdef", places, strict=True):
        assert found[name][0] == pytest.approx(x) and 0.3 < y - found[name][1] < 0.6
    assert found["first"] == pytest.approx((found["second"][0], ys[0])) and found["second"][1] == pytest.approx(ys[4])
    assert "Greys" in found


@pytest.mark.parametrize("size", [(8, 8), (300, 300), (12, 30)])
def test_no_text_lies_on_another_or_on_an_image(size):
    figure = plot_samples(
        flat(size=size),
        3,
        captions=[f"label {number}\n0.98" for number in range(6)],
        row_labels=["a first label", "b"],
        column_labels=["x", "y", "z"],
        title="A title that is longer than the images are wide, which happens with few columns",
        xlabel="below",
    )
    picture = draw_figure(figure)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    boxes += [image.get_window_extent() for image in figure.axes[0].get_images()]
    assert len(boxes) == 6 + 2 + 3 + 2 + 6
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= picture.width and box.y1 <= picture.height, box
        assert not any(box.overlaps(other) for other in boxes[:number])
    shapes = {(round(box.width / box.height, 2)) for box in boxes[-6:]}
    assert shapes == {round(size[1] / size[0], 2)}


def test_few_images_are_not_followed_by_empty_columns():
    narrow, wide = (plot_samples(flat(count), 10).get_figwidth() for count in (2, 6))
    assert wide > 2.5 * narrow


def test_a_trajectory_goes_from_left_to_right():
    trajectory = torch.stack([flat(2), flat(4)[2:], flat(6)[4:]])  # of two images: 0 2 4, and 1 3 5
    figure = plot_trajectory(trajectory, [0.0, 0.25, 1.0], row_labels=["cat", "dog"])
    _, greys = zip(*drawn_images(figure), strict=True)
    assert np.allclose(greys, ((GREYS + 1) / 2)[[0, 2, 4, 1, 3, 5]], atol=0.005)
    found = texts(figure)
    assert found["0"][0] < found["0.25"][0] < found["1"][0]
    assert {"cat", "dog", "From noise to images"} <= found.keys()
    long = torch.zeros(21, 1, 1, 8, 8)
    assert len(drawn_images(plot_trajectory(long, torch.linspace(0, 1, 21).tolist(), columns=5))) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "`images` must hold at least one image"),
        ({"images": torch.zeros(2, 2, 8, 8)}, "with 1 or 3 channels"),
        ({"columns": 0}, "`columns` must be a whole number of at least 1"),
        ({"captions": ["a"]}, "`captions` must hold one text for each of the 6 images, got 1"),
        ({"row_labels": ["a"]}, "`row_labels` must hold one text for each of the 2 rows, got 1"),
        ({"column_labels": ["a"]}, "`column_labels` must hold one text for each of the 4 columns, got 1"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        plot_samples(**{"images": flat(), "columns": 4, **change})


def test_a_wrong_trajectory_is_refused():
    with pytest.raises(ValueError, match="`times` must hold one time for each of the 3 samples"):
        plot_trajectory(torch.zeros(3, 1, 1, 8, 8), [0.0, 1.0])
    with pytest.raises(ValueError, match="`row_labels` must hold"):
        plot_trajectory(torch.zeros(3, 1, 1, 8, 8), [0.0, 0.5, 1.0], row_labels=["a", "b"])
