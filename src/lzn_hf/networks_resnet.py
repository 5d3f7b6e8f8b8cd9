# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""GroupNorm ResNet with a projection head: the image encoder of representation learning.

The bottleneck ResNet-50/101/152 (He et al., arXiv 1512.03385; the stride is in the 3x3 convolution) with every batch norm
replaced by GroupNorm of 32 groups, so that the encoding of an image does not depend on its batch. A projection head (Chen et
al., arXiv 2002.05709) follows. It ends in GroupNorm, too: anchors have mean 0 and variance 1 in each of 32 groups before scale
and shift. (As an encoder of a Latent Zoning Network: arXiv 2509.15591.)

Within a block, parameters are registered in the published order: the shortcut comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .layers_ncsnpp import check_at_least


# Number of bottlenecks of each stage of the published networks, by depth. Multiply the widths for a wider network.
RESNET_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
RESNET_WIDTHS = (64, 128, 256, 512)

EXPANSION = 4  # a bottleneck of width W has 4 W output channels
NUM_GROUPS = 32


# Each layer that holds parameters has a `reset_parameters()` of its own, and blocks have none; constructors are PyTorch's: see
# layers_scaled.py.
class HeConv2d(nn.Conv2d):
    """`nn.Conv2d` whose weights are normal with variance 2 / fan_out at first, and whose biases, if any, are 0."""

    def reset_parameters(self) -> None:
        """Initialises the weights for a ReLU."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class InputHeConv2d(HeConv2d):
    """[`HeConv2d`] at the entry of a network: images of any dtype get that of its weights, see `layers_scaled.InputConv2d`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Casts and convolves."""
        return super().forward(input.to(self.weight.dtype))


class ZeroGroupNorm(nn.GroupNorm):
    """GroupNorm whose scale starts at 0, so that the residual of a new block vanishes."""

    def reset_parameters(self) -> None:
        """Scale and shift 0."""
        for parameter in self.parameters():  # none without `affine`
            nn.init.zeros_(parameter)


# The classes of all layers with parameters. `reset_parameters()` on all modules of these classes sets everything once.
RESNET_LAYERS = (nn.Conv2d, nn.Linear, nn.GroupNorm)


class Bottleneck(GradientCheckpointingLayer):
    """`relu(shortcut(x) + norm(conv1x1(relu(norm(conv3x3(relu(norm(conv1x1(x)))))))))` with `4 * width` output channels.

    The shortcut is a 1x1 convolution with GroupNorm where the shape changes, else the identity.

    Args:
        in_channels (`int`): channels of the input.
        width (`int`): channels between the 1x1 convolutions.
        stride (`int`, *optional*, defaults to 1): stride of the 3x3 convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.shortcut_conv: nn.Module | None = None
        self.shortcut_norm: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut_conv = HeConv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut_norm = nn.GroupNorm(NUM_GROUPS, out_channels)
        self.conv1 = HeConv2d(in_channels, width, 1, bias=False)
        self.norm1 = nn.GroupNorm(NUM_GROUPS, width)
        self.conv2 = HeConv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(NUM_GROUPS, width)
        self.conv3 = HeConv2d(width, out_channels, 1, bias=False)
        self.norm3 = ZeroGroupNorm(NUM_GROUPS, out_channels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(B, in_channels, H, W)` -> `(B, 4 * width, H', W')` with H' = H / stride, W' = W / stride, rounded up."""
        residual = F.relu(self.norm1(self.conv1(hidden)), inplace=True)
        residual = F.relu(self.norm2(self.conv2(residual)), inplace=True)
        residual = self.norm3(self.conv3(residual))
        if self.shortcut_conv is not None and self.shortcut_norm is not None:
            hidden = self.shortcut_norm(self.shortcut_conv(hidden))
        return F.relu(hidden + residual, inplace=True)


class ProjectionHead(nn.ModuleDict):
    """`num_layers` linear layers without bias, each followed by GroupNorm, with ReLU between them.

    All but the last keep the width of the input. The linear layers keep PyTorch's own initialisation. With 32 groups, use at least 128
    `out_features` (published: 256): with 64 the groups are pairs, which GroupNorm maps to 1 and -1 or the reverse.
    """

    def __init__(self, in_features: int, out_features: int, num_layers: int, num_groups: int = NUM_GROUPS) -> None:
        super().__init__()
        for i in range(num_layers):
            width = out_features if i == num_layers - 1 else in_features
            self[f"linear{i}"] = nn.Linear(in_features, width, bias=False)
            self[f"norm{i}"] = nn.GroupNorm(num_groups, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(B, in_features)` -> `(B, out_features)`."""
        for i in range(len(self) // 2):
            hidden = self[f"linear{i}"](hidden if i == 0 else F.relu(hidden, inplace=True))
            hidden = self[f"norm{i}"](hidden)
        return hidden


class ResNetEncoder(nn.Module):
    """Image encoder: a GroupNorm ResNet, and a projection head from its spatial mean to the anchor.

    It takes images of any size. In the published networks the last stage has 1/32 of the size, rounded up. Where that is 1 x 1, use a
    last width of 64 or more: with 32, every group would have one element, which GroupNorm maps to 0.

    The attribute `feature_dim` is the width of the features. Its blocks are checkpointing layers of transformers: a surrounding model
    saves memory in training if stem and blocks are computed again in the backward pass.

    Args:
        in_channels (`int`): channels of the images.
        latent_dim (`int`): width of the anchors; a multiple of 32, larger than 32.
        depths (`Sequence[int]`): number of bottlenecks of each stage; see `RESNET_DEPTHS`. All stages but the first halve height and
            width in their first block.
        widths (`Sequence[int]`): width of the bottlenecks of each stage, multiples of 32; see `RESNET_WIDTHS`. The first is also that
            of the stem.
        head_layers (`int`): linear layers of the projection head.
        small_images (`bool`, *optional*, defaults to `False`): whether the stem is a 3x3 convolution that keeps the size, for images of
            about 32 pixels (He et al., section 4.2; Chen et al., section B.9), instead of a 7x7 convolution and a max pooling that leave
            a quarter of it.

    Raises:
        ValueError: if an argument is out of its range, with the name of the argument.
    """

    _gradient_checkpointing_func: Callable[..., torch.Tensor]  # set by the surrounding model

    def __init__(
        self,
        *,
        in_channels: int,
        latent_dim: int,
        depths: Sequence[int],
        widths: Sequence[int],
        head_layers: int,
        small_images: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(1, in_channels=in_channels, head_layers=head_layers)
        if not depths or min(depths) < 1:
            raise ValueError(f"`depths` must be one or more positive integers, one a stage, got {depths}.")
        if len(widths) != len(depths):
            raise ValueError(
                f"`widths` must have one entry for each of the {len(depths)} stages in `depths`, got {widths}."
            )
        if any(width < NUM_GROUPS or width % NUM_GROUPS for width in widths):
            raise ValueError(
                f"`widths` must be positive multiples of {NUM_GROUPS}, the groups of GroupNorm, got {widths}."
            )
        if latent_dim <= NUM_GROUPS or latent_dim % NUM_GROUPS:
            raise ValueError(
                f"`latent_dim` must be a multiple of {NUM_GROUPS} and larger, because anchors are normalised in "
                f"{NUM_GROUPS} groups and a group of one element would be constant, got {latent_dim}."
            )
        self.latent_dim = latent_dim
        self.feature_dim = EXPANSION * widths[-1]
        self.gradient_checkpointing = False
        self.small_images = small_images
        self.stem_conv = InputHeConv2d(in_channels, widths[0], *((3, 1, 1) if small_images else (7, 2, 3)), bias=False)
        self.stem_norm = nn.GroupNorm(NUM_GROUPS, widths[0])
        self.stages = nn.ModuleList()
        channels = widths[0]
        for depth, width in zip(depths, widths, strict=True):
            blocks = [Bottleneck(channels, width, stride=2 if len(self.stages) else 1)]
            channels = EXPANSION * width
            blocks += [Bottleneck(channels, width) for _ in range(depth - 1)]
            self.stages.append(nn.ModuleList(blocks))
        self.head = ProjectionHead(self.feature_dim, latent_dim, head_layers)

    def _stem(self, pixel_values: torch.Tensor) -> torch.Tensor:
        hidden = self.stem_conv((pixel_values + 1) / 2)
        if self.gradient_checkpointing and self.training:
            # Without the convolution: reentrant checkpoints pass gradients on only if their input has one.
            return self._gradient_checkpointing_func(self._normalise_and_pool, hidden)
        return self._normalise_and_pool(hidden)

    def _normalise_and_pool(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.stem_norm(hidden), inplace=True)
        return hidden if self.small_images else F.max_pool2d(hidden, 3, stride=2, padding=1)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encodes images, each by itself.

        Args:
            pixel_values (`Tensor` of shape `(B, in_channels, H, W)`): images in [-1, 1].

        Returns:
            `tuple(Tensor, Tensor, Tensor)`: features `(B, feature_dim)`, the spatial mean of the last stage; anchors `(B, latent_dim)`,
            in float32 at least; and the output of the last stage.
        """
        hidden = self._stem(pixel_values)
        for stage in self.stages:
            for block in stage.children():
                hidden = block(hidden)
        features = hidden.mean(dim=(2, 3))
        anchors = self.head(features)
        return features, anchors.to(torch.promote_types(anchors.dtype, torch.float32)), hidden
