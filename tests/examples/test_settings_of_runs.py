# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the training scripts make of their settings: runs that are resumed, data without labels, dry runs without data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.training import TINY, data_flags, forget_accelerators, write_image_folder
from PIL import Image
from safetensors.torch import load_file

from lzn_hf import train_joint, train_representation, train_text_image, train_unconditional
from lzn_hf.training.durable import MANIFEST, write_manifest
from lzn_hf.training.parsing import PRESETS_DIR, parse_arguments


SCRIPTS = {"joint": train_joint, "representation": train_representation, "unconditional": train_unconditional}
PRESETS = PRESETS_DIR
RESUME = "--resume_from_checkpoint latest"


@pytest.fixture(scope="module")
def presets(tmp_path_factory) -> dict[str, str]:
    """The path of a preset of tiny networks for each script."""
    folder = tmp_path_factory.mktemp("presets")
    training = {"total_batch_size": 8, "logging_steps": 1}
    joint = json.loads((ROOT / "tests/helpers/toy_preset.json").read_text())
    encoder = {"latent_dim": 64, "encoder_type": "resnet", "encoder_small_images": True, "decoder_type": None}
    encoder |= {"encoder_depths": [1], "encoder_widths": [32]}
    sections = {
        "joint": {**joint, "training": training},
        "representation": {"model": encoder, "training": training, "views": {"blur": 0.0}},
        "unconditional": {"model": TINY, "training": training, "unconditional": {"num_inference_steps": 1}},
    }
    for kind, section in sections.items():
        (folder / f"{kind}.json").write_text(json.dumps(section))
    return {kind: str(folder / f"{kind}.json") for kind in sections}


@pytest.fixture
def train(presets, tmp_path, monkeypatch):
    """Runs a script in a new folder, with a tiny preset if the flags name no other."""
    monkeypatch.chdir(tmp_path)

    def train(kind: str, flags: str) -> Path | None:
        forget_accelerators()
        preset = [] if "--preset" in flags else ["--preset", presets[kind]]
        return SCRIPTS[kind].main([*preset, *flags.split()])

    return train


def change_one_image(folder: Path) -> None:
    path = sorted(folder.glob("train/cat/*.png"))[0]
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


def test_the_same_images_elsewhere_continue_a_run_and_others_in_the_same_place_do_not(train, tmp_path):
    images = write_image_folder(tmp_path / "job1")
    run = "--output_dir out --checkpointing_steps 1"
    train("joint", f"{run} --data_dir job1 --max_train_steps 1")
    shutil.copytree(images, tmp_path / "job2")
    for step, folder in enumerate(("job2", tmp_path / "job1", "job1/"), start=2):
        train("joint", f"{run} --data_dir {folder} --max_train_steps {step} {RESUME}")
    assert [line["step"] for line in map(json.loads, (tmp_path / "out/metrics.jsonl").open()) if "loss" in line] == [
        1,
        2,
        3,
        4,
    ]

    before = sorted(tmp_path.rglob("*"))
    change_one_image(images)
    with pytest.raises(ValueError, match="as many training images of the same labels and sizes, but other pixels"):
        train("joint", f"{run} --data_dir job1 --max_train_steps 5 {RESUME}")
    (images / "train/cat/0.png").unlink()
    message = "training images: 18 in the checkpoint, 17 now; images of label 'cat': 6 in the checkpoint, 5 now"
    with pytest.raises(ValueError, match=message):
        train("joint", f"{run} --data_dir job1 --max_train_steps 5 {RESUME}")
    shutil.move(images / "train/dog/0.png", images / "train/cat/0.png")
    with pytest.raises(ValueError, match="images of label 'dog': 6 in the checkpoint, 5 now"):
        train("joint", f"{run} --data_dir job1 --max_train_steps 5 {RESUME}")
    assert set(tmp_path.rglob("*")) < set(before)


def test_a_checkpoint_from_before_a_setting_existed_continues(train, tmp_path):
    write_image_folder(tmp_path / "images")
    run = "--data_dir images --output_dir out --checkpointing_steps 1"
    train("joint", f"{run} --max_train_steps 1")
    checkpoint = tmp_path / "out/checkpoint-1"
    settings = json.loads((checkpoint / "training_settings.json").read_text())
    del settings["images"], settings["data"]["skip_bad_images"], settings["training"]["max_grad_norm"]
    (checkpoint / "training_settings.json").write_text(json.dumps(settings))
    (checkpoint / MANIFEST).unlink()
    write_manifest(checkpoint, step=1)
    with pytest.raises(ValueError, match="training.max_grad_norm: 1.0 in the checkpoint, 0.5 now"):
        train("joint", f"{run} --max_train_steps 2 {RESUME} --max_grad_norm 0.5")
    train("joint", f"{run} --max_train_steps 2 {RESUME}")


def test_a_cosine_schedule_may_end_early_but_not_later(train, tmp_path):
    write_image_folder(tmp_path / "images")
    run = "--data_dir images --output_dir out --checkpointing_steps 2 --lr_scheduler cosine"
    train("unconditional", f"{run} --max_train_steps 4")
    shutil.rmtree(tmp_path / "out/checkpoint-4")
    final = tmp_path / "out/model.safetensors"
    final.unlink()
    with pytest.raises(ValueError, match="`max_train_steps` was 4 and is 6 now, but the cosine schedule"):
        train("unconditional", f"{run} --max_train_steps 6 {RESUME}")
    train("unconditional", f"{run} --max_train_steps 2 {RESUME}")
    averages = torch.load(tmp_path / "out/checkpoint-2/training_state.pt", weights_only=True)["ema"]
    saved = load_file(final)
    assert all(
        any(torch.equal(value, one) for one in saved.values()) for value in averages["decoder"]["shadow_params"]
    )
    settings = json.loads((tmp_path / "out/training_settings.json").read_text())
    assert settings["training"]["max_train_steps"] == 2


# Data without labels


def one_class(folder: Path) -> Path:
    (folder / "cat").mkdir(parents=True)
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "cat" / f"{number}.png")
    return folder


def test_a_single_class_is_enough_where_labels_are_not_needed(train, tmp_path, caplog):
    caplog.set_level("INFO")
    one_class(tmp_path / "images")
    message = "one class folder only, 'cat'.*or go without labels. train_unconditional.py and train_representation.py need no"
    with pytest.raises(ValueError, match=message) as error:
        train("joint", "--data_dir images --output_dir out")
    assert "--" not in str(error.value) and "=" not in str(error.value)
    with pytest.raises(ValueError, match="unknown flag --no_use_labels"):
        train("joint", "--data_dir images --output_dir out --no_use_labels")
    assert not (tmp_path / "out").exists()
    for kind in ("representation", "unconditional"):
        train(kind, f"--data_dir images --output_dir {kind} --max_train_steps 1")
        assert (tmp_path / kind / "model.safetensors").exists()
    assert "Without labels: " in caplog.text and "labels tell nothing" in caplog.text


def test_a_label_column_that_is_asked_for_must_be_there(train, tmp_path):
    one_class(tmp_path / "images")
    with pytest.raises(ValueError, match="one class folder only"):
        train("representation", "--data_dir images --label_column folder --output_dir out")


# Dry runs


@pytest.mark.parametrize(
    ("kind", "flags", "texts"),
    [
        ("joint", "--preset fashion-mnist", ["label_anchors:            640", "2.6 epochs of 60,000", '"Ankle boot"']),
        ("joint", "--preset fashion-mnist --image_size 32", ['"image_size": 32']),
        ("representation", "--preset fashion-mnist", ["60,000 training images", '"labels": []']),
        ("unconditional", "--preset fashion-mnist-small", ['"image_size": 16', '"num_channels": 1']),
    ],
)
def test_a_dry_run_of_a_published_dataset_needs_no_data(train, capsys, tmp_path, kind, flags, texts):
    assert train(kind, f"{flags} --dry_run") is None
    printed = capsys.readouterr().out
    assert "The data was not looked at" in printed and "images found" not in printed
    assert all(text in printed for text in texts), printed
    assert not list(tmp_path.iterdir())


def test_a_dry_run_looks_at_data_that_is_given(train, capsys, tmp_path):
    write_image_folder(tmp_path / "mine")
    train("joint", "--preset fashion-mnist --data_dir mine --image_size 16 --total_batch_size 8 --dry_run")
    printed = capsys.readouterr().out
    assert "images used: 18 for train" in printed and "not looked at" not in printed
    assert '"output_dir": "outputs/joint-mine"' in printed and '"labels": [\n      "cat"' in printed
    with pytest.raises(ValueError, match="needs `data_dir`"):
        train("joint", "--preset fashion-mnist")


@pytest.mark.parametrize(
    ("kind", "preset"),
    [
        (path.parent.name, path.stem)
        for path in sorted(PRESETS.glob("*/*.json"))
        if not path.stem.startswith("digits") and not data_flags(path)
    ],
)
def test_every_published_preset_knows_its_data(kind, preset):
    script = {**SCRIPTS, "text-image": train_text_image}[kind]
    _, data, *_ = parse_arguments(script.ARGUMENTS, PRESETS / kind, ["--preset", preset])
    assert {"image_size", "num_channels"} <= data.facts.keys()
    assert ("label_names" in data.facts) == (kind in ("joint", "text-image"))
    assert data.image_size is None or data.facts["image_size"] in (data.image_size, 28)


def test_the_output_folder_follows_the_data(train, tmp_path):
    write_image_folder(tmp_path / "mine")
    folder = train(
        "unconditional", "--preset digits --data_dir mine/ --max_train_steps 1 --total_batch_size 8 --num_samples 1"
    )
    assert folder == Path("outputs/unconditional-mine") and (tmp_path / folder / "model.safetensors").exists()


@pytest.mark.parametrize("kind", SCRIPTS)
def test_fp16_on_a_cpu_is_refused(train, tmp_path, kind):
    with pytest.raises(ValueError, match="`mixed_precision` is fp16, which a CPU cannot train with"):
        train(kind, "--dataset_name digits --output_dir out --mixed_precision fp16")
    assert not (tmp_path / "out").exists()
