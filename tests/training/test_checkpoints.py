# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Files of a training run: its folder, checkpoints and metrics."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers.training import accelerator_fixture, tiny_model  # noqa: F401 (a fixture)
from torch import nn
from transformers import AutoModel

from lzn_hf import LZNModel, LZNPipeline
from lzn_hf.training import checkpoints as checkpoints
from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.durable import find_damage, write_manifest
from lzn_hf.training.folder_lock import LOCK_FILE, FolderLock
from lzn_hf.training.models import PartwiseEMA, model_parts


def run_in(folder: Path, **settings) -> RunArguments:
    return RunArguments(output_dir=str(folder), **settings)


def make_checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / checkpoints.STATE_FILE).write_text("state")
    write_manifest(path, step=step)
    return path


def test_the_checkpoint_to_resume_from(tmp_path):
    assert checkpoints.find_checkpoint(run_in(tmp_path / "new")) is None
    assert checkpoints.find_checkpoint(run_in(tmp_path)) is None  # empty
    assert checkpoints.find_checkpoint(run_in(tmp_path, resume_from_checkpoint="latest")) is None
    paths = [make_checkpoint(tmp_path, step) for step in (90, 100, 20)]
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoints.find_checkpoint(run_in(tmp_path, resume_from_checkpoint="latest")) == paths[1]
    assert checkpoints.find_checkpoint(run_in(tmp_path, resume_from_checkpoint=str(paths[1]))) == paths[1]
    (tmp_path / "dead").mkdir()
    (tmp_path / "dead" / LOCK_FILE).touch()  # of a run that died at once
    assert checkpoints.find_checkpoint(run_in(tmp_path / "dead")) is None
    elsewhere = run_in(tmp_path / "other", resume_from_checkpoint=str(paths[0]))
    assert checkpoints.find_checkpoint(elsewhere) == paths[0]
    assert checkpoints.find_checkpoint(run_in(tmp_path, overwrite_output_dir=True)) is None


def test_a_finished_model_without_checkpoint_is_not_started_anew(tmp_path):
    """A run of a few minutes leaves none."""
    latest = run_in(tmp_path, resume_from_checkpoint="latest")
    (tmp_path / "metrics.jsonl").touch()
    assert checkpoints.find_checkpoint(latest) is None  # of a run that died before its first checkpoint
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        ValueError, match="has no checkpoint, but a finished model, which a run from step 0 would replace"
    ):
        checkpoints.find_checkpoint(latest)
    with pytest.raises(ValueError, match="is not empty. Pass `--overwrite_output_dir` to start anew"):
        checkpoints.find_checkpoint(run_in(tmp_path))
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


def test_latest_is_the_last_whole_checkpoint(tmp_path, caplog):
    paths = [make_checkpoint(tmp_path, step) for step in (10, 20, 30)]
    latest = run_in(tmp_path, resume_from_checkpoint="latest")
    (paths[2] / checkpoints.STATE_FILE).write_text("stat")
    (paths[1] / checkpoints.STATE_FILE).write_text("State")
    assert checkpoints.find_checkpoint(latest) == paths[0]
    assert "checkpoint-30 is damaged: training_state.pt has 4 bytes, not the 5 that were written" in caplog.text
    assert "checkpoint-20 is damaged: training_state.pt has other bytes" in caplog.text
    with pytest.raises(ValueError, match="checkpoint-20 is damaged: training_state.pt has other bytes"):
        checkpoints.find_checkpoint(run_in(tmp_path, resume_from_checkpoint=str(paths[1])))
    (paths[0] / "checkpoint.json").unlink()
    with pytest.raises(
        ValueError, match="no checkpoint in .* is whole.*checkpoint-10 is damaged: checkpoint.json is missing"
    ):
        checkpoints.find_checkpoint(latest)


def test_resuming_puts_the_folder_back(accelerator, tmp_path):
    """Pictures of later steps go; a later checkpoint, which must be damaged, is set aside."""
    first, later = (make_checkpoint(tmp_path, step) for step in (20, 30))
    (later / checkpoints.STATE_FILE).write_text("damaged")
    (tmp_path / "samples").mkdir()
    for name in ("step-000010.png", "step-000020.png", "step-000021.png", "step-1000000.png", "mine.png"):
        (tmp_path / "samples" / name).touch()
    lock = FolderLock(tmp_path)
    checkpoints.prepare_output_dir(accelerator, run_in(tmp_path, resume_from_checkpoint="latest"), lock, first)
    lock.release()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-20", "checkpoint-30.damaged", "samples"}
    kept = {path.name for path in (tmp_path / "samples").iterdir()}
    assert kept == {"step-000010.png", "step-000020.png", "mine.png"}


def test_overwriting_deletes_what_the_script_wrote_and_nothing_else(accelerator, tmp_path):
    checkpoint, lock = make_checkpoint(tmp_path, 20), FolderLock(tmp_path)
    (tmp_path / ".checkpoint-30.tmp").mkdir()
    (tmp_path / "samples").mkdir()
    for name in (checkpoints.METRICS_FILE, "notes.txt"):
        (tmp_path / name).touch()
    checkpoints.prepare_output_dir(accelerator, run_in(tmp_path, resume_from_checkpoint="latest"), lock, checkpoint)
    assert not (tmp_path / ".checkpoint-30.tmp").exists() and (tmp_path / "checkpoint-20").exists()
    lock.release()
    checkpoints.prepare_output_dir(accelerator, run_in(tmp_path, overwrite_output_dir=True), lock)
    lock.release()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def settings_with(value: int) -> dict:
    return {"data": {"a": value}, "training": {"max_train_steps": 20}}


def make_state(seed: int) -> tuple[LZNModel, PartwiseEMA, torch.optim.Adam]:
    """A model whose averages are other weights than its own, and an optimizer of something."""
    torch.manual_seed(seed)
    model, optimizer = tiny_model(), torch.optim.Adam([nn.Parameter(torch.zeros(2))])
    averages = PartwiseEMA(model_parts(model), decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    return model, averages, optimizer


def save(accelerator, folder, step, model, averages, optimizer, **options):
    @contextmanager
    def averaged_model():
        with averages.scope():
            yield model

    stateful = {"model": model, "ema": averages, "optimizer": optimizer}
    return checkpoints.save_checkpoint(
        accelerator, folder, step, averaged_model, stateful, settings_with(1), **options
    )


def test_checkpoints_round_trip_and_rotate(accelerator, tmp_path):
    model, averages, optimizer = make_state(0)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    for step in (6, 7):
        save(accelerator, tmp_path, step, model, averages, optimizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-6", "checkpoint-7"]
    for step in (8, 9, 10):
        folder = save(accelerator, tmp_path, step, model, averages, optimizer, total_limit=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    assert find_damage(folder) is None
    other, other_averages, other_optimizer = make_state(1)
    stateful = {"model": other, "ema": other_averages, "optimizer": other_optimizer}
    assert checkpoints.load_checkpoint(folder, stateful) == 10
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    for name, average in averages.averages.items():
        assert all(map(torch.equal, average.shadow_params, other_averages.averages[name].shadow_params))
    assert torch.equal(other_optimizer.state_dict()["state"][0]["exp_avg"], torch.full((2,), 0.1))
    checkpoints.check_resume(folder, run_in(tmp_path), settings_with(1))
    with pytest.raises(ValueError, match=r"other settings or images: data.a: 1 in the checkpoint, 2 now"):
        checkpoints.check_resume(folder, run_in(tmp_path), settings_with(2))
    with pytest.raises(ValueError, match="the checkpoint has 10 steps"):
        checkpoints.check_resume(folder, run_in(tmp_path, max_train_steps=9), settings_with(1))


@pytest.mark.parametrize("with_decoder", [True, False])
def test_a_checkpoint_is_a_folder_of_the_averaged_model(accelerator, tmp_path, with_decoder):
    options = {} if with_decoder else {"labels": (), "decoder_type": None}
    model = tiny_model(**options)
    averages = PartwiseEMA(model_parts(model), decay=0.5)
    expected = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.data.add_(1.0)
    folder = save(accelerator, tmp_path, 3, model, averages, torch.optim.Adam(model.parameters()))
    opened = [AutoModel.from_pretrained(folder)]
    if with_decoder:
        pipe = LZNPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        opened.append(pipe.model)
        assert len(pipe(label="a", num_inference_steps=1).images) == 1
    for one in opened:
        assert all(map(torch.equal, one.parameters(), expected))
    assert all(torch.equal(now, before + 1) for now, before in zip(model.parameters(), expected, strict=True))


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(accelerator, tmp_path, monkeypatch):
    state = make_state(0)
    save(accelerator, tmp_path, 1, *state, total_limit=1)

    def broken(*args, **kwargs):
        raise OSError("Input/output error")

    monkeypatch.setattr(checkpoints.torch, "save", broken)
    with pytest.raises(OSError, match="Input/output error"):
        save(accelerator, tmp_path, 2, *state, total_limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
