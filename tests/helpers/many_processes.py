# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Runs of the training scripts on real processes (gloo), and whether two of them have learnt the same.

Models are float64, unless a test says otherwise. In float32 sums over another number of processes round differently. Adam makes whole
steps of that where the gradient is zero: in a shift of all anchors together, to which the loss is blind.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate import debug_launcher
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.multiprocessing import start_processes
from torch.nn.modules.module import register_module_forward_pre_hook

from lzn_hf import train_joint, train_representation, train_unconditional
from lzn_hf.training import setup
from lzn_hf.training.checkpoints import STATE_FILE, state_file
from lzn_hf.training.sharding import join_rows

from .training import TINY, forget_accelerators, write_image_folder


# What `accelerate launch` makes of a config with `fsdp_version: 2`.
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
NUM_STEPS = 20
MIDDLE = f"checkpoint-{NUM_STEPS // 2}"
VIEWS = "--config_overrides decoder_type=null"
JOINT = "--random_flip --max_shift 1 --samples_per_label 1 --num_inference_steps 1"
# One more draw; and solvers without the decisions of the default one (which anchors are an isolated pair, where a row arrives), which
# another order of sums takes otherwise where rows lie on the border.
JOINT += " --config_overrides alignment_noise_scales=[1.0,0.5] latent_solver=euler alignment_solver=euler"
POOL = "--pool_batch_size 8"
SCRIPTS = {
    "joint": (train_joint, JOINT),
    "accumulated": (train_joint, f"{JOINT} --gradient_accumulation_steps 2"),
    "unconditional": (train_unconditional, "--random_flip --max_shift 1 --num_samples 1 --num_inference_steps 1"),
    "representation": (train_representation, VIEWS),
    "moco": (train_representation, f"{VIEWS} --method moco --queue_size 20"),
    "simclr": (train_representation, f"{VIEWS} --method simclr"),
    "classifier": (train_joint, "--baseline classifier"),
    "rectified_flow": (train_joint, "--baseline rectified_flow --samples_per_label 1 --num_inference_steps 1"),
}


class Trained(NamedTuple):
    losses: list[float]
    weights: dict[str, Tensor]
    averages: dict[str, Tensor]


def in_double_precision() -> None:
    """Makes all models of this process float64, whose layers take float32 images, noise and times as they are drawn."""

    def cast(module: nn.Module, inputs: tuple) -> tuple:
        is_double = getattr(getattr(module, "weight", None), "dtype", None) == torch.float64
        return tuple(x.double() if is_double and torch.is_tensor(x) and x.is_floating_point() else x for x in inputs)

    register_module_forward_pre_hook(cast)
    build_model = setup.build_model
    setup.build_model = lambda *args, **options: build_model(*args, **options).double()


def run_script(script, argv: list[str], num_processes: int, double: bool = True, sharded: bool = False) -> None:
    """In new processes, also if it is one: the threads that a run leaves behind would not survive the fork of the next one."""

    def main(index: int = 0) -> None:
        if sharded:
            os.environ.update(FSDP2)
        if double:
            in_double_precision()
        script.main(argv)

    forget_accelerators()
    if num_processes == 1:
        start_processes(main, nprocs=1, start_method="fork")
    else:
        debug_launcher(main, num_processes=num_processes)


@pytest.fixture(name="train")
def train_fixture(tmp_path) -> Callable[..., Trained]:
    """Trains by a script, without dropout and with two batches in an epoch, which leave out two images."""
    data = write_image_folder(tmp_path / "images")
    preset = tmp_path / "toys.json"
    preset.write_text(json.dumps({"model": {**TINY, "encoder_dropout": 0.0, "decoder_dropout": 0.0}}))

    def train(name: str, num_processes: int, folder: Path, *flags: str, **options: bool) -> Trained:
        script, more = SCRIPTS[name]
        argv = f"--preset {preset} --data_dir {data} --output_dir {folder} --total_batch_size 8 {more}".split()
        argv += f"--num_reference_anchors 9 --logging_steps 1 --max_train_steps {NUM_STEPS}".split()
        argv += f"--checkpointing_steps {NUM_STEPS // 2}".split()
        run_script(script, [*argv, *flags], num_processes, **options)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        weights = trained_weights(folder / f"checkpoint-{NUM_STEPS}")
        return Trained(losses, weights, load_file(folder / "model.safetensors"))

    return train


def trained_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The weights as trained, whole also if each process has saved its part."""
    count = torch.load(checkpoint / STATE_FILE, weights_only=True)["pieces"]
    states = [torch.load(checkpoint / state_file(index), weights_only=True) for index in range(count)]
    return join_rows([state["model"] for state in states])


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def assert_equal(result: Trained, expected: Trained) -> None:
    """Losses to 1e-6 at each step, weights and moving averages to 1e-5."""
    assert len(result.losses) == len(set(expected.losses)) == NUM_STEPS
    assert result.losses == pytest.approx(expected.losses, rel=0, abs=1e-6)
    assert largest_difference(result.weights, expected.weights) <= 1e-5
    assert largest_difference(result.averages, expected.averages) <= 1e-5


def start_over_from_the_middle(run: Path, folder: Path) -> None:
    """Gives a run's first half to another folder, to go on there."""
    shutil.copytree(run / MIDDLE, folder / MIDDLE)
