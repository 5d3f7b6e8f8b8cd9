# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Whoever may read the config of a model may read its weights, and both say the same."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import pytest
import torch
from helpers.models import tiny_config
from helpers.pipelines import make_pipeline

from lzn_hf import LZNForImageClassification, LZNModel


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


def test_models_of_one_configuration_are_saved_as_they_are(tmp_path):
    config = tiny_config()
    with_anchors, without = LZNModel(config), LZNModel(config)
    with_anchors.set_reference_anchors(torch.randn(5, 6))
    for model, count in ((without, 0), (with_anchors, 5)):
        model.save_pretrained(tmp_path / str(count))
        assert LZNModel.from_pretrained(tmp_path / str(count)).config.num_reference_anchors == count


def test_a_classifier_leaves_the_configuration_alone():
    config = tiny_config()
    assert LZNForImageClassification(config).config.num_reference_anchors > config.num_reference_anchors == 0


@pytest.mark.parametrize("changes", [{}, {"decoder_type": None}, {"encoder_type": None}])
def test_labels_that_the_weights_do_not_have_are_not_saved(changes, tmp_path):
    model = LZNModel(tiny_config(**changes))
    model.config.num_labels = 7
    with pytest.raises(ValueError, match="`config.num_labels` must stay 3, .* got 7"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    model.config.id2label = {0: "a", 1: "b", 2: "c"}
    model.save_pretrained(tmp_path / "new")
    assert LZNModel.from_pretrained(tmp_path / "new").config.label2id == {"a": 0, "b": 1, "c": 2}
