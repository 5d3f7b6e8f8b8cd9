# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Every flag of `train_joint.py` does something."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.joint_runs import metrics, toy_flags, train, weights
from PIL import Image


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> str:
    return toy_flags(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="module")
def two_steps(toys, tmp_path_factory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("two_steps")
    return weights(train(f"{toys} --output_dir {folder} --max_train_steps 2 --max_grad_norm 0.5"))


@pytest.mark.parametrize(
    "argv",
    [
        "--seed 1",
        "--random_flip",
        "--max_shift 1",
        "--total_batch_size 9",
        "--gradient_accumulation_steps 2",
        "--warmup_steps 2",
        "--lr_scheduler cosine",
        "--max_grad_norm 0.001",
        "--ema_decay 0",
        "--mixed_precision bf16",
        "--num_channels 3",
        "--image_size 16",
    ],
    ids=lambda argv: argv.split()[0],
)
def test_flags_change_the_model(toys, two_steps, tmp_path, argv):
    changed = weights(train(f"{toys} --output_dir {tmp_path} --max_train_steps 2 --max_grad_norm 0.5 {argv}"))
    assert changed.keys() != two_steps.keys() or any(
        changed[name].shape != two_steps[name].shape or not torch.equal(changed[name], two_steps[name])
        for name in two_steps
    )
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in changed.values())


@pytest.mark.parametrize("part", ["encoder", "decoder", "label_anchors"])
def test_each_part_has_its_learning_rate(toys, tmp_path, part):
    train(f"{toys} --output_dir {tmp_path} --max_train_steps 2 --checkpointing_steps 1 --{part}_learning_rate 0")
    first, second = (weights(tmp_path / f"checkpoint-{step}") for step in (1, 2))
    moved = {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert moved == {"encoder", "decoder", "label_anchors"} - {part}


def test_the_decoder_stops_after_its_steps(toys, tmp_path):
    argv = f"{toys} --output_dir {tmp_path} --max_train_steps 4 --decoder_train_steps 2 --checkpointing_steps 1"
    argv += " --checkpoints_total_limit 4"
    train(argv)
    checkpoints = [weights(tmp_path / f"checkpoint-{step}") for step in (1, 2, 3, 4)]
    for name in checkpoints[0]:
        assert not torch.equal(checkpoints[0][name], checkpoints[1][name]) or "reference" in name
        same = torch.equal(checkpoints[1][name], checkpoints[3][name])
        assert same == name.startswith("decoder."), name
    # A run that is resumed afterwards knows.
    expected = weights(tmp_path)
    for step in (3, 4):
        (tmp_path / f"checkpoint-{step}").rename(tmp_path / f"old-{step}")
    train(f"{argv} --resume_from_checkpoint latest")
    assert all(torch.equal(weights(tmp_path)[name], expected[name]) for name in expected)


def test_sample_grids_and_evaluation_follow_their_flags(toys, tmp_path):
    flags = f"{toys} --max_train_steps 1 --max_eval_samples 7 --num_reference_anchors 5"
    folders = [train(f"{flags} --output_dir {tmp_path / n} --samples_per_label {n}") for n in ("2", "3")]
    narrow, wide = (np.asarray(Image.open(folder / "samples.png")) for folder in folders)
    assert wide.shape[1] > narrow.shape[1] and wide.shape[0] == narrow.shape[0] and wide.std() > 0
    folder = folders[0]
    assert (metrics(folder)[-1]["validation_accuracy"] * 7) % 1 == pytest.approx(0, abs=1e-6)
    assert json.loads((folder / "config.json").read_text())["num_reference_anchors"] == 5


def test_the_sampler_steps_follow_their_flag(toys, tmp_path):
    grids = []
    for steps in ("1", "4"):
        folder = train(f"{toys} --output_dir {tmp_path / steps} --max_train_steps 1 --num_inference_steps {steps}")
        grids.append(np.asarray(Image.open(folder / "samples.png")))
    assert not np.array_equal(*grids)


def test_workers_decode(toys, tmp_path):
    train(f"{toys} --output_dir {tmp_path} --max_train_steps 2 --num_workers 1")
    assert metrics(tmp_path)[-1]["step"] == 2
