# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Tests of the layers and blocks of NCSN++, small and large.

`golden/ncsnpp_small.safetensors` and `golden/ncsnpp_large.safetensors` have
`block/<name>/{in/<i>, out, param/<published name>}`: single layers run by the published implementation of Latent Zoning
Networks (random weights, float32, torch 2.13, CPU), first sample of each. Names of parameters are
`GroupNorm_0, Conv_0, Dense_0, GroupNorm_1, Conv_1, Conv_2` in a residual block, `GroupNorm_0, NIN_0` (query), `NIN_1`
(key), `NIN_2` (value), `NIN_3` (output), stored `[in, out]`, in attention, `Conv_0` in an input skip and `W` in the
Fourier features.
"""

import math
import re

import pytest
import torch
from helpers import GOLDEN_DIR
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lzn_hf.layers_ncsnpp import (
    AttentionBlock,
    FourierEmbedding,
    GroupNormSiLU,
    InputSkip,
    OutputSkip,
    ResidualBlock,
    downsample,
    fir_downsample,
    fir_upsample,
    timestep_embedding,
    upsample,
)


GOLDEN = load_file(GOLDEN_DIR / "ncsnpp_small.safetensors") | load_file(GOLDEN_DIR / "ncsnpp_large.safetensors")
SYMMETRIC, ASYMMETRIC = (1, 3, 3, 1), (1, 2, 3, 1)
FIR = {"fir_kernel": SYMMETRIC}


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
    block.load_state_dict(dict(zip(ours, (published[key] for key in order), strict=True)), strict=True)
    return [GOLDEN[key] for key in sorted(GOLDEN) if key.startswith(prefix + "in/")]


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("biggan_same_naive_16", ResidualBlock(16, 16, embedding_dim=20)),
        ("biggan_down_naive_16", ResidualBlock(16, 16, embedding_dim=20, resample="down")),
        ("biggan_up_naive_16", ResidualBlock(16, 16, embedding_dim=20, resample="up")),
        ("biggan_up_naive_16", ResidualBlock(10, 16, skip_channels=6, embedding_dim=20, resample="up")),
        ("biggan_down_fir_16", ResidualBlock(16, 16, embedding_dim=20, resample="down", **FIR)),
        ("biggan_up_fir_16", ResidualBlock(16, 16, embedding_dim=20, resample="up", **FIR)),
        ("biggan_up_fir_16", ResidualBlock(10, 16, skip_channels=6, embedding_dim=20, resample="up", **FIR)),
        ("biggan_no_rescale", ResidualBlock(16, 32, skip_rescale=False)),
        ("attn_rescale", AttentionBlock(16)),
        ("attn_plain", AttentionBlock(16, skip_rescale=False)),
        ("combine_sum", InputSkip(3, 16, "sum")),
        ("combine_cat", InputSkip(3, 16, "cat")),
    ],
)
def test_blocks_reproduce_published_numbers(name, block):
    first, *others = load_published_block(block.eval(), name)
    if isinstance(block, ResidualBlock):
        # the published block activates the embedding itself, ours gets it activated (once for all blocks)
        others = [F.silu(vector) for vector in others]
        if block.skip_channels:  # the published block gets input and skip connection joined, in this order
            others.append(first[:, -block.skip_channels :])
            first = first[:, : -block.skip_channels]
    torch.testing.assert_close(block(first, *others), GOLDEN[f"block/{name}/out"], atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize(
    ("name", "resample"),
    [
        ("fir_down", lambda x: fir_downsample(x, SYMMETRIC)),
        ("fir_up", lambda x: fir_upsample(x, SYMMETRIC)),
        ("fir_down_asym", lambda x: fir_downsample(x, ASYMMETRIC)),
        ("fir_up_asym", lambda x: fir_upsample(x, ASYMMETRIC)),
        ("naive_down", lambda x: downsample(x, None)),
        ("naive_up", lambda x: upsample(x, None)),
    ],
)
def test_resampling_reproduces_published_numbers(name, resample):
    output = resample(GOLDEN[f"block/{name}/in/0"])
    torch.testing.assert_close(output, GOLDEN[f"block/{name}/out"], atol=5e-7, rtol=0)


@pytest.mark.parametrize("name", ["timestep_embedding_even", "timestep_embedding_odd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_timestep_embedding_reproduces_published_numbers(name, dtype):
    expected = GOLDEN[f"block/{name}/out"]
    embedding = timestep_embedding(GOLDEN[f"block/{name}/in/0"].to(dtype), expected.shape[1])
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding, expected, atol=1e-6, rtol=0)


def filter_signal(signal: list[float], taps: list[float], pad_left: int, pad_right: int) -> list[float]:
    """Convolution in loops: sum_j taps[K - 1 - j] padded[n + j], the padding being zeros."""
    padded = [0.0] * pad_left + signal + [0.0] * pad_right
    size = len(taps)
    return [sum(taps[size - 1 - j] * padded[n + j] for j in range(size)) for n in range(len(padded) - size + 1)]


def filter_image(image: torch.Tensor, taps: list[float], *padding: int) -> torch.Tensor:
    """Filter the rows of an `(H, W)` image, then the columns."""
    for _ in range(2):
        image = torch.tensor([filter_signal(row, taps, *padding) for row in image.tolist()], dtype=image.dtype).T
    return image


def fir_downsample_in_loops(x: torch.Tensor, kernel: tuple[float, ...]) -> torch.Tensor:
    """Filter with K / 2 - 1 zeros on both sides, then keep every second pixel."""
    taps, pad = [tap / sum(kernel) for tap in kernel], len(kernel) // 2 - 1
    images = [filter_image(image, taps, pad, pad)[::2, ::2] for image in x.flatten(0, 1)]
    return torch.stack(images).unflatten(0, x.shape[:2])


def fir_upsample_in_loops(x: torch.Tensor, kernel: tuple[float, ...]) -> torch.Tensor:
    """Write a zero behind every pixel, then filter with K / 2 zeros left and K / 2 - 1 right; gain 2 along each axis."""
    taps, pad = [2 * tap / sum(kernel) for tap in kernel], len(kernel) // 2
    stuffed = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    stuffed[..., ::2, ::2] = x
    images = [filter_image(image, taps, pad, pad - 1) for image in stuffed.flatten(0, 1)]
    return torch.stack(images).unflatten(0, x.shape[:2])


@pytest.mark.parametrize("kernel", [(1, 1), (2, 5), SYMMETRIC, ASYMMETRIC, (0.3, -1, 2, 4, 1, 0.5)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_fir_resampling_is_a_convolution_of_every_channel(kernel, memory_format):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64).to(memory_format=memory_format)
    for resample, in_loops in ((fir_downsample, fir_downsample_in_loops), (fir_upsample, fir_upsample_in_loops)):
        output = resample(x, kernel)
        torch.testing.assert_close(output, in_loops(x, kernel), atol=1e-13, rtol=0)
        assert output.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fir_resampling_preserves_constants_in_the_interior(dtype):
    """And only there: outside the image are zeros. The filter has gain 1 in half precision, too."""
    x = torch.full((1, 2, 8, 8), 3.0, dtype=dtype)
    smaller, larger = fir_downsample(x, SYMMETRIC), fir_upsample(x, SYMMETRIC)
    assert smaller.dtype == larger.dtype == dtype
    assert (smaller[..., 1:-1, 1:-1] == 3).all() and (larger[..., 1:-1, 1:-1] == 3).all()
    assert (smaller[..., 0, :] < 3).all() and (larger[..., 0, :] < 3).all()


def test_fir_resampling_with_two_equal_taps_is_naive_resampling():
    x = torch.randn(2, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fir_downsample(x, (1, 1)), downsample(x, None))
    torch.testing.assert_close(fir_upsample(x, (1, 1)), upsample(x, None))


def test_fir_resampling_has_the_gradient_of_its_adjoint():
    """<up(x), y> = 4 <x, down(y)> with reversed taps: neither loses a pixel at the border that the other one has."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 3, 10, 8, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((fir_upsample(x, ASYMMETRIC) * y).sum(), x)
    torch.testing.assert_close(gradient, 4 * fir_downsample(y, ASYMMETRIC[::-1]))


@pytest.mark.parametrize("kernel", [(), (1,), (1, 2, 1), (1, -1)])
@pytest.mark.parametrize("resample", [fir_downsample, fir_upsample])
def test_fir_kernels_that_cannot_resample_are_named(resample, kernel):
    with pytest.raises(ValueError, match=r"`kernel` must be an even number of taps .*got " + re.escape(str(kernel))):
        resample(torch.zeros(1, 1, 4, 4), kernel)


def test_fourier_embedding_reproduces_published_numbers():
    embedding = FourierEmbedding(8, 1.0)
    with torch.no_grad():
        embedding.frequencies.copy_(GOLDEN["block/fourier/param/W"])
    output = embedding(GOLDEN["block/fourier/in/0"])
    torch.testing.assert_close(output, GOLDEN["block/fourier/out"], atol=1e-6, rtol=0)


def test_fourier_embedding_follows_its_formula_in_float64():
    torch.manual_seed(0)
    embedding, u = FourierEmbedding(50, 16.0), torch.linspace(0, math.log(999), 20)
    expected = torch.empty(20, 100, dtype=torch.float64)
    for i, value in enumerate(u.tolist()):
        for k, frequency in enumerate(embedding.frequencies.tolist()):
            turns = (value * frequency) % 1  # sine and cosine of many turns, without the many turns
            expected[i, k], expected[i, 50 + k] = math.sin(2 * math.pi * turns), math.cos(2 * math.pi * turns)
    # an angle of 6.9 * 50 * 2 pi has a spacing of 2.4e-4 in float32
    torch.testing.assert_close(embedding(u).double(), expected, atol=5e-4, rtol=0)
    torch.testing.assert_close(embedding.double()(u.double()), expected, atol=1e-10, rtol=0)


def test_fourier_frequencies_are_normal_saved_and_not_trained():
    torch.manual_seed(0)
    frequencies = FourierEmbedding(10_000, 16.0).frequencies
    assert abs(frequencies.mean()) < 0.5 and abs(frequencies.std() - 16) < 0.5  # three standard errors
    assert list(FourierEmbedding(3, 1.0).state_dict()) == ["frequencies"]
    assert not list(FourierEmbedding(3, 1.0).parameters())


def test_fourier_embedding_is_computed_in_float32_in_half_precision():
    torch.manual_seed(0)
    embedding, u = FourierEmbedding(20, 16.0), torch.linspace(0, 6.9, 5)
    expected = embedding(u)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(embedding(u), expected)
    assert embedding.bfloat16()(u).dtype == torch.float32


def normalise(hidden: torch.Tensor, groups: int) -> torch.Tensor:
    grouped = hidden.reshape(len(hidden), groups, -1)
    scale = (grouped.var(dim=2, unbiased=False, keepdim=True) + 1e-6).sqrt()
    return ((grouped - grouped.mean(dim=2, keepdim=True)) / scale).view_as(hidden)


def make_group_norm_silu(dtype: torch.dtype = torch.float64) -> GroupNormSiLU:
    norm = GroupNormSiLU(2, 8, eps=1e-6)
    with torch.no_grad():
        norm.weight.normal_(generator=torch.Generator().manual_seed(1))
        norm.bias.normal_(generator=torch.Generator().manual_seed(2))
    return norm.to(dtype)


def apply_separately(norm: GroupNormSiLU, x: torch.Tensor) -> torch.Tensor:
    return F.silu(F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "empty"])
def test_group_norm_silu_has_values_and_gradients_of_its_two_steps(layout, dtype):
    x = torch.randn(3, 8, 6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = {
        "contiguous": x,
        "channels_last": x.to(memory_format=torch.channels_last),
        "strided": x[:, :, ::2],
        "empty": x[:0],
    }[layout].requires_grad_()
    before = x.detach().clone()
    norm, results = make_group_norm_silu(dtype), []
    for function in (norm, lambda x: apply_separately(norm, x)):
        output = function(x)
        gradients = torch.autograd.grad(output.square().sum(), [x, norm.weight, norm.bias])
        results.append([output, *gradients])
        assert output.is_contiguous(memory_format=torch.channels_last) == (layout == "channels_last")
    with torch.no_grad():
        assert torch.equal(norm(x), results[0][0])
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours, expected)
    assert torch.equal(x, before)


def test_group_norm_silu_makes_one_tensor_without_gradients():
    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for x in result if isinstance(result, tuple) else (result,):
                storages.add((x.untyped_storage().data_ptr(), x.numel()))
            return result

    norm, x = make_group_norm_silu(), torch.randn(2, 8, 6, 4).double()
    for enabled, expected in ((False, 1), (True, 2)):
        storages = set()
        with torch.set_grad_enabled(enabled), Sizes():
            output = norm(x)  # kept, so that its memory is not used again
        assert len([size for _, size in storages if size == x.numel()]) == expected, output.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_group_norm_silu_has_values_and_gradients_of_its_two_steps_under_autocast(dtype):
    norm, generator, results = make_group_norm_silu(torch.float32), torch.Generator().manual_seed(0), []
    for x in (torch.randn(2, 8, 6, 4, generator=generator), torch.randn(2, 8, 6, 4, generator=generator).to(dtype)):
        x.requires_grad_()
        for function in (norm, lambda x: apply_separately(norm, x)):
            with torch.autocast("cpu", dtype=dtype):
                output = function(x)
            results.append([output, *torch.autograd.grad(output.float().square().sum(), [x, norm.weight, norm.bias])])
    for ours, expected in zip(results[::2], results[1::2], strict=True):
        assert [tensor.dtype for tensor in ours] == [tensor.dtype for tensor in expected]
        assert all(torch.equal(*pair) for pair in zip(ours, expected, strict=True))


@pytest.mark.parametrize("kernel", [None, ASYMMETRIC])
def test_output_skip_adds_to_the_upsampled_output(kernel):
    torch.manual_seed(0)
    block = OutputSkip(8, 3, kernel).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
    hidden, pyramid = torch.randn(2, 8, 6, 4).double(), torch.randn(2, 3, 3, 2).double()
    normalised = normalise(hidden, 2) * block.norm.weight[:, None, None] + block.norm.bias[:, None, None]
    activated = normalised / (1 + torch.exp(-normalised))
    share = F.conv2d(F.pad(activated, (1, 1, 1, 1)), block.conv.weight, block.conv.bias)
    torch.testing.assert_close(block(hidden, None), share)
    larger = fir_upsample_in_loops(pyramid, kernel or (1, 1))
    torch.testing.assert_close(block(hidden, pyramid), share + larger)


def test_new_output_skip_passes_the_output_on():
    torch.manual_seed(0)
    hidden, pyramid = torch.randn(2, 8, 4, 4), torch.randn(2, 3, 2, 2)
    torch.testing.assert_close(OutputSkip(8, 3)(hidden, pyramid), upsample(pyramid, None), atol=1e-4, rtol=0)
