# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`images_lzn`: one way from an image to pixels, for every mode, size and orientation, and for every way in."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.images import as_png, png, random_images, write_parquet
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_utils import load_image

from lzn_hf import LZNConfig, LZNImageProcessor
from lzn_hf import images_lzn as images_module
from lzn_hf.data import load_image_data, to_pixel_values
from lzn_hf.images_lzn import ImageError, image_to_pixels


SIZES = {"square": (8, 8), "wide": (16, 8), "tall": (8, 15), "smaller": (7, 5), "larger": (24, 21)}  # width, height
TURN = {  # how an image that is stored with this EXIF orientation is seen
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def grey_and_hole(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey values that skip 0 and 7, colours of 6 values, and where the image is transparent."""
    rng = np.random.default_rng(sum(size))
    grey = rng.integers(8, 256, size[::-1]).astype(np.uint8)
    colours = rng.integers(1, 7, (*size[::-1], 3)).astype(np.uint8) * 40
    return grey, colours, rng.random(size[::-1]) < 0.3


def palette_image(grey: np.ndarray, hole: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    """Indices 1..5 into a palette of colours, 0 for the hole; and what they show."""
    palette = np.random.default_rng(7).integers(0, 256, (6, 3)).astype(np.uint8)
    indices = np.where(hole, 0, grey % 5 + 1).astype(np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(palette.tobytes())
    return image, palette[indices]


def make_images(size: tuple[int, int]) -> dict[str, tuple[Image.Image, dict, np.ndarray]]:
    """By name: an image, how to save it, and what is seen of it on white, `(H, W)` or `(H, W, 3)`."""
    grey, colours, hole = grey_and_hole(size)
    alpha = np.where(hole, 0, 255).astype(np.uint8)
    grey_on_white, on_white = np.where(hole, 255, grey).astype(np.uint8), np.where(hole[..., None], 255, colours)
    palette, shown = palette_image(grey, hole)
    shown_on_white = np.where(hole[..., None], 255, shown)
    sixteen = grey.astype(np.uint16) * 257 - np.uint16(100)  # rounds to grey
    sixteen_with_hole = np.where(hole, 7, sixteen).astype(np.uint16)
    return {
        "1.png": (Image.fromarray(hole), {}, np.where(hole, 255, 0).astype(np.uint8)),
        "L.png": (Image.fromarray(grey), {}, grey),
        "L-colour-key.png": (Image.fromarray(np.where(hole, 7, grey).astype(np.uint8)), {"transparency": 7}, grey_on_white),
        "LA.png": (Image.fromarray(np.stack([grey, alpha], -1), "LA"), {}, grey_on_white),
        "P.png": (palette, {}, shown),
        "P-byte-alpha.png": (palette, {"transparency": b"\0" + b"\xff" * 5}, shown_on_white),
        "P-one-colour.png": (palette, {"transparency": 0}, shown_on_white),
        "P-one-colour.gif": (palette, {"transparency": 0}, shown_on_white),
        "RGB.png": (Image.fromarray(colours), {}, colours),
        "RGB-colour-key.png": (
            Image.fromarray(np.where(hole[..., None], 7, colours).astype(np.uint8)), {"transparency": (7, 7, 7)}, on_white,
        ),
        "RGBA.png": (Image.fromarray(np.dstack([colours, alpha])), {}, on_white),
        "RGBA.webp": (Image.fromarray(np.dstack([colours, alpha])), {"lossless": True, "exact": True}, on_white),
        "I;16.png": (Image.fromarray(sixteen), {}, grey),
        "I;16-colour-key.png": (Image.fromarray(sixteen_with_hole), {"transparency": 7}, grey_on_white),
        # Compressed: Pillow itself misreads an uncompressed one that is turned by 90 degrees if it opens it by its path.
        "I;16.tif": (Image.fromarray(sixteen), {"compression": "tiff_lzw"}, grey),
        "CMYK.tif": (Image.fromarray(np.dstack([255 - colours, np.zeros_like(grey)]), "CMYK"), {"compression": "tiff_lzw"}, colours),
        "RGBA.tif": (Image.fromarray(np.dstack([colours, alpha])), {"compression": "tiff_lzw"}, on_white),
    }  # fmt: skip


def write_matrix(folder: Path) -> dict[Path, np.ndarray]:
    """Writes every mode, size and orientation; returns what is seen of each file, in the order of their names."""
    seen = {}
    for size_name, size in SIZES.items():
        for name, (image, options, upright) in make_images(size).items():
            for orientation in range(1, 9):
                if orientation > 1 and name.endswith(".gif"):
                    continue  # which have no EXIF data
                path = folder / f"{size_name}-{orientation}-{name}"
                exif = Image.Exif()
                exif[0x0112] = orientation
                image.save(path, **options, **({} if name.endswith(".gif") else {"exif": exif}))
                seen[path] = np.ascontiguousarray(TURN[orientation](upright))
    return {path: seen[path] for path in sorted(seen)}


@pytest.fixture(scope="module")
def matrix(tmp_path_factory) -> dict[Path, np.ndarray]:
    return write_matrix(tmp_path_factory.mktemp("matrix"))


def fitted(seen: np.ndarray, num_channels: int) -> np.ndarray:
    """The largest centred square, 8 x 8, `(C, H, W)`."""
    image = Image.fromarray(seen).convert("L" if num_channels == 1 else "RGB")
    width, height = image.size
    side = min(width, height)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    pixels = np.array(image.resize((8, 8), Image.Resampling.BILINEAR, box=box))
    return pixels[None] if num_channels == 1 else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_training_and_inference_see_the_same_pixels_of_every_file(matrix, num_channels: int, tmp_path: Path):
    paths, folder = list(matrix), next(iter(matrix)).parent
    expected = torch.from_numpy(np.stack([fitted(seen, num_channels) for seen in matrix.values()]))

    def check(pixels: torch.Tensor) -> None:
        wrong = [paths[i].name for i in (pixels != expected).flatten(1).any(1).nonzero().flatten()]
        assert not wrong, (len(wrong), wrong[:20])

    # The function, from a path, the bytes of a file, and a PIL image that is not decoded yet.
    options = {"num_channels": num_channels, "size": (8, 8)}
    check(torch.stack([image_to_pixels(path, **options) for path in paths]))
    check(torch.stack([image_to_pixels(str(path), **options) for path in paths]))
    check(torch.stack([image_to_pixels(path.read_bytes(), **options) for path in paths]))
    check(torch.stack([image_to_pixels(Image.open(path), **options) for path in paths]))

    # Training: a folder of files, and an Image column of `datasets`.
    settings = {"image_size": 8, "num_channels": num_channels, "use_labels": False, "validation_fraction": 0}
    check(load_image_data(data_dir=folder, **settings).train.pixel_values)
    files = [{"bytes": path.read_bytes(), "path": None} for path in paths]
    check(
        load_image_data(data_dir=write_parquet(tmp_path / "parquet", {"image": files}), **settings).train.pixel_values
    )

    # Inference: to the bit what training makes of the pixels.
    half = [0.5] * num_channels
    processor = LZNImageProcessor(size={"height": 8, "width": 8}, image_mean=half, image_std=half)
    processor.save_pretrained(tmp_path)
    LZNConfig().save_pretrained(tmp_path)
    pixel_values = to_pixel_values(expected)
    for loaded in (processor, AutoImageProcessor.from_pretrained(tmp_path)):
        for images in (paths, [path.read_bytes() for path in paths], [Image.open(path) for path in paths]):
            values = loaded(images, return_tensors="pt").pixel_values
            check(expected.where(values == pixel_values, 255 - expected))


@pytest.mark.parametrize("num_channels", [1, 3])
def test_what_transformers_opens_itself_is_right_unless_it_loses_the_alpha(matrix, num_channels: int):
    """`transformers.pipeline(path)` hands over `load_image(path)`, which is upright and RGB."""
    half = [0.5] * num_channels
    processor = LZNImageProcessor(size={"height": 8, "width": 8}, image_mean=half, image_std=half)
    right = set()
    for path, seen in matrix.items():
        values = processor(load_image(str(path)), return_tensors="pt").pixel_values[0]
        if torch.equal(values, to_pixel_values(torch.from_numpy(fitted(seen, num_channels))[None])[0]):
            right.add(path.name)
    lost = {
        "LA.png",
        "P-byte-alpha.png",
        "RGBA.png",
        "RGBA.webp",
        "RGBA.tif",
        "I;16.png",
        "I;16.tif",
        "I;16-colour-key.png",
    }
    for path in matrix:
        if path.name.split("-", 2)[2] not in lost:
            assert path.name in right


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_arrays_and_tensors_are_the_images_that_they_hold(size: tuple[int, int], num_channels: int):
    half = [0.5] * num_channels
    processor = LZNImageProcessor(size={"height": 8, "width": 8}, image_mean=half, image_std=half)
    for name in ("L.png", "RGB.png", "RGBA.png"):
        image, _, seen = make_images(size)[name]
        array = np.array(image)
        expected = torch.from_numpy(fitted(seen, num_channels))
        forms = [array, array.astype(np.int64), torch.from_numpy(array), array / 255, (array / 255).astype(np.float32)]
        forms += (
            [array[..., None]]
            if array.ndim == 2
            else [array.transpose(2, 0, 1), torch.from_numpy(array / 255).permute(2, 0, 1)]
        )
        for form in forms:
            assert torch.equal(image_to_pixels(form, num_channels, (8, 8)), expected)
            values = processor(form, return_tensors="pt").pixel_values
            torch.testing.assert_close(values, to_pixel_values(expected[None]), atol=1e-6, rtol=0)
            if form.dtype in (np.uint8, torch.uint8):
                assert torch.equal(values, to_pixel_values(expected[None]))


@pytest.mark.parametrize(("mode", "via"), [("La", "LA"), ("RGBa", "RGBA"), ("PA", "RGBA")])
def test_modes_that_no_file_has(mode: str, via: str):
    image, _, seen = make_images((8, 8))[f"{via}.png"]
    if mode == "PA":
        palette, shown = palette_image(*(grey_and_hole((8, 8))[i] for i in (0, 2)))
        alpha = Image.fromarray(np.where(grey_and_hole((8, 8))[2], 0, 255).astype(np.uint8))
        image, seen = palette.convert("PA"), np.where(grey_and_hole((8, 8))[2][..., None], 255, shown)
        image.putalpha(alpha)
    else:
        image = image.convert(mode)
    assert image.mode == mode
    pixels = image_to_pixels(image)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy().squeeze(-1 if mode == "La" else ()), seen)


def test_half_transparent_pixels_are_half_white():
    image = Image.fromarray(np.full((2, 2, 4), (10, 20, 30, 51), np.uint8))  # alpha 1/5
    assert image_to_pixels(image)[:, 0, 0].tolist() == [206, 208, 210]


def test_four_channels_are_what_is_seen_and_where(tmp_path: Path):
    """Laid on white, pixels of 4 channels are those of 3: transparency of each form becomes alpha."""
    for name, (image, options, seen) in make_images((16, 8)).items():
        image.save(tmp_path / name, **options)
        pixels = image_to_pixels(tmp_path / name, num_channels=4)
        kept = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
        on_white = Image.alpha_composite(Image.new("RGBA", kept.size, "white"), kept).convert("RGB")
        assert np.array_equal(np.array(on_white), np.array(Image.fromarray(seen).convert("RGB"))), name
        is_transparent = "A" in image.mode or "transparency" in options
        assert (pixels[3] == 0).any() == is_transparent, name


def test_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"`num_channels` must be .*1.*3.*4.*got 2"):
        image_to_pixels(np.zeros((8, 8), np.uint8), num_channels=2)


def test_a_squeezed_image_is_not_cropped():
    image, _, seen = make_images((16, 8))["RGB.png"]
    expected = np.array(Image.fromarray(seen).resize((8, 8), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    pixels = image_to_pixels(image, size=(8, 8), crop=False, resample=Image.Resampling.BICUBIC)
    assert np.array_equal(pixels.numpy(), expected)
    assert image_to_pixels(image).shape == (3, 8, 16)


def test_32_bit_integers_of_a_16_bit_file(tmp_path: Path):
    values = np.array([[0, 128, 129, 65535]])
    (tmp_path / "x.pgm").write_bytes(b"P5 4 1 65535 " + values.astype(">u2").tobytes())
    assert image_to_pixels(tmp_path / "x.pgm")[0, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("url", ["http://a.b/c.png", "https://a.b/c.png", "FTP://a/b", "s3://a/b", "file:///etc/x.png", "data:image/png;base64,AA"])  # fmt: skip
def test_urls_are_refused(url: str):
    with pytest.raises(ImageError, match="is a URL: only local files are opened"):
        image_to_pixels(url)
    with pytest.raises(ValueError, match="`images`: .* is a URL"):
        LZNImageProcessor()([url])


def test_large_images_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    content = png(random_images(1, shape=(20, 20))[0])
    (tmp_path / "x.png").write_bytes(content[:100])  # what follows the header is not looked at
    monkeypatch.setattr(images_module, "MAX_PIXELS", 399)
    for source in (content, tmp_path / "x.png", Image.new("L", (20, 20))):
        with pytest.raises(ImageError, match="is 20 x 20: more than 399 pixels are not decoded"):
            image_to_pixels(source)
    with pytest.raises(ImageError, match="more than 399 pixels"):
        image_to_pixels(np.zeros((20, 20)))
    monkeypatch.setattr(images_module, "MAX_PIXELS", 400)
    assert image_to_pixels(content).shape == (1, 20, 20)


def test_a_decompression_bomb_is_refused_by_its_header():
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    content = buffer.getvalue()
    bomb = as_png(content, width=60_000, height=60_000)
    with pytest.raises(ImageError, match="more than 64,000,000 pixels"):
        image_to_pixels(bomb)


def test_programs_are_not_run(tmp_path: Path):
    Image.new("L", (4, 4)).save(tmp_path / "x.eps")
    with pytest.raises(ImageError, match="is an EPS file, which is a program"):
        image_to_pixels(tmp_path / "x.eps")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "image of 0 bytes cannot be read"),
        (b"hello", "image of 5 bytes cannot be read"),
        (png(random_images(1)[0])[:-40], "cannot be read: OSError"),
        ("nowhere.png", "'nowhere.png' is not there: no such file"),
        (".", "is a folder"),
        ("x" * 5000, "is not there"),
        (7, "image of type int must be a path"),
        (None, "must be a path"),
        (Image.new("L", (0, 3)), "has no pixels: it is 0 x 3"),
        (Image.new("F", (2, 2)), "32-bit values .mode 'F'."),
        (Image.new("I", (2, 2)), "32-bit values .mode 'I'."),
        (np.zeros((0, 4), np.uint8), r"has no pixels: it is an array of shape \(0, 4\)"),
        (np.zeros((4, 0, 3), np.uint8), "has no pixels"),
        (np.zeros((4, 4), np.complex64), "must hold integers or floating point values, got an array of complex64"),
        (np.zeros((4, 4), object), "got an array of object"),
        (np.zeros((4, 4), "datetime64[s]"), "got an array of datetime64"),
        (np.full((4, 4), "a"), "got an array of <U1"),
        (np.zeros(4), r"must have shape .* got an array of shape \(4,\)"),
        (np.zeros((5, 4, 2)), r"1, 3 or 4 channels, got an array of shape \(5, 4, 2\)"),
        (np.zeros((1, 2, 3, 4, 4)), r"got an array of shape \(1, 2, 3, 4, 4\)"),
        (np.full((4, 4), 256), "must hold integers in 0..255"),
        (np.full((4, 4), -1), "must hold integers in 0..255"),
        (np.full((4, 4), 1.01), "floating point values in"),
        (np.full((4, 4), np.nan), "must be finite"),
        (torch.full((4, 4), float("inf")), "must be finite"),
    ],
)
def test_what_is_no_image_is_refused_by_name(source, message: str):
    with pytest.raises(ImageError, match=message):
        image_to_pixels(source)
    with pytest.raises(ValueError, match=f"`images`: .*{message}"):
        LZNImageProcessor()([source])
