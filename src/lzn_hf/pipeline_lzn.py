# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images from labels, latents or images, and labels and embeddings from images, in one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ImagePipelineOutput, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

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
from .pipeline_editing_lzn import EditingPipeline, Images, LZNInversion
from .sampling_lzn import check_scheduler, default_scheduler


@dataclass
class LZNPipelineOutput(ImagePipelineOutput):
    """What [`LZNPipeline`] generates: S steps of the image flow, B images.

    Args:
        images (list of PIL images, array or `Tensor`): the images, in the type that was asked for.
        trajectory (`Tensor` of shape `(S + 1, B, C, H, W)`, *optional*): with `return_trajectory=True`, the noise and the samples
            after each step, the last of which are the images before they are clipped to [-1, 1]; float32 on the CPU.
        times (list of S + 1 `float`, *optional*): their times, from 0 (or `t_min`) to 1.
    """

    trajectory: Tensor | None = None
    times: list[float] | None = None


class LZNPipeline(EditingPipeline):
    r"""
    Generates, classifies, embeds, inverts, reconstructs, interpolates and varies images with one [`LZNModel`].

    A model without image encoder (`config.encoder_type=None`, a plain rectified flow) has no latents: its images come from the noise
    of the image flow alone, in all of these but classifying and embedding, which it cannot do.

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
        return_trajectory: bool = False,
    ) -> LZNPipelineOutput | tuple:
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
            return_dict (`bool`, *optional*, defaults to `True`): whether to return an [`LZNPipelineOutput`] or a tuple.
            solver (`str`, *optional*): `"euler"`, `"heun"` or `"rk45"`, see [`LZNPipeline`]. `None`: the scheduler.
            t_min (`float`, *optional*, defaults to 0): the time at which a `solver` starts with the noise.
            sample_noise (`Tensor` of shape `(N, C, H, W)`, *optional*): the noise of each of the N images that the image flow starts
                from, instead of drawing it. Without image encoder, N is what comes.
            return_trajectory (`bool`, *optional*, defaults to `False`): whether to return the samples at all steps, too. Not with
                `solver="rk45"`, whose steps are different ones for each image.

        Raises:
            ValueError: for unknown labels, labels of a model that has none, and arguments out of range or of a wrong shape.
        """
        # 1. Check everything before anything is computed.
        check_output_type(output_type)
        check_scheduler(self.scheduler)
        check_at_least(1, num_images_per_label=num_images_per_label, num_inference_steps=num_inference_steps)
        check_at_least(1, batch_size=batch_size)
        check_solver(solver, t_min, (None, *SOLVERS))
        if return_trajectory and solver == "rk45":
            raise ValueError(
                "`return_trajectory` needs steps that all images share: `solver` must be None, 'euler' or 'heun', got 'rk45'."
            )
        if label is not None and latents is not None:
            raise ValueError("pass either `label` or `latents`, got both.")
        config, device = self.model.config, self._execution_device
        labels = None if label is None else self._label_ids(label).repeat_interleave(num_images_per_label).to(device)
        if latents is not None:
            if self.model.encoder is None:
                raise ValueError(
                    "`latents` must be None for a model without image encoder (config.encoder_type is None), whose images come from "
                    "`sample_noise` alone."
                )
            check_tensor("latents", latents, ("N", config.latent_dim))
            latents = latents.to(device, torch.float32).repeat_interleave(num_images_per_label, 0)
        num_images = next((len(rows) for rows in (labels, latents) if rows is not None), num_images_per_label)
        shape = (config.num_channels, config.image_size, config.image_size)
        if self.model.encoder is None and sample_noise is not None and num_images_per_label == 1:
            check_tensor("sample_noise", sample_noise, ("N", *shape))
            num_images = len(sample_noise)
        check_generators(generator, num_images)
        if sample_noise is not None:
            check_tensor("sample_noise", sample_noise, (num_images, *shape))
            sample_noise = sample_noise.to(device, torch.float32)

        with self._inference():
            # 2. Latents: given, in the zones of the labels, or prior noise.
            if latents is None and self.model.encoder is not None:
                latents = randn_tensor((num_images, config.latent_dim), generator, device, torch.float32)
            if labels is not None:
                latents = self.model.get_label_latents(labels, noise=latents)
            labels = self._zone_labels(latents) if labels is None else labels

            # 3. Images: from noise along the velocity of the decoder.
            if sample_noise is None:
                sample_noise = randn_tensor((num_images, *shape), generator, device, torch.float32)
            flow = self._flow(solver, (t_min, 1), num_inference_steps)
            states: dict[float, list[Tensor]] = {}  # of each time, one chunk after the other

            def keep(t: float, samples: Tensor) -> None:
                states.setdefault(t, []).append(samples.cpu())

            on_step = keep if return_trajectory else None
            sample = self._solve(*flow, sample_noise, latents, labels, batch_size, on_step)

        # 4. To the wanted type.
        way = {}
        if return_trajectory:
            trajectory = torch.stack([torch.cat(chunks) for chunks in states.values()])
            way = {"trajectory": trajectory, "times": list(states)}
        output = LZNPipelineOutput(images=self.image_processor.postprocess(sample, output_type), **way)
        return output if return_dict else output.to_tuple()

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
            [{"label": config.id2label[i], "score": score} for score, i in zip(*row, strict=True)]
            for row in zip(scores.tolist(), ids.tolist(), strict=True)
        ]

    def embed(self, images: Images, batch_size: int = 64) -> Tensor:
        """Embeddings `(B, F)` of images, float32 on the CPU; see [`LZNModel.get_image_features`]."""
        check_at_least(1, batch_size=batch_size)
        pixel_values = self._pixel_values(images)
        with self._inference():
            features = [self.model.get_image_features(chunk) for chunk in pixel_values.split(batch_size)]
        return torch.cat(features).float().cpu()

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


__all__ = ["LZNInversion", "LZNPipeline", "LZNPipelineOutput"]
