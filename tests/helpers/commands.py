# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The command `lzn` in this process, on a tiny model and images in the current folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lzn_cli.main import main

from .pipelines import make_pipeline


DIGITS = [str(digit) for digit in range(10)]


def lzn(*words: object) -> int:
    """Runs `lzn WORDS`. Its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code or 0


def write_images(folder: Path, count: int = 5, size: int = 8) -> list[Path]:
    """Writes grey images of noise in a folder of their own, and their paths."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size), dtype=np.uint8)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path, values in zip(paths, pixels, strict=True):
        Image.fromarray(values).save(path)
    return paths


@pytest.fixture(scope="module", name="saved")
def saved_fixture(tmp_path_factory) -> Path:
    """The folder of a tiny model of digits with random weights."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    make_pipeline(names=DIGITS).save_pretrained(folder)
    return folder


__all__ = ["DIGITS", "lzn", "saved_fixture", "write_images"]
