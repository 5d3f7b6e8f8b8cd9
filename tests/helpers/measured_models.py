# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Folders of tiny models that evaluation measures, as fixtures that test files import."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.training import tiny_model
from lzn_hf import LZNPipeline
from lzn_hf.evaluation.cards import make_model_card


@pytest.fixture(scope="module", name="joint")
def joint_fixture(tmp_path_factory) -> Path:
    """The folder of a pipeline with labels, decoder, reference anchors and a card."""
    torch.manual_seed(0)
    folder, model = tmp_path_factory.mktemp("joint"), tiny_model()
    model.set_reference_anchors(torch.randn(20, 6))
    LZNPipeline.from_model(model).save_pretrained(folder)
    settings = {"training": {"seed": 0}}
    card = {"model_id": "x/joint", "dataset": "digits", "metrics": {"validation_accuracy": 0.5}, "parameters": 1}
    make_model_card(model.config, settings=settings, **card).save(folder / "README.md")
    return folder


@pytest.fixture(scope="module", name="encoder_only")
def encoder_only_fixture(tmp_path_factory) -> Path:
    """The folder of a model without decoder, labels and reference anchors, as it is before any training."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("encoder")
    tiny_model((), decoder_type=None).save_pretrained(folder)
    return folder
