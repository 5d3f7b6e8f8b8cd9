# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""From the rows of a source to the datasets of training and validation, with a record of what was left out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .copies import cut, file_keys, fingerprint, pixel_keys
from .layouts import FileRows
from .stores import ImageDecoder, Rows, StoredImageDataset, TensorImageDataset, decode_all, name_image
from .summary import NUM_NAMES, DataSummary


logger = logging.getLogger(__name__)

UNREADABLE = "images that cannot be read"
CHUNK = 4096  # images that are moved at once


@dataclass
class OpenedSplit:
    """All images of a split that can be read.

    Args:
        rows ([`Rows`]): where they are from.
        numbers (`np.ndarray`): the number of the row of each.
        dataset (`TensorImageDataset` or `StoredImageDataset`): the images.
        keys (`list`, *optional*): equal for images that are the same; `None` where that is not known.
    """

    rows: Rows
    numbers: np.ndarray
    dataset: TensorImageDataset | StoredImageDataset
    keys: list[Hashable] | None = None

    def name(self, index: int) -> str:
        """Names one of the images."""
        number = int(self.numbers[index])
        return name_image(self.rows.stored(self.rows.rows[number]), number, self.rows.split)


def open_split(
    rows: Rows,
    labels: Tensor | None,
    decoder: ImageDecoder,
    cache_limit_bytes: int,
    skip_bad: bool,
    summary: DataSummary,
) -> OpenedSplit:
    """Opens a split: in memory if it fits, else on disk. What is seen and left out goes to the summary.

    Args:
        rows ([`Rows`]): the split.
        labels (`Tensor` of shape `(len(rows.rows),)`, *optional*): its label ids.
        decoder, cache_limit_bytes, skip_bad, summary: see [`load_image_data`].
    """
    numbers = np.arange(len(rows.rows))
    stored = StoredImageDataset(rows, numbers, labels, decoder)
    fits = len(stored) * decoder.num_channels * decoder.image_size**2 <= cache_limit_bytes
    if not fits and not skip_bad:
        summary.unusual.append(
            f"split {rows.split!r} does not fit in memory: its images are decoded when they are read"
        )
        return OpenedSplit(rows, numbers, stored)
    decoded = decode_all(stored, keep=fits, skip_bad=skip_bad)
    summary.sizes = dict(Counter(summary.sizes) + decoded.sizes)
    summary.modes = dict(Counter(summary.modes) + decoded.modes)
    summary.leave_out({f"{UNREADABLE}, of split {rows.split!r}": decoded.bad})
    if not decoded.readable:
        raise ValueError(f"split {rows.split!r} has no image that can be read: {decoded.bad[0]}")
    numbers = numbers[decoded.readable]
    labels = None if labels is None else labels[decoded.readable]
    if decoded.pixel_values is None:
        return OpenedSplit(rows, numbers, StoredImageDataset(rows, numbers, labels, decoder))
    return OpenedSplit(
        rows, numbers, TensorImageDataset(decoded.pixel_values, labels), pixel_keys(decoded.pixel_values)
    )


def note_copies(splits: Sequence[OpenedSplit], summary: DataSummary) -> None:
    """Finds copies of images by content, by their pixels where all are in memory, else by the bytes of files.

    Copies within and between the splits are noted in the summary; for those between splits there is a warning.
    """
    if not all(split.keys is not None for split in splits):
        if not all(isinstance(split.rows.rows, FileRows) for split in splits):
            summary.unusual.append("not looked through for copies of images: it does not fit in memory")
            for split in splits:
                split.keys = None
            return
        keys = file_keys([split.rows.rows.files[number] for split in splits for number in split.numbers])
        for split in splits:
            split.keys, keys = keys[: len(split.numbers)], keys[len(split.numbers) :]
    for split in splits:
        copies = len(split.numbers) - len(set(split.keys or ()))
        if copies:
            summary.unusual.append(f"{copies:,} images of split {split.rows.split!r} are copies of others in it")
    if len(splits) == 2:
        train = set(splits[0].keys or ())
        shared = [index for index, key in enumerate(splits[1].keys or ()) if key in train]
        if shared:
            names = ", ".join(splits[1].name(index) for index in shared[:NUM_NAMES]) + ", ..." * (
                len(shared) > NUM_NAMES
            )
            note = f"{len(shared):,} images of split {splits[1].rows.split!r} are in split {splits[0].rows.split!r}, too: {names}"
            summary.unusual.append(note)
            logger.warning(f"{note}. Results on them say nothing about new images")


def cut_split(split: OpenedSplit, fraction: float, seed: int) -> tuple[OpenedSplit, OpenedSplit]:
    """Cuts a split into images to train on and images to validate on, with all copies of an image on one side."""
    train, held_out = cut(len(split.numbers), fraction, seed, split.keys)
    validation = OpenedSplit(split.rows, split.numbers[held_out], _select(split.dataset, held_out))
    keys = None if split.keys is None else [split.keys[index] for index in train]
    return OpenedSplit(
        split.rows, split.numbers[train], _select(split.dataset, train, in_place=True), keys
    ), validation


def _select(
    dataset: TensorImageDataset | StoredImageDataset, indices: np.ndarray, in_place: bool = False
) -> TensorImageDataset | StoredImageDataset:
    """Some of the images, in ascending order. `in_place` moves them up in memory, as a copy might not fit beside them."""
    rows = torch.from_numpy(indices)
    labels = None if dataset.labels is None else dataset.labels[rows]
    if isinstance(dataset, StoredImageDataset):
        return StoredImageDataset(dataset.rows, dataset.numbers[indices], labels, dataset.decoder)
    if not in_place:
        return TensorImageDataset(dataset.pixel_values[rows], labels)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        dataset.pixel_values[start : start + len(part)] = dataset.pixel_values[part]
    return TensorImageDataset(dataset.pixel_values[: len(rows)], labels)


def count_used(summary: DataSummary, parts: Sequence[OpenedSplit], label_names: Sequence[str] | None) -> None:
    """Puts the numbers of images to train on and to validate on into the summary, those of each label, and a fingerprint."""
    names = ("train", "validation")[: len(parts)]
    summary.used = {name: len(part.numbers) for name, part in zip(names, parts, strict=True)}
    counts = [
        torch.bincount(part.dataset.labels, minlength=len(label_names)).tolist()
        for part in parts
        if part.dataset.labels is not None and label_names is not None
    ]
    for number, label in enumerate(label_names or ()):
        summary.labels[label] = {name: count[number] for name, count in zip(names, counts, strict=True)}
        if counts[0][number] == 0:
            summary.unusual.append(f"label {label!r} has no image to train on")
    train = parts[0]
    labels = None if train.dataset.labels is None else train.dataset.labels.tolist()
    if isinstance(train.dataset, TensorImageDataset):
        # Keys of bytes are hashes of pixels; others only tell the images of this run apart.
        hashes = train.keys if train.keys and isinstance(train.keys[0], bytes) else None
        summary.fingerprint = fingerprint(hashes or pixel_keys(train.dataset.pixel_values), labels)
    elif isinstance(train.rows.rows, FileRows):
        files = [train.rows.rows.files[number] for number in train.numbers]
        summary.fingerprint = fingerprint([(file.name, file.size()) for file in files], labels)
