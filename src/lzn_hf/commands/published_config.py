# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Configs of the published trainer as [`LZNConfig`], and those of the published models."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from .. import LZNConfig
from ..checks_lzn import printable
from ..configuration_lzn import MAXIMA
from ..networks_resnet import RESNET_DEPTHS, RESNET_WIDTHS


CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
GENERATION: dict[str, Any] = {
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
LARGE: dict[str, Any] = {
    "image_size": 256,
    **{f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in LARGE_NETWORK.items()},
    "encoder_tap_resolutions": [64, 32, 16, 8, 4],
    "decoder_output_skip": True,
    "decoder_time_embedding": "fourier",
    "decoder_scale_by_sigma": True,
    **GENERATION,
}
RESNET: dict[str, Any] = {
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
        raise ValueError(f"`{path}` of the published config is {value!r:.200}, but supported are only: {known}.")
    return value


def _common(published: Mapping, *paths: str, default: Any = REQUIRED) -> Any:
    """Returns the value at several paths of a published config, which needs to have only one, but all must agree."""
    found = {path: value for path in paths if (value := _value(published, path, default=None)) is not None}
    if not found:
        return _value(published, paths[0], default=default)
    value = next(iter(found.values()))
    if any(other != value for other in found.values()):
        raise ValueError(f"the published config contradicts itself: {found!s:.500}.")
    return value


def _section(published: Mapping, path: str, required: Mapping, optional: Mapping) -> dict[str, Any]:
    """Returns the section at a dotted path, after checking that every key is known and every value supported."""
    for key, value in _value(published, path).items():
        if key not in required and key not in optional:
            raise ValueError(f"`{path}.{printable(key)}` of the published config, {value!r:.200}, is not supported.")
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
    if num_labels > MAXIMA["num_labels"]:
        raise ValueError(
            f"`decoder.params.num_classes` of the published config must be at most {MAXIMA['num_labels']:,}, got {num_labels}."
        )
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
        raise ValueError(
            f"`losses` of the published config is {losses!s:.200}, but supported is only one 'lzn.loss.l2.L2'."
        )
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
        message = f"`training.loss_weight` of the published config is {given!s:.200}, but supported is"
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
    except (StrictDataclassError, AttributeError, OverflowError, TypeError) as error:
        raise ValueError(f"the published config has a value of a wrong type: {error}") from error
