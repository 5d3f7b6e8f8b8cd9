# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images to pixel values in [-1, 1] and back."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ChannelDimension, PILImageResampling

from .checks_lzn import check_choice
from .files_lzn import check_names, check_plain, find_file, naming, read_object
from .images_lzn import (
    PIXEL_MODES,
    ImageError,
    array_to_image,
    as_floats,
    check_output_type,
    describe_source,
    fit_image,
    flatten_image,
    open_image,
    pixel_values_to_images,
)


MAX_SIZE = 16_384  # a damaged or hostile file could ask for more than the memory
# Pixel values that black and white may have for a model that is given images in [-1, 1], far above other libraries' mappings.
MAX_PIXEL_VALUE = 10
# The files that transformers reads; the first is of processors that hold others.
FILES = ("processor_config.json", "preprocessor_config.json")
# What such a file has beside the settings of a processor.
FILE_FIELDS = ("auto_map", "feature_extractor_type", "image_processor_type", "processor_class", "_processor_class")


class LZNImageProcessor(PilBackend):
    r"""
    Brings images to a size and maps them to [-1, 1], as [`LZNModel`] expects them; `postprocess` goes the other way.

    Accepted are local paths, the bytes of files, PIL images, NumPy arrays and tensors, one or a list of them; arrays and tensors may
    also be batches. Arrays hold integers in 0..255 or floating point values in [0, 1], `(H, W)`, `(H, W, C)` or `(C, H, W)` with 1, 3
    or 4 channels, the fourth being alpha. URLs are refused. [`image_to_pixels`] says how an image becomes 8-bit pixels: upright, laid
    on white where it is transparent, grey or RGB. Training images become pixels by the same function, so the model sees the same. Only
    floating point arrays that have the right size and channels already are not rounded to 8 bits.

    `transformers.pipeline(task)(image)` opens files and converts images to RGB before this processor sees them. It turns them
    upright, but drops an alpha channel and the alpha of palettes, and clips 16-bit grey. Use [`LZNPipeline`] or this processor for
    such images.

    Args:
        size (`dict[str, int]`, *optional*, defaults to `{"height": 32, "width": 32}`): output size; an image that has it already
            is not resampled.
        do_center_crop (`bool`, *optional*, defaults to `True`): whether an image of another aspect ratio is cropped at the centre, as
            in training, or (`False`) squeezed. Folders that were saved without this key squeeze, as they always did.
        resample (`int`, *optional*, defaults to `PIL.Image.Resampling.BILINEAR`): Pillow's filter, antialiased when it shrinks.
        rescale_factor (`float`, *optional*, defaults to 1/255): factor from 0..255 to [0, 1].
        image_mean, image_std (`list[float]`, *optional*, defaults to `[0.5, 0.5, 0.5]`): mapping of [0, 1], per channel. One number
            each makes every image grey, three make it RGB, and four keep its transparency, as a fourth channel.
        do_resize, do_rescale, do_normalize (`bool`, *optional*, defaults to `True`): which of the steps are done. Without
            `do_rescale`, pixel values keep their range: 0..255, and [0, 1] of floating point arrays.

    Example:

    ```py
    processor = LZNImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    pixel_values = processor("digit.png", return_tensors="pt").pixel_values  # (1, 1, 8, 8) in [-1, 1]
    image = processor.postprocess(pixel_values)[0]  # a grey PIL image
    ```
    """

    do_resize = True
    size = {"height": 32, "width": 32}
    do_center_crop = True
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads the settings of a saved processor, see `ImageProcessingMixin.get_image_processor_dict`.

        Raises:
            OSError: if there is no preprocessor_config.json, or one that is no JSON.
            ValueError: for settings of a wrong name, type or range; begins with the file.
        """
        name = pretrained_model_name_or_path
        paths = [name] if os.path.isfile(name) else filter(None, (find_file(name, file, kwargs) for file in FILES))
        for path in paths:
            fields = read_object(path)
            with naming(path):
                nested = fields.get("image_processor", {})
                if not isinstance(nested, dict):
                    raise ValueError(f"`image_processor` must be an object, got {nested!r}.")
                cls.from_dict(nested or fields)
        return super().get_image_processor_dict(name, **kwargs)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Builds an image processor from the content of a `preprocessor_config.json`; without `do_center_crop` it squeezes."""
        schema: Any = cls.valid_kwargs
        settings = schema.__annotations__
        check_plain(image_processor_dict)
        check_names(image_processor_dict, {*settings, *FILE_FIELDS}, cls)
        kind = image_processor_dict.get("image_processor_type")
        check_choice((None, LZNImageProcessor.__name__, cls.__name__), image_processor_type=kind)
        validate_typed_dict(schema, {name: value for name, value in image_processor_dict.items() if name in settings})
        return super().from_dict({"do_center_crop": False, **image_processor_dict}, **kwargs)

    def check_fits(self, image_size: int, num_channels: int) -> None:
        """Raises a `ValueError` unless this processor makes what a model takes: its size, its channels, and values around [-1, 1]."""
        size = {"height": image_size, "width": image_size}
        given: Any = self.size
        own = {"height": given.height, "width": given.width}
        if self.do_resize and own != size:
            raise ValueError(
                f"`size` of the image processor (preprocessor_config.json) must be {size}, as `image_size` of the model (config.json) is "
                f"{image_size}, got {own}."
            )
        if len(self.image_mean) != num_channels:
            raise ValueError(
                f"`image_mean` of the image processor (preprocessor_config.json) must be {num_channels} numbers, as `num_channels` of the "
                f"model (config.json) is {num_channels}, got {list(self.image_mean)}."
            )
        white = 255 * (self.rescale_factor if self.do_rescale else 1)
        for mean, std in zip(self.image_mean, self.image_std, strict=True):
            ends = [(one - mean) / std if self.do_normalize else one for one in (0, white)]
            if max(map(abs, ends)) > MAX_PIXEL_VALUE or ends[0] == ends[1]:
                raise ValueError(
                    "`rescale_factor`, `image_mean` and `image_std` of the image processor (preprocessor_config.json) must map black and "
                    f"white to about -1 and 1, which the model takes, got {ends[0]:.3g} and {ends[1]:.3g}."
                )

    def _standardize_kwargs(self, *args: Any, **kwargs: Any) -> dict:
        kwargs = super()._standardize_kwargs(*args, **kwargs)
        mean, std, size = kwargs["image_mean"], kwargs["image_std"], kwargs["size"]
        for name, value in (("image_mean", mean), ("image_std", std)):
            numbers = isinstance(value, tuple) and all(isinstance(one, Real) and math.isfinite(one) for one in value)
            if not numbers or len(value) not in PIXEL_MODES:
                raise ValueError(f"`{name}` must be a list of 1 (grey), 3 (RGB) or 4 (RGBA) numbers, got {value!r}.")
        if min(std) <= 0:
            raise ValueError(f"`image_std` must be positive, got {std}.")
        factor = kwargs["rescale_factor"]
        if factor is not None and not 0 < factor < math.inf:
            raise ValueError(f"`rescale_factor` must be positive and finite, got {factor!r}.")
        if kwargs["resample"] not in (None, *map(int, PILImageResampling)):
            raise ValueError(f"`resample` must be one of Pillow's filters, 0 to 5, got {kwargs['resample']!r}.")
        if len(mean) != len(std):
            raise ValueError(f"`image_mean` and `image_std` must be equally long, got {mean} and {std}.")
        if size is not None and min(size.height or 0, size.width or 0) < 1:
            raise ValueError(f"`size` must be {{'height': ..., 'width': ...}}, got {size}.")
        if size is not None and max(size.height, size.width) > MAX_SIZE:
            raise ValueError(f"`size` must be at most {MAX_SIZE} in height and width, got {size}.")
        if kwargs["crop_size"] is not None:
            raise ValueError(f"`crop_size` must be None, as images are cropped to `size`, got {kwargs['crop_size']}.")
        return kwargs

    def _validate_preprocess_kwargs(self, *args: Any, **kwargs: Any) -> None:
        kwargs["do_center_crop"] = False  # with which transformers wants a `crop_size`
        super()._validate_preprocess_kwargs(*args, **kwargs)

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> Any:
        if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
            images = list(images)
        if not isinstance(images, Sequence) or isinstance(images, (str, bytes)):
            return [images]
        images = list(images)  # also of a column of a dataset
        if len(images) == 0:
            raise ValueError("`images` must hold at least one image, got an empty list.")
        if nested := [image for image in images if isinstance(image, (list, tuple))]:
            raise ValueError(
                f"`images` must be one image or a list of images, got a list with a {type(nested[0]).__name__} of "
                f"{len(nested[0])} in it: pass numbers as an array, and images of several lists in one."
            )
        batches = [image for image in images if getattr(image, "ndim", 3) == 4]
        if batches and len(batches) == len(images):
            return [image for batch in batches for image in batch]
        return images

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Converts one image to a `(C, H, W)` array with as many channels as `image_mean` has elements.

        Args:
            image (`ImageSource`): a path, the bytes of a file, a PIL image, an array or a tensor.
            do_convert_rgb (`bool`, *optional*): is not used, as `image_mean` decides on the channels.
            input_data_format (`str`, *optional*): whether the channels of an array come "channels_first" or "channels_last".
            kwargs: settings of the processor, which default to its own.

        Returns:
            `np.ndarray`: `uint8` in 0..255. Floating point arrays that have the right size and channels stay float32, also in 0..255,
            and all of them are in [0, 1] with `do_rescale=False`.

        Raises:
            ValueError: for what is no image, see [`image_to_pixels`].
        """

        def setting(name: str) -> Any:
            value = kwargs.get(name)
            return getattr(self, name) if value is None else value

        first = None if input_data_format is None else ChannelDimension(input_data_format) is ChannelDimension.FIRST
        num_channels, size = len(setting("image_mean")), None
        if setting("do_resize"):
            size = (setting("size").height, setting("size").width)
        try:
            if not isinstance(image, (np.ndarray, torch.Tensor)):
                opened, values = open_image(image), None
            else:
                opened, values = array_to_image(image, first), as_floats(image, first)
            scale = np.float32(255 if setting("do_rescale") else 1)
            if values is not None and values.shape == (num_channels, *(size or values.shape[1:])):
                return values * scale
            crop, resample = setting("do_center_crop"), setting("resample")
            flat = flatten_image(opened, keep_alpha=num_channels == 4)
            pixels = fit_image(flat, num_channels, size, crop=crop, resample=resample).numpy()
        except ImageError as error:
            raise ValueError(f"`images`: {describe_source(image)} {error}.") from error
        return pixels if values is None or scale == 255 else pixels / np.float32(255)

    def _preprocess(self, images: list[np.ndarray], **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        # (factor x - mean) / std as one division and one difference: to the bit what training computes, x / 127.5 - 1.
        mean, std = (np.asarray(kwargs[name])[:, None, None] for name in ("image_mean", "image_std"))
        factor = kwargs["rescale_factor"] if kwargs["do_rescale"] else 1.0
        processed = []
        for image in images:
            if kwargs["do_normalize"]:
                image = image.astype(np.float32) / np.float32(std / factor) - np.float32(mean / std)
            elif kwargs["do_rescale"]:
                image = image.astype(np.float32) * np.float32(factor)
            processed.append(image)
        return BatchFeature(data={"pixel_values": processed}, tensor_type=kwargs["return_tensors"])

    def postprocess(
        self, pixel_values: torch.Tensor, output_type: str = "pil"
    ) -> list[Image.Image] | np.ndarray | torch.Tensor:
        """Pixel values of a model to images; the conventions are those of diffusers.

        Args:
            pixel_values (`Tensor` of shape `(B, C, H, W)`): images in [-1, 1], C = 1, 3 or 4; values outside are clipped.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`: list of 8-bit PIL images, grey ("L") for one channel, "RGBA"
                for four; `"np"`: array `(B, H, W, C)` in [0, 1]; `"pt"`: tensor `(B, C, H, W)` in [0, 1], on the same device.

        Raises:
            ValueError: for another output type or shape.
        """
        return pixel_values_to_images(pixel_values, output_type)


__all__ = ["LZNImageProcessor", "check_output_type"]
