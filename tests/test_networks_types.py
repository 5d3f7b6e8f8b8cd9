# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`TypeEncoder`: features by the definition, independent of padding; and what it refuses."""

from __future__ import annotations

import re

import pytest
import torch
from helpers.texts import TEXT_CONFIG, tokens
from torch import nn
from transformers import AutoConfig, AutoModel, BertConfig, PreTrainedConfig

from lzn_hf.networks_types import OFFSET_POSITIONS, TypeEncoder, longest_text, make_type_config


CLIP = {
    "model_type": "clip_text_model",
    "vocab_size": 19,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 12,
    "eos_token_id": 2,
}


def make_encoder(fields=TEXT_CONFIG, head_layers=1) -> TypeEncoder:
    torch.manual_seed(0)
    return TypeEncoder(make_type_config("text_config", fields), 64, head_layers).eval()


@torch.no_grad()
def test_features_are_the_mean_over_the_tokens_of_a_text():
    encoder, given = make_encoder(), tokens(["a small boot", "a photo of the big bag"])
    features, anchors = encoder(**given)
    hidden = encoder.backbone(**given).last_hidden_state
    lengths = given["attention_mask"].sum(1).tolist()
    expected = torch.stack([row[:length].mean(0) for row, length in zip(hidden, lengths, strict=True)])
    assert lengths == [3, 6]
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(anchors, encoder.head(expected))


@torch.no_grad()
def test_padding_changes_nothing_and_no_mask_means_no_padding():
    encoder = make_encoder()
    alone = tokens(["a small boot"])
    longer = tokens(["a small boot", "a photo of the big bag"])
    for one, other in zip(encoder(**alone), encoder(**longer), strict=True):
        torch.testing.assert_close(one, other[:1], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(encoder(input_ids=alone["input_ids"])[1], encoder(**alone)[1])


@torch.no_grad()
def test_a_model_with_features_of_its_own_keeps_them():
    encoder, given = make_encoder(CLIP, head_layers=1), tokens(["a small boot", "a big bag"])
    torch.testing.assert_close(encoder(**given)[0], encoder.backbone(**given).pooler_output)


def test_the_layer_that_was_trained_for_another_task_is_left_out():
    encoder = make_encoder()
    assert not [name for name, _ in encoder.named_parameters() if "pooler" in name]
    encoder(**tokens(["a bag"]))[1].sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_half_precision_has_anchors_in_float32():
    anchors = make_encoder().to(torch.bfloat16)(**tokens(["a bag"]))[1]
    assert anchors.dtype == torch.float32


def test_the_configuration_is_made_once():
    made = make_type_config("text_config", TEXT_CONFIG)
    assert isinstance(made, BertConfig) and made.hidden_size == 16 and make_type_config("text_config", made) is made


class UnknownConfig(PreTrainedConfig):
    model_type = "unknown-to-auto-model"
    hidden_size: int = 64


@pytest.mark.parametrize(
    ("fields", "layers", "message"),
    [
        ({"model_type": "nothing"}, 1, "`text_config` must have the `model_type` of a model of transformers"),
        ({**TEXT_CONFIG, "hidden_size": "wide"}, 1, "`text_config` is no configuration of a 'bert'"),
        ({**TEXT_CONFIG, "num_hidden_layers": 10**9}, 1, "`text_config.num_hidden_layers` must be at most 1,000"),
        ({**TEXT_CONFIG, "vocab_size": 10**9}, 1, "`text_config.vocab_size` must be at most 1,000,000"),
        (
            {"model_type": "clip"},
            1,
            "`hidden_size` of the configuration of a 'clip' must be the width of its features, got None",
        ),
        ({"model_type": "unknown-to-auto-model"}, 1, "`AutoModel` cannot build the model of 'unknown-to-auto-model'"),
    ],
)
def test_what_is_wrong_is_named(fields, layers, message):
    AutoConfig.register("unknown-to-auto-model", UnknownConfig, exist_ok=True)
    with pytest.raises(ValueError, match=re.escape(message)):
        make_encoder(fields, layers)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", *sorted(OFFSET_POSITIONS)])
def test_the_longest_text_is_read_and_no_longer_one_is(model_type):
    """The positions of some models begin after that of the padding token."""
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "attention_window": 4,
    }
    sizes |= {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "entity_vocab_size": 4, "entity_emb_size": 8}
    sizes |= {
        "vocab_size": 20,
        "max_position_embeddings": 12,
        "pad_token_id": 1,
        "languages": ["en_XX"],
        "default_language": "en_XX",
    }
    config = make_type_config("text_config", {"model_type": model_type, **sizes})
    longest = longest_text(config)
    assert longest == (10 if model_type in OFFSET_POSITIONS else 12)
    model = AutoModel.from_config(config).eval()
    positions = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == 12]
    assert positions, "no table of positions"
    tokens = torch.full((1, longest), 5)
    model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    with pytest.raises((IndexError, RuntimeError)):
        longer = torch.full((1, longest + 1), 5)
        model(input_ids=longer, attention_mask=torch.ones_like(longer))
