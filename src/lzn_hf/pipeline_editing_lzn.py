# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images to their latents and noise, and from there back, between two images, or to variations of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import ImagePipelineOutput
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers.image_utils import ImageInput

from .image_processing_lzn import check_output_type
from .pipeline_arguments_lzn import (
    SOLVERS,
    Generators,
    check_at_least,
    check_choice,
    check_generators,
    check_share,
    check_solver,
    check_tensor,
)
from .pipeline_folder_lzn import FlatFolderPipeline
from .sampling_lzn import OnStep, integrate_rk45, integrate_velocity, mix_noise, run_scheduler, set_timesteps, slerp


Images = ImageInput | Mapping[str, Tensor]
# Takes a velocity function and samples at one end of the image flow to the samples at the other end.
Solver = Callable[..., Tensor]


@dataclass
class LZNInversion(BaseOutput):
    """What images come from; `pipe(latents=inversion.latents, sample_noise=inversion.noise, ...)` gives them back.

    Args:
        latents (`Tensor` of shape `(B, latent_dim)`): latents of the images, float32 on the CPU; `None` for a model without image
            encoder, whose images come from noise alone.
        noise (`Tensor` of shape `(B, C, H, W)`): the starts of their image flows, float32 on the CPU.
    """

    latents: Tensor | None
    noise: Tensor


class EditingPipeline(FlatFolderPipeline):
    """The part of [`LZNPipeline`] that goes from images to their latents and noise and back, and both ways along the image flow."""

    def invert(
        self,
        images: Images,
        num_inference_steps: int = 20,
        solver: str = "heun",
        t_min: float = 0.0,
        generator: Generators = None,
        batch_size: int = 64,
    ) -> LZNInversion:
        r"""Takes images to their latents and to the noise of the image flow that these come from.

        The flow runs from the image x1 at t = 1 down to x at t = `t_min`, and goes on from there to t = 0 on the straight line
        from the image, as published: `noise = (x - t_min x1) / (1 - t_min)`.

        Args:
            images: see [`LZNPipeline`].
            num_inference_steps (`int`, *optional*, defaults to 20): steps of `"euler"` and `"heun"`.
            solver (`str`, *optional*, defaults to `"heun"`): `"euler"`, `"heun"` or `"rk45"`, see [`LZNPipeline`].
            t_min (`float`, *optional*, defaults to 0): the time at which the flow ends.
            generator (`torch.Generator` or list of them, one an image, *optional*): draws the place in the latent zones; nothing for
                a model without image encoder.
            batch_size (`int`, *optional*, defaults to 64): images that are inverted at once.

        Raises:
            ValueError: if the model has no reference anchors, and for bad images or arguments.
        """
        check_at_least(1, num_inference_steps=num_inference_steps, batch_size=batch_size)
        check_solver(solver, t_min, SOLVERS)
        pixel_values = self._pixel_values(images)
        check_generators(generator, len(pixel_values))
        with self._inference():
            latents, noise = self._invert(pixel_values, num_inference_steps, solver, t_min, generator, batch_size)
        return LZNInversion(latents=None if latents is None else latents.cpu(), noise=noise.cpu())

    def reconstruct(
        self,
        images: Images,
        num_inference_steps: int = 20,
        solver: str = "heun",
        t_min: float = 0.0,
        generator: Generators = None,
        batch_size: int = 64,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Takes images to their latents and the noise of the image flow, and from these back to images.

        Both ways have the same solver; with Heun steps, the default, the error shrinks with their square.

        Args:
            images, num_inference_steps, solver, t_min, generator, batch_size: see [`LZNPipeline.invert`].
            output_type, return_dict: see [`LZNPipeline.__call__`].

        Raises:
            ValueError: as [`LZNPipeline.invert`].
        """
        check_output_type(output_type)
        check_at_least(1, num_inference_steps=num_inference_steps, batch_size=batch_size)
        check_solver(solver, t_min, SOLVERS)
        pixel_values = self._pixel_values(images)
        check_generators(generator, len(pixel_values))
        with self._inference():
            latents, noise = self._invert(pixel_values, num_inference_steps, solver, t_min, generator, batch_size)
            sample = self._generate(latents, noise, num_inference_steps, solver, t_min, batch_size)
        return self._output(sample, output_type, return_dict)

    def interpolate(
        self,
        image_a: Images,
        image_b: Images,
        num_steps: int = 8,
        num_inference_steps: int = 20,
        solver: str = "heun",
        t_min: float = 0.0,
        generator: Generators = None,
        batch_size: int = 64,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Images on the way between two images, along great circles of their latents and of their noise in the image flow.

        Args:
            image_a, image_b: one image each, see [`LZNPipeline`].
            num_steps (`int`, *optional*, defaults to 8): images to return, at least 2: the first and the last are what
                `reconstruct([image_a, image_b], generator=generator)` gives.
            num_inference_steps, solver, t_min, generator, batch_size, output_type, return_dict: see [`LZNPipeline.reconstruct`].

        Raises:
            ValueError: as [`LZNPipeline.reconstruct`], and for anything but one image on each side.
        """
        check_output_type(output_type)
        check_at_least(1, num_inference_steps=num_inference_steps, batch_size=batch_size)
        check_at_least(2, num_steps=num_steps)
        check_solver(solver, t_min, SOLVERS)
        check_generators(generator, 2)
        pixel_values = torch.cat([self._pixel_values(image) for image in (image_a, image_b)])
        if len(pixel_values) != 2:
            raise ValueError(f"`image_a` and `image_b` must be one image each, got {len(pixel_values)} in all.")
        with self._inference():
            ends = self._invert(pixel_values, num_inference_steps, solver, t_min, generator, batch_size)
            weights = torch.linspace(0, 1, num_steps).tolist()
            latents, noise = (
                None if both is None else torch.stack([slerp(*both, weight) for weight in weights]) for both in ends
            )
            sample = self._generate(latents, noise, num_inference_steps, solver, t_min, batch_size)
        return self._output(sample, output_type, return_dict)

    def vary(
        self,
        images: Images,
        strength: float,
        keep: str = "latent",
        num_images_per_image: int = 1,
        num_inference_steps: int = 20,
        solver: str = "heun",
        t_min: float = 0.0,
        generator: Generators = None,
        batch_size: int = 64,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        r"""Variations of images (all of the first image first): their latents with other noise, or their noise with other latents.

        What is not kept is mixed with new noise n along a great circle, `sqrt(1 - w^2) x + w n` with w = `strength`, so that it
        stays as Gaussian as it was: see [`mix_noise`]. At 0 this is [`LZNPipeline.reconstruct`]. At 1 the images share only the
        latent, or only the noise, with the one that they come from.

        Args:
            images: see [`LZNPipeline`].
            strength (`float`): from 0 (the image) to 1 (all that is not kept is new).
            keep (`str`, *optional*, defaults to `"latent"`): `"latent"`: the noise of the image flow varies. `"noise"`: the latent
                moves away from its place, at last to any zone of the prior, and the label that the decoder is given with it.
            num_images_per_image (`int`, *optional*, defaults to 1): variations of each image. More leave the first ones as they are.
            num_inference_steps, solver, t_min, batch_size: see [`LZNPipeline.invert`].
            generator (`torch.Generator` or list of them, one an image, *optional*): draws the place in the latent zones, as for
                [`LZNPipeline.invert`], and then the new noise.
            output_type, return_dict: see [`LZNPipeline.__call__`].

        Raises:
            ValueError: as [`LZNPipeline.reconstruct`], and for `keep="noise"` with a model that has no latents.
        """
        check_output_type(output_type)
        check_share(strength=strength)
        check_choice(("latent", "noise"), keep=keep)
        check_at_least(1, num_images_per_image=num_images_per_image)
        check_at_least(1, num_inference_steps=num_inference_steps, batch_size=batch_size)
        check_solver(solver, t_min, SOLVERS)
        if keep == "noise" and self.model.encoder is None:
            raise ValueError(
                "`keep` must be 'latent' for a model without latents, as only its noise can vary, got 'noise'."
            )
        pixel_values = self._pixel_values(images)
        check_generators(generator, len(pixel_values))
        with self._inference():
            latents, noise = self._invert(pixel_values, num_inference_steps, solver, t_min, generator, batch_size)
            varied = noise if keep == "latent" else latents
            new = [
                randn_tensor(varied.shape, generator, varied.device, varied.dtype) for _ in range(num_images_per_image)
            ]
            varied = mix_noise(varied[:, None], torch.stack(new, dim=1), strength).flatten(0, 1)
            kept = latents if keep == "latent" else noise
            kept = None if kept is None else kept.repeat_interleave(num_images_per_image, 0)
            latents, noise = (kept, varied) if keep == "latent" else (varied, kept)
            sample = self._generate(latents, noise, num_inference_steps, solver, t_min, batch_size)
        return self._output(sample, output_type, return_dict)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """No gradients, no dropout (modes are restored), and the model on its device under diffusers' offloading."""
        training = [module for module in self.model.modules() if module.training]
        try:
            self.model.eval()
            if hasattr(self.model, "_hf_hook"):  # a hook runs by itself for `forward` only
                self.model._hf_hook.pre_forward(self.model)
            with torch.no_grad():
                yield
        finally:
            self.maybe_free_model_hooks()
            for module in training:
                module.training = True

    def _zone_labels(self, latents: Tensor | None) -> Tensor | None:
        """The labels of the zones that latents lie in, for the decoder; `None` for a model without labels."""
        return self.model.classify_latents(latents).argmax(-1) if self.model.config.num_labels else None

    def _pixel_values(self, images: Images) -> Tensor:
        """Images to pixel values `(B, C, H, W)` in [-1, 1] on the device of the model."""
        if not isinstance(images, Mapping):
            images = self.image_processor(images, return_tensors="pt")
        return images["pixel_values"].to(self._execution_device, torch.float32)

    def _output(self, sample: Tensor, output_type: str, return_dict: bool) -> ImagePipelineOutput | tuple:
        images = self.image_processor.postprocess(sample, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _invert(
        self,
        pixel_values: Tensor,
        num_inference_steps: int,
        solver: str,
        t_min: float,
        generator: Generators,
        batch_size: int,
    ) -> tuple[Tensor | None, Tensor]:
        """The latents `(B, D)` of images, if the model has any, and the noise `(B, C, H, W)` that the images come from."""
        config, latents = self.model.config, None
        if self.model.encoder is None:
            check_tensor(
                "pixel_values", pixel_values, ("B", config.num_channels, config.image_size, config.image_size)
            )
        else:
            if self.model.reference_anchors is None:
                raise ValueError(
                    "the latent of an image depends on the anchors around it and this model stores none: call "
                    "`model.set_reference_anchors(model.get_image_anchors(training_images))` once and save the model."
                )
            shape = (len(pixel_values), config.latent_dim)
            prior = randn_tensor(shape, generator, pixel_values.device, torch.float32)
            chunks = zip(pixel_values.split(batch_size), prior.split(batch_size), strict=True)
            latents = torch.cat([self.model.get_image_latents(x, noise=n) for x, n in chunks])
        flow = self._flow(solver, (1, t_min), num_inference_steps)
        sample = self._solve(*flow, pixel_values, latents, self._zone_labels(latents), batch_size)
        return latents, (sample - t_min * pixel_values) / (1 - t_min)

    def _generate(
        self,
        latents: Tensor | None,
        noise: Tensor,
        num_inference_steps: int,
        solver: str,
        t_min: float,
        batch_size: int,
    ) -> Tensor:
        """The images `(B, C, H, W)` in [-1, 1] that come from latents and noise."""
        flow = self._flow(solver, (t_min, 1), num_inference_steps)
        return self._solve(*flow, noise, latents, self._zone_labels(latents), batch_size)

    def _flow(self, solver: str | None, ends: tuple[float, float], num_inference_steps: int) -> tuple[Solver, float]:
        """A solver of the image flow from one time to another, and the number of its velocity evaluations; `None`: the scheduler."""
        if solver is None:
            num_evaluations = len(set_timesteps(self.scheduler, num_inference_steps, self._execution_device))
            return partial(run_scheduler, self.scheduler, num_inference_steps), num_evaluations
        if solver == "rk45":
            return (lambda velocity_fn, sample: integrate_rk45(velocity_fn, sample, *ends)[0]), math.inf
        times = torch.linspace(*ends, num_inference_steps + 1, dtype=torch.float64).tolist()
        num_evaluations = num_inference_steps * (2 if solver == "heun" else 1)
        return partial(integrate_velocity, times=times, method=solver), num_evaluations

    def _solve(
        self,
        solver: Solver,
        num_evaluations: float,
        sample: Tensor,
        latents: Tensor | None,
        labels: Tensor | None,
        batch_size: int,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Applies a solver of the image flow to each chunk; the conditions of a sample are those of its row."""
        starts, samples = range(0, len(sample), batch_size), []
        options = {} if on_step is None else {"on_step": on_step}
        with self.progress_bar(total=num_evaluations * len(starts)) as progress:  # infinite: not known
            for start in starts:
                chunk = slice(start, start + batch_size)
                conditions = [None if rows is None else rows[chunk] for rows in (latents, labels)]

                def velocity_fn(x: Tensor, t: Tensor | float, rows=slice(None), conditions=conditions) -> Tensor:
                    progress.update()
                    latents, labels = (None if condition is None else condition[rows] for condition in conditions)
                    return self.model.predict_velocity(x, t, latents, labels).float()

                samples.append(solver(velocity_fn, sample[chunk], **options))
        return torch.cat(samples)


__all__ = ["EditingPipeline", "Images", "LZNInversion"]
