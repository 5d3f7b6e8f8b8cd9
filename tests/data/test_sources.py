# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`data.sources` through `load_image_data`: what went into each kind of source must come out, and bad input must be named."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.images import (
    SIZE,
    all_items,
    as_set,
    channels_first,
    imagefolder_with,
    parquet_with,
    png,
    random_images,
    split_without_labels,
    write_dataset,
    write_idx,
    write_idx_folder,
    write_imagefolder,
    write_parquet,
)
from PIL import Image

from lzn_hf.data.images import TensorImageDataset, load_image_data


# Sources


def test_digits_are_scikit_learns_split_once_and_for_all():
    from sklearn.datasets import load_digits

    data = load_image_data("digits", seed=5)
    assert (data.name, data.image_size, data.num_channels) == ("digits", 8, 1)
    assert data.label_names == [str(i) for i in range(10)]
    train, test = data.train, data.validation
    assert train.pixel_values.shape == (1437, 1, 8, 8) and test.pixel_values.shape == (360, 1, 8, 8)
    assert train.pixel_values.dtype == torch.uint8 and train.labels.dtype == torch.int64
    digits = load_digits()
    expected = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
    expected_items = as_set({"pixel_values": expected, "labels": torch.from_numpy(digits.target)})
    train_items = as_set({"pixel_values": train.pixel_values, "labels": train.labels})
    test_items = as_set({"pixel_values": test.pixel_values, "labels": test.labels})
    assert train_items | test_items == expected_items and not train_items & test_items
    assert test.labels.bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]  # stratified
    assert torch.equal(load_image_data("digits").validation.pixel_values, test.pixel_values)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_folder(tmp_path: Path, suffix: str):
    data = load_image_data(data_dir=write_idx_folder(tmp_path / "mnist", suffix, highest=4))
    assert (data.name, data.image_size, data.num_channels) == ("mnist", 7, 1)
    assert data.label_names == ["0", "1", "2", "3", "4"]
    assert torch.equal(data.train.pixel_values[:, 0], torch.from_numpy(random_images(12, 0, (7, 7))))
    assert torch.equal(data.validation.pixel_values[:, 0], torch.from_numpy(random_images(5, 1, (7, 7))))
    assert data.train.labels.tolist() == [i % 5 for i in range(12)]


def test_fashion_mnist_has_its_ten_names_and_grey_becomes_rgb_on_request(tmp_path: Path):
    data = load_image_data("fashion-mnist", write_idx_folder(tmp_path), num_channels=3, image_size=14)
    assert data.name == "fashion-mnist" and data.num_channels == 3 and data.image_size == 14
    assert data.label_names[0] == "T-shirt/top" and data.label_names[9] == "Ankle boot" and len(data.label_names) == 10
    assert data.train.pixel_values.shape == (12, 3, 14, 14)
    assert torch.equal(data.train.pixel_values[:, 0], data.train.pixel_values[:, 2])


def test_imagefolder(tmp_path: Path):
    data = load_image_data(data_dir=write_imagefolder(tmp_path / "pets"))
    assert (data.name, data.image_size, data.num_channels) == ("pets", SIZE, 3)
    assert data.label_names == ["cat", "dog"]
    expected = torch.cat([channels_first(random_images(4, c)) for c in (0, 1)])
    assert torch.equal(data.train.pixel_values, expected) and data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert torch.equal(data.validation.pixel_values[4:], channels_first(random_images(4, 11)))
    assert isinstance(data.train, TensorImageDataset)


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [([7, 3, 3, 7], ["3", "7"], [1, 0, 0, 1]), (["b", "a", "c", "a"], ["a", "b", "c"], [1, 0, 2, 0])],
    ids=["int", "string"],
)
def test_parquet_with_plain_labels_as_other_tools_write_it(tmp_path: Path, labels: list, names: list, ids: list):
    images = random_images(4)
    files = [{"bytes": png(image), "path": None} for image in images]
    data = load_image_data(
        data_dir=write_parquet(tmp_path / "p", {"img": files, "label": labels}), validation_fraction=0
    )
    assert data.label_names == names and data.train.labels.tolist() == ids and data.validation is None
    assert torch.equal(data.train.pixel_values, channels_first(images))


def test_parquet_written_by_datasets_and_columns_by_name(tmp_path: Path):
    import datasets

    images = random_images(4)
    stored = write_dataset(
        {
            "a": [Image.fromarray(image) for image in images[::-1]],
            "b": [Image.fromarray(image) for image in images],
            "raw": [png(image) for image in images],
            "coarse": [0, 0, 1, 1],
            "fine": [2, 1, 0, 2],
            "score": [0.1, 0.2, 0.3, 0.4],
        },
        {
            "a": datasets.Image(), "b": datasets.Image(mode="L"), "raw": datasets.Value("binary"),
            "coarse": datasets.ClassLabel(names=["x", "y"]), "fine": datasets.ClassLabel(names=["p", "q", "r"]), "score": datasets.Value("float32"),
        },
    )  # fmt: skip
    stored.to_parquet(tmp_path / "train.parquet")
    load = lambda **kwargs: load_image_data(data_dir=tmp_path, validation_fraction=0, **kwargs)  # noqa: E731
    data = load(image_column="a", label_column="fine")
    assert data.label_names == ["p", "q", "r"] and data.train.labels.tolist() == [2, 1, 0, 2]
    assert torch.equal(data.train.pixel_values, channels_first(images[::-1].copy()))
    assert load(image_column="b", label_column="coarse").num_channels == 1  # the mode of the column is kept
    assert torch.equal(load(image_column="raw", use_labels=False).train.pixel_values, channels_first(images))
    with pytest.raises(ValueError, match=r"several candidates \['a', 'b'\].*`image_column`"):
        load(label_column="fine")
    with pytest.raises(ValueError, match=r"several candidates \['coarse', 'fine'\].*`label_column`"):
        load(image_column="a")
    with pytest.raises(ValueError, match=r"`label_column` 'score' .*class labels, integers or strings"):
        load(image_column="a", label_column="score")
    with pytest.raises(ValueError, match=r"`image_column` 'score' .* holds no images"):
        load(image_column="score")
    with pytest.raises(ValueError, match=r"`image_column` is 'picture' but the columns of .* are \['a', 'b'"):
        load(image_column="picture")
    with pytest.raises(ValueError, match=r"`label_column` is 'none' but the columns of"):
        load(image_column="a", label_column="none")


def test_save_to_disk(tmp_path: Path):
    import datasets

    folder = datasets.load_dataset(str(write_imagefolder(tmp_path / "files")))
    folder.save_to_disk(tmp_path / "both")
    folder["train"].with_format("torch").save_to_disk(tmp_path / "one")
    expected = load_image_data(data_dir=tmp_path / "files")
    both = load_image_data(data_dir=tmp_path / "both")
    assert torch.equal(both.train.pixel_values, expected.train.pixel_values) and both.label_names == ["cat", "dog"]
    assert torch.equal(both.validation.labels, expected.validation.labels)
    one = load_image_data(data_dir=tmp_path / "one", validation_fraction=0)
    assert torch.equal(one.train.pixel_values, expected.train.pixel_values)


def test_a_hub_dataset_is_asked_for_by_name_and_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    loaded = datasets.load_dataset(str(write_imagefolder(tmp_path)))
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or loaded)
    data = load_image_data("someone/pets", config_name="small")
    assert asked == [(("someone/pets", "small"), {"streaming": False})]
    assert data.name == "someone/pets" and data.label_names == ["cat", "dog"]


# Splits


def test_validation_is_carved_out_by_seed(tmp_path: Path):
    write_imagefolder(tmp_path, splits=("train",), each=10)
    items = as_set(all_items(load_image_data(data_dir=tmp_path, validation_fraction=0).train))

    def split(**kwargs) -> tuple[set, set]:
        data = load_image_data(data_dir=tmp_path, **kwargs)
        return as_set(all_items(data.train)), as_set(all_items(data.validation))

    train, validation = split(validation_fraction=0.25)
    assert len(train) == 15 and len(validation) == 5 and train | validation == items
    assert split(validation_fraction=0.25) == (train, validation)
    assert split(validation_fraction=0.25, seed=1)[1] != validation
    assert len(split(validation_fraction=0.001)[1]) == 1  # at least one


def test_splits_are_chosen(tmp_path: Path):
    write_imagefolder(tmp_path, splits=("train", "validation", "test"))
    first = {split: random_images(1, 10 * s)[0] for s, split in enumerate(("train", "validation", "test"))}

    def firsts(**kwargs) -> tuple[str, str]:
        data = load_image_data(data_dir=tmp_path, **kwargs)
        names = {channels_first(image[None]).numpy().tobytes(): split for split, image in first.items()}
        return tuple(names[d[0]["pixel_values"].numpy().tobytes()] for d in (data.train, data.validation))

    assert firsts() == ("train", "validation")
    assert firsts(validation_split="test") == ("train", "test")
    assert firsts(train_split="test") == ("test", "validation")
    carved = load_image_data(data_dir=tmp_path, validation_split="train", validation_fraction=0.25)
    assert (len(carved.train), len(carved.validation)) == (6, 2)
    with pytest.raises(ValueError, match=r"`validation_split` is 'dev' but .* \['test', 'train', 'validation'\]"):
        firsts(validation_split="dev")
    with pytest.raises(ValueError, match=r"`train_split` is 'training' but .* has the splits"):
        firsts(train_split="training")


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"give `dataset_name` .* or `data_dir`"),
        ({"dataset_name": "digits", "data_dir": "."}, r"`dataset_name` or `data_dir`, not both"),
        ({"dataset_name": "digits", "streaming": True}, r"leave `streaming` out"),
        (
            {"dataset_name": "digits", "config_name": "x"},
            r"the configuration 'x' is asked for, but only datasets of the Hub",
        ),
        ({"dataset_name": "digits", "image_column": "x"}, r"`image_column` is 'x' but digits has no columns"),
        ({"dataset_name": "digits", "label_column": "x"}, r"`label_column` is 'x' but digits has no columns"),
        (
            {"dataset_name": "digits", "label_column": "x", "use_labels": False},
            r"`label_column` is 'x', but no labels are to be read",
        ),
        ({"dataset_name": "digits", "image_size": 0}, r"`image_size` must be at least 1, got 0"),
        ({"dataset_name": "digits", "num_channels": 4}, r"`num_channels` must be 1 .* got 4"),
        ({"dataset_name": "digits", "validation_fraction": 1.0}, r"`validation_fraction` must be .* got 1.0"),
        ({"dataset_name": "digits", "validation_split": "dev"}, r"digits has the splits \['test', 'train'\]"),
        ({"dataset_name": "fashion-mnist"}, r"needs `data_dir`.*dataset-fashion-mnist"),
        ({"dataset_name": "nobody/nothing"}, r"'nobody/nothing' .*Hub could not be reached.*digits.*`data_dir`"),
        ({"dataset_name": "digit"}, r"'digit' is not a dataset here.*Hub could not be reached"),
    ],
)
def test_bad_arguments(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        load_image_data(**arguments)


def test_a_name_that_the_hub_does_not_know(monkeypatch: pytest.MonkeyPatch):
    import datasets

    def not_found(*args, **kwargs):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed.")

    monkeypatch.setattr(datasets, "load_dataset", not_found)
    with pytest.raises(ValueError, match=r"a/b cannot be loaded: DatasetNotFoundError: .*doesn't exist on the Hub"):
        load_image_data("a/b")


def spoil_idx(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        path = write_idx_folder(root) / name
        path.write_bytes(change(path.read_bytes()))

    return build


def idx_counts_differ(root: Path) -> None:
    write_idx(write_idx_folder(root) / "train-labels-idx1-ubyte.gz", np.zeros(11, np.uint8))


def idx_plain_truncated(root: Path) -> None:
    path = write_idx_folder(root, "") / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])


def idx_labels_missing(root: Path) -> None:
    (write_idx_folder(root) / "t10k-labels-idx1-ubyte.gz").unlink()


def idx_label_unknown(root: Path) -> None:
    write_idx(write_idx_folder(root, highest=4) / "t10k-labels-idx1-ubyte.gz", np.array([0, 1, 2, 3, 9], np.uint8))


def splits_not_alike(root: Path) -> None:
    import datasets

    images = [Image.fromarray(image) for image in random_images(2)]
    parts = {
        split: write_dataset(
            {"image": images, "label": [0, 1]}, {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
        )
        for split, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"]))
    }
    datasets.DatasetDict(parts).save_to_disk(root)


def empty_split(root: Path) -> None:
    write_idx_folder(root)
    write_idx(root / "t10k-images-idx3-ubyte.gz", np.zeros((0, 7, 7), np.uint8))
    write_idx(root / "t10k-labels-idx1-ubyte.gz", np.zeros(0, np.uint8))


def float_tiff() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((SIZE, SIZE), np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


def damaged_save_to_disk(root: Path) -> None:
    split_without_labels(root)
    (root / "test" / "state.json").write_text("{")


BAD_FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda root: (root / "train" / "cat").mkdir(parents=True), r"must be a folder with files .* empty"),
    "other files": (lambda root: (root / "notes.xyz").write_text("x"), r"holds no data: looked for IDX .* save_to_disk"),
    "truncated gzip": (
        spoil_idx("train-images-idx3-ubyte.gz", lambda content: content[:-20]),
        r"train-images-idx3-ubyte.gz' is not a complete gzip file",
    ),
    "not a gzip": (spoil_idx("t10k-labels-idx1-ubyte.gz", lambda _: b"x" * 99), r"t10k-labels.* not a complete gzip"),
    "not IDX": (
        spoil_idx("train-labels-idx1-ubyte.gz", lambda _: gzip.compress(b"hello, world")),
        r"train-labels-idx1-ubyte.gz' is not an IDX file of uint8 values in 1 dim",
    ),
    "IDX truncated": (idx_plain_truncated, r"train-images-idx3-ubyte' should hold 588 values \(12, 7, 7\) but holds 587"),
    "IDX counts differ": (idx_counts_differ, r"has 12 images, .*train-labels-idx1-ubyte.gz' 11 labels"),
    "IDX labels missing": (idx_labels_missing, r"split 'test' has only .*t10k-images-idx3-ubyte.gz'.*both needed"),
    "IDX label unknown": (idx_label_unknown, r"row 4 of split 'test' has the label 9, .* none of the 5 labels"),
    "not an image": (imagefolder_with("x.png", b"hello"), r"image 8 of split 'train' \('.*dog.x.png'\) cannot be read"),
    "truncated image": (
        imagefolder_with("x.png", png(random_images(1)[0])[:-40]),
        r"image 8 of split 'train' \('.*dog.x.png'\) cannot be read",
    ),
    "floats": (
        imagefolder_with("x.tiff", float_tiff()),
        r"dog.x.tiff'\) has 32-bit values \(mode 'F'\)",
    ),
    "sizes differ": (
        imagefolder_with("x.png", png(random_images(1, shape=(4, 5, 3))[0])),
        r"dog.x.png'\) is 5 x 4 pixels but the first image is 6 x 6: pass `image_size`",
    ),
    "not square": (
        parquet_with({"image": [{"bytes": png(random_images(1, shape=(4, 5, 3))[0]), "path": None}], "label": [0]}, False),
        r"image 0 of split 'train' is 5 x 4 pixels: pass `image_size` \(--image_size 4\)",
    ),
    "colours after grey": (
        parquet_with(
            {"image": [{"bytes": png(x), "path": None} for x in (random_images(1)[0, ..., 0], random_images(1)[0])],
             "label": [0, 1]},
            False,
        ),
        r"image 1 of split 'train' has colours but the first image is grey: pass `num_channels`",
    ),
    "image is null": (
        parquet_with(
            {"image": [{"bytes": png(random_images(1)[0]), "path": None}, None], "label": [0, 1]}, False
        ),
        r"image 1 of split 'train' is missing",
    ),
    "no image column": (parquet_with({"x": [1], "label": [0]}, False), r"no image column: .* \['x', 'label'\]"),
    "no label column": (parquet_with({"x": [1, 2, 3]}), r"no label column: .* \['image', 'x'\].*or go without labels"),
    "float labels": (parquet_with({"label": [0.5, 1.5, 2.5]}), r"must hold class labels, integers or strings"),
    "label is null": (parquet_with({"label": [0, None, 1]}), r"row 1 of split 'train' has the label None"),
    "label is -1": (parquet_with({"label": [0, 1, -1]}), r"row 2 of split 'train' has the label -1"),
    "split without labels": (split_without_labels, r"row 1 of split 'test' has the label -1, .*`validation_split`"),
    "splits not alike": (splits_not_alike, r"column 'label' .* in split 'test'"),
    "empty split": (empty_split, r"split 'test' of data is empty"),
    "damaged save_to_disk": (damaged_save_to_disk, r"looks like a save_to_disk folder but cannot be read"),
    "damaged parquet": (lambda root: (root / "train.parquet").write_bytes(b"PAR1"), r"cannot be loaded: Arrow"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folders(tmp_path: Path, case: str):
    build, message = BAD_FOLDERS[case]
    (root := tmp_path / "data").mkdir()
    build(root)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load_image_data(data_dir=root, validation_fraction=0)


def test_bad_data_dir(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"`data_dir` does not exist: '.*nowhere'"):
        load_image_data(data_dir=tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"`data_dir` must be a folder with files"):
        load_image_data(data_dir=tmp_path / "file")
    with pytest.raises(ValueError, match=r"holds no IDX files"):
        load_image_data("fashion-mnist", tmp_path)
    with pytest.raises(ValueError, match=r"only datasets of the Hub"):
        load_image_data(data_dir=tmp_path, config_name="x")
    write_parquet(tmp_path / "my [tables]", {"image": [b"x"]})
    with pytest.raises(ValueError, match=r"rename the folder"):
        load_image_data(data_dir=tmp_path / "my [tables]")


def test_a_fashion_mnist_label_above_nine(tmp_path: Path):
    write_idx(write_idx_folder(tmp_path) / "train-labels-idx1-ubyte.gz", np.full(12, 10, np.uint8))
    with pytest.raises(ValueError, match=r"row 0 of split 'train' has the label 10, .* none of the 10 labels"):
        load_image_data("fashion-mnist", tmp_path)
