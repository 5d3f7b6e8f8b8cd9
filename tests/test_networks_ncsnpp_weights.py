# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Tests of the weights of new networks of NCSN++: how many, where they are, and how they are initialised."""

import math
import re

import pytest
import torch
from helpers.ncsnpp import (
    FIR_AND_INPUT_SKIP,
    MAKE,
    MODELS,
    OUTPUT_AND_TIME,
    TRUNK,
    VARIANTS,
    make_decoder,
    make_encoder,
    random_inputs,
    run,
)
from torch import nn

from lzn_hf.layers_ncsnpp import FourierEmbedding
from lzn_hf.networks_ncsnpp import NCSNPP_LAYERS, NCSNppDecoder, NCSNppEncoder


# the published values, in the same order
CIFAR10 = dict(zip(TRUNK, (32, 3, 200, 128, (1, 2, 2, 2), 4, (16,), 0.15), strict=True))
AFHQ = dict(zip(TRUNK, (256, 3, 200, 128, (1, 1, 2, 2, 2, 2, 2), 2, (16,), 0.0), strict=True)) | FIR_AND_INPUT_SKIP
PUBLISHED_TAPS = {"tap_channels": 20, "tap_hidden_dim": 200, "tap_layers": 2}


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
