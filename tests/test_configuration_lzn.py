# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""LZNConfig: defaults are the published model, what is saved comes back, bad values are named."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from lzn_hf import LZNConfig


def test_without_labels_by_default():
    config = LZNConfig()
    assert config.num_labels == 0 and config.id2label == {} and config.label2id == {}


@pytest.mark.parametrize("labels", [{}, {"num_labels": 2}, {"num_labels": 10}, {"id2label": {0: "cat", 1: "dog"}}])
def test_save_and_reload(tmp_path, labels):
    """Two labels with transformers' default names are the case that transformers itself does not save."""
    config = LZNConfig(image_size=16, encoder_channel_multipliers=(1, 2), num_reference_anchors=7, **labels)
    config.save_pretrained(tmp_path)
    for reloaded in (LZNConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert isinstance(reloaded, LZNConfig)
        assert reloaded.to_diff_dict() == config.to_diff_dict()
        assert reloaded.id2label == config.id2label
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "lzn"


def test_label_names_give_the_inverse_map():
    config = LZNConfig(id2label={"0": "cat", "1": "dog"})
    assert config.num_labels == 2 and config.label2id == {"cat": 0, "dog": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 0),
        ("image_size", 30),  # three levels need a multiple of 8
        ("num_channels", 0),
        ("latent_dim", 0),
        ("encoder_base_channels", 0),
        ("decoder_channel_multipliers", []),
        ("decoder_channel_multipliers", [1, 0]),
        ("decoder_num_res_blocks", 0),
        ("encoder_attention_resolutions", [12]),
        ("encoder_dropout", 1.0),
        ("encoder_tap_channels", 0),
        ("encoder_tap_layers", 0),
        ("encoder_type", "vit"),
        ("encoder_backbone", {"model_type": "vit"}),  # without the encoder_type for it
        ("latent_noise_scale", 0.0),
        ("decoder_type", "resnet"),
        ("encoder_head_layers", 0),
        ("encoder_tap_resolutions", [12]),
        ("latent_solver", "rk45"),
        ("alignment_solver", "heun"),
        ("latent_num_steps", 0),
        ("alignment_end", 0.0),
        ("alignment_end", 1.5),
        ("step_cutoff", 1.0),
        ("alignment_reduction", "sum"),
        ("alignment_weight", -1.0),
        ("label_anchor_std", 0.0),
        ("num_reference_anchors", -1),
        ("num_prediction_draws", -1),
        ("id2label", {0: "cat", 2: "dog"}),
        ("id2label", {0: "cat", 1: "cat"}),
    ],
)
def test_bad_values_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        LZNConfig(**{name: value})


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"encoder_type": "transformers"}, "encoder_backbone"),
        ({"encoder_type": "transformers", "encoder_backbone": {"hidden_size": 3}}, "encoder_backbone"),
        ({"encoder_type": None, "decoder_type": None}, "decoder_type"),
        ({"encoder_type": None, "num_labels": 3}, "id2label"),
    ],
)
def test_bad_combinations_are_named(fields, name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        LZNConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"encoder_type": None},
        {"encoder_type": "transformers", "encoder_backbone": {"model_type": "vit", "hidden_size": 64}},
        {"encoder_type": "resnet", "encoder_small_images": True, "latent_noise_scale": 0.45, "decoder_type": None},
    ],
)
def test_encoder_types_are_saved(tmp_path, fields):
    LZNConfig(**fields).save_pretrained(tmp_path)
    reloaded = LZNConfig.from_pretrained(tmp_path)
    assert {name: getattr(reloaded, name) for name in fields} == fields
    assert reloaded.decoder_latent_dim == (0 if fields["encoder_type"] is None else reloaded.latent_dim)


def test_wrong_types_are_refused():
    with pytest.raises(StrictDataclassError, match="image_size"):
        LZNConfig(image_size="large")
