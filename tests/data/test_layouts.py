# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Folders of images as a person means them: splits, classes, tables, archives; and what cannot be read in one way only is refused."""

from __future__ import annotations

import json
import os
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.images import all_items, png, random_images, write_files, write_imagefolder

from lzn_hf.data import ImageData, load_image_data


def names(*folders: str, each: int = 3) -> list[str]:
    return [f"{folder}/{i}.png" for folder in folders for i in range(each)]


def load(root: Path, **arguments) -> ImageData:
    return load_image_data(data_dir=root, **{"validation_fraction": 0, **arguments})


def labels_of(data: ImageData) -> dict[str, int]:
    return {name: data.train.labels.tolist().count(i) for i, name in enumerate(data.label_names)}


# As `datasets` reads them


@pytest.mark.parametrize(
    "files", [names("cat", "dog-1", "dog"), names("train/b", "train/a", "test/a", "test/b")], ids=["classes", "splits"]
)
def test_plain_layouts_are_what_datasets_reads(tmp_path: Path, files: list[str]):
    import datasets

    write_files(tmp_path, files)
    data = load(tmp_path)
    expected = datasets.load_dataset(str(tmp_path))
    for split, rows in (("train", data.train), ("test", data.validation)):
        if split in expected:
            assert data.label_names == expected[split].features["label"].names
            assert rows.labels.tolist() == expected[split]["label"]
            pixels = torch.stack(
                [torch.tensor(list(image.tobytes())).view(6, 6, 3) for image in expected[split]["image"]]
            )
            assert torch.equal(rows.pixel_values.permute(0, 2, 3, 1), pixels.to(torch.uint8))
    assert (data.validation is None) == ("test" not in expected)


# As `datasets` does not


@pytest.mark.parametrize("test", ["test", "train", "Val", "eval"])
def test_a_class_may_be_called_like_a_split(tmp_path: Path, test: str):
    write_files(tmp_path, [*names("car", "plane", test), "car/test_1.png", "plane/train.png"])
    data = load(tmp_path)
    assert labels_of(data) == {name: 3 + (name in ("car", "plane")) for name in sorted(["car", "plane", test])}
    assert any(f"label {test!r}: called like a split" in note for note in data.summary.unusual)
    assert len(load(tmp_path, use_labels=False).train) == 11


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        ({"training": "train", "testing": "test"}, {"train", "test"}),
        ({"train": "train", "val": "validation", "eval": "test"}, {"train", "validation", "test"}),
        ({"Train": "train", "dev": "validation"}, {"train", "validation"}),
        ({"pets/train": "train", "pets/valid": "validation"}, {"train", "validation"}),
    ],
)
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "classes"])
def test_folders_that_are_all_called_like_splits_are_splits(tmp_path: Path, folders: dict, splits: set, nested: bool):
    write_files(tmp_path, [name for f in folders for name in names(*([f"{f}/cat", f"{f}/dog"] if nested else [f]))])
    data = load(tmp_path, use_labels=nested)
    assert set(data.summary.found) == splits
    assert len(data.train) == len(data.validation) == (6 if nested else 3)
    if nested:
        assert data.label_names == ["cat", "dog"]


def test_the_class_is_the_first_folder_however_deep_the_image_lies(tmp_path: Path):
    write_files(tmp_path, [*names("cat/roll1", "cat/roll2", "dog/roll1/raw"), "dog/9.png"])
    assert labels_of(load(tmp_path)) == {"cat": 6, "dog": 4}
    write_files(tmp_path / "x", names("train/cat/roll1", "train/dog/test", "test/cat", "test/dog/roll7"))
    data = load(tmp_path / "x")
    assert labels_of(data) == {"cat": 3, "dog": 3} and len(data.validation) == 6


ODD_NAMES = [
    "__background__",
    "_x",
    "new\nline",
    "a::b",
    "50%2f50",
    "cat ",
    " cat",
    "cat",
    "[a-z]*",
    "über",
    "x.png",
    "a'b\"c",
    "~",
    "-",
]


@pytest.mark.parametrize("streaming", [False, True])
def test_classes_of_any_name_are_used(tmp_path: Path, streaming: bool):
    write_files(tmp_path, names(*ODD_NAMES))
    data = load(tmp_path, streaming=streaming)
    assert data.label_names == sorted(ODD_NAMES)
    assert all_items(data.train)["labels"].bincount().tolist() == [3] * len(ODD_NAMES)
    assert sum("spaces at an end, or characters that do not print" in note for note in data.summary.unusual) == 3


def test_hidden_files_and_what_is_no_image_are_left_out_and_listed(tmp_path: Path):
    write_files(tmp_path, names("cat", "dog"))
    expected = load(tmp_path)
    hidden = [
        "cat/.DS_Store",
        "cat/._0.png",
        ".git/x",
        "cat/.ipynb_checkpoints/0-checkpoint.png",
        "__MACOSX/cat/._1.png",
    ]
    others = [
        "README.md",
        "cat/Thumbs.db",
        "test.csv",
        "train.json",
        "dog/labels.txt",
        "train-images.tar",
        "docs/notes.txt",
        "x.xyz",
    ]
    write_files(tmp_path, [*hidden, *others])
    with zipfile.ZipFile(tmp_path / "backup.zip", "w") as archive:
        archive.writestr("bird/0.png", png(random_images(1)[0]))
    data = load(tmp_path)
    assert torch.equal(data.train.pixel_values, expected.train.pixel_values) and data.label_names == ["cat", "dog"]
    left_out = data.summary.left_out
    assert (
        left_out["not images"] == {"count": 8, "first": left_out["not images"]["first"]}
        and len(left_out["not images"]["first"]) == 5
    )
    assert set(left_out["hidden files and folders"]["first"]) == {
        "cat/.DS_Store",
        "cat/._0.png",
        ".git/",
        "cat/.ipynb_checkpoints/",
        "__MACOSX/",
    }
    assert left_out["archives beside images"]["first"] == ["backup.zip"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path):
    write_files(tmp_path / "elsewhere", names("cats"))
    write_files(tmp_path / "data", names("dog"))
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere" / "cats")
    (tmp_path / "data" / "dog" / "loop").symlink_to(tmp_path / "data")
    assert labels_of(load(tmp_path / "data")) == {"cat": 3, "dog": 3}
    os.mkfifo(tmp_path / "data" / "dog" / "pipe.png")
    assert load(tmp_path / "data").summary.left_out["not regular files"]["first"] == ["dog/pipe.png"]
    (tmp_path / "data" / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"dog/gone.png'\) is not there: no such file"):
        load(tmp_path / "data")


def test_two_forms_of_one_name_are_one_label(tmp_path: Path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write_files(tmp_path, names(composed, "dog"))
    for i in range(2):
        (tmp_path / decomposed).mkdir(exist_ok=True)
        (tmp_path / decomposed / f"{i}.png").write_bytes(png(random_images(1, 50 + i)[0]))
    data = load(tmp_path)
    assert labels_of(data) == {composed: 5, "dog": 3}
    assert any("2 folders whose names are the same" in note for note in data.summary.unusual)


def test_numbers_are_in_the_order_of_numbers(tmp_path: Path):
    write_files(tmp_path / "a", names(*map(str, range(12)), each=1))
    assert load(tmp_path / "a").label_names == [str(i) for i in range(12)]
    assert load(tmp_path / "a").train.labels.tolist() == [int(name) for name in sorted(map(str, range(12)))]
    write_files(tmp_path / "b", names("10", "9", "x", each=1))
    assert load(tmp_path / "b").label_names == ["10", "9", "x"]


# Tables


def write_table(root: Path, rows: list[dict], suffix: str = ".csv", folder: str = ".") -> Path:
    path = root / folder / f"metadata{suffix}"
    if suffix == ".csv":
        columns = list(rows[0])
        path.write_text(
            "\n".join([",".join(columns), *(",".join(str(row[c]) for c in columns) for row in rows)]) + "\n"
        )
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return root


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_has_the_labels_of_images_beside_it(tmp_path: Path, suffix: str):
    write_files(tmp_path, [f"{i}.png" for i in range(12)])
    write_table(tmp_path, [{"file_name": f"{i}.png", "label": i % 11, "by": "ann"} for i in range(12)], suffix)
    data = load(tmp_path)
    assert data.label_names == [str(i) for i in range(11)]
    assert data.train.labels.tolist() == [int(Path(n).stem) % 11 for n in sorted(f"{i}.png" for i in range(12))]
    assert data.summary.columns == ["label", "by"] and "column 'label' of 'metadata" in data.summary.labels_from
    assert load(tmp_path, label_column="by").label_names == ["ann"]


def test_tables_of_splits_and_in_folders_below(tmp_path: Path):
    write_files(tmp_path, [*names("train/images", "test")])
    write_table(tmp_path, [{"file_name": f"images/{i}.png", "label": "ab"[i % 2]} for i in range(3)], folder="train")
    write_table(tmp_path, [{"file_name": f"{i}.png", "label": "b"} for i in range(3)], folder="test")
    data = load(tmp_path, label_column="label")
    assert data.train.labels.tolist() == [0, 1, 0] and data.validation.labels.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], r"1 images are not in its table: '5.png'"),
        (lambda rows: [*rows, {"file_name": "6.png", "label": 1}], r"1 files of its table are not there, .*: '6.png'"),
        (lambda rows: [*rows[:-1], {"file_name": "5.png", "label": ""}], r"1 images have no label: '5.png'"),
        (lambda rows: [*rows, rows[0]], r"row 6 of the table .* is the second one for the image '0.png'"),
        (lambda rows: [*rows[:-1], {"file_name": "", "label": 1}], r"row 5 of the table .* has no file_name"),
        (lambda rows: [{"file_name": row["file_name"], "kind": 1} for row in rows], r"no class folders: its tables have the columns \['kind'\]"),
        (lambda rows: [{**row, "target": 1} for row in rows], r"several candidates for the labels: 'label', 'target'.*`label_column`"),
    ],
    ids=["image missing", "file missing", "empty label", "twice", "no name", "no label column", "two label columns"],
)  # fmt: skip
def test_bad_tables(tmp_path: Path, change: Callable, message: str):
    write_files(tmp_path, [f"{i}.png" for i in range(6)])
    write_table(tmp_path, change([{"file_name": f"{i}.png", "label": i % 2} for i in range(6)]))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load(tmp_path)
    assert len(load(tmp_path, use_labels=False).train) == 6 or "second" in message or "no file_name" in message


def test_class_folders_beside_a_table(tmp_path: Path):
    write_files(tmp_path, names("cat", "dog"))
    write_table(tmp_path, [{"file_name": n, "photographer": "ann"} for n in names("cat", "dog")])
    data = load(tmp_path)
    assert labels_of(data) == {"cat": 3, "dog": 3}
    assert any(
        "tables beside the class folders are not read: columns ['photographer']" in note
        for note in data.summary.unusual
    )
    write_table(tmp_path, [{"file_name": n, "label": f"L{n[-5]}"} for n in names("cat", "dog")])
    with pytest.raises(ValueError, match=r"several candidates for the labels: 'folder', 'label'.*`label_column`"):
        load(tmp_path)
    assert load(tmp_path, label_column="folder").label_names == ["cat", "dog"]
    assert load(tmp_path, label_column="label").label_names == ["L0", "L1", "L2"]
    with pytest.raises(ValueError, match=r"`label_column` is 'nose'"):
        load(tmp_path, label_column="nose")


# Archives


def write_zip(path: Path, files: list[str], prefix: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(files):
            archive.writestr(prefix + name, png(random_images(1, number)[0]))
        archive.writestr("__MACOSX/._x.png", b"x")
    return path


@pytest.mark.parametrize("prefix", ["", "data/"], ids=["bare", "in a folder of its name"])
def test_a_zip_is_read_like_the_folder_in_it(tmp_path: Path, prefix: str):
    expected = load(write_files(tmp_path / "plain", names("cat", "dog")))
    path = write_zip(tmp_path / "zip" / "data.zip", names("cat", "dog"), prefix)
    for data_dir in (path, path.parent):
        data = load(data_dir)
        assert data.label_names == ["cat", "dog"] and "(zip archive)" in data.summary.source
        assert torch.equal(data.train.pixel_values, expected.train.pixel_values)
        assert torch.equal(data.train.labels, expected.train.labels)
    stored = load(path, cache_limit_bytes=0)
    workers = torch.utils.data.DataLoader(stored.train, batch_size=2, num_workers=2)
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in workers]), expected.train.pixel_values)
    with pytest.raises(ValueError, match=r"data.zip' cannot be streamed: unpack it"):
        load(path, streaming=True)


def test_zips_are_folders_of_their_names(tmp_path: Path):
    write_zip(tmp_path / "train.zip", names("cat", "dog"))
    write_zip(tmp_path / "test.zip", names("cat", "dog", each=1))
    data = load(tmp_path)
    assert (len(data.train), len(data.validation)) == (6, 2) and data.label_names == ["cat", "dog"]


def test_bad_zips(tmp_path: Path):
    (tmp_path / "data.zip").write_bytes(b"PK\3\4 no")
    with pytest.raises(ValueError, match=r"the archive '.*data.zip' cannot be read"):
        load(tmp_path)
    content = write_zip(tmp_path / "data.zip", names("cat", "dog")).read_bytes()
    central = content.index(b"PK\1\2")
    (tmp_path / "data.zip").write_bytes(content[: central + 8] + b"\1" + content[central + 9 :])
    with pytest.raises(ValueError, match=r"data.zip' needs a password"):
        load(tmp_path)


# What can be read in two ways, or in none


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([*names("train/cat", "train/dog", "test/cat", "unlabeled")], r"read in two ways: .*'test', 'train'.*'unlabeled'"),
        ([*names("train/cat", "train/dog", "cars")], r"read in two ways: .*'train'.*'cars'"),
        ([*names("train/cat", "test/cat"), "x.png"], r"'test', 'train'.* are splits, but these images .*: 'x.png'"),
        ([*names("val/cat", "dev/cat", "train/cat")], r"several folders of the split 'validation': 'dev', 'val'"),
        ([*names("cat", "dog"), "x.png"], r"lie beside the class folders and belong to none: 'x.png'"),
        (["0.png", "1.png"], r"no label column, and no class folders: put the images of each label into a folder"),
        (names("train", "test"), r"no label column, and no class folders"),
        (names("cat"), r"one class folder only, 'cat'"),
        (names("pets/cat", "pets/dog"), r"one class folder only, 'pets'.*folders in it \('cat', 'dog'\)"),
        ([*names("cat", "dog", ".bird")], r"the folder '.bird' in .* holds images"),
        ([*names("train/cat", "train/dog", "test")], r"split 'test' of .* are in no class folders.*`validation_split`"),
    ],
)  # fmt: skip
def test_layouts_that_are_refused(tmp_path: Path, files: list[str], message: str):
    write_files(tmp_path, files)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_a_split_without_labels_may_be_there(tmp_path: Path):
    write_files(tmp_path, names("train/cat", "train/dog", "test"))
    data = load(tmp_path, validation_split="train", validation_fraction=0.5)
    assert (len(data.train), len(data.validation)) == (3, 3) and data.summary.found == {"train": 6, "test": 3}
    with pytest.raises(ValueError, match=r"row 0 of split 'test' has the label None"):
        all_items(load(tmp_path, streaming=True).validation)


def test_images_beside_parquet_files_with_images_are_refused(tmp_path: Path):
    from helpers.images import write_parquet

    write_files(tmp_path, names("cat", "dog"))
    write_parquet(tmp_path, {"score": [1.0]}, "scores.parquet")
    assert labels_of(load(tmp_path)) == {"cat": 3, "dog": 3}
    write_parquet(tmp_path, {"image": [{"bytes": b"x", "path": None}]}, "images.parquet")
    with pytest.raises(ValueError, match=r"holds 6 image files \('cat/0.png'\) and the parquet file 'images.parquet'"):
        load(tmp_path)


def test_a_class_that_only_validation_has_is_noted(tmp_path: Path):
    write_files(write_imagefolder(tmp_path), names("test/eel"))
    data = load(tmp_path)
    assert data.label_names == ["cat", "dog", "eel"]
    assert "label 'eel' has no image to train on" in data.summary.unusual
