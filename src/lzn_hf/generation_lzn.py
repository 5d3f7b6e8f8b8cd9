# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images from a model alone: [`LZNModel`] generates where there is neither diffusers nor this package, as remote code does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .checks_lzn import (
    Generators,
    check_at_least,
    check_choice,
    check_generators,
    check_result,
    check_tensor,
    check_time,
    labels_to_ids,
)
from .flow_lzn import FLOW_SOLVERS, check_steps, integrate_flow
from .images_lzn import check_output_type, pixel_values_to_images
from .model_checks_lzn import NO_LABEL, check_decoder_labels
from .networks_lzn import evaluation_mode
from .zones_lzn import score_labels


class ImageGeneration:
    """The part of [`LZNModel`] that decodes: the velocity of the image flow, and images of labels, or of nothing."""

    if TYPE_CHECKING:  # what it needs of the model
        config: Any
        device: torch.device
        encoder: Any
        decoder: Any
        label_anchors: Any
        get_label_latents: Any
        classify_latents: Any
        require_label_anchors: Any
        require_type_reference_anchors: Any
        _check_images: Any

    def predict_velocity(
        self,
        sample: Tensor,
        t: Tensor | float,
        latents: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        decoder_anchors: Tensor | None = None,
        unconditional: bool = False,
    ) -> Tensor:
        """Predicts the velocity of the image flow, data - noise.

        Args:
            sample (`Tensor` of shape `(B, C, H, W)`): `x_t = t x + (1 - t) e`.
            t (`float` or `Tensor` of shape `(B,)`): time, 0 for noise, 1 for data.
            latents (`Tensor` of shape `(B, D)`, *optional*): latents of labels or images, or prior noise, which say what to generate.
                `None` for a model without image encoder, and only for that.
            labels (`Tensor` of shape `(B,)`, *optional*): labels, for a model that has them. Defaults to the labels of the latents'
                zones; a model without image encoder needs them.
            decoder_anchors (`Tensor` of shape `(B, D)`, *optional*): anchors of samples of `config.decoder_data_type`, for a model that has
                one. Defaults to those of its reference anchors in whose zones the latents lie.
            unconditional (`bool`, *optional*, defaults to `False`): whether to predict without latents, labels and anchors, of a model
                that was trained with `config.condition_dropout`.

        Returns:
            `Tensor` of shape `(B, C, H, W)`: the velocity.

        Raises:
            ValueError: if the model has no decoder, latents or anchors are missing or not wanted, labels are given to a model without
                labels, or the model never learnt to do without.
        """
        if self.decoder is None:
            raise ValueError("this model has no image decoder (config.decoder_type is None): it cannot generate.")
        self._check_images(sample, "sample", look=False)
        config, size = self.config, sample.shape[0]
        check_time(t, size)
        if decoder_anchors is not None and config.decoder_data_type is None:
            raise ValueError(
                "`decoder_anchors` must be None for a model whose decoder is given latents alone (config.decoder_data_type is None), got a "
                f"{type(decoder_anchors).__name__}."
            )
        if unconditional:
            given = [latents, labels, decoder_anchors]
            if any(one is not None for one in given) or not config.condition_dropout:
                raise ValueError(
                    "`unconditional` needs a model trained with `config.condition_dropout` above 0 and takes neither `latents` nor "
                    f"`labels` nor `decoder_anchors`, got condition_dropout={config.condition_dropout}."
                )
            condition = sample.new_zeros(size, config.decoder_condition_dim)
            if config.num_labels:
                labels = torch.full(sample.shape[:1], NO_LABEL, device=sample.device)
        elif self.encoder is None:
            if latents is not None:
                raise ValueError(
                    "`latents` must be None for a model without image encoder, whose decoder does not take them, got a "
                    f"{type(latents).__name__}."
                )
            condition = sample.new_empty(size, 0)
        elif latents is None:
            raise ValueError(
                "`latents` are needed: get_label_latents(labels), get_image_latents(pixel_values), or prior noise "
                f"torch.randn({size}, {config.latent_dim})."
            )
        else:
            check_tensor("latents", latents, (size, config.latent_dim), finite=False)
            condition = latents
            if config.decoder_data_type is not None:
                if decoder_anchors is None:
                    decoder_anchors = self._zone_anchors(latents)
                check_tensor("decoder_anchors", decoder_anchors, (size, config.latent_dim), finite=False)
                condition = torch.cat([latents, decoder_anchors.to(latents)], dim=1)
        if labels is None and self.label_anchors is not None and not unconditional:
            labels = score_labels(config, condition, self.require_label_anchors()).argmax(-1)
        elif labels is not None and not config.num_labels:
            self.require_label_anchors()
        elif labels is not None and not unconditional:
            check_decoder_labels(labels, size, config.num_labels)
        t = torch.as_tensor(t, dtype=torch.float32, device=sample.device).expand(size)
        return self.decoder(sample, t, condition, labels)

    def decoder_conditions(
        self, latents: Tensor | None, labels: Tensor | None = None, decoder_anchors: Tensor | None = None
    ) -> dict[str, Tensor | None]:
        """Completes what the decoder is given: what is not known follows from the zones that the latents lie in.

        Args:
            latents, labels, decoder_anchors (*optional*): see `predict_velocity`.

        Returns:
            `dict`: the three by name, each `None` for a model without.

        Raises:
            ValueError: without reference anchors of the `decoder_data_type`.
        """
        if latents is not None:
            if labels is None and self.label_anchors is not None:
                labels = self.classify_latents(latents).argmax(-1)
            if decoder_anchors is None and self.config.decoder_data_type is not None:
                decoder_anchors = self._zone_anchors(latents)
        return {"latents": latents, "labels": labels, "decoder_anchors": decoder_anchors}

    def _zone_anchors(self, latents: Tensor) -> Tensor:
        """The reference anchors `(B, D)` of the `decoder_data_type` in whose zones latents lie."""
        references = self.require_type_reference_anchors(self.config.decoder_data_type)
        return references[score_labels(self.config, latents, references).argmax(-1)]

    def generate(
        self,
        label: str | int | Sequence[str | int] | None = None,
        num_images_per_label: int = 1,
        num_inference_steps: int = 20,
        generator: Generators = None,
        batch_size: int = 64,
        output_type: str = "pil",
        solver: str = "heun",
        t_min: float = 0.0,
    ) -> list[Image.Image] | np.ndarray | Tensor:
        r"""
        Generates images of labels (all of the first label first), or (without labels) from prior noise.

        These are the images of `pipe(...)` of [`LZNPipeline`] with the same arguments and `solver="heun"`. Its default is a scheduler of
        diffusers, which this method does without: in the same 20 steps, Heun's method evaluates the network twice as often.

        Args:
            label (`str`, `int` or list of them, *optional*): names or ids of `config.id2label`. `None`: the latents are prior noise,
                and a label-conditioned decoder gets the labels of the zones they lie in.
            num_images_per_label (`int`, *optional*, defaults to 1): images of each label; without `label`, the number of images.
            num_inference_steps (`int`, *optional*, defaults to 20): uniform steps of the solver; `"rk45"` ignores it.
            generator (`torch.Generator` or list of them, one an image, *optional*): draws all noise.
            batch_size (`int`, *optional*, defaults to 64): images computed at once; it does not decide on their number.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"` (`(B, H, W, C)` in [0, 1]) or `"pt"`
                (`(B, C, H, W)` in [0, 1]).
            solver (`str`, *optional*, defaults to `"heun"`): `"euler"`, `"heun"` or `"rk45"`, the adaptive one.
            t_min (`float`, *optional*, defaults to 0): the time at which the solver starts with the noise.

        Returns:
            list of PIL images, array or `Tensor`: the images.

        Raises:
            ValueError: if the model has no decoder, for unknown labels or labels of a model that has none, without labels where the
                model needs them, for arguments out of range, and for images that come out as NaN or infinite.
        """
        # 1. Check everything before anything is computed.
        if self.decoder is None:
            raise ValueError("this model has no image decoder (config.decoder_type is None): it cannot generate.")
        check_output_type(output_type)
        check_at_least(1, num_images_per_label=num_images_per_label, batch_size=batch_size)
        check_choice(FLOW_SOLVERS, solver=solver)
        check_steps(num_inference_steps, t_min)
        config, labels, num_images = self.config, None, num_images_per_label
        if label is not None:
            labels = labels_to_ids(label, config.label2id).repeat_interleave(num_images_per_label).to(self.device)
            num_images = len(labels)
        elif self.encoder is None and config.num_labels:
            raise ValueError("`label` is needed for a model with labels and without image encoder, got None.")
        check_generators(generator, num_images)

        with evaluation_mode(self):  # type: ignore[arg-type]  # the model is a module
            # 2. Latents: in the zones of the labels, or prior noise. Drawn in the order of the pipeline.
            latents = None
            if self.encoder is not None:
                latents = draw_normal((num_images, config.latent_dim), generator, self.device)
            samples = draw_normal(
                (num_images, config.num_channels, config.image_size, config.image_size), generator, self.device
            )
            if latents is not None and labels is not None:
                latents = self.get_label_latents(labels, noise=latents)
            given = self.decoder_conditions(latents, labels)

            # 3. Images: from noise along the velocity of the decoder.
            chunks = []
            for start in range(0, num_images, batch_size):
                chunk = slice(start, start + batch_size)
                conditions = {name: None if rows is None else rows[chunk] for name, rows in given.items()}

                def velocity_fn(x: Tensor, t: Tensor | float, rows=slice(None), conditions=conditions) -> Tensor:
                    these: Any = {k: None if values is None else values[rows] for k, values in conditions.items()}
                    return self.predict_velocity(x, t, **these).float()

                chunks.append(integrate_flow(velocity_fn, samples[chunk], solver, num_inference_steps, t_min, 1.0))
        return pixel_values_to_images(check_result("images", torch.cat(chunks)), output_type)


def draw_normal(shape: tuple[int, ...], generator: Generators, device: torch.device) -> Tensor:
    """Draws what `diffusers.utils.torch_utils.randn_tensor` draws: float32, on the device of the generator, then moved.

    Args:
        shape (`tuple[int, ...]`): the shape, rows first.
        generator (`torch.Generator` or list of them, *optional*): one for all rows, or one a row. `None`: that of `device`.
        device (`torch.device`): where the result is.
    """
    if isinstance(generator, list):
        return torch.cat([draw_normal((1, *shape[1:]), one, device) for one in generator])
    drawn_on = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=drawn_on, dtype=torch.float32).to(device)


__all__ = ["ImageGeneration", "draw_normal"]
