# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""NCSN++: the image encoder and the velocity decoder of a Latent Zoning Network, *small* and *large*.

Small, the layout of the published CIFAR-10 models: BigGAN residual blocks with naive resampling, SiLU, GroupNorm, sums
rescaled by 1/sqrt(2), single-head attention at the listed resolutions and in the middle, sinusoidal time embedding.
Large, that of the published 256 px models, has FIR resampling, adds the downsampled image to the features of every
resolution (`input_skip`), sums the output over resolutions (`output_skip`), embeds the logarithm of time by Fourier
features and divides the output by time (`scale_by_sigma`). Each of these is an option of its own.
(NCSN++: Song et al., arXiv 2011.13456. Latent taps of the encoder: arXiv 2509.15591.)

Each network keeps its blocks in one `ModuleDict` in execution order, under descriptive names: `down_32x32_block0`,
`down_32x32_to_16x16`, `down_16x16_input_skip`, `middle_block0`, `up_4x4_block0`, `up_4x4_output_skip`, `up_4x4_to_8x8`. A tap of
the encoder has the name of the layer that it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import nn

from .layers_ncsnpp import (
    NCSNPP_LAYERS,
    ConditionEmbedding,
    InputSkip,
    LatentTap,
    OutputSkip,
    ResidualBlock,
    check_at_least,
    check_fir_kernel,
    downsample,
    group_norm,
)
from .layers_scaled import TINY_INIT_SCALE, InputConv2d, ScaledConv2d


TIME_SCALE = 999  # t in [0, 1] is embedded as the (continuous) step number 0..999
FOURIER_MIN_TIME = 1e-3  # smallest t that the published networks with Fourier features, of log t, are trained on


def _check_one_of(choices: Sequence[object], **arguments: object) -> None:
    for name, value in arguments.items():
        if value not in choices:
            raise ValueError(f"`{name}` must be one of {list(choices)}, got {value!r}.")


def _check_resolutions(resolutions: Sequence[int], **arguments: Sequence[int]) -> None:
    for name, values in arguments.items():
        unknown = [value for value in values if value not in resolutions]
        if unknown:
            raise ValueError(f"`{name}` must be among the resolutions {resolutions}, got {unknown}.")


class _BlockOptions(TypedDict):
    """The arguments that all [`ResidualBlock`]s of a network share."""

    dropout: float
    skip_rescale: bool
    fir_kernel: Sequence[float] | None
    embedding_dim: int


def _down_and_middle_blocks(
    image_size: int,
    in_channels: int,
    base_channels: int,
    channel_multipliers: Sequence[int],
    num_res_blocks: int,
    attention_resolutions: Sequence[int],
    input_skip: str | None,
    options: _BlockOptions,
) -> tuple[nn.ModuleDict, dict[str, tuple[int, int]]]:
    """Checks the arguments and builds the blocks on the way down and in the middle, which encoder and decoder have in common.

    Returns:
        `tuple`: the blocks by name in execution order; and `(channels, resolution)` of the feature maps that skip connections and taps
        read, by the name of the block that outputs them, with that of the middle last.
    """
    if not channel_multipliers or min(channel_multipliers) < 1:
        raise ValueError(f"`channel_multipliers` must be one or more positive integers, got {channel_multipliers}.")
    check_at_least(1, image_size=image_size, base_channels=base_channels, num_res_blocks=num_res_blocks)
    _check_one_of((None, "sum", "cat"), input_skip=input_skip)
    if not 0 <= options["dropout"] < 1:
        raise ValueError(f"`dropout` must be in [0, 1), got {options['dropout']}.")
    if options["fir_kernel"] is not None:
        check_fir_kernel("fir_kernel", options["fir_kernel"])
    halvings = len(channel_multipliers) - 1
    if image_size % 2**halvings != 0:
        raise ValueError(
            f"`image_size` must be divisible by {2**halvings} (halved between any two of the {halvings + 1} "
            f"`channel_multipliers`), got {image_size}."
        )
    resolutions = [image_size // 2**level for level in range(halvings + 1)]
    _check_resolutions(resolutions, attention_resolutions=attention_resolutions)

    blocks, shapes = nn.ModuleDict(), {}
    channels = base_channels
    for resolution, multiplier in zip(resolutions, channel_multipliers, strict=True):
        attention = resolution in attention_resolutions
        for i in range(num_res_blocks):
            name = f"down_{resolution}x{resolution}_block{i}"
            blocks[name] = ResidualBlock(channels, base_channels * multiplier, attention=attention, **options)
            channels = base_channels * multiplier
            shapes[name] = (channels, resolution)
        if resolution != resolutions[-1]:
            lower = resolution // 2
            name = f"down_{resolution}x{resolution}_to_{lower}x{lower}"
            blocks[name] = ResidualBlock(channels, channels, resample="down", **options)
            if input_skip is not None:
                name = f"down_{lower}x{lower}_input_skip"
                blocks[name] = InputSkip(in_channels, channels, input_skip)
                channels *= 2 if input_skip == "cat" else 1
            shapes[name] = (channels, lower)
    blocks["middle_block0"] = ResidualBlock(channels, channels, attention=True, **options)
    blocks["middle_block1"] = ResidualBlock(channels, channels, **options)
    shapes["middle_block1"] = (channels, resolutions[-1])
    return blocks, shapes


class NCSNppEncoder(nn.Module):
    """Image encoder: an NCSN++ trunk on the way down, and taps that sum its feature maps up to the anchor.

    The attribute `feature_dim` is the width of the features. Its blocks are checkpointing layers of transformers: a surrounding model
    saves memory in training if every block is computed again in the backward pass.

    Args:
        image_size (`int`): height and width of the images; halved after each but the last entry of `channel_multipliers`.
        in_channels (`int`): channels of the images.
        latent_dim (`int`): width of the anchors.
        base_channels (`int`): channels at multiplier 1.
        channel_multipliers (`Sequence[int]`): multiplier of each resolution, fine to coarse.
        num_res_blocks (`int`): residual blocks at each resolution.
        attention_resolutions (`Sequence[int]`): resolutions with attention after every block; may be empty.
        dropout (`float`): dropout probability in the blocks, in [0, 1).
        tap_channels (`int`): `channels` of each [`LatentTap`].
        tap_hidden_dim (`int`): `hidden_dim` of each tap.
        tap_layers (`int`): `num_layers` of each tap.
        tap_resolutions (`Sequence[int]`, *optional*): resolutions of the tapped feature maps, all by default.
        skip_rescale (`bool`, *optional*, defaults to `True`): whether the sums in the blocks are divided by sqrt(2).
        fir_kernel (`Sequence[float]`, *optional*): taps of the resampling filter, even in number, usually (1, 3, 3, 1). Default: 2x2
            mean down, nearest neighbour up.
        input_skip (`str`, *optional*): how the downsampled image joins the features after each downsampling: `"sum"`, or `"cat"`,
            which doubles the channels there. Default: it does not.

    Raises:
        ValueError: if an argument is out of its range, with the name of the argument.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int,
        latent_dim: int,
        base_channels: int,
        channel_multipliers: Sequence[int],
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        dropout: float,
        tap_channels: int,
        tap_hidden_dim: int,
        tap_layers: int,
        tap_resolutions: Sequence[int] | None = None,
        skip_rescale: bool = True,
        fir_kernel: Sequence[float] | None = None,
        input_skip: str | None = None,
    ) -> None:
        super().__init__()
        check_at_least(1, in_channels=in_channels, latent_dim=latent_dim)
        check_at_least(1, tap_channels=tap_channels, tap_hidden_dim=tap_hidden_dim, tap_layers=tap_layers)
        blocks, shapes = _down_and_middle_blocks(
            image_size,
            in_channels,
            base_channels,
            channel_multipliers,
            num_res_blocks,
            attention_resolutions,
            input_skip,
            {"dropout": dropout, "skip_rescale": skip_rescale, "fir_kernel": fir_kernel, "embedding_dim": 0},
        )
        tapped = {"conv_in": (base_channels, image_size), **shapes}
        if tap_resolutions is not None:
            resolutions = sorted({resolution for _, resolution in tapped.values()}, reverse=True)
            _check_resolutions(resolutions, tap_resolutions=tap_resolutions)
            tapped = {name: shape for name, shape in tapped.items() if shape[1] in tap_resolutions}
            if not tapped:
                raise ValueError("`tap_resolutions` must have at least one resolution, got none: there is no anchor.")
        self.latent_dim = latent_dim
        self.feature_dim = base_channels * channel_multipliers[-1]
        self.fir_kernel = fir_kernel
        self.conv_in = InputConv2d(in_channels, base_channels, 3, padding=1)
        self.blocks = blocks
        tap_options = (latent_dim, tap_channels, tap_hidden_dim, tap_layers)
        self.taps = nn.ModuleDict({name: LatentTap(*shape, *tap_options) for name, shape in tapped.items()})

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encodes images, each by itself.

        Args:
            pixel_values (`Tensor` of shape `(B, in_channels, image_size, image_size)`): images in [-1, 1].

        Returns:
            `tuple(Tensor, Tensor, Tensor)`: features `(B, feature_dim)`, the spatial mean of the trunk's output; anchors
            `(B, latent_dim)`, the sum of all taps, in float32 at least; and the trunk's output.
        """
        pyramid, hidden = pixel_values, self.conv_in(pixel_values)
        # float32 plus half is float32: under autocast the many taps are still summed without rounding in between
        anchors = torch.zeros(hidden.shape[0], self.latent_dim, dtype=torch.float32, device=hidden.device)
        if "conv_in" in self.taps:
            anchors = anchors + self.taps["conv_in"](hidden).to(anchors.device)
        for name, block in self.blocks.items():
            if isinstance(block, InputSkip):
                pyramid = downsample(pyramid, self.fir_kernel)
                hidden = block(pyramid, hidden)
            else:
                hidden = block(hidden)
            if name in self.taps:
                anchors = anchors + self.taps[name](hidden).to(anchors.device)
        return hidden.mean(dim=(2, 3)), anchors, hidden


class NCSNppDecoder(nn.Module):
    """Velocity decoder: an NCSN++ U-Net conditioned on time, latent and (if it has labels) label.

    A new decoder outputs nearly zero. Its blocks are checkpointed as those of [`NCSNppEncoder`]. On the way up each resolution has one block
    more, and attention after the last only.

    Args:
        image_size, in_channels, base_channels, channel_multipliers, num_res_blocks, attention_resolutions, dropout, skip_rescale,
            fir_kernel, input_skip: as for [`NCSNppEncoder`].
        latent_dim (`int`): width of the latents; 0 for a decoder that takes empty ones.
        num_labels (`int`): number of labels; 0 for a decoder that takes none.
        output_skip (`bool`, *optional*, defaults to `False`): whether the output is a sum over all resolutions instead of the output of
            the finest.
        time_embedding (`str`, *optional*, defaults to `"sinusoidal"`): `"sinusoidal"`, sinusoids of time, or `"fourier"`, random Fourier
            features of its logarithm.
        fourier_scale (`float`, *optional*, defaults to 16.0): standard deviation of the frequencies of these features.
        scale_by_sigma (`bool`, *optional*, defaults to `False`): whether the output is divided by the step number 999 t; needs
            `time_embedding` `"fourier"`.

    Raises:
        ValueError: if an argument is out of its range, with the name of the argument.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int,
        latent_dim: int,
        num_labels: int,
        base_channels: int,
        channel_multipliers: Sequence[int],
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        dropout: float,
        skip_rescale: bool = True,
        fir_kernel: Sequence[float] | None = None,
        input_skip: str | None = None,
        output_skip: bool = False,
        time_embedding: str = "sinusoidal",
        fourier_scale: float = 16.0,
        scale_by_sigma: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(1, in_channels=in_channels)
        check_at_least(0, latent_dim=latent_dim, num_labels=num_labels)
        _check_one_of(("sinusoidal", "fourier"), time_embedding=time_embedding)
        if not fourier_scale > 0:
            raise ValueError(f"`fourier_scale` must be positive, got {fourier_scale}.")
        if scale_by_sigma and time_embedding != "fourier":
            raise ValueError(
                f"`scale_by_sigma` divides by time, which may be 0 with `time_embedding` {time_embedding!r}: it needs "
                "`time_embedding` 'fourier'."
            )
        options: _BlockOptions = {
            "dropout": dropout,
            "skip_rescale": skip_rescale,
            "fir_kernel": fir_kernel,
            "embedding_dim": 4 * base_channels,
        }
        blocks, shapes = _down_and_middle_blocks(
            image_size,
            in_channels,
            base_channels,
            channel_multipliers,
            num_res_blocks,
            attention_resolutions,
            input_skip,
            options,
        )
        channels, resolution = shapes.pop("middle_block1")
        skip_channels = [base_channels, *(shape[0] for shape in shapes.values())]
        for multiplier in reversed(channel_multipliers):
            for i in range(num_res_blocks + 1):
                blocks[f"up_{resolution}x{resolution}_block{i}"] = ResidualBlock(
                    channels,
                    base_channels * multiplier,
                    skip_channels=skip_channels.pop(),
                    attention=i == num_res_blocks and resolution in attention_resolutions,
                    **options,
                )
                channels = base_channels * multiplier
            if output_skip:
                blocks[f"up_{resolution}x{resolution}_output_skip"] = OutputSkip(channels, in_channels, fir_kernel)
            if resolution != image_size:
                name = f"up_{resolution}x{resolution}_to_{resolution * 2}x{resolution * 2}"
                blocks[name] = ResidualBlock(channels, channels, resample="up", **options)
                resolution *= 2

        self.num_labels = num_labels
        self.fir_kernel = fir_kernel
        self.scale_by_sigma = scale_by_sigma
        self.min_time = FOURIER_MIN_TIME if time_embedding == "fourier" else 0.0
        self.condition_embedding = ConditionEmbedding(
            latent_dim, num_labels, base_channels, time_embedding, fourier_scale
        )
        self.conv_in = InputConv2d(in_channels, base_channels, 3, padding=1)
        self.blocks = blocks
        if not output_skip:
            self.norm_out = group_norm(channels, activation=True)
            self.conv_out = ScaledConv2d(channels, in_channels, 3, padding=1, init_scale=TINY_INIT_SCALE)

    def forward(
        self, sample: torch.Tensor, t: torch.Tensor, latents: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predicts the velocity data - noise.

        Args:
            sample (`Tensor` of shape `(B, in_channels, image_size, image_size)`): the points t * data + (1 - t) * noise.
            t (`Tensor` of shape `(B,)`): times from 0 (noise) to 1 (data); clamped to [0, 1], with Fourier features to [1e-3, 1].
            latents (`Tensor` of shape `(B, latent_dim)`): the latents.
            labels (`Tensor` of shape `(B,)`, *optional*): integers in [0, num_labels), if and only if the decoder has labels.

        Returns:
            `Tensor` of shape `(B, in_channels, image_size, image_size)`: the velocity.

        Raises:
            ValueError: if `labels` are missing, or given to a decoder without labels.
        """
        if (labels is None) != (self.num_labels == 0):
            got = "None" if labels is None else "a tensor"
            raise ValueError(f"`labels` are needed if and only if `num_labels` (= {self.num_labels}) > 0, got {got}.")
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        steps = t.clamp(self.min_time, 1.0) * TIME_SCALE
        embedding = self.condition_embedding(steps, latents, labels)
        pyramid, hidden = sample, self.conv_in(sample)
        velocity: torch.Tensor | None = None
        skips = [hidden]
        for name, block in self.blocks.items():
            if isinstance(block, InputSkip):
                pyramid = downsample(pyramid, self.fir_kernel)
                hidden = skips[-1] = block(pyramid, hidden)
            elif isinstance(block, OutputSkip):
                velocity = block(hidden, velocity)
            else:
                skip = skips.pop() if block.skip_channels else None
                hidden = block(hidden, embedding, skip)
                if name.startswith("down_"):
                    skips.append(hidden)
        if velocity is None:  # no block of the network is an output skip
            velocity = self.conv_out(self.norm_out(hidden))
        if self.scale_by_sigma:  # in float32 at least, as the steps are
            dtype = torch.promote_types(sample.dtype, velocity.dtype)
            velocity = (velocity / steps[:, None, None, None]).to(dtype)
        return velocity


__all__ = ["NCSNPP_LAYERS", "NCSNppDecoder", "NCSNppEncoder"]
