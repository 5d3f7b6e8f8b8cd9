# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`examples/train_metric_features.py`: what it saves, that others can open it, and what it refuses."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.images import write_idx_folder, write_imagefolder
from PIL import Image

from lzn_hf.data.batches import to_pixel_values
from lzn_hf.data.images import load_image_data
from lzn_hf.evaluation.features import load_feature_extractor
from lzn_hf.evaluation.metrics import frechet_distance


SCRIPT = ROOT / "examples" / "train_metric_features.py"
TINY = "--hidden_sizes 16 32 --max_train_steps 60 --batch_size 64".split()
FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "training_settings.json"}


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        return importlib.import_module(SCRIPT.stem)


@pytest.fixture(scope="module")
def folder(script, tmp_path_factory) -> Path:
    output_dir = tmp_path_factory.mktemp("features") / "digits"
    assert script.main(["--dataset_name", "digits", "--output_dir", str(output_dir), *TINY]) == output_dir
    return output_dir


def test_folder_says_what_it_is_and_how_good(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    settings = json.loads((folder / "training_settings.json").read_text())
    accuracy = settings["held_out_accuracy"]
    assert accuracy > 0.9  # 60 steps
    assert settings["features"]["input_size"] == 32 and settings["data"]["dataset_name"] == "digits"
    extractor = load_feature_extractor(folder)
    assert extractor.name == f"small ResNet classifier, digits, accuracy {accuracy:.3f}"
    card = (folder / "README.md").read_text()
    assert extractor.name in card and f"{accuracy:.4f}" in card and "360 held-out images" in card


def test_accuracy_is_that_of_the_saved_folder(folder):
    held_out = load_image_data("digits").validation
    extractor = load_feature_extractor(folder)
    predictions = extractor.log_probs(to_pixel_values(held_out.pixel_values)).argmax(1)
    saved = json.loads((folder / "training_settings.json").read_text())["held_out_accuracy"]
    assert (predictions == held_out.labels).double().mean() == pytest.approx(saved, abs=1e-9)


def test_features_tell_digits_from_noise_and_labels_from_each_other(folder):
    data, extractor = load_image_data("digits"), load_feature_extractor(folder)
    train, test = (to_pixel_values(part.pixel_values) for part in (data.train, data.validation))
    features = [extractor.features(images) for images in (train, test, torch.rand_like(test) * 2 - 1)]
    assert features[0].shape == (1437, 32)
    assert frechet_distance(features[0], features[2]) > 20 * frechet_distance(features[0], features[1])
    no_ones = features[1][data.validation.labels != 1]
    assert frechet_distance(features[0], no_ones) > 1.5 * frechet_distance(features[0], features[1])
    assert extractor.spatial_features(test).shape[0] == 360


def test_transformers_opens_the_folder(folder):
    from transformers import pipeline

    data = load_image_data("digits").validation
    images = [Image.fromarray(pixels[0].numpy()) for pixels in data.pixel_values[:20]]
    answers = pipeline("image-classification", model=str(folder))(images)
    assert sum(answer[0]["label"] == str(int(y)) for answer, y in zip(answers, data.labels[:20], strict=True)) >= 18


def test_same_seed_same_weights(script, folder, tmp_path):
    arguments = ["--dataset_name", "digits", *TINY, "--max_train_steps", "3", "--random_flip", "--max_shift", "1"]
    weights = []
    for name, more in (("a", []), ("b", []), ("c", ["--seed", "1"])):
        script.main([*arguments, "--output_dir", str(tmp_path / name), *more])
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(("write", "names"), [(write_imagefolder, ["cat", "dog"]), (write_idx_folder, None)])
def test_other_data(script, tmp_path, write, names):
    """Colour images of an imagefolder with label names, and grey ones of IDX files."""
    data_dir = write(tmp_path / "data")
    more = [] if names else ["--dataset_name", "fashion-mnist"]
    arguments = ["--data_dir", str(data_dir), "--output_dir", str(tmp_path / "out"), *more]
    script.main([*arguments, "--batch_size", "4", "--max_train_steps", "2", "--hidden_sizes", "8", "--depth", "2"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert names is None or list(config["id2label"].values()) == names
    assert config["depths"] == [2] and config["num_channels"] == 3
    assert load_feature_extractor(tmp_path / "out").features(torch.zeros(2, 3, 6, 6)).shape == (2, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden_sizes", "0"], "`hidden_sizes` must be one or more"),
        (["--input_size", "16"], "`input_size` must be at least 32"),
        (["--max_train_steps", "0"], "`max_train_steps` must be at least 1"),
        (["--validation_fraction", "0", "--validation_split", "train"], "`validation_fraction` must be above 0"),
        (["--batch_size", "2000"], "do not fill one batch of 2000"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(script, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        script.main(["--dataset_name", "digits", "--output_dir", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_folder_with_files_is_refused(script, folder):
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="must be a new or empty folder"):
        script.main(["--dataset_name", "digits", "--output_dir", str(folder)])
    assert (folder / "model.safetensors").read_bytes() == before
