# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The networks that a configuration names, and the mode that they are in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .configuration_lzn import LZNConfig
from .networks_backbone import BackboneEncoder
from .networks_ncsnpp import NCSNppDecoder, NCSNppEncoder
from .networks_resnet import ResNetEncoder
from .networks_types import TypeEncoder


# The arguments of each network that LZNConfig has under the name of the part: `encoder_base_channels`, ...
NCSNPP_ARGUMENTS = (
    "base_channels",
    "channel_multipliers",
    "num_res_blocks",
    "attention_resolutions",
    "dropout",
    "skip_rescale",
    "fir_kernel",
    "input_skip",
)
ENCODER_ARGUMENTS = {
    "ncsnpp": (*NCSNPP_ARGUMENTS, "tap_channels", "tap_hidden_dim", "tap_layers", "tap_resolutions"),
    "resnet": ("depths", "widths", "head_layers", "small_images"),
    "transformers": ("backbone", "head_layers"),
}
DECODER_ARGUMENTS = (*NCSNPP_ARGUMENTS, "output_skip", "time_embedding", "fourier_scale", "scale_by_sigma")


# Calls inside `evaluation_mode` by model: their number, and the modules that were in training mode before the first.
_calls: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = WeakKeyDictionary()
_calls_lock = threading.Lock()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Turns off dropout and gradients; on exit every submodule has the mode that it had before.

    Threads may be inside at once: the modes of before come back when the last one leaves.
    """
    with _calls_lock:
        # A model that is in evaluation mode already, as a loaded one, has nothing to switch: that would take a millisecond of a small one.
        count, modes = _calls.get(model) or (0, [module for module in model.modules() if module.training])
        _calls[model] = count + 1, modes
        if count == 0 and modes:
            model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        with _calls_lock:
            count, modes = _calls.pop(model)
            if count > 1:
                _calls[model] = count - 1, modes
            else:
                for module in modes:
                    module.training = True


def build_encoder(config: LZNConfig) -> nn.Module | None:
    """The image encoder, from images `(B, C, H, W)` to features `(B, F)` and anchors `(B, D)`; `None` for a model without one."""
    if config.encoder_type is None:
        return None
    arguments = {name: getattr(config, f"encoder_{name}") for name in ENCODER_ARGUMENTS[config.encoder_type]}
    arguments |= {"in_channels": config.num_channels, "latent_dim": config.latent_dim}
    if config.encoder_type == "resnet":
        return ResNetEncoder(**arguments)
    if config.encoder_type == "transformers":
        return BackboneEncoder(image_size=config.image_size, **arguments)
    return NCSNppEncoder(image_size=config.image_size, **arguments)


def build_type_encoders(config: LZNConfig) -> nn.ModuleDict:
    """The encoders of data types beside images, by name, from their inputs to features `(B, F)` and anchors `(B, D)`."""
    return nn.ModuleDict(
        {
            name: TypeEncoder(one, config.latent_dim, config.type_head_layers)
            for name, one in config.type_configs.items()
        }
    )


def build_decoder(config: LZNConfig) -> NCSNppDecoder | None:
    """The velocity decoder, which takes latents if there is an image encoder or labels; `None` for a model without one."""
    if config.decoder_type is None:
        return None
    arguments = {name: getattr(config, f"decoder_{name}") for name in DECODER_ARGUMENTS}
    return NCSNppDecoder(
        image_size=config.image_size,
        in_channels=config.num_channels,
        latent_dim=config.decoder_condition_dim,
        num_labels=config.num_labels or 0,
        **arguments,
    )


__all__ = ["build_decoder", "build_encoder", "build_type_encoders", "evaluation_mode"]
