# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The comparison of ways into a model: the files say what their names promise, and every way of our own reads them alike."""

from __future__ import annotations

import compare_ways_in
import numpy as np
import pytest
from helpers.pipelines import make_pipeline

from lzn_hf.images_lzn import image_to_pixels


@pytest.mark.parametrize("save", compare_ways_in.FILES.values(), ids=compare_ways_in.FILES)
def test_all_ways_agree(save, tmp_path):
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 256, (20, 8, 8), dtype=np.uint8)
    for i, digit in enumerate(digits):
        path = tmp_path / "files" / str(i % 10) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(digit, path)
        pixels = image_to_pixels(path, num_channels=1, size=(8, 8))
        assert np.array_equal(np.asarray(pixels)[0], digit)
    make_pipeline(names=[str(i) for i in range(10)]).save_pretrained(tmp_path / "model")
    row = compare_ways_in.accuracies(str(tmp_path / "model"), tmp_path / "files", [str(i) for i in range(10)])
    del row["transformers.pipeline"]  # converts to RGB first
    assert len(set(row.values())) == 1, row
