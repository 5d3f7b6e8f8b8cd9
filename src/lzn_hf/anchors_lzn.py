# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The anchors that a model stores, as modules with a `forward`: hooks that move weights where they are needed run around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming


class LabelAnchors(nn.Module):
    """The anchor of each label, a trained parameter.

    Args:
        num_labels (`int`): number of labels C.
        latent_dim (`int`): width D of the anchors.
        std (`float`): standard deviation of fresh anchors.
    """

    def __init__(self, num_labels: int, latent_dim: int, std: float) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(num_labels, latent_dim))  # drawn by the model that holds them

    def reset_parameters(self) -> None:
        """Draws fresh anchors."""
        nn.init.normal_(self.weight, std=self.std)

    def forward(self, labels: Tensor | None = None) -> Tensor:
        """Returns the anchors `(C, D)` of all labels, or those `(B, D)` of int64 labels `(B,)`."""
        return self.weight if labels is None else self.weight[labels]


class ReferenceAnchors(nn.Module):
    """Anchors of training images, among which single images are placed. They are no parameters, but saved with the weights.

    Rows of zeros are not set yet.

    Args:
        num_anchors (`int`): number of anchors N that there is room for.
        latent_dim (`int`): width D of the anchors.
    """

    weight: Tensor

    def __init__(self, num_anchors: int, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_anchors, latent_dim))

    def reset_parameters(self) -> None:
        """Forgets all anchors."""
        nn.init.zeros_(self.weight)

    def forward(self, new_anchors: Tensor | None = None) -> Tensor:
        """Returns the anchors that are set.

        Args:
            new_anchors (`Tensor` of shape `(M, D)`, *optional*): anchors that are stored first, in place of the oldest.

        Returns:
            `Tensor` of shape `(N, D)`, fewer rows where not all are set: the anchors.

        Raises:
            ValueError: if none is set.
        """
        if new_anchors is not None:
            kept = torch.cat([new_anchors.detach().to(self.weight), self.weight])
            self.weight.copy_(kept[: self.weight.shape[0]])
        if torch.compiler.is_compiling():  # a graph has one shape
            return self.weight
        is_set = self.weight.any(dim=1)
        if is_set.all():
            return self.weight
        if not is_set.any():
            raise ValueError(
                "placing an image by itself needs reference anchors, and those of this model are not set (all zero): train it, or call "
                "`model.set_reference_anchors(model.get_image_anchors(training_images))` once and save the model."
            )
        return self.weight[is_set]


# Files have the anchors under the names of these modules. Modules of their own hold them since version 0.1; files of any age load.
ANCHOR_NAMES = ("label_anchors", "reference_anchors")
register_checkpoint_conversion_mapping(
    "lzn", [WeightRenaming(rf"{name}(?!\.)", f"{name}.weight") for name in ANCHOR_NAMES], overwrite=True
)


def rename_anchors(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Gives the anchors of a file the names that the modules have, in `load_state_dict`.

    `from_pretrained` renames them itself. The `Trainer`, which resumes and returns to its best checkpoint, accelerate and safetensors
    pass what they read on as it is.
    """
    for name in ANCHOR_NAMES:
        if prefix + name in state_dict:
            state_dict[f"{prefix}{name}.weight"] = state_dict.pop(prefix + name)


__all__ = ["LabelAnchors", "ReferenceAnchors", "rename_anchors"]
