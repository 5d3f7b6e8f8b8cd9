# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The number of processes (gloo, real ones) changes neither what is drawn nor what is learnt, for one total batch.

Models are float64 here, but for one test. In float32 sums over another number of processes round differently. Adam makes whole
steps of that where the gradient is zero: in a shift of all anchors together, to which the loss is blind.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import train_joint
import train_representation
import train_unconditional
from accelerate import debug_launcher
from helpers.training import TINY, forget_accelerators, write_image_folder
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.multiprocessing import start_processes
from torch.nn.modules.module import register_module_forward_pre_hook

from lzn_hf.training import setup
from lzn_hf.training.checkpoints import STATE_FILE


NUM_STEPS = 20
MIDDLE = f"checkpoint-{NUM_STEPS // 2}"
VIEWS = "--config_overrides decoder_type=null"
JOINT = "--random_flip --max_shift 1 --samples_per_label 1 --num_inference_steps 1"
JOINT += " --config_overrides alignment_noise_scales=[1.0,0.5]"  # one more draw
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


def run_script(script, argv: list[str], num_processes: int, double: bool = True) -> None:
    """In new processes, also if it is one: the threads that a run leaves behind would not survive the fork of the next one."""

    def main(index: int = 0) -> None:
        if double:
            in_double_precision()
        script.main(argv)

    forget_accelerators()
    if num_processes == 1:
        start_processes(main, nprocs=1, start_method="fork")
    else:
        debug_launcher(main, num_processes=num_processes)


@pytest.fixture
def train(tmp_path) -> Callable[..., Trained]:
    """Trains by a script, without dropout and with two batches in an epoch, which leave out two images."""
    data = write_image_folder(tmp_path / "images")
    preset = tmp_path / "toys.json"
    preset.write_text(json.dumps({"model": {**TINY, "encoder_dropout": 0.0, "decoder_dropout": 0.0}}))

    def train(name: str, num_processes: int, folder: Path, *flags: str, double: bool = True) -> Trained:
        script, more = SCRIPTS[name]
        argv = f"--preset {preset} --data_dir {data} --output_dir {folder} --total_batch_size 8 {more}".split()
        argv += f"--num_reference_anchors 9 --logging_steps 1 --max_train_steps {NUM_STEPS}".split()
        argv += f"--checkpointing_steps {NUM_STEPS // 2}".split()
        run_script(script, [*argv, *flags], num_processes, double)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        state = torch.load(folder / f"checkpoint-{NUM_STEPS}" / STATE_FILE, weights_only=True)
        return Trained(losses, state["model"], load_file(folder / "model.safetensors"))

    return train


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


@pytest.mark.parametrize("name", ["joint", "unconditional", "representation"])
def test_two_processes_train_as_one(tmp_path, train, name):
    one, two = (train(name, count, tmp_path / str(count)) for count in (1, 2))
    assert_equal(two, one)


def test_two_processes_continue_the_run_of_one(tmp_path, train):
    """Also what momentum contrast keeps, and the position in the data."""
    one = train("moco", 1, tmp_path / "one")
    start_over_from_the_middle(tmp_path / "one", tmp_path / "two")
    assert_equal(train("moco", 2, tmp_path / "two", "--resume_from_checkpoint", "latest"), one)


@pytest.mark.slow
def test_in_float32_the_place_of_all_anchors_together_is_left_to_chance(tmp_path, train):
    """What the encoder adds to all anchors alike, which changes no latent and no score, and nothing else."""
    one, two = (train("joint", count, tmp_path / str(count), double=False) for count in (1, 2))
    assert two.losses == pytest.approx(one.losses, rel=0, abs=1e-5)
    shifts = [key for key in one.weights if key.startswith("encoder.taps.") and key.endswith("linear1.bias")]
    for a, b in ((one.weights, two.weights), (one.averages, two.averages)):
        places = [state.pop("reference_anchors", torch.zeros(1, 1)) for state in (a, b)]
        centred = [rows - rows.mean(0) for rows in places]
        torch.testing.assert_close(*centred, rtol=0, atol=1e-5)
        assert largest_difference(*({key: state[key] for key in a if key not in shifts} for state in (a, b))) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_four_processes_train_as_one_and_continue_as_two(tmp_path, train, name):
    if name == "simclr":
        pytest.importorskip("pytorch_metric_learning", reason="simclr_loss is that of pytorch-metric-learning")
    double = name != "classifier"  # which asks for float32, and has no such shift
    one, four = (train(name, count, tmp_path / str(count), double=double) for count in (1, 4))
    assert_equal(four, one)
    start_over_from_the_middle(tmp_path / "4", tmp_path / "2")
    assert_equal(train(name, 2, tmp_path / "2", "--resume_from_checkpoint", "latest", double=double), one)
