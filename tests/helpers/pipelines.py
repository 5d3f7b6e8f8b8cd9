# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A tiny real pipeline for the tests, and how they call it."""

from __future__ import annotations

import torch

from lzn_hf import LZNConfig, LZNModel, LZNPipeline


NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
STEPS = 6


def make_pipeline(
    names=NAMES, channels=1, num_reference_anchors=24, latent_dim=6, image_size=8, **options
) -> LZNPipeline:
    """A pipeline of small images whose random weights make every output depend on every input."""
    sizes = {
        "base_channels": 8,
        "channel_multipliers": [1, 2],
        "num_res_blocks": 1,
        "attention_resolutions": [],
        "dropout": 0.2,
    }
    options |= {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in sizes.items()}
    options |= {"encoder_tap_channels": 2, "encoder_tap_hidden_dim": 8}
    torch.manual_seed(0)
    sizes = {"image_size": image_size, "num_channels": channels, "latent_dim": latent_dim}
    model = LZNModel(LZNConfig(**sizes, id2label=dict(enumerate(names)), **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # fresh output layers are zero: nothing would depend on anything
            parameter.add_(0.1 * torch.randn_like(parameter))
    if num_reference_anchors:
        model.set_reference_anchors(torch.randn(num_reference_anchors, latent_dim))
    pipe = LZNPipeline.from_model(model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def smooth_pipeline(**options) -> LZNPipeline:
    """A tiny pipeline whose image flow few steps can follow: its decoder does not see the fast waves of the time embedding."""
    pipe = make_pipeline(**options)
    weight = pipe.model.decoder.condition_embedding.linear1.weight
    with torch.no_grad():
        weight[:, [-8, -7, -4, -3]] = 0  # the last eight columns: four sines and four cosines, the fastest first
    return pipe


def seeded(seed: int = 0) -> torch.Generator:
    """A CPU generator at the start of a seed."""
    return torch.Generator().manual_seed(seed)


def pixels(sample: torch.Tensor) -> torch.Tensor:
    """Samples in [-1, 1] to images of `output_type="pt"`."""
    return (sample / 2 + 0.5).clamp(0, 1)


def generate(pipe, label=None, generator=None, **arguments) -> torch.Tensor:
    """Calls a pipeline with a few steps, by default from a fixed seed and to tensors."""
    arguments = {"num_inference_steps": STEPS, "output_type": "pt", **arguments}
    return pipe(label=label, generator=generator or seeded(), **arguments).images
