# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""examples/measure_interpolation.py on a tiny model: what it counts, and what it writes."""

from __future__ import annotations

import json

import measure_interpolation
import pytest
import torch
from helpers.pipelines import make_pipeline


def test_a_way_knows_its_borders_and_how_much_happens_there():
    changes = torch.tensor([0.1, 0.5, 0.1, 0.3])
    way = measure_interpolation.Way(torch.zeros(5, 1, 2, 2), torch.tensor([3, 3, 1, 1, 2]), changes)
    assert way.crossings.tolist() == [False, True, False, True]
    assert way.share == pytest.approx(0.8)
    summary = measure_interpolation.summarise([way])
    assert summary == pytest.approx(
        {
            "crossings": 2,
            "share_of_change": 0.8,
            "change_of_crossing": 0.4,
            "change_of_others": 0.1,
            "largest_step_crosses": 1,
        }
    )


def test_the_script_measures_three_ways_and_draws_one(tmp_path, capsys):
    make_pipeline(names=list("0123456789")).save_pretrained(tmp_path / "model")
    argv = f"--model_name_or_path {tmp_path / 'model'} --dataset_name digits --num_pairs 8 --num_steps 17 --num_inference_steps 2"
    results = measure_interpolation.main([*argv.split(), "--output_dir", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "interpolation.json").read_text()) == results
    assert (
        results["noise"]["crossings"] == 0 and results["noise"]["change_of_crossing"] is None
    )  # one latent, one zone
    assert results["both"]["crossings"] == results["latent"]["crossings"] > 0  # the same latents
    assert (tmp_path / "out" / "interpolation.png").stat().st_size > 5000


def test_a_model_without_labels_is_refused(tmp_path):
    make_pipeline(names=[]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must have labels and an image encoder"):
        measure_interpolation.main(["--model_name_or_path", str(tmp_path), "--dataset_name", "digits"])
