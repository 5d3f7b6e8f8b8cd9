# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The settings of a run, and the comparison of two runs' settings."""

from __future__ import annotations

import json
from dataclasses import fields

import train_joint
import train_representation
import train_unconditional

from lzn_hf import LZNConfig
from lzn_hf.training.arguments import DataArguments, RunArguments
from lzn_hf.training.settings import MAY_CHANGE_ON_RESUME, resolve_settings, settings_differences


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


def test_the_number_of_steps_may_change_unless_the_learning_rate_depends_on_it():
    config = LZNConfig(**MODEL, num_labels=3)
    saved, now = (
        resolve_settings(config, training=RunArguments(lr_scheduler="cosine", max_train_steps=n)) for n in (5, 6)
    )
    assert settings_differences(saved, now) == ["training.max_train_steps: 5 in the checkpoint, 6 now"]


def test_names_that_may_change_exist():
    known = {f.name for script in SCRIPTS for arguments in script.ARGUMENTS.values() for f in fields(arguments)}
    assert known >= MAY_CHANGE_ON_RESUME
