# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Small networks of NCSN++ in both variants, with weights and inputs by formula, for the tests of `networks_ncsnpp`."""

import math

import torch
from torch import nn

from lzn_hf.networks_ncsnpp import NCSNppDecoder, NCSNppEncoder


# 8x8 digits, with attention where a level has it and where it has not, and channel changes on both sides
TRUNK = {
    "image_size": 8,
    "in_channels": 1,
    "latent_dim": 6,
    "base_channels": 8,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 2,
    "attention_resolutions": (4,),
    "dropout": 0.0,
}
TAPS = {"tap_channels": 3, "tap_hidden_dim": 10, "tap_layers": 2}
FIR_AND_INPUT_SKIP = {"fir_kernel": (1, 3, 3, 1), "input_skip": "sum"}
OUTPUT_AND_TIME = {"output_skip": True, "time_embedding": "fourier", "fourier_scale": 16.0, "scale_by_sigma": True}
# the options of large models, on three levels: the pyramids have two steps
LARGE = {"channel_multipliers": (1, 1, 2), "num_res_blocks": 1, **FIR_AND_INPUT_SKIP}
OPTIONS = {
    "encoder": {"small": {}, "large": LARGE | {"tap_resolutions": (4, 2)}},
    "decoder": {"small": {}, "large": LARGE | OUTPUT_AND_TIME},
}
VARIANTS = ("small", "large")
MODELS = [(part, variant) for part in OPTIONS for variant in VARIANTS]


def make_encoder(variant: str = "small", **changes) -> NCSNppEncoder:
    torch.manual_seed(0)
    return NCSNppEncoder(**(TRUNK | TAPS | OPTIONS["encoder"][variant] | changes))


def make_decoder(variant: str = "small", **changes) -> NCSNppDecoder:
    torch.manual_seed(0)
    return NCSNppDecoder(**(TRUNK | {"num_labels": 10} | OPTIONS["decoder"][variant] | changes))


MAKE = {"encoder": make_encoder, "decoder": make_decoder}


def uniform_formula(numel: int, index: int) -> torch.Tensor:
    """Numbers in [-0.5, 0.5) that need no random generator."""
    return (torch.arange(numel, dtype=torch.float64) * 0.6180339887498949 + index * 0.4142135623730951) % 1 - 0.5


@torch.no_grad()
def fill(network: nn.Module) -> nn.Module:
    """Weights by formula and large enough that every layer matters (a new network is nearly the identity)."""
    for index, (name, parameter) in enumerate(network.state_dict().items()):
        values = uniform_formula(parameter.numel(), index).view_as(parameter)
        is_scale = parameter.ndim == 1 and name.endswith("weight")
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        parameter.copy_(1 + 0.5 * values if is_scale else values * 3 / math.sqrt(fan_in))
    return network


def filled_networks(variant: str) -> tuple[NCSNppEncoder, NCSNppDecoder, dict[str, torch.Tensor]]:
    encoder, decoder = fill(make_encoder(variant).double().eval()), fill(make_decoder(variant).double().eval())
    inputs = {
        "sample": 2 * uniform_formula(3 * 64, 1000).view(3, 1, 8, 8),
        "t": torch.tensor([0.0, 0.3, 1.2]).double(),  # rounded to float32, in which small networks embed time
        "latents": 4 * uniform_formula(18, 1001).view(3, 6),
        "labels": torch.tensor([0, 7, 9]),
    }
    return encoder, decoder, inputs


def random_inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "sample": torch.randn(5, 1, 8, 8, generator=generator),
        "t": torch.rand(5, generator=generator),
        "latents": torch.randn(5, 6, generator=generator),
        "labels": torch.randint(10, (5,), generator=generator),
    }


def run(encoder: NCSNppEncoder, decoder: NCSNppDecoder, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        features, anchors, _ = encoder(inputs["sample"])
        return {"features": features, "anchors": anchors, "velocity": decoder(**inputs)}


def largest(values: torch.Tensor) -> torch.Tensor:
    """Largest magnitude of each sample: velocities that are divided by time differ a thousandfold."""
    return values.flatten(1).abs().amax(dim=1)
