# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Which columns of a dataset hold the images and the labels, and which label every row has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor


if TYPE_CHECKING:
    import datasets

IMAGE_COLUMN_NAMES = ("image", "img", "images", "pixel_values")
LABEL_COLUMN_NAMES = ("label", "labels", "fine_label", "class", "category", "target")
CAPTION_COLUMN_NAMES = ("text", "caption", "captions")


class NoLabelsError(ValueError):
    """Labels are wanted, but the data has none. It can be read without, or another of its columns be named."""

    def __init__(self, message: str, columns: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.columns = list(columns)


def find_image_column(name: str, features: Any, column: str | None) -> tuple[str, datasets.Image]:
    """Finds the column of the images: the one that is asked for, or the only one of its type, or one with a usual name.

    Args:
        name (`str`): the source, for messages.
        features (`datasets.Features`): its columns.
        column (`str`, *optional*): the column that is asked for.

    Returns:
        `tuple[str, datasets.Image]`: the column and the feature that decodes it.

    Raises:
        ValueError: if there is none, or several, or it holds no images.
    """
    from datasets import Image as ImageFeature
    from datasets import Value

    if features is None:
        raise ValueError(f"the column types of {name} are not known before it is read: leave `streaming` out")

    def holds_files(feature: Any) -> bool:  # an image as parquet writers without `datasets` store it
        return isinstance(feature, dict) and set(feature) == {"bytes", "path"}

    found = [c for c, feature in features.items() if isinstance(feature, ImageFeature) or holds_files(feature)]
    if column is None:
        column = _pick(name, "image_column", found, [c for c in found or features if c in IMAGE_COLUMN_NAMES])
    if column is None:
        raise ValueError(f"{name} has no image column: its columns are {list(features)}; name one by `image_column`")
    feature = _feature(name, "image_column", column, features)
    if column not in found and feature != Value("binary"):
        raise ValueError(
            f"`image_column` {column!r} of {name} holds no images but {feature}; columns: {list(features)}"
        )
    return column, ImageFeature(mode=getattr(feature, "mode", None))


def find_label_column(name: str, features: Any, column: str | None) -> str:
    """Finds the column of the labels: the one that is asked for, or the only candidate.

    Candidates are columns of class labels, and columns of integers or strings with a usual name. Where one column of class labels
    has a usual name, it wins.

    Args:
        name, features, column: as in [`find_image_column`].

    Raises:
        NoLabelsError: if there is none.
        ValueError: if there are several, or it holds neither class labels nor integers nor strings.
    """
    from datasets import ClassLabel

    def is_plain(feature: Any) -> bool:
        return bool(re.fullmatch(r"u?int\d+|bool|(large_)?string", getattr(feature, "dtype", "")))

    typed = [c for c, feature in features.items() if isinstance(feature, ClassLabel)]
    if column is None:
        usual = [c for c in features if c in LABEL_COLUMN_NAMES]
        found = [c for c in features if c in typed or (c in usual and is_plain(features[c]))]
        column = _pick(name, "label_column", found or usual, [c for c in typed if c in usual])
    if column is None:
        raise NoLabelsError(
            f"{name} has no label column: its columns are {list(features)}; name one by `label_column`, or go without labels",
            list(features),
        )
    feature = _feature(name, "label_column", column, features)
    if column not in typed and not is_plain(feature) and not _holds_strings(feature):
        raise ValueError(f"`label_column` {column!r} of {name} must hold class labels, integers or strings: {feature}")
    return column


def _holds_strings(feature: Any) -> bool:
    """Whether a feature is of lists of strings, as several captions of an image are."""
    return getattr(getattr(feature, "feature", None), "dtype", None) == "string"


def _as_label(value: Any) -> Any:
    """A stored label as it is compared: of several strings, the lines."""
    return "\n".join(value) if isinstance(value, list) else value


def _pick(name: str, argument: str, found: Sequence[str], usual: Sequence[str]) -> str | None:
    """The only one of `found`, or else the only one of `usual`; None where nothing is found at all."""
    for candidates in (found, usual):
        if len(candidates) == 1:
            return candidates[0]
    if found:
        raise ValueError(f"{name} has several candidates {list(found)}: name one by `{argument}`")
    if usual:
        raise ValueError(f"{name} has several candidates {list(usual)}: name one by `{argument}`")
    return None


def _feature(name: str, argument: str, column: str, features: Any) -> Any:
    if column not in features:
        raise ValueError(f"`{argument}` is {column!r} but the columns of {name} are {list(features)}")
    return features[column]


def select_columns(name: str, rows: Any, split: str, columns: list[str], features: Any) -> Any:
    """Leaves only `columns`, and images undecoded, so that errors can name the image.

    Args:
        name (`str`): the source, for messages.
        rows (`datasets.Dataset` or `datasets.IterableDataset`): a split.
        split (`str`): its name.
        columns (`list[str]`): the columns to keep, that of the images first.
        features (`datasets.Features`): the types they must have.

    Raises:
        ValueError: if a column is of another type in this split than in `features`.
    """
    from datasets import Image as ImageFeature

    for column in columns:
        if rows.features.get(column) != features[column]:
            raise ValueError(
                f"column {column!r} of {name} is {rows.features.get(column)} in split {split!r}, not {features[column]}"
            )
    return rows.with_format(None).select_columns(columns).cast_column(columns[0], ImageFeature(decode=False))


# Labels


def sort_labels(names: Iterable[str]) -> list[str]:
    """Sorts labels: as numbers if all are whole numbers ("2" before "10"), else as strings."""
    names = list(names)
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def find_labels(name: str, rows: Any, column: str, feature: Any) -> tuple[list[str], dict[Any, int]]:
    """Finds the label names, and the id of each stored label: stored ids where names are known, else distinct values.

    Args:
        name (`str`): the source, for messages.
        rows: the training split.
        column (`str`): the column of the labels.
        feature (*optional*): its type; `None` for arrays, which hold ids.

    Raises:
        NoLabelsError: for a stream whose labels have no names.
    """
    names = getattr(feature, "names", None)
    if names is not None:
        return list(names), {label: label for label in range(len(names))}
    if not hasattr(rows, "__len__"):
        raise NoLabelsError(
            f"`label_column` {column!r} of {name} holds plain {feature.dtype} values: their set is unknown until all "
            "is read, so leave `streaming` out, or make it a ClassLabel column, or go without labels"
        )
    values = {
        str(value): value for value in {_as_label(value) for value in rows[column][:]} if value not in (None, -1)
    }
    names = sort_labels(values)
    return names, {values[label]: number for number, label in enumerate(names)}


def label_tensor(values: Sequence[Any], label_ids: dict[Any, int], split: str, number: int = 0) -> Tensor:
    """Converts stored labels of the rows from `number` on to label ids, int64.

    Raises:
        ValueError: for a label that the training data does not have, naming the row.
    """
    labels = [label_ids.get(_as_label(value), -1) for value in values]
    if -1 in labels:
        row = labels.index(-1)
        raise ValueError(
            f"row {number + row} of split {split!r} has the label {values[row]!r}, which is none of the "
            f"{len(label_ids)} labels of the training data. Unlabelled or other data? Name another split by "
            "`train_split` or `validation_split`, or go without labels"
        )
    return torch.tensor(labels, dtype=torch.int64)
