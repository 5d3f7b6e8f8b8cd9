# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the folders of images mean: splits, classes and tables of labels. See [`read_image_folder`] for the rules."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .columns import LABEL_COLUMN_NAMES, NoLabelsError, sort_labels
from .folders import FolderTree, ImageFile


SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
FOLDER_LABELS = "folder"  # as `label_column`: labels are the names of the class folders


@dataclass
class FileRows:
    """Image files and their labels, read like the rows and columns of a `datasets.Dataset`."""

    files: list[ImageFile]
    labels: list[str] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: int | str) -> Any:
        return {"image": self.files[key]} if isinstance(key, int) else self.labels

    def as_stream(self) -> Any:
        """Returns the rows as a `datasets.IterableDataset`.

        Raises:
            ValueError: for files of an archive.
        """
        import datasets

        packed = next((file for file in self.files if file.member is not None), None)
        if packed is not None:
            raise ValueError(f"the archive '{packed.path}' cannot be streamed: unpack it, or leave `streaming` out")
        files = [{"bytes": None, "path": str(file)} for file in self.files]
        columns: dict[str, list] = {"image": files, "label": self.labels or [None] * len(files)}
        features = {"image": datasets.Image(decode=False), "label": datasets.Value("string")}
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_iterable_dataset()


@dataclass
class ImageFolder:
    """What [`read_image_folder`] found.

    Args:
        splits (`dict[str, FileRows]`): the images of each split; `labels` is None where there are none or none are wanted.
        depth (`int`): the number of folders of a name that are no class: 0, or 1 for that of the split, or 2 with one around it.
        label_names (`list[str]`, *optional*): all labels, in order.
        labels_from (`str`): where the labels come from.
        columns (`list[str]`): columns of the tables, without that of the file names.
        unusual (`list[str]`): what the reader of a summary should know.
    """

    splits: dict[str, FileRows]
    depth: int = 0
    label_names: list[str] | None = None
    labels_from: str = "none"
    columns: list[str] = field(default_factory=list)
    unusual: list[str] = field(default_factory=list)


def read_image_folder(tree: FolderTree, use_labels: bool, label_column: str | None) -> ImageFolder:
    """Decides on the split and the label of every image.

    1. Splits. Where the images lie in folders that are all called like splits (train, training; validation, valid, val, dev; test,
       testing, eval, evaluation), these are the splits. A single folder around such folders is looked into. Otherwise everything is the
       split "train", and a folder called `test` beside `car` and `plane` is a class. Names of files mean nothing.
    2. Labels are the names of the first folders below the root or the split: `cat/roll1/1.png` is a `cat`.
    3. A table `metadata.csv`, `.jsonl` or `.parquet` with a column `file_name` (relative to the table's folder) has the labels where
       there are no class folders. It must then have a row with a label for every image and an image for every row.
    4. With class folders and a table with labels, `label_column` decides: the name of a column, or "folder" for the class folders.

    Names are compared in Unicode's form NFC. Labels that are all whole numbers are in the order of these, others in that of strings.

    Args:
        tree (`FolderTree`): the files.
        use_labels (`bool`): whether labels are wanted.
        label_column (`str`, *optional*): see 4.

    Returns:
        [`ImageFolder`].

    Raises:
        NoLabelsError: if labels are wanted, and there are neither class folders (two at least) nor tables with labels.
        ValueError: for whatever can be read in two ways, and for images that these rules give no label, all by name.
    """
    folder = _find_splits(tree)
    if not use_labels:
        return folder
    classes = any(len(file.parts) > folder.depth + 1 for file in tree.images)
    tables = _read_tables(tree)
    folder.columns = columns = list(dict.fromkeys(column for row in tables.values() for column in row))
    candidates = [FOLDER_LABELS] * classes + [column for column in columns if column in LABEL_COLUMN_NAMES]
    if label_column is None and len(candidates) > 1:
        raise ValueError(
            f"'{tree.root}' has several candidates for the labels: {_some(candidates)}, where {FOLDER_LABELS!r} is the name of the class "
            "folder and all others are columns of its tables. Choose one by `label_column`"
        )
    if label_column is None and candidates:
        label_column = candidates[0]
    if label_column is None or label_column not in {*candidates, *columns}:
        hint = f"its tables have the columns {columns}: name one by `label_column`" if columns else (
            "put the images of each label into a folder of its own, or list them in a metadata.csv with the columns file_name and label"
        )  # fmt: skip
        problem = f"but `label_column` is {label_column!r}" if label_column else "and no class folders"
        hint = f"it has class folders (`label_column` {FOLDER_LABELS!r})" if label_column and classes else hint
        problem = f"'{tree.root}' has no label column, {problem}: {hint}, or go without labels"
        raise NoLabelsError(problem, columns) if label_column is None else ValueError(problem)
    if label_column == FOLDER_LABELS and classes:
        _label_by_folder(folder, tree)
    else:
        _label_by_table(folder, tree, tables, label_column)
    names = {label for rows in folder.splits.values() for label in rows.labels or ()}
    folder.label_names = sort_labels(names)
    return folder


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _some(names: Iterable[str]) -> str:
    """At most five names for a message."""
    names = list(names)
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# Splits


def _find_splits(tree: FolderTree) -> ImageFolder:
    depth = _depth_of_splits(tree.images)
    beside = [file.name for file in tree.images if len(file.parts) <= depth]
    top: dict[str, list[ImageFile]] = {}
    for file in tree.images:
        if len(file.parts) > depth:
            top.setdefault(file.parts[depth - 1], []).append(file)
    named = [name for name in top if name.lower() in SPLIT_FOLDERS]
    others = [name for name in top if name not in named]
    if named and not others:
        if beside:
            raise ValueError(
                f"the folders {_some(named)} in '{tree.root}' are splits, but these images beside them belong to none: {_some(beside)}"
            )
        splits: dict[str, FileRows] = {}
        for name in named:
            split = SPLIT_FOLDERS[name.lower()]
            if split in splits:
                same = [other for other in named if SPLIT_FOLDERS[other.lower()] == split]
                raise ValueError(f"'{tree.root}' has several folders of the split {split!r}: {_some(same)}. Keep one")
            splits[split] = FileRows(top[name])
        return ImageFolder(splits, depth)
    nested = [name for name in named if all(len(file.parts) > 2 for file in top[name])]
    flat_beside = any(len(file.parts) == 2 for name in others for file in top[name])
    if nested and (flat_beside or len(nested) > 1):
        raise ValueError(
            f"'{tree.root}' can be read in two ways: the folders {_some(nested)} are called like splits and hold folders, but beside them "
            f"are {_some(others)}. Move the latter away if the former are splits, rename the former if all of them are classes"
        )
    return ImageFolder({"train": FileRows(tree.images)})


def _depth_of_splits(images: list[ImageFile]) -> int:
    """How deep the folders of splits would be: 1, or 2 where one folder holds nothing but folders that are called like splits."""
    first = {file.parts[0] for file in images}
    second = {file.parts[1].lower() if len(file.parts) > 2 else "" for file in images}
    is_wrapped = (
        len(first) == 1 and second <= set(SPLIT_FOLDERS) and not {n.lower() for n in first} & set(SPLIT_FOLDERS)
    )
    return 2 if is_wrapped else 1


# Labels


def _label_by_folder(folder: ImageFolder, tree: FolderTree) -> None:
    spellings: dict[str, set[str]] = {}
    for rows in folder.splits.values():
        without = [file.name for file in rows.files if len(file.parts) == folder.depth + 1]
        if len(without) == len(rows):
            continue  # a split without labels, which is an error only where it is asked for
        if without:
            raise ValueError(
                f"these images in '{tree.root}' lie beside the class folders and belong to none: {_some(without)}"
            )
        spelled = [file.parts[folder.depth] for file in rows.files]
        rows.labels = [_nfc(name) for name in spelled]
        for label, name in zip(rows.labels, spelled, strict=True):
            spellings.setdefault(label, set()).add(name)
    if len(spellings) == 1:
        _refuse_single_class(folder, tree, *spellings)
    folder.labels_from = "class folders"
    for label, names in spellings.items():
        if len(names) > 1:
            folder.unusual.append(
                f"label {label!r}: {len(names)} folders whose names are the same in Unicode's form NFC"
            )
        if not _is_utf8(label):
            raise ValueError(f"the name of the class folder {label!a} in '{tree.root}' is not valid UTF-8: rename it")
        if label != label.strip() or not label.isprintable():
            folder.unusual.append(f"label {label!r}: spaces at an end, or characters that do not print")
        if label.lower() in SPLIT_FOLDERS:
            folder.unusual.append(
                f"label {label!r}: called like a split, but a class, as there are other folders beside it"
            )
    if folder.columns:
        folder.unusual.append(f"tables beside the class folders are not read: columns {folder.columns}")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_single_class(folder: ImageFolder, tree: FolderTree, label: str) -> None:
    below = {file.parts[folder.depth + 1] for file in tree.images if len(file.parts) > folder.depth + 2}
    hint = (
        f". If the labels are the folders in it ({_some(sorted(below))}), pass the folder that holds them"
        if below
        else ""
    )
    raise NoLabelsError(
        f"'{tree.root}' has one class folder only, {label!r}, so labels tell nothing: add others, or go without labels{hint}"
    )


# Tables


def _read_tables(tree: FolderTree) -> dict[str, dict[str, Any]]:
    """The rows of all tables with a column `file_name`, without it, by the NFC form of the name of the file below the root."""
    rows: dict[str, dict[str, Any]] = {}
    for table in tree.tables:
        try:
            read = _read_table(table)
        except (ValueError, OSError, csv.Error) as error:
            raise ValueError(f"the table '{table}' cannot be read: {error}") from error
        if read and not any("file_name" in row for row in read):
            tree.leave_out("tables without a column file_name", table.name)
            continue
        for number, row in enumerate(read):
            if None in row or not row.get("file_name"):
                raise ValueError(f"row {number} of the table '{table}' has no file_name, or too many values: {row}")
            name = posixpath.join(posixpath.dirname(table.name), str(row.pop("file_name")).replace("\\", "/"))
            name = _nfc(posixpath.normpath(name))
            if name in rows:
                raise ValueError(f"row {number} of the table '{table}' is the second one for the image {name!r}")
            rows[name] = row
    return rows


def _read_table(table: ImageFile) -> list[dict[str, Any]]:
    content = table.read()
    suffix = Path(table.name).suffix.lower()
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
        except pyarrow.ArrowException as error:
            raise ValueError(str(error)) from error
    text = content.decode("utf-8-sig")
    if suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no JSON object")
    return rows


def _label_by_table(folder: ImageFolder, tree: FolderTree, tables: dict[str, dict[str, Any]], column: str) -> None:
    names = {_nfc(file.name) for file in tree.images}
    for problem, wrong in (
        ("images are not in its table", [name for name in sorted(names) if name not in tables]),
        ("files of its table are not there, or are no images", [name for name in tables if name not in names]),
        (f"images have no {column}", [name for name, row in tables.items() if row.get(column) in (None, "")]),
    ):
        if wrong:
            raise ValueError(f"'{tree.root}': {len(wrong)} {problem}: {_some(wrong)}")
    wrong_types = {type(row[column]).__name__ for row in tables.values()} - {"str", "int", "bool"}
    if wrong_types:
        raise ValueError(
            f"`label_column` {column!r} of '{tree.root}' must hold strings or integers, got {sorted(wrong_types)}"
        )
    for rows in folder.splits.values():
        rows.labels = [_nfc(str(tables[_nfc(file.name)][column])) for file in rows.files]
    folder.labels_from = f"column {column!r} of {_some(table.name for table in tree.tables)}"
