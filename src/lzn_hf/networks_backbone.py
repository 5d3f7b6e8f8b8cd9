# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Any image model of transformers with a projection head as an image encoder, from random or from published weights."""

from __future__ import annotations

import copy
import inspect
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_backends import PilBackend
from transformers.initialization import no_init_weights
from transformers.utils import ModelOutput

from .layers_ncsnpp import check_at_least
from .networks_resnet import NUM_GROUPS, ProjectionHead
from .sizes_lzn import MAX_COMPUTED, MAX_STORED, Budget, check_backbone_numbers


logger = logging.getLogger(__name__)

# Fields of `backbone` that are not of the model's configuration.
ENCODER_FIELDS = ("image_mean", "image_std", "input_size", "freeze_batch_norm")
# Fields of configurations that only matter to transformers' AutoBackbone.
IGNORED_FIELDS = ("stage_names", "out_features", "out_indices")
# What these norms compute depends on the batch while they train.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def _own_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields that a configuration does not share with all others, as JSON has them."""
    shared = PreTrainedConfig().to_dict()
    return {k: v for k, v in config.to_dict().items() if k not in shared and k not in IGNORED_FIELDS}


def _make_config(backbone: dict[str, Any], image_size: int, in_channels: int) -> PreTrainedConfig:
    """The configuration of a backbone. What the fields leave open about the shape of the images follows the images."""
    fields = {name: value for name, value in backbone.items() if name not in ENCODER_FIELDS}
    sizes = [one for one in (image_size, fields.get("image_size")) if isinstance(one, int)]
    check_backbone_numbers(fields, max(sizes))
    model_type = fields.pop("model_type", None)
    try:
        defaults = _own_fields(AutoConfig.for_model(model_type))
    except (ValueError, TypeError) as error:
        raise ValueError(f"`backbone` must have the `model_type` of an image model, got {model_type!r}.") from error
    for name in fields:
        if name not in defaults:  # transformers would keep it and nobody would read it
            raise ValueError(f"`backbone`: a {model_type!r} has no field {name!r}, but {', '.join(sorted(defaults))}.")
    size = [image_size, image_size] if isinstance(defaults.get("image_size"), list) else image_size
    for name, value in (("num_channels", in_channels), ("image_size", size)):
        if name in defaults:
            fields.setdefault(name, value)
    try:
        return AutoConfig.for_model(model_type, **fields)
    except Exception as error:  # each configuration has its own checks, not all of which raise ValueError
        raise ValueError(f"`backbone` is no configuration of a {model_type!r}: {error}") from error


def _build(config: PreTrainedConfig) -> PreTrainedModel:
    model = AutoModel.from_config(config)
    # Published weights of classifiers and of DINO have none for the dense layer that some models put on the CLS token.
    if hasattr(getattr(model, "pooler", None), "dense"):
        model.pooler = None
    return model


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, BATCH_NORMS)]


def _forward_arguments(model: PreTrainedModel) -> dict[str, bool]:
    # Does nothing for images of the model's own size.
    interpolates = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return {"interpolate_pos_encoding": True} if interpolates else {}


def _has_cls_token(model: PreTrainedModel) -> bool:
    return any(name.endswith("cls_token") for name, _ in model.named_parameters())


def _pool(output: ModelOutput, has_cls_token: bool) -> torch.Tensor:
    """Features `(B, F)` of an output: what the model pools, else the CLS token, else the mean."""
    if output.get("pooler_output") is not None:
        return output["pooler_output"].flatten(1)
    hidden = output["last_hidden_state"]
    if hidden.ndim == 4:
        return hidden.mean((2, 3))
    return hidden[:, 0] if has_cls_token else hidden.mean(1)


def _dry_run(config: PreTrainedConfig, channels: int, height: int, width: int) -> tuple[int, set[str]]:
    """Width of the features, and the parameters that they do not depend on. Runs on the meta device: computes nothing."""
    stored, computed = (f"the {what} of `backbone`" for what in ("parameters", "activations of one image"))
    try:
        # First values are not drawn: some models (ViT-MAE) compute them in NumPy, which knows no meta device.
        with torch.device("meta"), no_init_weights(), Budget(MAX_STORED, stored):
            model = _build(config).eval()
        # Not on meta here: some models (BEiT) cache what they make on the default device, for all models of the process.
        with torch.device("cpu"), torch.enable_grad(), Budget(MAX_COMPUTED, computed):
            images = torch.zeros(1, channels, height, width, device="meta")
            features = _pool(model(pixel_values=images, **_forward_arguments(model)), _has_cls_token(model))
            parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
            gradients = torch.autograd.grad(features.sum(), list(parameters.values()), allow_unused=True)
    except Exception as error:  # whatever a model that takes no images, or not these, stumbles on
        raise ValueError(
            f"`backbone` of type {config.model_type!r} cannot encode images of {height} x {width} pixels with {channels} "
            f"channels: {error!r}"
        ) from error
    return features.shape[1], {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None}


class HiddenState(nn.Identity):
    """Is shown each hidden state of a backbone, so that the hooks by which transformers records outputs see it."""


class BackboneEncoder(nn.Module):
    """Image encoder: an image model of transformers, and a projection head from its pooled features to the anchor.

    Images x in [-1, 1] are resized (bilinear, with low-pass filter) and normalised to `((x + 1) / 2 - mean) / std`. The features are the
    `pooler_output` of the model, without the dense layer that some models (ViT, DeiT) put on the CLS token: published weights often lack
    it. For models without pooled output they are the CLS token, or else the mean of the last hidden state.

    The encoding of an image does not depend on its batch, if the model keeps images apart. (ViT-MAE masks patches at random unless its
    `mask_ratio` is 0.) Batch norm mixes them in training, so a model with batch norm needs `freeze_batch_norm`:

    - `true`, for published weights: it always uses its stored statistics; its scale and shift are trained. Random weights have no
      such statistics.
    - `false`: in training it uses the statistics of the batch on its own process and updates the stored ones (twice with gradient
      checkpointing), which moving averages of the weights leave out. The anchor of an image then depends on its batch. From scratch,
      prefer a model with another norm (ConvNeXt, ViT, DINOv2, Swin, ...), or [`ResNetEncoder`].

    Parameters without effect on the features (such as mask tokens) do not require gradients, so that DistributedDataParallel does not
    wait for them.

    The attribute `feature_dim` is the width of the features. `gradient_checkpointing` is set by `gradient_checkpointing_enable()` of a
    surrounding model. Backbones that support it checkpoint their layers; any other is checkpointed as a whole.

    Args:
        backbone (`dict`): `model_type` and other fields of the model's configuration, as JSON values. `num_channels` and `image_size`
            follow the images unless they are given. Also `image_mean` and `image_std`, a number for each channel of the model (default
            0.5: the images stay in [-1, 1]); `input_size`, the height and width that images are resized to (default: no resizing;
            position embeddings are interpolated where the model can); and `freeze_batch_norm`, see above. [`backbone_arguments`] gives
            the dictionary of published weights.
        image_size (`int`): height and width of the images.
        in_channels (`int`): channels of the images. A single channel is repeated for a backbone with more.
        latent_dim (`int`): width of the anchors; a multiple of 32, larger than 32.
        head_layers (`int`): linear layers of the projection head. With more than one, the width of the features must also be such a
            multiple.

    Raises:
        ValueError: if an argument is out of its range or does not fit the images, with the name of the argument.
    """

    def __init__(
        self, *, backbone: dict[str, Any], image_size: int, in_channels: int, latent_dim: int, head_layers: int
    ) -> None:
        super().__init__()
        check_at_least(1, image_size=image_size, in_channels=in_channels, head_layers=head_layers)
        config = _make_config(backbone, image_size, in_channels)
        self.num_channels = getattr(config, "num_channels", in_channels)
        if in_channels not in (1, self.num_channels):
            raise ValueError(
                f"`in_channels` must be 1 or the `num_channels` of the backbone, {self.num_channels}, got {in_channels}."
            )
        self.in_channels = in_channels
        self.input_size = backbone.get("input_size")
        self.image_mean = backbone.get("image_mean", [0.5] * self.num_channels)
        self.image_std = backbone.get("image_std", [0.5] * self.num_channels)
        for name, length, positive in (
            ("image_mean", self.num_channels, False),
            ("image_std", self.num_channels, True),
        ):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or len(value) != length or (positive and min(value) <= 0):
                wanted = f"{length} {'positive ' if positive else ''}numbers, one a channel of the backbone"
                raise ValueError(f"`{name}` of `backbone` must be {wanted}, got {value!r}.")
        size = self.input_size
        if size is not None and (not isinstance(size, (list, tuple)) or len(size) != 2 or min(size) < 1):
            raise ValueError(f"`input_size` of `backbone` must be [height, width], got {size!r}.")

        height, width = self.input_size or (image_size, image_size)
        self.feature_dim, self.unused_parameters = _dry_run(config, self.num_channels, height, width)
        widths = [("latent_dim", latent_dim, "anchors")]
        if head_layers > 1:
            widths.append(("backbone", self.feature_dim, "the features of the backbone, in the projection head,"))
        for name, value, normalised in widths:
            if value <= NUM_GROUPS or value % NUM_GROUPS:
                raise ValueError(
                    f"`{name}` must have a width that is a multiple of {NUM_GROUPS} and larger, because {normalised} are "
                    f"normalised in {NUM_GROUPS} groups and a group of one element would be constant, got {value}."
                )
        self.latent_dim = latent_dim
        self.gradient_checkpointing = False
        self.backbone = _build(config)
        self.forward_arguments = _forward_arguments(self.backbone)
        self.has_cls_token = _has_cls_token(self.backbone)
        self.freeze_batch_norm = backbone.get("freeze_batch_norm")
        if not isinstance(self.freeze_batch_norm, bool) and _batch_norms(self.backbone):
            raise ValueError(
                f"`backbone` of type {config.model_type!r} has batch norm, which mixes the images of a batch in training, so it "
                "must say `freeze_batch_norm`: true (for published weights, whose statistics it then keeps) or false, got "
                f"{self.freeze_batch_norm!r}. Models of another norm, as ConvNeXt, ViT and DINOv2, need not."
            )
        self.hidden_state = HiddenState()
        self.head = ProjectionHead(self.feature_dim, latent_dim, head_layers)
        self.train()

    def train(self, mode: bool = True) -> BackboneEncoder:
        """Sets training or evaluation mode; frozen batch norm stays in the latter."""
        super().train(mode)
        for name in self.unused_parameters:  # from_pretrained() has all parameters require gradients
            self.backbone.get_parameter(name).requires_grad_(False)
        if self.freeze_batch_norm:
            for module in _batch_norms(self.backbone):
                module.eval()
        return self

    def _features(
        self, pixel_values: torch.Tensor, output_hidden_states: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        weight: Any = self.head["linear0"].weight
        if weight.dtype.itemsize > 1:  # 8 bits are what hooks store weights in; they compute in another dtype
            pixel_values = pixel_values.to(weight.dtype)
        if self.input_size is not None:
            resized = F.interpolate(pixel_values.float(), self.input_size, mode="bilinear", antialias=True)
            pixel_values = resized.to(pixel_values.dtype)
        # Numbers, because tensors would need a buffer, or a copy to the device for every batch.
        channels = pixel_values.expand(-1, self.num_channels, -1, -1).split(1, dim=1)
        normalised = [
            channel * (0.5 / std) + (0.5 - mean) / std
            for channel, mean, std in zip(channels, self.image_mean, self.image_std, strict=True)
        ]
        arguments = self.forward_arguments | ({"output_hidden_states": True} if output_hidden_states else {})
        output = self.backbone(pixel_values=torch.cat(normalised, dim=1), **arguments)
        if output_hidden_states:
            for hidden_state in output["hidden_states"]:
                self.hidden_state(hidden_state)
        return _pool(output, self.has_cls_token), output["last_hidden_state"]

    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encodes images, each by itself.

        Args:
            pixel_values (`Tensor` of shape `(B, in_channels, H, W)`): images in [-1, 1].
            output_hidden_states (`bool`, *optional*, defaults to `False`): whether to show those of the backbone to [`HiddenState`].

        Returns:
            `tuple(Tensor, Tensor, Tensor)`: features `(B, feature_dim)`, anchors `(B, latent_dim)` in float32 at least, and the
            `last_hidden_state` of the backbone.
        """
        if self.gradient_checkpointing and self.training and not self.backbone.supports_gradient_checkpointing:
            features, hidden = checkpoint(self._features, pixel_values, output_hidden_states, use_reentrant=False)
        else:
            features, hidden = self._features(pixel_values, output_hidden_states)
        anchors = self.head(features)
        return features, anchors.to(torch.promote_types(anchors.dtype, torch.float32)), hidden


def backbone_arguments(name_or_path: str) -> dict[str, Any]:
    """Returns the `backbone` of [`BackboneEncoder`] for published weights.

    It has the shape of the images, all fields of config.json that differ from the defaults of the model, and the size and normalisation
    of its image processor. Without an image processor, which is logged, the images stay in [-1, 1] and are resized to the `image_size`
    of the configuration, if there is one. Batch norm is frozen, except for a folder without weights.

    Args:
        name_or_path (`str`): folder or hub id of an image model of transformers. Code in it is not run.

    Returns:
        `dict`: the arguments.

    Raises:
        OSError: if there is no such folder or hub id.
        ValueError: for no config.json or one that transformers does not know, or an image processor that does something else than
            to resize, crop, scale and shift.
    """
    config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    fields, defaults = _own_fields(config), _own_fields(AutoConfig.for_model(config.model_type))
    shape = [name for name in ("num_channels", "image_size") if name in defaults]
    kept = {name: fields[name] for name in defaults if name in shape or fields[name] != defaults[name]}
    arguments = {"model_type": config.model_type, **kept}
    with torch.device("meta"):
        if _batch_norms(_build(config)):
            arguments["freeze_batch_norm"] = not _is_without_weights(name_or_path)
    try:
        pixels = _pixel_arguments(name_or_path, fields.get("num_channels", 3))
    except OSError as error:
        logger.warning(f"{name_or_path} has no image processor, so images stay in [-1, 1]: {error}")
        size = fields.get("image_size")
        pixels = {} if size is None else {"input_size": size if isinstance(size, list) else [size, size]}
    return arguments | pixels


def _pixel_arguments(name_or_path: str, channels: int) -> dict[str, Any]:
    """Measures the size and normalisation of an image processor on images of one colour.

    The attributes of processors that scale, shift and crop have many names.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(name_or_path, trust_remote_code=False)
    except ImportError:  # some come for torchvision only
        processor = PilBackend.from_pretrained(name_or_path)
    colours = np.linspace(0.2, 0.6, channels)
    values = [np.zeros(channels), np.ones(channels), colours]
    images = [np.full((256, 256, channels), np.rint(255 * value), dtype=np.uint8) for value in values]
    outputs = processor(images=images, return_tensors="np", input_data_format="channels_last")["pixel_values"]
    black, white, coloured = outputs[:, :, 0, 0].astype(np.float64)
    if not np.allclose(coloured, black + (white - black) * np.rint(255 * colours) / 255, atol=1e-3):
        raise ValueError(
            f"the image processor of {name_or_path}, {type(processor).__name__}, does not only scale and shift each "
            "channel: give `image_mean`, `image_std` and `input_size` of `backbone` by hand, for images that are prepared "
            "as it does."
        )
    std = 1 / (white - black)
    return {
        "image_mean": [round(value, 6) for value in (-black * std).tolist()],
        "image_std": [round(value, 6) for value in std.tolist()],
        "input_size": list(outputs.shape[2:]),
    }


def _is_without_weights(name_or_path: str) -> bool:
    folder = Path(name_or_path)
    return folder.is_dir() and not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]


def load_backbone_weights(encoder: BackboneEncoder, name_or_path: str) -> bool:
    """Loads published weights into the backbone of an encoder; the projection head keeps its own.

    Weights for other heads are left aside. Files are read as safetensors, or as PyTorch's with `weights_only=True`.

    Args:
        encoder ([`BackboneEncoder`]): the encoder, built with [`backbone_arguments`] of the same model.
        name_or_path (`str`): folder or hub id of an image model of transformers. Code in it is not run.

    Returns:
        `bool`: whether there were weights. A folder with config.json only leaves the encoder as it was, which is logged.

    Raises:
        OSError: if there is no such folder or hub id, or a hub id has no weights.
        ValueError: for no config.json, and if the weights are of another model, lack a parameter, have one of another shape, or cannot
            be read. Nothing is loaded then.
    """
    model = encoder.backbone
    model_type = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False).model_type
    if model_type != model.config.model_type:
        raise ValueError(f"{name_or_path} is a {model_type!r}, but `backbone` a {model.config.model_type!r}.")
    if _is_without_weights(name_or_path):
        logger.warning(f"{name_or_path} has no weights: the backbone keeps its random ones.")
        return False
    try:
        saved, info = AutoModel.from_pretrained(
            name_or_path,
            config=copy.deepcopy(model.config),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except (RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(f"the weights of {name_or_path} are damaged, or hold more than weights.") from error
    own = model.state_dict()
    missing = sorted(set(info["missing_keys"]) & set(own) - encoder.unused_parameters)
    mismatched = sorted(str(key) for key in info["mismatched_keys"])
    if missing or mismatched:
        raise ValueError(
            f"the weights of {name_or_path} do not fit `backbone`: missing {missing[:3]}, of another shape {mismatched[:3]}."
        )
    model.load_state_dict({name: value for name, value in saved.state_dict().items() if name in own})
    return True


__all__ = ["BackboneEncoder", "HiddenState", "backbone_arguments", "load_backbone_weights"]
