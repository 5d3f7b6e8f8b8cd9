# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images to pixel values in [-1, 1] and back."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ChannelDimension, ImageInput, PILImageResampling, SizeDict


# Of Pillow's own conversion to "L" (ITU-R 601).
LUMA_WEIGHTS = (0.299, 0.587, 0.114)


class LZNImageProcessor(PilBackend):
    r"""
    Resizes images to a square and maps them to [-1, 1], as [`LZNModel`] expects them; `postprocess` goes the other way.

    Accepted are PIL images, NumPy arrays and tensors, one or a list of them: integers in 0..255 or floating point values in
    [0, 1], `(H, W)`, `(H, W, C)` or `(C, H, W)` with 1, 3 or 4 channels. The number of output channels is the length of
    `image_mean`: 1 converts every input to grey, 3 to RGB. Transparency is laid on white.

    Args:
        size (`dict[str, int]`, *optional*, defaults to `{"height": 32, "width": 32}`): output size; an image that has it already
            is not resampled.
        resample (`int`, *optional*, defaults to `PIL.Image.Resampling.BILINEAR`): Pillow's filter, antialiased when it shrinks.
        rescale_factor (`float`, *optional*, defaults to 1/255): factor from 0..255 to [0, 1].
        image_mean, image_std (`list[float]`, *optional*, defaults to `[0.5, 0.5, 0.5]`): mapping of [0, 1], per channel.
        do_resize, do_rescale, do_normalize (`bool`, *optional*, defaults to `True`): which of the steps are done.

    Example:

    ```py
    processor = LZNImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    pixel_values = processor(image, return_tensors="pt").pixel_values  # (1, 1, 8, 8) in [-1, 1]
    image = processor.postprocess(pixel_values)[0]  # a grey PIL image
    ```
    """

    do_resize = True
    size = {"height": 32, "width": 32}
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]

    def _standardize_kwargs(self, **kwargs) -> dict:
        kwargs = super()._standardize_kwargs(**kwargs)
        mean, std, size = kwargs["image_mean"], kwargs["image_std"], kwargs["size"]
        for name, value in (("image_mean", mean), ("image_std", std)):
            if not isinstance(value, tuple) or len(value) not in (1, 3):
                raise ValueError(f"`{name}` must be a list of 1 (grey) or 3 (RGB) numbers, got {value!r}.")
        if len(mean) != len(std):
            raise ValueError(f"`image_mean` and `image_std` must be equally long, got {mean} and {std}.")
        if size is not None and not (size.height and size.width):
            raise ValueError(f"`size` must be {{'height': ..., 'width': ...}}, got {size}.")
        return kwargs

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3) -> ImageInput:
        # transformers refuses plain (H, W) arrays: give them their channel.
        if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 2:
            images = [images[None]]
        elif isinstance(images, (list, tuple)):
            if len(images) == 0:
                raise ValueError("`images` must hold at least one image, got an empty list.")
            images = [image[None] if getattr(image, "ndim", None) == 2 else image for image in images]
        return super()._prepare_images_structure(images, expected_ndims=expected_ndims)

    def process_image(
        self,
        image: ImageInput,
        image_mean: tuple[float, ...] | None = None,
        do_rescale: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs,
    ) -> np.ndarray:
        """One image to a `(C, H, W)` array with as many channels as `image_mean` has elements.

        The values are in 0..255, for the rescaling that follows; with `do_rescale=False` they keep the range they came in.

        Raises:
            ValueError: for NaN, infinite or out-of-range values, other channel counts, and PIL modes with more than 8 bits.
        """
        num_channels = len(image_mean if image_mean is not None else self.image_mean)
        if isinstance(image, Image.Image):
            return _pil_to_array(image, num_channels)
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu()
            image = (image.float() if image.is_floating_point() else image).numpy()
        if not isinstance(image, np.ndarray):
            raise ValueError(f"`images` must be PIL images, NumPy arrays or tensors, got {type(image).__name__}.")
        image = _channels_first(image, input_data_format)
        highest = _check_range(image)
        image = _convert_channels(image, num_channels, highest)
        return image * 255.0 if highest == 1 and (self.do_rescale if do_rescale is None else do_rescale) else image

    def resize(self, image: np.ndarray, size: SizeDict, resample: int | None = None, **kwargs) -> np.ndarray:
        """Resizes `(C, H, W)` in 0..255 to `(C, size.height, size.width)`, in floating point.

        transformers' own resizing rounds arrays to 8 bits and takes arrays of only zeros and ones for 0..255.
        """
        if image.shape[1:] == (size.height, size.width):
            return image
        resample = PILImageResampling.BILINEAR if resample is None else PILImageResampling(resample)
        channels = [Image.fromarray(channel.astype(np.float32)) for channel in image]
        resized = np.stack([np.asarray(channel.resize((size.width, size.height), resample)) for channel in channels])
        return resized.clip(0, 255)  # bicubic and Lanczos filters overshoot

    def postprocess(
        self, pixel_values: torch.Tensor, output_type: str = "pil"
    ) -> list[Image.Image] | np.ndarray | torch.Tensor:
        """Pixel values of a model to images; the conventions are those of diffusers.

        Args:
            pixel_values (`Tensor` of shape `(B, C, H, W)`): images in [-1, 1], C = 1 or 3; values outside are clipped.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`: list of 8-bit PIL images, grey ("L") for one channel;
                `"np"`: array `(B, H, W, C)` in [0, 1]; `"pt"`: tensor `(B, C, H, W)` in [0, 1], on the same device.

        Raises:
            ValueError: for another output type or shape.
        """
        check_output_type(output_type)
        if pixel_values.ndim != 4 or pixel_values.shape[1] not in (1, 3):
            raise ValueError(
                f"`pixel_values` must have shape (batch, 1 or 3, height, width), got {tuple(pixel_values.shape)}."
            )
        images = (pixel_values.detach().float() / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return images
        images = images.permute(0, 2, 3, 1).cpu().numpy()
        if output_type == "np":
            return images
        bytes_ = (images * 255).round().astype(np.uint8)
        return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in bytes_]


def check_output_type(output_type: str) -> None:
    """Raises a `ValueError` unless `output_type` is one that `LZNImageProcessor.postprocess` knows."""
    if output_type not in ("pil", "np", "pt"):
        raise ValueError(f"`output_type` must be 'pil', 'np' or 'pt', got {output_type!r}.")


def _pil_to_array(image: Image.Image, num_channels: int) -> np.ndarray:
    """A PIL image to `(num_channels, H, W)`, uint8."""
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow's conversion to RGB would clip these to white without a word.
        raise ValueError(
            f"`images` must be 8-bit images, got PIL mode {image.mode!r}: pass a floating point array in [0, 1] instead."
        )
    if image.mode == "L" and num_channels == 1:
        return np.array(image)[None]
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if num_channels == 1:
        # By Pillow, whose integer weights leave a grey pixel exactly what it was.
        return np.array(image.convert("L"))[None]
    return np.moveaxis(np.array(image), -1, 0)


def _channels_first(image: np.ndarray, input_data_format: str | ChannelDimension | None) -> np.ndarray:
    """`(H, W, C)` or `(C, H, W)` to `(C, H, W)`; where both are possible, `(C, H, W)` is meant."""
    if input_data_format is None:
        is_first = image.shape[0] in (1, 3, 4)
    else:
        is_first = ChannelDimension(input_data_format) is ChannelDimension.FIRST
    channels_first = image if is_first else np.moveaxis(image, -1, 0)
    if channels_first.shape[0] not in (1, 3, 4):
        raise ValueError(f"`images` must have 1, 3 or 4 channels, first or last, got an array of shape {image.shape}.")
    return channels_first


def _check_range(image: np.ndarray) -> int:
    """The highest possible value: 255 for integers, 1 for floating point. Raises a `ValueError` if a value is out of range."""
    is_integer = np.issubdtype(image.dtype, np.integer)
    if not is_integer and not np.isfinite(image).all():
        raise ValueError("`images` must be finite, got NaN or infinite values.")
    highest = 255 if is_integer else 1
    if image.min() < -1e-4 or image.max() > highest + 1e-4:  # a little room for rounding
        raise ValueError(
            "`images` must hold integers in 0..255 or floating point values in [0, 1], "
            f"got {image.dtype} values in [{image.min()}, {image.max()}]."
        )
    return highest


def _convert_channels(image: np.ndarray, num_channels: int, highest: int) -> np.ndarray:
    """`(1, 3 or 4, H, W)` in 0..highest to `(num_channels, H, W)`."""
    if image.shape[0] == 4:
        alpha = image[3] / np.float32(highest)
        image = image[:3] * alpha + highest * (1 - alpha)
    if image.shape[0] == num_channels:
        return image
    if num_channels == 3:
        return np.repeat(image, 3, axis=0)
    return np.tensordot(np.float32(LUMA_WEIGHTS), image.astype(np.float32), 1)[None]


__all__ = ["LZNImageProcessor"]
