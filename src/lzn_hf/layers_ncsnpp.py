# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Layers and blocks of NCSN++: resampling, embeddings, residual and attention blocks, image pyramids, latent taps.

(NCSN++: Song et al., arXiv 2011.13456. FIR resampling: Karras et al., arXiv 1912.04958. Latent taps: arXiv 2509.15591.)
Within a block, parameters are registered in the published order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .layers_scaled import TINY_INIT_SCALE, InputConv2d, InputLinear, ScaledConv2d, ScaledLinear


SKIP_SCALE = 1 / math.sqrt(2)  # a sum of two unit-variance branches has unit variance again


def check_at_least(minimum: int, **arguments: int) -> None:
    """Raises a ValueError about the first argument below the minimum."""
    for name, value in arguments.items():
        if value < minimum:
            raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


def check_fir_kernel(name: str, kernel: Sequence[float]) -> None:
    """Raises a ValueError about the argument `name` unless `kernel` can be normalised and resamples symmetrically."""
    if len(kernel) % 2 != 0 or sum(kernel) == 0:
        raise ValueError(f"`{name}` must be an even number of taps whose sum is not 0, got {kernel}.")


def _fir_weight(x: torch.Tensor, taps: Sequence[float], gain: float) -> torch.Tensor:
    """Depthwise filter `(C, 1, K, K)` for `x` `(B, C, H, W)`: outer(k, k), k = `gain` * taps / sum(taps)."""
    # Not a buffer: it would be saved in checkpoints, or lost on the meta device. The copy of these few numbers does not wait for
    # the device, and a compiler inlines a short 1-D constant.
    line = torch.tensor([gain * tap / sum(taps) for tap in taps], dtype=x.dtype).to(x.device, non_blocking=True)
    return (line[:, None] * line).expand(x.shape[1], 1, -1, -1)


def fir_downsample(x: torch.Tensor, kernel: Sequence[float]) -> torch.Tensor:
    """Filters each channel and keeps every second pixel: `(B, C, H, W)` -> `(B, C, H / 2, W / 2)`.

    y[n] = sum_m k[m] x[2 n + K / 2 - m] along each axis, with k = kernel / sum(kernel), K taps, and x = 0 outside.
    """
    check_fir_kernel("kernel", kernel)
    weight = _fir_weight(x, kernel[::-1], gain=1)  # F.conv2d correlates: reversed taps make it a convolution
    return F.conv2d(x, weight, stride=2, padding=len(kernel) // 2 - 1, groups=x.shape[1])


def fir_upsample(x: torch.Tensor, kernel: Sequence[float]) -> torch.Tensor:
    """Puts a zero behind every pixel and filters each channel: `(B, C, H, W)` -> `(B, C, 2 H, 2 W)`.

    y[n] = 2 sum_i k[n + K / 2 - 1 - 2 i] x[i] along each axis, with k = kernel / sum(kernel) and K taps. The gain of 2
    compensates the zeros, which the transposed convolution never stores.
    """
    check_fir_kernel("kernel", kernel)
    weight = _fir_weight(x, kernel, gain=2)
    return F.conv_transpose2d(x, weight, stride=2, padding=len(kernel) // 2 - 1, groups=x.shape[1])


def downsample(x: torch.Tensor, fir_kernel: Sequence[float] | None) -> torch.Tensor:
    """`(B, C, H, W)` -> `(B, C, H / 2, W / 2)`: FIR filter, or 2x2 mean without one."""
    return F.avg_pool2d(x, 2) if fir_kernel is None else fir_downsample(x, fir_kernel)


def upsample(x: torch.Tensor, fir_kernel: Sequence[float] | None) -> torch.Tensor:
    """`(B, C, H, W)` -> `(B, C, 2 H, 2 W)`: FIR filter, or nearest neighbour without one."""
    if fir_kernel is None:
        return F.interpolate(x, scale_factor=2, mode="nearest")
    return fir_upsample(x, fir_kernel)


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


class GroupNormSiLU(nn.GroupNorm):
    """silu(group_norm(x)), in one buffer where no gradients are needed: fresh memory costs a CPU as much as the arithmetic."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` -> `(B, C, H, W)`."""
        return F.silu(super().forward(input), inplace=not torch.is_grad_enabled())


def group_norm(channels: int, activation: bool = False) -> nn.GroupNorm:
    """GroupNorm of min(channels // 4, 32) groups; with `activation` SiLU follows."""
    groups = min(channels // 4, 32)
    if groups < 1 or channels % groups != 0:
        raise ValueError(
            f"`base_channels` times `channel_multipliers` gives a layer of {channels} channels (skips included), "
            f"which GroupNorm cannot split into min(channels // 4, 32) = {groups} equal groups. Use a `base_channels` "
            "that is a multiple of 4, or of 32 where layers have 128 channels and more."
        )
    return (GroupNormSiLU if activation else nn.GroupNorm)(groups, channels, eps=1e-6)


class FourierEmbedding(nn.Module):
    """Random Fourier features of a scalar u: cat[sin(2 pi u W), cos(2 pi u W)], with fixed W ~ normal(0, scale).

    `frequencies` is W: a buffer, because it is saved but not trained, and `from_pretrained` makes every parameter trainable.
    Keep it in float32 where the rest is in half precision: rounding W to 8 bits turns the angles by a radian and more.
    """

    frequencies: torch.Tensor

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("frequencies", torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Frequencies normal with standard deviation `scale`."""
        nn.init.normal_(self.frequencies, std=self.scale)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """`(B,)` -> `(B, 2 * dim)`; both in float32 at least, because the angles are hundreds of turns."""
        angles = u[:, None] * self.frequencies * (2 * math.pi)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


# The classes of all layers with weights. `reset_parameters()` on all modules of these classes sets everything once.
NCSNPP_LAYERS = (nn.Conv2d, nn.Linear, nn.GroupNorm, FourierEmbedding)


def _add(hidden: torch.Tensor, residual: torch.Tensor, skip_rescale: bool) -> torch.Tensor:
    total = hidden + residual
    return total.mul_(SKIP_SCALE) if skip_rescale else total


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions of a `channels` wide feature map, with a skip connection.

    `qkv` stacks the query, key and value projections along its output dimension, in this order (published:
    `NIN_0.W.T`, `NIN_1.W.T`, `NIN_2.W.T`); `out` is the output projection (`NIN_3.W.T`).
    """

    def __init__(self, channels: int, skip_rescale: bool = True) -> None:
        super().__init__()
        self.skip_rescale = skip_rescale
        self.norm = group_norm(channels)
        # 0.1 for each of the three projections, of fans C and C. The stack has fans C and 3 C, on average twice as many.
        self.qkv = ScaledLinear(channels, 3 * channels, init_scale=0.1 * 2)
        self.out = ScaledLinear(channels, channels, init_scale=TINY_INIT_SCALE)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` -> `(B, C, H, W)`."""
        # (B, C, H, W) -> (B, 1 head, H * W, C): a view for channels_last tensors
        positions = self.norm(hidden).flatten(2).transpose(1, 2).unsqueeze(1)
        query, key, value = self.qkv(positions).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(query, key, value)
        residual = self.out(attended).squeeze(1).transpose(1, 2).unflatten(2, hidden.shape[2:])
        return _add(hidden, residual, self.skip_rescale)


class ResidualBlock(GradientCheckpointingLayer):
    """BigGAN residual block, optionally with resampling, conditioning, a skip connection as second input, or attention behind it.

    Args:
        in_channels (`int`): channels of the input.
        out_channels (`int`): channels of the output.
        skip_channels (`int`, *optional*, defaults to 0): channels of a second input, concatenated to the first; 0 for none.
        embedding_dim (`int`, *optional*, defaults to 0): width of the conditioning vector; 0 for none.
        dropout (`float`, *optional*, defaults to 0.0): dropout probability before the second convolution.
        resample (`str`, *optional*): `"up"` (doubles height and width) or `"down"` (halves them).
        fir_kernel (`Sequence[float]`, *optional*): taps of the resampling filter; default: nearest neighbour up, 2x2 mean down.
        skip_rescale (`bool`, *optional*, defaults to `True`): whether sums with a skip connection are divided by sqrt(2), also in the
            attention.
        attention (`bool`, *optional*, defaults to `False`): whether an [`AttentionBlock`] follows.
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
        fir_kernel: Sequence[float] | None = None,
        skip_rescale: bool = True,
        attention: bool = False,
    ) -> None:
        super().__init__()
        in_channels += skip_channels
        self.skip_channels = skip_channels
        self.dropout = dropout
        self.resample = resample
        self.fir_kernel = fir_kernel
        self.skip_rescale = skip_rescale
        self.norm1 = group_norm(in_channels, activation=True)
        self.conv1 = ScaledConv2d(in_channels, out_channels, 3, padding=1)
        self.embedding_proj = ScaledLinear(embedding_dim, out_channels) if embedding_dim else None
        self.norm2 = group_norm(out_channels, activation=True)
        self.conv2 = ScaledConv2d(out_channels, out_channels, 3, padding=1, init_scale=TINY_INIT_SCALE)
        self.shortcut = ScaledConv2d(in_channels, out_channels, 1) if resample or in_channels != out_channels else None
        self.attention = AttentionBlock(out_channels, skip_rescale) if attention else None

    def _resample(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.resample == "up":
            return upsample(hidden, self.fir_kernel)
        if self.resample == "down":
            return downsample(hidden, self.fir_kernel)
        return hidden

    def forward(
        self, hidden: torch.Tensor, embedding: torch.Tensor | None = None, skip: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`(B, in_channels, H, W)` -> `(B, out_channels, H', W')`, with height and width doubled, halved or unchanged.

        Args:
            hidden (`Tensor` of shape `(B, in_channels, H, W)`): the input.
            embedding (`Tensor` of shape `(B, embedding_dim)`, *optional*): the activated condition, for conditioned blocks only.
            skip (`Tensor` of shape `(B, skip_channels, H, W)`, *optional*): the second input, for blocks with one only.
        """
        if skip is not None:  # joined here and not by the caller: gradient checkpointing keeps no joined copy
            hidden = torch.cat([hidden, skip], dim=1)
        residual = self.conv1(self._resample(self.norm1(hidden)))
        if self.embedding_proj is not None:
            residual = residual + self.embedding_proj(embedding)[:, :, None, None]
        residual = self.conv2(F.dropout(self.norm2(residual), self.dropout, self.training))
        hidden = self._resample(hidden)
        if self.shortcut is not None:
            hidden = self.shortcut(hidden)
        hidden = _add(hidden, residual, self.skip_rescale)
        return hidden if self.attention is None else self.attention(hidden)


class InputSkip(nn.Module):
    """Joins the downsampled image of `in_channels` channels to a feature map of `channels` channels.

    The output has `channels` channels with `mode` `"sum"`, and twice as many with `"cat"`, those of the image first.
    """

    def __init__(self, in_channels: int, channels: int, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.conv = InputConv2d(in_channels, channels, 1)

    def forward(self, pyramid: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """`(B, in_channels, H, W)`, `(B, channels, H, W)` -> `(B, channels or 2 * channels, H, W)`."""
        projected = self.conv(pyramid)
        return projected + hidden if self.mode == "sum" else torch.cat([projected, hidden], dim=1)


class OutputSkip(GradientCheckpointingLayer):
    """Adds the output of one resolution to the upsampled output of the coarser ones."""

    def __init__(self, channels: int, out_channels: int, fir_kernel: Sequence[float] | None = None) -> None:
        super().__init__()
        self.fir_kernel = fir_kernel
        self.norm = group_norm(channels, activation=True)
        self.conv = ScaledConv2d(channels, out_channels, 3, padding=1, init_scale=TINY_INIT_SCALE)

    def forward(self, hidden: torch.Tensor, pyramid: torch.Tensor | None) -> torch.Tensor:
        """`(B, channels, H, W)`, `(B, out_channels, H / 2, W / 2)` or `None` -> `(B, out_channels, H, W)`."""
        output = self.conv(self.norm(hidden))
        return output if pyramid is None else upsample(pyramid, self.fir_kernel) + output


class LatentTap(nn.Module):
    """Maps a feature map to its summand of the anchor: a 1x1 convolution, flattening in C, H, W order, linear layers.

    The linear layers keep PyTorch's own initialisation.

    Args:
        in_channels (`int`): channels of the feature map.
        resolution (`int`): height and width of the feature map.
        latent_dim (`int`): width of the anchor.
        channels (`int`): channels after the convolution.
        hidden_dim (`int`): width of the hidden layers.
        num_layers (`int`): number of linear layers.
    """

    def __init__(
        self, in_channels: int, resolution: int, latent_dim: int, channels: int, hidden_dim: int, num_layers: int
    ) -> None:
        super().__init__()
        self.project = ScaledConv2d(in_channels, channels, 1)
        widths = [channels * resolution**2] + [hidden_dim] * (num_layers - 1) + [latent_dim]
        self.layers = nn.ModuleDict({f"linear{i}": nn.Linear(widths[i], widths[i + 1]) for i in range(num_layers)})

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(B, in_channels, resolution, resolution)` -> `(B, latent_dim)`."""
        hidden = self.project(hidden).flatten(1)
        for layer in self.layers.values():
            hidden = layer(F.silu(hidden))
        return hidden


class ConditionEmbedding(nn.Module):
    """Embeds latent, label and time together. Time is the step number 999 t.

    Args:
        latent_dim (`int`): width of the latents.
        num_labels (`int`): number of labels; 0 for an embedding without them.
        channels (`int`): `base_channels` of the decoder.
        time_embedding (`str`): `"sinusoidal"`: `channels` sinusoids of the time. `"fourier"`: `2 * channels` random Fourier features of
            its logarithm.
        fourier_scale (`float`): standard deviation of the frequencies of these features.
    """

    def __init__(
        self, latent_dim: int, num_labels: int, channels: int, time_embedding: str, fourier_scale: float
    ) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.channels = channels
        is_fourier = time_embedding == "fourier"
        self.time_embedding = FourierEmbedding(channels, fourier_scale) if is_fourier else None
        time_dim = 2 * channels if is_fourier else channels
        self.linear1 = InputLinear(latent_dim + num_labels + time_dim, 4 * channels)
        self.linear2 = ScaledLinear(4 * channels, 4 * channels)

    def forward(self, steps: torch.Tensor, latents: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """`(B,)` in float32 at least, `(B, latent_dim)`, `(B,)` or `None` -> `(B, 4 * channels)`, activated."""
        parts = [latents.to(steps.dtype)]
        if labels is not None:  # one-hot; zero where the label is -1, none
            parts.append((labels[:, None] == torch.arange(self.num_labels, device=labels.device)).to(steps.dtype))
        if self.time_embedding is None:
            time = timestep_embedding(steps, self.channels)
        else:
            time = self.time_embedding(steps.log())
        parts.append(time.to(steps.dtype))
        return F.silu(self.linear2(F.silu(self.linear1(torch.cat(parts, dim=1)))))
