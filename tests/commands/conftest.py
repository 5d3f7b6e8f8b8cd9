# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Published layouts, tiny checkpoints, and the folders that these become, for the tests of the converter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.published_layouts import read_layouts
from helpers.tiny_checkpoints import TINY, tiny_published, write

from lzn_hf import LZNModel
from lzn_hf.commands import convert_original_checkpoint as converter
from lzn_hf.commands import published_format


@pytest.fixture(scope="module")
def layouts() -> dict[str, dict]:
    return read_layouts()


@pytest.fixture(scope="module")
def tiny(layouts) -> dict[str, dict]:
    """For each kind of network its published config, our model and the trainer's checkpoint of the same weights.

    The averages are half the weights, so that no two tensors of a checkpoint are equal.
    """
    files = {}
    for case in TINY:
        published = tiny_published(layouts, case)
        torch.manual_seed(0)
        model = LZNModel(converter.config_from_published(published)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.1 * torch.randn_like(parameter))
        checkpoint = {"optimizer": {"state": {0: {"step": 2.0}}}, "lr_scheduler": {"last_epoch": 2}, "grad_scalar": {}}
        checkpoint |= {"epoch": 3, "iteration": 1234}
        for part, tensors in published_format.to_published(model.config, model.state_dict()).items():
            averages = [tensor / 2 for key, tensor in tensors.items() if key != "all_modules.0.W"]
            checkpoint[part] = {"model.module." + key: tensor for key, tensor in tensors.items()}
            if part == "decoder":
                buffer = {"model.module.sigmas": torch.linspace(50, 0.01, 1000, dtype=torch.float64)}
                checkpoint[part] = buffer | checkpoint[part]
            checkpoint[f"{part}_ema"] = {"decay": 0.999, "num_updates": 42, "shadow_params": averages}
        files[case] = {"published": published, "model": model, "checkpoint": checkpoint}
    return files


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory) -> dict[str, Path]:
    folders = {}
    for case in ("case_study_1_afhqcat", "case_study_2", "case_study_3"):
        folder = tmp_path_factory.mktemp(case)
        converter.main(write(folder, tiny[case]))
        folders[case] = folder / "out"
    return folders
