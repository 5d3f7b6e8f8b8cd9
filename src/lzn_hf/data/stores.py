# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images in memory and on disk, as PyTorch datasets of `{"pixel_values": uint8 (C, H, W), "labels": int64 ()}`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..images_lzn import GREY_MODES, ImageError, fit_image, flatten_image, open_image
from .folders import ImageFile


MAX_MEMBER_BYTES = 2**30  # as an image of MAX_PIXELS takes without compression, with room; a zip can claim any size
PROGRESS_BAR_FROM = 4096  # images; fewer are decoded in less than a second


@dataclass(frozen=True)
class ImageDecoder:
    """Turns one stored image into `uint8 (num_channels, image_size, image_size)`, as [`image_to_pixels`] does, by a centre crop.

    Args:
        image_size, num_channels (`int`): what all images become.
        resize, to_grey (`bool`, *optional*, defaults to `True`): `False` makes another size, or colours, an error: size and channels
            were taken from the first image then.
    """

    image_size: int
    num_channels: int
    resize: bool = True
    to_grey: bool = True

    def __call__(self, stored: Any, number: int, split: str) -> Tensor:
        return self.convert(open_stored(stored, number, split)[0], stored, number, split)

    def convert(self, image: Image.Image, stored: Any, number: int, split: str) -> Tensor:
        """Converts an opened image; the other arguments name it in errors."""
        size = self.image_size
        if not self.to_grey and image.mode != "L":
            raise ValueError(
                f"{name_image(stored, number, split)} has colours but the first image is grey: "
                "pass `num_channels` (--num_channels 3, or 1)"
            )
        if not self.resize and image.size != (size, size):
            raise ValueError(
                f"{name_image(stored, number, split)} is {image.width} x {image.height} pixels but the first image "
                f"is {size} x {size}: pass `image_size` (--image_size {size}) to bring all images to one size"
            )
        return fit_image(image, self.num_channels, (size, size))


class UnreadableImageError(ValueError):
    """An image of a dataset that cannot be read, which `skip_bad_images` leaves out."""


def open_stored(stored: Any, number: int, split: str) -> tuple[Image.Image, str]:
    """Opens an image as a dataset stores it: an array, a file, or what `datasets` gives undecoded.

    Args:
        stored (`Any`): the array, the [`ImageFile`], or a dictionary of `bytes`, `path` and (where the column is of one) `mode`.
        number, split: name the image in errors.

    Returns:
        `tuple[PIL.Image.Image, str]`: the image, of mode "L" or "RGB", and the mode that it is stored in.

    Raises:
        UnreadableImageError: if it cannot be read.
    """
    try:
        if stored is None:
            raise ImageError("is missing: the row holds none")
        if isinstance(stored, ImageFile):
            if stored.member is None:
                stored_image = open_image(stored.path)
            elif (size := stored.size()) > MAX_MEMBER_BYTES:
                raise ImageError(f"has {size:,} bytes: of an archive, more than {MAX_MEMBER_BYTES:,} are not unpacked")
            else:
                stored_image = open_image(stored.read())
        elif not isinstance(stored, dict):
            stored_image = open_image(stored)
        elif stored["bytes"] is not None:
            stored_image = open_image(stored["bytes"])
        elif os.path.isfile(stored["path"] or ""):
            stored_image = open_image(stored["path"])
        else:
            stored_image = open_image(_read_remote(stored["path"]))
        image = flatten_image(stored_image)
        wanted = stored.get("mode") if isinstance(stored, dict) else None
        return image.convert("L" if wanted in GREY_MODES else "RGB") if wanted else image, stored_image.mode
    except ImageError as error:
        raise UnreadableImageError(f"{name_image(stored, number, split)} {error}") from error
    except Exception as error:  # of `datasets` and `zipfile`
        raise UnreadableImageError(f"{name_image(stored, number, split)} cannot be read: {error!r}") from error


def _read_remote(path: str | None) -> bytes:
    """Reads a file of the Hub or of an archive there, as `datasets` names it. It is not decoded there, where no size is too large."""
    if path is None:
        raise ImageError("is missing: the row holds none")
    import datasets
    import pyarrow

    feature = datasets.Image()
    stored = pyarrow.array([{"bytes": None, "path": path}], type=feature.pa_type)
    return feature.embed_storage(stored)[0]["bytes"].as_py()


def name_image(stored: Any, number: int, split: str) -> str:
    """Names an image of a dataset for a message."""
    path = stored.get("path") if isinstance(stored, dict) else str(stored) if isinstance(stored, ImageFile) else None
    return f"image {number} of split {split!r}" + (f" ('{path}')" if path else "")


class TensorImageDataset(Dataset):
    """Images in memory. A DataLoader fetches a whole batch by one index operation, see [`collate_images`].

    Args:
        pixel_values (`Tensor` of shape `(N, C, H, W)`): `uint8`.
        labels (`Tensor` of shape `(N,)`, *optional*): int64.
    """

    def __init__(self, pixel_values: Tensor, labels: Tensor | None = None):
        if pixel_values.dtype != torch.uint8 or pixel_values.ndim != 4:
            raise ValueError(
                f"`pixel_values` must be uint8 (N, C, H, W), got {pixel_values.dtype} {tuple(pixel_values.shape)}"
            )
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != pixel_values.shape[:1]):
            raise ValueError(
                f"`labels` must be int64 ({len(pixel_values)},), got {labels.dtype} {tuple(labels.shape)}"
            )
        self.pixel_values = pixel_values
        self.labels = labels

    def __len__(self) -> int:
        return len(self.pixel_values)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = {"pixel_values": self.pixel_values[index]}
        return item if self.labels is None else {**item, "labels": self.labels[index]}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        rows = torch.as_tensor(indices)
        batch = {"pixel_values": self.pixel_values.index_select(0, rows)}
        return batch if self.labels is None else {**batch, "labels": self.labels.index_select(0, rows)}


@dataclass
class Rows:
    """Rows of a source, by number, with what errors call them.

    Args:
        rows (`Any`): `rows[number][column]` is the stored image.
        column, split (`str`): the column of the images, and the split.
        mode (`str`, *optional*): the mode that the column asks for.
    """

    rows: Any
    column: str
    split: str
    mode: str | None = None

    def stored(self, row: Any) -> Any:
        """Returns the image of a row as it is stored."""
        stored = row[self.column]
        return {**stored, "mode": self.mode} if self.mode and isinstance(stored, dict) else stored


class StoredImageDataset(Dataset):
    """Images too many for memory: fetched by row number, decoded when read.

    Args:
        rows ([`Rows`]): where they are.
        numbers (`np.ndarray`): the rows that belong to this dataset.
        labels (`Tensor` of shape `(len(numbers),)`, *optional*): int64.
        decoder ([`ImageDecoder`]): makes all images alike.
    """

    def __init__(self, rows: Rows, numbers: np.ndarray, labels: Tensor | None, decoder: ImageDecoder):
        self.rows = rows
        self.numbers = numbers
        self.labels = labels
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number = int(self.numbers[index])
        item = {"pixel_values": self.decoder(self.rows.stored(self.rows.rows[number]), number, self.rows.split)}
        return item if self.labels is None else {**item, "labels": self.labels[index]}


@dataclass
class DecodedImages:
    """What [`decode_all`] found.

    Args:
        pixel_values (`Tensor` of shape `(N, C, H, W)`, *optional*): the images that could be read.
        readable (`list[int]`): their positions in the dataset.
        bad (`list[str]`): what is wrong with all others.
        sizes, modes (`Counter[str]`): sizes and modes as stored.
    """

    pixel_values: Tensor | None
    readable: list[int] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)


def decode_all(dataset: StoredImageDataset, keep: bool, skip_bad: bool) -> DecodedImages:
    """Decodes every image once, with a progress bar where that takes longer than a moment.

    Args:
        dataset ([`StoredImageDataset`]): the images.
        keep (`bool`): whether to return them.
        skip_bad (`bool`): whether to go on after an image that cannot be read.

    Raises:
        ValueError: for an image that cannot be read, or has another size or other channels than the first.
    """
    from tqdm.auto import tqdm

    decoder, split = dataset.decoder, dataset.rows.split
    shape = (len(dataset) if keep else 1, decoder.num_channels, decoder.image_size, decoder.image_size)
    pixel_values = torch.empty(shape, dtype=torch.uint8)
    decoded = DecodedImages(pixel_values)
    quiet = len(dataset) < PROGRESS_BAR_FROM or os.environ.get("LOCAL_RANK", "0") != "0"
    for index in tqdm(range(len(dataset)), desc=f"decoding {split}", unit="img", disable=quiet):
        number = int(dataset.numbers[index])
        stored = dataset.rows.stored(dataset.rows.rows[number])
        try:
            image, mode = open_stored(stored, number, split)
        except UnreadableImageError as error:
            if not skip_bad:
                raise
            decoded.bad.append(str(error))
            continue
        decoded.sizes[f"{image.width} x {image.height}"] += 1
        decoded.modes[mode] += 1
        pixel_values[len(decoded.readable) if keep else 0] = decoder.convert(image, stored, number, split)
        decoded.readable.append(index)
    decoded.pixel_values = pixel_values[: len(decoded.readable)] if keep else None
    return decoded
