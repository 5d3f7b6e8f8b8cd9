# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images from a model alone: [`LZNModel`] generates where there is neither diffusers nor this package, as remote code does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .checks_lzn import Generators, check_at_least, check_choice, check_generators, check_result, labels_to_ids
from .flow_lzn import FLOW_SOLVERS, check_steps, integrate_flow
from .images_lzn import check_output_type, pixel_values_to_images
from .networks_lzn import evaluation_mode


class ImageGeneration:
    """The part of [`LZNModel`] that makes images of labels, or of nothing."""

    if TYPE_CHECKING:  # what it needs of the model
        config: Any
        device: torch.device
        encoder: Any
        decoder: Any
        label_anchors: Any
        get_label_latents: Any
        classify_latents: Any
        predict_velocity: Any

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
            elif latents is not None and self.label_anchors is not None:
                labels = self.classify_latents(latents).argmax(-1)

            # 3. Images: from noise along the velocity of the decoder.
            chunks = []
            for start in range(0, num_images, batch_size):
                chunk = slice(start, start + batch_size)
                conditions = [None if rows is None else rows[chunk] for rows in (latents, labels)]

                def velocity_fn(x: Tensor, t: Tensor | float, rows=slice(None), conditions=conditions) -> Tensor:
                    return self.predict_velocity(x, t, *(c if c is None else c[rows] for c in conditions)).float()

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
