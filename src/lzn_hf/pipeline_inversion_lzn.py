# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images back to latents and noise, along the image flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .checks_lzn import Generators, check_at_least, check_choice, check_generators, check_result
from .guidance_lzn import Guidance
from .pipeline_generation_lzn import GenerationPipeline, Images
from .sampling_lzn import FLOW_SOLVERS, ImageFlow


@dataclass
class LZNInversion(BaseOutput):
    """Latents and noise of images: `pipe(latents=inversion.latents, sample_noise=inversion.noise, ...)` gives the images back.

    Args:
        latents (`Tensor` of shape `(B, latent_dim)`, *optional*): latents of the images on the CPU, float32 (float64 from a float64
            model); `None` for a model without image encoder, whose images come from noise alone.
        noise (`Tensor` of shape `(B, C, H, W)`): the starts of their image flows, float32 on the CPU.
    """

    latents: Tensor | None
    noise: Tensor


class InversionPipeline(GenerationPipeline):
    """The part of [`LZNPipeline`] that integrates the image flow towards noise."""

    def invert(
        self,
        images: Images,
        num_inference_steps: int = 20,
        solver: str = "heun",
        t_min: float = 0.0,
        generator: Generators = None,
        batch_size: int = 64,
    ) -> LZNInversion:
        r"""
        Takes images to their latents and to the noise of the image flow that they come from.

        The flow runs from the image x1 at t = 1 down to x at t = `t_min`, and from there to t = 0 on the straight line from the
        image, as published: `noise = (x - t_min x1) / (1 - t_min)`.

        Args:
            images (`Images`): see [`LZNPipeline`].
            num_inference_steps (`int`, *optional*, defaults to 20): steps of `"euler"` and `"heun"`.
            solver (`str`, *optional*, defaults to `"heun"`): `"euler"`, `"heun"` or `"rk45"`, see [`LZNPipeline`].
            t_min (`float`, *optional*, defaults to 0): the time at which the flow ends.
            generator (`torch.Generator` or list of them, one an image, *optional*): draws the place in the latent zones; unused by a
                model without image encoder.
            batch_size (`int`, *optional*, defaults to 64): images inverted at once.

        Returns:
            [`LZNInversion`]: the latents and the noise.

        Raises:
            ValueError: if the model has no reference anchors, for bad images or arguments, and for noise that is NaN or infinite.
        """
        # 1. Check everything before anything is computed.
        check_at_least(1, batch_size=batch_size)
        check_choice(FLOW_SOLVERS, solver=solver)
        flow = ImageFlow(solver, num_inference_steps, t_min)
        config, pixel_values = self.model.config, self._pixel_values(images)
        check_generators(generator, len(pixel_values))
        if self.model.encoder is None and config.num_labels:
            raise ValueError(
                "this model needs the labels of images and has no image encoder to find them: it cannot invert images."
            )
        if self.model.encoder is not None and self.model.reference_anchors is None:
            raise ValueError(
                "the latent of an image depends on the anchors around it and this model stores none: call "
                "`model.set_reference_anchors(model.get_image_anchors(training_images))` once and save the model."
            )

        with self._inference():
            # 2. Latents: each image at a random place of its own zone among the reference anchors.
            latents = None
            if self.model.encoder is not None:
                shape = (len(pixel_values), config.latent_dim)
                prior = randn_tensor(shape, generator, pixel_values.device, torch.float32)
                pairs = zip(pixel_values.split(int(batch_size)), prior.split(int(batch_size)), strict=True)
                latents = torch.cat([self.model.get_image_latents(x, noise=n) for x, n in pairs])

            # 3. Noise: from the images against the velocity of the decoder.
            given = self.model.decoder_conditions(latents)
            chunks = self._chunks(flow, pixel_values, given, batch_size, Guidance(self.model))
            noise = check_result("images", torch.cat([flow.to_noise(velocity_fn, x) for velocity_fn, x, _ in chunks]))
        return LZNInversion(latents=None if latents is None else latents.cpu(), noise=noise.cpu())


__all__ = ["InversionPipeline", "LZNInversion"]
