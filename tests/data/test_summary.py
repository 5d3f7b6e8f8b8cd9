# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What a run says about its data: copies of images, images that cannot be read, and the summary itself."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.images import all_items, as_set, png, random_images, write_files, write_imagefolder, write_parquet
from PIL import Image

from lzn_hf.data import load_image_data
from lzn_hf.data.copies import cut, file_keys, pixel_keys
from lzn_hf.data.folders import ImageFile


# Copies


def test_the_cut_is_as_it_was_where_there_are_no_copies():
    train, held_out = cut(100, 0.25, 3, list(range(100)))
    order = np.random.default_rng(3).permutation(100)
    assert held_out.tolist() == sorted(order[:25]) and train.tolist() == sorted(order[25:])
    assert all(np.array_equal(a, b) for a, b in zip(cut(100, 0.25, 3), (train, held_out), strict=True))
    assert len(cut(3, 0.001, 0)[1]) == 1 and len(cut(3, 0.999, 0)[0]) == 1


def test_copies_are_on_one_side_of_a_cut():
    keys = [i // 3 for i in range(90)]
    train, held_out = cut(90, 0.2, 0, keys)
    assert not {keys[i] for i in train} & {keys[i] for i in held_out}
    assert len(held_out) == 18 and sorted([*train, *held_out]) == list(range(90))
    with pytest.raises(ValueError, match="all 10 images are copies of so few"):
        cut(10, 0.1, 0, [0] * 10)


def test_keys_tell_copies_from_others(tmp_path: Path):
    pixels = torch.from_numpy(random_images(3))
    keys = pixel_keys(pixels[[0, 1, 0, 2]])
    assert keys[0] == keys[2] and len(set(keys)) == 3
    contents = [b"a" * 70_000, b"a" * 69_999 + b"b", b"a" * 70_000, b"b" * 70_000, b"a", b"a"]
    files = [ImageFile(str(i), tmp_path / str(i)) for i in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.path.write_bytes(content)
    keys = file_keys(files)
    assert keys[0] == keys[2] and keys[4] == keys[5] and len(set(keys)) == 4


@pytest.mark.parametrize("limit", [2**30, 0], ids=["memory", "disk"])
def test_the_same_image_is_never_in_training_and_in_validation(tmp_path: Path, limit: int):
    for c in ("cat", "dog"):
        for i, image in enumerate(random_images(10, ord(c[0]))):
            for copy in range(3):
                path = tmp_path / c / f"{i}-{copy}.png"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(png(image))
    data = load_image_data(data_dir=tmp_path, validation_fraction=0.3, cache_limit_bytes=limit)
    train, validation = as_set(all_items(data.train)), as_set(all_items(data.validation))
    assert len(data.train) == 42 and len(data.validation) == 18
    assert not train & validation and len(train) + len(validation) == 20
    assert "40 images of split 'train' are copies of others in it" in data.summary.unusual


@pytest.mark.parametrize("limit", [2**30, 0], ids=["memory", "disk"])
def test_copies_in_a_split_that_the_data_came_with_are_counted_with_a_warning(tmp_path: Path, caplog, limit: int):
    write_imagefolder(tmp_path)
    shutil.copy(tmp_path / "train" / "cat" / "2.png", tmp_path / "test" / "dog" / "x.png")
    data = load_image_data(data_dir=tmp_path, cache_limit_bytes=limit)
    assert len(data.validation) == 9
    (note,) = [note for note in data.summary.unusual if "are in split" in note]
    assert (
        note.startswith("1 images of split 'test' are in split 'train', too: image 8 of split 'test'")
        and "dog/x.png" in note
    )
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"{note}. Results on them say nothing about new images"
    ]


def test_the_digits_have_no_copies():
    assert load_image_data("digits").summary.unusual == []


# Images that cannot be read


def write_damaged(root: Path) -> Path:
    write_files(root, [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(6)])
    (root / "cat" / "0.png").write_bytes(b"hello")
    (root / "dog" / "3.png").write_bytes(png(random_images(1)[0])[:-40])
    Image.new("F", (6, 6)).save(root / "dog" / "y.tif")
    return root


@pytest.mark.parametrize("limit", [2**30, 0], ids=["memory", "disk"])
def test_bad_images_are_left_out_by_request_counted_and_named(tmp_path: Path, limit: int):
    write_damaged(tmp_path)
    with pytest.raises(ValueError, match=r"image 0 of split 'train' \('.*cat/0.png'\) cannot be read"):
        load_image_data(data_dir=tmp_path, validation_fraction=0)
    data = load_image_data(data_dir=tmp_path, validation_fraction=0, skip_bad_images=True, cache_limit_bytes=limit)
    items = all_items(data.train)
    assert items["labels"].tolist() == [0] * 5 + [1] * 5
    left_out = data.summary.left_out["images that cannot be read, of split 'train'"]
    assert left_out["count"] == 3 and all(
        name in left_out["first"][i] for i, name in enumerate(("cat/0.png", "dog/3.png", "dog/y.tif"))
    )
    assert data.summary.found == {"train": 13} and data.summary.used == {"train": 10}
    assert data.summary.labels == {"cat": {"train": 5}, "dog": {"train": 5}}
    cut_data = load_image_data(
        data_dir=tmp_path, validation_fraction=0.3, skip_bad_images=True, cache_limit_bytes=limit
    )
    both = as_set(all_items(cut_data.train)) | as_set(all_items(cut_data.validation))
    assert both == as_set(items) and len(cut_data.validation) == 3


def test_bad_images_of_a_stream_are_left_out_as_they_come(tmp_path: Path, caplog):
    data = load_image_data(
        data_dir=write_damaged(tmp_path), validation_fraction=0, streaming=True, skip_bad_images=True
    )
    assert len(all_items(data.train)["labels"]) == 10
    assert sum("Left out: image" in r.getMessage() for r in caplog.records) == 3


def test_a_split_without_a_single_good_image(tmp_path: Path):
    write_files(tmp_path, ["cat/0.png", "dog/0.png"])
    for c in ("cat", "dog"):
        (tmp_path / c / "0.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"has no image that can be read"):
        load_image_data(data_dir=tmp_path, validation_fraction=0, skip_bad_images=True)


# The summary


def test_the_summary_of_a_folder(tmp_path: Path):
    write_imagefolder(tmp_path / "pets", splits=("train",), each=10)
    (tmp_path / "pets" / "notes.txt").write_text("x")
    Image.fromarray(random_images(1, 5, (9, 12))[0]).save(tmp_path / "pets" / "train" / "cat" / "wide.png")
    data = load_image_data(data_dir=tmp_path / "pets", image_size=6, num_channels=3, validation_fraction=1 / 7)
    summary = data.summary
    assert summary.to_dict() == json.loads(json.dumps(summary.to_dict()))
    counts = [data.train.labels.bincount().tolist(), data.validation.labels.bincount().tolist()]
    assert summary.to_dict() == {
        "source": f"images of '{tmp_path / 'pets'}'",
        "found": {"train": 21},
        "used": {"train": 18, "validation": 3},
        "validation_from": "0.142857 of split 'train', drawn by seed 0",
        "left_out": {"not images": {"count": 1, "first": ["notes.txt"]}},
        "labels": {c: {"train": counts[0][i], "validation": counts[1][i]} for i, c in enumerate(("cat", "dog"))},
        "labels_from": "class folders",
        "columns": [],
        "sizes": {"6 x 6": 20, "12 x 9": 1},
        "modes": {"RGB": 20, "L": 1},
        "image_size": 6,
        "num_channels": 3,
        "fingerprint": summary.fingerprint,
        "unusual": [],
    }
    text = str(summary)
    for part in ("21 in 'train'", "18 for train, 3 for validation, as 6 x 6 RGB", "2 from class folders: 'cat' ", "6 x 6 (20), 12 x 9 (1)", "RGB (20), L (1)", "left out, not images: 1 ('notes.txt')"):  # fmt: skip
        assert part in text, text


def test_the_fingerprint_is_that_of_the_data_wherever_it_lies(tmp_path: Path):
    prints = []
    write_imagefolder(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "c")
    for limit in (2**30, 0):
        first, moved = (
            load_image_data(data_dir=tmp_path / name, cache_limit_bytes=limit).summary.fingerprint
            for name in ("a", "b/c")
        )
        assert first == moved
        prints.append(first)
    (tmp_path / "a" / "train" / "cat" / "0.png").rename(tmp_path / "a" / "train" / "dog" / "0a.png")
    prints += [
        load_image_data(data_dir=tmp_path / "a", cache_limit_bytes=limit).summary.fingerprint for limit in (2**30, 0)
    ]
    assert len(set(prints)) == 4


def test_summaries_of_columns_streams_and_of_no_labels(tmp_path: Path):
    files = [{"bytes": png(image), "path": None} for image in random_images(4)]
    write_parquet(tmp_path / "p", {"image": files, "label": list("abab"), "by": list("xxxx")})
    summary = load_image_data(data_dir=tmp_path / "p", validation_fraction=0).summary
    assert summary.columns == ["image", "label", "by"] and summary.labels_from == "column 'label'"
    assert summary.validation_from == "none" and summary.labels == {"a": {"train": 2}, "b": {"train": 2}}
    unlabelled = load_image_data(data_dir=tmp_path / "p", validation_fraction=0, use_labels=False).summary
    assert unlabelled.labels == {} and "labels: none" in str(unlabelled)
    write_imagefolder(tmp_path / "f")
    stream = load_image_data(data_dir=tmp_path / "f", streaming=True).summary
    assert stream.found == stream.used == {} and stream.validation_from == "split 'test' of the data"
    assert "labels: 2 from class folders" in str(stream) and "as many as the stream has" in str(stream)
    on_disk = load_image_data(data_dir=tmp_path / "p", validation_fraction=0, cache_limit_bytes=0).summary
    assert "not looked through for copies of images: it does not fit in memory" in on_disk.unusual
