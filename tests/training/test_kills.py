# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A run that is killed at random moments, and resumed each time, ends as one that nobody disturbed."""

from __future__ import annotations

import json
import time
from functools import partial

import pytest
import train_joint
import train_representation
import train_unconditional
from helpers.forked_runs import assert_same_outcome, finish, kill_at_random, start
from helpers.training import TINY, write_image_folder


# Checkpoints fall between two lines of metrics, and upon and between evaluations.
FLAGS = "--total_batch_size 8 --max_train_steps 10 --checkpointing_steps 2 --logging_steps 3 --eval_steps 4 --num_reference_anchors 9"
SCRIPTS = {
    "joint": (train_joint, "--samples_per_label 2 --num_inference_steps 2"),
    "unconditional": (train_unconditional, "--num_samples 4 --num_inference_steps 2"),
    "representation": (train_representation, "--config_overrides decoder_type=null"),
}


def survive(name: str, kills: int, folder, seed: int) -> list[int]:
    (folder / "toys.json").write_text(json.dumps({"model": TINY}))
    script, flags = SCRIPTS[name]
    flags = f"--preset {folder}/toys.json --data_dir {write_image_folder(folder / 'images')} {FLAGS} {flags}"
    begin = time.monotonic()
    assert finish(start(script, f"{flags} --output_dir {folder}/whole")) == 0
    duration = time.monotonic() - begin
    again = partial(start, script, f"{flags} --output_dir {folder}/killed --resume_from_checkpoint latest")
    steps = kill_at_random(again, folder / "killed", kills, duration, seed)
    assert_same_outcome(folder / "killed", folder / "whole")
    assert not list((folder / "killed").glob(".*"))
    return steps


def test_five_kills(tmp_path):
    assert len(survive("joint", 5, tmp_path, seed=0)) == 5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills"), [("joint", 9), ("unconditional", 8), ("representation", 8)])
def test_twenty_five_kills(tmp_path, name, kills):
    steps = survive(name, kills, tmp_path, seed=1)
    print(f"{name}: killed {kills} times; the last checkpoints were those of steps {steps}")
    assert len(set(steps)) > 2  # the moments were spread over the run
