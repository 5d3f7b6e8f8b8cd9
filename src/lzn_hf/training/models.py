# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The model of a training run: built for a dataset, fine-tuned for other labels, its parts averaged and frozen."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, cast

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn

from ..checks_lzn import normal_name
from ..configuration_lzn import LZNConfig
from ..modeling_lzn import LZNModel
from ..networks_backbone import BackboneEncoder, backbone_arguments, load_backbone_weights
from .arguments import DataArguments, near_names
from .settings import CONFIG_FIELDS
from .sharding import whole


logger = logging.getLogger(__name__)

# Its input is the latent, the one-hot label and the time embedding, concatenated.
LABEL_INPUT_LAYER = "decoder.condition_embedding.linear1.weight"
# Fields of LZNConfig about data types beside images and labels.
TYPE_FIELDS = ("text_config", "data_types", "decoder_data_type")
# Fields of LZNConfig that are derived, and from what.
FIELDS_SET_ELSEWHERE = {
    "image_size": "--image_size",
    "num_channels": "--num_channels",
    "num_labels": "the labels of the dataset",
    "id2label": "the labels of the dataset",
    "num_reference_anchors": "--num_reference_anchors",
    "prediction_time": "the validation images at the end of training",
}


def build_model(
    overrides: Mapping[str, Any],
    *,
    image_size: int,
    num_channels: int,
    label_names: Sequence[str],
    pretrained: str | None = None,
    encoder: str | None = None,
) -> LZNModel:
    """Builds the model for a dataset, from random weights or from a saved one.

    Args:
        overrides (`Mapping[str, Any]`): fields of `LZNConfig`. With `pretrained` they replace those of the saved model.
        image_size (`int`): height and width of the images.
        num_channels (`int`): channels of the images.
        label_names (`Sequence[str]`): names of the labels. Empty for a model without labels.
        pretrained (`str`, *optional*): folder or hub id of a saved model.
        encoder (`str`, *optional*): folder or hub id of an image model of transformers, the image encoder of a new model.

    Returns:
        `LZNModel`: the model, without reference anchors.

    Raises:
        OSError: if `pretrained` lacks a file.
        ValueError: for an unknown or derived field, images of another shape than the saved model's, or a saved model
            that does not fit its changed config.
    """
    for name in overrides:
        if name in FIELDS_SET_ELSEWHERE:
            raise ValueError(f"`config_overrides` cannot set `{name}`: it is set by {FIELDS_SET_ELSEWHERE[name]}.")
        if name not in CONFIG_FIELDS:  # transformers would keep it and nobody would read it
            raise ValueError(f"`config_overrides`: LZNConfig has no field `{name}`.{near_names(name, CONFIG_FIELDS)}")
    id2label = dict(enumerate(label_names))
    if pretrained is None:
        overrides = dict(overrides)
        if encoder is not None:
            overrides |= {"encoder_type": "transformers", "encoder_backbone": backbone_arguments(encoder)}
        config = LZNConfig(image_size=image_size, num_channels=num_channels, id2label=id2label, **overrides)
        model = LZNModel(config)
        if encoder is not None:
            load_backbone_weights(cast(BackboneEncoder, model.encoder), encoder)
        return model
    if encoder is not None:
        raise ValueError(
            f"`encoder_name_or_path` {encoder} is for a new model, and `model_name_or_path` {pretrained} has its own encoder: pass one "
            "of the two."
        )

    config = load_saved_config(pretrained)
    if (config.image_size, config.num_channels) != (image_size, num_channels):
        raise ValueError(
            f"`model_name_or_path` {pretrained} takes images of {config.image_size} x {config.image_size} pixels with "
            f"{config.num_channels} channels, but the dataset gives {image_size} x {image_size} with {num_channels}."
        )
    for name, value in overrides.items():
        setattr(config, name, value)
    saved = load_saved_config(pretrained)
    # Checks the changed values; they may do without a data type that the saved model has reference anchors of.
    config = LZNConfig(**{**config.to_dict(), "num_type_reference_anchors": None})
    config.num_type_reference_anchors = saved.num_type_reference_anchors
    new_types = {}
    if {*config.type_configs, config.decoder_data_type} != {*saved.type_configs, saved.decoder_data_type}:
        new_types = {name: getattr(config, name) for name in TYPE_FIELDS}
        for name in new_types:
            setattr(config, name, getattr(saved, name))
    try:
        model = LZNModel.from_pretrained(pretrained, config=config, dtype=torch.float32)
    except (RuntimeError, ValueError) as error:  # transformers raises the first for tensors of another shape
        raise ValueError(
            f"`model_name_or_path` {pretrained} does not fit its config with `config_overrides`: {error}"
        ) from error
    return with_labels(model, id2label, new_types)


def load_saved_config(pretrained: str) -> LZNConfig:
    """Reads the config of a saved model.

    Raises:
        OSError: if `pretrained` lacks a config.json.
        ValueError: if it is of a model of another type.
    """
    saved = LZNConfig.get_config_dict(pretrained)[0]
    if not saved:
        raise FileNotFoundError(f"`model_name_or_path` {pretrained} has no config.json.")
    if saved.get("model_type") != LZNConfig.model_type:
        raise ValueError(
            f"`model_name_or_path` {pretrained} must be a saved LZNModel (model type 'lzn'), but is of type "
            f"{saved.get('model_type')!r}."
        )
    return LZNConfig.from_dict(saved)


def with_saved_image_shape(arguments: DataArguments, pretrained: str | None) -> DataArguments:
    """Returns the data arguments with the image size and channels of a saved model, to which images are then converted.

    Args:
        arguments (`DataArguments`): which images. An `image_size` or `num_channels` that is not `None` must be the model's.
        pretrained (`str`, *optional*): folder or hub id of the saved model. Without one the arguments stay as they are.

    Raises:
        OSError, ValueError: as [`load_saved_config`], and a `ValueError` for a size or channels that contradict the model.
    """
    if pretrained is None:
        return arguments
    config = load_saved_config(pretrained)
    for name in ("image_size", "num_channels"):
        given, saved = getattr(arguments, name), getattr(config, name)
        if given not in (None, saved):
            raise ValueError(
                f"`{name}` is {given}, but `model_name_or_path` {pretrained} was trained with {saved}: leave `--{name}` out, or "
                f"pass {saved} where a preset sets it."
            )
    arguments = copy(arguments)
    arguments.image_size, arguments.num_channels = config.image_size, config.num_channels
    return arguments


def with_labels(model: LZNModel, id2label: Mapping[int, str], new_types: Mapping[str, Any] | None = None) -> LZNModel:
    """Copies a model for the labels of a dataset, without its reference anchors, which training makes stale.

    Labels are matched by name. Those that the model knows keep their anchor and their column in the decoder, under their new
    id; those of new labels are initialized. `new_types` replaces the `TYPE_FIELDS` of the configuration: what they bring is initialized,
    what they lack is left out. All other weights are kept. The log names the labels.
    """
    config = LZNConfig(
        **{
            **model.config.to_dict(),
            "num_reference_anchors": 0,
            "num_type_reference_anchors": None,
            "prediction_time": None,
            **(new_types or {}),
            "id2label": dict(id2label),
            "label2id": None,
        }
    )
    old_labels, new_labels = (cast(Mapping[int, str], one.id2label) for one in (model.config, config))
    old_ids = {normal_name(name): i for i, name in old_labels.items()}
    kept = {i: old_ids[normal_name(name)] for i, name in new_labels.items() if normal_name(name) in old_ids}
    new, old = (torch.tensor(list(ids), dtype=torch.int64) for ids in (kept, kept.values()))
    fresh = LZNModel(config)
    weights = fresh.state_dict()
    for name, value in model.state_dict().items():
        if name == "label_anchors.weight" and new_labels:
            weights[name][new] = value[old]
        elif name == LABEL_INPUT_LAYER:
            # Columns: the latent, the anchor of the `decoder_data_type`, the labels, the time.
            first, old_first = config.decoder_condition_dim, model.config.decoder_condition_dim
            both = min(first, old_first)
            weights[name][:, :both] = value[:, :both]
            weights[name][:, first + new] = value[:, old_first + old]
            weights[name][:, first + len(new_labels) :] = value[:, old_first + len(old_labels) :]
        elif name in weights and name != "label_anchors.weight":
            weights[name] = value
    fresh.load_state_dict(weights)
    logger.info(
        f"Labels kept: {_listed(new_labels[i] for i in kept)}; new, with initial weights: "
        f"{_listed(name for i, name in new_labels.items() if i not in kept)}; dropped: "
        f"{_listed(name for i, name in old_labels.items() if i not in kept.values())}. All other weights are kept."
    )
    return fresh


def _listed(names: Iterable[str]) -> str:
    """Returns the number of names and the first ten of them."""
    names = list(names)
    return f"{len(names)} ({', '.join(map(repr, names[:10]))}{', ...' if names[10:] else ''})" if names else "none"


def model_parts(model: LZNModel) -> dict[str, list[nn.Parameter]]:
    """Returns the parameters of each part of a model: each has its own learning rate and moving average."""
    parts = {}
    if model.encoder is not None:
        parts["encoder"] = list(model.encoder.parameters())
    if model.decoder is not None:
        parts["decoder"] = list(model.decoder.parameters())
    if model.label_anchors is not None:
        parts["label_anchors"] = list(model.label_anchors.parameters())
    if len(model.type_encoders):
        parts["type_encoders"] = list(model.type_encoders.parameters())
    return parts


def freeze_part(accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, part: str) -> nn.Module:
    """Stops the training of one part of a prepared model. All processes must call it.

    DistributedDataParallel waits for the gradients of the parameters that required them when it was constructed, so the
    model is wrapped again. A sharded model looks each time.

    Returns:
        `nn.Module`: the prepared model to use from now on. The optimizer stays the same.
    """
    unwrapped = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    for parameter in model_parts(unwrapped)[part]:
        parameter.requires_grad_(False)
        parameter.grad = None
    logger.info(f"The {part} and its moving average are frozen from here on.")
    if accelerator.num_processes == 1 or accelerator.is_fsdp2:
        return model
    accelerator.free_memory()  # the accelerator forgets the old wrapper, whose buckets are as large as the gradients
    return accelerator.prepare(unwrapped, optimizer)[0]


class PartwiseEMA:
    """Keeps a moving average of the weights for each part of a model. A frozen part keeps the average it had.

    (diffusers' `EMAModel` copies parameters that do not require gradients, which would replace the average by the raw
    weights.)

    Args:
        parts (`Mapping[str, Sequence[nn.Parameter]]`): parameters by part. They must already be on their device.
        decay (`float`): the n-th update moves by 1 - min(decay, (1 + n) / (10 + n)) towards the weights.
    """

    def __init__(self, parts: Mapping[str, Sequence[nn.Parameter]], decay: float):
        self.parts = dict(parts)
        # update_after_step=-1 gives the published rule exactly; the default is late by one update.
        self.averages = {
            name: EMAModel(parameters, decay=decay, update_after_step=-1, foreach=True)
            for name, parameters in self.parts.items()
        }

    def step(self) -> None:
        """Updates the averages of the parts that are not frozen."""
        for name, parameters in self.parts.items():
            if any(parameter.requires_grad for parameter in parameters):
                self.averages[name].step(parameters)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Gives the model the averaged weights inside the context, and its own again, bit-identical, afterwards."""
        for name, parameters in self.parts.items():
            self.averages[name].store(parameters)
            self.averages[name].copy_to(parameters)
        try:
            yield
        finally:
            for name, parameters in self.parts.items():
                self.averages[name].restore(parameters)

    @torch.no_grad()
    def copy_whole_to(self, parts: Mapping[str, Sequence[nn.Parameter]]) -> None:
        """Copies the averages to the parts of another model, whole if they are sharded. All processes must call it."""
        for name, parameters in parts.items():
            for parameter, average in zip(parameters, self.averages[name].shadow_params, strict=True):
                parameter.copy_(whole(average))

    def state_dict(self) -> dict[str, Any]:
        return {name: average.state_dict() for name, average in self.averages.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, average in self.averages.items():
            average.load_state_dict(state[name])
