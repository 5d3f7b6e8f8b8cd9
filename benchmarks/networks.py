# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Time and memory of the velocity decoders for CIFAR-10 (10 labels) and AFHQ cats, compared with their plain form.

    python benchmarks/networks.py
    python benchmarks/networks.py --decoders cifar10 --cifar10_batch 16 --device cuda

Ours is the network of the package with its weights in channels_last. The plain form is the same network with the same weights,
written like the formulas:
    memory format   contiguous
    attention       softmax(einsum(q, k) / sqrt(C)), einsum with v
    FIR             zeros between the pixels, then a convolution; a convolution, then every second pixel
    activation      a tensor for the norm and one for SiLU of it
Both run in turn, without gradients ("forward") and with ("forward + backward", of all weights), after their outputs agreed to 1e-4
of the largest value. The same rounds time "its convolutions alone", one layer after another in channels_last: the time that
would be left if the rest cost nothing. "In bfloat16" is ours with weights of this type, as in a pipeline with
`dtype=torch.bfloat16`; with a backward pass it is autocast, as in training. Its baseline is the plain form in float32, too. Peak
memory is that of a process that builds one network and runs it once forward and backward, over its imports.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from common import Row, median_times, peak_memory, row, run_benchmark
from torch import Tensor, nn

from lzn_hf import LZNConfig, layers_ncsnpp
from lzn_hf.commands.published_config import CASES
from lzn_hf.layers_ncsnpp import AttentionBlock, FourierEmbedding, GroupNormSiLU
from lzn_hf.layers_scaled import ScaledConv2d, ScaledLinear
from lzn_hf.networks_lzn import DECODER_ARGUMENTS
from lzn_hf.networks_ncsnpp import NCSNppDecoder


class Decoder(NamedTuple):
    title: str
    config: LZNConfig
    batch: int


DECODERS = {
    "cifar10": Decoder("CIFAR-10 decoder", LZNConfig(num_labels=10), 4),
    "afhq": Decoder("AFHQ decoder", CASES["case_study_1_afhqcat"], 1),
}
ARGUMENTS = {
    "decoders": (list(DECODERS), "which", {"choices": DECODERS}),
    **{f"{name}_batch": (decoder.batch, "images") for name, decoder in DECODERS.items()},
    **{
        f"{name}_size": (decoder.config.image_size, "pixels: this or less by powers of two")
        for name, decoder in DECODERS.items()
    },
    "base_channels": (128, "width of the networks"),
    "device": ("cpu", "cpu or another device of torch"),
}
QUICK = {"repeats": 2, "afhq_size": 128}
TOLERANCE = 1e-4
GIGABYTE = 1e9


# The plain form


def filter_channels(x: Tensor, taps: Sequence[float], gain: float, before: int, after: int) -> Tensor:
    """Convolution of every channel of the padded `x` with outer(k, k), k = `gain` * taps / sum(taps)."""
    line = torch.tensor([gain * tap / sum(taps) for tap in reversed(taps)], dtype=x.dtype, device=x.device)
    padded = F.pad(x, (before, after, before, after))
    return F.conv2d(padded.flatten(0, 1)[:, None], torch.outer(line, line)[None, None])[:, 0].unflatten(0, x.shape[:2])


def plain_upsample(x: Tensor, kernel: Sequence[float]) -> Tensor:
    stuffed = x.new_zeros(*x.shape[:2], x.shape[2], 2, x.shape[3], 2)
    stuffed[:, :, :, 0, :, 0] = x
    half = len(kernel) // 2
    return filter_channels(stuffed.flatten(4, 5).flatten(2, 3), kernel, 2, half, half - 1)


def plain_downsample(x: Tensor, kernel: Sequence[float]) -> Tensor:
    margin = len(kernel) // 2 - 1
    return filter_channels(x, kernel, 1, margin, margin)[:, :, ::2, ::2]


def plain_norm_and_silu(layer: GroupNormSiLU, x: Tensor) -> Tensor:
    return F.silu(nn.GroupNorm.forward(layer, x))


def plain_attention(block: AttentionBlock, hidden: Tensor) -> Tensor:
    positions = block.norm(hidden).flatten(2).transpose(1, 2)
    query, key, value = block.qkv(positions).chunk(3, dim=-1)
    weights = (torch.einsum("bic,bjc->bij", query, key) * hidden.shape[1] ** -0.5).softmax(-1)
    residual = block.out(torch.einsum("bij,bjc->bic", weights, value)).transpose(1, 2).reshape(hidden.shape)
    total = hidden + residual
    return total * layers_ncsnpp.SKIP_SCALE if block.skip_rescale else total


@contextmanager
def plain_form() -> Iterator[None]:
    with (
        patch.multiple(layers_ncsnpp, fir_upsample=plain_upsample, fir_downsample=plain_downsample),
        patch.object(AttentionBlock, "forward", plain_attention),
        patch.object(GroupNormSiLU, "forward", plain_norm_and_silu),
    ):
        yield


FORMS = {"ours": (nullcontext, torch.channels_last), "plain": (plain_form, torch.contiguous_format)}


# Networks and their inputs


def build(args: argparse.Namespace, name: str) -> tuple[NCSNppDecoder, dict[str, Tensor]]:
    """A decoder without dropout, none of whose layers vanishes as in a new one, and a batch."""
    size, batch = getattr(args, f"{name}_size"), getattr(args, f"{name}_batch")
    config = DECODERS[name].config
    arguments = {key: getattr(config, f"decoder_{key}") for key in DECODER_ARGUMENTS}
    arguments["base_channels"] = args.base_channels
    # resolutions scale with the image
    resolutions = [resolution * size // config.image_size for resolution in arguments["attention_resolutions"]]
    arguments["attention_resolutions"] = resolutions
    torch.manual_seed(args.seed)
    decoder = NCSNppDecoder(
        image_size=size,
        in_channels=config.num_channels,
        latent_dim=config.latent_dim,
        num_labels=config.num_labels,
        **arguments,
    )
    for module in decoder.modules():
        if isinstance(module, (ScaledConv2d, ScaledLinear)):
            module.init_scale = 1
            module.reset_parameters()
    inputs = {
        "sample": torch.randn(batch, config.num_channels, size, size),
        "t": torch.rand(batch),
        "latents": torch.randn(batch, config.latent_dim),
    }
    if config.num_labels:
        inputs["labels"] = torch.arange(batch) % config.num_labels
    return decoder.eval().to(args.device), {key: value.to(args.device) for key, value in inputs.items()}


def forward(decoder: NCSNppDecoder, inputs: dict[str, Tensor], form: str) -> Tensor:
    with FORMS[form][0](), torch.no_grad():
        return decoder(**inputs)


def forward_backward(decoder: NCSNppDecoder, inputs: dict[str, Tensor], form: str) -> None:
    decoder.zero_grad()
    with FORMS[form][0]():
        decoder(**inputs).square().mean().backward()


def arrange(decoder: NCSNppDecoder, inputs: dict[str, Tensor], form: str) -> tuple[NCSNppDecoder, dict[str, Tensor]]:
    """Network and images in the memory format of a form."""
    layout = {"memory_format": FORMS[form][1]}
    return decoder.to(**layout), inputs | {"sample": inputs["sample"].to(**layout)}


def one_step(args: argparse.Namespace, case: str) -> Callable[[], None]:
    name, form = case.split()
    return lambda: forward_backward(*arrange(*build(args, name), form), form)


def in_bfloat16(decoder: NCSNppDecoder) -> NCSNppDecoder:
    """A copy as `from_pretrained(..., dtype=torch.bfloat16)` loads it, with its Fourier features in float32."""
    half = copy.deepcopy(decoder).bfloat16()
    for module, original in zip(half.modules(), decoder.modules(), strict=True):
        if isinstance(module, FourierEmbedding):
            module.frequencies = original.frequencies.clone()
    return half


def autocast_forward_backward(decoder: NCSNppDecoder, inputs: dict[str, Tensor]) -> None:
    with torch.autocast(inputs["sample"].device.type, torch.bfloat16):
        forward_backward(decoder, inputs, "ours")


# Its convolutions alone


Convolutions = list[tuple[nn.Conv2d, Tensor]]


def record_convolutions(decoder: NCSNppDecoder, inputs: dict[str, Tensor]) -> Convolutions:
    """Every call of a convolution layer, with an input of its shape; calls share what is equal in shape."""
    calls: list[tuple[nn.Conv2d, torch.Size]] = []
    layers = [layer for layer in decoder.modules() if isinstance(layer, nn.Conv2d)]
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: calls.append((layer, args[0].shape))) for layer in layers
    ]
    forward(decoder, inputs, "ours")
    for hook in hooks:
        hook.remove()
    device, image_channels = inputs["sample"].device, inputs["sample"].shape[1]
    pool = {
        shape: torch.randn(shape, device=device)
        .to(memory_format=torch.channels_last)
        .requires_grad_(shape[1] != image_channels)  # images need no gradient
        for shape in {shape for _, shape in calls}
    }
    return [(layer, pool[shape]) for layer, shape in calls]


def convolve(convolutions: Convolutions) -> None:
    with torch.no_grad():
        for layer, x in convolutions:
            layer(x)


def convolve_backward(convolutions: Convolutions) -> None:
    for layer, x in convolutions:
        output = layer(x)
        wanted = [tensor for tensor in (x, *layer.parameters()) if tensor.requires_grad]
        torch.autograd.grad(output, wanted, output.detach())


# Measurements


def decoder_rows(args: argparse.Namespace, name: str) -> list[Row]:
    decoder, inputs = build(args, name)
    forms = {form: arrange(copy.deepcopy(decoder), inputs, form) for form in FORMS}
    del decoder
    ours, plain = (forward(*forms[form], form) for form in FORMS)
    error = ((ours - plain).abs().max() / plain.abs().max()).item()
    if not error <= TOLERANCE:
        raise RuntimeError(f"{name}: ours and the plain form differ by {error:.1e} of the largest velocity.")

    batch, size = inputs["sample"].shape[0], inputs["sample"].shape[2]
    heading = f"{DECODERS[name].title} {size} px, batch {batch}"
    network, images = forms["ours"]
    half = in_bfloat16(network)
    distance = forward(half, images, "ours").float() - ours.float()
    half_error = (distance.square().mean() / ours.square().mean()).sqrt().item()
    rows = [
        row(f"{heading}: largest difference of the forms", error, "of the largest velocity"),
        row(f"{heading}: difference in bfloat16", half_error, "rms of the velocity's"),
    ]
    convolutions = record_convolutions(network, images)
    steps = {
        "forward": (forward, convolve, partial(forward, half, images, "ours")),
        "forward + backward": (
            forward_backward,
            convolve_backward,
            partial(autocast_forward_backward, network, images),
        ),
    }
    for what, (step, bare_step, half_step) in steps.items():
        functions = {form: partial(step, *forms[form], form) for form in FORMS}
        functions |= {"bare": partial(bare_step, convolutions), "half": half_step}
        seconds = median_times(functions, args.repeats)
        rows.append(row(f"{heading}: {what}", seconds["ours"], "s", baseline=seconds["plain"]))
        rows.append(row(f"{heading}: {what}, in bfloat16", seconds["half"], "s", baseline=seconds["plain"]))
        rows.append(row(f"{heading}: {what}, its convolutions alone", seconds["bare"], "s"))
    if args.device == "cpu":
        ours, plain = (peak_memory(args, f"{name} {form}") / GIGABYTE for form in FORMS)
        rows.append(row(f"{heading}: peak memory", ours, "GB", baseline=plain))
    return rows


def measure(args: argparse.Namespace) -> list[Row]:
    return [result for name in args.decoders for result in decoder_rows(args, name)]


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick=QUICK, memory=one_step)
