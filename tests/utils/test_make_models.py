# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""utils/make_models.py: one model from nothing to the folder to push, and what it says without data."""

from __future__ import annotations

import json

import make_models
import pytest
from helpers.training import write_image_folder
from PIL import Image

from lzn_hf import LZNPipeline


@pytest.mark.slow
def test_images_of_a_folder(tmp_path):
    images = write_image_folder(tmp_path / "images")
    for path in list(images.rglob("*.png")):
        picture = Image.open(path).convert("RGB").resize((40, 40))
        for number in range(8):  # enough for the batches of the preset and of the features
            picture.rotate(10 * number).save(path.with_name(f"{path.stem}-{number}.png"))
        path.unlink()
    flags = f"--models emoji --emoji {images} --max_train_steps 1 --num_samples 8 --output_dir {tmp_path / 'models'}"
    (folder,) = make_models.main(flags.split())
    assert LZNPipeline.from_pretrained(folder)(label="cat", num_inference_steps=1).images[0].size == (32, 32)
    card = (folder / "README.md").read_text()
    assert "frechet_distance" in card and "linear probe" in card


@pytest.mark.slow
def test_a_model_is_trained_measured_and_ready_to_push(tmp_path, capfd):
    flags = f"--models digits --max_train_steps 2 --num_samples 20 --license mit --output_dir {tmp_path}"
    (folder,) = make_models.main(flags.split())
    assert folder == tmp_path / "digits"
    card = (folder / "README.md").read_text()
    assert "license: mit" in card and "frechet_distance" in card and "linear probe" in card
    assert {"samples.png", "config.json", "model.safetensors", "modeling_lzn.py"} <= {
        path.name for path in folder.iterdir()
    }
    assert json.loads((folder / "config.json").read_text())["auto_map"]
    assert LZNPipeline.from_pretrained(folder)(label="3", num_inference_steps=2).images[0].size == (8, 8)
    before = (folder / "README.md").stat().st_mtime_ns
    capfd.readouterr()
    assert make_models.main(flags.split()) == [folder]
    assert "is there already" in capfd.readouterr().out and (folder / "README.md").stat().st_mtime_ns == before


def test_a_model_without_images_is_left_out(tmp_path, capsys):
    assert make_models.main(["--models", "emoji", "fashion-mnist", "--output_dir", str(tmp_path)]) == []
    printed = capsys.readouterr().out
    assert "emoji is left out" in printed and "--emoji DIR" in printed and "--fashion_mnist DIR" in printed
    assert not list(tmp_path.iterdir())


def test_a_step_that_fails_ends_it(tmp_path):
    with pytest.raises(SystemExit):
        make_models.main(["--models", "emoji", "--emoji", str(tmp_path / "none"), "--output_dir", str(tmp_path)])
    assert not (tmp_path / "emoji").exists()
