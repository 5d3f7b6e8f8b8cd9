# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A model so small that a test takes no time, whose every path counts."""

from __future__ import annotations

from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from lzn_hf import LZNConfig


TINY_RESNET = {"encoder_type": "resnet", "encoder_depths": [1, 1], "encoder_widths": [32, 32], "latent_dim": 64}


def tiny_config(**changes):
    sizes = {
        "base_channels": 8,
        "channel_multipliers": [1, 2],
        "num_res_blocks": 1,
        "attention_resolutions": [],
        "dropout": 0.1,
    }
    options = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in sizes.items()}
    options |= {
        "encoder_tap_channels": 2,
        "encoder_tap_hidden_dim": 8,
        "latent_num_steps": 8,
        "alignment_num_steps": 10,
    }
    return LZNConfig(**{**options, "image_size": 8, "num_channels": 1, "latent_dim": 6, "num_labels": 3, **changes})


def perturbed(model):
    """Fresh output layers are almost zero; noise on the weights makes every path count."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def draws(images, latent_dim=6):
    return {
        "noise": torch.randn(len(images), latent_dim),
        "sample_noise": torch.randn_like(images),
        "timesteps": torch.rand(len(images)),
    }


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def checkpoint_blocks(network, enabled=True):
    """Turns gradient checkpointing of a network on or off, as a surrounding model of transformers does."""
    for module in network.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = enabled
            module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def is_checkpointing(network):
    """Whether the layers of a network that can be checkpointed are; all of them or none."""
    (enabled,) = {m.gradient_checkpointing for m in network.modules() if hasattr(m, "gradient_checkpointing")}
    return enabled
