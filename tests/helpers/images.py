# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Small real image sources of every kind, for the tests of `data.images` and `data.sources`."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lzn_hf.data.batches import collate_images
from lzn_hf.data.images import StreamedImageDataset


SIZE = 6


def random_images(count: int, seed: int = 0, shape: tuple[int, ...] = (SIZE, SIZE, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def as_png(content: bytes, width: int, height: int) -> bytes:
    """A PNG file whose header says another size."""
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def write_files(root: Path, names: Iterable[str]) -> Path:
    """Writes files below `root`: images by their suffix, each another one, and text."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            path.write_bytes(png(random_images(1, number)[0]))
        else:
            path.write_text("text")
    return root


def write_imagefolder(root: Path, splits: tuple[str, ...] = ("train", "test"), each: int = 4) -> Path:
    """`root/<split>/<cat or dog>/<i>.png`; the images of split number s and class number c are `random_images(each, 10 s + c)`."""
    for s, split in enumerate(splits):
        for c, label in enumerate(("cat", "dog")):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i, image in enumerate(random_images(each, 10 * s + c)):
                (folder / f"{i}.png").write_bytes(png(image))
    return root


def write_idx(path: Path, values: np.ndarray) -> None:
    content = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_idx_folder(root: Path, suffix: str = ".gz", highest: int = 9) -> Path:
    root.mkdir(exist_ok=True)
    for seed, (split, count) in enumerate((("train", 12), ("t10k", 5))):
        write_idx(root / f"{split}-images-idx3-ubyte{suffix}", random_images(count, seed, (7, 7)))
        write_idx(root / f"{split}-labels-idx1-ubyte{suffix}", (np.arange(count) % (highest + 1)).astype(np.uint8))
    return root


def write_dataset(columns: dict[str, list], types: dict[str, Any]):
    import datasets

    return datasets.Dataset.from_dict(columns, features=datasets.Features(types))


def write_parquet(root: Path, columns: dict[str, list], name: str = "train.parquet") -> Path:
    import pyarrow
    import pyarrow.parquet

    root.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), root / name)
    return root


def all_items(dataset) -> dict[str, torch.Tensor]:
    items = dataset if isinstance(dataset, StreamedImageDataset) else (dataset[i] for i in range(len(dataset)))
    return collate_images(list(items))


def as_set(items: dict[str, torch.Tensor]) -> set[tuple[bytes, int]]:
    return {(x.numpy().tobytes(), int(y)) for x, y in zip(items["pixel_values"], items["labels"], strict=True)}


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def imagefolder_with(name: str, content: bytes) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        (write_imagefolder(root) / "train" / "dog" / name).write_bytes(content)

    return build


def parquet_with(columns: dict[str, list], files: bool = True) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        images = {"image": [{"bytes": png(image), "path": None} for image in random_images(3)]} if files else {}
        write_parquet(root, images | columns)

    return build


def split_without_labels(root: Path) -> None:
    import datasets

    types = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    images = [Image.fromarray(image) for image in random_images(2)]
    train = write_dataset({"image": images, "label": [0, 1]}, types)
    test = write_dataset({"image": images, "label": [1, -1]}, types)
    datasets.DatasetDict(train=train, test=test).save_to_disk(root)
