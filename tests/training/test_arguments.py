# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The flags: their help texts, their default values, and the learning rates among them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest

from lzn_hf import train_joint, train_representation, train_unconditional
from lzn_hf.training.arguments import ModelArguments, PresetArguments, flag, learning_rates


SCRIPTS = (train_joint, train_representation, train_unconditional)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_has_a_help_text(script):
    for arguments in (PresetArguments, *script.ARGUMENTS.values()):
        for field in fields(arguments):
            text = field.metadata.get("help", "")
            assert len(text) > 15 or text.startswith("... ") or not field.init, field.name


def test_lists_are_not_shared_between_instances():
    first, second = ModelArguments(), ModelArguments()
    first.config_overrides.append("latent_dim=3")
    assert second.config_overrides == []


def test_learning_rates_are_named_by_their_part():
    @dataclass
    class Arguments:
        encoder_learning_rate: float = flag(0.5, "of the encoder")
        label_anchors_learning_rate: float = flag(0.25, "of the anchors")
        decoder_train_steps: int = flag(3, "not a rate")

    assert learning_rates(Arguments()) == {"encoder": 0.5, "label_anchors": 0.25}
