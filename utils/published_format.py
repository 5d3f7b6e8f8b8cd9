# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The published format: configs of the published trainer as [`LZNConfig`], and its tensors under our names.

A published checkpoint numbers the layers of an NCSN++ in running order: `all_modules.7` is the eighth. Our networks have the
same layers in the same order under other names, so walking them gives the published names.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from lzn_hf import LZNConfig, LZNModel
from lzn_hf.layers_ncsnpp import AttentionBlock, InputSkip, OutputSkip, ResidualBlock
from lzn_hf.networks_resnet import RESNET_DEPTHS, RESNET_WIDTHS, ResNetEncoder


# --- Configurations ------------------------------------------------------------------------------------------------------

CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
GENERATION = {
    "latent_solver": "dpmsolver++",
    "latent_num_steps": 20,
    "alignment_solver": "euler",
    "alignment_num_steps": 100,
    "step_cutoff": 0.2,
    "alignment_reduction": "prob",
}
LARGE_NETWORK = {
    "base_channels": 128,
    "channel_multipliers": [1, 1, 2, 2, 2, 2, 2],
    "num_res_blocks": 2,
    "attention_resolutions": [16],
    "dropout": 0.0,
    "fir_kernel": [1, 3, 3, 1],
    "input_skip": "sum",
}
LARGE = {
    "image_size": 256,
    **{f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in LARGE_NETWORK.items()},
    "encoder_tap_resolutions": [64, 32, 16, 8, 4],
    "decoder_output_skip": True,
    "decoder_time_embedding": "fourier",
    "decoder_scale_by_sigma": True,
    **GENERATION,
}
RESNET = {
    "image_size": 224,
    "latent_dim": 256,
    "encoder_type": "resnet",
    "decoder_type": None,
    "encoder_depths": list(RESNET_DEPTHS[50]),
    "encoder_widths": list(RESNET_WIDTHS),
    "encoder_head_layers": 2,
    **dict.fromkeys(("latent_solver", "alignment_solver"), "euler"),
    **dict.fromkeys(("latent_num_steps", "alignment_num_steps"), 20),
    "step_cutoff": 0.2,
    "alignment_reduction": "log_prob",
}
# The published models. The networks that LZNConfig has by default are those of CIFAR-10.
CASES = {
    "case_study_1_cifar10": LZNConfig(**GENERATION),
    **{f"case_study_1_{data}": LZNConfig(**LARGE) for data in ("afhqcat", "celebahq", "lsunbedroom")},
    "case_study_2": LZNConfig(**RESNET),
    "case_study_3": LZNConfig(id2label=dict(enumerate(CIFAR10_LABELS)), **GENERATION),
}

# Keys of the sections of a published config with the supported values; None: whatever a network can be built from.
NCSNPP_KEYS = {
    **dict.fromkeys(("nf", "ch_mult", "num_res_blocks", "attn_resolutions", "dropout", "fir_kernel", "fourier_scale")),
    **dict.fromkeys(("fir", "skip_rescale", "scale_by_sigma"), (True, False)),
    "progressive": ("none", "output_skip"),
    "progressive_input": ("none", "input_skip"),
    "progressive_combine": ("sum", "cat"),
    "embedding_type": ("positional", "fourier"),
    "attention_type": ("ddpm",),
    "conditional": (True,),
    "conv_size": (3,),
    "nonlinearity": ("swish",),
    "normalization": ("GroupNorm",),
    "resblock_type": ("biggan",),
}
# without effect on a trained network: initialization, the noise table, and what only ddpm blocks have
NCSNPP_UNREAD = "beta_max beta_min ema_rate init_scale num_scales resamp_with_conv sigma_max sigma_min".split()
RESNET_KEYS = {"head_num_layers": None, "head_out_dim": None}
RESNET_SIZES = dict.fromkeys(("width_multiplier", "layers", "widths"))
RESNET_OPTIONAL = {**RESNET_SIZES, "depth": tuple(RESNET_DEPTHS), "sk_ratio": (0,)}
# Of the two makers of a ResNet, the second gives `layers` and `widths` where the first gives `depth` and `width_multiplier`.
ENCODERS = ("lzn.model.ncsnpp.NCSNPPEncoder", "lzn.model.resnet.get_resnet", "tiny_resnet.make")
SOLVERS = {
    "lzn.latent_flow.dpm_solver_latent_flow.DPMSolverLatentFlow": "dpmsolver++",
    "lzn.latent_flow.euler_latent_flow.EulerLatentFlow": "euler",
}
REDUCTIONS = {"prob": "prob", "cross_entropy": "log_prob"}
REQUIRED = object()


def _value(published: Mapping, path: str, supported: Collection | None = None, default: Any = REQUIRED) -> Any:
    """Returns the value of a published config at a dotted path, if it is supported."""
    value = published
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            if default is REQUIRED:
                raise ValueError(f"the published config lacks `{path}`.")
            return default
        value = value[key]
    if supported is not None and value not in supported:
        known = ", ".join(map(repr, supported))
        raise ValueError(f"`{path}` of the published config is {value!r}, but supported are only: {known}.")
    return value


def _common(published: Mapping, *paths: str, default: Any = REQUIRED) -> Any:
    """Returns the value at several paths of a published config, which needs to have only one, but all must agree."""
    found = {path: value for path in paths if (value := _value(published, path, default=None)) is not None}
    if not found:
        return _value(published, paths[0], default=default)
    value = next(iter(found.values()))
    if any(other != value for other in found.values()):
        raise ValueError(f"the published config contradicts itself: {found}.")
    return value


def _section(published: Mapping, path: str, required: Mapping, optional: Mapping) -> dict[str, Any]:
    """Returns the section at a dotted path, after checking that every key is known and every value supported."""
    for key, value in _value(published, path).items():
        if key not in required and key not in optional:
            raise ValueError(f"`{path}.{key}` of the published config, {value!r}, is not supported.")
    section = {key: _value(published, f"{path}.{key}", supported) for key, supported in required.items()}
    found = {key: _value(published, f"{path}.{key}", values, default=None) for key, values in optional.items()}
    return section | {key: value for key, value in found.items() if value is not None}


def _ncsnpp_options(published: Mapping, part: str) -> dict[str, Any]:
    path = f"{part}.params.config.model"
    section = _section(published, path, NCSNPP_KEYS, dict.fromkeys(NCSNPP_UNREAD))
    if section["scale_by_sigma"] and section["embedding_type"] != "fourier":
        message = f"`{path}.scale_by_sigma` of the published config is True, but that"
        raise ValueError(f"{message} is supported only with `embedding_type` 'fourier'.")
    options = {
        "base_channels": section["nf"],
        "channel_multipliers": section["ch_mult"],
        "num_res_blocks": section["num_res_blocks"],
        "attention_resolutions": section["attn_resolutions"],
        "dropout": section["dropout"],
        "skip_rescale": section["skip_rescale"],
        "fir_kernel": section["fir_kernel"] if section["fir"] else None,
        "input_skip": section["progressive_combine"] if section["progressive_input"] == "input_skip" else None,
    }
    if part == "decoder":
        options |= {
            "output_skip": section["progressive"] == "output_skip",
            "time_embedding": "fourier" if section["embedding_type"] == "fourier" else "sinusoidal",
            "fourier_scale": section["fourier_scale"],
            "scale_by_sigma": section["scale_by_sigma"],
        }
    return {f"{part}_{name}": value for name, value in options.items()}


def _encoder_options(published: Mapping) -> dict[str, Any]:
    if _value(published, "encoder.name", ENCODERS) == ENCODERS[0]:
        path = "encoder.params"
        return {
            **_ncsnpp_options(published, "encoder"),
            "encoder_tap_channels": _value(published, f"{path}.num_base_channels"),
            "encoder_tap_hidden_dim": _value(published, f"{path}.num_base_units"),
            "encoder_tap_layers": _value(published, f"{path}.num_latent_transformation_layers"),
            "encoder_tap_resolutions": _value(published, f"{path}.latent_transformation_resolutions", default=None),
        }
    section = _section(published, "encoder.params", RESNET_KEYS, RESNET_OPTIONAL)
    if "layers" not in section:
        _value(published, "encoder.params.depth")
        section["layers"] = list(RESNET_DEPTHS[section["depth"]])
        section["widths"] = [width * section.get("width_multiplier", 1) for width in RESNET_WIDTHS]
    return {
        "encoder_type": "resnet",
        "encoder_depths": section["layers"],
        "encoder_widths": _value(section, "widths"),
        "encoder_head_layers": section["head_num_layers"],
    }


def _decoder_options(published: Mapping) -> dict[str, Any]:
    """Returns options of decoder and labels, with the losses and solvers of labels; without labels, the published ones."""
    if "decoder" not in published:
        return {"decoder_type": None}
    _value(published, "decoder.name", ("lzn.model.ncsnpp.NCSNPPDecoder",))
    options = _ncsnpp_options(published, "decoder")
    num_labels = _common(published, "decoder.params.num_classes", "label_anchor.params.num_classes")
    if (num_labels > 0) != ("label_anchor" in published):
        found = "has" if "label_anchor" in published else "lacks"
        message = (
            f"`decoder.params.num_classes` of the published config is {num_labels}, but it {found} a `label_anchor`"
        )
        raise ValueError(f"{message}; supported are both together or neither.")
    if num_labels:
        is_cifar10 = _value(published, "data.name", default="") == "lzn.data.cifar10.CIFAR10" and num_labels == 10
        options["id2label"] = dict(enumerate(CIFAR10_LABELS if is_cifar10 else map(str, range(num_labels))))
    losses = _value(published, "losses")
    if [loss.get("name") for loss in losses] != ["lzn.loss.l2.L2"]:
        raise ValueError(f"`losses` of the published config is {losses}, but supported is only one 'lzn.loss.l2.L2'.")
    return {
        **options,
        "alignment_solver": _solver(published, "label_latent_flow") if num_labels else "euler",
        "alignment_num_steps": _value(published, "training.label_ode_num_steps", default=100),
        "step_cutoff": _value(published, "training.label_loss_cut_off_step", default=0.2),
        "alignment_reduction": "prob",
        "alignment_weight": _value(published, "training.label_loss_coe", default=1.0),
        "reconstruction_weight": _value(published, "training.recon_loss_coe") * losses[0].get("weight", 1.0),
    }


def _contrastive_options(published: Mapping) -> dict[str, Any]:
    given = _value(published, "training.loss_weight")
    weights = {name: weight for name, weight in given.items() if weight}
    if len(weights) != 1 or not set(weights) <= set(REDUCTIONS):
        message = f"`training.loss_weight` of the published config is {given}, but supported is"
        raise ValueError(f"{message} only one weight that is not 0, that of {' or '.join(REDUCTIONS)}.")
    ((name, weight),) = weights.items()
    return {
        "alignment_solver": _solver(published, "encoder_latent_flow"),
        "alignment_num_steps": _value(published, "training.ode_num_steps"),
        "step_cutoff": _value(published, "training.assignment_loss_cut_off_step"),
        "alignment_reduction": REDUCTIONS[name],
        "alignment_weight": weight,
    }


def _solver(published: Mapping, path: str) -> str:
    _value(published, f"{path}.params", ({},), default={})
    return SOLVERS[_value(published, f"{path}.name", SOLVERS)]


def config_from_published(published: Mapping[str, Any]) -> LZNConfig:
    """Returns the config of the model that a published config describes, with its solvers and loss weights.

    Args:
        published: The trainer's config, as in its JSON file. Without an image size (ResNet), that is 224.

    Raises:
        ValueError: for missing keys, contradictions, and keys or values that are not supported, saying which are.
    """
    parts = ("encoder", "decoder")
    data = [f"{part}.params.config.data" for part in parts]
    dims = ["latent_dim", *(f"{part}.params.latent_dim" for part in (*parts, "prior"))]
    dims += ["encoder.params.head_out_dim", "label_anchor.params.z_dim"]
    try:
        options = _encoder_options(published) | _decoder_options(published)
        if options.get("decoder_type", "ncsnpp") is None:
            options |= _contrastive_options(published)
        return LZNConfig(
            image_size=_common(published, *(f"{path}.image_size" for path in data), "image_size", default=224),
            num_channels=_common(published, *(f"{path}.num_channels" for path in data), "image_channels", default=3),
            latent_dim=_common(published, *dims),
            latent_solver=_solver(published, "encoder_latent_flow"),
            latent_num_steps=_value(published, "training.ode_num_steps"),
            **options,
        )
    except (StrictDataclassError, AttributeError, TypeError) as error:
        raise ValueError(f"the published config has a value of a wrong type: {error}") from error


# --- Keys ----------------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A published tensor, and the parameter of ours that it is (or is a third of), maybe transposed. `key` has no prefix."""

    part: str
    key: str
    shape: tuple[int, ...]
    trainable: bool
    ours: str
    transposed: bool


def numbered_modules(network: nn.Module) -> list[nn.Module]:
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


def _ncsnpp_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module | None]]:
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
        layers = {"": module}
        if isinstance(module, ResidualBlock):
            layers = {".GroupNorm_0": module.norm1, ".Conv_0": module.conv1, ".Dense_0": module.embedding_proj}
            layers |= {".GroupNorm_1": module.norm2, ".Conv_1": module.conv2, ".Conv_2": module.shortcut}
        elif isinstance(module, AttentionBlock):
            layers = {".GroupNorm_0": module.norm, **{f".NIN_{i}": module.qkv for i in range(3)}, ".NIN_3": module.out}
        elif isinstance(module, InputSkip):
            layers = {".Conv_0": module.conv}
        yield from ((f"all_modules.{i}{name}", layer) for name, layer in layers.items())


def _resnet_layers(network: ResNetEncoder) -> Iterator[tuple[str, nn.Module | None]]:
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
