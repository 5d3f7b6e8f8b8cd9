# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Grids of images, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lzn_hf.visualization.grids import GAP, comparison_grid, image_grid, trajectory_strip


# Grids


def grey(*values: int, size: int = 8) -> list[Image.Image]:
    return [Image.new("L", (size, size), value) for value in values]


def test_grid_places_and_enlarges_every_pixel():
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    grid = np.asarray(image_grid(images, 3))
    assert grid.shape == (GAP + 2 * (32 + GAP), GAP + 3 * (32 + GAP))
    expected = np.full_like(grid, 255)
    for number, image in enumerate(images.numpy()):
        top, left = (GAP + place * (32 + GAP) for place in divmod(number, 3))
        expected[top : top + 32, left : left + 32] = np.kron(image[0], np.ones((4, 4), dtype=np.uint8))
    assert (grid == expected).all()


def test_grid_takes_uint8_floating_point_and_pil_alike():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    pils = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    grids = [np.asarray(image_grid(x, 2)) for x in (images, images / 127.5 - 1, pils, iter(pils))]
    assert grids[0].ndim == 3
    assert all((grid == grids[0]).all() for grid in grids)
    # What lies beyond [-1, 1] is clipped.
    assert np.asarray(image_grid(torch.full((1, 1, 32, 32), -1.2), 1))[GAP, GAP] == 0
    # Grey beside colour becomes colour.
    assert image_grid([*grey(0), Image.new("RGB", (8, 8), "red")], 2).mode == "RGB"


@pytest.mark.parametrize(
    ("size", "min_cell_size", "cell"), [(8, 32, 32), (12, 32, 36), (64, 32, 64), (8, 8, 8), (7, 64, 70)]
)
def test_grid_enlarges_by_whole_factors(size, min_cell_size, cell):
    assert image_grid(grey(0, size=size), 1, min_cell_size=min_cell_size).size == (cell + 2 * GAP, cell + 2 * GAP)


def test_grid_draws_row_labels_to_the_left():
    images = grey(100, 100, 100, 100)
    plain = np.asarray(image_grid(images, 2))
    labelled = np.asarray(image_grid(images, 2, row_labels=["seven", ""]))
    left = labelled.shape[1] - plain.shape[1]
    assert left > 20
    assert (labelled[:, left:] == plain).all()
    assert (labelled[: GAP + 32, :left] < 128).any()  # ink beside the first row
    assert (labelled[GAP + 32 :, :left] == 255).all()  # and none beside the second
    assert (labelled[:, left - GAP : left] == 255).all()


@pytest.mark.parametrize("row_labels", [None, ["seven", "eight"]])
def test_grid_draws_column_labels_above(row_labels):
    images = grey(100, 100, 100, 100)
    plain = np.asarray(image_grid(images, 2, row_labels=row_labels))
    labelled = np.asarray(image_grid(images, 2, row_labels=row_labels, column_labels=["a long text", ""]))
    top = labelled.shape[0] - plain.shape[0]
    assert top >= 6 and labelled.shape[1] == plain.shape[1]
    assert (labelled[top:] == plain).all()
    left = plain.shape[1] - 2 * (32 + GAP)
    first, second = labelled[:top, : left + 32 + GAP // 2], labelled[:top, left + 32 + GAP // 2 :]
    assert (first < 128).any() and (second == 255).all()  # ink above the first column and none above the second
    assert (first[:, : left - GAP] == 255).all()  # nor left of it: the text is made to fit


def test_strip_shows_the_trajectory_from_left_to_right():
    trajectory = torch.linspace(-1, 1, 7)[:, None, None, None, None] * torch.tensor([1.0, 0.5]).view(1, 2, 1, 1, 1)
    trajectory = trajectory.expand(7, 2, 1, 8, 8)
    times = [0, 0.1, 0.2, 0.5, 0.7, 0.9, 1]
    strip = trajectory_strip(trajectory, times, columns=4)
    chosen = trajectory[[0, 2, 4, 6]].transpose(0, 1).flatten(0, 1)
    assert strip == image_grid(chosen, 4, column_labels=["0", "0.2", "0.7", "1"])
    everything = trajectory_strip(trajectory, times, min_cell_size=8)
    texts = [str(time) for time in times]
    assert everything == image_grid(trajectory.transpose(0, 1).flatten(0, 1), 7, column_labels=texts, min_cell_size=8)


@pytest.mark.parametrize(
    ("shape", "times", "columns", "message"),
    [
        ((3, 2, 1, 8, 8), [0, 1], 3, "`times` must hold one time for each of the 3 samples, got 2"),
        ((3, 2, 1, 8, 8), [0, 0.5, 1], 1, "`columns` must be a whole number of at least 2, got 1"),
        ((3, 1, 8, 8), [0, 0.5, 1], 3, r"`trajectory` must be \(S, B, C, H, W\) .*, got \(3, 1, 8, 8\)"),
        ((1, 2, 1, 8, 8), [0], 3, "`trajectory` must be .* with S at least 2"),
    ],
)
def test_strip_refuses_bad_arguments(shape, times, columns, message):
    with pytest.raises(ValueError, match=message):
        trajectory_strip(torch.zeros(shape), times, columns)


def test_comparison_grid_pairs_rows():
    first, second = grey(10, 20, 30), grey(110, 120, 130)
    grid = comparison_grid({"original": first, "copy": second}, columns=2)
    expected = image_grid(
        grey(10, 20, 110, 120, 30, 255, 130, 255), 2, row_labels=["original", "copy", "original", "copy"]
    )
    assert (np.asarray(grid) == np.asarray(expected)).all()
    tensor = torch.full((3, 1, 8, 8), 10, dtype=torch.uint8)
    assert comparison_grid({"a": tensor}, 3, min_cell_size=8).size[1] == 8 + 2 * GAP


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "`images` must hold at least one image"),
        ({"images": [*grey(0), *grey(0, size=9)]}, "one size, got 8x8, 9x9"),
        ({"images": grey(0), "columns": 0}, "`columns` must be a whole number of at least 1, got 0"),
        ({"images": grey(0), "min_cell_size": 0}, "`min_cell_size` must be a whole number of at least 1"),
        ({"images": grey(0, 0, 0), "row_labels": ["a"]}, "one text for each of the 2 rows, got 1"),
        ({"images": grey(0), "column_labels": ["a"]}, "one text for each of the 2 columns, got 1"),
        ({"images": torch.zeros(2, 2, 8, 8)}, "with 1 or 3 channels"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.int64)}, "uint8 or floating point"),
        ({"images": torch.full((2, 1, 8, 8), float("nan"))}, "`images` must be finite"),
    ],
)
def test_grid_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        image_grid(**{"columns": 2, **arguments})


def test_comparison_grid_refuses_bad_arguments():
    with pytest.raises(ValueError, match=r"as many images under each name, at least one, got {'a': 1, 'b': 2}"):
        comparison_grid({"a": grey(0), "b": grey(0, 0)})
    for empty in ({}, {"a": []}):
        with pytest.raises(ValueError, match="at least one, got"):
            comparison_grid(empty)
    with pytest.raises(ValueError, match="`columns` must be a whole number of at least 1"):
        comparison_grid({"a": grey(0)}, 0)
