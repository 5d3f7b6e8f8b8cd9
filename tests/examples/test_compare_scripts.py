# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The comparisons over seeds: real runs of one step each, and how their numbers are put together."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import compare_generation
import compare_representations
import compare_text_image
import comparison
import pytest
import torch
from helpers.texts import make_text_pipeline
from transformers import ResNetConfig, ResNetForImageClassification

from lzn_hf.train_text_image import captions_file
from lzn_hf.training.parsing import PRESETS_DIR
from lzn_hf.zones_lzn import place_images


def save_tiny_features(folder: Path) -> None:
    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=10
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    processor = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 16}, "crop_pct": 1.0}
    processor |= {"do_resize": False, "do_normalize": True, "image_mean": [0.5], "image_std": [0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def test_generation_is_compared_run_by_run_and_nothing_is_done_twice(tmp_path, capsys):
    save_tiny_features(tmp_path / "digits" / "features")
    argv = f"--output_dir {tmp_path} --seeds 3 --max_train_steps 1 --num_samples 8 --num_reconstructions 2 --workers 2".split()
    argv += "--samplers euler:1 euler:2 --reconstruction_samplers euler:1".split()
    compare_generation.main(argv)
    table = (tmp_path / "table.md").read_text()
    for method in ("latent zones", "rectified flow alone"):
        assert re.search(rf"\| digits +\| +{method} +\|", table)
    assert table.strip() in capsys.readouterr().out
    assert (tmp_path / "digits.png").stat().st_size > 1000
    results = json.loads((tmp_path / "results.json").read_text())
    assert [run["method"] for run in results["runs"]] == ["lzn", "rectified_flow"]
    model = tmp_path / "digits" / "rectified_flow-3" / "model.safetensors"
    written = model.stat().st_mtime_ns
    compare_generation.main(argv)
    assert model.stat().st_mtime_ns == written


def test_representations_are_compared_run_by_run(tmp_path):
    argv = (
        f"--output_dir {tmp_path} --seeds 1 --methods moco random --max_train_steps 1 --max_train_samples 300".split()
    )
    compare_representations.main([*argv, "--flags", "total_batch_size=32", "queue_size=64"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert [run["method"] for run in results["runs"]] == ["moco", "random"]
    assert all(0 < row["linear"] <= 1 and row["linear_deviation"] is None for row in results["summary"])
    assert (tmp_path / "table.md").read_text().count("\n| digits |") == 2


def test_means_and_deviations_are_over_the_seeds():
    values = {"lzn": [0.5, 0.7, 0.9], "simclr": [0.25, 0.25, 0.25]}
    runs = [
        {"preset": "digits", "method": method, "embeddings": {"linear": value, "knn": value / 2}}
        for method, list_of in values.items()
        for value in list_of
    ]
    rows = comparison.summarise(runs, compare_representations.MEASURES)
    assert [(row["method"], row["seeds"]) for row in rows] == [("lzn", 3), ("simclr", 3)]
    assert rows[0]["linear"] == pytest.approx(0.7) and rows[0]["knn"] == pytest.approx(0.35)
    assert rows[0]["linear_deviation"] == pytest.approx(statistics.stdev(values["lzn"]))
    assert compare_representations.COLUMNS["linear probe"](rows[0]) == "70.00 % ± 20.00"
    (alone,) = comparison.summarise(runs[:1], compare_representations.MEASURES)
    assert compare_representations.COLUMNS["linear probe"](alone) == "50.00 %"


def test_a_run_that_fails_says_where_it_stopped(tmp_path):
    with pytest.raises(RuntimeError, match="(?s)train_representation.py ended with 2: see .*preset"):
        compare_representations.main(["--output_dir", str(tmp_path), "--presets", "digit", "--seeds", "0"])


def test_unknown_methods_and_empty_lists_are_refused():
    with pytest.raises(ValueError, match="`methods` must be among lzn, simclr, moco, random, but one is 'byol'"):
        compare_representations.main(["--methods", "byol"])
    for name in ("samplers", "seeds"):
        with pytest.raises(ValueError, match=f"`{name}` must not be empty"):
            compare_generation.ComparisonArguments(**{name: []})
    compare_representations.ComparisonArguments(flags=[])


def test_captions_that_are_compared_are_those_that_training_sees():
    for preset, captions in compare_text_image.CAPTIONS.items():
        settings = json.loads((PRESETS_DIR / "text-image" / f"{preset}.json").read_text())
        assert settings["text"]["captions"] == captions and captions_file(captions).is_file()


def test_images_are_compared_with_texts_as_the_model_does():
    model = make_text_pipeline(prediction_time=0.3).model
    anchors, candidates = torch.randn(5, 64), torch.randn(3, 64)
    placed = place_images(model.config, anchors, model.reference_anchors())
    scores = compare_text_image.score(model, "lzn", placed, candidates)
    torch.testing.assert_close(scores, model.compare_images(anchors, candidates))
