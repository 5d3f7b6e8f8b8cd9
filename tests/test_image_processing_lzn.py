# Copyright 2026 The lzn_hf authors. Apache-2.0.
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lzn_hf import LZNImageProcessor
from lzn_hf.data import to_pixel_values


GREY = np.random.RandomState(0).randint(0, 256, (8, 8)).astype(np.uint8)
RGB = np.random.RandomState(1).randint(0, 256, (8, 8, 3)).astype(np.uint8)
GREY_VALUES = torch.tensor(GREY / 127.5 - 1).float()[None, None]
RGB_VALUES = torch.tensor(RGB / 127.5 - 1).float().permute(2, 0, 1)[None]


def processor(channels: int = 1, size: int = 8, **kwargs) -> LZNImageProcessor:
    half = [0.5] * channels
    return LZNImageProcessor(size={"height": size, "width": size}, image_mean=half, image_std=half, **kwargs)


def pixel_values(images, channels: int = 1, size: int = 8, **kwargs) -> torch.Tensor:
    return processor(channels, size)(images, return_tensors="pt", **kwargs).pixel_values


# ---------------------------------------------------------------- to pixel values


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("RGB"),
        Image.fromarray(GREY).convert("RGBA"),
        Image.fromarray(GREY).convert("LA"),
        Image.fromarray(GREY).convert("P"),
        GREY,
        GREY[..., None],
        GREY[None],
        GREY.astype(np.int64),
        GREY / 255,
        (GREY / 255).astype(np.float32),
        np.stack([GREY] * 3, -1),
        np.stack([GREY] * 3) / 255,
        torch.tensor(GREY),
        torch.tensor(GREY / 255, requires_grad=True),
    ],
    ids=lambda image: getattr(image, "mode", None) or f"{type(image).__name__}-{image.dtype}-{tuple(image.shape)}",
)
def test_every_form_of_a_grey_image_gives_the_same(image):
    values = pixel_values(image)
    assert values.shape == (1, 1, 8, 8) and values.dtype == torch.float32
    torch.testing.assert_close(values, GREY_VALUES, atol=1e-6, rtol=0)
    torch.testing.assert_close(pixel_values(image, 3), GREY_VALUES.expand(1, 3, 8, 8), atol=1e-6, rtol=0)


def test_rgb_of_a_grey_pil_image_is_exactly_the_grey_image():
    """transformers.pipeline hands every image over as RGB."""
    assert torch.equal(pixel_values(Image.fromarray(GREY).convert("RGB")), pixel_values(Image.fromarray(GREY)))


@pytest.mark.parametrize("image", [Image.fromarray(RGB), RGB, RGB.transpose(2, 0, 1), RGB / 255, torch.tensor(RGB)])
def test_rgb(image):
    torch.testing.assert_close(pixel_values(image, 3), RGB_VALUES, atol=1e-6, rtol=0)
    grey = pixel_values(image, 1)
    expected = torch.tensor(np.array(Image.fromarray(RGB).convert("L")) / 127.5 - 1).float()
    assert (grey[0, 0] - expected).abs().max() <= 1.01 / 255  # Pillow rounds to 8 bits


@pytest.mark.parametrize("make", [list, tuple, np.stack, lambda images: torch.tensor(np.stack(images))])
def test_several_images(make):
    values = pixel_values(make([RGB, RGB[::-1].copy()]), 3)
    torch.testing.assert_close(values, torch.cat([RGB_VALUES, RGB_VALUES.flip(2)]), atol=1e-6, rtol=0)


def test_several_plain_grey_arrays_in_a_list():
    torch.testing.assert_close(pixel_values([GREY, GREY]), GREY_VALUES.repeat(2, 1, 1, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("white", [255, 1.0])
def test_transparency_is_laid_on_white(white):
    image = np.zeros((8, 8, 4), dtype=type(white) if white == 1.0 else np.uint8)
    image[:, :4, 3] = white  # left half opaque black, right half transparent
    values = pixel_values(image)
    assert (values[..., :4] == -1).all() and (values[..., 4:] == 1).all()


@pytest.mark.parametrize("make", [Image.fromarray, np.asarray, torch.from_numpy, lambda image: image / 255])
def test_four_channels_keep_transparency(make):
    image = np.dstack([RGB, GREY])
    values = pixel_values(make(image), 4)
    torch.testing.assert_close(values, torch.cat([RGB_VALUES, GREY_VALUES], 1), atol=1e-6, rtol=0)
    opaque = pixel_values(make(RGB), 4)
    torch.testing.assert_close(opaque[:, :3], RGB_VALUES, atol=1e-6, rtol=0)
    assert (opaque[:, 3] == 1).all()


def test_resizes_like_pillow():
    image = Image.fromarray(RGB).resize((31, 17))
    squeezed = np.array(image.resize((8, 8), Image.Resampling.BILINEAR))
    cropped = np.array(image.resize((8, 8), Image.Resampling.BILINEAR, box=(7, 0, 24, 17)))
    for crop, expected in ((True, cropped), (False, squeezed)):
        expected = torch.from_numpy(expected.transpose(2, 0, 1))[None]
        assert torch.equal(pixel_values(image, 3, do_center_crop=crop), to_pixel_values(expected))
        assert torch.equal(
            processor(3, do_center_crop=crop)(image, return_tensors="pt").pixel_values, to_pixel_values(expected)
        )
    # A float array with only zeros and ones in it is not taken for 0..255.
    binary = (GREY > 127).astype(np.float32)
    assert torch.equal(pixel_values(binary, size=4), pixel_values((binary * 255).astype(np.uint8), size=4))
    assert pixel_values(binary, size=4).unique().numel() > 2


def test_floats_that_fit_are_not_rounded_to_8_bits():
    values = np.random.default_rng(0).random((3, 8, 8)).astype(np.float32)
    torch.testing.assert_close(pixel_values(values, 3)[0], torch.tensor(values) * 2 - 1, atol=1e-6, rtol=0)
    rounded = torch.tensor(values * 255).round() / 127.5 - 1
    torch.testing.assert_close(
        pixel_values(Image.fromarray((values * 255).round().astype(np.uint8).transpose(1, 2, 0)), 3)[0],
        rounded,
        atol=1e-6,
        rtol=0,
    )


def test_resize_filter_is_used_and_does_not_overshoot():
    image = (GREY > 127).astype(np.float32)
    values = {
        name: pixel_values(image, size=20, resample=getattr(Image.Resampling, name)) for name in ("NEAREST", "LANCZOS")
    }
    assert set(values["NEAREST"].unique().tolist()) == {-1.0, 1.0}
    assert values["LANCZOS"].unique().numel() > 100 and values["LANCZOS"].abs().max() <= 1


def test_steps_can_be_left_out():
    assert pixel_values(RGB, 3, size=4, do_resize=False).shape == (1, 3, 8, 8)
    torch.testing.assert_close(pixel_values(GREY, do_rescale=False, do_normalize=False)[0, 0], torch.tensor(GREY))
    torch.testing.assert_close(pixel_values(GREY, do_normalize=False)[0, 0], torch.tensor(GREY / 255).float())
    # Floating point images are in [0, 1] already: the same with and without rescaling.
    torch.testing.assert_close(
        pixel_values((GREY / 255).astype(np.float32), do_rescale=False), GREY_VALUES, atol=1e-6, rtol=0
    )


def test_numpy_output():
    values = processor()(GREY, return_tensors="np").pixel_values
    assert isinstance(values, np.ndarray) and values.shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((8, 8), np.nan), "must be finite"),
        (np.full((8, 8, 3), np.inf), "must be finite"),
        (torch.full((1, 8, 8), float("nan")), "must be finite"),
        (GREY.astype(np.float32), r"floating point values in \[0, 1\], got float32 values in \["),
        (GREY / 127.5 - 1, r"floating point values in \[0, 1\]"),
        (GREY.astype(np.int64) + 255, "integers in 0..255"),
        (np.zeros((2, 8, 8)), r"1, 3 or 4 channels.*\(2, 8, 8\)"),
        (Image.fromarray(GREY).convert("I"), "32-bit values .mode 'I'."),
        (Image.fromarray(GREY).convert("F"), "32-bit values .mode 'F'."),
        ([GREY, "nowhere.png"], "image 'nowhere.png' is not there"),
        ([], "at least one image"),
    ],
)
def test_bad_images(image, message):
    with pytest.raises(ValueError, match=message):
        processor()(image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_mean": [0.5, 0.5]}, "`image_mean` must be a list of 1 .*, 3 .* or 4"),
        ({"image_mean": 0.5}, "`image_mean` must be a list"),
        ({"image_mean": [0.5]}, "equally long"),
        ({"size": {"shortest_edge": 8}}, "`size` must be"),
        ({"crop_size": {"height": 8, "width": 8}}, "`crop_size` must be None"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LZNImageProcessor(**arguments)


# ---------------------------------------------------------------- back to images


def test_postprocess_inverts():
    (grey,) = processor().postprocess(GREY_VALUES)
    assert grey.mode == "L" and np.array_equal(np.array(grey), GREY)
    (rgb,) = processor(3).postprocess(RGB_VALUES)
    assert rgb.mode == "RGB" and np.array_equal(np.array(rgb), RGB)


def test_postprocess_rounds_and_clips():
    values = torch.tensor([-9, -1, -1 + 0.99 / 255, -1 + 1.01 / 255, 0.0, 1, 9]).view(1, 1, 1, 7)
    (image,) = processor().postprocess(values)
    assert np.array(image).tolist() == [[0, 0, 0, 1, 128, 255, 255]]
    assert processor().postprocess(values, "pt").flatten()[[0, 1, 4, 5, 6]].tolist() == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("channels", "values"), [(1, GREY_VALUES), (3, RGB_VALUES), (4, torch.cat([RGB_VALUES, GREY_VALUES], 1))]
)
def test_outputs_can_be_fed_back(channels, values):
    values = values.repeat(2, 1, 1, 1)
    array, tensor = (processor(channels).postprocess(values, kind) for kind in ("np", "pt"))
    assert array.shape == (2, 8, 8, channels) and array.dtype == np.float32
    assert tensor.shape == (2, channels, 8, 8) and tensor.dtype == torch.float32
    for images in (array, tensor, processor(channels).postprocess(values)):
        torch.testing.assert_close(pixel_values(images, channels), values, atol=1e-6, rtol=0)


def test_postprocess_errors():
    with pytest.raises(ValueError, match="`output_type` must be 'pil', 'np' or 'pt', got 'jpg'"):
        processor().postprocess(GREY_VALUES, "jpg")
    with pytest.raises(ValueError, match=r"1, 3 or 4, height, width\), got \(1, 2, 8, 8\)"):
        processor().postprocess(torch.zeros(1, 2, 8, 8))


# ---------------------------------------------------------------- saving


def test_save_and_load(tmp_path):
    before = processor(1, 12, resample=Image.Resampling.BICUBIC)
    before.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["preprocessor_config.json"]
    after = LZNImageProcessor.from_pretrained(tmp_path)
    assert after.to_dict() == before.to_dict()
    assert torch.equal(after(RGB, return_tensors="pt").pixel_values, before(RGB, return_tensors="pt").pixel_values)


def test_folders_that_were_saved_without_a_crop_keep_squeezing(tmp_path):
    wide = Image.fromarray(RGB).resize((16, 8))
    processor(3).save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    saved = json.loads(path.read_text())
    assert saved.pop("do_center_crop") is True and "crop_size" not in saved
    path.write_text(json.dumps(saved))
    old = LZNImageProcessor.from_pretrained(tmp_path)
    expected = processor(3, do_center_crop=False)(wide, return_tensors="pt").pixel_values
    assert torch.equal(old(wide, return_tensors="pt").pixel_values, expected)
    old.save_pretrained(tmp_path)
    assert LZNImageProcessor.from_pretrained(tmp_path).do_center_crop is False
    assert LZNImageProcessor.from_pretrained(tmp_path, do_center_crop=True).do_center_crop is True


def test_batches_in_a_list_are_one_batch():
    batch = torch.tensor(np.stack([RGB, RGB[::-1]]))
    assert torch.equal(pixel_values([batch, batch], 3), pixel_values(batch, 3).repeat(2, 1, 1, 1))
    assert torch.equal(
        pixel_values([GREY[..., None]] * 2, input_data_format="channels_last"), pixel_values([GREY, GREY])
    )
