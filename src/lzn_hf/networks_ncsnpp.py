# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""NCSN++ *small*: the image encoder and the velocity decoder of a Latent Zoning Network.

The layout of the published CIFAR-10 models: BigGAN residual blocks with naive resampling, SiLU, GroupNorm, sums
rescaled by 1/sqrt(2), single-head attention at the listed resolutions and in the middle, sinusoidal time embedding.
(NCSN++: Song et al., arXiv 2011.13456. Latent taps of the encoder: arXiv 2509.15591.)

Each network keeps its blocks in one `ModuleDict`, in running order, under names that say what they are:
`down_32x32_block0`, `down_32x32_to_16x16`, `middle_block0`, `up_4x4_block0`, `up_4x4_to_8x8`. A tap of the encoder has
the name of the layer that it reads. Within a block, parameters are registered in the published order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


SKIP_SCALE = 1 / math.sqrt(2)  # a sum of two unit-variance branches has unit variance again
TIME_SCALE = 999  # t in [0, 1] is embedded as the (continuous) step number 0..999
TINY_INIT_SCALE = 1e-10  # variance scale of layers that should start at zero: their gradients stay alive


def timestep_embedding(timesteps: torch.Tensor, dim: int) -> torch.Tensor:
    """Sinusoids at geometric frequencies from 1 to 1/10000: `(B,)` -> `(B, dim)`, all sines, then all cosines.

    Always float32: in half precision an angle near 999 has no phase left. An odd `dim` (at least 4) ends in zeros.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(exponents * (-math.log(10000) / (half - 1)))
    angles = timesteps.float()[:, None] * frequencies
    embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
    return F.pad(embedding, (0, dim - 2 * half))


def _group_norm(channels: int) -> nn.GroupNorm:
    groups = min(channels // 4, 32)
    if groups < 1 or channels % groups != 0:
        raise ValueError(
            f"`base_channels` times `channel_multipliers` gives a layer of {channels} channels (skips included), "
            f"which GroupNorm cannot split into min(channels // 4, 32) = {groups} equal groups. Use a `base_channels` "
            "that is a multiple of 4, or of 32 where layers have 128 channels and more."
        )
    return nn.GroupNorm(groups, channels, eps=1e-6)


# Each layer that holds parameters has a `reset_parameters()` of its own, and blocks have none: transformers initialises
# what a checkpoint lacks module by module, and skips a module without parameters of its own. It calls `nn.init.*`,
# looked up when called, on whole parameters and never on views of them: those are what transformers guards, so that
# loaded weights are not initialised over. (`nn.GroupNorm` and `nn.Linear` of PyTorch do the same.)
class _VarianceScaling:
    init_scale: float

    def reset_parameters(self) -> None:
        """Weights uniform with variance `init_scale` / mean(fan_in, fan_out), biases 0."""
        nn.init.xavier_uniform_(self.weight, gain=math.sqrt(self.init_scale))
        nn.init.zeros_(self.bias)


class ScaledConv2d(_VarianceScaling, nn.Conv2d):
    """Convolution that keeps height and width, initialised by variance scaling."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, init_scale: float = 1.0) -> None:
        self.init_scale = init_scale  # first, because the constructor of nn.Conv2d calls reset_parameters
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


class ScaledLinear(_VarianceScaling, nn.Linear):
    """Linear layer, initialised by variance scaling."""

    def __init__(self, in_features: int, out_features: int, init_scale: float = 1.0) -> None:
        self.init_scale = init_scale  # first, because the constructor of nn.Linear calls reset_parameters
        super().__init__(in_features, out_features)


# The classes of all layers with parameters. `reset_parameters()` on all modules of these classes sets everything once.
NCSNPP_LAYERS = (nn.Conv2d, nn.Linear, nn.GroupNorm)


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions of a `channels` wide feature map, with a rescaled skip connection.

    `qkv` stacks the query, key and value projections along its output dimension, in this order (published:
    `NIN_0.W.T`, `NIN_1.W.T`, `NIN_2.W.T`); `out` is the output projection (`NIN_3.W.T`).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _group_norm(channels)
        # 0.1 for each of the three projections, whose fans are C and C; the stack's are C and 3 C, twice on average
        self.qkv = ScaledLinear(channels, 3 * channels, init_scale=0.1 * 2)
        self.out = ScaledLinear(channels, channels, init_scale=TINY_INIT_SCALE)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` -> `(B, C, H, W)`."""
        # (B, C, H, W) -> (B, 1 head, H * W, C): a view for channels_last tensors
        positions = self.norm(hidden).flatten(2).transpose(1, 2).unsqueeze(1)
        query, key, value = self.qkv(positions).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(query, key, value)
        residual = self.out(attended).squeeze(1).transpose(1, 2).unflatten(2, hidden.shape[2:])
        return (hidden + residual).mul_(SKIP_SCALE)


class ResidualBlock(nn.Module):
    """BigGAN residual block, optionally resampling, conditioned, fed with a skip connection, or followed by attention.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        skip_channels: channels of a second input, joined behind the first along the channels. 0: there is none.
        embedding_dim: width of the conditioning vector. 0: the block is not conditioned.
        dropout: dropout probability in front of the second convolution.
        resample: `"up"` (nearest, x2), `"down"` (2x2 mean) or `None`.
        attention: whether an [`AttentionBlock`] follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        skip_channels: int = 0,
        embedding_dim: int = 0,
        dropout: float = 0.0,
        resample: str | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        in_channels += skip_channels
        self.skip_channels = skip_channels
        self.dropout = dropout
        self.resample = resample
        self.norm1 = _group_norm(in_channels)
        self.conv1 = ScaledConv2d(in_channels, out_channels, 3)
        self.embedding_proj = ScaledLinear(embedding_dim, out_channels) if embedding_dim else None
        self.norm2 = _group_norm(out_channels)
        self.conv2 = ScaledConv2d(out_channels, out_channels, 3, init_scale=TINY_INIT_SCALE)
        self.shortcut = ScaledConv2d(in_channels, out_channels, 1) if resample or in_channels != out_channels else None
        self.attention = AttentionBlock(out_channels) if attention else None

    def _resample(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.resample == "up":
            return F.interpolate(hidden, scale_factor=2, mode="nearest")
        if self.resample == "down":
            return F.avg_pool2d(hidden, 2)
        return hidden

    def forward(
        self, hidden: torch.Tensor, embedding: torch.Tensor | None = None, skip: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`(B, in_channels, H, W)` -> `(B, out_channels, H', W')`, H' and W' being doubled, halved or unchanged.

        Args:
            hidden: `(B, in_channels, H, W)`.
            embedding: `(B, embedding_dim)`, already activated; for a conditioned block and no other.
            skip: `(B, skip_channels, H, W)`; for a block with a skip connection and no other.
        """
        if skip is not None:  # joined here and not by the caller: gradient checkpointing keeps no joined copy
            hidden = torch.cat([hidden, skip], dim=1)
        residual = self.conv1(self._resample(F.silu(self.norm1(hidden))))
        if self.embedding_proj is not None:
            residual = residual + self.embedding_proj(embedding)[:, :, None, None]
        residual = self.conv2(F.dropout(F.silu(self.norm2(residual)), self.dropout, self.training))
        hidden = self._resample(hidden)
        if self.shortcut is not None:
            hidden = self.shortcut(hidden)
        hidden = (hidden + residual).mul_(SKIP_SCALE)
        return hidden if self.attention is None else self.attention(hidden)


class LatentTap(nn.Module):
    """Reads an `in_channels` x `resolution` x `resolution` feature map and gives its additive share of the anchor.

    A 1x1 convolution leaves `channels` channels, which are flattened in C, H, W order and go through `num_layers`
    linear layers of hidden width `hidden_dim`. The linear layers keep PyTorch's own initialisation.
    """

    def __init__(
        self, in_channels: int, resolution: int, latent_dim: int, channels: int, hidden_dim: int, num_layers: int
    ) -> None:
        super().__init__()
        self.project = ScaledConv2d(in_channels, channels, 1)
        widths = [channels * resolution**2] + [hidden_dim] * (num_layers - 1) + [latent_dim]
        self.layers = nn.ModuleDict({f"linear{i}": nn.Linear(*widths[i : i + 2]) for i in range(num_layers)})

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(B, in_channels, resolution, resolution)` -> `(B, latent_dim)`."""
        hidden = self.project(hidden).flatten(1)
        for layer in self.layers.values():
            hidden = layer(F.silu(hidden))
        return hidden


class ConditionEmbedding(nn.Module):
    """Embeds latent, label (if `num_labels` > 0) and time, the latter by `time_dim` sinusoids, together."""

    def __init__(self, latent_dim: int, num_labels: int, time_dim: int) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.time_dim = time_dim
        self.linear1 = ScaledLinear(latent_dim + num_labels + time_dim, 4 * time_dim)
        self.linear2 = ScaledLinear(4 * time_dim, 4 * time_dim)

    def forward(self, t: torch.Tensor, latents: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """`(B,)`, `(B, latent_dim)`, `(B,)` or `None` -> `(B, 4 * time_dim)`, activated."""
        # latents come in float32 and time is embedded in float32; a half-precision network wants its own dtype
        dtype = self.linear1.weight.dtype
        parts = [latents.to(dtype)]
        if labels is not None:  # one-hot, in its final dtype at once
            parts.append((labels[:, None] == torch.arange(self.num_labels, device=labels.device)).to(dtype))
        parts.append(timestep_embedding(t.float().clamp(0, 1) * TIME_SCALE, self.time_dim).to(dtype))
        return F.silu(self.linear2(F.silu(self.linear1(torch.cat(parts, dim=1)))))


def _check_at_least(minimum: int, **arguments: int) -> None:
    for name, value in arguments.items():
        if value < minimum:
            raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


def _down_and_middle_blocks(
    image_size: int,
    base_channels: int,
    channel_multipliers: Sequence[int],
    num_res_blocks: int,
    attention_resolutions: Sequence[int],
    dropout: float,
    embedding_dim: int = 0,
) -> tuple[nn.ModuleDict, dict[str, tuple[int, int]]]:
    """Check the arguments and build the half that encoder and decoder have in common, less the first convolution.

    Returns:
        The blocks by name in running order, and `(channels, resolution)` of the output of each but `middle_block0`.
    """
    if not channel_multipliers or min(channel_multipliers) < 1:
        raise ValueError(f"`channel_multipliers` must be one or more positive integers, got {channel_multipliers}.")
    _check_at_least(1, image_size=image_size, base_channels=base_channels, num_res_blocks=num_res_blocks)
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be in [0, 1), got {dropout}.")
    halvings = len(channel_multipliers) - 1
    if image_size % 2**halvings != 0:
        raise ValueError(
            f"`image_size` must be divisible by {2**halvings} (halved between any two of the {halvings + 1} "
            f"`channel_multipliers`), got {image_size}."
        )
    resolutions = [image_size // 2**level for level in range(halvings + 1)]
    unknown = [resolution for resolution in attention_resolutions if resolution not in resolutions]
    if unknown:
        raise ValueError(f"`attention_resolutions` must be among the resolutions {resolutions}, got {unknown}.")

    options = {"embedding_dim": embedding_dim, "dropout": dropout}
    blocks, shapes = nn.ModuleDict(), {}
    channels = base_channels
    for resolution, multiplier in zip(resolutions, channel_multipliers):
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
            shapes[name] = (channels, lower)
    blocks["middle_block0"] = ResidualBlock(channels, channels, attention=True, **options)
    blocks["middle_block1"] = ResidualBlock(channels, channels, **options)
    shapes["middle_block1"] = (channels, resolutions[-1])
    return blocks, shapes


def _run_block(network: nn.Module, block: nn.Module, *inputs: torch.Tensor | None) -> torch.Tensor:
    if network.gradient_checkpointing and network.training:
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


class NCSNppEncoder(nn.Module):
    """Image encoder: a contracting NCSN++ trunk, all of whose feature maps are tapped for the anchor.

    Attribute `feature_dim` is the width of the features. Attribute `gradient_checkpointing`, set to `True`, makes
    training keep less in memory and compute every block once more in the backward pass.

    Args:
        image_size: height and width of the images; halved after each but the last entry of `channel_multipliers`.
        in_channels: channels of the images.
        latent_dim: width of the anchors.
        base_channels: channels at multiplier 1.
        channel_multipliers: multiplier of each resolution, fine to coarse.
        num_res_blocks: residual blocks at each resolution.
        attention_resolutions: resolutions whose blocks are followed by attention; may be empty.
        dropout: dropout probability in the blocks, in [0, 1).
        tap_channels, tap_hidden_dim, tap_layers: `channels`, `hidden_dim` and `num_layers` of each [`LatentTap`].

    Raises:
        ValueError: if an argument does not describe a network; names the argument.
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
    ) -> None:
        super().__init__()
        _check_at_least(1, in_channels=in_channels, latent_dim=latent_dim)
        _check_at_least(1, tap_channels=tap_channels, tap_hidden_dim=tap_hidden_dim, tap_layers=tap_layers)
        blocks, shapes = _down_and_middle_blocks(
            image_size, base_channels, channel_multipliers, num_res_blocks, attention_resolutions, dropout
        )
        self.latent_dim = latent_dim
        self.feature_dim = base_channels * channel_multipliers[-1]
        self.gradient_checkpointing = False
        self.conv_in = ScaledConv2d(in_channels, base_channels, 3)
        self.blocks = blocks
        tapped = {"conv_in": (base_channels, image_size), **shapes}
        tap_options = (latent_dim, tap_channels, tap_hidden_dim, tap_layers)
        self.taps = nn.ModuleDict({name: LatentTap(*shape, *tap_options) for name, shape in tapped.items()})

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode `pixel_values` `(B, in_channels, image_size, image_size)` in [-1, 1], each image by itself.

        Returns:
            features `(B, feature_dim)`, the spatial mean of the trunk's output, and anchors `(B, latent_dim)`, the sum
            of all taps, in float32 at least.
        """
        hidden = self.conv_in(pixel_values)
        # float32 plus half is float32: under autocast the many taps are still summed without rounding in between
        anchors = torch.zeros(len(hidden), self.latent_dim, dtype=torch.float32, device=hidden.device)
        anchors = anchors + self.taps["conv_in"](hidden)
        for name, block in self.blocks.items():
            hidden = _run_block(self, block, hidden)
            if name in self.taps:
                anchors = anchors + self.taps[name](hidden)
        return hidden.mean(dim=(2, 3)), anchors


class NCSNppDecoder(nn.Module):
    """Velocity decoder: an NCSN++ U-Net conditioned on time, latent and (if it has labels) label.

    A new decoder outputs nearly zero. `gradient_checkpointing` is as for [`NCSNppEncoder`].

    Args:
        image_size, in_channels, base_channels, channel_multipliers, num_res_blocks, attention_resolutions, dropout:
            as for [`NCSNppEncoder`]; on the way up each resolution has a block more and attention after the last only.
        latent_dim: width of the latents.
        num_labels: number of labels; 0: the decoder takes no labels.

    Raises:
        ValueError: if an argument does not describe a network; names the argument.
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
    ) -> None:
        super().__init__()
        _check_at_least(1, in_channels=in_channels, latent_dim=latent_dim)
        _check_at_least(0, num_labels=num_labels)
        options = {"dropout": dropout, "embedding_dim": 4 * base_channels}
        blocks, shapes = _down_and_middle_blocks(
            image_size, base_channels, channel_multipliers, num_res_blocks, attention_resolutions, **options
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
            if resolution != image_size:
                name = f"up_{resolution}x{resolution}_to_{resolution * 2}x{resolution * 2}"
                blocks[name] = ResidualBlock(channels, channels, resample="up", **options)
                resolution *= 2

        self.num_labels = num_labels
        self.gradient_checkpointing = False
        self.condition_embedding = ConditionEmbedding(latent_dim, num_labels, base_channels)
        self.conv_in = ScaledConv2d(in_channels, base_channels, 3)
        self.blocks = blocks
        self.norm_out = _group_norm(channels)
        self.conv_out = ScaledConv2d(channels, in_channels, 3, init_scale=TINY_INIT_SCALE)

    def forward(
        self, sample: torch.Tensor, t: torch.Tensor, latents: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predict the velocity data - noise.

        Args:
            sample: `(B, in_channels, image_size, image_size)`, the point t * data + (1 - t) * noise.
            t: `(B,)`, times from 0 (noise) to 1 (data); clamped to this range.
            latents: `(B, latent_dim)`.
            labels: `(B,)` integers in [0, num_labels); `None` if and only if the decoder has no labels.

        Returns:
            velocity `(B, in_channels, image_size, image_size)`.

        Raises:
            ValueError: if `labels` are missing, or given to a decoder without labels.
        """
        if (labels is None) != (self.num_labels == 0):
            got = "None" if labels is None else "a tensor"
            raise ValueError(f"`labels` are needed if and only if `num_labels` (= {self.num_labels}) > 0, got {got}.")
        embedding = self.condition_embedding(t, latents, labels)
        hidden = self.conv_in(sample)
        skips = [hidden]
        for name, block in self.blocks.items():
            skip = skips.pop() if block.skip_channels else None
            hidden = _run_block(self, block, hidden, embedding, skip)
            if name.startswith("down_"):
                skips.append(hidden)
        return self.conv_out(F.silu(self.norm_out(hidden)))
