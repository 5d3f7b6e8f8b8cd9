# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Every combination of the options of NCSN++ against the published description in straight lines."""

import itertools
import math

import pytest
import torch
from helpers.ncsnpp import TAPS, TRUNK, fill, largest, uniform_formula
from torch import nn
from torch.nn import functional as F

from lzn_hf.layers_ncsnpp import downsample, timestep_embedding, upsample
from lzn_hf.networks_ncsnpp import NCSNppDecoder, NCSNppEncoder


class Oracle:
    """The published description of NCSN++ in straight lines: layers take their weights from a list, in its order."""

    def __init__(self, network: nn.Module, options: dict) -> None:
        self.parameters = iter(network.state_dict().values())
        self.options = options

    def conv(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = next(self.parameters), next(self.parameters)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def linear(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, next(self.parameters), next(self.parameters))

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x, min(x.shape[1] // 4, 32), next(self.parameters), next(self.parameters), eps=1e-6)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return (x + residual) / (math.sqrt(2) if self.options["skip_rescale"] else 1)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.linear(self.normed(x).permute(0, 2, 3, 1).flatten(1, 2)).chunk(3, dim=-1)
        weights = (query @ key.transpose(1, 2) / math.sqrt(x.shape[1])).softmax(dim=-1)
        return self.add(x, self.linear(weights @ value).transpose(1, 2).reshape(x.shape))

    def block(self, x, embedding=None, resample=lambda x, kernel: x, attention=False) -> torch.Tensor:
        residual = self.conv(resample(F.silu(self.normed(x)), self.options["fir_kernel"]))
        if embedding is not None:
            residual = residual + self.linear(F.silu(embedding))[:, :, None, None]
        residual = self.conv(F.silu(self.normed(residual)))
        if residual.shape != x.shape:
            x = self.conv(resample(x, self.options["fir_kernel"]))
        x = self.add(x, residual)
        return self.attention(x) if attention else x

    def is_attended(self, x: torch.Tensor) -> bool:
        return x.shape[-1] in self.options["attention_resolutions"]

    def trunk(self, images: torch.Tensor, embedding=None) -> tuple[list[torch.Tensor], torch.Tensor]:
        pyramid, skips = images, [self.conv(images)]
        for level in range(len(self.options["channel_multipliers"])):
            if level > 0:
                x = self.block(skips[-1], embedding, downsample)
                pyramid = downsample(pyramid, self.options["fir_kernel"])
                if self.options["input_skip"] == "sum":
                    x = self.conv(pyramid) + x
                elif self.options["input_skip"] == "cat":
                    x = torch.cat([self.conv(pyramid), x], dim=1)
                skips.append(x)
            for _ in range(self.options["num_res_blocks"]):
                skips.append(self.block(skips[-1], embedding, attention=self.is_attended(skips[-1])))
        return skips, self.block(self.block(skips[-1], embedding, attention=True), embedding)

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        skips, x = self.trunk(images)
        anchors = 0
        for tapped in [*skips, x]:
            if tapped.shape[-1] in (self.options["tap_resolutions"] or (8, 4, 2)):
                tapped = self.conv(tapped).flatten(1)
                for _ in range(self.options["tap_layers"]):
                    tapped = self.linear(F.silu(tapped))
                anchors = anchors + tapped
        return x.mean(dim=(2, 3)), anchors

    def velocity(self, sample, t, latents, labels) -> torch.Tensor:
        if self.options["time_embedding"] == "fourier":
            steps = 999 * t.clamp(1e-3, 1)
            angles = 2 * math.pi * steps.log()[:, None] * next(self.parameters)
            time = torch.cat([angles.sin(), angles.cos()], dim=1)
        else:
            time = timestep_embedding(999 * t.clamp(0, 1), self.options["base_channels"]).double()
        one_hot = [] if labels is None else [F.one_hot(labels, self.options["num_labels"])]
        embedding = self.linear(F.silu(self.linear(torch.cat([latents, *one_hot, time], dim=1))))
        skips, x = self.trunk(sample, embedding)
        output = 0
        for level in reversed(range(len(self.options["channel_multipliers"]))):
            for i in range(self.options["num_res_blocks"] + 1):
                attention = i == self.options["num_res_blocks"] and self.is_attended(x)
                x = self.block(torch.cat([x, skips.pop()], dim=1), embedding, attention=attention)
            if self.options["output_skip"]:
                output = output + self.conv(F.silu(self.normed(x)))
            if level > 0:
                x = self.block(x, embedding, upsample)
                output = upsample(output, self.options["fir_kernel"]) if self.options["output_skip"] else 0
        if not self.options["output_skip"]:
            output = self.conv(F.silu(self.normed(x)))
        return output / steps[:, None, None, None] if self.options["scale_by_sigma"] else output


def combinations(**choices) -> list[dict]:
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


TRUNK_CHOICES = {
    "fir_kernel": (None, (1, 2, 3, 1)),
    "input_skip": (None, "sum", "cat"),
    "skip_rescale": (True, False),
    "attention_resolutions": ((), (4, 2)),
}
TINY = TRUNK | {"channel_multipliers": (1, 2, 1), "num_res_blocks": 1}


def test_every_combination_of_options_of_the_encoder_follows_the_published_description():
    images = 2 * uniform_formula(2 * 64, 1000).view(2, 1, 8, 8)
    for choice in combinations(**TRUNK_CHOICES, tap_resolutions=(None, (4,), (8, 2))):
        options = TINY | TAPS | choice
        encoder = fill(NCSNppEncoder(**options).double())
        oracle = Oracle(encoder, options)
        with torch.no_grad():
            outputs, expected = encoder(images)[:2], oracle.encode(images)
        assert outputs[1].std() > 0.1, choice
        torch.testing.assert_close(outputs, expected, atol=1e-10, rtol=0, msg=lambda text: f"{choice}: {text}")
        assert next(oracle.parameters, None) is None


# every eleventh of the 288 combinations has every pair of choices in it
@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_combinations_of_options_of_the_decoder_follow_the_published_description(stride):
    sample, latents = uniform_formula(2 * 64, 1000).view(2, 1, 8, 8), 4 * uniform_formula(12, 1001).view(2, 6)
    t = torch.tensor([0.0, 0.3]).double()
    times = [("sinusoidal", False), ("fourier", False), ("fourier", True)]
    for choice in combinations(**TRUNK_CHOICES, output_skip=(False, True), num_labels=(0, 3), time=times)[::stride]:
        time_embedding, scale_by_sigma = choice.pop("time")
        choice |= {"time_embedding": time_embedding, "scale_by_sigma": scale_by_sigma}
        options = TINY | choice
        decoder = fill(NCSNppDecoder(**options).double())
        oracle = Oracle(decoder, options)
        labels = torch.tensor([2, 0]) if choice["num_labels"] else None
        with torch.no_grad():
            velocity, expected = decoder(sample, t, latents, labels), oracle.velocity(sample, t, latents, labels)
        assert velocity.shape == sample.shape, choice
        assert (largest(expected) > (1e-4 if scale_by_sigma else 0.1)).all(), choice
        assert (largest(velocity - expected) < 1e-10 * largest(expected)).all(), choice
        assert next(oracle.parameters, None) is None
