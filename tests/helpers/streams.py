# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Streams of images whose grey value is their number, in parquet files and in tar archives as webdataset has them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from lzn_hf.data.images import StreamedImageDataset, load_image_data

from .images import png, write_parquet


def numbered(number: int) -> bytes:
    return png(np.full((8, 8), number, np.uint8))


def write_parquet_shards(folder: Path, sizes: Sequence[int]) -> Path:
    for shard, numbers in enumerate(_numbers(sizes)):
        images = [{"bytes": numbered(number), "path": None} for number in numbers]
        write_parquet(folder, {"image": images}, f"train-{shard:03}.parquet")
    return folder


def write_tar_shards(folder: Path, sizes: Sequence[int]) -> Path:
    folder.mkdir()
    for shard, numbers in enumerate(_numbers(sizes)):
        with tarfile.open(folder / f"train-{shard:03}.tar", "w") as archive:
            for number in numbers:
                content = numbered(number)
                info = tarfile.TarInfo(f"{number:06}.png")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return folder


WRITERS: dict[str, Callable[[Path, Sequence[int]], Path]] = {"parquet": write_parquet_shards, "tar": write_tar_shards}


def _numbers(sizes: Sequence[int]) -> list[range]:
    """The numbers of the images in each shard."""
    ends = np.cumsum(sizes).tolist()
    return [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def open_stream(folder: Path, **options) -> StreamedImageDataset:
    options = {"shuffle_buffer_size": 7, **options}
    return load_image_data(data_dir=folder, streaming=True, validation_fraction=0, use_labels=False, **options).train


def numbers_of(batches: Iterable[dict]) -> list[list[int]]:
    """The numbers of the images of each batch."""
    return [batch["pixel_values"][:, 0, 0, 0].tolist() for batch in batches]
