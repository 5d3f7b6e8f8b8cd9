# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Files of a training run: its folder, checkpoints and metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.training import accelerator_fixture, tiny_model  # noqa: F401 (a fixture)
from torch import nn

from lzn_hf import LZNModel
from lzn_hf.training import checkpoints as checkpoints
from lzn_hf.training.arguments import RunArguments


def run_in(folder: Path, **settings) -> RunArguments:
    return RunArguments(output_dir=str(folder), **settings)


def make_checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / checkpoints.STATE_FILE).touch()
    return path


def test_the_checkpoint_to_resume_from(tmp_path):
    assert checkpoints.find_checkpoint(run_in(tmp_path / "new")) is None
    assert checkpoints.find_checkpoint(run_in(tmp_path)) is None  # empty
    assert checkpoints.find_checkpoint(run_in(tmp_path, resume_from_checkpoint="latest")) is None
    paths = [make_checkpoint(tmp_path, step) for step in (90, 100, 20)]
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoints.find_checkpoint(run_in(tmp_path, resume_from_checkpoint="latest")) == paths[1]
    assert checkpoints.find_checkpoint(run_in(tmp_path, resume_from_checkpoint=str(paths[1]))) == paths[1]
    elsewhere = run_in(tmp_path / "other", resume_from_checkpoint=str(paths[0]))
    assert checkpoints.find_checkpoint(elsewhere) == paths[0]
    assert checkpoints.find_checkpoint(run_in(tmp_path, overwrite_output_dir=True)) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "is not empty. Pass `--resume_from_checkpoint latest`"),
        ({"resume_from_checkpoint": "latest", "overwrite_output_dir": True}, "give one of the two"),
        ({"resume_from_checkpoint": "{folder}"}, "no checkpoint: it has no training_state.pt. It holds checkpoint-20, checkpoint-90"),
        ({"resume_from_checkpoint": "{folder}/checkpoint-7"}, "no checkpoint: it has no training_state.pt"),
        ({"resume_from_checkpoint": "{folder}/checkpoint-20"}, "holds checkpoint-90, later than checkpoint-20"),
    ],
)  # fmt: skip
def test_a_folder_that_a_run_would_spoil_is_an_error(tmp_path, settings, message):
    for step in (20, 90):
        make_checkpoint(tmp_path, step)
    settings = {k: v.format(folder=tmp_path) if isinstance(v, str) else v for k, v in settings.items()}
    with pytest.raises(ValueError, match=message):
        checkpoints.find_checkpoint(run_in(tmp_path, **settings))


def test_an_output_dir_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        checkpoints.find_checkpoint(run_in(tmp_path / "file"))


def test_overwriting_deletes_what_the_script_wrote_and_nothing_else(accelerator, tmp_path):
    make_checkpoint(tmp_path, 20)
    (tmp_path / ".checkpoint-30.tmp").mkdir()
    (tmp_path / "samples").mkdir()
    for name in (checkpoints.METRICS_FILE, "notes.txt"):
        (tmp_path / name).touch()
    checkpoints.prepare_output_dir(accelerator, run_in(tmp_path, resume_from_checkpoint="latest"))
    assert not (tmp_path / ".checkpoint-30.tmp").exists() and (tmp_path / "checkpoint-20").exists()
    checkpoints.prepare_output_dir(accelerator, run_in(tmp_path, overwrite_output_dir=True))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def settings_with(value: int) -> dict:
    return {"data": {"a": value}, "training": {"max_train_steps": 20}}


def save(accelerator, folder, step, model, optimizer, **options):
    checkpoints.save_checkpoint(
        accelerator, folder, step, model, {"optimizer": optimizer}, settings_with(1), **options
    )


def test_checkpoints_round_trip_and_rotate(accelerator, tmp_path):
    model, optimizer = accelerator.prepare(tiny_model(), torch.optim.Adam([nn.Parameter(torch.zeros(2))]))
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    for step in (6, 7):
        save(accelerator, tmp_path, step, model, optimizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-6", "checkpoint-7"]
    for step in (8, 9, 10):
        save(accelerator, tmp_path, step, model, optimizer, total_limit=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    other, other_optimizer = tiny_model(), torch.optim.Adam([nn.Parameter(torch.zeros(2))])
    assert checkpoints.load_checkpoint(tmp_path / "checkpoint-10", other, {"optimizer": other_optimizer}) == 10
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    assert torch.equal(other_optimizer.state_dict()["state"][0]["exp_avg"], torch.full((2,), 0.1))
    LZNModel.from_pretrained(tmp_path / "checkpoint-10")  # opens like any model
    checkpoints.check_resume(tmp_path / "checkpoint-10", run_in(tmp_path), settings_with(1))
    with pytest.raises(ValueError, match=r"other settings or images: data.a: 1 in the checkpoint, 2 now"):
        checkpoints.check_resume(tmp_path / "checkpoint-10", run_in(tmp_path), settings_with(2))
    with pytest.raises(ValueError, match="the checkpoint has 10 steps"):
        checkpoints.check_resume(tmp_path / "checkpoint-10", run_in(tmp_path, max_train_steps=9), settings_with(1))


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(accelerator, tmp_path, monkeypatch):
    model, optimizer = tiny_model(), torch.optim.Adam([nn.Parameter(torch.zeros(2))])
    save(accelerator, tmp_path, 1, model, optimizer, total_limit=1)

    def full_disk(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(accelerator, tmp_path, 2, model, optimizer, total_limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
