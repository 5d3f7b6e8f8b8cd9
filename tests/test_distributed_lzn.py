# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`draw_rows`: processes (gloo, real ones) draw the rows of one batch. The gathers are tested with the losses."""

from __future__ import annotations

import pytest
import torch
from helpers.training import run_on
from torch import Tensor

from lzn_hf import distributed_lzn
from lzn_hf.distributed_lzn import draw_rows


def draw_all(accelerator) -> list[Tensor]:
    """Three draws of one generator, for 40 rows together."""
    generator, rows = torch.Generator().manual_seed(3), 40 // accelerator.num_processes
    return [
        draw_rows(torch.rand, torch.empty(rows), generator),
        draw_rows(torch.randn, torch.empty(rows, 3, 5), generator),
        draw_rows(torch.randn, torch.empty(rows, 7), generator),
    ]


def test_two_processes_draw_what_one_does(tmp_path):
    [whole], shares = (run_on(count, draw_all, tmp_path) for count in (1, 2))
    for draw, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat(parts), draw)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(whole[0], torch.rand(40, generator=generator))  # as without this function
    assert torch.equal(whole[1], torch.randn(40, 3, 5, generator=generator))
    assert torch.equal(whole[2], torch.randn(40, 7, generator=generator))


@pytest.mark.parametrize("limit", [1, 300])
def test_large_draws_are_made_in_blocks_and_stay_the_same(tmp_path, monkeypatch, limit):
    """Of 16 rows, 32, or all; process 1 of 2 begins within a block."""
    [whole] = run_on(1, draw_all, tmp_path)
    monkeypatch.setattr(distributed_lzn, "MAX_DRAWN", limit)
    for count in (1, 2):
        shares = run_on(count, draw_all, tmp_path)
        for draw, *parts in zip(whole, *shares, strict=True):
            assert torch.equal(torch.cat(parts), draw)


def test_a_share_does_not_hold_the_memory_of_the_others(tmp_path):
    def storage(accelerator) -> list[int]:
        return [rows.untyped_storage().nbytes() for rows in draw_all(accelerator)]

    assert run_on(2, storage, tmp_path) == 2 * [[20 * 4, 20 * 15 * 4, 20 * 7 * 4]]


def test_the_default_generator_draws_where_none_is_given():
    torch.manual_seed(5)
    drawn = draw_rows(torch.randn, torch.empty(4, 6, dtype=torch.float64))
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.randn(4, 6))
