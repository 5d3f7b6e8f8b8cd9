# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Metrics averaged over steps, and the file that they are written to."""

from __future__ import annotations

import json

import torch
from helpers.training import accelerator_fixture  # noqa: F401 (a fixture)

from lzn_hf.training.metrics import JSONLinesTracker, MetricAverager


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
    tracker = JSONLinesTracker(tmp_path / "metrics.jsonl")
    tracker.rewind(0)  # no file yet
    for step in (1, 2, 3):
        tracker.log({"loss": step / 2}, step=step)
    with tracker.path.open("a") as file:
        file.write('{"step": 4, "lo')
    tracker.rewind(2)
    tracker.log({"loss": 9.0}, step=3)
    lines = [json.loads(line) for line in tracker.path.read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 9.0}]
