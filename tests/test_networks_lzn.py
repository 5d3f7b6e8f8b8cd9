# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Every field of a configuration reaches the network that it is for."""

from __future__ import annotations

import pytest
import torch
from helpers.models import tiny_config
from torch import nn

from lzn_hf import LZNConfig
from lzn_hf.networks_lzn import build_decoder, build_encoder


CONVNEXT = {"model_type": "convnext", "hidden_sizes": [32, 64], "depths": [1, 1], "num_stages": 2}
RESNET = {"encoder_type": "resnet", "encoder_depths": [1, 1], "encoder_widths": [32, 64], "latent_dim": 64}
BACKBONE = {"encoder_type": "transformers", "encoder_backbone": CONVNEXT, "latent_dim": 64}
LARGE = {"encoder_fir_kernel": [1, 3, 3, 1], "decoder_fir_kernel": [1, 3, 3, 1]}
FOURIER = {"decoder_time_embedding": "fourier"}

# Another value of each field, beside what it needs.
CHANGES = {
    "encoder_depths": (RESNET, [2, 1]),
    "encoder_widths": (RESNET, [32, 32]),
    "encoder_small_images": (RESNET, True),
    "encoder_head_layers": (RESNET, 1),
    "encoder_backbone": (BACKBONE, CONVNEXT | {"depths": [2, 1]}),
    "encoder_tap_resolutions": ({}, [4]),
    "encoder_tap_channels": ({}, 3),
    "encoder_tap_hidden_dim": ({}, 9),
    "encoder_tap_layers": ({}, 3),
    "decoder_output_skip": ({}, True),
    "decoder_time_embedding": ({}, "fourier"),
    "decoder_fourier_scale": (FOURIER, 3.0),
    "decoder_scale_by_sigma": (FOURIER, True),
}
for part in ("encoder", "decoder"):
    CHANGES |= {
        f"{part}_base_channels": ({}, 16),
        f"{part}_channel_multipliers": ({}, [1, 1]),
        f"{part}_num_res_blocks": ({}, 2),
        f"{part}_attention_resolutions": ({}, [8]),
        f"{part}_dropout": ({}, 0.5),
        f"{part}_skip_rescale": ({}, False),
        f"{part}_fir_kernel": ({}, [1, 3, 3, 1]),
        f"{part}_input_skip": (LARGE, "sum"),
    }


def outputs(part: str, **changes) -> torch.Tensor:
    """What the network of the part makes of given inputs, in training: weights, shapes and dropout all show."""
    config = tiny_config(**changes)
    torch.manual_seed(0)
    network = build_encoder(config) if part == "encoder" else build_decoder(config)
    for parameter in network.parameters():  # new output layers are nearly zero
        nn.init.normal_(parameter, std=0.3)
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    if part == "encoder":
        return network(images)[1]
    latents, labels = torch.randn(4, config.latent_dim), torch.tensor([0, 1, 2, 0])
    return network(images, torch.full((4,), 0.3), latents, labels)


def test_these_are_all_fields():
    fields = {name for name in LZNConfig.__annotations__ if name.startswith(("encoder_", "decoder_"))}
    assert CHANGES.keys() == fields - {"encoder_type", "decoder_type", "decoder_data_type"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_field_changes_its_network(name):
    needed, value = CHANGES[name]
    part = name.split("_")[0]
    first, again, changed = (outputs(part, **fields) for fields in (needed, needed, needed | {name: value}))
    assert torch.equal(first, again)
    assert first.shape == changed.shape and first.std() > 1e-3
    assert not torch.allclose(first, changed)


@pytest.mark.parametrize("fields", [{}, RESNET, BACKBONE])
def test_encoders_have_the_channels_and_latents_of_the_config(fields):
    config = tiny_config(**fields, image_size=16, num_channels=3)
    features, anchors, _ = build_encoder(config)(torch.randn(2, 3, 16, 16))
    assert features.ndim == 2 and anchors.shape == (2, config.latent_dim)


def test_the_decoder_takes_latents_where_there_is_an_encoder():
    for changes, latent_dim in (({}, 6), ({"encoder_type": None, "num_labels": 0}, 0)):
        config = tiny_config(**changes)
        assert config.decoder_latent_dim == latent_dim
        labels = torch.zeros(2, dtype=torch.int64) if config.num_labels else None
        output = build_decoder(config)(torch.randn(2, 1, 8, 8), torch.rand(2), torch.randn(2, latent_dim), labels)
        assert output.shape == (2, 1, 8, 8)


def test_a_part_may_be_missing():
    assert build_encoder(tiny_config(encoder_type=None, num_labels=0)) is None
    assert build_decoder(tiny_config(decoder_type=None)) is None
