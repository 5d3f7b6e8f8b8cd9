# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The tensors of the published trainer under our names.

A published checkpoint numbers the layers of an NCSN++ in running order: `all_modules.7` is the eighth. Our networks have the
same layers in the same order under other names, so walking them gives the published names.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import LZNConfig, LZNModel
from ..layers_ncsnpp import AttentionBlock, InputSkip, OutputSkip, ResidualBlock
from ..networks_resnet import ResNetEncoder


class Entry(NamedTuple):
    """A published tensor, and the parameter of ours that it is (or is a third of), maybe transposed. `key` has no prefix."""

    part: str
    key: str
    shape: tuple[int, ...]
    trainable: bool
    ours: str
    transposed: bool


def numbered_modules(network: Any) -> list[nn.Module]:
    """Returns the modules of an NCSN++ in the order of the published list `all_modules`.

    Attention, which a [`ResidualBlock`] of ours holds, comes after it; an [`OutputSkip`] is two: norm and convolution.
    """
    modules = [network.conv_in]
    if (embedding := getattr(network, "condition_embedding", None)) is not None:
        modules = [embedding.time_embedding, embedding.linear1, embedding.linear2, *modules]
    for block in network.blocks.values():
        modules += [block.norm, block.conv] if isinstance(block, OutputSkip) else [block]
        modules.append(getattr(block, "attention", None))
    modules += [getattr(network, name, None) for name in ("norm_out", "conv_out")]
    return [module for module in modules if module is not None]


def _ncsnpp_layers(network: Any) -> Iterator[tuple[str, Any]]:
    taps = getattr(network, "taps", {})
    if taps:
        names, blocks = ["conv_in"], list(network.blocks.items())
        for (name, _), (_, following) in zip(blocks, [*blocks[1:], (None, None)], strict=True):
            if name != "middle_block0" and not isinstance(following, InputSkip):
                names.append(name)
        indices = [(i, taps[name]) for i, name in enumerate(names) if name in taps]
        yield from ((f"spatial_transformations.{i}.0", tap.project) for i, tap in indices)
        for i, tap in indices:
            yield from (
                (f"latent_transformations.{i}.{2 * j}", linear) for j, linear in enumerate(tap.layers.values())
            )
    for i, module in enumerate(numbered_modules(network)):
        layers: dict[str, Any] = {"": module}
        if isinstance(module, ResidualBlock):
            layers = {".GroupNorm_0": module.norm1, ".Conv_0": module.conv1, ".Dense_0": module.embedding_proj}
            layers |= {".GroupNorm_1": module.norm2, ".Conv_1": module.conv2, ".Conv_2": module.shortcut}
        elif isinstance(module, AttentionBlock):
            layers = {".GroupNorm_0": module.norm, **{f".NIN_{i}": module.qkv for i in range(3)}, ".NIN_3": module.out}
        elif isinstance(module, InputSkip):
            layers = {".Conv_0": module.conv}
        yield from ((f"all_modules.{i}{name}", layer) for name, layer in layers.items())


def _resnet_layers(network: Any) -> Iterator[tuple[str, Any]]:
    yield from (("net.0.0", network.stem_conv), ("net.0.1.0", network.stem_norm))
    for i, stage in enumerate(network.stages, start=1):
        for j, block in enumerate(stage):
            layers = {"projection.shortcut": block.shortcut_conv, "projection.bn.0": block.shortcut_norm}
            layers |= {"net.0": block.conv1, "net.1.0": block.norm1, "net.2": block.conv2, "net.3.0": block.norm2}
            layers |= {"net.4": block.conv3, "net.5.0": block.norm3}
            yield from ((f"net.{i}.blocks.{j}.{name}", layer) for name, layer in layers.items())
    for i in range(len(network.head) // 2):
        yield f"head.layers.{3 * i}", network.head[f"linear{i}"]
        yield f"head.layers.{3 * i + 1}", network.head[f"norm{i}"]


def published_entries(config: LZNConfig) -> list[Entry]:
    """Returns all tensors of a published checkpoint in its order, without buffers."""
    with torch.device("meta"):
        model = LZNModel(copy.deepcopy(config))
    names = {module: name for name, module in model.named_modules()}
    entries = []
    for part in ("encoder", "decoder"):
        if (network := getattr(model, part)) is None:
            continue
        layers = _resnet_layers(network) if isinstance(network, ResNetEncoder) else _ncsnpp_layers(network)
        for key, layer in layers:
            is_nin = ".NIN_" in key
            renamed = {"weight": "W", "bias": "b"} if is_nin else {"frequencies": "W"}
            for name, tensor in layer.state_dict(keep_vars=True).items() if layer is not None else ():
                shape = (layer.in_features, *tensor.shape[1:]) if is_nin else tuple(tensor.shape)
                published = f"{key}.{renamed.get(name, name)}"
                ours, transposed = f"{names[layer]}.{name}", is_nin and name == "weight"
                entries.append(Entry(part, published, shape, tensor.requires_grad, ours, transposed))
    if model.label_anchors is not None:
        entries.append(
            Entry(
                "label_anchor", "anchor", tuple(model.label_anchors.weight.shape), True, "label_anchors.weight", False
            )
        )
    return entries


def to_ours(config: LZNConfig, published: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Converts tensors by published part and key (without the prefix) to tensors by our state-dict key.

    They may be weights as well as gradients or moments of Adam, and may be incomplete.

    Raises:
        ValueError: for keys of another model, and for one or two of three tensors that are one of ours.
    """
    sources: dict[str, list[Entry]] = {}
    for entry in published_entries(config):
        sources.setdefault(entry.ours, []).append(entry)
    rest = {(part, key): tensor for part, tensors in published.items() for key, tensor in tensors.items()}
    ours = {}
    for name, entries in sources.items():
        found = [(entry, rest.pop((entry.part, entry.key), None)) for entry in entries]
        tensors = [tensor.T if entry.transposed else tensor for entry, tensor in found if tensor is not None]
        if tensors and len(tensors) < len(entries):
            raise ValueError(f"`{name}` is made of {', '.join(e.key for e in entries)}, which are not all there.")
        if tensors:
            ours[name] = torch.cat(tensors) if len(tensors) > 1 else tensors[0].contiguous()
    if rest:
        raise ValueError(f"unknown published keys: {', '.join(f'{part} {key}' for part, key in rest)}.")
    return ours


def to_published(config: LZNConfig, ours: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Converts the other way round from [`to_ours`], in the published order.

    Raises:
        ValueError: for keys of another model.
    """
    entries = published_entries(config)
    count = Counter(entry.ours for entry in entries)
    if unknown := [name for name in ours if name not in count]:
        raise ValueError(f"unknown keys: {', '.join(unknown)}.")
    pieces = {name: iter(tensor.chunk(count[name])) for name, tensor in ours.items()}
    published: dict[str, dict[str, Tensor]] = {}
    for entry in entries:
        if entry.ours in pieces:
            piece = next(pieces[entry.ours])
            published.setdefault(entry.part, {})[entry.key] = (piece.T if entry.transposed else piece).contiguous()
    return published
