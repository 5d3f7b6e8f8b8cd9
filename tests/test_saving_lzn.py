# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Whoever may read the config of a model may read its weights."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import pytest
from helpers.pipelines import make_pipeline

from lzn_hf import LZNForImageClassification


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_weights_are_as_readable_as_the_files_beside_them(umask, tmp_path):
    pipe = make_pipeline()
    pipe.save_pretrained(tmp_path / "pipe")
    pipe.save_pretrained(tmp_path / "pipe", variant="half", max_shard_size="20KB")
    pipe.model.save_pretrained(tmp_path / "model")
    LZNForImageClassification.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "classifier")
    for name in ("pipe", "model", "classifier"):
        found = modes(tmp_path / name)
        assert "model.safetensors" in found and set(found.values()) == {0o666 & ~umask}, found
    assert len(modes(tmp_path / "pipe")) > 8  # with shards
