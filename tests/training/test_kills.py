# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A run that is killed at random moments, and resumed each time, ends as one that nobody disturbed."""

from __future__ import annotations

import json
from functools import partial

import pytest
from helpers.forked_runs import assert_same_outcome, kill_at_random, run_undisturbed, start
from helpers.training import TINY, write_image_folder

from lzn_hf import train_joint, train_representation, train_unconditional


# Checkpoints fall between two lines of metrics, and upon and between evaluations.
STEPS, CHECKPOINTING_STEPS = 12, 2
FLAGS = f"--total_batch_size 8 --max_train_steps {STEPS} --checkpointing_steps {CHECKPOINTING_STEPS}"
FLAGS += " --logging_steps 5 --eval_steps 3 --num_reference_anchors 9"
SCRIPTS = {
    "joint": (train_joint, "--samples_per_label 2 --num_inference_steps 2"),
    "unconditional": (train_unconditional, "--num_samples 4 --num_inference_steps 2"),
    "representation": (train_representation, "--config_overrides decoder_type=null"),
}


def survive(name: str, kills: int, folder, seed: int) -> list[int]:
    (folder / "toys.json").write_text(json.dumps({"model": TINY}))
    script, flags = SCRIPTS[name]
    flags = f"--preset {folder}/toys.json --data_dir {write_image_folder(folder / 'images')} {FLAGS} {flags}"
    whole = partial(start, script, f"{flags} --output_dir {folder}/whole")
    pause = run_undisturbed(whole, folder / "whole") * CHECKPOINTING_STEPS / STEPS
    again = partial(start, script, f"{flags} --output_dir {folder}/killed --resume_from_checkpoint latest")
    steps = kill_at_random(again, folder / "killed", kills, pause, STEPS, seed)
    assert_same_outcome(folder / "killed", folder / "whole")
    assert not list((folder / "killed").glob(".*"))
    return steps


def test_five_kills(tmp_path):
    steps = survive("unconditional", 5, tmp_path, seed=484)  # whose kills follow steps 0, 2, 5, 7 and 9
    assert len(steps) == 5 and len(set(steps)) > 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills"), [("joint", 9), ("unconditional", 8), ("representation", 8)])
def test_twenty_five_kills(tmp_path, name, kills):
    steps = survive(name, kills, tmp_path, seed=1)
    print(f"{name}: killed {kills} times; the last checkpoints were those of steps {steps}")
    assert len(steps) == kills and len(set(steps)) > 3
