# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Encoders of data types beside images: any model of transformers, or of your own, with a projection head to the anchor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.initialization import no_init_weights

from .networks_resnet import ProjectionHead
from .sizes_lzn import MAX_STORED, Budget, check_backbone_numbers


# Text models of transformers whose first token has the position after that of the padding token, as in RoBERTa.
OFFSET_POSITIONS = frozenset(
    "camembert data2vec-text esm longformer luke markuplm mpnet roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod".split()
)


def positions_before(model_type: str | None, pad_token_id: int | None) -> int:
    """Returns how many positions of a text model stand before that of its first token."""
    return 0 if model_type not in OFFSET_POSITIONS or pad_token_id is None else pad_token_id + 1


def longest_text(config: PreTrainedConfig) -> int | None:
    """Returns the number of tokens of the longest text that a text model reads; `None` for one without limit."""
    positions = getattr(config, "max_position_embeddings", None)
    return None if positions is None else positions - positions_before(config.model_type, config.pad_token_id)


def make_type_config(field: str, fields: dict[str, Any] | PreTrainedConfig) -> PreTrainedConfig:
    """Builds the configuration of an encoder.

    Args:
        field (`str`): the field of [`LZNConfig`] that it is from, for messages.
        fields (`dict` or `PreTrainedConfig`): its `model_type`, which transformers must know, and other fields.

    Raises:
        ValueError: for a type that is not known, and fields that it refuses.
    """
    if isinstance(fields, PreTrainedConfig):
        return fields
    check_backbone_numbers(fields, 0, field)
    given = dict(fields)
    model_type = given.pop("model_type", None)
    try:
        AutoConfig.for_model(model_type)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`{field}` must have the `model_type` of a model of transformers, or of one registered by `AutoConfig.register`, got "
            f"{model_type!r}."
        ) from error
    try:
        return AutoConfig.for_model(model_type, **given)
    except Exception as error:  # each configuration has its own checks, not all of which raise ValueError
        raise ValueError(f"`{field}` is no configuration of a {model_type!r}: {error}") from error


class TypeEncoder(nn.Module):
    """Encoder of a data type: a model that `AutoModel` knows, and a projection head from its pooled features to the anchor.

    The features are the `pooler_output` of the model, or else the mean of its `last_hidden_state` over the positions of the
    `attention_mask`. The dense layer that some models (BERT) put on the first token is left out: it is trained for another task.

    Args:
        config (`PreTrainedConfig`): the configuration of the model. Its `hidden_size` is the width of the features.
        latent_dim (`int`): width of the anchors, which have mean 0 and standard deviation 1 over it at the start.
        head_layers (`int`): linear layers of the projection head.

    Raises:
        ValueError: for a model that `AutoModel` does not know, and a configuration without `hidden_size`.
    """

    def __init__(self, config: PreTrainedConfig, latent_dim: int, head_layers: int) -> None:
        super().__init__()
        width: Any = getattr(config, "hidden_size", None)
        if type(width) is not int:
            raise ValueError(
                f"`hidden_size` of the configuration of a {config.model_type!r} must be the width of its features, got {width!r}."
            )
        try:
            with (
                torch.device("meta"),
                no_init_weights(),
                Budget(MAX_STORED, f"the parameters of a {config.model_type!r}"),
            ):
                AutoModel.from_config(config)  # without memory, and no further than to the limit
            self.backbone = AutoModel.from_config(config)
        except Exception as error:  # whatever a configuration with wrong values stumbles on
            raise ValueError(f"`AutoModel` cannot build the model of {config.model_type!r}: {error}") from error
        if hasattr(getattr(self.backbone, "pooler", None), "dense"):
            self.backbone.pooler = None
        self.head = ProjectionHead(width, latent_dim, head_layers, num_groups=1)

    def forward(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes the inputs of the model: features `(B, F)`, and anchors `(B, D)` in float32 at least."""
        output = self.backbone(**inputs)
        features = output.get("pooler_output")
        if features is None:
            hidden, mask = output["last_hidden_state"], inputs.get("attention_mask")
            weights = torch.ones_like(hidden[..., 0]) if mask is None else mask.to(hidden)
            features = (weights[..., None] * hidden).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)
        features = features.flatten(1)
        anchors = self.head(features)
        return features, anchors.to(torch.promote_types(anchors.dtype, torch.float32))


__all__ = ["TypeEncoder", "longest_text", "make_type_config", "positions_before"]
