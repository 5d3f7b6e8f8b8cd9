# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the page does, without the page: each control calls one of these functions with what a user gave."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..card_lzn import can_compare_texts
from ..checks_lzn import check_at_least, shown
from ..data import to_pixel_values
from ..data.columns import NoLabelsError
from ..data.images import ImageData, load_image_data
from ..images_lzn import ImageError, open_image
from ..pipeline_lzn import LZNPipeline
from ..visualization.zones import MIN_LABELS
from .zone_map import ZoneMap


MAX_SEED = 2**32 - 1
MAX_TEXTS = 100  # that a picture is compared with
NUM_PLACES = 48  # latents of an upload that are drawn into the map


@dataclass(frozen=True)
class Made:
    """Pictures that a model made. N pictures.

    Args:
        images (list of `PIL.Image.Image`): in the size of the model.
        captions (list of `str`): a text for each.
        steps (list of `PIL.Image.Image`, *optional*): the first picture on its way from noise.
        times (list of `float`, *optional*): the times of these, from 0, noise, to 1.
        places (list of pairs of `float`, *optional*): where the latents lie on the map.
    """

    images: list[Image.Image]
    captions: list[str]
    steps: Sequence[Image.Image] = ()
    times: Sequence[float] = ()
    places: Sequence[tuple[float, float]] = ()


class Studio:
    """One model, what it can do, and functions that do it for several users at once: nothing is kept between two calls.

    Args:
        pipe ([`LZNPipeline`]): the model.
        images_dir (`str` or `os.PathLike`, *optional*): folder of images in which similar ones are looked for, see [`load_image_data`].
        max_images (`int`, *optional*, defaults to 16): pictures that a user may ask for at once.
        max_steps (`int`, *optional*, defaults to 100): steps of the image flow that a user may ask for.
        max_reference_images (`int`, *optional*, defaults to 2000): images of the folder that are compared, evenly spaced over it.

    Raises:
        ValueError: for limits below 1, and for a folder without images.
    """

    def __init__(
        self,
        pipe: LZNPipeline,
        images_dir: str | os.PathLike | None = None,
        *,
        max_images: int = 16,
        max_steps: int = 100,
        max_reference_images: int = 2000,
    ):
        check_at_least(1, max_images=max_images, max_steps=max_steps, max_reference_images=max_reference_images)
        self.pipe: Any = pipe
        self.model = pipe.model
        self.config: Any = pipe.model.config
        self.max_images, self.max_steps = max_images, max_steps
        self.labels = [self.config.id2label[i] for i in range(self.config.num_labels)]
        has_encoder = self.model.encoder is not None
        has_references = self.model.reference_anchors is not None
        self.needs_label = not has_encoder and bool(self.labels)
        self.takes_prompts = pipe.tokenizer is not None and "text" in self.model.reference_samples
        self.takes_guidance = self.config.condition_dropout > 0
        self.embeds = has_encoder
        self.classifies = has_encoder and has_references and bool(self.labels)
        self.compares_texts = pipe.tokenizer is not None and can_compare_texts(self.config)
        self.edits = has_references if has_encoder else not self.labels
        self.zone_map = ZoneMap(self.model) if has_encoder and len(self.labels) >= MIN_LABELS else None
        self.folder = None if images_dir is None or not has_encoder else _open_folder(images_dir, self.config)
        self.reference_rows: list[int] = []  # of the folder, those that are compared
        if self.folder is not None:
            count = len(self.folder.train)  # type: ignore[arg-type]
            kept = min(count, max_reference_images)
            self.reference_rows = torch.linspace(0, count - 1, kept, dtype=torch.float64).round().long().tolist()
        self._embedding = threading.Lock()

    # Making pictures.

    def generate(
        self, label: str | None, prompt: str | None, number: int, seed: int, steps: int, guidance: float = 1.0
    ) -> Made:
        """Generates pictures of a label or of a prompt, or, with neither, of prior noise.

        Args:
            label, prompt (`str`, *optional*): what the pictures are of, one of the two.
            number (`int`): how many.
            seed (`int`): picture i depends on seed + i alone.
            steps (`int`): steps of the image flow.
            guidance (`float`, *optional*, defaults to 1.0): the guidance scale.
        """
        number = whole("number", number, self.max_images)
        seed, steps = self._checked(seed, steps)
        prompt = (prompt or "").strip()
        given: dict[str, Any] = {"prompt": prompt} if prompt else {"label": label} if label else {}
        if prompt and label:
            raise ValueError("Choose either a label or a prompt, not both.")
        output = self.pipe(
            **given,
            num_images_per_label=number,
            num_inference_steps=steps,
            generator=[seeded(seed + i) for i in range(number)],
            guidance_scale=guidance,
            return_trajectory="images",
        )
        return Made(
            images=output.images,
            captions=[f"seed {seed + i}" for i in range(number)],
            steps=[images[0] for images in output.trajectory],
            times=output.times,
        )

    def visit(self, points: Sequence[Sequence[float]], num_frames: int, seed: int, steps: int) -> Made:
        """Generates the picture that lives at a point of the map, or those along a path of several points.

        Args:
            points (list of pairs): one point, or a path.
            num_frames (`int`): pictures along a path.
            seed (`int`): draws the noise of the image flow, the same for all pictures: they differ by their latents alone.
            steps (`int`): steps of the image flow.
        """
        if self.zone_map is None:
            raise ValueError(f"The map needs a model with at least {MIN_LABELS} labels.")
        seed, steps = self._checked(seed, steps)
        num_frames = whole("number of pictures", num_frames, self.max_images, minimum=2)
        if len(points) == 1:
            latents, places = self.zone_map.latents_at(points)
        else:
            latents, places = self.zone_map.latents_along(points, num_frames)
        images = self.from_latents(latents, seed, steps)
        return Made(images, self.zone_map.zones_of(latents), places=[(float(x), float(y)) for x, y in places])

    def from_latents(self, latents: Tensor, seed: int, steps: int) -> list[Image.Image]:
        """Generates the pictures of latents `(N, D)`, each from the same noise, that of a seed."""
        generators = [seeded(seed) for _ in latents]
        return self.pipe(latents=latents, num_inference_steps=steps, generator=generators).images

    # Pictures of a user.

    def open_picture(self, path: str | os.PathLike) -> Image.Image:
        """Opens the file of a picture and returns it as the model sees it.

        Raises:
            ImageError: for a file that is no image or damaged, in one sentence.
        """
        try:
            image = open_image(path)
        except ImageError as error:  # of which a user knows the name, but not where it lies here
            raise ImageError(f"{Path(path).name} {error}") from error
        pixels = self.pipe.image_processor([image], return_tensors="pt")["pixel_values"]
        return self.pipe.image_processor.postprocess(pixels)[0]

    def random_picture(self, seed: int) -> Image.Image:
        """Returns a picture of the folder or, without one, one that the model makes of a random label."""
        draw = seeded(seed)
        if self.folder is not None:
            row = self.reference_rows[int(torch.randint(len(self.reference_rows), (), generator=draw))]
            return self._folder_picture(row)
        label = self.labels[int(torch.randint(len(self.labels), (), generator=draw))] if self.labels else None
        return self.pipe(label=label, num_inference_steps=min(20, self.max_steps), generator=draw).images[0]

    def classify(self, picture: Image.Image) -> dict[str, float]:
        """Returns the probabilities of the labels of a picture, calibrated as the model was."""
        return {
            str(one["label"]): float(one["score"]) for one in self.pipe.classify(picture, top_k=len(self.labels))[0]
        }

    def compare_texts(self, picture: Image.Image, texts: str) -> dict[str, float]:
        """Returns the probability of each text, those that fit best first.

        Args:
            picture (`PIL.Image.Image`): the picture.
            texts (`str`): two texts or more, one a line.
        """
        candidates = list(dict.fromkeys(line.strip() for line in texts.splitlines() if line.strip()))
        if not 2 <= len(candidates) <= MAX_TEXTS:
            raise ValueError(f"Enter from 2 to {MAX_TEXTS} different texts, one a line, got {len(candidates)}.")
        found = self.pipe.caption(picture, candidates, top_k=len(candidates))[0]
        return {str(one["text"]): float(one["score"]) for one in found}

    def places(self, picture: Image.Image) -> tuple[list[tuple[float, float]], tuple[float, float]]:
        """Returns where latents of a picture lie on the map: 48 draws from its own zone, and the middle of this zone."""
        if self.zone_map is None:
            raise ValueError(f"The map needs a model with at least {MIN_LABELS} labels.")
        noise = torch.randn(NUM_PLACES, self.config.latent_dim, generator=seeded(0))
        noise = torch.cat([noise, torch.zeros(1, self.config.latent_dim)]).to(self.model.device)
        pixels = self.pipe.image_processor([picture], return_tensors="pt")["pixel_values"].to(self.model.device)
        with torch.no_grad():
            latents = self.model.get_image_latents(pixels.repeat(len(noise), 1, 1, 1), noise=noise)
        *drawn, middle = [(float(x), float(y)) for x, y in self.zone_map.wheel.place(latents)[0]]
        return drawn, middle

    def neighbours(self, picture: Image.Image, number: int) -> Made:
        """Finds the pictures of the folder whose embeddings have the directions most like that of a picture."""
        if self.folder is None:
            raise ValueError("There is no folder to look in: start the page with --images and a folder.")
        number = whole("number", number, self.max_images)
        with self._embedding:  # once, by the first user who asks
            known = self._reference_embeddings
        own = F.normalize(self.pipe.embed(picture).double(), dim=1)
        likeness, order = (known @ own[0]).topk(min(number, len(known)))
        names = self.folder.label_names
        captions, images = [], []
        for cosine, position in zip(likeness.tolist(), order.tolist(), strict=True):
            row = self.reference_rows[position]
            name = "" if names is None else f"{names[int(self.folder.train[row]['labels'])]} · "
            captions.append(f"{name}{cosine:.3f}")
            images.append(self._folder_picture(row))
        return Made(images, captions)

    def reconstruct(self, picture: Image.Image, seed: int, steps: int) -> Made:
        """Takes a picture to its latent and noise and back."""
        seed, steps = self._checked(seed, steps)
        (back,) = self.pipe.reconstruct(picture, num_inference_steps=steps, generator=seeded(seed)).images
        pair = self.pipe.image_processor([picture, back], return_tensors="pt")["pixel_values"]
        error = (pair[0] - pair[1]).square().mean().sqrt().item() / 2
        return Made([picture, back], ["your picture", f"back again, {100 * error:.2g} % off"])

    def vary(self, picture: Image.Image, strength: float, keep: str, number: int, seed: int, steps: int) -> Made:
        """Varies a picture.

        Args:
            picture (`PIL.Image.Image`): the picture.
            strength, keep (`float` and `str`): see [`LZNPipeline.vary`].
            number (`int`): variations.
            seed (`int`): draws the place of the picture in its zone, and what is new.
            steps (`int`): steps of the image flow, in both directions.
        """
        number = whole("number", number, self.max_images)
        seed, steps = self._checked(seed, steps)
        output = self.pipe.vary(
            picture, strength, keep, num_images_per_image=number, num_inference_steps=steps, generator=seeded(seed)
        )
        return Made(output.images, [f"variation {i + 1}" for i in range(number)])

    def interpolate(
        self, first: Image.Image, second: Image.Image | None, num_frames: int, seed: int, steps: int
    ) -> Made:
        """Leads from one picture to another along great circles of their latents and of their noise.

        Args:
            first, second (`PIL.Image.Image`): the pictures.
            num_frames (`int`): pictures on the way, with both ends.
            seed (`int`): draws the places of both in their zones.
            steps (`int`): steps of the image flow, in both directions.
        """
        if second is None:
            raise ValueError("Choose the other picture, too.")
        num_frames = whole("number of pictures", num_frames, self.max_images, minimum=2)
        seed, steps = self._checked(seed, steps)
        output = self.pipe.interpolate(first, second, num_frames, num_inference_steps=steps, generator=seeded(seed))
        return Made(output.images, [f"{100 * i / (num_frames - 1):.0f} %" for i in range(num_frames)])

    def _checked(self, seed: int, steps: int) -> tuple[int, int]:
        return whole("seed", seed, MAX_SEED, minimum=0), whole("steps", steps, self.max_steps)

    @cached_property
    def _reference_embeddings(self) -> Tensor:
        """Directions `(N, F)` of the embeddings of the pictures of the folder."""
        chunks = [self.reference_rows[start : start + 64] for start in range(0, len(self.reference_rows), 64)]
        embeddings = torch.cat([self.pipe.embed({"pixel_values": self._folder_pixels(rows)}) for rows in chunks])
        return F.normalize(embeddings.double(), dim=1)

    def _folder_pixels(self, rows: Sequence[int]) -> Tensor:
        """Pixel values `(N, C, H, W)` of rows of the folder."""
        if self.folder is None:
            raise ValueError("`images_dir` was not given, so there are no pictures of a folder.")
        return to_pixel_values(torch.stack([self.folder.train[row]["pixel_values"] for row in rows]))

    def _folder_picture(self, row: int) -> Image.Image:
        return self.pipe.image_processor.postprocess(self._folder_pixels([row]))[0]


def _open_folder(images_dir: str | os.PathLike, config: Any) -> ImageData:
    """Opens a folder of images in the size of a model, with labels if it has any."""
    options: dict[str, Any] = {
        "data_dir": images_dir,
        "validation_fraction": 0,
        "image_size": config.image_size,
        "num_channels": config.num_channels,
        "skip_bad_images": True,
    }
    try:
        return load_image_data(**options)
    except NoLabelsError:
        return load_image_data(**options, use_labels=False)


def seeded(seed: int) -> torch.Generator:
    """Returns a generator at the start of a seed."""
    return torch.Generator().manual_seed(seed)


def whole(name: str, value: object, maximum: int, minimum: int = 1) -> int:
    """Returns a number of a form as an `int`, or raises a `ValueError` that says what may be entered."""
    if (
        not isinstance(value, (int, float))
        or isinstance(value, bool)
        or not math.isfinite(value)
        or int(value) != value
    ):
        raise ValueError(f"The {name} must be a whole number, got {shown(value)}.")
    if not minimum <= value <= maximum:
        raise ValueError(f"The {name} must be from {minimum} to {maximum:,}, got {int(value)}.")
    return int(value)


__all__ = ["MAX_SEED", "Made", "Studio", "seeded", "whole"]
