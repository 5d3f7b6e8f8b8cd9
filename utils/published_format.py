# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The published format: configs of the published trainer as [`LZNConfig`], and its tensors under our names.

A published checkpoint numbers the layers of an NCSN++ in running order: `all_modules.7` is the eighth. Our networks have the
same layers in the same order under other names, so that the names follow from walking them.
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


# --- 1. Configurations ---------------------------------------------------------------------------------------------------

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
    "latent_solver": "euler",
    "latent_num_steps": 20,
    "alignment_solver": "euler",
    "alignment_num_steps": 20,
    "step_cutoff": 0.2,
    "alignment_reduction": "log_prob",
}
# The published models. The networks that LZNConfig has by default are those of CIFAR-10.
CASES = {
    "case_study_1_cifar10": LZNConfig(**GENERATION),
    "case_study_1_afhqcat": LZNConfig(**LARGE),
    "case_study_1_celebahq": LZNConfig(**LARGE),
    "case_study_1_lsunbedroom": LZNConfig(**LARGE),
    "case_study_2": LZNConfig(**RESNET),
    "case_study_3": LZNConfig(id2label=dict(enumerate(CIFAR10_LABELS)), **GENERATION),
}

# Keys of the sections of a published config with the values that are supported; None: whatever a network can be built from.
NCSNPP_KEYS = {
    "nf": None,
    "ch_mult": None,
    "num_res_blocks": None,
    "attn_resolutions": None,
    "dropout": None,
    "fir": (True, False),
    "fir_kernel": None,
    "skip_rescale": (True, False),
    "progressive": ("none", "output_skip"),
    "progressive_input": ("none", "input_skip"),
    "progressive_combine": ("sum", "cat"),
    "embedding_type": ("positional", "fourier"),
    "fourier_scale": None,
    "scale_by_sigma": (True, False),
    "attention_type": ("ddpm",),
    "conditional": (True,),
    "conv_size": (3,),
    "nonlinearity": ("swish",),
    "normalization": ("GroupNorm",),
    "resblock_type": ("biggan",),
}
# without effect on a trained network: initialisation, the noise table, and what only ddpm blocks have
NCSNPP_UNREAD = (
    "beta_max",
    "beta_min",
    "ema_rate",
    "init_scale",
    "num_scales",
    "resamp_with_conv",
    "sigma_max",
    "sigma_min",
)
RESNET_KEYS = {"head_num_layers": None, "head_out_dim": None}
RESNET_OPTIONAL = {
    "depth": tuple(RESNET_DEPTHS),
    "width_multiplier": None,
    "layers": None,
    "widths": None,
    "sk_ratio": (0,),
}
# Of the two makers of a ResNet, the second gives `layers` and `widths` where the first gives `depth` and `width_multiplier`.
ENCODERS = ("lzn.model.ncsnpp.NCSNPPEncoder", "lzn.model.resnet.get_resnet", "tiny_resnet.make")
SOLVERS = {
    "lzn.latent_flow.dpm_solver_latent_flow.DPMSolverLatentFlow": "dpmsolver++",
    "lzn.latent_flow.euler_latent_flow.EulerLatentFlow": "euler",
}
REDUCTIONS = {"prob": "prob", "cross_entropy": "log_prob"}
REQUIRED = object()


def _value(published: Mapping, path: str, supported: Collection | None = None, default: Any = REQUIRED) -> Any:
    """What a published config says at a dotted path, if it is supported."""
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
    """What a published config says at several paths, of which it need not have all, but which must agree."""
    found = {path: value for path in paths if (value := _value(published, path, default=None)) is not None}
    if not found:
        return _value(published, paths[0], default=default)
    value = next(iter(found.values()))
    if any(other != value for other in found.values()):
        raise ValueError(f"the published config contradicts itself: {found}.")
    return value


def _section(published: Mapping, path: str, required: Mapping, optional: Mapping) -> dict[str, Any]:
    """The section at a dotted path, in which every key is known and every value supported."""
    for key, value in _value(published, path).items():
        if key not in required and key not in optional:
            raise ValueError(f"`{path}.{key}` of the published config, {value!r}, is not supported.")
    section = {key: _value(published, f"{path}.{key}", supported) for key, supported in required.items()}
    optional = {key: _value(published, f"{path}.{key}", values, default=None) for key, values in optional.items()}
    return section | {key: value for key, value in optional.items() if value is not None}


def _ncsnpp_options(published: Mapping, part: str) -> dict[str, Any]:
    path = f"{part}.params.config.model"
    section = _section(published, path, NCSNPP_KEYS, dict.fromkeys(NCSNPP_UNREAD))
    if section["scale_by_sigma"] and section["embedding_type"] != "fourier":
        raise ValueError(
            f"`{path}.scale_by_sigma` of the published config is True, but that is supported only with `embedding_type` 'fourier'."
        )
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
        return {
            **_ncsnpp_options(published, "encoder"),
            "encoder_tap_channels": _value(published, "encoder.params.num_base_channels"),
            "encoder_tap_hidden_dim": _value(published, "encoder.params.num_base_units"),
            "encoder_tap_layers": _value(published, "encoder.params.num_latent_transformation_layers"),
            "encoder_tap_resolutions": _value(
                published, "encoder.params.latent_transformation_resolutions", default=None
            ),
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
    """Decoder and labels, with the label losses and solvers, which are the published ones where there are no labels."""
    if "decoder" not in published:
        return {"decoder_type": None}
    _value(published, "decoder.name", ("lzn.model.ncsnpp.NCSNPPDecoder",))
    options = _ncsnpp_options(published, "decoder")
    num_labels = _common(published, "decoder.params.num_classes", "label_anchor.params.num_classes")
    if (num_labels > 0) != ("label_anchor" in published):
        found = "has" if "label_anchor" in published else "lacks"
        raise ValueError(
            f"`decoder.params.num_classes` of the published config is {num_labels}, but it {found} a `label_anchor`; "
            "supported are both together or neither."
        )
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
    weights = {name: weight for name, weight in _value(published, "training.loss_weight").items() if weight}
    if len(weights) != 1 or not set(weights) <= set(REDUCTIONS):
        raise ValueError(
            f"`training.loss_weight` of the published config is {_value(published, 'training.loss_weight')}, but supported "
            f"is only one weight that is not 0, that of {' or '.join(REDUCTIONS)}."
        )
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
    """The config of the model that a published config describes, with its solvers and loss weights.

    Args:
        published: The trainer's config, as of its JSON file. Where it has no image size (ResNet), that is 224.

    Raises:
        ValueError: for missing keys, contradictions, and keys or values that are not supported, saying which are.
    """
    data = [f"{part}.params.config.data" for part in ("encoder", "decoder")]
    try:
        options = _encoder_options(published) | _decoder_options(published)
        if options.get("decoder_type", "ncsnpp") is None:
            options |= _contrastive_options(published)
        return LZNConfig(
            image_size=_common(published, *(f"{path}.image_size" for path in data), "image_size", default=224),
            num_channels=_common(published, *(f"{path}.num_channels" for path in data), "image_channels", default=3),
            latent_dim=_common(
                published,
                "latent_dim",
                *(f"{part}.params.latent_dim" for part in ("encoder", "decoder", "prior")),
                *("encoder.params.head_out_dim", "label_anchor.params.z_dim"),
            ),
            latent_solver=_solver(published, "encoder_latent_flow"),
            latent_num_steps=_value(published, "training.ode_num_steps"),
            **options,
        )
    except (StrictDataclassError, AttributeError, TypeError) as error:
        raise ValueError(f"the published config has a value of a wrong type: {error}") from error


# --- 2. Keys -------------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A published tensor: its part, its key without the prefix, its shape, whether it is trained; and the parameter of
    ours that it is, or is a third of, and whether transposed."""

    part: str
    key: str
    shape: tuple[int, ...]
    trainable: bool
    ours: str
    transposed: bool


def numbered_modules(network: nn.Module) -> list[nn.Module]:
    """The modules of an NCSN++ in the order of the published list `all_modules`.

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
    """All tensors of a published checkpoint, less the buffers, in its order."""
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
                entries.append(
                    Entry(
                        part=part,
                        key=f"{key}.{renamed.get(name, name)}",
                        shape=(layer.in_features, *tensor.shape[1:]) if is_nin else tuple(tensor.shape),
                        trainable=tensor.requires_grad,
                        ours=f"{names[layer]}.{name}",
                        transposed=is_nin and name == "weight",
                    )
                )
    if model.label_anchors is not None:
        entries.append(Entry("label_anchor", "anchor", tuple(model.label_anchors.shape), True, "label_anchors", False))
    return entries


def published_keys(config: LZNConfig) -> dict[str, list[tuple[str, str, bool]]]:
    """`(part, published key without the prefix, transposed)` by our state-dict key; several are joined along dimension 0."""
    keys: dict[str, list[tuple[str, str, bool]]] = {}
    for entry in published_entries(config):
        keys.setdefault(entry.ours, []).append((entry.part, entry.key, entry.transposed))
    return keys


def to_ours(config: LZNConfig, published: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by published part and key (without the prefix) to tensors by our state-dict key.

    They may be weights as well as gradients or moments of Adam, and not all need be there.

    Raises:
        ValueError: for keys of another model, and where of the three tensors that we join there are but one or two.
    """
    rest = {(part, key): tensor for part, tensors in published.items() for key, tensor in tensors.items()}
    ours = {}
    for name, sources in published_keys(config).items():
        found = [(rest.pop((part, key), None), transposed) for part, key, transposed in sources]
        tensors = [tensor.T if transposed else tensor for tensor, transposed in found if tensor is not None]
        if tensors and len(tensors) < len(sources):
            raise ValueError(
                f"`{name}` is made of {', '.join(key for _, key, _ in sources)}, which are not all there."
            )
        if tensors:
            ours[name] = torch.cat(tensors) if len(tensors) > 1 else tensors[0].contiguous()
    if rest:
        raise ValueError(f"unknown published keys: {', '.join(f'{part} {key}' for part, key in rest)}.")
    return ours


def to_published(config: LZNConfig, ours: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The other way round from [`to_ours`], in the published order.

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
