# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Metrics averaged over steps, the warning about latents, and the file that metrics are written to."""

from __future__ import annotations

import json
import math
from types import ModuleType

import pytest
import torch
from helpers.training import (
    TINY,
    accelerator_fixture,  # noqa: F401 (a fixture)
    forget_accelerators,
)

from lzn_hf import train_joint, train_representation, train_unconditional
from lzn_hf.training.metrics import JSONLinesTracker, LatentWatch, MetricAverager


PRIOR = (0.0, 1.0)


def test_metrics_are_means_over_good_steps(accelerator):
    averager = MetricAverager(images_per_step=10)
    for applied, losses in ((True, (1.0, 3.0)), (False, (float("nan"), 5.0)), (True, (4.0, 8.0))):
        for loss in losses:
            averager.add(loss=torch.tensor(loss), absent=None)
        averager.end_step(applied)
    metrics = averager.compute(accelerator)
    assert metrics["loss"] == 4.0 and metrics.keys() == {"loss", "images_per_second"}
    assert metrics["images_per_second"] > 0
    assert averager.compute(accelerator) == {"images_per_second": 0}


def test_metrics_are_json_lines_and_rewind(tmp_path):
    tracker, saved = JSONLinesTracker(tmp_path / "metrics.jsonl"), tmp_path / "saved.jsonl"
    tracker.rewind(None)  # no file yet
    for step in (1, 2, 3):
        tracker.log({"loss": step / 2}, step=step)
        if step == 2:
            saved.write_bytes(tracker.path.read_bytes())
    with tracker.path.open("a") as file:
        file.write('{"step": 4, "lo')
    tracker.rewind(saved)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "saved.jsonl"]
    tracker.log({"loss": 9.0}, step=3)
    lines = [json.loads(line) for line in tracker.path.read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 9.0}]
    tracker.rewind(tmp_path / "none.jsonl")  # of a checkpoint before the first line
    assert not tracker.path.exists()


def test_a_mean_goes_on_after_a_checkpoint(accelerator):
    """Of three steps, two of them before; one was skipped."""
    whole, parts = MetricAverager(1), MetricAverager(1)
    for averager in (whole, parts):
        for applied, loss in ((True, 0.1), (False, 9.0), (True, 0.7)):
            averager.add(loss=torch.tensor(loss), accuracy=torch.tensor(loss / 3))
            averager.end_step(applied)
    resumed = MetricAverager(1)
    resumed.load_state_dict(parts.state_dict())
    resumed_on_two = MetricAverager(1)  # what two processes had, on one
    state = parts.state_dict()
    resumed_on_two.load_state_dict({**state, "values": 2 * state["values"]})
    for averager in (whole, resumed, resumed_on_two):
        averager.add(loss=torch.tensor(0.3), accuracy=torch.tensor(0.5))
        averager.end_step(True)
    means = [averager.compute(accelerator) for averager in (whole, resumed, resumed_on_two)]
    assert all(one["loss"] == means[0]["loss"] and one["accuracy"] == means[0]["accuracy"] for one in means)
    empty = MetricAverager(1)
    empty.load_state_dict(MetricAverager(1).state_dict())
    assert empty.compute(accelerator).keys() == {"images_per_second"}


# Latents that leave the prior


def warnings_of(caplog) -> list[str]:
    return [text for record in caplog.records if "left the prior" in (text := record.getMessage())]


@pytest.mark.parametrize(
    ("lines", "warned_at"),
    [
        (20 * [PRIOR], None),
        (20 * [(0.1, 1.1)], None),  # the bounds themselves
        (20 * [(-0.1, 0.9)], None),
        (4 * [(0.0, 1.2)] + [PRIOR] + 4 * [(0.0, 1.2)], None),  # not in a row
        (5 * [(0.0, 1.2)], 5),
        ([PRIOR] + 5 * [(0.0, 0.8)], 6),
        (5 * [(0.2, 1.0)], 5),
        ([(0.2, 1.0), (-0.2, 1.0), (0.0, 0.8), (0.0, 1.2), (0.2, 0.8)], 5),
        (5 * [(math.nan, 1.0)], 5),
        (7 * [(0.0, 1.2)] + [PRIOR] + 7 * [(0.0, 1.2)], 5),  # once
    ],
)
def test_latents_that_stay_outside_of_the_prior_are_warned_about_once(caplog, lines, warned_at):
    watch = LatentWatch(num_steps=15)
    for step, (mean, std) in enumerate(lines, start=1):
        watch.watch({"latent_mean": mean, "latent_std": std, "loss": 1.0}, step)
        watch.watch({"loss": 1.0}, step)  # all steps since the last line were skipped
        watch.watch({"latent_std": 0.45}, step)  # latents with less noise than the prior
    texts = warnings_of(caplog)
    assert len(texts) == (warned_at is not None)
    if texts:
        assert f"at step {warned_at} their mean is" in texts[0]
        assert "`--config_overrides latent_num_steps=30`, 15 now" in texts[0] and "--encoder_learning_rate" in texts[0]


def train_on_digits(script: ModuleType, tmp_path, model: dict) -> list[dict[str, float]]:
    preset = tmp_path / "preset.json"
    training = {"total_batch_size": 128, "max_train_steps": 6, "logging_steps": 1, "output_dir": str(tmp_path / "run")}
    preset.write_text(json.dumps({"model": model, "data": {"dataset_name": "digits"}, "training": training}))
    forget_accelerators()
    script.main(["--preset", str(preset), "--max_eval_samples", "8", "--num_reference_anchors", "8"])
    return [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("script", [train_joint, train_unconditional])
def test_a_flow_of_too_few_steps_makes_a_run_warn_and_one_of_enough_does_not(tmp_path, caplog, script):
    lines = train_on_digits(script, tmp_path, {**TINY, "latent_num_steps": 2})
    assert all(line["latent_std"] < 0.9 for line in lines if "loss" in line)
    (text,) = warnings_of(caplog)
    assert "at step 5 " in text and "`--config_overrides latent_num_steps=4`, 2 now" in text
    caplog.clear()
    (tmp_path / "healthy").mkdir()
    lines = train_on_digits(script, tmp_path / "healthy", TINY)
    assert all(0.9 < line["latent_std"] < 1.1 for line in lines if "loss" in line)
    assert not warnings_of(caplog)


def test_latents_of_views_need_not_be_those_of_the_prior(tmp_path, caplog):
    model = {**TINY, "decoder_type": None, "latent_noise_scale": 0.45}
    lines = train_on_digits(train_representation, tmp_path, model)
    assert all(line["latent_std"] < 0.9 for line in lines if "loss" in line)
    assert not warnings_of(caplog)
