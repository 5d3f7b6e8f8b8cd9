# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Where the images of [`load_image_data`] come from: finding the source, its splits, its columns and its labels.

Rows are read alike from arrays ([`ArrayRows`]) and from `datasets`: `rows[number][column]`, `rows[column][:]`, `len(rows)`.
Everything wrong with a source is a ValueError here, before training has begun.
"""

from __future__ import annotations

import glob
import gzip
import math
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch


if TYPE_CHECKING:
    import datasets

FASHION_MNIST_LABELS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
IMAGE_COLUMN_NAMES = ("image", "img", "images", "pixel_values")
LABEL_COLUMN_NAMES = ("label", "labels", "fine_label", "class", "category", "target")
VALIDATION_SPLIT_NAMES = ("validation", "valid", "val", "dev", "test")
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


def read_splits(
    dataset_name: str | None, data_dir: str | os.PathLike | None, config_name: str | None, streaming: bool
) -> tuple[str, dict[str, Any], list[str] | None]:
    """Finds the source. Returns its name, its splits, and the label names where neither labels nor columns tell."""
    if dataset_name is None and data_dir is None:
        raise ValueError('give `dataset_name` ("digits", "fashion-mnist" or a Hub id) or `data_dir` (a folder)')
    if data_dir is not None and dataset_name not in (None, "fashion-mnist"):
        raise ValueError(f"give `dataset_name` or `data_dir`, not both: got {dataset_name!r} and '{data_dir}'")
    if config_name is not None and (data_dir is not None or dataset_name == "digits"):
        raise ValueError(f"`config_name` is {config_name!r} but only datasets of the Hub have configurations")
    if dataset_name == "fashion-mnist" and data_dir is None:
        raise ValueError(
            '`dataset_name="fashion-mnist"` needs `data_dir`, a folder with its four IDX files (train-images-idx3-ubyte'
            "[.gz] and so on). They are in Debian's package dataset-fashion-mnist (apt-get install puts them into "
            "/usr/share/datasets/fashion-mnist) and at https://github.com/zalandoresearch/fashion-mnist; the Hub has "
            'the same images as `dataset_name="zalando-datasets/fashion_mnist"`'
        )
    if data_dir is None and dataset_name != "digits":
        return dataset_name, _load_with_datasets(dataset_name, dataset_name, config_name, streaming), None
    folder = None
    if data_dir is not None:
        folder = Path(data_dir).resolve()
        if not folder.exists():
            raise FileNotFoundError(f"`data_dir` does not exist: '{data_dir}'")
        if not folder.is_dir() or not any(path.is_file() for path in folder.rglob("*")):
            raise ValueError(f"`data_dir` must be a folder with files in it, '{data_dir}' is a file or empty")
    if folder is not None and not any(IDX_FILE.fullmatch(path.name) for path in folder.iterdir()):
        if dataset_name == "fashion-mnist":
            raise ValueError(f"'{data_dir}' holds no IDX files: looked for train-images-idx3-ubyte[.gz] and its like")
        return folder.name, _load_folder(folder, streaming), None
    if streaming:
        raise ValueError(f"'{data_dir or dataset_name}' is read into memory at once: leave `streaming` out")
    if folder is None:
        return "digits", _read_digits(), None
    names = list(FASHION_MNIST_LABELS) if dataset_name == "fashion-mnist" else None
    return dataset_name or folder.name, _read_idx_folder(folder), names


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


def _load_folder(folder: Path, streaming: bool) -> dict[str, Any]:
    import datasets

    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        if streaming:
            raise ValueError(f"'{folder}' was written by save_to_disk and is read as needed: leave `streaming` out")
        try:
            loaded = datasets.load_from_disk(str(folder))
        except (OSError, ValueError, LookupError) as error:
            raise ValueError(f"'{folder}' looks like a save_to_disk folder but cannot be read: {error}") from error
        return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or "train"): loaded}
    if glob.escape(str(folder)) != str(folder):
        raise ValueError(f"`data_dir` '{folder}' has one of the characters * ? [ in it: rename the folder")
    return _load_with_datasets(str(folder), f"folder '{folder}'", None, streaming)


def _load_with_datasets(path: str, name: str, config_name: str | None, streaming: bool) -> dict[str, Any]:
    import datasets

    try:
        return dict(datasets.load_dataset(path, config_name, streaming=streaming))
    except ConnectionError as error:
        raise ValueError(
            f"{name!r} is not a dataset here, and the Hub could not be reached to look for it ({error}). Without the "
            'Hub, give `dataset_name="digits"`, or `data_dir`, a folder of images'
        ) from error
    except datasets.exceptions.DataFilesNotFoundError as error:
        raise ValueError(
            f"{name} holds no data: looked for IDX files (train-images-idx3-ubyte[.gz]), a save_to_disk folder "
            "(dataset_dict.json or state.json), parquet files, and images (train/cat/1.png)"
        ) from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error  # "An error occurred while generating the dataset" tells nothing
        raise ValueError(f"{name} cannot be loaded: {type(cause).__name__}: {cause}") from error


def choose_splits(
    name: str, splits: dict[str, Any], train_split: str, validation_split: str | None, fraction: float, seed: int
) -> list[tuple[str, Any]]:
    """The training and (if any) the validation split, each with the numbers of its rows, None for a stream."""
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
        return [(s, None if streaming else np.arange(len(splits[s]))) for s in (train_split, validation_split)]
    if fraction == 0:
        return [(train_split, None if streaming else np.arange(len(splits[train_split])))]
    if streaming:
        raise ValueError(
            f"{name} has the splits {sorted(splits)} and a stream cannot be divided: pass another `validation_split`, "
            "or `validation_fraction=0` to train without validation, or leave `streaming` out"
        )
    total = len(splits[train_split])
    if total < 2:
        raise ValueError(f"split {train_split!r} of {name} has {total} images: too few to hold some out")
    held_out = min(max(round(total * fraction), 1), total - 1)
    order = np.random.default_rng(seed).permutation(total)
    return [(train_split, np.sort(order[held_out:])), (train_split, np.sort(order[:held_out]))]


# Columns


def find_image_column(name: str, rows: Any, column: str | None) -> tuple[str, datasets.Image | None]:
    """The image column and the feature that decodes it, None for arrays."""
    if isinstance(rows, ArrayRows):
        if column is not None:
            raise ValueError(f"`image_column` is {column!r} but {name} has no columns: leave it out")
        return "image", None
    from datasets import Image as ImageFeature
    from datasets import Value

    features = rows.features
    if features is None:
        raise ValueError(f"the column types of {name} are not known before it is read: leave `streaming` out")

    def holds_files(feature: Any) -> bool:  # an image as parquet writers without `datasets` store it
        return isinstance(feature, dict) and set(feature) == {"bytes", "path"}

    found = [c for c, feature in features.items() if isinstance(feature, ImageFeature) or holds_files(feature)]
    column = _pick_column(name, "image_column", column, features, found, IMAGE_COLUMN_NAMES)
    if column is None:
        raise ValueError(f"{name} has no image column: its columns are {list(features)}; name one by `image_column`")
    feature = features[column]
    if column not in found and feature != Value("binary"):
        raise ValueError(
            f"`image_column` {column!r} of {name} holds no images but {feature}; columns: {list(features)}"
        )
    return column, ImageFeature(mode=getattr(feature, "mode", None))


def find_label_column(name: str, rows: Any, column: str | None) -> str:
    """The label column, whose type is one that [`find_labels`] knows."""
    if isinstance(rows, ArrayRows):
        if column is not None:
            raise ValueError(f"`label_column` is {column!r} but {name} has no columns: leave it out")
        return "label"
    from datasets import ClassLabel, Value

    features = rows.features
    found = [c for c, feature in features.items() if isinstance(feature, ClassLabel)]
    column = _pick_column(name, "label_column", column, features, found, LABEL_COLUMN_NAMES)
    if column is None:
        raise ValueError(
            f"{name} has no label column: its columns are {list(features)}; name one by `label_column`, or pass "
            "`use_labels=False` (`--no_use_labels`) to go without"
        )
    feature = features[column]
    plain = isinstance(feature, Value) and re.fullmatch(r"u?int\d+|bool|(large_)?string", feature.dtype)
    if column not in found and not plain:
        raise ValueError(f"`label_column` {column!r} of {name} must hold class labels, integers or strings: {feature}")
    return column


def _pick_column(
    name: str, argument: str, column: str | None, features: Any, found: list[str], usual: Sequence[str]
) -> str | None:
    """`column` if given; else the only one found by type, or among several (or none) the first with a usual name."""
    if column is not None:
        if column not in features:
            raise ValueError(f"`{argument}` is {column!r} but the columns of {name} are {list(features)}")
        return column
    if len(found) == 1:
        return found[0]
    picked = next((c for c in usual if c in (found or features)), None)
    if picked is None and found:
        raise ValueError(f"{name} has several candidates {found}: name one by `{argument}`")
    return picked


def select_columns(name: str, rows: Any, split: str, columns: list[str], features: Any) -> Any:
    """Leaves only `columns`, and images undecoded: errors can name the image then."""
    from datasets import Image as ImageFeature

    for column in columns:
        if rows.features.get(column) != features[column]:
            raise ValueError(
                f"column {column!r} of {name} is {rows.features.get(column)} in split {split!r}, not {features[column]}"
            )
    return rows.with_format(None).select_columns(columns).cast_column(columns[0], ImageFeature(decode=False))


def find_labels(name: str, rows: Any, column: str, names: list[str] | None) -> tuple[list[str], dict[Any, int]]:
    """The label names and the id of each stored label: ids are stored where names are known, else distinct values."""
    feature = None if isinstance(rows, ArrayRows) else rows.features[column]
    names = getattr(feature, "names", None) or names
    if names is not None:
        return list(names), {label: label for label in range(len(names))}
    if not hasattr(rows, "__len__"):
        raise ValueError(
            f"`label_column` {column!r} of {name} holds plain {feature.dtype} values: their set is unknown until all "
            "is read, so leave `streaming` out, or make it a ClassLabel column, or pass `use_labels=False` (`--no_use_labels`)"
        )
    values = sorted(value for value in set(rows[column][:]) if value not in (None, -1))
    return [str(value) for value in values], {value: label for label, value in enumerate(values)}


def label_tensor(values: list[Any], label_ids: dict[Any, int], split: str, number: int = 0) -> torch.Tensor:
    """Stored labels of the rows from `number` on as label ids, int64."""
    labels = [label_ids.get(value, -1) for value in values]
    if -1 in labels:
        row = labels.index(-1)
        raise ValueError(
            f"row {number + row} of split {split!r} has the label {values[row]!r}, which is none of the "
            f"{len(label_ids)} labels of the training data. Unlabelled or other data? Name another split by "
            "`train_split` or `validation_split`, or pass `use_labels=False` (`--no_use_labels`)"
        )
    return torch.tensor(labels, dtype=torch.int64)
