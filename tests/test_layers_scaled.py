# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""PyTorch's layers with another initialisation: built as those, they compute what those compute."""

import math

import pytest
import torch
from torch import nn

from lzn_hf.layers_ncsnpp import GroupNormSiLU
from lzn_hf.layers_scaled import ScaledConv2d, ScaledLinear
from lzn_hf.networks_resnet import HeConv2d, ZeroGroupNorm


CONV = {
    "stride": 2,
    "padding": 3,
    "dilation": 2,
    "groups": 2,
    "bias": False,
    "padding_mode": "reflect",
    "dtype": torch.float64,
}


@pytest.mark.parametrize(
    ("layer", "base", "arguments", "keywords", "shape"),
    [
        (ScaledConv2d, nn.Conv2d, (4, 6, (3, 5)), {}, (2, 4, 9, 8)),
        (ScaledConv2d, nn.Conv2d, (4, 6, 3, 2, 1, 1, 2, False), {}, (2, 4, 9, 8)),
        (ScaledConv2d, nn.Conv2d, (4, 6, 3), CONV, (2, 4, 9, 8)),
        (ScaledLinear, nn.Linear, (4, 6), {}, (2, 4)),
        (ScaledLinear, nn.Linear, (4, 6, False), {"dtype": torch.float64}, (2, 4)),
        (HeConv2d, nn.Conv2d, (4, 6, 3), {}, (2, 4, 9, 8)),
        (HeConv2d, nn.Conv2d, (4, 6, 3), CONV, (2, 4, 9, 8)),
        (ZeroGroupNorm, nn.GroupNorm, (2, 4), {}, (2, 4, 9, 8)),
        (ZeroGroupNorm, nn.GroupNorm, (2, 4, 1e-3, False), {}, (2, 4, 9, 8)),
    ],
)
def test_layers_compute_what_those_of_pytorch_compute(layer, base, arguments, keywords, shape):
    ours, theirs = layer(*arguments, **keywords), base(*arguments, **keywords)
    assert [weight.dtype for weight in ours.parameters()] == [weight.dtype for weight in theirs.parameters()]
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(shape, dtype=keywords.get("dtype"))
    assert torch.equal(ours(x), theirs(x))
    assert ours.extra_repr() == theirs.extra_repr()


@pytest.mark.parametrize("init_scale", [1.0, 0.2, 1e-10])
@pytest.mark.parametrize(
    ("build", "fans"),
    [
        (lambda scale: ScaledConv2d(8, 16, 3, padding=1, init_scale=scale), (8 * 9, 16 * 9)),
        (lambda scale: ScaledLinear(24, 40, init_scale=scale), (24, 40)),
    ],
)
def test_initialisation_and_the_stream_of_random_numbers(build, fans, init_scale):
    """One draw from the uniform distribution of that variance, and no other."""
    torch.manual_seed(0)
    layer, after = build(init_scale), torch.rand(1)
    torch.manual_seed(0)
    bound = math.sqrt(3 * init_scale / (sum(fans) / 2))
    expected = torch.empty_like(layer.weight).uniform_(-bound, bound)
    torch.testing.assert_close(layer.weight, expected, rtol=1e-5, atol=0)
    assert torch.equal(after, torch.rand(1)) and not layer.bias.any()
    with torch.no_grad():
        layer.bias.fill_(1)
    torch.manual_seed(0)
    layer.reset_parameters()
    torch.testing.assert_close(layer.weight, expected, rtol=1e-5, atol=0)
    assert not layer.bias.any()


def test_he_initialisation_of_a_layer_with_bias():
    layer = HeConv2d(8, 64, 3)
    assert not layer.bias.any() and abs(layer.weight.std() * math.sqrt(64 * 9 / 2) - 1) < 0.1


def test_init_scale_is_a_keyword():
    with pytest.raises(TypeError, match="positional arguments"):
        ScaledLinear(2, 2, True, None, None, 0.5)


def test_group_norm_with_silu_takes_the_arguments_of_pytorch():
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(GroupNormSiLU(2, 4, affine=False)(input=x), nn.functional.silu(nn.functional.group_norm(x, 2)))
