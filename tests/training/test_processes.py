# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Processes that were started together must see each other."""

from __future__ import annotations

import pytest
from helpers.training import forget_accelerators

from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.processes import check_num_processes, start_accelerator


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
