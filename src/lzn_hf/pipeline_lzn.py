# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images from labels, latents or images, and labels and embeddings from images, in one object."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import ImagePipelineOutput, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers.image_utils import ImageInput

from .image_processing_lzn import LZNImageProcessor, check_output_type
from .modeling_lzn import LZNModel
from .pipeline_arguments_lzn import (
    SOLVERS,
    Generators,
    check_at_least,
    check_generators,
    check_solver,
    check_tensor,
    label_to_id,
)
from .pipeline_folder_lzn import FlatFolderPipeline
from .sampling_lzn import (
    check_scheduler,
    default_scheduler,
    integrate_rk45,
    integrate_velocity,
    run_scheduler,
    set_timesteps,
    slerp,
)


Images = ImageInput | Mapping[str, Tensor]
# Takes a velocity function and samples at one end of the image flow to the samples at the other end.
Solver = Callable[[Callable[..., Tensor], Tensor], Tensor]


@dataclass
class LZNInversion(BaseOutput):
    """What images come from; `pipe(latents=inversion.latents, sample_noise=inversion.noise, ...)` gives them back.

    Args:
        latents (`Tensor` of shape `(B, latent_dim)`): latents of the images, float32 on the CPU.
        noise (`Tensor` of shape `(B, C, H, W)`): the starts of their image flows, float32 on the CPU.
    """

    latents: Tensor
    noise: Tensor


class LZNPipeline(FlatFolderPipeline):
    r"""
    Generates, classifies, embeds, reconstructs and interpolates images with one [`LZNModel`].

    Wherever a method takes `images`, these are whatever [`LZNImageProcessor`] takes: one or a list of PIL images, arrays or
    tensors (integers in 0..255, floating point in [0, 1], as this pipeline itself returns them), resized to the size of the
    model. Pixel values that are already in [-1, 1] are passed as `{"pixel_values": tensor}`, the output of the image processor.

    Networks run over chunks of `batch_size` images. All noise is drawn before, so results do not depend on the chunks; with a
    list of generators, one an image, a result does not depend on the other images of the call either.

    Wherever a method takes a `solver`, this is `"euler"` or `"heun"` (`num_inference_steps` uniform steps of the image flow with
    one or two network evaluations each) or `"rk45"` (adaptive steps with a tolerance of 1e-5 each, [`integrate_rk45`]: it does not
    use `num_inference_steps`, and its choice of steps makes of different rounding, as other chunks bring, differences as large as
    its error). The flow runs between t = 1, the image, and t = `t_min`, in [0, 1), which is taken for the noise: the published
    models were trained and sampled with 1e-3.

    Args:
        model ([`LZNModel`]): the encoder, decoder and anchors.
        scheduler (`SchedulerMixin`): diffusers solver of the image flow, see [`default_scheduler`]. Also supported:
            `FlowMatchEulerDiscreteScheduler`, `FlowMatchHeunDiscreteScheduler`, `DPMSolverMultistepScheduler`.
        image_processor ([`LZNImageProcessor`]): images to pixel values and back.

    Raises:
        ValueError: for a model without a decoder, and for other schedulers.

    Example:

    ```py
    pipe = LZNPipeline.from_pretrained("path/to/folder")
    image = pipe(label="7").images[0]
    pipe.classify(image)[0][0]  # {"label": "7", "score": 0.99}
    ```
    """

    model_cpu_offload_seq = "model"

    def __init__(self, model: LZNModel, scheduler: SchedulerMixin, image_processor: LZNImageProcessor):
        super().__init__()
        if model.decoder is None:
            raise ValueError(
                "`model` must have a decoder, as a pipeline generates images, got one without: use it by itself, as loaded by "
                "`AutoModel.from_pretrained(...)`."
            )
        check_scheduler(scheduler)
        self.register_modules(model=model, scheduler=scheduler, image_processor=image_processor)

    @classmethod
    def from_model(cls, model: LZNModel) -> LZNPipeline:
        """A pipeline around a model, with the default scheduler and an image processor for its image size and channels."""
        size, half = model.config.image_size, [0.5] * model.config.num_channels
        image_processor = LZNImageProcessor(size={"height": size, "width": size}, image_mean=half, image_std=half)
        return cls(model=model, scheduler=default_scheduler(), image_processor=image_processor)

    def __call__(
        self,
        label: str | int | Sequence[str | int] | None = None,
        num_images_per_label: int = 1,
        num_inference_steps: int = 20,
        generator: Generators = None,
        latents: Tensor | None = None,
        batch_size: int = 64,
        output_type: str = "pil",
        return_dict: bool = True,
        solver: str | None = None,
        t_min: float = 0.0,
        sample_noise: Tensor | None = None,
    ) -> ImagePipelineOutput | tuple:
        r"""
        Generates images of labels (all of the first label first), from given latents, or (with neither) from prior noise.

        Args:
            label (`str`, `int` or list of them, *optional*): names or ids of `model.config.id2label`. `None`: latents are prior
                noise, `num_images_per_label` of them; a decoder that is conditioned on labels gets that of the zone of each.
            num_images_per_label (`int`, *optional*, defaults to 1): images of each label, or of each of the `latents`.
            num_inference_steps (`int`, *optional*, defaults to 20): steps of the scheduler or solver, one network evaluation each
                (`2 num_inference_steps - 1` in all with `FlowMatchHeunDiscreteScheduler`, two a step with `solver="heun"`).
            generator (`torch.Generator` or list of them, one an image, *optional*): draws all noise.
            latents (`Tensor` of shape `(N, latent_dim)`, *optional*): points of the latent space, instead of `label`.
            batch_size (`int`, *optional*, defaults to 64): images that are generated at once.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"` (`(B, H, W, C)` in [0, 1]) or `"pt"`
                (`(B, C, H, W)` in [0, 1]).
            return_dict (`bool`, *optional*, defaults to `True`): whether to return an `ImagePipelineOutput` or a tuple.
            solver (`str`, *optional*): `"euler"`, `"heun"` or `"rk45"`, see [`LZNPipeline`]. `None`: the scheduler.
            t_min (`float`, *optional*, defaults to 0): the time at which a `solver` starts with the noise.
            sample_noise (`Tensor` of shape `(N, C, H, W)`, *optional*): the noise of each of the N images that the image flow starts
                from, instead of drawing it.

        Raises:
            ValueError: for unknown labels, labels of a model that has none, and arguments out of range or of a wrong shape.
        """
        # 1. Check everything before anything is computed.
        check_output_type(output_type)
        check_scheduler(self.scheduler)
        check_at_least(1, num_images_per_label=num_images_per_label, num_inference_steps=num_inference_steps)
        check_at_least(1, batch_size=batch_size)
        check_solver(solver, t_min, (None, *SOLVERS))
        if label is not None and latents is not None:
            raise ValueError("pass either `label` or `latents`, got both.")
        config, device = self.model.config, self._execution_device
        labels = None if label is None else self._label_ids(label).repeat_interleave(num_images_per_label).to(device)
        if latents is not None:
            check_tensor("latents", latents, ("N", config.latent_dim))
            latents = latents.to(device, torch.float32).repeat_interleave(num_images_per_label, 0)
        num_images = next((len(rows) for rows in (labels, latents) if rows is not None), num_images_per_label)
        check_generators(generator, num_images)
        shape = (num_images, config.num_channels, config.image_size, config.image_size)
        if sample_noise is not None:
            check_tensor("sample_noise", sample_noise, shape)
            sample_noise = sample_noise.to(device, torch.float32)

        with self._inference():
            # 2. Latents: given, in the zones of the labels, or prior noise.
            if latents is None:
                latents = randn_tensor((num_images, config.latent_dim), generator, device, torch.float32)
            if labels is not None:
                latents = self.model.get_label_latents(labels, noise=latents)
            labels = self._zone_labels(latents) if labels is None else labels

            # 3. Images: from noise along the velocity of the decoder.
            if sample_noise is None:
                sample_noise = randn_tensor(shape, generator, device, torch.float32)
            flow = self._flow(solver, (t_min, 1), num_inference_steps)
            sample = self._solve(*flow, sample_noise, latents, labels, batch_size)

        # 4. To the wanted type.
        return self._output(sample, output_type, return_dict)

    def classify(self, images: Images, top_k: int = 5, batch_size: int = 64) -> list[list[dict[str, str | float]]]:
        """The most probable labels of images, each a function of its image alone.

        Args:
            images: see [`LZNPipeline`].
            top_k (`int`, *optional*, defaults to 5): labels of each image, at most the number of labels there are.
            batch_size (`int`, *optional*, defaults to 64): images that are encoded at once.

        Returns:
            `list[list[dict]]`: for each image (one, too) `{"label": name, "score": probability}` in falling order.

        Raises:
            ValueError: if the model has no labels or no reference anchors, and for bad images.
        """
        check_at_least(1, top_k=top_k, batch_size=batch_size)
        config = self.model.config
        if config.num_labels == 0:
            raise ValueError("this model has no labels (config.num_labels is 0), so it cannot classify.")
        pixel_values = self._pixel_values(images)
        with self._inference():
            log_probs = torch.cat([self.model.classify_images(chunk) for chunk in pixel_values.split(batch_size)])
        scores, ids = log_probs.float().exp().topk(min(top_k, config.num_labels))
        return [
            [{"label": config.id2label[i], "score": score} for score, i in zip(*row)]
            for row in zip(scores.tolist(), ids.tolist())
        ]

    def embed(self, images: Images, batch_size: int = 64) -> Tensor:
        """Embeddings `(B, F)` of images, float32 on the CPU; see [`LZNModel.get_image_features`]."""
        check_at_least(1, batch_size=batch_size)
        pixel_values = self._pixel_values(images)
        with self._inference():
            features = [self.model.get_image_features(chunk) for chunk in pixel_values.split(batch_size)]
        return torch.cat(features).float().cpu()

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
            generator (`torch.Generator` or list of them, one an image, *optional*): draws the place in the latent zones.
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
        return LZNInversion(latents=latents.cpu(), noise=noise.cpu())

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
            flow = self._flow(solver, (t_min, 1), num_inference_steps)
            sample = self._solve(*flow, noise, latents, self._zone_labels(latents), batch_size)
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
            latents, noise = (torch.stack([slerp(a, b, weight) for weight in weights]) for a, b in ends)
            flow = self._flow(solver, (t_min, 1), num_inference_steps)
            sample = self._solve(*flow, noise, latents, self._zone_labels(latents), batch_size)
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

    def _label_ids(self, label: str | int | Sequence[str | int]) -> Tensor:
        """Names and ids of labels to ids, int64 `(N,)`."""
        config = self.model.config
        if config.num_labels == 0:
            raise ValueError(
                f"`label` must be None, as the model has no labels (config.num_labels is 0), got {label!r}."
            )
        labels = list(label) if isinstance(label, (list, tuple)) else [label]
        if not labels:
            raise ValueError("`label` must be at least one label, got an empty list.")
        return torch.tensor([label_to_id(one, config.label2id, config.num_labels) for one in labels])

    def _zone_labels(self, latents: Tensor) -> Tensor | None:
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
    ) -> tuple[Tensor, Tensor]:
        """The latents `(B, D)` of images and the noise `(B, C, H, W)` that the image flow makes the images from."""
        if self.model.reference_anchors is None:
            raise ValueError(
                "the latent of an image depends on the anchors around it and this model stores none: call "
                "`model.set_reference_anchors(model.get_image_anchors(training_images))` once and save the model."
            )
        shape = (len(pixel_values), self.model.config.latent_dim)
        prior = randn_tensor(shape, generator, pixel_values.device, torch.float32)
        chunks = zip(pixel_values.split(batch_size), prior.split(batch_size))
        latents = torch.cat([self.model.get_image_latents(x, noise=n) for x, n in chunks])
        flow = self._flow(solver, (1, t_min), num_inference_steps)
        sample = self._solve(*flow, pixel_values, latents, self._zone_labels(latents), batch_size)
        return latents, (sample - t_min * pixel_values) / (1 - t_min)

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
        latents: Tensor,
        labels: Tensor | None,
        batch_size: int,
    ) -> Tensor:
        """Applies a solver of the image flow to each chunk; the conditions of a sample are those of its row."""
        starts, samples = range(0, len(sample), batch_size), []
        with self.progress_bar(total=num_evaluations * len(starts)) as progress:  # infinite: not known
            for start in starts:
                chunk = slice(start, start + batch_size)
                conditions = latents[chunk], None if labels is None else labels[chunk]

                def velocity_fn(x: Tensor, t: Tensor | float, rows=slice(None), conditions=conditions) -> Tensor:
                    progress.update()
                    latents, labels = (None if condition is None else condition[rows] for condition in conditions)
                    return self.model.predict_velocity(x, t, latents, labels).float()

                samples.append(solver(velocity_fn, sample[chunk]))
        return torch.cat(samples)


__all__ = ["LZNInversion", "LZNPipeline"]
