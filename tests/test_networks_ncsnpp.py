# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Tests of the networks of NCSN++, small and large, and of every combination of their options.

`golden/ncsnpp_small.safetensors` and `golden/ncsnpp_large.safetensors` have `network/[large/]{features, anchors, velocity}`:
outputs of this implementation, in float64, for the networks, weights and inputs of `filled_networks` below, which are
formulas. Stored when the same code had just reproduced whole published models, one small and one large (float64 outputs to
1e-14 and 1e-13). They pin what layers cannot: order of blocks, skip connections, conditions, and taps.
"""

import itertools
import math
import re

import pytest
import torch
from helpers import GOLDEN_DIR
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from lzn_hf.layers_ncsnpp import (
    FourierEmbedding,
    InputSkip,
    OutputSkip,
    ResidualBlock,
    downsample,
    timestep_embedding,
    upsample,
)
from lzn_hf.networks_ncsnpp import NCSNPP_LAYERS, NCSNppDecoder, NCSNppEncoder


GOLDEN = load_file(GOLDEN_DIR / "ncsnpp_small.safetensors") | load_file(GOLDEN_DIR / "ncsnpp_large.safetensors")

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

# the published values, in the same order
CIFAR10 = dict(zip(TRUNK, (32, 3, 200, 128, (1, 2, 2, 2), 4, (16,), 0.15), strict=True))
AFHQ = dict(zip(TRUNK, (256, 3, 200, 128, (1, 1, 2, 2, 2, 2, 2), 2, (16,), 0.0), strict=True)) | FIR_AND_INPUT_SKIP
PUBLISHED_TAPS = {"tap_channels": 20, "tap_hidden_dim": 200, "tap_layers": 2}


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


def named_weights(network: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers, in the order of the modules."""
    return [
        (f"{prefix}.{name}", value)
        for prefix, module in network.named_modules()
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    ]


def reset_all(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, NCSNPP_LAYERS):
            module.reset_parameters()


def run(encoder: NCSNppEncoder, decoder: NCSNppDecoder, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        features, anchors = encoder(inputs["sample"])
        return {"features": features, "anchors": anchors, "velocity": decoder(**inputs)}


def largest(values: torch.Tensor) -> torch.Tensor:
    """Largest magnitude of each sample: velocities that are divided by time differ a thousandfold."""
    return values.flatten(1).abs().amax(dim=1)


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
            outputs, expected = encoder(images), oracle.encode(images)
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_networks_reproduce_stored_outputs(variant):
    for name, value in run(*filled_networks(variant)).items():
        expected = GOLDEN[f"network/{name}" if variant == "small" else f"network/large/{name}"]
        assert expected.std() > 0.1  # a stored number that is nearly zero could not tell wrong from right
        assert (largest(value - expected) < 1e-6 * largest(expected)).all(), name


def count(network: nn.Module) -> int:
    return sum(value.numel() for value in network.state_dict().values())


def test_published_counts_of_weights():
    """Fourier frequencies are among them."""
    with torch.device("meta"):
        assert count(NCSNppEncoder(**CIFAR10, **PUBLISHED_TAPS)) == 49_790_260
        assert count(NCSNppDecoder(**CIFAR10, num_labels=10)) == 61_911_939
        assert count(NCSNppDecoder(**CIFAR10, num_labels=0)) == 61_906_819
        assert count(NCSNppEncoder(**AFHQ, **PUBLISHED_TAPS, tap_resolutions=(64, 32, 16, 8, 4))) == 87_768_896
        assert count(NCSNppDecoder(**AFHQ, num_labels=0, **OUTPUT_AND_TIME)) == 65_676_949


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_size": 12, "in_channels": 3, "channel_multipliers": [1, 2, 3], "attention_resolutions": []},
        {"image_size": 6, "channel_multipliers": (2,), "num_res_blocks": 1, "attention_resolutions": (6,)},
    ],
)
def test_output_shapes(changes):
    encoder, decoder = make_encoder(**changes), make_decoder(**changes)
    size, channels = changes.get("image_size", 8), changes.get("in_channels", 1)
    images = torch.randn(2, channels, size, size)
    features, anchors = encoder(images)
    assert encoder.feature_dim == 8 * changes.get("channel_multipliers", (1, 2))[-1]
    assert features.shape == (2, encoder.feature_dim)
    assert anchors.shape == (2, 6)
    assert decoder(images, torch.rand(2), torch.randn(2, 6), torch.tensor([1, 2])).shape == images.shape


def test_number_of_tap_layers():
    for tap_layers in (1, 2, 3):
        for tap in make_encoder(tap_layers=tap_layers).taps.values():
            linears = [module for module in tap.modules() if isinstance(module, nn.Linear)]
            assert [linear.out_features for linear in linears] == [10] * (tap_layers - 1) + [6]


def test_attention_stands_at_listed_resolutions_and_in_the_middle():
    decoder = make_decoder()
    with_attention = [name for name, block in decoder.blocks.items() if block.attention is not None]
    assert with_attention == ["down_4x4_block0", "down_4x4_block1", "middle_block0", "up_4x4_block2"]
    with_attention = [name for name, block in make_encoder(attention_resolutions=()).blocks.items() if block.attention]
    assert with_attention == ["middle_block0"]


def test_names_say_what_a_module_is():
    encoder, decoder = make_encoder(), make_decoder()
    keys = [*encoder.state_dict(), *decoder.state_dict()]
    assert not [key for key in keys if any(part.isdigit() for part in key.split("."))]
    down = ["down_8x8_block0", "down_8x8_block1", "down_8x8_to_4x4", "down_4x4_block0", "down_4x4_block1"]
    middle = ["middle_block0", "middle_block1"]
    assert list(encoder.blocks) == down + middle
    assert list(encoder.taps) == ["conv_in", *down, "middle_block1"]
    up = [f"up_4x4_block{i}" for i in range(3)] + ["up_4x4_to_8x8"] + [f"up_8x8_block{i}" for i in range(3)]
    assert list(decoder.blocks) == down + middle + up


def test_names_of_pyramids_and_of_their_taps():
    encoder, decoder = make_encoder("large"), make_decoder("large")
    upper = ["down_8x8_block0", "down_8x8_to_4x4", "down_4x4_input_skip", "down_4x4_block0"]
    lower = ["down_4x4_to_2x2", "down_2x2_input_skip", "down_2x2_block0", "middle_block0", "middle_block1"]
    assert list(encoder.blocks) == upper + lower
    assert list(encoder.taps) == [
        *("down_4x4_input_skip", "down_4x4_block0"),
        *("down_2x2_input_skip", "down_2x2_block0", "middle_block1"),
    ]
    assert list(make_encoder("large", tap_resolutions=None).taps)[:3] == [
        *("conv_in", "down_8x8_block0", "down_4x4_input_skip"),
    ]
    assert list(decoder.blocks) == [
        *(upper + lower),
        *("up_2x2_block0", "up_2x2_block1", "up_2x2_output_skip", "up_2x2_to_4x4"),
        *("up_4x4_block0", "up_4x4_block1", "up_4x4_output_skip", "up_4x4_to_8x8"),
        *("up_8x8_block0", "up_8x8_block1", "up_8x8_output_skip"),
    ]
    assert [name for name, _ in decoder.named_children()] == ["condition_embedding", "conv_in", "blocks"]
    parts = [name for name, _ in decoder.condition_embedding.named_children()]
    assert parts == ["time_embedding", "linear1", "linear2"]


@pytest.mark.parametrize(("part", "variant"), MODELS)
def test_everything_is_in_the_state_dict(part, variant):
    """Buffers that are not saved, and plain tensors, would not survive a model that is built on the meta device."""
    network = MAKE[part](variant)
    assert list(network.state_dict()) == [name for name, _ in named_weights(network)]
    for module in network.modules():
        assert not [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_new_network_gives_nearly_zero_velocity_and_anchors_that_tell_images_apart(variant):
    outputs = run(make_encoder(variant), make_decoder(variant), random_inputs())
    assert 0 < outputs["velocity"].abs().max() < 1e-3
    assert outputs["features"].isfinite().all()
    assert torch.pdist(outputs["anchors"]).min() > 0.01


def expected_bounds(name: str, layer: nn.Module) -> tuple[float, float]:
    """Bounds of the uniform weights and biases, from the rule: variance scale / mean(fan_in, fan_out), biases 0."""
    if re.search(r"taps\..*\.linear\d", name):
        return (1 / math.sqrt(layer.in_features),) * 2
    receptive_field = layer.weight[0, 0].numel()
    fan_in, fan_out = layer.weight.shape[1] * receptive_field, layer.weight.shape[0] * receptive_field
    scale = 1.0
    if name.endswith("qkv"):
        scale, fan_out = 0.1, fan_in
    elif name.endswith(("conv2", "attention.out", "conv_out", "output_skip.conv")):
        scale = 1e-10
    return math.sqrt(3 * scale / ((fan_in + fan_out) / 2)), 0.0


@pytest.mark.parametrize("built", ["directly", "on_meta"])
@pytest.mark.parametrize(("part", "variant"), MODELS)
def test_initial_distribution(part, variant, built):
    """Every parameter has its distribution, also when a network is built on meta and initialised through the blocks."""
    if built == "directly":
        network = MAKE[part](variant)
    else:
        with torch.device("meta"):
            network = MAKE[part](variant)
        network.to_empty(device="cpu")
        with torch.no_grad():
            for _, value in named_weights(network):
                value.fill_(torch.nan)
        reset_all(network)
    assert not [name for name, value in named_weights(network) if value.isnan().any()]
    for name, layer in network.named_modules():
        if isinstance(layer, nn.GroupNorm):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
        elif isinstance(layer, FourierEmbedding):
            assert 8 < layer.frequencies.std() < 32
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            for parameter, bound in zip((layer.weight, layer.bias), expected_bounds(name, layer), strict=True):
                assert parameter.abs().max() <= bound * (1 + 1e-6), name
                # the largest of n uniform numbers falls short of 95 % of the bound once in 0.95^-n times
                assert parameter.numel() < 400 or parameter.abs().max() > 0.95 * bound, name
                assert parameter.numel() < 400 or abs(parameter.std() / (bound / math.sqrt(3)) - 1) < 0.15, name


@pytest.mark.parametrize(("part", "variant"), MODELS)
def test_reset_parameters_sets_whole_parameters_once_and_through_nn_init_only(part, variant, monkeypatch):
    """Else transformers, loading a checkpoint, initialises over what it has loaded (it guards `torch.nn.init`, for whole
    parameters), or leaves what is missing uninitialised (it skips modules that hold no parameter themselves)."""
    network = MAKE[part](variant)
    before = {name: value.clone() for name, value in named_weights(network)}
    touched = []
    for name in dir(nn.init):
        if name.endswith("_") and not name.startswith("_"):
            monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: touched.append(id(tensor)))
    reset_all(network)
    assert len(touched) == len(set(touched))
    for module in network.modules():
        assert isinstance(module, NCSNPP_LAYERS) == bool(module._parameters or module._buffers)
    assert set(touched) == {id(value) for _, value in named_weights(network)}
    for name, value in named_weights(network):
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_condition_influences_the_velocity(variant):
    _, decoder, inputs = filled_networks(variant)
    changed = {
        "sample": inputs["sample"].roll(1, 0),
        "t": torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64),
        "latents": inputs["latents"].roll(1, 0),
        "labels": torch.tensor([1, 8, 0]),
    }
    with torch.no_grad():
        velocity = decoder(**inputs)
        for name, value in changed.items():
            difference = largest(decoder(**(inputs | {name: value})) - velocity)
            assert (difference > 3e-4 * largest(velocity)).all(), name


@pytest.mark.parametrize(("variant", "smallest"), [("small", 0.0), ("large", 1e-3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_time_is_clamped(variant, smallest, dtype):
    """Fourier features, of the logarithm of time, and the division by time begin at 1e-3."""
    _, decoder, inputs = filled_networks(variant)
    inside = torch.tensor([smallest, 0.5, 1.0], dtype=dtype)
    outside = torch.tensor([-0.5, 0.5, 1.5], dtype=dtype)
    with torch.no_grad():
        velocity = decoder(**(inputs | {"t": inside}))
        assert velocity.isfinite().all()
        assert torch.equal(velocity, decoder(**(inputs | {"t": outside})))
        assert torch.equal(velocity[:1], decoder(**(inputs | {"t": torch.zeros(3, dtype=dtype)}))[:1])
        above = decoder(**(inputs | {"t": inside + 1e-3}))[:1]
        assert largest(above - velocity[:1]) > 1e-3 * largest(velocity[:1])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int64])
def test_time_is_taken_to_float32_before_anything_else(variant, dtype):
    _, decoder, inputs = filled_networks(variant)
    t = torch.tensor([0.0, 0.3, 1.0]).to(dtype)
    with torch.no_grad():
        assert torch.equal(decoder(**(inputs | {"t": t})), decoder(**(inputs | {"t": t.float()})))


def test_scale_by_sigma_divides_by_the_step_number():
    _, decoder, inputs = filled_networks("large")
    plain = make_decoder("large", scale_by_sigma=False).double()
    plain.load_state_dict(decoder.state_dict())
    steps = torch.tensor([0.999, 299.7, 999.0]).double()
    with torch.no_grad():
        divided, expected = decoder(**inputs), plain(**inputs) / steps[:, None, None, None]
    assert (largest(divided - expected) < 1e-6 * largest(expected)).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_feature_map_is_tapped(variant):
    encoder, _, inputs = filled_networks(variant)
    anchors = encoder(inputs["sample"])[1]
    for name, tap in encoder.taps.items():
        handle = tap.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
        assert (encoder(inputs["sample"])[1] - anchors).abs().max() > 1e-2, name
        handle.remove()


def test_labels_are_needed_exactly_by_a_decoder_with_labels():
    inputs = random_inputs()
    assert make_decoder(num_labels=0)(**(inputs | {"labels": None})).shape == inputs["sample"].shape
    with pytest.raises(ValueError, match="`labels`.* got a tensor"):
        make_decoder(num_labels=0)(**inputs)
    with pytest.raises(ValueError, match="`labels`.* got None"):
        make_decoder()(**(inputs | {"labels": None}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_samples_do_not_depend_on_their_batch(variant):
    encoder, decoder, inputs = filled_networks(variant)
    together = run(encoder, decoder, inputs)
    for i in range(3):
        alone = run(encoder, decoder, {name: value[i : i + 1] for name, value in inputs.items()})
        for name, value in alone.items():
            torch.testing.assert_close(value, together[name][i : i + 1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_dropout_acts_in_training_only(variant):
    encoder, decoder = fill(make_encoder(variant, dropout=0.5)), fill(make_decoder(variant, dropout=0.5))
    inputs = random_inputs()
    without = run(fill(make_encoder(variant)), fill(make_decoder(variant)), inputs)
    first, second = run(encoder, decoder, inputs), run(encoder, decoder, inputs)
    in_eval_mode = run(encoder.eval(), decoder.eval(), inputs)
    for name, value in without.items():
        assert not torch.equal(first[name], second[name]), name
        assert torch.equal(in_eval_mode[name], value), name


@pytest.mark.parametrize(("part", "variant"), MODELS)
def test_gradient_checkpointing_gives_the_same_gradients(part, variant, monkeypatch):
    """Also with dropout, whose masks have to be drawn again; and the blocks do run a second time, in training."""
    inputs = random_inputs()
    network = fill(MAKE[part](variant, dropout=0.3))
    runs = []
    for block_class in (ResidualBlock, OutputSkip):
        monkeypatch.setattr(
            block_class,
            "forward",
            lambda self, *args, original=block_class.forward: runs.append(self) or original(self, *args),
        )
    num_blocks = sum(not isinstance(block, InputSkip) for block in network.blocks.values())

    def gradients() -> dict[str, torch.Tensor]:
        runs.clear()
        network.zero_grad()
        torch.manual_seed(3)
        output = network(inputs["sample"])[1] if part == "encoder" else network(**inputs)
        output.square().sum().backward()
        return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}

    expected = gradients()
    assert len(runs) == num_blocks
    network.gradient_checkpointing = True
    actual = gradients()
    assert len(runs) == 2 * num_blocks
    for name, gradient in expected.items():
        assert torch.equal(gradient, actual[name]), name
    network.eval(), gradients()
    assert len(runs) == num_blocks


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(variant):
    inputs = random_inputs()
    encoder, decoder = fill(make_encoder(variant)), fill(make_decoder(variant))
    encoder(inputs["sample"])[1].square().sum().backward()
    decoder(**inputs).square().sum().backward()
    for network in (encoder, decoder):
        for name, parameter in network.named_parameters():
            assert parameter.grad.isfinite().all() and (parameter.grad != 0).any(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_and_half_precision_keep_anchors_in_float32(variant, dtype):
    encoder, decoder, inputs = fill(make_encoder(variant)), fill(make_decoder(variant)), random_inputs()
    expected = run(encoder, decoder, inputs)
    with torch.autocast("cpu", dtype=dtype):
        autocast = run(encoder, decoder, inputs)
    # a half-precision network takes latents and times in float32 all the same, and Fourier frequencies in float32
    frequencies = [module for module in decoder.modules() if isinstance(module, FourierEmbedding)]
    kept = [module.frequencies.clone() for module in frequencies]
    encoder.to(dtype), decoder.to(dtype)
    for module, values in zip(frequencies, kept, strict=True):
        module.frequencies = values
    half = run(encoder, decoder, inputs | {"sample": inputs["sample"].to(dtype)})
    # what is divided by time is divided in float32 and comes in the dtype of the sample
    assert autocast["velocity"].dtype == (dtype if variant == "small" else torch.float32)
    assert half["velocity"].dtype == dtype
    for actual in (autocast, half):
        assert actual["anchors"].dtype == torch.float32
        for name, value in actual.items():
            assert (largest(value - expected[name]) < 0.05 * largest(expected[name])).all(), name


def test_time_is_embedded_in_float32_under_autocast():
    decoder, inputs, embedded = fill(make_decoder("large")), random_inputs(), []
    decoder.condition_embedding.time_embedding.register_forward_hook(
        lambda module, args, output: embedded.append(output)
    )
    with torch.no_grad():
        decoder(**inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            decoder(**inputs)
    assert embedded[0].dtype == embedded[1].dtype == torch.float32
    assert torch.equal(*embedded)


@pytest.mark.parametrize("variant", VARIANTS)
def test_channels_last_gives_the_same_outputs(variant):
    encoder, decoder, inputs = fill(make_encoder(variant)), fill(make_decoder(variant)), random_inputs()
    expected = run(encoder, decoder, inputs)
    layout = {"memory_format": torch.channels_last}
    inputs["sample"] = inputs["sample"].to(**layout)
    for name, value in run(encoder.to(**layout), decoder.to(**layout), inputs).items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_networks_on_the_meta_device_give_shapes(variant):
    with torch.device("meta"):
        outputs = run(
            make_encoder(variant),
            make_decoder(variant),
            {key: torch.empty_like(value, device="meta") for key, value in random_inputs().items()},
        )
    assert {name: (*value.shape,) for name, value in outputs.items()} == {
        "features": (5, 16),
        "anchors": (5, 6),
        "velocity": (5, 1, 8, 8),
    }


@pytest.mark.parametrize(
    ("part", "variant", "mode"),
    [
        ("encoder", "small", "eval"),
        ("encoder", "large", "training"),
        ("decoder", "small", "training"),
        ("decoder", "large", "checkpointing"),
    ],
)
def test_compiles_without_graph_breaks_and_once(part, variant, mode):
    """One graph, forward and backward, with the same values and gradients, which other inputs of these shapes take again."""
    inputs = random_inputs()
    network = fill(MAKE[part](variant, num_res_blocks=1)).train(mode != "eval")
    network.gradient_checkpointing = mode == "checkpointing"

    def outputs_and_gradients(function, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        outputs = function(inputs["sample"])[1] if part == "encoder" else function(**inputs)
        if mode == "eval":
            return [outputs]
        return [outputs, *torch.autograd.grad(outputs.square().sum(), list(network.parameters()))]

    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager", dynamic=False)
    with torch.set_grad_enabled(mode != "eval"):
        first = outputs_and_gradients(compiled, inputs)
        other_inputs = {name: value.flip(0) for name, value in inputs.items()}
        with torch.compiler.set_stance("fail_on_recompile"):
            second = outputs_and_gradients(compiled, other_inputs)
        torch.testing.assert_close(first, outputs_and_gradients(network, inputs))
        torch.testing.assert_close(second, outputs_and_gradients(network, other_inputs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 9}, r"`image_size` must be divisible by 2 .*got 9"),
        ({"image_size": 0}, "`image_size` must be at least 1, got 0"),
        ({"in_channels": 0}, "`in_channels` must be at least 1"),
        ({"base_channels": 3}, r"`base_channels`.* 3 channels"),
        ({"base_channels": 0}, "`base_channels` must be at least 1"),
        ({"base_channels": 9}, r"`base_channels`.*equal groups"),
        ({"base_channels": 132}, r"`base_channels`.* 132 channels"),
        ({"channel_multipliers": ()}, "`channel_multipliers`"),
        ({"channel_multipliers": (1, 0)}, "`channel_multipliers`"),
        ({"num_res_blocks": 0}, "`num_res_blocks` must be at least 1"),
        ({"attention_resolutions": (4, 16)}, r"`attention_resolutions` must be among.*\[8, 4\], got \[16\]"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, "`dropout`"),
        ({"fir_kernel": (1, 2, 1)}, r"`fir_kernel` must be an even number of taps.* got \(1, 2, 1\)"),
        ({"fir_kernel": ()}, "`fir_kernel`"),
        ({"input_skip": "residual"}, r"`input_skip` must be one of \[None, 'sum', 'cat'\], got 'residual'"),
        ({"input_skip": "cat", "base_channels": 68}, r"`base_channels`.* 136 channels"),
    ],
)
@pytest.mark.parametrize("make", [make_encoder, make_decoder])
def test_arguments_that_describe_no_network_are_named(make, changes, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("encoder", {"latent_dim": 0}, "`latent_dim` must be at least 1, got 0"),
        ("decoder", {"latent_dim": -1}, "`latent_dim` must be at least 0, got -1"),
        ("encoder", {"tap_channels": 0}, "`tap_channels` must be at least 1, got 0"),
        ("encoder", {"tap_hidden_dim": 0}, "`tap_hidden_dim` must be at least 1, got 0"),
        ("encoder", {"tap_layers": 0}, "`tap_layers` must be at least 1, got 0"),
        ("encoder", {"tap_resolutions": (4, 16)}, r"`tap_resolutions` must be among.*\[8, 4\], got \[16\]"),
        ("encoder", {"tap_resolutions": ()}, "`tap_resolutions` must have at least one resolution"),
        ("decoder", {"num_labels": -1}, "`num_labels` must be at least 0, got -1"),
        ("decoder", {"time_embedding": "positional"}, r"`time_embedding`.*'sinusoidal', 'fourier'.*got 'positional'"),
        ("decoder", {"fourier_scale": 0.0}, "`fourier_scale` must be positive, got 0.0"),
        ("decoder", {"scale_by_sigma": True}, "`scale_by_sigma`.*`time_embedding` 'sinusoidal'"),
    ],
)
def test_arguments_of_one_network_only_are_checked(part, changes, message):
    with pytest.raises(ValueError, match=message):
        MAKE[part](**changes)
