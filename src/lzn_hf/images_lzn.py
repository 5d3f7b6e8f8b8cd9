# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""One way from an image to `uint8` pixels, for training, evaluation and inference alike: [`image_to_pixels`].

Every step is Pillow's, in 8 bits, in this order:

1. A file is opened and decoded, unless it has more than `MAX_PIXELS` pixels. Of an animation, the first frame is taken.
2. It is turned upright, as its EXIF orientation says.
3. 16-bit grey is scaled to 8 bits, `round(v / 257)`. Images of 32-bit integers or floats are refused: nothing tells which value is
   white.
4. Transparency (an alpha channel, plain or premultiplied, a palette with alpha, one transparent colour) is laid on white, or for
   pixels of 4 channels becomes an alpha channel.
5. Colours become grey (`L = 0.299 R + 0.587 G + 0.114 B`, in Pillow's integers) or grey becomes RGB.
6. Another size is resampled, antialiased: the largest centred box of the output's aspect ratio, or the whole image.
"""

from __future__ import annotations

import os
import re
import struct
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .checks_lzn import check_choice, is_among, shown, tensor_kind


ImageSource = str | os.PathLike | bytes | Image.Image | np.ndarray | Tensor

# 64 million pixels take 0.2 GB as RGB. Pillow alone warns at 89 million and refuses twice as many.
MAX_PIXELS = 64_000_000

URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)
# Pillow's mode of pixels, by their number of channels.
PIXEL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
ICON = b"\0\0\1\0"
GREY_MODES = ("1", "L", "LA", "La")
# Formats that Pillow opens as 32-bit integers (mode "I") while their values have 16 bits.
SIXTEEN_BIT_FORMATS = ("PNG", "PPM")


class ImageError(ValueError):
    """Says what is wrong with an image, as the end of a sentence of which the image is the subject."""


def image_to_pixels(
    source: ImageSource,
    num_channels: int | None = None,
    size: tuple[int, int] | None = None,
    *,
    crop: bool = True,
    resample: int = Image.Resampling.BILINEAR,
) -> Tensor:
    """Reads one image, see the steps above.

    Args:
        source (`str`, `os.PathLike`, `bytes`, `PIL.Image.Image`, `np.ndarray` or `Tensor`): path of a local file, content of a
            file, or an image. Arrays and tensors hold integers in 0..255 or floating point values in [0, 1] (rounded to 8 bits), of
            shape `(H, W)`, `(H, W, C)` or `(C, H, W)` with 1, 3 or 4 channels (the fourth is alpha); where both are possible,
            `(C, H, W)` is meant.
        num_channels (`int`, *optional*): 1 (grey), 3 (RGB) or 4 (RGB and alpha). `None`: 1 for grey images, 3 for all others.
        size (`tuple[int, int]`, *optional*): height and width. `None` keeps the size of the image.
        crop (`bool`, *optional*, defaults to `True`): whether another aspect ratio is brought to that of `size` by cutting off what
            is beyond the centre. `False` squeezes the image.
        resample (`int`, *optional*, defaults to `PIL.Image.Resampling.BILINEAR`): Pillow's filter.

    Returns:
        `Tensor` of shape `(num_channels, H, W)`, `uint8`.

    Raises:
        ValueError: for another number of channels.
        ImageError: for a URL, a file that is missing or cannot be read, an image with too many pixels or none, and values that are
            out of range or of another type.
    """
    check_choice((None, *PIXEL_MODES), num_channels=num_channels)
    try:
        image = flatten_image(open_image(source), keep_alpha=num_channels == 4)
        return fit_image(image, num_channels, size, crop=crop, resample=resample)
    except ImageError as error:
        raise ImageError(f"{describe_source(source)} {error}") from error


def describe_source(source: Any) -> str:
    """Names an image for an error message."""
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        return f"image {path[:200] + '...' if len(path) > 200 else path!r}"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"image of {len(source)} bytes"
    if isinstance(source, Image.Image):
        path = getattr(source, "filename", "")
        return f"image {path!r}" if path else f"image of mode {source.mode!r}"
    return f"image of type {type(source).__name__}"


def open_image(source: ImageSource) -> Image.Image:
    """Opens and decodes an image of at most `MAX_PIXELS` pixels, as it is stored: in any mode, not turned.

    Raises:
        ImageError: see [`image_to_pixels`].
    """
    if isinstance(source, (np.ndarray, Tensor)):
        return array_to_image(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(BytesIO(source))
    if isinstance(source, Image.Image):
        return _decode(source)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError("must be a path, the bytes of a file, a PIL image, a NumPy array or a tensor")
    path = os.fspath(source)
    if isinstance(path, str) and URL.match(path):
        raise ImageError("is a URL: only local files are opened, so download it and pass its path or its bytes")
    if not os.path.isfile(path):
        found = "is not a regular file" if os.path.exists(path) else "is not there: no such file"
        raise ImageError("is a folder" if os.path.isdir(path) else found)
    try:
        with open(path, "rb") as file:
            return _decode(file)
    except OSError as error:
        raise ImageError(f"cannot be read: {error!r}") from error


def _decode(source: BinaryIO | Image.Image) -> Image.Image:
    try:
        if not isinstance(source, Image.Image):
            _check_icon(source)
        image = source if isinstance(source, Image.Image) else Image.open(source)
        if image.format == "EPS":
            raise ImageError("is an EPS file, which is a program to run: convert it")
        _check_size(image.size)
        if image.format == "ICNS":  # as large as the file in it says, whatever its own header says
            _check_size(image.icns.getimage(image.best_size).size)  # type: ignore[attr-defined]
        image.load()
        _check_size(image.size)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"has more than {MAX_PIXELS:,} pixels, which are not decoded: {error}") from error
    except UnidentifiedImageError as error:  # whose message has the address of a buffer
        start = b"" if isinstance(source, Image.Image) else _first_bytes(source)
        raise ImageError(f"cannot be read: it begins with {start!r}, as no image does that Pillow knows") from error
    except Exception as error:  # Pillow's readers raise anything on damaged files: OSError, SyntaxError, struct.error
        raise ImageError(f"cannot be read: {error!r}") from error
    return image


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if 0 in size:
        raise ImageError(f"has no pixels: it is {width} x {height}")
    if width * height > MAX_PIXELS:
        raise ImageError(f"is {width} x {height}: more than {MAX_PIXELS:,} pixels are not decoded, make it smaller")


def _check_icon(file: BinaryIO) -> None:
    """Raises an [`ImageError`] for a Windows icon with a larger image in it than its header says: Pillow decodes it when it opens it."""
    start = file.read(6)
    if start[:4] == ICON:
        entries = file.read(16 * int.from_bytes(start[4:], "little"))
        for end in range(16, len(entries) + 1, 16):
            file.seek(int.from_bytes(entries[end - 4 : end], "little"))
            header = file.read(24)
            is_png = header.startswith(b"\x89PNG") and len(header) == 24
            size = struct.unpack(">LL", header[16:]) if is_png else struct.unpack("<ll", header[4:12].ljust(8, b"\1"))
            if abs(size[0] * size[1]) > (MAX_PIXELS if is_png else 2 * MAX_PIXELS):  # a bitmap has its mask below it
                _check_size(size)
    file.seek(0)


def _first_bytes(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(8)


def flatten_image(image: Image.Image, *, keep_alpha: bool = False) -> Image.Image:
    """Turns an image upright and makes it opaque, with 8 bits: of mode "L" if it is grey, else "RGB".

    Args:
        image (`PIL.Image.Image`): an image of any mode.
        keep_alpha (`bool`, *optional*, defaults to `False`): whether an image with transparency becomes one of mode "RGBA" instead.

    Raises:
        ImageError: if its mode cannot be converted.
    """
    mode, image_format = image.mode, image.format
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if mode.startswith("I;16") or (mode == "I" and image_format in SIXTEEN_BIT_FORMATS):
            image = _from_16_bits(image)
            mode = image.mode
        if mode.startswith(("I", "F")):
            raise ImageError(
                f"has 32-bit values (mode {mode!r}), of which nothing tells which is white: convert it to 8 or 16 bits, or pass an "
                "array of integers in 0..255 or floating point values in [0, 1]"
            )
        if image.has_transparency_data:
            if mode == "La":
                image = image.convert("LA")
            image = image.convert("RGBA")
            if keep_alpha:
                return image
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("L" if mode in GREY_MODES else "RGB")
    except ImageError:
        raise
    except Exception as error:  # damaged EXIF data or palettes
        raise ImageError(f"of mode {mode!r} cannot be converted: {error!r}") from error


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"must hold 16-bit values, got values in [{values.min()}, {values.max()}]")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))  # round(v / 257)
    transparency = image.info.get("transparency")
    if transparency is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparency, 0, 255).astype(np.uint8)))
    return grey


def fit_image(
    image: Image.Image,
    num_channels: int | None = None,
    size: tuple[int, int] | None = None,
    *,
    crop: bool = True,
    resample: int = Image.Resampling.BILINEAR,
) -> Tensor:
    """Converts an image of [`flatten_image`] to pixels of a number of channels and a size, see [`image_to_pixels`].

    Args:
        image (`PIL.Image.Image`): an image of mode "L", "RGB" or "RGBA".
        num_channels (`int`, *optional*): 1, 3 or 4; default: those of the image.
        size (`tuple[int, int]`, *optional*): height and width; default: those of the image.
        crop (`bool`, *optional*, defaults to `True`): whether to crop at the center instead of distorting.
        resample (`int`, *optional*, defaults to bilinear): one of Pillow's filters.

    Returns:
        `Tensor` of shape `(C, H, W)`: `uint8`.
    """
    if num_channels is not None:
        image = image.convert(PIXEL_MODES[num_channels])
    if size is not None and image.size != size[::-1]:
        if crop:
            image = ImageOps.fit(image, size[::-1], method=Image.Resampling(resample))
        else:
            image = image.resize(size[::-1], Image.Resampling(resample))
    pixels = np.array(image)  # a copy, since Pillow's is read-only
    return torch.from_numpy(pixels.reshape(image.height, image.width, -1)).permute(2, 0, 1)


def array_to_image(array: np.ndarray | Tensor, channels_first: bool | None = None) -> Image.Image:
    """Converts an array or a tensor to a PIL image of mode "L", "RGB" or "RGBA".

    Args:
        array (`np.ndarray` or `Tensor`): see [`image_to_pixels`].
        channels_first (`bool`, *optional*): whether the shape is `(C, H, W)`; `None` takes it for that if the first size is 1, 3 or 4.

    Raises:
        ImageError: for other shapes and types, and for values that are not finite or out of range.
    """
    array = _channels_first(array, channels_first)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ImageError("must be finite, got NaN or infinite values")
    highest = 255 if array.dtype.kind in "ui" else 1
    if array.min() < -1e-4 or array.max() > highest + 1e-4:  # a little room for rounding
        raise ImageError(
            "must hold integers in 0..255 or floating point values in [0, 1], "
            f"got {array.dtype} values in [{array.min()}, {array.max()}]"
        )
    if highest == 1:
        array = np.rint(array.clip(0, 1) * 255.0)
    pixels = np.moveaxis(array.astype(np.uint8), 0, -1)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def as_floats(array: np.ndarray | Tensor, channels_first: bool | None = None) -> np.ndarray | None:
    """A floating point array as float32 of shape `(C, H, W)`; `None` for other types. Arguments as in [`array_to_image`]."""
    values = _channels_first(array, channels_first)
    return values.astype(np.float32) if values.dtype.kind == "f" else None


def _channels_first(array: np.ndarray | Tensor, channels_first: bool | None) -> np.ndarray:
    if isinstance(array, Tensor):
        if (kind := tensor_kind(array)) != "dense":
            raise ImageError(f"must be a dense tensor, got a {kind} one")
        array = array.detach().cpu().resolve_conj().resolve_neg()
        array = (array.float() if array.is_floating_point() else array).numpy()
    if isinstance(array, np.ma.MaskedArray):
        raise ImageError("must say what every pixel is, got a masked array: pass array.filled(value)")
    array = np.asarray(array)  # a np.matrix has two dimensions, whatever is done to it
    shape = array.shape
    if array.dtype.kind not in "buif":
        raise ImageError(f"must hold integers or floating point values, got an array of {array.dtype}")
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and not (shape[0] in (1, 3, 4) if channels_first is None else channels_first):
        array = np.moveaxis(array, -1, 0)
    if array.ndim != 3 or array.shape[0] not in (1, 3, 4):
        raise ImageError(
            f"must have shape (H, W), or (H, W, C) or (C, H, W) with 1, 3 or 4 channels, got an array of shape {shape}"
        )
    if array.size == 0:
        raise ImageError(f"has no pixels: it is an array of shape {shape}")
    if array.shape[1] * array.shape[2] > MAX_PIXELS:
        raise ImageError(f"has more than {MAX_PIXELS:,} pixels: it is an array of shape {shape}")
    return array


def pixel_values_to_images(pixel_values: Tensor, output_type: str = "pil") -> list[Image.Image] | np.ndarray | Tensor:
    """Turns pixel values of a model into images, see `LZNImageProcessor.postprocess`.

    Args:
        pixel_values (`Tensor` of shape `(B, C, H, W)`): images in [-1, 1], C = 1, 3 or 4; values outside are clipped.
        output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"` or `"pt"`.

    Raises:
        ValueError: for another output type or shape, values that are not floating point, and NaN.
    """
    check_output_type(output_type)
    wanted = "`pixel_values` must have shape (batch, 1, 3 or 4, height, width)"
    if not isinstance(pixel_values, Tensor) or tensor_kind(pixel_values) != "dense":
        kind = f"a {tensor_kind(pixel_values)} tensor" if isinstance(pixel_values, Tensor) else type(pixel_values)
        raise ValueError(f"{wanted} and be a dense tensor, got {kind}.")
    if pixel_values.ndim != 4 or pixel_values.shape[1] not in PIXEL_MODES or 0 in pixel_values.shape[2:]:
        raise ValueError(f"{wanted}, got {tuple(pixel_values.shape)}.")
    if not pixel_values.is_floating_point():
        raise ValueError(f"`pixel_values` must be floating point in [-1, 1], got {pixel_values.dtype}.")
    if pixel_values.isnan().any():
        raise ValueError("`pixel_values` must not be NaN, got some that are.")
    images = (pixel_values.detach().float() / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return images
    arrays = images.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return arrays
    bytes_ = (arrays * 255).round().astype(np.uint8)
    return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in bytes_]


def check_output_type(output_type: str) -> None:
    """Raises a `ValueError` unless `output_type` is one that [`pixel_values_to_images`] knows."""
    if not is_among(("pil", "np", "pt"), output_type):
        raise ValueError(f"`output_type` must be 'pil', 'np' or 'pt', got {shown(output_type)}.")


__all__ = [
    "MAX_PIXELS",
    "PIXEL_MODES",
    "ImageError",
    "ImageSource",
    "array_to_image",
    "as_floats",
    "check_output_type",
    "describe_source",
    "fit_image",
    "flatten_image",
    "image_to_pixels",
    "open_image",
    "pixel_values_to_images",
]
