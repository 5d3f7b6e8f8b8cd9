# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Runs on a real disk that is too small, read-only, or becomes full: nothing that was trained is lost, and the message says what to do."""

from __future__ import annotations

import errno
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.small_disk import fill, on_small_disk
from helpers.training import forget_accelerators, tiny_model, toy_images, training_setup
from safetensors import SafetensorError

from lzn_hf import LZNModel, LZNPipeline
from lzn_hf.data.batches import to_pixel_values
from lzn_hf.training import final_folder
from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.durable import find_damage
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.space import COPIES_IN_CHECKPOINT, NoSpaceError, is_out_of_space, size_text, tensor_bytes


WEIGHTS = tensor_bytes(tiny_model().state_dict())
CHECKPOINT = COPIES_IN_CHECKPOINT * WEIGHTS + 200_000  # with small files, in pages


def make_loop(folder: Path, **options) -> TrainingLoop:
    def compute_loss(model, batch, generator):
        return model(to_pixel_values(batch["pixel_values"]), labels=batch["labels"], generator=generator).loss, {}

    forget_accelerators()
    torch.manual_seed(0)
    run = RunArguments(
        **({"output_dir": str(folder), "total_batch_size": 8, "max_train_steps": 3, "logging_steps": 1} | options)
    )
    setup = training_setup(tiny_model(), toy_images(18), run)
    return TrainingLoop(setup, dict.fromkeys(("encoder", "decoder", "label_anchors"), 1e-3), compute_loss)


def error_of(function: Callable[[], object]) -> str:
    with pytest.raises(OSError) as caught:
        function()
    return str(caught.value)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_disk_that_gets_full_keeps_the_last_checkpoint_and_is_named(tmp_path):
    """The second checkpoint does not fit beside the first one."""

    def run(folder: Path) -> None:
        output_dir = folder / "run"
        loop = make_loop(output_dir, checkpointing_steps=1, checkpoints_total_limit=1)
        message = error_of(loop.fit)
        pattern = rf"no space on tmpfs \({folder}\) for {output_dir}/checkpoint-2: .* needed, .* free; the last good checkpoint is "
        assert re.fullmatch(rf"{pattern}{output_dir}/checkpoint-1", message), message
        assert find_damage(output_dir / "checkpoint-1") is None
        assert names(output_dir) == {"checkpoint-1", "metrics.jsonl", "data_summary.json"}

    on_small_disk(run, tmp_path / "disk", int(1.5 * CHECKPOINT))


def test_older_checkpoints_make_room(tmp_path):
    """Two of them fit, beside the final model; three do not."""

    def run(folder: Path) -> None:
        make_loop(folder / "run", checkpointing_steps=1, checkpoints_total_limit=2).fit()
        assert {path.name for path in (folder / "run").glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}
        assert all(find_damage(path) is None for path in (folder / "run").glob("checkpoint-*"))

    on_small_disk(run, tmp_path / "disk", int(2.5 * CHECKPOINT))


def finish_on_full_disk(folder: Path, **options) -> tuple[TrainingLoop, Callable[[], Path]]:
    """A loop after its last step, and its end, which finds the disk full."""
    loop = make_loop(folder / "run", **options)
    loop.fit()

    def evaluate() -> dict[str, float]:
        fill(folder, leave=10_000)
        return {"score": 0.5}

    return loop, lambda: final_folder.save_final_folder(loop, evaluate=evaluate, num_reference_anchors=5)


def test_a_model_that_does_not_fit_at_the_end_is_saved_elsewhere(tmp_path):
    def run(folder: Path) -> None:
        (tmp_path / "other").mkdir()
        tempfile.tempdir = str(tmp_path / "other")  # as TMPDIR does
        loop, finish = finish_on_full_disk(folder)
        message = error_of(finish)
        place = Path(re.search(r"The model is saved in (\S+) instead: move its files", message)[1])
        assert (
            message.startswith(f"no space on tmpfs ({folder}) for {folder}/run: ")
            and "there is no checkpoint" in message
        )
        saved = LZNModel.from_pretrained(place)
        with loop.ema.scope():
            assert all(map(torch.equal, saved.parameters(), loop.setup.model.parameters()))
        assert len(saved.reference_anchors()) == 5 and LZNPipeline.from_pretrained(place)

    on_small_disk(run, tmp_path / "disk", 2 * CHECKPOINT)


def test_a_checkpoint_of_the_last_step_is_enough(tmp_path):
    def run(folder: Path) -> None:
        message = error_of(finish_on_full_disk(folder, checkpointing_steps=3)[1])
        assert (
            f"the last good checkpoint is {folder}/run/checkpoint-3, and it holds the weights of the last step"
            in message
        )
        assert "--resume_from_checkpoint latest" in message

    on_small_disk(run, tmp_path / "disk", 2 * CHECKPOINT)


def test_without_room_anywhere_it_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(final_folder, "SECONDS_BETWEEN_TRIES", 0.5)

    def run(folder: Path) -> None:
        tempfile.tempdir = str(folder)
        _, finish = finish_on_full_disk(folder)
        tries = []

        def wait(signals, seconds: float) -> None:
            tries.append(seconds)
            if len(tries) == 2:
                (folder / "ballast").unlink()

        monkeypatch.setattr("lzn_hf.training.signals.StopSignals.wait", wait)
        finish()
        assert tries == [0.5, 0.5] and LZNModel.from_pretrained(folder / "run").reference_anchors() is not None
        lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [line for line in lines if "score" in line] == [{"step": 3, "score": 0.5}]
        assert names(folder) == {"run"}

    on_small_disk(run, tmp_path / "disk", 2 * CHECKPOINT)


def test_too_small_a_disk_is_seen_before_the_first_step(tmp_path):
    def run(folder: Path) -> None:
        loop = make_loop(folder / "run")
        message = error_of(loop.fit)
        assert re.match(
            rf"no space on tmpfs \({folder}\) for {folder}/run: .* needed \(about .* Nothing was trained", message
        )
        assert loop.step == 0 and not list((folder / "run").iterdir())

    on_small_disk(run, tmp_path / "disk", 3 * WEIGHTS)


def test_a_read_only_disk_is_seen_before_the_first_step(tmp_path):
    def run(folder: Path) -> None:
        loop = make_loop(folder / "run")
        assert error_of(loop.fit) == f"`output_dir` {folder}/run cannot be written: Read-only file system."
        assert loop.step == 0

    on_small_disk(run, tmp_path / "disk", 10 * CHECKPOINT, read_only=True)


def test_metrics_that_do_not_fit_leave_no_half_line(tmp_path):
    def run(folder: Path) -> None:
        tracker = make_loop(folder / "run").setup.tracker
        tracker.path.parent.mkdir()
        tracker.path.write_text("")
        fill(folder, leave=0)
        with pytest.raises(OSError) as caught:
            for step in range(1000):
                tracker.log({"text": "long " * 100}, step=step)
        assert is_out_of_space(caught.value)
        assert all(json.loads(line) for line in tracker.path.read_text().splitlines())

    on_small_disk(run, tmp_path / "disk", CHECKPOINT)


def test_errors_of_all_writers_are_understood():
    full = OSError(errno.ENOSPC, "No space left on device")
    assert is_out_of_space(full) and is_out_of_space(
        SafetensorError("I/O error: No space left on device (os error 28)")
    )
    wrapped = RuntimeError("unexpected pos 576 vs 534")
    assert not is_out_of_space(wrapped)
    wrapped.__context__ = full
    assert is_out_of_space(wrapped) and is_out_of_space(OSError(errno.EFBIG, "File too large"))
    assert not is_out_of_space(OSError(errno.EIO, "Input/output error")) and not is_out_of_space(NoSpaceError("text"))
    assert [size_text(size) for size in (999, 1_000, 2.5e6, 3e9, 4e12)] == [
        "999 bytes",
        "1.0 kB",
        "2.5 MB",
        "3.0 GB",
        "4.0 TB",
    ]
