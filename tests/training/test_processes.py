# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Processes that were started together must see each other, and not wait forever."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.training import forget_accelerators, write_image_folder

from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.processes import check_num_processes, explain_lost_processes, start_accelerator


def test_processes_that_do_not_see_each_other_are_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_num_processes(2)
    with pytest.raises(ValueError, match="2 processes were started .* sees 1: each would train alone.*torchrun"):
        check_num_processes(1)


def test_fp16_on_a_cpu_is_refused_and_bf16_is_not(tmp_path):
    forget_accelerators()
    with pytest.raises(
        ValueError, match="`mixed_precision` is fp16, which a CPU cannot train with: choose bf16 or no"
    ):
        start_accelerator(RunArguments(output_dir=str(tmp_path), mixed_precision="fp16"))
    forget_accelerators()
    accelerator = start_accelerator(RunArguments(output_dir=str(tmp_path), mixed_precision="bf16"))
    assert accelerator.mixed_precision == "bf16"
    forget_accelerators()


def start_two_processes(folder: Path, *flags: str) -> list[subprocess.Popen]:
    """A training run of 100,000 steps as a cluster starts it: process 0 connects the two."""
    data = write_image_folder(folder / "images")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, ROOT / "examples/train_joint.py", "--preset", ROOT / "tests/helpers/toy_preset.json"]
    command += ["--data_dir", data, "--output_dir", folder / "run", *flags]
    command += "--total_batch_size 8 --num_reference_anchors 9 --logging_steps 1 --max_train_steps 100000".split()
    path = os.pathsep.join(filter(None, sys.path))
    processes = []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        environment = {**os.environ, "PYTHONPATH": path, "MASTER_ADDR": "127.0.0.1"}
        environment |= {name: str(value) for name, value in place.items()}
        with (folder / f"stderr-{rank}").open("w") as stderr:
            processes.append(subprocess.Popen(list(map(str, command)), env=environment, stderr=stderr))
    return processes


@pytest.mark.parametrize(
    ("stopped", "message"),
    [
        (1, "process 0 of 0..1 waited in vain for the others: process 1 (counted from 0) did not answer."),
        pytest.param(
            0,
            "process 1 of 0..1 waited in vain for the others: not even process 0, which connects them, answers.",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_process_that_stands_still_ends_the_run_with_its_number(tmp_path, stopped, message):
    """SIGSTOP: alive, connected, and silent."""
    processes = start_two_processes(tmp_path, "--process_timeout", "10")
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
            assert all(process.poll() is None for process in processes), (tmp_path / "stderr-0").read_text()
            time.sleep(0.1)
        processes[stopped].send_signal(signal.SIGSTOP)
        assert processes[1 - stopped].wait(timeout=120) == 1
        assert processes[stopped].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.wait()
    last_error = (tmp_path / f"stderr-{1 - stopped}").read_text().partition("direct cause")[2]
    assert message in last_error
    for hint in ("--resume_from_checkpoint latest", "py-spy dump", "nvidia-smi", "--process_timeout"):
        assert hint in last_error


def test_other_errors_stay_as_they_are():
    """Also one whose words are alike: without other processes there are none to name."""
    for message in ("shapes do not match", "the download timed out"):
        with pytest.raises(RuntimeError, match=f"^{message}$"), explain_lost_processes():
            raise RuntimeError(message)
