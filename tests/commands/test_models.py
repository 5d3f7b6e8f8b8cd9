# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The device that the commands run on."""

from __future__ import annotations

import pytest
import torch

from lzn_hf.commands.models import find_device


@pytest.mark.parametrize(("is_available", "expected"), [(False, "cpu"), (True, "meta")])
def test_a_build_for_a_device_that_is_not_there_runs_on_the_cpu(monkeypatch, is_available, expected):
    """PyTorch from a package index is a build for CUDA, also on a machine without a GPU, and names this device then."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("meta"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: is_available)
    assert find_device("auto") == torch.device(expected)
