# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The comparison of guidance on tiny models: what is measured, what is chosen on which images, and the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import compare_guidance
import numpy as np
import pytest
from helpers.pipelines import make_pipeline
from helpers.training import forget_accelerators, write_image_folder
from PIL import Image

from lzn_hf.evaluation import generation
from lzn_hf.evaluation.features import FeatureExtractor
from lzn_hf.evaluation.processes import process_state
from lzn_hf.training.arguments import DataArguments
from lzn_hf.training.batches import load_data


NAMES = ["cat", "dog", "eel"]
SMALL = "--num_samples 8 --samplers euler:2 euler:1 --scales 1.5 3 --validation_fraction 0.4"


@pytest.fixture(autouse=True)
def fresh_state():
    forget_accelerators()
    yield
    forget_accelerators()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model that both ways guide, a guide, and images."""
    path = tmp_path_factory.mktemp("guidance")
    make_pipeline(NAMES, condition_dropout=0.1).save_pretrained(path / "model")
    make_pipeline(NAMES, decoder_input_skip="sum").save_pretrained(path / "guide")
    write_image_folder(path / "images")
    return path


def compare(folder: Path, model: str, guide: str | None, flags: str) -> Path:
    flags = f"--model_name_or_path {folder / model} --data_dir {folder / 'images'} {SMALL} {flags}"
    flags += f" --guide_name_or_path {folder / guide}" if guide else ""
    return compare_guidance.main(flags.split())


def test_all_numbers_and_files(folder, tmp_path):
    flags = f"--validation_split train --test_split test --output_dir {tmp_path}"
    assert compare(folder, "model", "guide", flags) == tmp_path
    results = json.loads((tmp_path / "guidance.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "guidance.json",
        "samples.png",
        "scales.png",
        "table.md",
    ]
    rows = results["validation"]["rows"]
    found = [(row["method"], row["sampler"], row["scale"], row["evaluations"]) for row in rows]
    # Guided images cost twice the evaluations.
    expected = [("none", f"euler:{n}", 1, n) for n in (2, 1)]
    for method in ("autoguidance", "classifier-free"):
        expected += [(method, f"euler:{n}", scale, 2 * n) for n in (2, 1) for scale in (1.5, 3)]
    assert found == expected

    # Each number is that of the evaluation of saved models.
    data_args = DataArguments(data_dir=str(folder / "images"), validation_split="train", validation_fraction=0.4)
    data = load_data(process_state(), data_args)
    options = {"num_samples": 8, "num_reconstructions": 0}
    texts = {"none": "euler:1", "autoguidance": "euler:1@3", "classifier-free": "euler:1@3"}
    for method, text in texts.items():
        guide = folder / "guide" if method == "autoguidance" else None
        numbers = generation.evaluate_folder(
            folder / "model", data, FeatureExtractor(), [text], guide_name_or_path=guide, **options
        )["samplers"][text]
        row = next(
            row
            for row in rows
            if (row["method"], row["sampler"], row["scale"]) in {(method, "euler:1", s) for s in (1, 3)}
        )
        assert {name: row[name] for name in compare_guidance.MEASURES.values()} == {
            name: numbers[name] for name in compare_guidance.MEASURES.values()
        }

    # The scale of the smallest distance on the validation images is the one that the test images see, by the first sampler.
    test_rows = results["test"]["rows"]
    assert results["test"]["images"] == 9 and results["validation"]["images"] == len(data.validation) < 9
    assert [row["method"] for row in test_rows] == ["none", "autoguidance", "classifier-free"]
    for row in test_rows[1:]:
        mine = [one for one in rows if (one["method"], one["sampler"]) == (row["method"], "euler:2")]
        assert row["sampler"] == "euler:2"
        assert row["scale"] == min(mine, key=lambda one: one["frechet_distance"])["scale"]

    text = (tmp_path / "table.md").read_text()
    assert text.count("real images") == 2 and "validation images:" in text and "test images:" in text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert all(compare_guidance.cells(row) in cells for row in (*rows, *test_rows))
    picture = Image.open(tmp_path / "samples.png")
    assert picture.height > 5 * 32 and np.asarray(Image.open(tmp_path / "scales.png")).std() > 10


def test_one_way_to_guide_is_enough(folder, tmp_path):
    for guide, method in ((None, "classifier-free"), ("model", "autoguidance")):
        model = "model" if guide is None else "guide"
        output = compare(folder, model, guide, f"--output_dir {tmp_path / method}")
        results = json.loads((output / "guidance.json").read_text())
        assert {row["method"] for row in results["validation"]["rows"]} == {"none", method} and "test" not in results


def test_what_makes_no_sense(folder, tmp_path):
    with pytest.raises(ValueError, match="trained without `condition_dropout`, and there is no `guide_name_or_path`"):
        compare(folder, "guide", None, f"--output_dir {tmp_path}")
    for flags, message in (
        ("--scales 1 2", "`scales` must all be different and not 1"),
        ("--scales 2 2", "`scales` must all be different and not 1"),
        ("--scales -2", "@SCALE after it for guidance, got 'euler:2@-2'"),
        ("--samplers heun", "a sampler must be"),
        ("--num_samples 3", "`num_samples` must be at least 4"),
    ):
        with pytest.raises((ValueError, SystemExit), match=message):
            compare(folder, "model", None, f"--output_dir {tmp_path} {flags}")
    assert not list(tmp_path.iterdir())
