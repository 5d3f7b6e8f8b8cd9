# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The files under examples/accelerate: read as accelerate reads them, and run where that needs no GPU."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from helpers import ROOT
from helpers.forked_runs import assert_same_outcome, wait_for
from helpers.training import TINY, launch, write_image_folder

from lzn_hf.training.checkpoints import STATE_FILE, list_checkpoints, state_file


FILES = ROOT / "examples" / "accelerate"
SCRIPTS = [FILES / "slurm.sh", FILES / "elastic.sh"]
TRAIN = ROOT / "examples" / "train_joint.py"


@pytest.fixture
def flags(tmp_path) -> list[str]:
    (tmp_path / "toys.json").write_text(json.dumps({"model": TINY}))
    data = write_image_folder(tmp_path / "images")
    flags = f"--preset {tmp_path}/toys.json --data_dir {data} --total_batch_size 8 --num_reference_anchors 9"
    return f"{flags} --samples_per_label 1 --num_inference_steps 1 --logging_steps 1".split()


def started(name: str) -> dict[str, str]:
    """The environment that `accelerate launch` gives the processes."""
    words = ["--config_file", str(FILES / name), str(TRAIN)]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    return prepare_multi_gpu_env(args) | {"processes a node": args.nproc_per_node}


def test_each_file_is_read_by_accelerate():
    """Its loader refuses keys that it does not know. Those of `fsdp_config` it takes as they are, so they are looked up."""
    files = {path.name: load_config_from_file(str(path)) for path in FILES.glob("*.yaml")}
    assert {name: (one.num_machines, one.num_processes) for name, one in files.items()} == {
        "one_gpu.yaml": (1, 1),
        "ddp_8_gpus.yaml": (1, 8),
        "fsdp2_8_gpus.yaml": (1, 8),
        "two_nodes.yaml": (2, 16),
        "cpu_processes.yaml": (1, 2),
    }
    known = vars(launch_command_parser().parse_args(["train.py"]))
    assert files["fsdp2_8_gpus.yaml"].fsdp_config.keys() <= known.keys()


def test_the_environment_of_processes():
    sharded = started("fsdp2_8_gpus.yaml")
    expected = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
    expected |= {
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "processes a node": "8",
    }
    assert expected.items() <= sharded.items()
    assert started("two_nodes.yaml")["processes a node"] == "8"
    assert "ACCELERATE_USE_FSDP" not in started("ddp_8_gpus.yaml")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_right_for_bash(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert path.stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("sharded", [False, True])
def test_two_cpu_processes_train(tmp_path, flags, sharded):
    """By the file for processes on the CPU; and sharded, as by the file for GPUs, with fewer processes."""
    config = FILES / "cpu_processes.yaml"
    if sharded:
        config = tmp_path / "fsdp2.yaml"
        text = (FILES / "fsdp2_8_gpus.yaml").read_text().replace("num_processes: 8", "num_processes: 2\nuse_cpu: true")
        config.write_text(text)
    words = ["--config_file", config, "--main_process_port", "0", TRAIN, *flags]
    words += ["--output_dir", tmp_path / "run", "--max_train_steps", "2", "--checkpointing_steps", "2"]
    assert "process 2 of 2" in launch("accelerate.commands.launch", *words)
    state = torch.load(tmp_path / "run" / "checkpoint-2" / STATE_FILE, weights_only=True)
    assert state["step"] == 2 and state["pieces"] == 1 + sharded
    assert (tmp_path / "run" / "checkpoint-2" / state_file(1)).exists() == sharded
    assert (tmp_path / "run" / "model.safetensors").exists()


def children(process: subprocess.Popen) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_dead_process_is_started_again_and_the_run_goes_on(tmp_path, flags):
    """By torchrun: one of two processes is killed after a checkpoint, and both resume from the last one."""
    flags += "--max_train_steps 120 --checkpointing_steps 10 --resume_from_checkpoint latest".split()
    launcher = "torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 3".split()
    launch(*launcher, TRAIN, *flags, "--output_dir", tmp_path / "undisturbed")
    folder = tmp_path / "run"
    command = [sys.executable, "-m", *launcher, TRAIN, *flags, "--output_dir", folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(
            list(map(str, command)), env=environment, stderr=log, stdout=log, start_new_session=True
        )
        try:
            wait_for(lambda: max(list_checkpoints(folder), default=0) >= 20)
            os.kill(children(run)[-1], signal.SIGKILL)
            assert run.wait(240) == 0
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
    text = (tmp_path / "log").read_text()
    assert text.count("process 2 of 2") >= 2, text  # a first start again may find the addresses of the dead
    assert_same_outcome(folder, tmp_path / "undisturbed")


# What Slurm does with the job, for two tasks of one node.
SRUN = """#!/bin/bash
shift
for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & pids+=($!); done
echo "${pids[@]}" > "$PIDS"
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit $code
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$PIDS.requeued"; fi
"""


@pytest.mark.slow
def test_the_job_of_slurm_is_put_into_the_queue_again(tmp_path, flags):
    for name, text in (
        ("srun", SRUN),
        ("scontrol", SCONTROL),
        ("python", f'#!/bin/bash\nexec {sys.executable} "$@"\n'),
    ):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    pids = tmp_path / "pids"
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    job |= {"SLURM_JOB_NODELIST": "localhost", "PIDS": str(pids), "ACCELERATE_MIXED_PRECISION": "no"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    folder = tmp_path / "run"

    def submit(steps: int) -> subprocess.Popen:
        words = [FILES / "slurm.sh", *flags, "--output_dir", folder, "--max_train_steps", str(steps)]
        return subprocess.Popen(list(map(str, words)), env=environment, cwd=ROOT)

    first = submit(100_000)
    wait_for(lambda: (folder / "metrics.jsonl").exists() and pids.exists())
    time.sleep(0.5)
    for pid in pids.read_text().split():
        os.kill(int(pid), signal.SIGUSR1)
    assert first.wait(120) == 0
    assert (tmp_path / "pids.requeued").read_text() == f"requeue {os.getpid()}\n"
    step = max(list_checkpoints(folder))
    assert submit(step + 2).wait(120) == 0 and (folder / "model.safetensors").exists()
    lines = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(lines) == step + 2 and (tmp_path / "pids.requeued").read_text().count("requeue") == 1
