# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images from labels, latents or images, and labels and embeddings from images, in one object."""

from __future__ import annotations

import difflib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Integral

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import CommitInfo, ModelCard, ModelCardData, create_repo, file_exists
from torch import Tensor
from transformers.image_utils import ImageInput

from .image_processing_lzn import LZNImageProcessor, check_output_type
from .modeling_lzn import LZNModel
from .sampling_lzn import check_scheduler, default_scheduler, integrate_velocity, run_scheduler, set_timesteps, slerp


# The files of each component, flat in one folder; a component that the caller passes needs none.
MODEL_FILES = {
    "model": ("config.json", "model.safetensors"),
    "scheduler": ("scheduler_config.json",),
    "image_processor": ("preprocessor_config.json",),
}

Generators = torch.Generator | list[torch.Generator] | None
Images = ImageInput | Mapping[str, Tensor]
Solver = Callable[[Callable[[Tensor, float], Tensor], Tensor], Tensor]


class LZNPipeline(DiffusionPipeline):
    r"""
    Generates, classifies, embeds, reconstructs and interpolates images with one [`LZNModel`].

    Wherever a method takes `images`, these are whatever [`LZNImageProcessor`] takes: one or a list of PIL images, arrays or
    tensors (integers in 0..255, floating point in [0, 1], as this pipeline itself returns them), resized to the size of the
    model. Pixel values that are already in [-1, 1] are passed as `{"pixel_values": tensor}`, the output of the image processor.

    Networks run over chunks of `batch_size` images. All noise is drawn before, so results do not depend on the chunks; with a
    list of generators, one an image, a result does not depend on the other images of the call either.

    Args:
        model ([`LZNModel`]): the encoder, decoder and anchors.
        scheduler (`SchedulerMixin`): diffusers solver of the image flow, see [`default_scheduler`]. Also supported:
            `FlowMatchEulerDiscreteScheduler`, `FlowMatchHeunDiscreteScheduler`, `DPMSolverMultistepScheduler`.
        image_processor ([`LZNImageProcessor`]): images to pixel values and back.

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
    ) -> ImagePipelineOutput | tuple:
        r"""
        Generates images of labels (all of the first label first), from given latents, or (with neither) from prior noise.

        Args:
            label (`str`, `int` or list of them, *optional*): names or ids of `model.config.id2label`. `None`: latents are prior
                noise, `num_images_per_label` of them; a decoder that is conditioned on labels gets that of the zone of each.
            num_images_per_label (`int`, *optional*, defaults to 1): images of each label, or of each of the `latents`.
            num_inference_steps (`int`, *optional*, defaults to 20): steps of the scheduler, one network evaluation each
                (`2 num_inference_steps - 1` in all with `FlowMatchHeunDiscreteScheduler`).
            generator (`torch.Generator` or list of them, one an image, *optional*): draws all noise.
            latents (`Tensor` of shape `(N, latent_dim)`, *optional*): points of the latent space, instead of `label`.
            batch_size (`int`, *optional*, defaults to 64): images that are generated at once.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"` (`(B, H, W, C)` in [0, 1]) or `"pt"`
                (`(B, C, H, W)` in [0, 1]).
            return_dict (`bool`, *optional*, defaults to `True`): whether to return an `ImagePipelineOutput` or a tuple.

        Raises:
            ValueError: for unknown labels, labels of a model that has none, and arguments out of range or of a wrong shape.
        """
        # 1. Check everything before anything is computed.
        check_output_type(output_type)
        check_scheduler(self.scheduler)
        _check_at_least(1, num_images_per_label=num_images_per_label, num_inference_steps=num_inference_steps)
        _check_at_least(1, batch_size=batch_size)
        if label is not None and latents is not None:
            raise ValueError("pass either `label` or `latents`, got both.")
        config, device = self.model.config, self._execution_device
        labels = None if label is None else self._label_ids(label).repeat_interleave(num_images_per_label).to(device)
        if latents is not None:
            shape = tuple(getattr(latents, "shape", ()))
            if len(shape) != 2 or shape[0] == 0 or shape[1] != config.latent_dim:
                raise ValueError(f"`latents` must be a tensor of shape (N, {config.latent_dim}), got shape {shape}.")
            latents = latents.to(device, torch.float32).repeat_interleave(num_images_per_label, 0)
            if not latents.isfinite().all():
                raise ValueError("`latents` must be finite, got NaN or infinite values.")
        num_images = next((len(rows) for rows in (labels, latents) if rows is not None), num_images_per_label)
        _check_generators(generator, num_images)

        with self._inference():
            # 2. Latents: given, in the zones of the labels, or prior noise.
            if latents is None:
                latents = randn_tensor((num_images, config.latent_dim), generator, device, torch.float32)
            if labels is not None:
                latents = self.model.get_label_latents(labels, noise=latents)
            labels = self._zone_labels(latents) if labels is None else labels

            # 3. Images: from noise along the velocity of the decoder.
            shape = (num_images, config.num_channels, config.image_size, config.image_size)
            sample = randn_tensor(shape, generator, device, torch.float32)
            solver = partial(run_scheduler, self.scheduler, num_inference_steps)
            num_evaluations = len(set_timesteps(self.scheduler, num_inference_steps, device))
            sample = self._solve(solver, num_evaluations, sample, latents, labels, batch_size)

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
        _check_at_least(1, top_k=top_k, batch_size=batch_size)
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
        _check_at_least(1, batch_size=batch_size)
        pixel_values = self._pixel_values(images)
        with self._inference():
            features = [self.model.get_image_features(chunk) for chunk in pixel_values.split(batch_size)]
        return torch.cat(features).float().cpu()

    def reconstruct(
        self,
        images: Images,
        num_inference_steps: int = 20,
        generator: Generators = None,
        batch_size: int = 64,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Takes images to their latents and the noise of the image flow, and from these back to images.

        Both ways are Heun steps over the same times ([`integrate_velocity`]), so the error shrinks with their square.

        Args:
            images: see [`LZNPipeline`].
            num_inference_steps (`int`, *optional*, defaults to 20): steps each way, two network evaluations a step.
            generator (`torch.Generator` or list of them, one an image, *optional*): draws the place in the latent zones.
            batch_size, output_type, return_dict: see [`LZNPipeline.__call__`].

        Raises:
            ValueError: if the model has no reference anchors, and for bad images or arguments.
        """
        check_output_type(output_type)
        _check_at_least(1, num_inference_steps=num_inference_steps, batch_size=batch_size)
        pixel_values = self._pixel_values(images)
        _check_generators(generator, len(pixel_values))
        with self._inference():
            latents, noise = self._invert(pixel_values, num_inference_steps, generator, batch_size)
            sample = self._integrate(noise, latents, (0, 1), num_inference_steps, batch_size)
        return self._output(sample, output_type, return_dict)

    def interpolate(
        self,
        image_a: Images,
        image_b: Images,
        num_steps: int = 8,
        num_inference_steps: int = 20,
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
            num_inference_steps, generator, batch_size, output_type, return_dict: see [`LZNPipeline.reconstruct`].

        Raises:
            ValueError: as [`LZNPipeline.reconstruct`], and for anything but one image on each side.
        """
        check_output_type(output_type)
        _check_at_least(1, num_inference_steps=num_inference_steps, batch_size=batch_size)
        _check_at_least(2, num_steps=num_steps)
        _check_generators(generator, 2)
        pixel_values = torch.cat([self._pixel_values(image) for image in (image_a, image_b)])
        if len(pixel_values) != 2:
            raise ValueError(f"`image_a` and `image_b` must be one image each, got {len(pixel_values)} in all.")
        with self._inference():
            ends = self._invert(pixel_values, num_inference_steps, generator, batch_size)
            weights = torch.linspace(0, 1, num_steps).tolist()
            latents, noise = (torch.stack([slerp(a, b, weight) for weight in weights]) for a, b in ends)
            sample = self._integrate(noise, latents, (0, 1), num_inference_steps, batch_size)
        return self._output(sample, output_type, return_dict)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> LZNPipeline:
        """Loads a folder or a repository of the Hub; see `DiffusionPipeline.from_pretrained` for the arguments.

        Raises:
            FileNotFoundError: if the folder lacks a file, naming it.
        """
        if os.path.isdir(pretrained_model_name_or_path):
            _check_model_folder(pretrained_model_name_or_path, kwargs, pretrained_model_name_or_path)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str | os.PathLike, **kwargs) -> str | os.PathLike:
        """Downloads a repository and checks that no file is missing; see `DiffusionPipeline.download`."""
        folder = super().download(pretrained_model_name, **kwargs)
        _check_model_folder(folder, kwargs, pretrained_model_name)
        return folder

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        push_to_hub: bool = False,
        *,
        repo_id: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
    ) -> CommitInfo | None:
        """Saves all components flat in one folder, which transformers' auto classes and pipelines open, too.

        Args:
            save_directory (`str` or `os.PathLike`): the folder. A `README.md` in it is kept; without one a short card is written.
            push_to_hub (`bool`, *optional*, defaults to `False`): whether to upload the folder, too.
            repo_id (`str`, *optional*): the repository; defaults to the name of the folder in the own namespace.
            commit_message, private, token, create_pr (*optional*): see `huggingface_hub.create_repo` and `upload_folder`.
        """
        save_directory = os.fspath(save_directory)
        if os.path.isfile(save_directory):
            raise ValueError(f"`save_directory` must be a folder, got the file {save_directory!r}.")
        if push_to_hub:
            repo_id = repo_id or os.path.basename(os.path.abspath(save_directory))
            repo_id = create_repo(repo_id, exist_ok=True, private=private, token=token).repo_id
        for component in (self.model, self.scheduler, self.image_processor):
            component.save_pretrained(save_directory)
        self.save_config(save_directory)
        card_path = os.path.join(save_directory, "README.md")
        if not os.path.isfile(card_path) and not (push_to_hub and file_exists(repo_id, "README.md", token=token)):
            self._model_card(repo_id or "path/to/this/folder").save(card_path)
        if push_to_hub:
            return self._upload_folder(save_directory, repo_id, token, commit_message, create_pr)

    def to_json_string(self) -> str:
        """The content of model_index.json, without the path of the folder that this pipeline was loaded from."""
        config = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def push_to_hub(self, repo_id: str, **kwargs) -> CommitInfo:
        """Uploads the pipeline to the Hub; keyword arguments as in [`LZNPipeline.save_pretrained`]."""
        with tempfile.TemporaryDirectory() as folder:
            return self.save_pretrained(folder, push_to_hub=True, repo_id=repo_id, **kwargs)

    def _model_card(self, location: str) -> ModelCard:
        tags = ["latent-zoning-network", "image-generation", "image-feature-extraction"]
        metadata = ModelCardData(library_name="lzn_hf", tags=tags).to_yaml()
        return ModelCard(
            f"---\n{metadata}\n---\n\n# Latent Zoning Network\n\nA model of [Latent Zoning Networks]"
            "(https://arxiv.org/abs/2509.15591): one latent space that generates, embeds and classifies images.\n\n"
            f'```py\nfrom lzn_hf import LZNPipeline\n\npipe = LZNPipeline.from_pretrained("{location}")\n'
            "image = pipe().images[0]\nembedding = pipe.embed(image)\n```\n"
        )

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
        return torch.tensor([_label_id(one, config.label2id, config.num_labels) for one in labels])

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
        self, pixel_values: Tensor, num_inference_steps: int, generator: Generators, batch_size: int
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
        return latents, self._integrate(pixel_values, latents, (1, 0), num_inference_steps, batch_size)

    def _integrate(
        self, sample: Tensor, latents: Tensor, ends: tuple[float, float], num_inference_steps: int, batch_size: int
    ) -> Tensor:
        """Uniform Heun steps from one time to another; the decoder's labels are those of the zones of the latents."""
        solver = partial(integrate_velocity, times=torch.linspace(*ends, num_inference_steps + 1).tolist())
        return self._solve(solver, 2 * num_inference_steps, sample, latents, self._zone_labels(latents), batch_size)

    def _solve(
        self,
        solver: Solver,
        num_evaluations: int,
        sample: Tensor,
        latents: Tensor,
        labels: Tensor | None,
        batch_size: int,
    ) -> Tensor:
        """Applies a solver of the image flow, `(velocity_fn, sample)` to the sample at the other end, to each chunk."""
        starts, samples = range(0, len(sample), batch_size), []
        with self.progress_bar(total=num_evaluations * len(starts)) as progress:
            for start in starts:
                rows = slice(start, start + batch_size)
                conditions = latents[rows], None if labels is None else labels[rows]

                def velocity_fn(x: Tensor, t: float, conditions=conditions) -> Tensor:
                    progress.update()
                    return self.model.predict_velocity(x, t, *conditions).float()

                samples.append(solver(velocity_fn, sample[rows]))
        return torch.cat(samples)


def _label_id(label: str | int, label2id: dict[str, int], num_labels: int) -> int:
    names = list(label2id)
    if isinstance(label, str):
        if label in label2id:
            return label2id[label]
        near = difflib.get_close_matches(label, names, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        known = ", ".join(map(repr, names[:10])) + (", ..." if num_labels > 10 else "")
        raise ValueError(f"`label` {label!r} is unknown.{hint} The model has {num_labels} labels: {known}.")
    if not isinstance(label, Integral) or isinstance(label, bool):
        raise ValueError(f"`label` must be a name or an id of a label, got {label!r} of type {type(label).__name__}.")
    if not 0 <= label < num_labels:
        raise ValueError(f"`label` must be in 0..{num_labels - 1}, got {label}.")
    return int(label)


def _check_at_least(minimum: int, **arguments: int) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
            raise ValueError(f"`{name}` must be a whole number of at least {minimum}, got {value!r}.")


def _check_generators(generator: Generators, num_images: int) -> None:
    if isinstance(generator, list) and len(generator) != num_images:
        raise ValueError(f"`generator` must be one or a list of {num_images}, one an image, got {len(generator)}.")


def _check_model_folder(folder: str | os.PathLike, components: Mapping[str, object], name: str | os.PathLike) -> None:
    """Raises a `FileNotFoundError` that names the files a folder lacks; `components` are those that need none."""
    wanted = [file for part, files in MODEL_FILES.items() if components.get(part) is None for file in files]
    found = set(os.listdir(folder))
    if "model.safetensors.index.json" in found:
        found.add("model.safetensors")
    missing = [file for file in ["model_index.json", *wanted] if file not in found]
    if missing:
        raise FileNotFoundError(
            f"{os.fspath(name)!r} lacks {', '.join(missing)}. Save the whole pipeline with `LZNPipeline.save_pretrained`; a "
            "model alone, saved without it, loads as `LZNPipeline.from_model(LZNModel.from_pretrained(...))`."
        )


__all__ = ["LZNPipeline"]
