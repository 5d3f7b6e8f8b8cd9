# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Everything that one model does with images: generate, classify, caption, embed, invert, reconstruct, interpolate and vary."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .checks_lzn import Generators, check_at_least, check_choice, check_result, is_among, shown
from .image_processing_lzn import LZNImageProcessor, check_output_type
from .modeling_lzn import EMBEDDING_KINDS, LZNModel
from .pipeline_generation_lzn import Images, LZNPipelineOutput, check_model
from .pipeline_inversion_lzn import LZNInversion
from .pipeline_text_lzn import TextPipeline
from .sampling_lzn import default_scheduler, mix_noise, slerp


class LZNPipeline(TextPipeline):
    r"""
    Generates, classifies, captions, embeds, inverts, reconstructs, interpolates and varies images with one [`LZNModel`].

    A model without image encoder (`config.encoder_type=None`, a plain rectified flow) has no latents: its images come from the noise
    of the image flow alone. It can neither classify nor embed.

    Wherever a method takes `images`, it accepts what [`LZNImageProcessor`] accepts: one or a list of PIL images, arrays or tensors
    (integers in 0..255 or floating point in [0, 1], as this pipeline returns them), which are resized to the size of the model.
    Pixel values that are already in [-1, 1] are passed as `{"pixel_values": tensor}`, the output of the image processor.

    Networks run over chunks of `batch_size` images. All noise is drawn before, so results do not depend on the chunks. With a list
    of generators, one an image, a result does not depend on the other images of the call either.

    Wherever a method takes a `solver`, this is `"euler"` or `"heun"` (`num_inference_steps` uniform steps of the image flow with one
    or two network evaluations each) or `"rk45"` (adaptive steps with a tolerance of 1e-5, see [`integrate_rk45`]; it ignores
    `num_inference_steps`, and where another chunk size changes the rounding, its results change by as much as its error). The flow
    runs between t = 1, the image, and t = `t_min` in [0, 1), which is taken for the noise: the published models were trained and
    sampled with 1e-3.

    A call changes neither the pipeline nor its scheduler: threads may share a pipeline whose model is in eval mode. For a few calls
    with another scheduler, build a second pipeline around the same model, which takes about a millisecond:
    `LZNPipeline(**{**pipe.components, "scheduler": scheduler})`.

    Args:
        model ([`LZNModel`]): the encoder, decoder and anchors.
        scheduler (`SchedulerMixin`): diffusers solver of the image flow, see [`default_scheduler`]. Also supported:
            `FlowMatchEulerDiscreteScheduler`, `FlowMatchHeunDiscreteScheduler`, `DPMSolverMultistepScheduler`.
        image_processor ([`LZNImageProcessor`]): images to pixel values and back.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): texts to tokens, for a model that has texts: `prompt`, `caption`, `find_images`.

    Raises:
        ValueError: for a model without a decoder, for other schedulers, and for a tokenizer that does not fit the model.

    Example:

    ```py
    pipe = LZNPipeline.from_pretrained("path/to/folder")
    image = pipe(label="7").images[0]
    pipe.classify(image)[0][0]  # {"label": "7", "score": 0.99}
    ```
    """

    @classmethod
    def from_model(cls, model: LZNModel, tokenizer: PreTrainedTokenizerBase | None = None) -> LZNPipeline:
        """Builds a pipeline around a model, with the default scheduler and an image processor for its image size and channels.

        Args:
            model ([`LZNModel`]): the model.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): the tokenizer that its text encoder was trained with.

        Returns:
            [`LZNPipeline`]: the pipeline.

        Raises:
            ValueError: for what is no [`LZNModel`], and for one without a decoder.
        """
        check_model(model)
        size, half = model.config.image_size, [0.5] * model.config.num_channels
        image_processor = LZNImageProcessor(size={"height": size, "width": size}, image_mean=half, image_std=half)
        return cls(model=model, scheduler=default_scheduler(), image_processor=image_processor, tokenizer=tokenizer)

    def classify(self, images: Images, top_k: int = 5, batch_size: int = 64) -> list[list[dict[str, str | float]]]:
        """Finds the most probable labels of images, each a function of its image alone.

        Args:
            images (`Images`): see [`LZNPipeline`].
            top_k (`int`, *optional*, defaults to 5): labels of each image, at most as many as the model has.
            batch_size (`int`, *optional*, defaults to 64): images encoded at once.

        Returns:
            `list[list[dict]]`: for each image, also for a single one, `{"label": name, "score": probability}` in falling order.

        Raises:
            ValueError: if the model has no labels or no reference anchors, for bad images, and for scores that are NaN.
        """
        check_at_least(1, top_k=top_k, batch_size=batch_size)
        config: Any = self.model.config
        if config.num_labels == 0:
            raise ValueError("this model has no labels (config.num_labels is 0), so it cannot classify.")
        pixel_values = self._pixel_values(images)
        with self._inference():
            log_probs = torch.cat([self.model.classify_images(chunk) for chunk in pixel_values.split(int(batch_size))])
        check_result("scores", log_probs.exp())
        scores, ids = log_probs.float().exp().topk(min(top_k, config.num_labels))
        return [
            [{"label": config.id2label[i], "score": score} for score, i in zip(*row, strict=True)]
            for row in zip(scores.tolist(), ids.tolist(), strict=True)
        ]

    def embed(self, images: Images, batch_size: int = 64, kind: str = "embeddings") -> Tensor:
        """Computes embeddings of images, each by itself.

        Args:
            images (`Images`): see [`LZNPipeline`].
            batch_size (`int`, *optional*, defaults to 64): images encoded at once.
            kind (`str`, *optional*, defaults to `"embeddings"`): `"features"`, before the encoder's head; `"anchors"`, after it; or
                `"embeddings"`, the better of the two, see [`LZNModel.get_image_features`].

        Returns:
            `Tensor` of shape `(B, F)`: the embeddings, float32 on the CPU.

        Raises:
            ValueError: if the model has no image encoder, for another kind, for bad images, and for embeddings that are not finite.
        """
        check_at_least(1, batch_size=batch_size)
        check_choice(EMBEDDING_KINDS, kind=kind)
        pixel_values = self._pixel_values(images)
        with self._inference():
            rows = [self.model.get_image_features(chunk, kind) for chunk in pixel_values.split(int(batch_size))]
        return check_result("embeddings", torch.cat(rows)).float().cpu()

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
    ) -> LZNPipelineOutput | tuple:
        """Takes images to their latents and noise by [`LZNPipeline.invert`], and from there back to images.

        Both directions use the same solver. The error of Heun steps, the default, shrinks with the square of their number.

        Args:
            images, num_inference_steps, solver, t_min, generator, batch_size: see [`LZNPipeline.invert`].
            output_type, return_dict: see [`LZNPipeline.__call__`].

        Returns:
            [`LZNPipelineOutput`] or `tuple`: the images.

        Raises:
            ValueError: as [`LZNPipeline.invert`].
        """
        check_output_type(output_type)
        flow: dict[str, Any] = {"num_inference_steps": num_inference_steps, "solver": solver, "t_min": t_min}
        output: dict[str, Any] = {"batch_size": batch_size, "output_type": output_type, "return_dict": return_dict}
        inversion = self.invert(images, generator=generator, batch_size=batch_size, **flow)
        return self(latents=inversion.latents, sample_noise=inversion.noise, **flow, **output)

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
    ) -> LZNPipelineOutput | tuple:
        """Interpolates between two images along great circles ([`slerp`]) of their latents and of their noise.

        Args:
            image_a, image_b (`Images`): one image each, see [`LZNPipeline`].
            num_steps (`int`, *optional*, defaults to 8): images to return, at least 2: the first and the last are what
                `reconstruct([image_a, image_b], generator=generator)` gives.
            num_inference_steps, solver, t_min, generator, batch_size: see [`LZNPipeline.invert`].
            output_type, return_dict: see [`LZNPipeline.__call__`].

        Returns:
            [`LZNPipelineOutput`] or `tuple`: the images.

        Raises:
            ValueError: as [`LZNPipeline.invert`], and for anything but one image on each side.
        """
        check_output_type(output_type)
        check_at_least(2, num_steps=num_steps)
        flow: dict[str, Any] = {"num_inference_steps": num_inference_steps, "solver": solver, "t_min": t_min}
        output: dict[str, Any] = {"batch_size": batch_size, "output_type": output_type, "return_dict": return_dict}
        pixel_values = torch.cat([self._pixel_values(image) for image in (image_a, image_b)])
        if len(pixel_values) != 2:
            raise ValueError(f"`image_a` and `image_b` must be one image each, got {len(pixel_values)} in all.")
        inversion = self.invert({"pixel_values": pixel_values}, generator=generator, batch_size=batch_size, **flow)
        weights = torch.linspace(0, 1, num_steps).tolist()
        latents, noise = (
            None if ends is None else torch.stack([slerp(ends[0], ends[1], weight) for weight in weights])
            for ends in (inversion.latents, inversion.noise)
        )
        return self(latents=latents, sample_noise=noise, **flow, **output)

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
    ) -> LZNPipelineOutput | tuple:
        r"""
        Varies images (all variations of the first image first): their latents with other noise, or their noise with other latents.

        The part that is not kept is mixed with new noise n along a great circle, `sqrt(1 - w^2) x + w n` with w = `strength`, which
        keeps it Gaussian, see [`mix_noise`]. At 0 this is [`LZNPipeline.reconstruct`]. At 1 a variation has only the latent, or only
        the noise, in common with its image.

        Args:
            images (`Images`): see [`LZNPipeline`].
            strength (`float`): from 0 (the image) to 1 (the part that is not kept is new).
            keep (`str`, *optional*, defaults to `"latent"`): `"latent"`: the noise of the image flow varies. `"noise"`: the latent
                moves, at strength 1 to anywhere in the prior, and the label for the decoder with it.
            num_images_per_image (`int`, *optional*, defaults to 1): variations of each image. More do not change the first ones.
            num_inference_steps, solver, t_min, batch_size: see [`LZNPipeline.invert`].
            generator (`torch.Generator` or list of them, one an image, *optional*): draws the place in the latent zones, as for
                [`LZNPipeline.invert`], and then the new noise.
            output_type, return_dict: see [`LZNPipeline.__call__`].

        Returns:
            [`LZNPipelineOutput`] or `tuple`: the images.

        Raises:
            ValueError: as [`LZNPipeline.invert`], and for `keep="noise"` with a model that has no latents.
        """
        check_output_type(output_type)
        check_at_least(1, num_images_per_image=num_images_per_image)
        if not isinstance(strength, Real) or isinstance(strength, bool) or not 0 <= strength <= 1:
            raise ValueError(f"`strength` must be a number from 0 to 1, got {shown(strength)}.")
        if not is_among(("latent", "noise"), keep):
            raise ValueError(f"`keep` must be 'latent' or 'noise', got {shown(keep)}.")
        if keep == "noise" and self.model.encoder is None:
            raise ValueError(
                "`keep` must be 'latent' for a model without latents, as only its noise can vary, got 'noise'."
            )
        flow: dict[str, Any] = {"num_inference_steps": num_inference_steps, "solver": solver, "t_min": t_min}
        output: dict[str, Any] = {"batch_size": batch_size, "output_type": output_type, "return_dict": return_dict}
        inversion = self.invert(images, generator=generator, batch_size=batch_size, **flow)
        kept, varied = inversion.latents, inversion.noise
        if keep == "noise":
            kept, varied = varied, kept
        draws = [
            randn_tensor(varied.shape, generator, self._execution_device, varied.dtype)
            for _ in range(num_images_per_image)
        ]
        varied = mix_noise(varied[:, None], torch.stack(draws, dim=1).cpu(), strength).flatten(0, 1)
        kept = None if kept is None else kept.repeat_interleave(num_images_per_image, 0)
        latents, noise = (kept, varied) if keep == "latent" else (varied, kept)
        return self(latents=latents, sample_noise=noise, **flow, **output)


__all__ = ["LZNInversion", "LZNPipeline", "LZNPipelineOutput"]
