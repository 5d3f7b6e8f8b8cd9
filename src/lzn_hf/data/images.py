# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Image data for training and evaluation: any source in, `uint8` batches `{"pixel_values", "labels"}` out.

    data = load_image_data("digits")
    print(data.summary)
    loader = DataLoader(data.train, batch_size=256, shuffle=True, collate_fn=collate_images)
    for batch in loader:
        images = to_pixel_values(batch["pixel_values"].to(device), flip=True)  # float in [-1, 1]

Data that fits in memory is decoded once into one `uint8` tensor; larger data stays on disk and is decoded when read;
`streaming=True` never stores it. `datasets`, `scikit-learn` and `tqdm` are imported where they are used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from .columns import label_tensor, select_columns
from .layouts import FileRows
from .sources import Source, SourceArguments, read_source
from .splits import count_used, cut_split, note_copies, open_split
from .stores import (
    ImageDecoder,
    Rows,
    StoredImageDataset,
    TensorImageDataset,
    UnreadableImageError,
    name_image,
    open_stored,
)
from .streams import Shuffling, StreamedImageDataset
from .summary import DataSummary


VALIDATION_SPLIT_NAMES = ("validation", "valid", "val", "dev", "test")


@dataclass(frozen=True)
class ImageData:
    """Training and validation data with what a model needs to know about them.

    Args:
        train, validation (`Dataset` or `IterableDataset`): items are `{"pixel_values": uint8 (num_channels, image_size, image_size),
            "labels": int64 ()}`, without `labels` where `label_names` is None. Each is a [`TensorImageDataset`] (in memory), a
            [`StoredImageDataset`] (on disk) or, for `streaming=True`, a [`StreamedImageDataset`]; `validation` may be None.
        label_names (`list[str]`, *optional*): the names of the labels by their id.
        image_size, num_channels (`int`): the shape of the images.
        name (`str`): a short name of the source.
        summary ([`DataSummary`]): what was found, used and left out.
    """

    train: Dataset | IterableDataset
    validation: Dataset | IterableDataset | None
    label_names: list[str] | None
    image_size: int
    num_channels: int
    name: str
    summary: DataSummary = field(default_factory=DataSummary)


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
    skip_bad_images: bool = False,
    streaming: bool = False,
    shuffle_buffer_size: int = 5000,
    cache_limit_bytes: int = 4 * 2**30,
    seed: int = 0,
) -> ImageData:
    """Loads labelled images from wherever they are.

    Folders of images are read by the rules of [`read_image_folder`], all else by `datasets`. [`image_to_pixels`] says how an image
    becomes pixels. Images that are the same by content are never on both sides of a validation split that is cut here; those in the
    training split and in another split of the data are counted in the summary, with a warning. (Data that is neither files nor fits
    in memory is not looked through for them, as the summary says then.)

    Args:
        dataset_name (`str`, *optional*): `"digits"` (scikit-learn's 8 x 8 digits, 1437 to train on and 360 held out),
            `"fashion-mnist"` with `data_dir`, or a dataset id on the Hugging Face Hub.
        data_dir (`str` or `os.PathLike`, *optional*): a folder of images (`cat/1.png`, `train/cat/1.png`) or a zip archive of one, of
            IDX files (as MNIST and Fashion-MNIST are published, plain or .gz), of parquet files, or one written by `save_to_disk`. Not
            with a Hub id.
        config_name (`str`, *optional*): configuration of the Hub dataset.
        image_column (`str`, *optional*): column of the images; `None` finds it by its type.
        label_column (`str`, *optional*): column of the labels, class labels or integers or strings; "folder" takes the names of class
            folders beside a table. `None` takes the only candidate, by type or name.
        train_split (`str`, *optional*, defaults to `"train"`): split to train on.
        validation_split (`str`, *optional*): split to validate on. `None` takes the first there is of validation, valid, val, dev,
            test, and without any of them `validation_fraction` of the training split. The name of the training split itself
            always takes that fraction.
        validation_fraction (`float`, *optional*, defaults to 0.1): fraction of the training images to hold out (drawn by `seed`), at
            least one image; 0: none.
        image_size (`int`, *optional*): side in pixels of all images; `None` keeps the size, which must be square and the same for all.
        num_channels (`int`, *optional*): 1 (grey) or 3 (RGB); `None`: that of the first image.
        use_labels (`bool`, *optional*, defaults to `True`): `False` leaves labels away.
        skip_bad_images (`bool`, *optional*, defaults to `False`): leave out images that cannot be read, instead of raising an error.
            The summary counts and names them; of a stream, a warning names each as it comes.
        streaming (`bool`, *optional*, defaults to `False`): read images as they come, keep nothing; for a Hub id, parquet files, tar
            archives as webdataset has them, or a folder of images.
        shuffle_buffer_size (`int`, *optional*, defaults to 5000): images of a block within which the training stream is shuffled, after its
            files were.
        cache_limit_bytes (`int`, *optional*, defaults to 4 GiB): a split that is larger when decoded is not kept in memory. Each
            process has its own copy.
        seed (`int`, *optional*, defaults to 0): decides the held-out images and the order of the training stream, nothing else.

    Returns:
        [`ImageData`].

    Raises:
        FileNotFoundError: `data_dir` does not exist.
        NoLabelsError: `use_labels`, but the data has no labels.
        ValueError: anything else that is wrong with an argument or with the data; a bad image is named.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"`image_size` must be at least 1, got {image_size}")
    if num_channels not in (None, 1, 3):
        raise ValueError(f"`num_channels` must be 1 (grey) or 3 (RGB), got {num_channels}")
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"`validation_fraction` must be at least 0 and below 1, got {validation_fraction}")
    if label_column is not None and not use_labels:
        raise ValueError(f"`label_column` is {label_column!r}, but no labels are to be read: leave it out")

    wanted = SourceArguments(
        dataset_name, data_dir, config_name, image_column, label_column, train_split, use_labels, streaming
    )
    source = read_source(wanted)
    validation_split = _choose_validation(source, train_split, validation_split, validation_fraction)
    names = [train_split] if validation_split in (None, train_split) else [train_split, validation_split]
    rows = [_open_rows(source, split) for split in names if split is not None]
    decoder = _make_decoder(source, rows[0], image_size, num_channels, skip_bad_images)
    summary = DataSummary(
        source=source.description,
        labels_from=source.labels_from,
        columns=source.columns,
        image_size=decoder.image_size,
        num_channels=decoder.num_channels,
        unusual=list(source.unusual),
    )
    summary.leave_out(source.left_out)
    if validation_split is not None:
        cut_by = f"{validation_fraction:g} of split {train_split!r}, drawn by seed {seed}"
        summary.validation_from = cut_by if len(rows) == 1 else f"split {validation_split!r} of the data"
    parts: list[Any]
    if streaming:
        if shuffle_buffer_size < 1:
            raise ValueError(f"`shuffle_buffer_size` must be at least 1, got {shuffle_buffer_size}")
        orders = [Shuffling(seed, shuffle_buffer_size), None]  # of training and validation
        labels = source.label_column, source.label_ids
        parts = [
            StreamedImageDataset(split, *labels, decoder, skip_bad_images, order)
            for split, order in zip(rows, orders, strict=False)
        ]
        if source.label_names:
            summary.labels_from = f"{len(source.label_names)} from {source.labels_from}"
        summary.unusual.append("a stream is not looked through before it is read, so copies of images are not known")
    else:
        summary.found = {split: len(all_rows) for split, all_rows in source.splits.items()}
        splits = [
            open_split(split, _read_labels(source, split), decoder, cache_limit_bytes, skip_bad_images, summary)
            for split in rows
        ]
        note_copies(splits, summary)
        if validation_split == train_split:
            splits = list(cut_split(splits[0], validation_fraction, seed))
        count_used(summary, splits, source.label_names)
        parts = [split.dataset for split in splits]
    return ImageData(
        train=parts[0],
        validation=parts[1] if len(parts) > 1 else None,
        label_names=source.label_names,
        image_size=decoder.image_size,
        num_channels=decoder.num_channels,
        name=source.name,
        summary=summary,
    )


def _choose_validation(source: Source, train_split: str, validation_split: str | None, fraction: float) -> str | None:
    """The validation split: the training split itself where a fraction of it is to be held out, None where there is none."""
    name, splits = source.name, source.splits
    for argument, split in (("train_split", train_split), ("validation_split", validation_split)):
        if split is not None and split not in splits:
            raise ValueError(f"`{argument}` is {split!r} but {name} has the splits {sorted(splits)}")
    if validation_split is None:
        validation_split = next((s for s in VALIDATION_SPLIT_NAMES if s in splits and s != train_split), train_split)
    streaming = not hasattr(splits[train_split], "__len__")
    for split in (train_split, validation_split):
        if not streaming and len(splits[split]) == 0:
            raise ValueError(f"split {split!r} of {name} is empty")
    if validation_split != train_split:
        return validation_split
    if fraction == 0:
        return None
    if streaming:
        raise ValueError(
            f"{name} has the splits {sorted(splits)} and a stream cannot be divided: pass another `validation_split`, "
            "or 0 as `validation_fraction` to train without validation, or leave `streaming` out"
        )
    if len(splits[train_split]) < 2:
        raise ValueError(
            f"split {train_split!r} of {name} has {len(splits[train_split])} images: too few to hold some out"
        )
    return train_split


def _open_rows(source: Source, split: str) -> Rows:
    rows = source.splits[split]
    if source.features is not None:
        columns = [source.image_column] + ([source.label_column] if source.label_column else [])
        rows = select_columns(source.name, rows, split, columns, source.features)
    return Rows(rows, source.image_column, split, source.image_mode)


def _read_labels(source: Source, split: Rows) -> Tensor | None:
    """The label id of every row."""
    if source.label_column is None:
        return None
    if isinstance(split.rows, FileRows) and split.rows.labels is None:
        raise ValueError(
            f"the images of split {split.split!r} of {source.name} are in no class folders, while other splits have labels: name "
            "another split by `train_split` or `validation_split`"
        )
    return label_tensor(split.rows[source.label_column][:], source.label_ids, split.split)


def _make_decoder(
    source: Source, split: Rows, image_size: int | None, num_channels: int | None, skip_bad: bool
) -> ImageDecoder:
    """A decoder to the given size and channels, where None to those of the first image (that can be read)."""
    for number, stored in _stored_images(split):
        try:
            image = open_stored(stored, number, split.split)[0]
            break
        except UnreadableImageError:
            if not skip_bad:
                raise
    else:  # only a stream can be empty without telling
        raise ValueError(f"split {split.split!r} of {source.name} is empty, or has no image that can be read")
    if image_size is None and image.width != image.height:
        raise ValueError(
            f"{name_image(stored, number, split.split)} is {image.width} x {image.height} pixels: pass `image_size` "
            f"(--image_size {min(image.size)}) to bring all images to a square"
        )
    own_channels = 1 if image.mode == "L" else 3
    return ImageDecoder(
        image_size=image_size or image.width,
        num_channels=num_channels or own_channels,
        resize=image_size is not None,
        to_grey=num_channels is not None or own_channels != 1,
    )


def _stored_images(split: Rows) -> Iterator[tuple[int, Any]]:
    rows = split.rows
    stream = (rows[number] for number in range(len(rows))) if hasattr(rows, "__len__") else rows
    yield from ((number, split.stored(row)) for number, row in enumerate(stream))


__all__ = ["ImageData", "StoredImageDataset", "StreamedImageDataset", "TensorImageDataset", "load_image_data"]
