# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The settings of a run, and the comparison of two runs' settings."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import fields

import pytest

from lzn_hf import LZNConfig, train_joint, train_representation, train_unconditional
from lzn_hf.data.summary import DataSummary
from lzn_hf.training.arguments import DataArguments, RunArguments
from lzn_hf.training.settings import (
    MAY_CHANGE_ON_RESUME,
    SHAPE_OF_IMAGES,
    SOURCE_OF_IMAGES,
    check_last_step,
    default_settings,
    resolve_settings,
    settings_differences,
)


SCRIPTS = (train_joint, train_representation, train_unconditional)
MODEL = {
    "image_size": 8,
    "num_channels": 1,
    "latent_dim": 6,
    "encoder_attention_resolutions": [],
    "decoder_attention_resolutions": [],
}
MODEL |= {"encoder_channel_multipliers": [1], "decoder_channel_multipliers": [1]}


def test_settings_that_change_the_run_are_listed_and_the_others_are_not():
    config = LZNConfig(**MODEL, num_labels=3)
    saved = resolve_settings(config, data=DataArguments(), training=RunArguments())
    assert json.loads(json.dumps(saved)) == saved
    now = resolve_settings(config, data=DataArguments(), training=RunArguments(output_dir="other", max_train_steps=9))
    assert settings_differences(saved, now) == []
    other = LZNConfig(**{**MODEL, "latent_dim": 7}, num_labels=4)
    now = resolve_settings(other, data=DataArguments(max_shift=1), training=RunArguments(seed=1))
    lines = settings_differences(saved, now)
    assert [line.split(":")[0] for line in lines] == [
        "data.max_shift",
        "model.labels",
        "model.latent_dim",
        "training.seed",
    ]
    assert lines[-1] == "training.seed: 0 in the checkpoint, 1 now"


def settings_of(data: DataArguments | None = None, **images) -> dict:
    """Settings of a run on 40 images."""
    content = {"used": {"train": 40}, "labels": {"a": {"train": 20}, "b": {"train": 20}}, "sizes": {"8 x 8": 40}}
    summary = DataSummary(**{**content, "fingerprint": "f", **images})
    config = LZNConfig(**MODEL, num_labels=2)
    return resolve_settings(config, summary, data=data or DataArguments(data_dir="a"), training=RunArguments())


def test_images_are_compared_by_what_they_are():
    saved = settings_of()
    moved = DataArguments(
        data_dir="/elsewhere/a/", data_seed=3, validation_fraction=0.2, skip_bad_images=True, image_size=8
    )
    assert settings_differences(saved, settings_of(moved)) == []
    found = settings_differences(
        saved, settings_of(used={"train": 41}, sizes={"8 x 8": 40, "9 x 8": 1}, fingerprint="g")
    )
    assert found == [
        "training images: 40 in the checkpoint, 41 now",
        "images of size '9 x 8': 0 in the checkpoint, 1 now",
    ]
    found = settings_differences(saved, settings_of(labels={"a": {"train": 19}, "c": {"train": 21}}))
    assert [line.split(":")[0] for line in found] == [f"images of label {name!r}" for name in "abc"]
    (line,) = settings_differences(saved, settings_of(fingerprint="g"))
    assert "other pixels" in line
    many = {str(label): {"train": 1} for label in range(100)}
    assert settings_differences(saved, settings_of(labels=many))[-1] == "and 82 more"


def test_without_a_fingerprint_the_source_is_compared(monkeypatch, tmp_path):
    """As of a stream, or in a checkpoint of an earlier version."""
    monkeypatch.chdir(tmp_path)
    saved = settings_of(fingerprint=None)
    for folder in ("a", "a/", str(tmp_path / "a")):
        assert settings_differences(saved, settings_of(DataArguments(data_dir=folder), fingerprint=None)) == []
    (line,) = settings_differences(saved, settings_of(DataArguments(data_dir="b")))
    assert line.startswith("data.data_dir: ")
    del saved["images"]
    assert settings_differences(saved, settings_of()) == []
    assert len(settings_differences(saved, settings_of(DataArguments(data_dir="a", data_seed=1)))) == 1


def test_a_setting_that_did_not_exist_yet_had_its_default():
    saved, defaults = settings_of(), default_settings(data=DataArguments(), training=RunArguments())
    for section, name in (("data", "max_shift"), ("training", "lr_scheduler"), ("model", "alignment_end")):
        del saved[section][name]
    assert settings_differences(saved, settings_of(), defaults) == []
    (line,) = settings_differences(saved, settings_of(DataArguments(data_dir="a", max_shift=2)), defaults)
    assert line == "data.max_shift: 0 in the checkpoint, 2 now"


@pytest.mark.parametrize(
    ("schedule", "end", "message"),
    [
        ("constant", 9, None),
        ("constant", 6, None),
        ("constant", 5, None),
        ("constant", 4, "the checkpoint has 5 steps: pass at least `--max_train_steps 5`"),
        ("cosine", 8, None),
        ("cosine", 5, None),
        ("cosine", 4, "the checkpoint has 5 steps"),
        (
            "cosine",
            6,
            "`max_train_steps` was 8 and is 6 now, but the cosine schedule .* `--max_train_steps 5` to end at",
        ),
        ("cosine", 9, "`max_train_steps` was 8 and is 9 now, but the cosine schedule .* Leave it at 8"),
    ],
)
def test_the_last_step_of_a_resumed_run(schedule, end, message):
    saved = {"training": {"max_train_steps": 8}}
    run = RunArguments(lr_scheduler=schedule, max_train_steps=end)
    with nullcontext() if message is None else pytest.raises(ValueError, match=message):
        check_last_step(saved, run, step=5)


def test_names_that_may_change_exist():
    known = {f.name for script in SCRIPTS for arguments in script.ARGUMENTS.values() for f in fields(arguments)}
    assert known >= MAY_CHANGE_ON_RESUME | SOURCE_OF_IMAGES | SHAPE_OF_IMAGES
