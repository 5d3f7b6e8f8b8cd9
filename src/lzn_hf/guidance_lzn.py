# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Guidance of the image flow: away from what a weaker model does, or the model itself without its condition.

    v = v_guide + scale (v_model - v_guide)

Autoguidance (arXiv 2406.02507) takes v_guide of a weaker model: one that was trained for fewer steps, or is smaller. Classifier-free
guidance (arXiv 2207.12598) takes it of the model without latent and label, which it learns with `config.condition_dropout`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .checks_lzn import normal_name, shown
from .modeling_lzn import LZNModel
from .pipeline_folder_lzn import FlatFolderPipeline


Guide = LZNModel | FlatFolderPipeline | str | os.PathLike


@dataclass(frozen=True)
class Guidance:
    """The velocity of a model, guided or (by default) not.

    Args:
        model ([`LZNModel`]): the model that generates.
        scale (`float`, *optional*, defaults to 1.0): 1 is the model alone, 0 the guide alone; more goes away from the guide.
        guide ([`LZNModel`], *optional*): a weaker model. Default: the model itself without latent and label.
    """

    model: LZNModel
    scale: float = 1.0
    guide: LZNModel | None = None

    @property
    def num_evaluations(self) -> int:
        """Network evaluations of one velocity."""
        return 1 if self.scale == 1 else 2

    def guide_conditions(self, labels: Tensor | None, noise: Tensor | None) -> dict[str, Tensor | None]:
        """Computes what the decoder of the guide is given: its own labels of the same names, the places of the same prior noise in its own
        zones of these labels (a latent of the model would lie anywhere in them), and the anchors of these places.

        Args:
            labels (`Tensor` of shape `(B,)`, *optional*): label ids of the model.
            noise (`Tensor` of shape `(B, D)`, *optional*): the prior noise of the model's latents.

        Returns:
            `dict`: `guide_latents` `(B, D)`, `guide_labels` `(B,)` and `guide_decoder_anchors` `(B, D)`, each `None` where the guide takes
            none; empty without a guide.
        """
        if self.scale == 1 or self.guide is None or labels is None or not self.guide.config.num_labels:
            return {}
        labels = torch.tensor(_matching_ids(self.model, self.guide), device=labels.device)[labels]
        latents = None if self.guide.encoder is None else self.guide.get_label_latents(labels, noise=noise)
        return {f"guide_{name}": value for name, value in self.guide.decoder_conditions(latents, labels).items()}

    def predict_velocity(
        self,
        sample: Tensor,
        t: Tensor | float,
        latents: Tensor | None,
        labels: Tensor | None,
        decoder_anchors: Tensor | None = None,
        guide_latents: Tensor | None = None,
        guide_labels: Tensor | None = None,
        guide_decoder_anchors: Tensor | None = None,
    ) -> Tensor:
        """Predicts the velocity in float32.

        Args:
            sample, t, latents, labels, decoder_anchors: see [`LZNModel.predict_velocity`].
            guide_latents, guide_labels, guide_decoder_anchors: those of [`Guidance.guide_conditions`].

        Returns:
            `Tensor` of shape `(B, C, H, W)`: the velocity.
        """
        velocity = self.model.predict_velocity(sample, t, latents, labels, decoder_anchors=decoder_anchors).float()
        if self.scale == 1:
            return velocity
        if self.guide is None:
            weak = self.model.predict_velocity(sample, t, unconditional=True).float()
        else:
            weak = self.guide.predict_velocity(
                sample, t, guide_latents, guide_labels, decoder_anchors=guide_decoder_anchors
            ).float()
        return weak + self.scale * (velocity - weak)


def resolve_guidance(
    model: LZNModel, scale: float, guide: Guide | None, device: torch.device, *, has_label: bool
) -> Guidance:
    """Checks what a call asks for, and loads the guide if it is saved.

    Args:
        model ([`LZNModel`]): the model that generates.
        scale (`float`): at least 0.
        guide ([`LZNModel`], pipeline, `str` or `os.PathLike`, *optional*): a weaker model, or the folder or repository of one.
        device (`torch.device`): where the model runs.
        has_label (`bool`): whether labels are asked for, not latents.

    Returns:
        [`Guidance`]: checked.

    Raises:
        ValueError: for a scale out of range, a scale other than 1 of a model that has nothing to be guided by, and a guide that does not fit.
    """
    if not isinstance(scale, Real) or isinstance(scale, bool) or not math.isfinite(scale) or scale < 0:
        raise ValueError(f"`guidance_scale` must be a finite number of at least 0, got {shown(scale)}.")
    if guide is None:
        if scale != 1 and not model.config.condition_dropout:
            raise ValueError(
                f"`guidance_scale` must be 1 (none) for this model alone, got {scale}. There are two ways to guide: pass as `guide` a weaker "
                "saved model, trained for fewer steps or smaller, or train a model with `condition_dropout` in its configuration."
            )
        return Guidance(model, float(scale))
    if isinstance(guide, (str, os.PathLike)):
        guide = LZNModel.from_pretrained(guide, dtype=model.dtype).to(device)
    guide = guide.model if isinstance(guide, FlatFolderPipeline) else guide
    guide = getattr(guide, "_orig_mod", guide)  # of torch.compile, which compiles `forward`
    if not isinstance(guide, LZNModel):
        raise ValueError(
            f"`guide` must be an LZNModel, an LZNPipeline, or the folder or repository of one, got {type(guide).__name__}."
        )
    _check_guide(model, guide, torch.empty(0, device=device).device, has_label)
    return Guidance(model, float(scale), guide)


def _check_guide(model: LZNModel, guide: LZNModel, device: torch.device, has_label: bool) -> None:
    """Raises a `ValueError` unless a guide can go along with a model."""
    ours, theirs = model.config, guide.config
    if guide.decoder is None:
        raise ValueError("`guide` must have a decoder, as it generates images, got one without.")
    for name in ("image_size", "num_channels"):
        if getattr(theirs, name) != getattr(ours, name):
            raise ValueError(
                f"`guide` must have the `{name}` of the model, {getattr(ours, name)}, got {getattr(theirs, name)}."
            )
    if theirs.num_labels:
        _matching_ids(model, guide)
    if guide.encoder is not None:
        if theirs.latent_dim != ours.decoder_latent_dim:
            raise ValueError(
                f"`guide` must have latents of the size of the model's, {ours.decoder_latent_dim}, for the same prior noise, got "
                f"{theirs.latent_dim}."
            )
        if not theirs.num_labels or not has_label:
            got = "the guide has no labels" if not theirs.num_labels else "no `label` is given"
            raise ValueError(
                "`guide` has latents of its own, which correspond to those of the model through their zones of one label, but "
                f"{got}: pass a `label` that both have. Images of given latents can be guided by a guide without image encoder, or by a "
                "model trained with `condition_dropout`, without `guide`."
            )
    if guide.device != device:
        raise ValueError(f"`guide` must be on the device of the model, {device}, got {guide.device}: move it there.")


def _matching_ids(model: LZNModel, guide: LZNModel) -> list[int]:
    """The id that each label of a model has in the guide, by name."""
    configs: list[Any] = [model.config, guide.config]
    ours, theirs = (list(config.id2label.values()) for config in configs)  # in the order of their ids
    known = {normal_name(name): i for i, name in enumerate(theirs)}
    missing = [name for name in ours if normal_name(name) not in known]
    if missing or not ours:
        what = f"lacks {', '.join(map(repr, missing[:10]))}" if missing else "has labels and the model has none"
        raise ValueError(f"`guide` must have the labels of the model, by their names, but it {what}.")
    return [known[normal_name(name)] for name in ours]


__all__ = ["Guidance", "Guide", "resolve_guidance"]
