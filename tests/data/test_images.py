# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`data.images`: decoding, batches, augmentation, data kept on disk and streams."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
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
    write_imagefolder,
)
from PIL import Image
from torch.utils.data import DataLoader

from lzn_hf.data import stores
from lzn_hf.data.batches import collate_images, to_pixel_values
from lzn_hf.data.images import StoredImageDataset, TensorImageDataset, load_image_data


def test_use_labels_false_leaves_labels_away(tmp_path: Path):
    data = load_image_data(data_dir=write_imagefolder(tmp_path), use_labels=False)
    assert data.label_names is None and data.train.labels is None
    assert set(data.train[0]) == set(data.train.__getitems__([0, 1])) == {"pixel_values"}
    stream = load_image_data(data_dir=tmp_path, use_labels=False, streaming=True)
    assert stream.label_names is None and set(next(iter(stream.train))) == {"pixel_values"}
    assert load_image_data("digits", use_labels=False).train.labels is None


# Large and streamed data


def test_data_over_the_cache_limit_is_decoded_when_read(tmp_path: Path):
    write_imagefolder(tmp_path)
    in_memory = load_image_data(data_dir=tmp_path)
    size = 8 * 3 * SIZE * SIZE
    assert isinstance(load_image_data(data_dir=tmp_path, cache_limit_bytes=size).train, TensorImageDataset)
    stored = load_image_data(data_dir=tmp_path, cache_limit_bytes=size - 1)
    assert isinstance(stored.train, StoredImageDataset)
    loader = DataLoader(stored.train, batch_size=8, collate_fn=collate_images)
    batch = next(iter(loader))
    assert torch.equal(batch["pixel_values"], in_memory.train.pixel_values)
    assert torch.equal(batch["labels"], in_memory.train.labels)


def test_stream_has_every_image_once_in_an_order_by_seed_and_epoch(tmp_path: Path):
    write_imagefolder(tmp_path, each=8)
    expected = load_image_data(data_dir=tmp_path)
    data = load_image_data(data_dir=tmp_path, streaming=True)
    assert (data.label_names, data.image_size, data.num_channels) == (["cat", "dog"], SIZE, 3)
    once = all_items(data.train)
    assert len(once["labels"]) == 16 and as_set(once) == as_set(all_items(expected.train))
    assert not torch.equal(once["pixel_values"], expected.train.pixel_values)
    assert torch.equal(all_items(data.validation)["pixel_values"], expected.validation.pixel_values)
    assert torch.equal(all_items(data.train)["pixel_values"], once["pixel_values"])
    other_seed = load_image_data(data_dir=tmp_path, streaming=True, seed=1)
    assert not torch.equal(all_items(other_seed.train)["pixel_values"], once["pixel_values"])
    unmixed = load_image_data(data_dir=tmp_path, streaming=True, shuffle_buffer_size=1)
    assert torch.equal(all_items(unmixed.train)["pixel_values"], expected.train.pixel_values)
    data.train.set_epoch(1)
    second = all_items(data.train)
    assert as_set(second) == as_set(once) and not torch.equal(second["pixel_values"], once["pixel_values"])


def test_stream_with_workers_has_every_image_once(tmp_path: Path):
    import datasets

    labels, images = list(range(12)), random_images(12)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=[f"n{i}" for i in labels])}
    for part in range(3):
        chosen = slice(4 * part, 4 * part + 4)
        columns = {"image": [Image.fromarray(image) for image in images[chosen]], "label": labels[chosen]}
        write_dataset(columns, features).to_parquet(tmp_path / f"train-{part}.parquet")
    data = load_image_data(data_dir=tmp_path, streaming=True, validation_fraction=0)
    loader = DataLoader(data.train, batch_size=2, num_workers=2, collate_fn=collate_images)
    batches = list(loader)
    assert sorted(label for batch in batches for label in batch["labels"].tolist()) == labels
    for batch in batches:
        assert torch.equal(batch["pixel_values"], channels_first(images)[batch["labels"]])


def check_each_sample_once(folder: str, dispatch_batches: bool | None, streaming: bool) -> None:
    """Runs in each of two processes."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DataLoaderConfiguration

    AcceleratorState._reset_state(reset_partial_state=True)  # a fork of a process where a test may have used one
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch_batches))
    assert accelerator.num_processes == 2
    data = load_image_data(data_dir=folder, streaming=streaming, validation_fraction=0)
    loader = DataLoader(data.train, batch_size=3, shuffle=not streaming, drop_last=True, collate_fn=collate_images)
    batches = [accelerator.gather(batch) for batch in accelerator.prepare(loader)]
    assert sorted(torch.cat([batch["labels"] for batch in batches]).tolist()) == list(range(12))


@pytest.mark.parametrize(
    ("dispatch_batches", "streaming"),
    [(None, True), (False, True), (None, False)],
    ids=["dispatch", "shard", "memory"],
)
def test_two_processes_see_each_image_once(tmp_path: Path, dispatch_batches: bool | None, streaming: bool):
    from accelerate import debug_launcher

    for label, image in enumerate(random_images(12)):
        folder = tmp_path / f"{label:02}"
        folder.mkdir()
        (folder / "x.png").write_bytes(png(image))
    debug_launcher(check_each_sample_once, (str(tmp_path), dispatch_batches, streaming), num_processes=2)


# Images


def decode(tmp_path: Path, image: Image.Image, name: str = "0.png", **kwargs) -> torch.Tensor:
    image.save(tmp_path / name, **({"exif": kwargs.pop("exif")} if "exif" in kwargs else {}))
    data = load_image_data(data_dir=tmp_path, use_labels=False, validation_fraction=0, **kwargs)
    return data.train.pixel_values[0]


def test_images_are_cropped_at_the_centre(tmp_path: Path):
    stripes = np.zeros((8, 24, 3), np.uint8)
    stripes[:, :8, 0] = stripes[:, 8:16, 1] = stripes[:, 16:, 2] = 255
    pixels = decode(tmp_path, Image.fromarray(stripes), image_size=8)
    assert torch.equal(pixels, channels_first(stripes[None, :, 8:16])[0])


@pytest.mark.parametrize("size", [3, 12], ids=["smaller", "larger"])
def test_images_are_resized(tmp_path: Path, size: int):
    image = Image.fromarray(random_images(1)[0])
    pixels = decode(tmp_path, image, image_size=size)
    assert torch.equal(
        pixels, channels_first(np.array(image.resize((size, size), Image.Resampling.BILINEAR))[None])[0]
    )


def test_images_are_turned_upright_and_laid_on_white(tmp_path: Path):
    array = random_images(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert torch.equal(
        decode(tmp_path, Image.fromarray(array), exif=exif), channels_first(array[None, ::-1, ::-1].copy())[0]
    )
    clear = np.concatenate([array, np.full((SIZE, SIZE, 1), 255, np.uint8)], axis=2)
    clear[:3, :, 3] = 0
    pixels = decode(tmp_path, Image.fromarray(clear))
    assert (pixels[:, :3] == 255).all() and torch.equal(pixels[:, 3:], channels_first(array[None, 3:])[0])


def test_grey_is_kept_and_converted_on_request(tmp_path: Path):
    grey = random_images(1, shape=(SIZE, SIZE))[0]
    assert torch.equal(decode(tmp_path, Image.fromarray(grey)), torch.from_numpy(grey)[None])
    assert torch.equal(
        decode(tmp_path, Image.fromarray(grey), num_channels=3), torch.from_numpy(grey).expand(3, -1, -1)
    )
    colours = Image.fromarray(random_images(1)[0])
    expected = torch.from_numpy(np.array(colours.convert("L")))[None]
    assert torch.equal(decode(tmp_path, colours, num_channels=1), expected)


def test_progress_is_shown_while_many_images_are_decoded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    load_image_data("digits")
    assert "decoding" not in capsys.readouterr().err
    monkeypatch.setattr(stores, "PROGRESS_BAR_FROM", 1000)
    load_image_data("digits")
    assert "decoding train" in (shown := capsys.readouterr().err) and "decoding test" not in shown
    monkeypatch.setenv("LOCAL_RANK", "1")
    load_image_data("digits")
    assert "decoding" not in capsys.readouterr().err


# Batches


def test_a_batch_is_fetched_at_once():
    dataset = TensorImageDataset(channels_first(random_images(10)), torch.arange(10))
    loader = DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=collate_images)
    batches = list(loader)
    assert [len(batch["labels"]) for batch in batches] == [4, 4, 2]
    assert sorted(torch.cat([batch["labels"] for batch in batches]).tolist()) == list(range(10))
    for batch in batches:
        assert batch["pixel_values"].dtype == torch.uint8
        assert torch.equal(batch["pixel_values"], dataset.pixel_values[batch["labels"]])
    assert torch.equal(collate_images([dataset[3], dataset[1]])["pixel_values"], dataset.pixel_values[[3, 1]])


def test_pixel_values_are_in_minus_one_to_one():
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    pixel_values = to_pixel_values(ramp)
    assert pixel_values.dtype == torch.float32
    torch.testing.assert_close(pixel_values.flatten(), torch.linspace(-1, 1, 256), rtol=0, atol=1e-6)
    assert pixel_values.min() == -1 and pixel_values.max() == 1
    assert torch.equal(ramp.flatten(), torch.arange(256, dtype=torch.uint8))  # the input is left alone


def test_flips_mirror_about_half_of_the_images():
    images = channels_first(random_images(400))
    plain = to_pixel_values(images)
    flipped = to_pixel_values(images, flip=True, generator=torch.Generator().manual_seed(0))
    is_plain = (flipped == plain).flatten(1).all(1)
    is_mirrored = (flipped == plain.flip(-1)).flatten(1).all(1)
    assert (is_plain ^ is_mirrored).all() and 150 < is_mirrored.sum() < 250


def test_shifts_move_images_over_their_repeated_border():
    images = channels_first(random_images(300))
    shifted = to_pixel_values(images, shift=1, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(to_pixel_values(images), (1, 1, 1, 1), mode="replicate")
    counts = torch.zeros(3, 3, dtype=torch.int64)
    for down in range(3):
        for right in range(3):
            window = padded[:, :, down : down + SIZE, right : right + SIZE]
            counts[down, right] = (shifted == window).flatten(1).all(1).sum()
    assert counts.sum() == 300 and counts.min() > 15  # every image is one of the nine, each about 33 times


def test_augmentation_repeats_with_its_generator_only():
    images = channels_first(random_images(50))

    def augment(seed: int) -> torch.Tensor:
        return to_pixel_values(images, flip=True, shift=2, generator=torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    first = augment(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, augment(1)) and not torch.equal(first, augment(2))
    torch.manual_seed(3)
    by_default = to_pixel_values(images, flip=True, shift=2)
    torch.manual_seed(3)
    assert torch.equal(by_default, to_pixel_values(images, flip=True, shift=2))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_augment_the_images_of_a_batch_as_one_process_does(count):
    images = channels_first(random_images(12))

    def augment(images: torch.Tensor, **share: int) -> torch.Tensor:
        return to_pixel_values(images, flip=True, shift=2, generator=torch.Generator().manual_seed(1), **share)

    shares = [augment(part, process_index=i, num_processes=count) for i, part in enumerate(images.chunk(count))]
    assert torch.equal(torch.cat(shares), augment(images))


# Bad input


def test_bad_batches():
    images = channels_first(random_images(2))
    with pytest.raises(ValueError, match=r"`images` must be uint8 .* torch.float32"):
        to_pixel_values(images.float())
    with pytest.raises(ValueError, match=r"`images` must be uint8 .* \(3, 6, 6\)"):
        to_pixel_values(images[0])
    for shift in (-1, SIZE):
        with pytest.raises(ValueError, match=rf"`shift` must be from 0 to below the image size 6, got {shift}"):
            to_pixel_values(images, shift=shift)
    with pytest.raises(ValueError, match=r"`pixel_values` must be uint8"):
        TensorImageDataset(images.float())
    with pytest.raises(ValueError, match=r"`labels` must be int64 \(2,\), got torch.int64 \(3,\)"):
        TensorImageDataset(images, torch.arange(3))


def test_bad_images_and_labels_in_a_stream(tmp_path: Path):
    imagefolder_with("x.png", b"hello")(tmp_path / "a")
    with pytest.raises(ValueError, match=r"image \d+ of split 'train' \('.*dog.x.png'\) cannot be read"):
        all_items(load_image_data(data_dir=tmp_path / "a", streaming=True).train)
    split_without_labels(tmp_path / "b")
    with pytest.raises(ValueError, match=r"written by save_to_disk .* leave `streaming` out"):
        load_image_data(data_dir=tmp_path / "b", streaming=True)
    import datasets

    (tmp_path / "c").mkdir()
    for split, rows in datasets.load_from_disk(tmp_path / "b").items():
        rows.to_parquet(tmp_path / "c" / f"{split}.parquet")
    data = load_image_data(data_dir=tmp_path / "c", streaming=True)
    with pytest.raises(ValueError, match=r"row 1 of split 'test' has the label -1"):
        all_items(data.validation)
    with pytest.raises(ValueError, match=r"a stream cannot be divided.*0 as `validation_fraction`"):
        load_image_data(data_dir=tmp_path / "c", streaming=True, validation_split="train")
    (tmp_path / "c" / "train.parquet").unlink()
    datasets.load_from_disk(tmp_path / "b")["train"].select([]).to_parquet(tmp_path / "c" / "train.parquet")
    with pytest.raises(ValueError, match=r"split 'train' of c is empty"):
        load_image_data(data_dir=tmp_path / "c", streaming=True)
    parquet_with({"label": [0, 1, 2]})(tmp_path / "d")
    with pytest.raises(ValueError, match=r"`label_column` 'label' .* plain int64 values.*leave `streaming` out"):
        load_image_data(data_dir=tmp_path / "d", streaming=True, validation_fraction=0)


def test_importing_the_module_is_light():
    # Without the package's own __init__, which imports transformers.
    code = (
        "import sys, types; package = types.ModuleType('lzn_hf'); package.__path__ = ['lzn_hf']; "
        "sys.modules['lzn_hf'] = package; import lzn_hf.data.images; "
        "print({'datasets', 'sklearn', 'accelerate', 'transformers'} & set(sys.modules))"
    )
    source = ROOT / "src"
    result = subprocess.run([sys.executable, "-c", code], check=True, cwd=source, timeout=120, capture_output=True)
    assert result.stdout.decode().strip() == "set()"
