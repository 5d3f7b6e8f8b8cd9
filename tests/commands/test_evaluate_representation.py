# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The evaluation script on tiny models."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers.measured_models import encoder_only_fixture, joint_fixture  # noqa: F401
from helpers.training import forget_accelerators
from PIL import Image

from lzn_hf import LZNPipeline
from lzn_hf.commands import evaluate_representation


def test_the_script_measures_a_joint_model(joint, capsys):
    flags = "--fine_tune_fractions 0.02 --fine_tune_steps 3 --max_train_samples 200 --max_eval_samples 60 --num_neighbours 5"
    before = {path.name for path in joint.iterdir()}
    forget_accelerators()
    results = evaluate_representation.main(["--model_name_or_path", str(joint), *flags.split()])
    assert {path.name for path in joint.iterdir()} == before | {"representation.json", "embeddings.png"}
    assert json.loads((joint / "representation.json").read_text()) == results
    assert results["fine_tune"].keys() == {"0.02"} and 0 <= results["fine_tune"]["0.02"] <= 1
    assert results["settings"] == {"k": 5, "fine_tune_steps": 3, "flip": False, "shift": 0, "seed": 0}
    assert (results["train_images"], results["test_images"]) == (200, 60)
    assert np.asarray(Image.open(joint / "embeddings.png")).std() > 20
    printed = capsys.readouterr().out
    text = (joint / "README.md").read_text()
    for kind in ("features", "anchors", "latents"):
        row = rf"{100 * results[kind]['linear']:.2f} % +\| +{100 * results[kind]['knn']:.2f} % \|"
        assert re.search(row, printed) and re.search(row, text)
    assert "## How to use" in text and "embeddings.png" in text
    LZNPipeline.from_pretrained(joint)  # still a model


def test_the_script_writes_elsewhere_when_told_so(encoder_only, tmp_path):
    """An untrained encoder for 8 x 8 grey pixels, on colour images of another size, which are brought to its own."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    before = {path.name for path in encoder_only.iterdir()}
    out = tmp_path / "new" / "results"
    flags = f"--output_dir {out} --data_dir {tmp_path / 'images'} --num_neighbours 3 --map_samples 0"
    forget_accelerators()
    results = evaluate_representation.main(["--model_name_or_path", str(encoder_only), *flags.split()])
    assert {path.name for path in encoder_only.iterdir()} == before
    assert [path.name for path in out.iterdir()] == ["representation.json"]
    assert results["labels"] == 2 and results["test_images"] == 8


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model_name_or_path user/model", "is no folder to write into: name an `--output_dir`"),
        ("--model_name_or_path . --num_neighbours 0", "`num_neighbours` must be at least 1, but is 0"),
        ("--model_name_or_path . --map_samples 3", "`map_samples` must be 0 or at least 4, but is 3"),
    ],
)
def test_the_script_refuses_wrong_flags(flags, message):
    with pytest.raises(ValueError, match=message):
        evaluate_representation.main(flags.split())


def test_help_explains(capsys):
    with pytest.raises(SystemExit):
        evaluate_representation.main(["--help"])
    text = capsys.readouterr().out
    for word in ("torchrun", "representation.json", "--fine_tune_fractions", "--data_dir", "(default: 20)"):
        assert word in text
