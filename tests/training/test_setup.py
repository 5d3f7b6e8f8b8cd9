# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""How a training script begins and ends: checked first, then written, and one folder is left."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.training import TINY, forget_accelerators, tiny_model, write_image_folder
from huggingface_hub import ModelCard

from lzn_hf import LZNModel
from lzn_hf.training.arguments import DataArguments, ModelArguments, RunArguments
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.setup import TrainingSetup, save_final_folder, set_up_training


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    forget_accelerators()
    yield
    forget_accelerators()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"))


def set_up(images: Path, output_dir: Path, *, config=None, check=lambda model: None, pretrained=None, **options):
    """`options` of RunArguments, or of `set_up_training`."""
    own = {name: options.pop(name) for name in ("use_labels", "model_labels") if name in options}
    skip_bad_images = options.pop("skip_bad_images", False)
    model_args = ModelArguments(model_name_or_path=pretrained)
    model_args.config = TINY if config is None else config
    run = RunArguments(**({"output_dir": str(output_dir), "total_batch_size": 8} | options))
    data_args = DataArguments(data_dir=str(images), skip_bad_images=skip_bad_images)
    return set_up_training(model_args, data_args, run, extra=RunArguments(seed=9), check=check, **own)


def test_what_a_script_has_at_hand(images, tmp_path):
    setup = set_up(images, tmp_path / "run", seed=5)
    assert not (tmp_path / "run").exists()  # nothing is written yet
    assert setup.model.config.id2label == {0: "cat", 1: "dog", 2: "eel"} and setup.model.training
    assert setup.data.label_names == ["cat", "dog", "eel"] and setup.checkpoint is None
    assert setup.settings["model"]["labels"] == ["cat", "dog", "eel"]
    assert (setup.settings["training"]["seed"], setup.settings["extra"]["seed"]) == (5, 9)
    assert setup.model_id == str(tmp_path / "run")
    assert next(iter(setup.loader))["pixel_values"].shape == (8, 1, 8, 8)
    weight = setup.model.decoder.get_submodule("conv_out").weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not setup.model.decoder.gradient_checkpointing


def test_weights_follow_the_seed(images, tmp_path):
    anchors = []
    for seed in (1, 1, 2):
        forget_accelerators()
        anchors.append(set_up(images, tmp_path, seed=seed).model.label_anchors)
    assert torch.equal(anchors[0], anchors[1]) and not torch.equal(anchors[0], anchors[2])


@pytest.mark.parametrize("use_labels", [True, False])
def test_a_model_without_the_labels_of_the_data(images, tmp_path, use_labels):
    setup = set_up(images, tmp_path, use_labels=use_labels, model_labels=False)
    assert setup.model.config.num_labels == 0 and setup.model.label_anchors is None
    assert ("labels" in next(iter(setup.loader))) == (setup.data.label_names is not None) == use_labels


def test_gradient_checkpointing_reaches_both_networks(images, tmp_path):
    model = set_up(images, tmp_path, gradient_checkpointing=True).model
    assert model.encoder.gradient_checkpointing is model.decoder.gradient_checkpointing is True


def test_the_check_sees_the_model_before_anything_is_written(images, tmp_path):
    seen = []

    def check(model: LZNModel) -> None:
        seen.append(model)
        raise ValueError("not this one")

    for dry_run in (False, True):
        forget_accelerators()
        with pytest.raises(ValueError, match="not this one"):
            set_up(images, tmp_path / "run", check=check, dry_run=dry_run)
    assert len(seen) == 2 and type(seen[0]) is LZNModel
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_all_settings(images, tmp_path, capsys):
    (tmp_path / "notes.txt").touch()  # a folder that a run would refuse
    assert set_up(images, tmp_path, dry_run=True, seed=5) is None
    printed = capsys.readouterr().out
    settings, _ = json.JSONDecoder().raw_decode(printed)
    assert settings["training"]["seed"] == 5 and settings["extra"]["seed"] == 9
    assert "label_anchors:             18 parameters" in printed and "18 training images" in printed
    assert "images used: 18 for train, 9 for validation" in printed and "'cat' 6 + 3" in printed
    forget_accelerators()
    with pytest.raises(ValueError, match="`output_dir` .* is not empty"):
        set_up(images, tmp_path)


def test_a_run_begins_with_a_summary_of_its_data(images, tmp_path, caplog):
    (images / "train" / "cat" / "broken.png").write_text("no image")
    try:
        with pytest.raises(ValueError, match=r"broken.png'\) cannot be read"):
            set_up(images, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        forget_accelerators()
        with caplog.at_level(logging.INFO, "lzn_hf"):
            setup = set_up(images, tmp_path / "run", skip_bad_images=True)
    finally:
        (images / "train" / "cat" / "broken.png").unlink()
    summary = setup.data.summary
    assert summary.found == {"train": 19, "test": 9} and summary.used == {"train": 18, "validation": 9}
    (logged,) = [r.getMessage() for r in caplog.records if "images found" in r.getMessage()]
    assert "left out, images that cannot be read, of split 'train': 1" in logged and "broken.png" in logged


def train_one_step(images: Path, output_dir: Path, **options) -> tuple[TrainingSetup, TrainingLoop]:
    def compute_loss(model, batch, generator):
        return model(batch["pixel_values"] / 127.5 - 1, labels=batch["labels"], generator=generator).loss, {}

    setup = set_up(images, output_dir, max_train_steps=1, **options)
    rates = dict.fromkeys(("encoder", "decoder", "label_anchors"), 1e-3)
    run = RunArguments(output_dir=str(output_dir), total_batch_size=8, max_train_steps=1)
    loop = TrainingLoop(setup.accelerator, setup.model, setup.loader, run, rates, compute_loss)
    assert loop.fit(setup.tracker, setup.settings, name="test") == output_dir
    return setup, loop


def test_the_final_folder(images, tmp_path):
    tiny_model(labels=("cat", "dog", "eel")).save_pretrained(tmp_path / "saved")
    output_dir, folders = tmp_path / "run", []
    setup, loop = train_one_step(images, output_dir, config={}, pretrained=str(tmp_path / "saved"))

    def write(folder: Path) -> None:
        folders.append(folder)
        loop.plain.save_pretrained(folder)

    save_final_folder(setup, loop, output_dir, {"validation_score": 0.25}, write)
    loop.close()
    names = {
        "README.md",
        "config.json",
        "data_summary.json",
        "metrics.jsonl",
        "model.safetensors",
        "training_settings.json",
    }
    assert {path.name for path in output_dir.iterdir()} == names
    assert folders[0] != output_dir and not folders[0].exists()  # written elsewhere first: never a half of it
    assert json.loads((output_dir / "training_settings.json").read_text()) == setup.settings
    assert json.loads((output_dir / "data_summary.json").read_text()) == setup.data.summary.to_dict()
    assert json.loads((output_dir / "metrics.jsonl").read_text().splitlines()[-1]) == {
        "step": 1,
        "validation_score": 0.25,
    }
    card = ModelCard.load(output_dir / "README.md")
    assert "validation score: 0.2500" in card.text and f"{loop.plain.num_parameters():,}" in card.text


def test_a_failure_at_the_end_leaves_the_last_folder_alone(images, tmp_path):
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        raise OSError("disk full")

    setup, loop = train_one_step(images, tmp_path / "run")
    with pytest.raises(OSError, match="disk full"):
        save_final_folder(setup, loop, tmp_path / "run", {}, write)
    loop.close()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]
