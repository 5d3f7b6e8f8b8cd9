# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""examples/make_animation.py on a tiny saved pipeline."""

from __future__ import annotations

from pathlib import Path

import make_animation
import numpy as np
import pytest
from helpers.pipelines import make_pipeline, seeded
from PIL import Image

from lzn_hf.visualization.grids import GAP, image_grid


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_pipeline(names=["cat", "dog", "eel"]).save_pretrained(folder)
    return folder


def animate(folder: Path, output: Path, *flags: str) -> Image.Image:
    flags = ("--num_inference_steps", "8", "--cell_size", "24", *flags)
    assert make_animation.main(["--model_name_or_path", str(folder), "--output", str(output), *flags]) == output
    return Image.open(output)


def frames(animation: Image.Image) -> list[np.ndarray]:
    found = []
    for number in range(animation.n_frames):
        animation.seek(number)
        found.append(np.asarray(animation.convert("L")).astype(int))
    return found


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_noise_becomes_the_images_of_the_labels(folder, tmp_path, suffix):
    animation = animate(folder, tmp_path / "new" / f"strip{suffix}", "--labels", "eel", "cat")
    shown = frames(animation)
    assert len(shown) == 9 and animation.info["loop"] == 0  # for ever
    pipe = make_pipeline(names=["cat", "dog", "eel"])
    output = pipe(label=["eel", "cat"], generator=seeded(), num_inference_steps=8, return_trajectory=True)
    for frame, images, time in zip(shown, output.trajectory, output.times, strict=True):
        expected = np.asarray(image_grid(images, 2, column_labels=["eel", "cat"], min_cell_size=24)).astype(int)
        tolerance = 0 if suffix == ".gif" else 40  # WebP loses something
        assert np.quantile(np.abs(frame[: len(expected)] - expected), 0.99) <= tolerance
        bar = frame[-make_animation.BAR - 2] < 128  # as long as the time
        assert abs(bar.sum() - float(time) * (frame.shape[1] - 2 * GAP)) <= 3


def test_a_model_without_labels_has_as_many_images_as_wanted(tmp_path):
    pipe = make_pipeline(names=[], num_reference_anchors=0, encoder_type=None)
    pipe.save_pretrained(tmp_path / "model")
    widths = [
        animate(tmp_path / "model", tmp_path / f"{count}.gif", "--num_images", str(count)).width for count in (1, 3)
    ]
    assert widths == [24 + 2 * GAP, 3 * (24 + GAP) + GAP]


def test_the_limit_costs_frames_and_not_time(folder, tmp_path):
    whole = animate(folder, tmp_path / "whole.gif", "--num_inference_steps", "24")
    limit = int((tmp_path / "whole.gif").stat().st_size / 1000)  # rounded down: a little too little
    half = animate(folder, tmp_path / "half.gif", "--num_inference_steps", "24", "--max_kilobytes", str(limit))
    assert (tmp_path / "half.gif").stat().st_size <= 1000 * limit
    assert (whole.n_frames, half.n_frames) == (25, 13)
    assert (frames(half)[-1] == frames(whole)[-1]).all() and (frames(half)[1] == frames(whole)[2]).all()
    half.seek(1)
    whole.seek(1)
    assert half.info["duration"] == 2 * whole.info["duration"] == 160


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_kilobytes", "1"], "`max_kilobytes` 1 is too little: .* fewer `--labels`"),
        (["--labels", "cow"], "cow"),
        (["--num_inference_steps", "3"], "`num_inference_steps` must be"),
    ],
)
def test_wrong_flags_are_refused(folder, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        animate(folder, tmp_path / "strip.gif", *flags)
    assert not (tmp_path / "strip.gif").exists()
    with pytest.raises(ValueError, match="`output` must end in .gif or .webp"):
        animate(folder, tmp_path / "strip.mp4")
