# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`--report_to`: the trackers of accelerate beside metrics.jsonl."""

from __future__ import annotations

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from helpers.joint_runs import metrics, toy_flags, train

from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.processes import tracker_names


INSTALLED = {str(tracker) for tracker in get_available_trackers()}
MISSING = sorted({*LOGGER_TYPE_TO_CLASS} - INSTALLED)


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> str:
    return f"{toy_flags(tmp_path_factory.mktemp('toys'))} --max_train_steps 2 --logging_steps 1"


def test_names_of_trackers():
    assert tracker_names([]) == tracker_names(["none"]) == []
    assert tracker_names(["tensorboard", "tensorboard"]) == ["tensorboard"]
    assert {*tracker_names(["all"])} == INSTALLED
    assert RunArguments(report_to="tensorboard").report_to == ["tensorboard"]  # as in a preset
    with pytest.raises(ValueError, match=r"`report_to` must be of .*'wandbb'. Did you mean `wandb`\?"):
        tracker_names(["tensorboard", "wandbb"])
    for words in (["none", "tensorboard"], ["tensorboard", "all"]):
        with pytest.raises(ValueError, match=f"`report_to` is {' '.join(words)}: give `all`, `none` or names"):
            tracker_names(words)


def test_a_tracker_that_is_not_installed_is_an_error_before_anything_is_written(toys, tmp_path):
    with pytest.raises(ValueError, match=f"`report_to` has {MISSING[0]}, which is not installed: pip install"):
        train(f"{toys} --output_dir {tmp_path / 'run'} --report_to tensorboard {MISSING[0]}")
    assert not (tmp_path / "run").exists()


def test_tensorboard_has_the_metrics_and_settings(toys, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(f"{toys} --output_dir {tmp_path} --report_to tensorboard")
    events = EventAccumulator(str(folder / "logs/train_joint")).Reload()
    losses = {line["step"]: line["loss"] for line in metrics(folder) if "loss" in line}
    assert {event.step: event.value for event in events.Scalars("loss")} == pytest.approx(losses) and len(losses) == 2
    [settings] = folder.glob("logs/train_joint/*/hparams.yml")
    assert "training.total_batch_size: 8" in settings.read_text()


def test_nothing_but_metrics_is_written_by_default(toys, tmp_path):
    folder = train(f"{toys} --output_dir {tmp_path}")
    assert not (folder / "logs").exists() and not (folder / "wandb").exists() and metrics(folder)


def test_wandb_offline_beside_tensorboard(toys, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="it is no dependency")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = train(f"{toys} --output_dir {tmp_path} --report_to wandb tensorboard")
    [run] = folder.glob("wandb/offline-run-*/run-*.wandb")
    assert b"total_batch_size" in run.read_bytes() and list(folder.glob("logs/train_joint/events.*"))
    assert {"loss", "step"} <= metrics(folder)[0].keys()


def test_trackio_keeps_the_metrics_on_this_machine(toys, tmp_path):
    trackio = pytest.importorskip("trackio", reason="it is no dependency")
    train(f"{toys} --output_dir {tmp_path} --report_to trackio")
    [run] = trackio.Api().runs("train_joint")
    assert run.config["training.total_batch_size"] == 8
