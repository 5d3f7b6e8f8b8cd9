# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""PyTorch's convolution and linear layer, initialised by variance scaling.

Their constructors are PyTorch's, with one keyword more: adapters (the LoRA of PEFT) and quantisation build `type(layer)(...)`.

Every layer with parameters has its own `reset_parameters()`, and blocks have none: transformers initialises the parameters that a
checkpoint lacks module by module, and skips modules without parameters of their own. `reset_parameters()` calls functions of `nn.init`,
through the module `nn.init`, on whole parameters and never on views: transformers guards those calls, so that loaded weights are not
overwritten. (`nn.GroupNorm` and `nn.Linear` of PyTorch do the same.)
"""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor, nn


TINY_INIT_SCALE = 1e-10  # variance scale of layers that should start at zero: their gradients stay alive


class ScaledConv2d(nn.Conv2d):
    """`nn.Conv2d` whose weights have variance `init_scale` / mean(fan_in, fan_out) at first, and whose biases are 0.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype: see `nn.Conv2d`.
        init_scale (`float`, *optional*, defaults to 1.0): factor of the variance.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        init_scale: float = 1.0,
    ) -> None:
        self.init_scale = init_scale  # first, because the constructor of nn.Conv2d calls reset_parameters
        sizes = (in_channels, out_channels, kernel_size, stride, padding, dilation)
        super().__init__(*sizes, groups, bias, padding_mode, device, dtype)

    def reset_parameters(self) -> None:
        """Initialises by variance scaling."""
        _scale_variance(self, self.init_scale)


class ScaledLinear(nn.Linear):
    """`nn.Linear` whose weights have variance `init_scale` / mean(fan_in, fan_out) at first, and whose biases are 0.

    Args:
        in_features, out_features, bias, device, dtype: see `nn.Linear`.
        init_scale (`float`, *optional*, defaults to 1.0): factor of the variance.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        init_scale: float = 1.0,
    ) -> None:
        self.init_scale = init_scale  # first, because the constructor of nn.Linear calls reset_parameters
        super().__init__(in_features, out_features, bias, device, dtype)

    def reset_parameters(self) -> None:
        """Initialises by variance scaling."""
        _scale_variance(self, self.init_scale)


class InputConv2d(ScaledConv2d):
    """[`ScaledConv2d`] at the entry of a network: images of any dtype get that of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Casts and convolves."""
        # Here and not in the network: while hooks hold the weights in another dtype or elsewhere, only a layer knows its own.
        return super().forward(input.to(self.weight.dtype))


class InputLinear(ScaledLinear):
    """[`ScaledLinear`] at the entry of a network: vectors of any dtype get that of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Casts and maps."""
        return super().forward(input.to(self.weight.dtype))


def _scale_variance(layer: nn.Conv2d | nn.Linear, init_scale: float) -> None:
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(init_scale))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


__all__ = ["TINY_INIT_SCALE", "InputConv2d", "InputLinear", "ScaledConv2d", "ScaledLinear"]
