# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Runs that are asked to stop: what they leave, print and return, and that they go on as if nobody had asked."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shlex
import signal
import time
from pathlib import Path

import pytest
from accelerate import PartialState, debug_launcher
from helpers.forked_runs import assert_same_outcome, finish, start
from helpers.training import TINY, forget_accelerators, write_image_folder
from torch.multiprocessing import ProcessExitedException

from lzn_hf import train_unconditional
from lzn_hf.data.batches import to_pixel_values
from lzn_hf.training import setup
from lzn_hf.training.checkpoints import list_checkpoints
from lzn_hf.training.signals import StopSignals, resume_command, without_flags


@pytest.fixture
def flags(tmp_path) -> str:
    (tmp_path / "toys.json").write_text(json.dumps({"model": TINY}))
    data = write_image_folder(tmp_path / "images")
    flags = "--total_batch_size 8 --logging_steps 3 --eval_steps 4 --num_reference_anchors 9 --num_samples 4"
    return f"--preset {tmp_path}/toys.json --data_dir {data} {flags} --num_inference_steps 2"


def wait_for_lines(folder: Path, count: int) -> None:
    path, end = folder / "metrics.jsonl", time.monotonic() + 200
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < end, "the run does not come along"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 128 + signal.SIGUSR1)]
)
def test_a_signal_saves_says_how_to_resume_and_loses_nothing(tmp_path, flags, number, code, capfd):
    folder = tmp_path / "stopped"
    process = start(train_unconditional, f"{flags} --max_train_steps 100000 --output_dir {folder}")
    wait_for_lines(folder, 2)
    os.kill(process.pid, number)
    assert finish(process) == code
    ((step, checkpoint),) = list_checkpoints(folder).items()
    assert not list(folder.glob(".*")) and not (folder / "model.safetensors").exists()
    printed = capfd.readouterr()
    text = rf"Stopped by {number.name} at step {step}. The last good checkpoint is {checkpoint}. Resume by:\n(.*)\n"
    command = re.search(text, printed.out)[1]
    assert command.endswith(" --resume_from_checkpoint latest")
    assert f"{number.name}: stopping after this step." in printed.err
    if number == signal.SIGTERM:  # one is enough for that
        steps = f"--max_train_steps {step + 2}"
        for options in (f"{folder} --resume_from_checkpoint latest", tmp_path / "whole"):
            assert finish(start(train_unconditional, f"{flags} {steps} --output_dir {options}")) == 0
        assert_same_outcome(folder, tmp_path / "whole")


def test_a_signal_to_one_of_two_processes_stops_both(tmp_path, flags, monkeypatch, capfd):
    calls = []

    def signalled(images, **options):
        calls.append(None)
        if len(calls) == 2 and PartialState().process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return to_pixel_values(images, **options)

    monkeypatch.setattr(setup, "to_pixel_values", signalled)
    forget_accelerators()
    argv = f"{flags} --max_train_steps 100000 --output_dir {tmp_path / 'run'}".split()
    with pytest.raises(ProcessExitedException, match="exit code 143"):
        debug_launcher(train_unconditional.main, (argv,), num_processes=2)
    assert list(list_checkpoints(tmp_path / "run")) == [2]
    # `debug_launcher` starts each process as the first one of a machine: both print, and what they print may run together.
    assert len(re.findall(r"Resume by:\ntorchrun --nproc_per_node \d ", capfd.readouterr().out)) == 2


def outcome_of(function) -> int:
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    return finish(process, 60)


def test_a_second_interrupt_ends_the_process_at_once():
    def hang() -> None:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.received == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    assert outcome_of(hang) == -signal.SIGINT


def test_workers_leave_the_decision_to_their_process():
    """Ctrl-C in a terminal reaches them, too; SIGTERM is how they are ended."""

    def main() -> None:
        with StopSignals() as signals:

            def worker() -> None:
                os.kill(os.getpid(), signal.SIGINT)
                assert not signals.received
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)

            assert outcome_of(worker) == -signal.SIGTERM

    assert outcome_of(main) == 0


def test_outside_of_its_context_signals_do_what_they_did():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.received == signal.SIGUSR1
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
    start_of_wait = time.monotonic()
    signals.wait(30)  # a signal has arrived
    assert time.monotonic() - start_of_wait < 10


def test_the_command_that_resumes(monkeypatch):
    words = "python train.py --output_dir a --overwrite-output-dir --resume_from_checkpoint=a/checkpoint-5 --seed 3"
    monkeypatch.setattr("sys.orig_argv", [*words.split(), "--preset", "my preset.json"])
    expected = "python train.py --output_dir a --seed 3 --preset 'my preset.json' --mixed_precision bf16"
    command = resume_command(mixed_precision="bf16")
    assert command == f"{expected} --resume_from_checkpoint latest" and shlex.split(command)[-3] == "bf16"
    assert without_flags("x --a 1 2 --b --a=3 --c 4".split(), ["a"]) == "x --b --c 4".split()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr("sys.argv", ["train.py", "--seed", "3"])
    assert resume_command() == "torchrun --nproc_per_node 2 train.py --seed 3 --resume_from_checkpoint latest"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "false")
    assert resume_command() == (
        "accelerate launch --use_fsdp --fsdp_version 2 --fsdp_cpu_ram_efficient_loading false --fsdp_reshard_after_forward false "
        "--num_processes 2 train.py --seed 3 --resume_from_checkpoint latest"
    )
