# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""One model beside specialists: real runs of two steps, what they are trained on, and what is measured."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import compare_joint
import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.images import all_items, as_set, random_images
from helpers.joint_runs import toy_flags, train
from helpers.training import forget_accelerators
from PIL import Image

from lzn_hf.data.batches import to_pixel_values
from lzn_hf.data.images import load_image_data
from lzn_hf.evaluation.calibration import fit_temperature, negative_log_likelihood
from lzn_hf.evaluation.joint import linear_log_probs
from lzn_hf.evaluation.representation import load_model
from lzn_hf.training import setup


PRESET = f"--preset {ROOT / 'tests/helpers/toy_preset.json'}"
SCORES = {"accuracy", "nll", "calibration_error"}
SCORES |= {f"{name}_uncalibrated" for name in SCORES}
PROBES = {f"{name}{kind}" for name in ("linear_probe", "knn") for kind in ("", "_features", "_anchors")}
SAMPLES = {"frechet_distance", "precision", "recall", "class_consistency"}
KEYS = {
    "lzn": SCORES | PROBES | SAMPLES | {"linear_probe_latents", "knn_latents", "prediction_time"},
    "classifier": SCORES | PROBES | {"temperature"},
    "rectified_flow": SAMPLES,
}


def compare(flags: str) -> Path:
    forget_accelerators()
    return compare_joint.main(flags.split())


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("compare") / "digits"
    small = "--max_train_steps 2 --num_samples 8 --samplers euler:1 euler:2 --max_probe_samples 200"
    return f"{PRESET} {small} --feature_extractor pixels --seeds 3 --output_dir {folder}"


@pytest.fixture(scope="module")
def compared(flags) -> Path:
    return compare(flags)


@pytest.fixture
def task(compared, flags) -> compare_joint.Task:
    forget_accelerators()
    return compare_joint.prepare(arguments(flags))


def arguments(flags: str) -> compare_joint.ComparisonArguments:
    return compare_joint.comparison.parse_arguments(compare_joint.ComparisonArguments, None, flags.split())


def test_each_method_has_the_numbers_that_its_parts_allow(compared):
    rows = json.loads((compared / "comparison.json").read_text())
    assert [(row["method"], row["seed"]) for row in rows] == [(method, 3) for method in KEYS]
    for row in rows:
        assert row.keys() == KEYS[row["method"]] | {"method", "seed", "preset", "seconds"}
        assert all(np.isfinite(row[name]) for name in row.keys() - {"method", "preset"}), row
        shares = row.keys() - {"method", "preset", "seed", "seconds", "frechet_distance", "temperature"}
        assert all(0 <= row[name] <= 1 for name in shares if not name.startswith("nll")), row
        assert row["seconds"] > 0 and row.get("frechet_distance", 1) > 0 and row.get("nll", 1) > 0
    table = (compared / "table.md").read_text()
    for title in (
        "joint model",
        "classifier alone",
        "rectified flow alone",
        "360 test images",
        "8 by euler:1; features: pixels",
    ):
        assert title in table
    runs = json.loads((compared / "results.json").read_text())["runs"]
    assert runs[0]["samplers"].keys() == {"euler:1", "euler:2"}
    assert runs[0]["samplers"]["euler:1"]["frechet_distance"] == rows[0]["frechet_distance"]


def test_nothing_is_done_twice_and_other_arguments_need_another_folder(compared, flags):
    files = [*compared.glob("*/model.safetensors"), *compared.glob("*/scores.json")]
    written = [path.stat().st_mtime_ns for path in files]
    compare(f"{flags} --methods rectified_flow lzn")
    assert [path.stat().st_mtime_ns for path in files] == written and len(files) == 6
    rows = json.loads((compared / "comparison.json").read_text())
    assert [row["method"] for row in rows] == ["rectified_flow", "lzn"]
    with pytest.raises(
        ValueError, match="runs with other arguments \\(`max_train_steps` was 2, is 3\\): name another"
    ):
        compare(f"{flags} --max_train_steps 3")
    compare(flags)


def test_the_test_images_are_used_for_nothing_else(compared, task):
    official = load_image_data("digits")
    test = as_set(all_items(task.images.validation))
    assert test == as_set(all_items(official.validation)) and len(task.images.validation) == 360
    for method in KEYS:
        settings = json.loads((compared / f"{method}-3" / "training_settings.json").read_text())["data"]
        names = ("data_dir", "train_split", "validation_split", "validation_fraction")
        seen = load_image_data(**{name: settings[name] for name in names}, seed=settings["data_seed"])
        parts = [as_set(all_items(part)) for part in (seen.train, seen.validation)]
        assert not test & (parts[0] | parts[1]) and not parts[0] & parts[1]
        assert parts[0] | parts[1] == as_set(all_items(official.train))
        assert parts[1] == as_set(all_items(task.held_out))
        summary = json.loads((compared / f"{method}-3" / "data_summary.json").read_text())
        assert summary["used"] == {"train": len(seen.train), "validation": len(seen.validation)}


def test_the_runs_differ_in_nothing_but_the_parts_of_the_model(compared):
    settings = [json.loads((compared / f"{method}-3" / "training_settings.json").read_text()) for method in KEYS]
    for section in ("data", "training", "joint", "images", "model"):
        varying = {"output_dir", "baseline", "encoder_type", "decoder_type", "num_reference_anchors"}
        kept = [{name: value for name, value in one[section].items() if name not in varying} for one in settings]
        assert kept[0] == kept[1] == kept[2], section
    parts = [(one["model"]["encoder_type"], one["model"]["decoder_type"]) for one in settings]
    assert parts == [("ncsnpp", "ncsnpp"), ("ncsnpp", None), (None, "ncsnpp")]


def test_all_methods_see_the_same_augmented_images_in_the_same_order(tmp_path, monkeypatch):
    toys = f"{toy_flags(tmp_path / 'toys')} --random_flip --max_shift 1 --max_train_steps 5"
    seen: dict[str, list[torch.Tensor]] = {}

    def watched(images, **options):
        pixel_values = to_pixel_values(images, **options)
        seen[baseline].append(pixel_values)
        return pixel_values

    monkeypatch.setattr(setup, "to_pixel_values", watched)
    for baseline in compare_joint.BASELINES.values():
        seen[baseline] = []
        train(f"{toys} --baseline {baseline} --output_dir {tmp_path / baseline}")
    batches = list(seen.values())
    assert len(batches) == 3 and all(len(steps) == 5 for steps in batches)
    for step in zip(*batches, strict=True):
        assert torch.equal(step[0], step[1]) and torch.equal(step[0], step[2])
    assert not torch.equal(batches[0][0], batches[0][1])


def test_the_classifier_is_calibrated_on_the_held_out_images(compared, task):
    model = load_model(compared / "classifier-3").eval()
    items = {"held_out": all_items(task.held_out), "test": all_items(task.images.validation)}
    with torch.no_grad():
        scores = {name: linear_log_probs(model, to_pixel_values(one["pixel_values"])) for name, one in items.items()}
    temperature = fit_temperature(scores["held_out"], items["held_out"]["labels"])
    got = compare_joint.measure_classification(task, "classifier", compared / "classifier-3")
    assert got["temperature"] == pytest.approx(temperature, rel=1e-3) and temperature != pytest.approx(1, rel=1e-3)
    for suffix, divisor in (("", temperature), ("_uncalibrated", 1.0)):
        expected = negative_log_likelihood((scores["test"] / divisor).log_softmax(1), items["test"]["labels"])
        assert got[f"nll{suffix}"] == pytest.approx(expected, rel=1e-4)


def test_a_joint_model_is_read_at_its_time_and_at_the_end(compared, task, tmp_path):
    shutil.copytree(compared / "lzn-3", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "prediction_time": 0.3}))
    early = compare_joint.measure_classification(task, "lzn", tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "prediction_time": None}))
    end = compare_joint.measure_classification(task, "lzn", tmp_path / "model")
    assert (early["prediction_time"], end["prediction_time"]) == (0.3, 1.0)
    assert early["nll"] != early["nll_uncalibrated"] == end["nll"] == end["nll_uncalibrated"]


def write_photos(folder: Path, each: int) -> Path:
    """Coloured images of 3 labels that differ by their brightness, without splits."""
    for number, label in enumerate(("cat", "dog/wolf", "eel")):
        path = folder / label.replace("/", "_")
        path.mkdir(parents=True)
        for i, image in enumerate(random_images(each, number, (12, 12, 3))):
            Image.fromarray(image // 3 + 80 * number).save(path / f"{i}.png")
    return folder


def test_a_folder_of_images_without_test_split_is_enough(tmp_path):
    photos = write_photos(tmp_path / "photos", 10)
    own = f"--data_dir {photos} --image_size 8 --num_channels 1 --total_batch_size 8 --methods lzn --seeds 0"
    folder = compare(f"{PRESET} {own} --max_train_steps 1 --num_samples 8 --output_dir {tmp_path / 'run'}")
    (row,) = json.loads((folder / "comparison.json").read_text())
    assert row.keys() == KEYS["lzn"] | {"method", "seed", "preset", "seconds"}
    data = load_image_data(data_dir=folder / "data" / "photos")
    assert (len(data.train), len(data.validation), data.image_size, data.num_channels) == (24, 6, 8, 1)
    original = load_image_data(data_dir=photos, validation_fraction=0, image_size=8, num_channels=1)
    assert as_set(all_items(data.train)) | as_set(all_items(data.validation)) == as_set(all_items(original.train))
    assert data.label_names == original.label_names
    assert "features: small ResNet classifier, photos" in (folder / "table.md").read_text()  # trained on these images
    settings = json.loads((folder / "features" / "training_settings.json").read_text())
    assert settings["data"]["validation_split"] == "train"


def test_the_test_split_is_preferred_to_one_for_validation(tmp_path):
    for split, count in (("train", 4), ("validation", 2), ("test", 3)):
        write_photos(tmp_path / "photos" / split, count)
    forget_accelerators()
    flags = ["--preset", "digits", "--data_dir", str(tmp_path / "photos")]
    data_args = compare_joint.read_flags(flags)[1]
    assert len(compare_joint.read_images(data_args).validation) == 9
    chosen = dataclasses.replace(data_args, validation_split="validation")
    assert len(compare_joint.read_images(chosen).validation) == 6
    shutil.rmtree(tmp_path / "photos" / "test")
    assert len(compare_joint.read_images(data_args).validation) == 6


def test_overrides_and_frozen_decoders_reach_the_methods_that_they_fit(tmp_path):
    preset = {**json.loads((ROOT / "tests/helpers/toy_preset.json").read_text()), "joint": {"decoder_train_steps": 5}}
    (tmp_path / "frozen.json").write_text(json.dumps(preset))
    flags = (
        f"--preset {tmp_path / 'frozen.json'} --max_train_steps 7 --config_overrides latent_dim=4 encoder_type=resnet"
    )
    parsed = {
        method: compare_joint.read_flags(compare_joint.training_flags(arguments(flags), method, []))
        for method in compare_joint.METHODS
    }
    assert [one[3].baseline for one in parsed.values()] == ["none", "classifier", "rectified_flow"]
    assert [one[2].max_train_steps for one in parsed.values()] == [7, 7, 5]
    assert all(one[0].config["latent_dim"] == 4 for one in parsed.values())
    assert [one[0].config.get("encoder_type") for one in parsed.values()] == ["resnet", "resnet", None]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--preset digit", "`preset` must be one of .*digits.*Did you mean `digits`"),
        ("--data_dir no/such/folder", "`data_dir` does not exist: 'no/such/folder'"),
        ("--preset fashion-mnist", "`dataset_name` fashion-mnist needs `data_dir`"),
        ("--total_batch_size 2000", "1293 training images do not fill one batch of 2000"),
        ("--config_overrides latent_dims=3", "LZNConfig has no field `latent_dims`"),
        ("--config_overrides decoder_type=null", "`baseline` none needs a model with image decoder"),
        ("--methods lzn moco", "`methods` must be among lzn, classifier, rectified_flow, but one is 'moco'"),
        ("--samplers heun", "a sampler must be"),
        ("--num_samples 3", "`num_samples` must be at least 4"),
        ("--seeds", "expected at least one argument|`seeds` must not be empty"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_anything_is_trained(tmp_path, argv, message):
    with pytest.raises((ValueError, OSError), match=message):
        compare(f"--output_dir {tmp_path / 'run'} {argv}")
    assert not list(tmp_path.rglob("*.safetensors")) and not (tmp_path / "run" / "data").exists()


def test_probabilities_cannot_be_calibrated_without_held_out_images(tmp_path):
    preset = {**json.loads((ROOT / "tests/helpers/toy_preset.json").read_text()), "data": {"validation_fraction": 0}}
    preset["data"]["dataset_name"] = "digits"
    (tmp_path / "all.json").write_text(json.dumps(preset))
    with pytest.raises(ValueError, match="`validation_fraction` of the preset must be above 0"):
        compare(f"--preset {tmp_path / 'all.json'} --output_dir {tmp_path / 'run'}")
