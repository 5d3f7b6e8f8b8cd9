# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Tests of NCSN++ small.

`golden/ncsnpp_small.safetensors` has two kinds of numbers:

- `block/<name>/{in/<i>, out, param/<published name>}`: single layers run by the published implementation of Latent Zoning
  Networks (random weights, float32, torch 2.13, CPU), first sample of each: three BigGAN residual blocks, attention, the
  sinusoidal time embedding. Names are `GroupNorm_0, Conv_0, Dense_0, GroupNorm_1, Conv_1, Conv_2` in a residual block
  and `GroupNorm_0, NIN_0` (query), `NIN_1` (key), `NIN_2` (value), `NIN_3` (output), stored `[in, out]`, in attention.
- `network/{features, anchors, velocity}`: outputs of this implementation, in float64, for the networks, weights and inputs
  of `filled_networks` below, which are formulas. Stored when the same code had just reproduced a whole published model
  (float64 outputs to 1e-14). They pin what layers cannot: order of blocks, skip connections, conditions, and taps.
"""

import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lzn_hf.networks_ncsnpp import (
    NCSNPP_LAYERS,
    AttentionBlock,
    NCSNppDecoder,
    NCSNppEncoder,
    ResidualBlock,
    timestep_embedding,
)


GOLDEN = load_file(Path(__file__).parent / "golden" / "ncsnpp_small.safetensors")

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
# the published values, in the same order
CIFAR10 = dict(zip(TRUNK, (32, 3, 200, 128, (1, 2, 2, 2), 4, (16,), 0.15)))
CIFAR10_TAPS = {"tap_channels": 20, "tap_hidden_dim": 200, "tap_layers": 2}


def make_encoder(**changes) -> NCSNppEncoder:
    torch.manual_seed(0)
    return NCSNppEncoder(**(TRUNK | TAPS | changes))


def make_decoder(**changes) -> NCSNppDecoder:
    torch.manual_seed(0)
    return NCSNppDecoder(**(TRUNK | {"num_labels": 10} | changes))


def uniform_formula(numel: int, index: int) -> torch.Tensor:
    """Numbers in [-0.5, 0.5) that need no random generator."""
    return (torch.arange(numel, dtype=torch.float64) * 0.6180339887498949 + index * 0.4142135623730951) % 1 - 0.5


@torch.no_grad()
def fill(network: nn.Module) -> nn.Module:
    """Weights by formula and large enough that every layer matters (a new network is nearly the identity)."""
    for index, (name, parameter) in enumerate(network.named_parameters()):
        values = uniform_formula(parameter.numel(), index).view_as(parameter)
        is_scale = parameter.ndim == 1 and name.endswith("weight")
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        parameter.copy_(1 + 0.5 * values if is_scale else values * 3 / math.sqrt(fan_in))
    return network


def filled_networks() -> tuple[NCSNppEncoder, NCSNppDecoder, dict[str, torch.Tensor]]:
    encoder, decoder = fill(make_encoder().double().eval()), fill(make_decoder().double().eval())
    inputs = {
        "sample": 2 * uniform_formula(3 * 64, 1000).view(3, 1, 8, 8),
        "t": torch.tensor([0.0, 0.3, 1.2], dtype=torch.float64),
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


def reset_all(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, NCSNPP_LAYERS):
            module.reset_parameters()


def run(encoder: NCSNppEncoder, decoder: NCSNppDecoder, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        features, anchors = encoder(inputs["sample"])
        return {"features": features, "anchors": anchors, "velocity": decoder(**inputs)}


def load_published_block(block: nn.Module, name: str) -> list[torch.Tensor]:
    """Put the published parameters of a block into ours, by order of registration; return its inputs."""
    prefix = f"block/{name}/"
    published = {key.split("param/")[1]: GOLDEN[key] for key in GOLDEN if key.startswith(prefix + "param/")}
    for key in [key for key in published if re.fullmatch(r"NIN_\d\.W", key)]:
        published[key] = published[key].T
    if "NIN_0.W" in published:
        for suffix in "Wb":
            published[f"qkv.{suffix}"] = torch.cat([published.pop(f"NIN_{i}.{suffix}") for i in range(3)])
    layers = ["GroupNorm_0", "Conv_0", "Dense_0", "GroupNorm_1", "Conv_1", "Conv_2", "qkv", "NIN_3"]
    order = sorted(published, key=lambda key: (layers.index(key.split(".")[0]), key.split(".")[1] in ("bias", "b")))
    ours = block.state_dict()
    assert len(ours) == len(order)
    block.load_state_dict(dict(zip(ours, (published[key] for key in order))), strict=True)
    return [GOLDEN[key] for key in sorted(GOLDEN) if key.startswith(prefix + "in/")]


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("biggan_same_naive_16", ResidualBlock(16, 16, embedding_dim=20)),
        ("biggan_down_naive_16", ResidualBlock(16, 16, embedding_dim=20, resample="down")),
        ("biggan_up_naive_16", ResidualBlock(16, 16, embedding_dim=20, resample="up")),
        ("biggan_up_naive_16", ResidualBlock(10, 16, skip_channels=6, embedding_dim=20, resample="up")),
        ("attn_rescale", AttentionBlock(16)),
    ],
)
def test_blocks_reproduce_published_numbers(name, block):
    hidden, *embedding = load_published_block(block.eval(), name)
    # the published block activates the embedding itself, ours gets it activated (once for all blocks)
    inputs = [hidden, *(nn.functional.silu(vector) for vector in embedding)]
    if getattr(block, "skip_channels", 0):  # the published block gets input and skip connection joined, in this order
        inputs = [hidden[:, : -block.skip_channels], *inputs[1:], hidden[:, -block.skip_channels :]]
    output = block(*inputs)
    torch.testing.assert_close(output, GOLDEN[f"block/{name}/out"], atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["timestep_embedding_even", "timestep_embedding_odd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_timestep_embedding_reproduces_published_numbers(name, dtype):
    expected = GOLDEN[f"block/{name}/out"]
    embedding = timestep_embedding(GOLDEN[f"block/{name}/in/0"].to(dtype), expected.shape[1])
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding, expected, atol=1e-6, rtol=0)


def test_networks_reproduce_stored_outputs():
    for name, value in run(*filled_networks()).items():
        assert value.std() > 0.1  # a stored number that is nearly zero could not tell wrong from right
        torch.testing.assert_close(value, GOLDEN[f"network/{name}"], atol=1e-6, rtol=0)


def test_published_cifar10_parameter_counts():
    with torch.device("meta"):
        encoder = NCSNppEncoder(**CIFAR10, **CIFAR10_TAPS)
        decoder = NCSNppDecoder(**CIFAR10, num_labels=10)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 49_790_260
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 61_911_939


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


def test_everything_is_in_the_state_dict():
    """Buffers that are not saved, and plain tensors, would not survive a model that is built on the meta device."""
    for network in (make_encoder(), make_decoder()):
        assert not list(network.buffers())
        for module in network.modules():
            assert not [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)]


def test_a_new_network_gives_nearly_zero_velocity_and_anchors_that_tell_images_apart():
    outputs = run(make_encoder(), make_decoder(), random_inputs())
    assert 0 < outputs["velocity"].abs().max() < 1e-3
    assert outputs["features"].isfinite().all()
    assert torch.pdist(outputs["anchors"]).min() > 0.05


def expected_bounds(name: str, layer: nn.Module) -> tuple[float, float]:
    """Bounds of the uniform weights and biases, from the rule: variance scale / mean(fan_in, fan_out), biases 0."""
    if re.search(r"taps\..*\.linear\d", name):
        return (1 / math.sqrt(layer.in_features),) * 2
    receptive_field = layer.weight[0, 0].numel()
    fan_in, fan_out = layer.weight.shape[1] * receptive_field, layer.weight.shape[0] * receptive_field
    scale = 1.0
    if name.endswith("qkv"):
        scale, fan_out = 0.1, fan_in
    elif name.endswith(("conv2", "attention.out", "conv_out")):
        scale = 1e-10
    return math.sqrt(3 * scale / ((fan_in + fan_out) / 2)), 0.0


@pytest.mark.parametrize("built", ["directly", "on_meta"])
@pytest.mark.parametrize("make", [make_encoder, make_decoder])
def test_initial_distribution(make, built):
    """Every parameter has its distribution, also when a network is built on meta and initialised through the blocks."""
    if built == "directly":
        network = make()
    else:
        with torch.device("meta"):
            network = make()
        network.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(torch.nan)
        reset_all(network)
    assert not [name for name, parameter in network.named_parameters() if parameter.isnan().any()]
    for name, layer in network.named_modules():
        if isinstance(layer, nn.GroupNorm):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            for parameter, bound in zip((layer.weight, layer.bias), expected_bounds(name, layer)):
                assert parameter.abs().max() <= bound * (1 + 1e-6), name
                # the largest of n uniform numbers falls short of 95 % of the bound once in 0.95^-n times
                assert parameter.numel() < 400 or parameter.abs().max() > 0.95 * bound, name
                assert parameter.numel() < 400 or abs(parameter.std() / (bound / math.sqrt(3)) - 1) < 0.15, name


@pytest.mark.parametrize("make", [make_encoder, make_decoder])
def test_reset_parameters_sets_whole_parameters_once_and_through_nn_init_only(make, monkeypatch):
    """Else transformers, loading a checkpoint, initialises over what it has loaded (it guards `torch.nn.init`, for whole
    parameters), or leaves what is missing uninitialised (it skips modules that hold no parameter themselves)."""
    network = make()
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    touched = []
    for name in dir(nn.init):
        if name.endswith("_") and not name.startswith("_"):
            monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: touched.append(id(tensor)))
    reset_all(network)
    assert len(touched) == len(set(touched))
    for module in network.modules():
        assert isinstance(module, NCSNPP_LAYERS) == bool(module._parameters)
    assert set(touched) == {id(parameter) for parameter in network.parameters()}
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_each_condition_influences_the_velocity_and_time_is_clamped():
    _, decoder, inputs = filled_networks()
    changed = {
        "sample": inputs["sample"].roll(1, 0),
        "t": torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64),
        "latents": inputs["latents"].roll(1, 0),
        "labels": torch.tensor([1, 8, 0]),
    }
    with torch.no_grad():
        velocity = decoder(**inputs)
        for name, value in changed.items():
            difference = (decoder(**(inputs | {name: value})) - velocity).flatten(1).norm(dim=1)
            assert (difference > 1e-3).all(), name
        inside, outside = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([-0.5, 0.5, 1.5])
        assert torch.equal(decoder(**(inputs | {"t": inside})), decoder(**(inputs | {"t": outside})))


def test_every_feature_map_is_tapped():
    encoder, _, inputs = filled_networks()
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


def test_samples_do_not_depend_on_their_batch():
    encoder, decoder, inputs = filled_networks()
    together = run(encoder, decoder, inputs)
    for i in range(3):
        alone = run(encoder, decoder, {name: value[i : i + 1] for name, value in inputs.items()})
        for name, value in alone.items():
            torch.testing.assert_close(value, together[name][i : i + 1])


def test_dropout_acts_in_training_only():
    encoder, decoder, inputs = fill(make_encoder(dropout=0.5)), fill(make_decoder(dropout=0.5)), random_inputs()
    without = run(fill(make_encoder(dropout=0.0)), fill(make_decoder(dropout=0.0)), inputs)
    first, second = run(encoder, decoder, inputs), run(encoder, decoder, inputs)
    in_eval_mode = run(encoder.eval(), decoder.eval(), inputs)
    for name, value in without.items():
        assert not torch.equal(first[name], second[name]), name
        assert torch.equal(in_eval_mode[name], value), name


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_gradient_checkpointing_gives_the_same_gradients(part, monkeypatch):
    """Also with dropout, whose masks have to be drawn again; and the blocks do run a second time, in training."""
    inputs = random_inputs()
    network = fill(make_encoder(dropout=0.3) if part == "encoder" else make_decoder(dropout=0.3))
    runs, original = [], ResidualBlock.forward
    monkeypatch.setattr(ResidualBlock, "forward", lambda self, *args: runs.append(self) or original(self, *args))

    def gradients() -> dict[str, torch.Tensor]:
        runs.clear()
        network.zero_grad()
        torch.manual_seed(3)
        output = network(inputs["sample"])[1] if part == "encoder" else network(**inputs)
        output.square().sum().backward()
        return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}

    expected = gradients()
    assert len(runs) == len(network.blocks)
    network.gradient_checkpointing = True
    actual = gradients()
    assert len(runs) == 2 * len(network.blocks)
    for name, gradient in expected.items():
        assert torch.equal(gradient, actual[name]), name
    network.eval(), gradients()
    assert len(runs) == len(network.blocks)


def test_every_parameter_gets_a_gradient():
    inputs = random_inputs()
    encoder, decoder = fill(make_encoder()), fill(make_decoder())
    encoder(inputs["sample"])[1].square().sum().backward()
    decoder(**inputs).square().sum().backward()
    for network in (encoder, decoder):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_autocast_and_half_precision_keep_anchors_in_float32():
    encoder, decoder, inputs = fill(make_encoder()), fill(make_decoder()), random_inputs()
    expected = run(encoder, decoder, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = run(encoder, decoder, inputs)
    # a half-precision network takes latents and times in float32 all the same
    half = run(encoder.bfloat16(), decoder.bfloat16(), inputs | {"sample": inputs["sample"].bfloat16()})
    for actual in (autocast, half):
        assert actual["anchors"].dtype == torch.float32
        assert actual["velocity"].dtype == torch.bfloat16
        for name, value in actual.items():
            assert (value - expected[name]).norm() < 0.05 * expected[name].norm(), name


def test_channels_last_gives_the_same_outputs():
    encoder, decoder, inputs = fill(make_encoder()), fill(make_decoder()), random_inputs()
    expected = run(encoder, decoder, inputs)
    layout = {"memory_format": torch.channels_last}
    inputs["sample"] = inputs["sample"].to(**layout)
    for name, value in run(encoder.to(**layout), decoder.to(**layout), inputs).items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_compiles_without_graph_breaks(gradient_checkpointing):
    inputs = random_inputs()
    encoder, decoder = fill(make_encoder(num_res_blocks=1)), fill(make_decoder(num_res_blocks=1))
    encoder.gradient_checkpointing = decoder.gradient_checkpointing = gradient_checkpointing
    torch.compiler.reset()
    anchors = torch.compile(encoder, fullgraph=True, backend="eager")(inputs["sample"])[1]
    velocity = torch.compile(decoder, fullgraph=True, backend="eager")(**inputs)
    torch.testing.assert_close(anchors, encoder(inputs["sample"])[1])
    torch.testing.assert_close(velocity, decoder(**inputs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 9}, r"`image_size` must be divisible by 2 .*got 9"),
        ({"image_size": 0}, "`image_size` must be at least 1, got 0"),
        ({"in_channels": 0}, "`in_channels` must be at least 1"),
        ({"latent_dim": 0}, "`latent_dim` must be at least 1"),
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
    ],
)
@pytest.mark.parametrize("make", [make_encoder, make_decoder])
def test_arguments_that_describe_no_network_are_named(make, changes, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize("name", ["tap_channels", "tap_hidden_dim", "tap_layers"])
def test_arguments_of_one_network_only_are_checked(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        make_encoder(**{name: 0})
    with pytest.raises(ValueError, match="`num_labels` must be at least 0, got -1"):
        make_decoder(num_labels=-1)
