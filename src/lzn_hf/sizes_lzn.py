# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""How large a model is, by its configuration alone: refused beyond all that was ever published, before anything is built."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


# Parameters of a model, numbers in its anchors of labels and images, numbers that it computes for one image (feature maps, attention
# scores, and the flow), and blocks of its networks. The largest published image encoders have 2e10 parameters.
MAX_STORED = 10**11
MAX_ANCHORS = 10**10
MAX_COMPUTED = 10**11
MAX_BLOCKS = 2000
# Bounds of the numbers in `backbone`, far above every published model: of its layers, of all others, and of the patches of an image.
MAX_LAYERS, MAX_FIELD, MAX_PATCHES = 1000, 1_000_000, 65_536
LAYER_FIELDS = ("layers", "depth", "stages", "blocks")
# Tensors that may be made to build a model, and to run it once without computing anything. An EfficientNet-B7 makes 1,700.
MAX_TENSORS = 6000
# Fields that name other models, which transformers would look for on the Hub.
OTHER_MODELS = ("backbone", "use_pretrained_backbone", "use_timm_backbone")


@dataclass
class _Part:
    """A network: numbers that it stores and that it computes for one image, and its blocks."""

    stored: int = 0
    computed: int = 0
    blocks: int = 0
    skips: list[tuple[int, int]] = field(default_factory=list)

    def convolve(self, inputs: int, outputs: int, kernel: int, size: int, bias: bool = True) -> None:
        self.stored += inputs * outputs * kernel**2 + outputs * bias
        self.computed += outputs * size**2

    def normalise(self, channels: int, size: int) -> None:
        self.stored += 2 * channels
        self.computed += channels * size**2

    def linear(self, inputs: int, outputs: int, bias: bool = True) -> None:
        self.convolve(inputs, outputs, 1, 1, bias)


def count_stored(config: Any) -> dict[str, int]:
    """Counts the numbers that each network of a model stores. A backbone of transformers has limits of its own, see `Budget`."""
    return {name: part.stored for name, part in _parts(config).items()}


def count_anchors(config: Any) -> dict[str, int]:
    """Counts the numbers in the anchors that a model stores."""
    width = config.latent_dim if config.encoder_type is not None else 0
    return {
        "label anchors (`num_labels` x `latent_dim`)": len(config.id2label) * width,
        "reference anchors (`num_reference_anchors` x `latent_dim`)": config.num_reference_anchors * config.latent_dim,
    }


def count_computed(config: Any) -> dict[str, int]:
    """Counts the numbers that each part of a model computes for one image."""
    parts = {name: part.computed for name, part in _parts(config).items()}
    rows = config.num_reference_anchors + len(config.id2label) + config.latent_dim
    return parts | {"flow (`num_prediction_draws` x anchors)": max(config.num_prediction_draws, 1) * rows}


def check_totals(config: Any) -> None:
    """Raises a `ValueError` for a configuration whose totals are beyond the limits, with the total and what it comes from."""
    blocks = {name: part.blocks for name, part in _parts(config).items()}
    for totals, limit, what in (
        (blocks, MAX_BLOCKS, "blocks"),
        (count_stored(config), MAX_STORED, "parameters"),
        (count_anchors(config), MAX_ANCHORS, "anchors"),
        (count_computed(config), MAX_COMPUTED, "activations of one image"),
    ):
        check_total(totals, limit, f"the {what} of a model")


def check_total(totals: Mapping[str, int], limit: int, what: str) -> None:
    """Raises a `ValueError` if the sum is beyond the limit, with the largest summands first."""
    total = sum(totals.values())
    if total > limit:
        largest = sorted(totals.items(), key=lambda pair: -pair[1])[:3]
        parts = ", ".join(f"{name}: {value:,}" for name, value in largest if value)
        raise ValueError(f"{what} must be at most {limit:,} in all, got {total:,} ({parts}).")


class Budget(TorchFunctionMode):
    """Counts the numbers in all tensors that its thread makes inside, and stops beyond a limit."""

    def __init__(self, limit: int, what: str) -> None:
        super().__init__()
        self.limit, self.what, self.numbers, self.tensors = limit, what, 0, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.numbers += output.numel()
            self.tensors += 1
            check_total({"so far": self.numbers}, self.limit, self.what)
            check_total({"so far": self.tensors}, MAX_TENSORS, "the tensors that `backbone` makes")
        return output


def check_backbone_numbers(backbone: Any, image_size: int, name: str = "backbone") -> None:
    """Raises a `ValueError` for numbers that would make even an empty model large: lists and loops of its configuration."""
    if isinstance(backbone, dict):
        for key, value in backbone.items():
            if key in OTHER_MODELS and value:
                raise ValueError(f"`{name}` must name no other model, got {key} = {value!r}.")
            check_backbone_numbers(value, image_size, f"{name}.{key}")
    elif isinstance(backbone, (list, tuple)):
        if len(backbone) > MAX_LAYERS:
            raise ValueError(f"`{name}` must have at most {MAX_LAYERS} elements, got {len(backbone)}.")
        for value in backbone:
            check_backbone_numbers(value, image_size, name)
    elif isinstance(backbone, (int, float)):
        field = name.rpartition(".")[2]
        limit = MAX_LAYERS if any(word in field for word in LAYER_FIELDS) else MAX_FIELD
        if not abs(backbone) <= limit:
            raise ValueError(f"`{name}` must be at most {limit:,}, got {backbone!r}.")
        if field == "patch_size" and (image_size / max(backbone, 1)) ** 2 > MAX_PATCHES:
            raise ValueError(
                f"`{name}` must cut an image of {image_size} pixels into at most {MAX_PATCHES:,} patches, got {backbone!r}."
            )


def _parts(config: Any) -> dict[str, _Part]:
    parts = {}
    if config.encoder_type == "ncsnpp":
        parts["encoder (`encoder_base_channels` and the fields after it)"] = _ncsnpp_encoder(config)
    elif config.encoder_type == "resnet":
        parts["encoder (`encoder_depths`, `encoder_widths`)"] = _resnet_encoder(config)
    if config.decoder_type == "ncsnpp":
        parts["decoder (`decoder_base_channels` and the fields after it)"] = _ncsnpp_decoder(config)
    return parts


def _residual_block(
    part: _Part, inputs: int, outputs: int, size_in: int, size: int, embedding: int, attention: bool = False
) -> None:
    part.blocks += 1
    part.normalise(inputs, size_in)
    part.convolve(inputs, outputs, 3, size)
    if embedding:
        part.linear(embedding, outputs)
    part.normalise(outputs, size)
    part.convolve(outputs, outputs, 3, size)
    if size_in != size or inputs != outputs:
        part.convolve(inputs, outputs, 1, size)
    if attention:
        part.normalise(outputs, size)
        part.convolve(outputs, 3 * outputs, 1, size)
        part.convolve(outputs, outputs, 1, size)
        part.computed += size**4


def _trunk(config: Any, name: str, embedding: int) -> tuple[_Part, int, int]:
    """The way down and the middle of an NCSN++, with the last channels and size; `skips` are the feature maps that others read."""
    part, size = _Part(), config.image_size
    base, multipliers = getattr(config, f"{name}_base_channels"), getattr(config, f"{name}_channel_multipliers")
    num_blocks, attention = getattr(config, f"{name}_num_res_blocks"), getattr(config, f"{name}_attention_resolutions")
    input_skip = getattr(config, f"{name}_input_skip")
    part.convolve(config.num_channels, base, 3, size)
    channels = base
    part.skips.append((channels, size))
    for level, multiplier in enumerate(multipliers):
        for _ in range(num_blocks):
            _residual_block(part, channels, base * multiplier, size, size, embedding, size in attention)
            channels = base * multiplier
            part.skips.append((channels, size))
        if level < len(multipliers) - 1:
            _residual_block(part, channels, channels, size, size // 2, embedding)
            size //= 2
            if input_skip is not None:
                part.convolve(config.num_channels, channels, 1, size)
                channels *= 2 if input_skip == "cat" else 1
            part.skips.append((channels, size))
    _residual_block(part, channels, channels, size, size, embedding, True)
    _residual_block(part, channels, channels, size, size, embedding)
    return part, channels, size


def _ncsnpp_encoder(config: Any) -> _Part:
    part, channels, size = _trunk(config, "encoder", 0)
    tapped, hidden = config.encoder_tap_resolutions, config.encoder_tap_hidden_dim
    for inputs, resolution in [*part.skips, (channels, size)]:
        if tapped is not None and resolution not in tapped:
            continue
        part.convolve(inputs, config.encoder_tap_channels, 1, resolution)
        inner = [hidden] * (config.encoder_tap_layers - 1)
        widths = [config.encoder_tap_channels * resolution**2, *inner, config.latent_dim]
        for pair in itertools.pairwise(widths):
            part.linear(*pair)
    return part


def _ncsnpp_decoder(config: Any) -> _Part:
    base, fourier = config.decoder_base_channels, config.decoder_time_embedding == "fourier"
    part, channels, size = _trunk(config, "decoder", 4 * base)
    for multiplier in reversed(config.decoder_channel_multipliers):
        for i in range(config.decoder_num_res_blocks + 1):
            attention = i == config.decoder_num_res_blocks and size in config.decoder_attention_resolutions
            inputs = channels + part.skips.pop()[0]
            _residual_block(part, inputs, base * multiplier, size, size, 4 * base, attention)
            channels = base * multiplier
        if config.decoder_output_skip or size == config.image_size:
            part.normalise(channels, size)
            part.convolve(channels, config.num_channels, 3, size)
        if size != config.image_size:
            _residual_block(part, channels, channels, size, 2 * size, 4 * base)
            size *= 2
    condition = config.decoder_condition_dim + len(config.id2label) + (2 * base if fourier else base)
    part.linear(condition, 4 * base)
    part.linear(4 * base, 4 * base)
    part.stored += base * fourier  # frequencies
    return part


def _resnet_encoder(config: Any) -> _Part:
    part, size, widths = _Part(), config.image_size, config.encoder_widths or [0]
    if not config.encoder_small_images:
        size = -(-size // 2)
    part.convolve(config.num_channels, widths[0], 3 if config.encoder_small_images else 7, size, bias=False)
    part.normalise(widths[0], size)
    if not config.encoder_small_images:
        size = -(-size // 2)
    channels = widths[0]
    for stage, (depth, width) in enumerate(zip(config.encoder_depths, widths, strict=False)):
        part.blocks += depth
        for block in range(min(depth, MAX_BLOCKS)):
            strided, inputs = stage > 0 and block == 0, channels
            before, size = size, -(-size // 2) if strided else size
            channels = 4 * width
            layers = [(inputs, width, 1, before), (width, width, 3, size), (width, channels, 1, size)]
            layers += [(inputs, channels, 1, size)] if strided or inputs != channels else []
            for layer in layers:
                part.convolve(*layer, bias=False)
                part.normalise(layer[1], layer[3])
    for i in range(config.encoder_head_layers):
        outputs = config.latent_dim if i == config.encoder_head_layers - 1 else channels
        part.linear(channels, outputs, bias=False)
        part.normalise(outputs, 1)
    return part


__all__ = [
    "MAX_ANCHORS",
    "MAX_BLOCKS",
    "MAX_COMPUTED",
    "MAX_STORED",
    "Budget",
    "check_backbone_numbers",
    "check_total",
    "check_totals",
    "count_anchors",
    "count_computed",
    "count_stored",
]
