# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Random views of images for representation learning, a whole batch at a time and on the device of the images.

    generator = torch.Generator().manual_seed(0)
    first = random_views(images, IMAGENET_VIEWS, size=224, generator=generator)  # uint8 in, float in [-1, 1] out
    second = random_views(images, IMAGENET_VIEWS, size=224, generator=generator)

A view is, in this order: a crop of random place and shape brought to the size asked for, a mirror image, other colours,
grey, blur. Whether and how much is drawn for each image by itself.

The pure functions below work on pixel values in [0, 255] as floats, `(B, C, H, W)` with C 1 or 3, and take one number for
each image, `(B,)`. Crop and blur are linear and separable, so each is one product `R X K^T` per channel with matrices of
the image itself: no padding, no kernel size, and no step through a coarser grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor


CROP_TRIES = 10  # boxes drawn for each image, until one fits
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as everywhere in image files
JITTER = ("brightness", "contrast", "saturation", "hue")
MIN_EXPONENT = -30.0  # e^-30 is far below float32's resolution; smaller weights would be denormal, and slow


# Settings


@dataclass(frozen=True)
class ViewSettings:
    """Settings of random views. The defaults change nothing. Images with one channel ignore `saturation`, `hue` and `grayscale`.

    Args:
        crop_scale (`tuple[float, float]`, *optional*, defaults to `(1.0, 1.0)`): bounds of the fraction of the image's area that is
            kept, uniform, in (0, 1].
        crop_ratio (`tuple[float, float]`, *optional*, defaults to `(1.0, 1.0)`): bounds of width / height of the crop; its logarithm is
            uniform.
        flip (`float`, *optional*, defaults to 0): probability of a mirror image, left to right.
        jitter (`float`, *optional*, defaults to 0): probability of a change of the four below, in a random order.
        brightness, contrast, saturation (`float`, *optional*, defaults to 0): strengths s; the factor is uniform in
            [max(0, 1 - s), 1 + s].
        hue (`float`, *optional*, defaults to 0): strength s, from 0 to 1/2; the shift is uniform in [-s, s] turns of the colour circle.
        grayscale (`float`, *optional*, defaults to 0): probability of a grey view.
        blur (`float`, *optional*, defaults to 0): probability of a blur.
        blur_sigma (`tuple[float, float]`, *optional*, defaults to `(0.1, 2.0)`): bounds of its standard deviation in pixels of the view,
            uniform. The published 0.1 to 2 belong to 224 pixels: scale them by the size. Leave blur out below about 64 pixels, as
            SimCLR does at 32: there it changes next to nothing (up to 0.3) or erases details.

    Raises:
        ValueError: for a value of another form or out of range, naming it.
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        largest = {"crop_scale": 1.0, "hue": 0.5, **dict.fromkeys(("flip", "jitter", "grayscale", "blur"), 1.0)}
        for name in (field.name for field in fields(self)):
            value, high = getattr(self, name), largest.get(name, math.inf)
            if name in ("crop_scale", "crop_ratio", "blur_sigma"):
                pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))
                if not (pair and 0 < value[0] <= value[1] <= high):
                    limits = "from low to high, above 0" + (f" and at most {high:g}" if high < math.inf else "")
                    raise ValueError(f"`{name}` must be two finite numbers {limits}, got {value!r}.")
                object.__setattr__(self, name, tuple(value))  # JSON has lists
            elif not (_is_number(value) and 0 <= value <= high):
                limits = f"from 0 to {high:g}" if high < math.inf else "of at least 0"
                raise ValueError(f"`{name}` must be a finite number {limits}, got {value!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# MoCo v2 (Chen et al., arXiv 2003.04297): the views of SimCLR (arXiv 2002.05709) with weaker colours, for 224 pixels.
IMAGENET_VIEWS = ViewSettings(
    crop_scale=(0.2, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grayscale=0.2,
    blur=0.5,
    blur_sigma=(0.1, 2.0),
)


# Parameters


class ViewParameters(NamedTuple):
    """The changes of each image, all `(B,)` float32; neutral values in parentheses.

    The box of the crop in pixels of the image (edges, not centres of pixels), 1 where it is mirrored (0), the factors of the colours
    (1), the shift of the hue (0), 1 where the view is grey (0), and sigma of the blur (0).
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    grey: Tensor
    sigma: Tensor


def draw_parameters(
    settings: ViewSettings,
    batch: int,
    height: int,
    width: int,
    generator: torch.Generator,
    process_index: int = 0,
    num_processes: int = 1,
) -> tuple[ViewParameters, list[str]]:
    """Draws a view for each of `batch` images of `height` x `width` pixels, on the device of the generator.

    The box: area and logarithm of the ratio are uniform within their bounds, drawn anew until the box fits (as published:
    large areas are rarer for that); after ten tries it is the largest one of the ratio nearest to the image's. Its place
    is uniform. Boxes are not rounded to whole pixels.

    The count of numbers drawn depends on `batch` and `num_processes` alone, so two settings with one seed differ only in the fields that differ.

    Args:
        settings ([`ViewSettings`]): bounds and probabilities.
        batch, height, width (`int`): number and size of the images.
        generator (`torch.Generator`): draws everything.
        process_index, num_processes (`int`, *optional*, default to 0 and 1): draw for the images of all processes, each of which has
            `batch` of them, and take those of this one.

    Returns:
        `tuple[ViewParameters, list[str]]`: the parameters, and the names in `JITTER` in the order in which colours are changed. The
        whole batch has one order, so that each change is one operation on it.
    """
    # Rows of numbers in [0, 1), each used once.
    draws = torch.rand(2 * CROP_TRIES + 11, num_processes * batch, generator=generator, device=generator.device)
    draws = draws[:, process_index * batch : (process_index + 1) * batch]
    areas, ratios, rest = draws.split((CROP_TRIES, CROP_TRIES, 11))
    y, x, flip, jitter, brightness, contrast, saturation, hue, grey, blur, sigma = rest
    order = torch.randperm(len(JITTER), generator=generator, device=generator.device).tolist()

    areas = height * width * _between(areas, *settings.crop_scale)
    ratios = _between(ratios, *map(math.log, settings.crop_ratio)).exp()
    widths, heights = (areas * ratios).sqrt(), (areas / ratios).sqrt()
    fits = (widths <= width) & (heights <= height)
    first = fits.int().argmax(0, keepdim=True)
    ratio = min(max(width / height, settings.crop_ratio[0]), settings.crop_ratio[1])
    box_width = torch.where(fits.any(0), widths.gather(0, first)[0], min(width, height * ratio))
    box_height = torch.where(fits.any(0), heights.gather(0, first)[0], min(height, width / ratio))

    def factor(draw: Tensor, strength: float) -> Tensor:
        return torch.where(jitter < settings.jitter, _between(draw, max(0.0, 1 - strength), 1 + strength), 1.0)

    parameters = ViewParameters(
        top=y * (height - box_height),
        left=x * (width - box_width),
        height=box_height,
        width=box_width,
        mirrored=(flip < settings.flip).float(),
        brightness=factor(brightness, settings.brightness),
        contrast=factor(contrast, settings.contrast),
        saturation=factor(saturation, settings.saturation),
        hue=torch.where(jitter < settings.jitter, _between(hue, -settings.hue, settings.hue), 0.0),
        grey=(grey < settings.grayscale).float(),
        sigma=torch.where(blur < settings.blur, _between(sigma, *settings.blur_sigma), 0.0),
    )
    return parameters, [JITTER[number] for number in order]


def _between(draws: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * draws


# Views


def random_views(
    images: Tensor,
    settings: ViewSettings,
    *,
    size: int,
    generator: torch.Generator,
    process_index: int = 0,
    num_processes: int = 1,
) -> Tensor:
    """Makes one random view of each image. Call it twice, with one generator, for two views.

    Args:
        images (`Tensor` of shape `(B, C, H, W)`): `uint8`, C 1 or 3, on any device. The crop of a larger image is antialiased.
        settings ([`ViewSettings`]): bounds and probabilities.
        size (`int`): height and width of the views.
        generator (`torch.Generator`): draws everything. A CPU generator gives the same parameters whatever device the images are
            on, without waiting for a GPU.
        process_index, num_processes (`int`, *optional*, default to 0 and 1): see [`draw_parameters`].

    Returns:
        `Tensor` of shape `(B, C, size, size)`: float32 in [-1, 1], on the device of `images`. With default settings, and images of
        `size`, these are the [`to_pixel_values`] of the images to the bit.

    Raises:
        ValueError: for images of another shape or type, and a `size` below 1.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ValueError(
            f"`images` must be uint8 (B, C, H, W) with 1 or 3 channels, got {images.dtype} {tuple(images.shape)}."
        )
    if size < 1:
        raise ValueError(f"`size` must be at least 1 pixel, got {size}.")
    batch, channels, height, width = images.shape
    drawn, order = draw_parameters(settings, batch, height, width, generator, process_index, num_processes)
    drawn = ViewParameters(*torch.stack(drawn).to(images.device))  # one copy to the device
    changes = {
        "brightness": adjust_brightness,
        "contrast": adjust_contrast,
        "saturation": adjust_saturation,
        "hue": adjust_hue,
    }
    with torch.autocast(images.device.type, enabled=False):  # bfloat16 has fewer steps than the bytes
        pixels = crop(images.float(), drawn.top, drawn.left, drawn.height, drawn.width, drawn.mirrored, size=size)
        for name in order if settings.jitter else ():
            if getattr(settings, name) and (channels == 3 or name in ("brightness", "contrast")):
                pixels = changes[name](pixels, getattr(drawn, name))
        if settings.grayscale and channels == 3:
            pixels = torch.where(_of_image(drawn.grey) > 0, luma(pixels), pixels)
        if settings.blur:
            pixels = gaussian_blur(pixels, drawn.sigma)
    return pixels.clamp_(0, 255).div_(127.5).sub_(1.0)


def _of_image(values: Tensor) -> Tensor:
    """`(B,)` -> `(B, 1, 1, 1)`."""
    return values[:, None, None, None]


# Crop and blur


def crop(
    pixels: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, mirrored: Tensor, *, size: int
) -> Tensor:
    """Resamples the box of each image, bilinear and antialiased:

        Y = R X K^T,   R_ij = max(0, 1 - |j + 1/2 - c_i| / s) / sum_j,   c_i = top + (i + 1/2) height / size,
        s = max(1, height / size)

    and K alike from `left` and `width`, its rows in reverse order where `mirrored` is not 0. This is Pillow's
    `resize(BILINEAR, box=...)`: beyond the box, neighbours in the image count; beyond the image, nothing does.

    Args:
        pixels (`Tensor` of shape `(B, C, H, W)`): images.
        top, left, height, width (`Tensor` of shape `(B,)`): the box in pixels, within the image, not rounded.
        mirrored (`Tensor` of shape `(B,)`): not 0 where the result is mirrored left to right.
        size (`int`): height and width of the result.

    Returns:
        `Tensor` of shape `(B, C, size, size)`.
    """
    rows = _triangle_weights(top, height, pixels.shape[2], size)
    columns = _triangle_weights(left, width, pixels.shape[3], size)
    columns = torch.where(mirrored[:, None, None] != 0, columns.flip(1), columns)
    return _separable(rows, pixels, columns)


def gaussian_blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Blurs each image by a Gaussian, and leaves it as it is where sigma is 0:

        Y = G X G^T,   G_ij = exp(-(i - j)^2 / (2 sigma^2)) / sum_j

    The kernel is not cut off and counts only pixels of the image, so that it may be wider than the image.

    Args:
        pixels (`Tensor` of shape `(B, C, H, W)`): images.
        sigma (`Tensor` of shape `(B,)`): standard deviation in pixels, at least 0.
    """
    height, width = pixels.shape[2:]
    safe = torch.where(sigma > 0, sigma, 1.0)  # replaced below where sigma is 0
    blurred = _separable(_gaussian_weights(safe, height), pixels, _gaussian_weights(safe, width))
    return torch.where(_of_image(sigma) > 0, blurred, pixels)


def _triangle_weights(start: Tensor, length: Tensor, size_in: int, size_out: int) -> Tensor:
    """`(B, size_out, size_in)`, see [`crop`]."""
    scale = length[:, None] / size_out
    centres = start[:, None] + (torch.arange(size_out, device=start.device) + 0.5) * scale
    distances = torch.arange(size_in, device=start.device) + 0.5 - centres[..., None]
    weights = (1 - distances.abs() / scale.clamp(min=1)[..., None]).clamp_(min=0)
    return weights / weights.sum(-1, keepdim=True)


def _gaussian_weights(sigma: Tensor, size: int) -> Tensor:
    """`(B, size, size)`, see [`gaussian_blur`]."""
    places = torch.arange(size, device=sigma.device)
    exponents = -((places[:, None] - places) ** 2) / (2 * sigma[:, None, None] ** 2)
    return exponents.clamp_(min=MIN_EXPONENT).softmax(-1)


def _separable(rows: Tensor, pixels: Tensor, columns: Tensor) -> Tensor:
    """`rows X columns^T` of every channel: `(B, M, H)`, `(B, C, H, W)`, `(B, N, W)` -> `(B, C, M, N)`."""
    across = torch.bmm(pixels.flatten(1, 2), columns.mT).unflatten(1, pixels.shape[1:3])
    return rows[:, None] @ across


# Colours. Results are clipped to [0, 255]; a factor of 1 changes nothing, to the bit.


def luma(pixels: Tensor) -> Tensor:
    """Returns `0.299 R + 0.587 G + 0.114 B`, `(B, 1, H, W)`; grey images as they are."""
    if pixels.shape[1] == 1:
        return pixels
    return sum(weight * channel for weight, channel in zip(LUMA, pixels.split(1, dim=1), strict=True))


def adjust_brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Returns `factor X`."""
    return (pixels * _of_image(factor)).clamp_(0, 255)


def adjust_contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """Returns `factor X + (1 - factor) m`, with m the mean over the image of its [`luma`]."""
    mean = luma(pixels).mean((2, 3), keepdim=True)
    return torch.lerp(mean, pixels, _of_image(factor)).clamp_(0, 255)


def adjust_saturation(pixels: Tensor, factor: Tensor) -> Tensor:
    """Returns `factor X + (1 - factor) L`, with L the [`luma`] of each pixel."""
    return torch.lerp(luma(pixels), pixels, _of_image(factor)).clamp_(0, 255)


def adjust_hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue of the HSV cone by `shift` turns; value `V = max(R, G, B)` and chroma `D = V - min(R, G, B)` stay.

    With the hue h in sixths of a turn (R at 0, G at 2, B at 4), for n = 5, 3, 1 (red, green, blue):

        Y_n = V - D max(0, min(1, 2 - |k - 2|)),   k = (n + h + 6 shift) mod 6

    Args:
        pixels (`Tensor` of shape `(B, 3, H, W)`): images.
        shift (`Tensor` of shape `(B,)`): turns.
    """
    red, green, blue = pixels.unbind(1)
    value = pixels.amax(1)
    chroma = value - pixels.amin(1)
    divisor = torch.where(chroma == 0, 1.0, chroma)  # grey has no hue, and needs none
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    turned = hue + 6 * shift[:, None, None]
    channels = [value - chroma * (2 - ((turned + n).remainder_(6) - 2).abs_()).clamp_(0, 1) for n in (5, 3, 1)]
    return torch.stack(channels, dim=1)


__all__ = [
    "IMAGENET_VIEWS",
    "ViewParameters",
    "ViewSettings",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "crop",
    "draw_parameters",
    "gaussian_blur",
    "luma",
    "random_views",
]
