# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A model and data so small that a training step takes no time, for the tests of the training scripts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration, debug_launcher
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from safetensors.torch import load_file

from lzn_hf import LZNModel
from lzn_hf.anchors_lzn import ANCHOR_NAMES
from lzn_hf.data.images import ImageData, TensorImageDataset
from lzn_hf.training.arguments import DataArguments, RunArguments
from lzn_hf.training.batches import make_train_loader, micro_batch_size
from lzn_hf.training.checkpoints import STATE_FILE
from lzn_hf.training.metrics import METRICS_FILE, JSONLinesTracker
from lzn_hf.training.models import build_model
from lzn_hf.training.processes import start_accelerator
from lzn_hf.training.setup import TrainingSetup


TINY = json.loads(Path(__file__).with_name("toy_preset.json").read_text())["model"]
SHAPE = {"image_size": 8, "num_channels": 1}


def tiny_model(labels=("a", "b", "c"), **overrides) -> LZNModel:
    return build_model({**TINY, **overrides}, **SHAPE, label_names=labels)


def toy_images(count: int, num_labels: int = 3) -> TensorImageDataset:
    generator = torch.Generator().manual_seed(1)
    pixel_values = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return TensorImageDataset(pixel_values, torch.arange(count) % num_labels)


def toy_data(count: int = 60, num_labels: int = 3, **change) -> ImageData:
    parts = {"train": toy_images(count, num_labels), "validation": toy_images(30, num_labels)}
    names = [str(label) for label in range(num_labels)]
    return ImageData(**{**parts, "label_names": names, "image_size": 8, "num_channels": 1, "name": "toys", **change})


def training_setup(
    model: LZNModel,
    train: TensorImageDataset,
    run: RunArguments,
    *,
    validation: TensorImageDataset | None = None,
    checkpoint: Path | None = None,
) -> TrainingSetup:
    """What `set_up_training` makes of the command line, for a model and images that are there."""
    tracker = JSONLinesTracker(Path(run.output_dir) / METRICS_FILE)
    accelerator = start_accelerator(run, trackers=[tracker])
    data = ImageData(train, validation, ["a", "b", "c"], SHAPE["image_size"], SHAPE["num_channels"], "toys")
    size = micro_batch_size(run, accelerator.num_processes)
    loader = make_train_loader(train, size, accelerator.num_processes)
    return TrainingSetup(
        "test", run, DataArguments(), accelerator, tracker, data, model, loader, checkpoint=checkpoint
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a model folder; of a checkpoint those as trained, not averaged. By their names in files of weights."""
    if not (folder / STATE_FILE).exists():
        return load_file(folder / "model.safetensors")
    trained = torch.load(folder / STATE_FILE, weights_only=True)["model"]
    return {name.removesuffix(".weight") if name.startswith(ANCHOR_NAMES) else name: trained[name] for name in trained}


def data_flags(preset: Path) -> list[str]:
    """Flags for the data that a preset leaves open."""
    data = json.loads(preset.read_text())["data"]
    return [] if {"dataset_name", "data_dir"} & data.keys() else ["--data_dir", "images"]


def write_image_folder(folder: Path) -> Path:
    """18 grey training and 9 test images of noise, with the labels cat, dog and eel."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for label in ("cat", "dog", "eel"):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / split / label / f"{i}.png")
    return folder


def new_accelerator() -> Accelerator:
    """An accelerator that knows nothing of those before it."""
    forget_accelerators()
    return Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=3))


def forget_accelerators() -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(name="accelerator")
def accelerator_fixture() -> Iterator[Accelerator]:
    yield new_accelerator()
    forget_accelerators()


def run_on(num_processes: int, function: Callable[[Accelerator], Any], folder: Path) -> list:
    """What `function(accelerator)` returns on each process."""
    forget_accelerators()  # the processes are forks of this one

    def save_result() -> None:
        accelerator = new_accelerator()
        assert accelerator.num_processes == num_processes
        torch.save(function(accelerator), folder / f"result-{num_processes}-{accelerator.process_index}.pt")

    if num_processes == 1:
        save_result()
        forget_accelerators()
    else:
        debug_launcher(save_result, num_processes=num_processes)
    return [
        torch.load(folder / f"result-{num_processes}-{index}.pt", weights_only=True) for index in range(num_processes)
    ]


def launch(*command: str | Path, timeout: float = 240) -> str:
    """Runs `python -m command` as users do; its standard error. Nothing that it started outlives this call."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes: dict = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen(
        [sys.executable, "-m", *map(str, command)], env=environment, start_new_session=True, **pipes
    )
    try:
        _, stderr = run.communicate(timeout=timeout)
    except BaseException:
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        raise
    assert run.returncode == 0, stderr
    return stderr
