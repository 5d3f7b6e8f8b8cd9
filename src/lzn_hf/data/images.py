# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Image data for the example scripts: any source in, `uint8` batches `{"pixel_values", "labels"}` out.

    data = load_image_data("digits")
    loader = DataLoader(data.train, batch_size=256, shuffle=True, collate_fn=collate_images)
    for batch in loader:
        images = to_pixel_values(batch["pixel_values"].to(device), flip=True)  # float in [-1, 1]

Data that fits in memory is decoded once into one `uint8` tensor; larger data stays on disk and is decoded when read;
`streaming=True` never stores it. `datasets`, `scikit-learn` and `tqdm` are imported where they are used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset, IterableDataset

from .sources import (
    ArrayRows,
    choose_splits,
    find_image_column,
    find_label_column,
    find_labels,
    label_tensor,
    read_splits,
    select_columns,
)


if TYPE_CHECKING:
    import datasets

PROGRESS_BAR_FROM = 4096  # images; fewer are decoded in less than a second


@dataclass(frozen=True)
class ImageData:
    """Training and validation data with what a model needs to know about them.

    `train` and `validation` give `{"pixel_values": uint8 (num_channels, image_size, image_size), "labels": int64 ()}`
    per item, without `labels` where `label_names` is None. Each is a [`TensorImageDataset`] (in memory), a
    [`StoredImageDataset`] (on disk) or, for `streaming=True`, a [`StreamedImageDataset`]; `validation` may be None.
    """

    train: Dataset | IterableDataset
    validation: Dataset | IterableDataset | None
    label_names: list[str] | None
    image_size: int
    num_channels: int
    name: str


# Batches


# Datasets


@dataclass(frozen=True)
class ImageDecoder:
    """Turns one stored image into `uint8 (num_channels, image_size, image_size)`.

    Images are turned upright (EXIF), laid on white where transparent, converted to grey or RGB and, where the size
    differs, resized so that the short side fits (bilinear, antialiased; smaller images are enlarged) and cropped at
    the centre. `resize=False` and `to_grey=False` make another size, or colours, an error: size and channels were
    taken from the first image then.
    """

    image_size: int
    num_channels: int
    feature: datasets.Image | None  # None: images are stored as arrays (H, W)
    resize: bool = True
    to_grey: bool = True

    def __call__(self, stored: Any, number: int, split: str) -> torch.Tensor:
        image, size = _open_image(stored, self.feature, number, split), self.image_size
        if not self.to_grey and _num_channels(image) != 1:
            raise ValueError(
                f"{_name_image(stored, number, split)} has colours but the first image is grey: "
                "pass `num_channels` (--num_channels 3, or 1)"
            )
        if not self.resize and image.size != (size, size):
            raise ValueError(
                f"{_name_image(stored, number, split)} is {image.width} x {image.height} pixels but the first image "
                f"is {size} x {size}: pass `image_size` (--image_size {size}) to bring all images to one size"
            )
        if image.mode in ("LA", "PA", "P", "RGBA"):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if self.num_channels == 1 else "RGB")
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
        pixels = np.array(image, dtype=np.uint8).reshape(size, size, self.num_channels)  # a copy: PIL's is read-only
        return torch.from_numpy(pixels).permute(2, 0, 1)


class TensorImageDataset(Dataset):
    """Images in memory. A DataLoader fetches a whole batch by one index operation, see [`collate_images`].

    Args:
        pixel_values: `(N, C, H, W)`, `uint8`.
        labels: `(N,)`, int64, or None.
    """

    def __init__(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None):
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

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = {"pixel_values": self.pixel_values[index]}
        return item if self.labels is None else {**item, "labels": self.labels[index]}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        rows = torch.as_tensor(indices)
        batch = {"pixel_values": self.pixel_values.index_select(0, rows)}
        return batch if self.labels is None else {**batch, "labels": self.labels.index_select(0, rows)}


class StoredImageDataset(Dataset):
    """Images too many for memory: fetched by row number, decoded when read.

    Args:
        rows: gives `rows[number][image_column]`, the stored image.
        image_column, split: where in the rows, and what errors call them.
        numbers: the rows that belong to this dataset.
        labels: `(len(numbers),)`, int64, or None.
        decoder: makes all images alike.
    """

    def __init__(
        self,
        rows: ArrayRows | datasets.Dataset,
        image_column: str,
        split: str,
        numbers: Sequence[int],
        labels: torch.Tensor | None,
        decoder: ImageDecoder,
    ):
        self.rows = rows
        self.image_column = image_column
        self.split = split
        self.numbers = numbers
        self.labels = labels
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number = int(self.numbers[index])
        item = {"pixel_values": self.decoder(self.rows[number][self.image_column], number, self.split)}
        return item if self.labels is None else {**item, "labels": self.labels[index]}

    def decode_all(self) -> TensorImageDataset:
        """Decodes every image once, with a progress bar where that takes longer than a moment."""
        from tqdm.auto import tqdm

        size, channels = self.decoder.image_size, self.decoder.num_channels
        pixel_values = torch.empty(len(self), channels, size, size, dtype=torch.uint8)
        quiet = len(self) < PROGRESS_BAR_FROM or os.environ.get("LOCAL_RANK", "0") != "0"
        for index in tqdm(range(len(self)), desc=f"decoding {self.split}", unit="img", disable=quiet):
            pixel_values[index] = self[index]["pixel_values"]
        return TensorImageDataset(pixel_values, self.labels)


class StreamedImageDataset(IterableDataset):
    """Images that come one after the other and are never stored.

    Every process iterates the whole stream in the same order, and `accelerator.prepare` gives each item to exactly
    one process (by default the main process reads and sends; `dispatch_batches=False` lets all read). Workers of one
    DataLoader share the stream by files. `set_epoch` changes the order of a shuffled stream; a shuffle buffer mixes
    only neighbours, so a source sorted by label needs a buffer larger than a label, or to be read without streaming.

    Args:
        rows: stream of rows, images not decoded.
        image_column, label_column, split: where in the rows (no label column: no labels), and what errors call them.
        label_ids: the label id of each stored label.
        decoder: makes all images alike.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset,
        image_column: str,
        label_column: str | None,
        split: str,
        label_ids: dict[Any, int],
        decoder: ImageDecoder,
    ):
        self.rows = rows
        self.image_column = image_column
        self.label_column = label_column
        self.split = split
        self.label_ids = label_ids
        self.decoder = decoder

    def set_epoch(self, epoch: int) -> None:
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for number, row in enumerate(self.rows):
            item = {"pixel_values": self.decoder(row[self.image_column], number, self.split)}
            if self.label_column is not None:
                item["labels"] = label_tensor([row[self.label_column]], self.label_ids, self.split, number)[0]
            yield item


def _name_image(stored: Any, number: int, split: str) -> str:
    path = stored.get("path") if isinstance(stored, dict) else None
    return f"image {number} of split {split!r}" + (f" ('{path}')" if path else "")


def _num_channels(image: Image.Image) -> int:
    return 1 if image.mode in ("1", "L", "LA") else 3


def _open_image(stored: Any, feature: datasets.Image | None, number: int, split: str) -> Image.Image:
    """A stored image as an upright PIL image of 8 bits a channel."""
    if stored is None:
        raise ValueError(f"{_name_image(stored, number, split)} is missing: the row holds none")
    try:
        image = Image.fromarray(stored) if feature is None else feature.decode_example(stored)
    except Exception as error:  # PIL's readers raise anything on damaged files: OSError, SyntaxError, struct.error
        raise ValueError(f"{_name_image(stored, number, split)} cannot be read: {error!r}") from error
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{_name_image(stored, number, split)} has more than 8 bits a pixel (mode {image.mode}): convert it first"
        )
    return image


# Loading


def load_image_data(
    dataset_name: str | None = None,
    data_dir: str | os.PathLike | None = None,
    *,
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    train_split: str = "train",
    validation_split: str | None = None,
    validation_fraction: float = 0.1,
    image_size: int | None = None,
    num_channels: int | None = None,
    use_labels: bool = True,
    streaming: bool = False,
    shuffle_buffer_size: int = 5000,
    cache_limit_bytes: int = 4 * 2**30,
    seed: int = 0,
) -> ImageData:
    """Loads labelled images from wherever they are.

    Args:
        dataset_name: `"digits"` (scikit-learn's 8 x 8 digits, 1437 to train on and 360 held out), `"fashion-mnist"`
            with `data_dir`, or a dataset id on the Hugging Face Hub.
        data_dir: a folder of IDX files (as MNIST and Fashion-MNIST are published, plain or .gz), one written by
            `save_to_disk`, one of parquet files, or an imagefolder (`train/cat/1.png`). Not with a Hub id.
        config_name: configuration of the Hub dataset.
        image_column: column of the images; found by its type where None.
        label_column: column of the labels, class labels or integers or strings; found by type or name where None.
        train_split: split to train on.
        validation_split: split to validate on. None takes the first there is of validation, valid, val, dev, test,
            and without any of them `validation_fraction` of the training split. The name of the training split
            itself always takes that fraction.
        validation_fraction: share of the training images held out (drawn by `seed`), at least one image; 0: none.
        image_size: side in pixels that all images are brought to, see [`ImageDecoder`]; None keeps the size, which
            must be square and the same for all.
        num_channels: 1 (grey) or 3 (RGB); None: that of the first image.
        use_labels: False leaves labels away.
        streaming: read images as they come, keep nothing; for a Hub id, parquet files or an imagefolder.
        shuffle_buffer_size: images among which the training stream is shuffled.
        cache_limit_bytes: a split that is larger when decoded is not kept in memory. Each process has its own copy.
        seed: decides the held-out images and the order of the training stream, nothing else.

    Returns:
        [`ImageData`].

    Raises:
        FileNotFoundError: `data_dir` does not exist.
        ValueError: anything else that is wrong with an argument or with the data; a bad image is named.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"`image_size` must be at least 1, got {image_size}")
    if num_channels not in (None, 1, 3):
        raise ValueError(f"`num_channels` must be 1 (grey), 3 (RGB) or None, got {num_channels}")
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"`validation_fraction` must be at least 0 and below 1, got {validation_fraction}")
    if label_column is not None and not use_labels:
        raise ValueError(f"`label_column` is {label_column!r} but `use_labels` is False: give one of the two")

    name, splits, label_names = read_splits(dataset_name, data_dir, config_name, streaming)
    chosen = choose_splits(name, splits, train_split, validation_split, validation_fraction, seed)
    image_column, feature = find_image_column(name, splits[train_split], image_column)
    columns, label_ids = [image_column], {}
    if use_labels:
        label_column = find_label_column(name, splits[train_split], label_column)
        label_names, label_ids = find_labels(name, splits[train_split], label_column, label_names)
        columns.append(label_column)
    if feature is not None:
        features = splits[train_split].features
        splits = {split: select_columns(name, splits[split], split, columns, features) for split, _ in chosen}
    first = next(iter(splits[train_split]), None)
    if first is None:  # only a stream can be empty without telling
        raise ValueError(f"split {train_split!r} of {name} is empty")
    decoder = _make_decoder(first[image_column], feature, train_split, image_size, num_channels)

    opened: list[Dataset | IterableDataset] = []
    for split, numbers in chosen:
        rows = splits[split]
        if streaming:
            if not opened:  # the training split
                rows = rows.shuffle(seed=seed, buffer_size=shuffle_buffer_size)
            opened.append(StreamedImageDataset(rows, image_column, label_column, split, label_ids, decoder))
            continue
        labels = label_tensor(rows[label_column][:], label_ids, split)[numbers] if use_labels else None
        stored = StoredImageDataset(rows, image_column, split, numbers, labels, decoder)
        decoded_bytes = len(stored) * decoder.num_channels * decoder.image_size**2
        opened.append(stored.decode_all() if decoded_bytes <= cache_limit_bytes else stored)
    return ImageData(
        train=opened[0],
        validation=opened[1] if len(opened) > 1 else None,
        label_names=label_names if use_labels else None,
        image_size=decoder.image_size,
        num_channels=decoder.num_channels,
        name=name,
    )


def _make_decoder(
    first: Any, feature: datasets.Image | None, split: str, image_size: int | None, num_channels: int | None
) -> ImageDecoder:
    """A decoder to the given size and channels, where None to those of the first stored image."""
    image = _open_image(first, feature, 0, split)
    if image_size is None and image.width != image.height:
        raise ValueError(
            f"{_name_image(first, 0, split)} is {image.width} x {image.height} pixels: pass `image_size` "
            f"(--image_size {min(image.size)}) to bring all images to a square"
        )
    return ImageDecoder(
        image_size=image_size or image.width,
        num_channels=num_channels or _num_channels(image),
        feature=feature,
        resize=image_size is not None,
        to_grey=num_channels is not None or _num_channels(image) != 1,
    )
