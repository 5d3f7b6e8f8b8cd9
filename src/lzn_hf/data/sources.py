# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Where the images of [`load_image_data`] come from: finding the source, its splits and its labels.

Rows are read alike from arrays ([`ArrayRows`]), from files ([`FileRows`]) and from `datasets`: `rows[number][column]`,
`rows[column][:]`, `len(rows)`. Everything wrong with a source is a ValueError here, before training has begun.
"""

from __future__ import annotations

import glob
import gzip
import math
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .columns import find_image_column, find_label_column, find_labels
from .folders import NOT_IMAGES, FolderTree, list_tree
from .layouts import read_image_folder


FASHION_MNIST_LABELS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
IDX_FILE = re.compile(r"(train|t10k|test)-(images[-.]idx3|labels[-.]idx1)-ubyte(\.gz)?")


@dataclass(frozen=True)
class ArrayRows:
    """Images `(N, H, W)`, `uint8`, and labels `(N,)`, read like the rows and columns of a `datasets.Dataset`."""

    images: np.ndarray
    labels: list[int]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | str) -> Any:
        return self.labels if key == "label" else {"image": self.images[key]}


@dataclass
class Source:
    """Images, with what there is to know about them before they are read.

    Args:
        name (`str`): a short name.
        description (`str`): what it is and where.
        splits (`dict[str, Any]`): the rows of each split.
        image_column (`str`): the column of the images.
        image_mode (`str`, *optional*): the mode that this column asks for.
        label_column (`str`, *optional*): the column of the labels; `None`: no labels are wanted.
        label_names (`list[str]`, *optional*): all labels.
        label_ids (`dict`): the label id of each stored label.
        labels_from (`str`): where the labels come from.
        columns (`list[str]`): all columns.
        features (*optional*): their types, where `datasets` reads them.
        left_out (`dict[str, list[str]]`): names of files that are not read, by the reason.
        unusual (`list[str]`): what the reader of a summary should know.
    """

    name: str
    description: str
    splits: Mapping[str, Any]
    image_column: str = "image"
    image_mode: str | None = None
    label_column: str | None = None
    label_names: list[str] | None = None
    label_ids: dict[Any, int] = field(default_factory=dict)
    labels_from: str = "none"
    columns: list[str] = field(default_factory=list)
    features: Any = None
    left_out: dict[str, list[str]] = field(default_factory=dict)
    unusual: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SourceArguments:
    """The arguments of [`load_image_data`] that say where the images are, with the same names."""

    dataset_name: str | None
    data_dir: str | os.PathLike | None
    config_name: str | None
    image_column: str | None
    label_column: str | None
    train_split: str
    use_labels: bool
    streaming: bool


def read_source(wanted: SourceArguments) -> Source:
    """Finds the source and its labels.

    Raises:
        FileNotFoundError: if `data_dir` does not exist.
        ValueError: for arguments that contradict each other, and for whatever is wrong with the source.
    """
    dataset_name, data_dir = wanted.dataset_name, wanted.data_dir
    if dataset_name is None and data_dir is None:
        raise ValueError("give `dataset_name` (digits, fashion-mnist or a Hub id) or `data_dir` (a folder)")
    if data_dir is not None and dataset_name not in (None, "fashion-mnist"):
        raise ValueError(f"give `dataset_name` or `data_dir`, not both: got {dataset_name!r} and '{data_dir}'")
    if wanted.config_name is not None and (data_dir is not None or dataset_name == "digits"):
        raise ValueError(
            f"the configuration {wanted.config_name!r} is asked for, but only datasets of the Hub have configurations"
        )
    if dataset_name == "fashion-mnist" and data_dir is None:
        raise ValueError(
            "`dataset_name` fashion-mnist needs `data_dir`, a folder with its four IDX files (train-images-idx3-ubyte"
            "[.gz] and so on). They are in Debian's package dataset-fashion-mnist (apt-get install puts them into "
            "/usr/share/datasets/fashion-mnist) and at https://github.com/zalandoresearch/fashion-mnist; the Hub has "
            "the same images as zalando-datasets/fashion_mnist"
        )
    if data_dir is None:
        if dataset_name == "digits":
            return _array_source("digits", "scikit-learn's handwritten digits", _read_digits(), None, wanted)
        splits = _load_with_datasets(str(dataset_name), str(dataset_name), wanted)
        return _column_source(str(dataset_name), f"dataset {dataset_name!r} of the Hub", splits, wanted)
    folder = Path(data_dir).resolve()
    if not folder.exists():
        raise FileNotFoundError(f"`data_dir` does not exist: '{data_dir}'")
    is_archive = folder.is_file() and folder.suffix.lower() == ".zip"
    if not is_archive and (not folder.is_dir() or not any(path.is_file() for path in folder.rglob("*"))):
        raise ValueError(
            f"`data_dir` must be a folder with files in it, or a zip archive: '{data_dir}' is a file or empty"
        )
    if not is_archive and any(IDX_FILE.fullmatch(path.name) for path in folder.iterdir()):
        names = list(FASHION_MNIST_LABELS) if dataset_name == "fashion-mnist" else None
        description = f"IDX files of '{folder}'"
        return _array_source(dataset_name or folder.name, description, _read_idx_folder(folder), names, wanted)
    if dataset_name == "fashion-mnist":
        raise ValueError(f"'{data_dir}' holds no IDX files: looked for train-images-idx3-ubyte[.gz] and its like")
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _column_source(folder.name, f"save_to_disk folder '{folder}'", _load_from_disk(folder, wanted), wanted)
    tree = list_tree(folder)
    if tree.images:
        return _file_source(tree, wanted)
    if glob.escape(str(folder)) != str(folder):
        raise ValueError(f"`data_dir` '{folder}' has one of the characters * ? [ in it: rename the folder")
    splits = _load_with_datasets(str(folder), f"folder '{folder}'", wanted)
    return _column_source(folder.name, f"data files of '{folder}'", splits, wanted)


def _array_source(
    name: str, description: str, splits: Mapping[str, Any], names: list[str] | None, wanted: SourceArguments
) -> Source:
    if wanted.streaming:
        raise ValueError(f"'{wanted.data_dir or name}' is read into memory at once: leave `streaming` out")
    _refuse_columns(name, image_column=wanted.image_column, label_column=wanted.label_column)
    source = Source(name, description, splits)
    if wanted.use_labels and wanted.train_split in splits:
        ids = {label: label for label in range(len(names))} if names is not None else {}
        if names is None:
            names, ids = find_labels(name, splits[wanted.train_split], "label", None)
        source.label_column, source.label_names, source.label_ids = "label", names, ids
        source.labels_from = "the label array"
    return source


def _refuse_columns(name: str, **columns: str | None) -> None:
    for argument, column in columns.items():
        if column is not None:
            raise ValueError(f"`{argument}` is {column!r} but {name} has no columns: leave it out")


def _file_source(tree: FolderTree, wanted: SourceArguments) -> Source:
    name = tree.root.stem if tree.root.is_file() else tree.root.name
    _refuse_columns(name, image_column=wanted.image_column)
    _refuse_two_sources(tree)
    folder = read_image_folder(tree, wanted.use_labels, wanted.label_column)
    splits: dict[str, Any] = dict(folder.splits)
    if wanted.streaming:
        splits = {split: rows.as_stream() for split, rows in folder.splits.items()}
    packed = " (zip archive)" if any(file.member is not None for file in tree.images) else ""
    source = Source(
        name, f"images of '{tree.root}'{packed}", splits, columns=folder.columns, labels_from=folder.labels_from
    )
    source.left_out, source.unusual = tree.left_out, folder.unusual
    if folder.label_names is not None:
        source.label_column, source.label_names = "label", folder.label_names
        source.label_ids = {label: number for number, label in enumerate(folder.label_names)}
    return source


def _refuse_two_sources(tree: FolderTree) -> None:
    """Raises a ValueError if a parquet file beside the images holds images, too."""
    for name in tree.left_out.get(NOT_IMAGES, []):
        if name.lower().endswith(".parquet") and tree.root.is_dir() and _parquet_holds_images(tree.root / name):
            raise ValueError(
                f"'{tree.root}' holds {len(tree.images)} image files ('{tree.images[0].name}') and the parquet file {name!r} with images: "
                "pass a `data_dir` that holds one of the two"
            )


def _parquet_holds_images(path: Path) -> bool:
    import pyarrow
    import pyarrow.parquet

    try:
        types = pyarrow.parquet.read_schema(path).types
    except (pyarrow.ArrowException, OSError):
        return False
    return any(
        pyarrow.types.is_binary(t) or (pyarrow.types.is_struct(t) and t.get_field_index("bytes") >= 0) for t in types
    )


def _column_source(name: str, description: str, splits: Mapping[str, Any], wanted: SourceArguments) -> Source:
    source = Source(name, description, splits)
    if wanted.train_split not in splits:
        return source  # an error that names the splits follows
    rows = splits[wanted.train_split]
    source.image_column, feature = find_image_column(name, rows.features, wanted.image_column)
    source.image_mode, source.features, source.columns = feature.mode, rows.features, list(rows.features)
    if wanted.use_labels:
        source.label_column = column = find_label_column(name, rows.features, wanted.label_column)
        source.label_names, source.label_ids = find_labels(name, rows, column, rows.features[column])
        source.labels_from = f"column {column!r}"
    return source


def _read_digits() -> dict[str, ArrayRows]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    parts = train_test_split(np.arange(len(images)), test_size=360, random_state=0, stratify=digits.target)
    return {
        split: ArrayRows(images[rows], digits.target[rows].tolist())
        for split, rows in zip(("train", "test"), parts, strict=True)
    }


def _read_idx_folder(folder: Path) -> dict[str, ArrayRows]:
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir(), reverse=True):  # of x and x.gz, x is seen last and wins
        if match := IDX_FILE.fullmatch(path.name):
            split = "train" if match[1] == "train" else "test"
            found.setdefault(split, {})[match[2][:6]] = path
    splits = {}
    for split, files in found.items():
        if len(files) != 2:
            raise ValueError(f"split {split!r} has only '{files.popitem()[1]}': images and labels are both needed")
        images, labels = _read_idx(files["images"], 3), _read_idx(files["labels"], 1)
        if len(images) != len(labels):
            raise ValueError(
                f"'{files['images']}' has {len(images)} images, '{files['labels']}' {len(labels)} labels: "
                "they are not of the same set"
            )
        splits[split] = ArrayRows(images, labels.tolist())
    return splits


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """One IDX file: bytes 0, 0, 8 (uint8), ndim; then ndim big-endian uint32 sizes; then the values."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"'{path}' is not a complete gzip file ({error}): get it again") from error
    header = 4 + 4 * ndim
    if len(content) < header or content[:4] != bytes((0, 0, 8, ndim)):
        raise ValueError(f"'{path}' is not an IDX file of uint8 values in {ndim} dimensions: starts {content[:4]!r}")
    shape = np.frombuffer(content, ">u4", ndim, offset=4).tolist()
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"'{path}' should hold {math.prod(shape)} values {tuple(shape)} but holds {len(content) - header}: "
            "truncated or damaged, get it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _load_from_disk(folder: Path, wanted: SourceArguments) -> dict[str, Any]:
    import datasets

    if wanted.streaming:
        raise ValueError(f"'{folder}' was written by save_to_disk and is read as needed: leave `streaming` out")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, LookupError) as error:
        raise ValueError(f"'{folder}' looks like a save_to_disk folder but cannot be read: {error}") from error
    return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or "train"): loaded}


def _load_with_datasets(path: str, name: str, wanted: SourceArguments) -> dict[str, Any]:
    import datasets

    try:
        return dict(datasets.load_dataset(path, wanted.config_name, streaming=wanted.streaming))
    except ConnectionError as error:
        raise ValueError(
            f"{name!r} is not a dataset here, and the Hub could not be reached to look for it ({error}). Without the "
            "Hub, give digits as `dataset_name`, or `data_dir`, a folder of images"
        ) from error
    except datasets.exceptions.DataFilesNotFoundError as error:
        raise ValueError(
            f"{name} holds no data: looked for IDX files (train-images-idx3-ubyte[.gz]), a save_to_disk folder "
            "(dataset_dict.json or state.json), parquet files, and images (cat/1.png)"
        ) from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error  # "An error occurred while generating the dataset" tells nothing
        raise ValueError(f"{name} cannot be loaded: {type(cause).__name__}: {cause}") from error
