# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Processes that were started together must see each other."""

from __future__ import annotations

import pytest

from lzn_hf.training.processes import check_num_processes


def test_processes_that_do_not_see_each_other_are_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_num_processes(2)
    with pytest.raises(ValueError, match="2 processes were started .* sees 1: each would train alone.*torchrun"):
        check_num_processes(1)
