# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The whole life of a call: labels, texts, latents and noise to images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.image_utils import ImageInput

from .checks_lzn import (
    Generators,
    check_at_least,
    check_choice,
    check_generators,
    check_num_images,
    check_pixel_values,
    check_result,
    check_size,
    check_tensor,
    labels_to_ids,
)
from .guidance_lzn import Guidance, Guide, resolve_guidance
from .image_processing_lzn import LZNImageProcessor, check_output_type
from .modeling_lzn import LZNModel, evaluation_mode
from .pipeline_folder_lzn import FlatFolderPipeline
from .pipeline_steps_lzn import ChunkSteps, Interrupted, InterruptibleCalls, StepCallback, check_callback, join_chunks
from .processing_lzn import check_tokenizer, tokenize_texts
from .sampling_lzn import FLOW_SOLVERS, ImageFlow, VelocityFn, check_scheduler


Images = ImageInput | Mapping[str, Tensor]


@dataclass
class LZNPipelineOutput(ImagePipelineOutput):
    """Generated images. S steps of the image flow, B images.

    Args:
        images (list of PIL images, array or `Tensor`): the images, of the requested `output_type`.
        trajectory (`Tensor` of shape `(S + 1, B, C, H, W)`, *optional*): with `return_trajectory=True`, the noise and the samples
            after each step, float32 on the CPU; the last are the images before they are clipped to [-1, 1]. With
            `return_trajectory="images"`, all of them as `images` are: a list of S + 1 lists of PIL images, or an array or tensor with
            one more dimension in front.
        times (list of S + 1 `float`, *optional*): their times, from 0 (or `t_min`) to 1.
    """

    trajectory: Any = None
    times: list[float] | None = None


class GenerationPipeline(InterruptibleCalls, FlatFolderPipeline):
    """The part of [`LZNPipeline`] that integrates the image flow towards images."""

    model_cpu_offload_seq = "model"  # type: ignore[assignment]  # diffusers annotates its default, None

    def __init__(
        self,
        model: LZNModel,
        scheduler: SchedulerMixin,
        image_processor: LZNImageProcessor,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        super().__init__()
        check_model(model)
        if not isinstance(image_processor, LZNImageProcessor):
            raise ValueError(f"`image_processor` must be an LZNImageProcessor, got {type(image_processor).__name__}.")
        if model.decoder is None:
            raise ValueError(
                "`model` must have a decoder, as a pipeline generates images, got one without: use it by itself, as loaded by "
                "`AutoModel.from_pretrained(...)`."
            )
        check_scheduler(scheduler)
        image_processor.check_fits(model.config.image_size, model.config.num_channels)
        if tokenizer is not None:
            check_tokenizer(tokenizer, model.config)
        self.register_modules(model=model, scheduler=scheduler, image_processor=image_processor, tokenizer=tokenizer)

    def __call__(
        self,
        label: str | int | Sequence[str | int] | None = None,
        num_images_per_label: int = 1,
        num_inference_steps: int = 20,
        generator: Generators = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        solver: str | None = None,
        t_min: float = 0.0,
        sample_noise: Tensor | None = None,
        return_trajectory: bool | str = False,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("sample",),
        num_images_per_prompt: int | None = None,
        height: int | None = None,
        width: int | None = None,
        seed: None = None,
        guide: Guide | None = None,
        guidance_scale: float = 1.0,
        prompt: str | Sequence[str] | None = None,
    ) -> LZNPipelineOutput | tuple:
        r"""
        Generates images of labels or texts (all of the first one first), from given latents, or (with none of them) from prior noise.

        Args:
            label (`str`, `int` or list of them, *optional*): names or ids of `model.config.id2label`. `None`: the latents are prior
                noise, `num_images_per_label` of them, and a label-conditioned decoder gets the labels of the zones they lie in.
            num_images_per_label (`int`, *optional*, defaults to 1): images of each label, or of each of the `latents`.
            num_inference_steps (`int`, *optional*, defaults to 20): steps of the scheduler or solver, one network evaluation each
                (`2 num_inference_steps - 1` in all with `FlowMatchHeunDiscreteScheduler`, two a step with `solver="heun"`).
            generator (`torch.Generator` or list of them, one an image, *optional*): draws all noise.
            latents (`Tensor` of shape `(N, latent_dim)`, *optional*): points of the latent space, instead of `label`.
            batch_size (`int`, *optional*, defaults to 64): images generated at once, out of those that `label`, `latents` and
                `num_images_per_label` ask for.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"` (`(B, H, W, C)` in [0, 1]) or `"pt"`
                (`(B, C, H, W)` in [0, 1]).
            return_dict (`bool`, *optional*, defaults to `True`): whether to return an [`LZNPipelineOutput`] or a tuple.
            solver (`str`, *optional*): `"euler"`, `"heun"` or `"rk45"`, see [`LZNPipeline`]. `None`: the scheduler.
            t_min (`float`, *optional*, defaults to 0): the time at which a `solver` starts with the noise.
            sample_noise (`Tensor` of shape `(N, C, H, W)`, *optional*): the noise that the image flow of each of the N images
                starts from; drawn if not given. For a model without image encoder, it also decides N.
            return_trajectory (`bool` or `"images"`, *optional*, defaults to `False`): whether to return the samples at all steps,
                too, as tensors or as images. Not with `solver="rk45"`, whose steps differ from image to image.
            callback_on_step_end (`Callable`, *optional*): called after each step of each chunk of `batch_size` images as
                `(pipe, step, t, tensors)`: the step counts from 0 in each chunk, t is the time that its samples have reached, and
                `tensors` is a dict. May return a dict of tensors to go on with, and set `pipe._interrupt = True` to stop: the images
                are the samples so far then, those of later chunks still noise. Or a `PipelineCallback` of diffusers. Not with
                `solver="rk45"`.
            callback_on_step_end_tensor_inputs (list of `str`, *optional*, defaults to `("sample",)`): what the callback gets:
                `"sample"`, the running samples `(B, C, H, W)`, and `"latents"` `(B, latent_dim)`, which say what to generate. Other
                latents leave label and anchor for the decoder as they are.
            num_images_per_prompt (`int`, *optional*): another name of `num_images_per_label`.
            height, width (`int`, *optional*): must be `model.config.image_size`.
            seed (*optional*): must be `None`; noise is drawn by the `generator`.
            guide ([`LZNModel`], [`LZNPipeline`], `str` or `os.PathLike`, *optional*): a weaker model, trained for fewer steps or smaller, or
                the folder or repository of one (loaded in every call), with the image shape, labels and `latent_dim` of the model. Each
                image has the same noise in both, at the same place of its label's zone. A guide with an image encoder needs `label`.
            guidance_scale (`float`, *optional*, defaults to 1.0): how far to go away from the guide, see [`Guidance`]; 1 is no guidance.
                Without `guide`, the guide is the model without latent and label, which it must have learnt with
                `config.condition_dropout`. Any scale but 1 doubles the network evaluations.
            prompt (`str` or list of them, *optional*): texts, instead of `label`, for a model that has texts. Each is placed among the
                reference anchors of texts, so its images depend on no other text. One that is too long is cut, with a warning.

        Returns:
            [`LZNPipelineOutput`] or `tuple`: the images, with the trajectory and its times if requested.

        Raises:
            ValueError: for unknown labels, labels or texts of a model that has none, empty texts, arguments out of range or of a wrong shape, and images that
                come out as NaN or infinite.
        """
        # 1. Check everything before anything is computed.
        check_output_type(output_type)
        if seed is not None:
            raise ValueError(
                f"`seed` must be None, got {seed!r}: pass generator=torch.Generator().manual_seed({seed!r})."
            )
        check_size(self.model.config.image_size, height=height, width=width)
        num_images_per_label = check_num_images(num_images_per_label, num_images_per_prompt)
        chunk_size = 64 if batch_size is None else batch_size
        check_at_least(1, batch_size=chunk_size)
        check_choice((None, *FLOW_SOLVERS), solver=solver)
        flow = ImageFlow(self.scheduler if solver is None else solver, num_inference_steps, t_min)
        check_choice((False, True, "images"), return_trajectory=return_trajectory)
        tensor_inputs = check_callback(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        for name, is_given in (
            ("return_trajectory", return_trajectory),
            ("callback_on_step_end", callback_on_step_end is not None),
        ):
            if is_given and solver == "rk45":
                raise ValueError(
                    f"`{name}` needs steps that all images share: `solver` must be None, 'euler' or 'heun', got 'rk45'."
                )
        given_by = [n for n, v in (("label", label), ("prompt", prompt), ("latents", latents)) if v is not None]
        if len(given_by) > 1:
            raise ValueError(f"pass either `label`, `prompt` or `latents`, got `{'` and `'.join(given_by)}`.")
        config: Any = self.model.config
        device = self._execution_device
        image_shape = (config.num_channels, config.image_size, config.image_size)
        guidance = resolve_guidance(self.model, guidance_scale, guide, device, has_label=label is not None)
        num_images, labels, texts = num_images_per_label, None, None
        if label is not None:
            labels = labels_to_ids(label, config.label2id).repeat_interleave(num_images_per_label).to(device)
            num_images = len(labels)
        elif prompt is not None:
            texts = tokenize_texts(self.tokenizer, config, "prompt", prompt)
            self.model.require_type_reference_anchors("text")
            num_images = len(texts["input_ids"]) * num_images_per_label
        elif latents is not None:
            if self.model.encoder is None:
                raise ValueError(
                    "`latents` must be None for a model without image encoder (config.encoder_type is None), whose images come from "
                    "`sample_noise` alone."
                )
            check_tensor("latents", latents, ("N", config.latent_dim))
            latents = latents.to(device, torch.float32).repeat_interleave(num_images_per_label, 0)
            num_images = len(latents)
        elif self.model.encoder is None and config.num_labels:
            raise ValueError("`label` is needed for a model with labels and without image encoder, got None.")
        elif self.model.encoder is None and sample_noise is not None and num_images_per_label == 1:
            check_tensor("sample_noise", sample_noise, ("N", *image_shape))
            num_images = len(sample_noise)
        elif batch_size is not None and batch_size > 1 == num_images_per_label:
            warnings.warn(
                f"`batch_size={batch_size}` is the number of images computed at once, not the number of images, which is 1: pass "
                f"`num_images_per_label={batch_size}` for {batch_size} images.",
                stacklevel=2,
            )
        check_generators(generator, num_images)
        if sample_noise is not None:
            check_tensor("sample_noise", sample_noise, (num_images, *image_shape))
            sample_noise = sample_noise.to(device, torch.float32)

        with self._inference(), evaluation_mode(guidance.guide or self.model):
            # 2. Latents: given, in the zones of the labels or texts, or prior noise.
            if latents is None and self.model.encoder is not None:
                latents = randn_tensor((num_images, config.latent_dim), generator, device, torch.float32)
            prior, anchors = latents, None
            if texts is not None:
                anchors = self._text_anchors(texts, chunk_size).repeat_interleave(num_images_per_label, 0)
                latents = self.model.place_type_anchors("text", anchors, noise=latents)
            elif labels is not None and latents is not None:
                latents = self.model.get_label_latents(labels, noise=latents)
            conditions = self.model.decoder_conditions(
                latents, labels, anchors if config.decoder_data_type == "text" else None
            )

            # 3. Images: from noise along the velocity of the decoder.
            if sample_noise is None:
                sample_noise = randn_tensor((num_images, *image_shape), generator, device, torch.float32)
            given = {**conditions, **guidance.guide_conditions(conditions["labels"], prior)}
            chunks: list[ChunkSteps] = []
            samples: list[Tensor] = []
            with self._running():
                for velocity_fn, noise, conditions in self._chunks(flow, sample_noise, given, chunk_size, guidance):
                    steps = ChunkSteps(self, conditions, callback_on_step_end, tensor_inputs, bool(return_trajectory))
                    chunks.append(steps)
                    try:
                        samples.append(flow.to_images(velocity_fn, noise, steps))
                    except Interrupted:
                        samples.append(steps.last)

        # 4. Convert to the requested type.
        generated: Any = self.image_processor.postprocess(check_result("images", torch.cat(samples)), output_type)
        times, trajectory = (
            self._trajectory(chunks, output_type, return_trajectory) if return_trajectory else (None, None)
        )
        output = LZNPipelineOutput(images=generated, trajectory=trajectory, times=times)
        return output if return_dict else output.to_tuple()

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """No gradients, no dropout (modes are restored), and the model on its device under diffusers' offloading."""
        with evaluation_mode(self.model):
            try:
                hook: Any = getattr(self.model, "_hf_hook", None)
                if hook is not None:  # it runs by itself for `forward` only
                    hook.pre_forward(self.model)
                yield
            finally:
                self.maybe_free_model_hooks()

    def _pixel_values(self, images: Images) -> Tensor:
        """Converts images to pixel values `(B, C, H, W)` in [-1, 1] on the device of the model."""
        batch = images if isinstance(images, Mapping) else self.image_processor(images, return_tensors="pt")
        if "pixel_values" not in batch:
            raise ValueError(
                "`images` must be images, or {'pixel_values': tensor} as LZNImageProcessor returns it, got a dict with the keys "
                f"{list(batch)[:5]}."
            )
        config: Any = self.model.config
        pixel_values = batch["pixel_values"]
        check_pixel_values(pixel_values, config.num_channels, config.image_size, any_size=False, look=True)
        return pixel_values.to(self._execution_device, torch.float32)

    def _text_anchors(self, texts: Mapping[str, Tensor], batch_size: int) -> Tensor:
        """Encodes tokens `(N, L)` as anchors `(N, D)`."""
        chunks = zip(
            *(tokens.to(self._execution_device).split(int(batch_size)) for tokens in texts.values()), strict=True
        )
        return torch.cat([self.model.get_text_anchors(*chunk) for chunk in chunks])

    def _chunks(
        self,
        flow: ImageFlow,
        samples: Tensor,
        given: Mapping[str, Tensor | None],
        batch_size: int,
        guidance: Guidance,
    ) -> Iterator[tuple[VelocityFn, Tensor, dict[str, Tensor | None]]]:
        """Yields the samples `batch_size` at a time, between their velocity and those of the given latents and labels that it looks at."""
        starts = range(0, len(samples), batch_size)
        total = flow.num_evaluations * len(starts) * guidance.num_evaluations
        with self.progress_bar(total=total) as progress:
            for start in starts:
                chunk = slice(start, start + batch_size)
                conditions = {name: None if rows is None else rows[chunk] for name, rows in given.items()}

                def velocity_fn(x: Tensor, t: Tensor | float, rows=None, conditions=conditions) -> Tensor:
                    progress.update(guidance.num_evaluations)
                    if rows is not None:
                        conditions = {name: None if all_ is None else all_[rows] for name, all_ in conditions.items()}
                    return guidance.predict_velocity(x, t, **conditions)

                yield velocity_fn, samples[chunk], conditions

    def _trajectory(self, chunks: Sequence[ChunkSteps], output_type: str, kind: bool | str) -> tuple[list[float], Any]:
        """The times of the steps and the samples of all chunks at each, as a tensor or, of the kind "images", as `output_type`."""
        times, samples = join_chunks(chunks)
        if kind != "images":
            return times, samples
        images: Any = self.image_processor.postprocess(samples.flatten(0, 1), output_type)
        if output_type == "pil":
            num_images = samples.shape[1]
            return times, [images[i : i + num_images] for i in range(0, len(images), num_images)]
        return times, images.reshape(*samples.shape[:2], *images.shape[1:])


def check_model(model: object) -> None:
    """Raises a `ValueError` unless a model has the parts of an [`LZNModel`], as one that is compiled or adapted has."""
    if not all(hasattr(model, name) for name in ("config", "decoder", "label_anchors")):
        remedy = ": pass its `lzn`" if isinstance(getattr(model, "lzn", None), LZNModel) else ""
        raise ValueError(f"`model` must be an LZNModel, got {type(model).__name__}{remedy}.")


__all__ = ["GenerationPipeline", "Images", "LZNPipelineOutput", "check_model"]
