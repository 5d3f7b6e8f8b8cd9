# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The start of a training script: everything is checked before anything is written."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.models import is_checkpointing
from helpers.training import TINY, forget_accelerators, write_image_folder

from lzn_hf import LZNModel
from lzn_hf.training.arguments import DataArguments, ModelArguments, RunArguments
from lzn_hf.training.models import build_model
from lzn_hf.training.setup import set_up_training
from lzn_hf.training.validation import encode_anchors


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    forget_accelerators()
    yield
    forget_accelerators()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"))


def set_up(images: Path, output_dir: Path, *, check=lambda model: None, **options):
    """`options` of RunArguments, or of `set_up_training`."""
    label_options = {name: options.pop(name) for name in ("use_labels", "model_labels") if name in options}
    model_args = ModelArguments(model_name_or_path=options.pop("model_name_or_path", None))
    model_args.config = {} if model_args.model_name_or_path else TINY
    data_options = {
        name: options.pop(name) for name in ("skip_bad_images", "image_size", "streaming") if name in options
    }
    run = RunArguments(**({"output_dir": str(output_dir), "total_batch_size": 8} | options))
    data_args = DataArguments(data_dir=str(images), **data_options)
    return set_up_training(
        "test", model_args, data_args, run, extra=RunArguments(seed=9), check=check, **label_options
    )


def test_what_a_script_has_at_hand(images, tmp_path):
    setup = set_up(images, tmp_path / "run", seed=5)
    assert not (tmp_path / "run").exists()  # nothing is written yet
    assert setup.model.config.id2label == {0: "cat", 1: "dog", 2: "eel"} and setup.model.training
    assert setup.data.label_names == ["cat", "dog", "eel"] and setup.checkpoint is None
    assert setup.settings["model"]["labels"] == ["cat", "dog", "eel"]
    assert (setup.settings["training"]["seed"], setup.settings["extra"]["seed"]) == (5, 9)
    assert setup.hub_model_id is None
    assert next(iter(setup.loader))["pixel_values"].shape == (8, 1, 8, 8)
    weight = setup.model.decoder.get_submodule("conv_out").weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not is_checkpointing(setup.model)


def test_weights_follow_the_seed(images, tmp_path):
    anchors = []
    for seed in (1, 1, 2):
        forget_accelerators()
        anchors.append(set_up(images, tmp_path, seed=seed).model.label_anchors())
    assert torch.equal(anchors[0], anchors[1]) and not torch.equal(anchors[0], anchors[2])


def test_fine_tuning_converts_images_to_the_shape_of_the_model(images, tmp_path):
    folder = str(tmp_path / "saved")
    saved = build_model(TINY, image_size=4, num_channels=3, label_names=["eel", "cat"])
    saved.save_pretrained(folder)
    setup = set_up(images, tmp_path / "run", model_name_or_path=folder)
    assert (setup.data.image_size, setup.data.num_channels) == (4, 3)
    assert next(iter(setup.loader))["pixel_values"].shape == (8, 3, 4, 4)
    anchors = setup.model.label_anchors()
    assert torch.equal(anchors[[2, 0]], saved.label_anchors()) and setup.model.config.id2label[1] == "dog"
    forget_accelerators()
    with pytest.raises(ValueError, match=r"`image_size` is 8, but `model_name_or_path` .* was trained with 4"):
        set_up(images, tmp_path / "run", model_name_or_path=folder, image_size=8)


@pytest.mark.parametrize("use_labels", [True, False])
def test_a_model_without_the_labels_of_the_data(images, tmp_path, use_labels):
    setup = set_up(images, tmp_path, use_labels=use_labels, model_labels=False)
    assert setup.model.config.num_labels == 0 and setup.model.label_anchors is None
    assert ("labels" in next(iter(setup.loader))) == (setup.data.label_names is not None) == use_labels


def test_gradient_checkpointing_reaches_both_networks(images, tmp_path):
    model = set_up(images, tmp_path, gradient_checkpointing=True).model
    assert is_checkpointing(model.encoder) and is_checkpointing(model.decoder)


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
    setup = set_up(images, tmp_path, dry_run=True, seed=5, push_to_hub=True, resume_from_checkpoint="nowhere")
    assert setup.checkpoint is None and setup.hub_model_id is None
    assert next(iter(setup.loader))["pixel_values"].shape == (8, 1, 8, 8)
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


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_train_steps": 4}, "1.8 passes over the 18 training images: 4 steps of 8 images.*`--max_train_steps 5`"),
        (
            {"max_train_steps": 1},
            "0.44 passes over the 18 training images: 1 steps of 8 images.*`--max_train_steps 5`",
        ),
        ({"max_train_steps": 5}, None),
        ({"max_train_steps": 4, "total_batch_size": 9}, None),
        ({"max_train_steps": 1, "streaming": True}, None),  # nobody knows how many images there are
    ],
)
def test_a_run_of_less_than_two_passes_is_warned_about(images, tmp_path, caplog, dry_run, options, message):
    set_up(images, tmp_path / "run", dry_run=dry_run, **options)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == (message is not None)
    assert message is None or re.search(message, warnings[0])


def labels(batches) -> list[int]:
    return [label for batch in batches for label in batch["labels"].tolist()]


def test_images_for_evaluation(images, tmp_path, monkeypatch):
    setup = set_up(images, tmp_path, seed=5)
    assert labels(setup.train_batches(7)) == labels(setup.train_batches(18))[:7]
    setup.run.seed = 6
    assert labels(setup.train_batches(18)) != labels(set_up(images, tmp_path, seed=5).train_batches(18))
    assert sorted(labels(setup.validation_batches())) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    setup.data_args.max_eval_samples = 5
    assert len(labels(setup.validation_batches())) == 5
    anchors = setup.encode_train_anchors(7)
    assert torch.equal(anchors, encode_anchors(setup.model, setup.train_batches(7)))
    assert list(replace(setup, data=replace(setup.data, validation=None)).validation_batches()) == []
    monkeypatch.setattr(type(setup.accelerator), "num_processes", 2)
    assert len(labels(setup.validation_batches())) == 5
    assert len(labels(setup.validation_batches(split_over_processes=True))) == 3
