# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images, views of them, and each operation of a view in an independent float64 form, for the tests of `data.views`."""

from __future__ import annotations

import colorsys

import numpy as np
import torch
from PIL import Image

from lzn_hf.data.views import ViewSettings, random_views


def random_images(batch: int = 6, channels: int = 3, height: int = 16, width: int | None = None) -> torch.Tensor:
    shape = (batch, channels, height, width or height)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def view(images: torch.Tensor, settings: ViewSettings, size: int = 12, seed: int = 0) -> torch.Tensor:
    return random_views(images, settings, size=size, generator=seeded(seed))


# Oracles: one image (C, H, W), float64, in [0, 255] ---------------------------------------------------------------------


def oracle_crop(image: np.ndarray, top, left, height, width, mirrored, size: int) -> np.ndarray:
    box = (left, top, left + width, top + height)
    channels = [Image.fromarray(channel.astype(np.float32)) for channel in image]  # mode F
    resized = [np.array(c.resize((size, size), Image.Resampling.BILINEAR, box=box), np.float64) for c in channels]
    return np.stack(resized)[..., :: -1 if mirrored else 1]


def oracle_luma(image: np.ndarray) -> np.ndarray:
    return image[0] if len(image) == 1 else 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]


def oracle_colour(name: str, image: np.ndarray, value: float) -> np.ndarray:
    result = np.empty_like(image)
    mean = oracle_luma(image).mean()
    for place in np.ndindex(image.shape[1:]):
        pixel, grey = image[(slice(None), *place)], oracle_luma(image)[place]
        if name == "brightness":
            new = value * pixel
        elif name == "contrast":
            new = value * pixel + (1 - value) * mean
        elif name == "saturation":
            new = value * pixel + (1 - value) * grey
        else:
            hue, saturation, top = colorsys.rgb_to_hsv(*(pixel / 255))
            new = 255 * np.array(colorsys.hsv_to_rgb((hue + value) % 1, saturation, top))
        result[(slice(None), *place)] = np.clip(new, 0, 255)
    return result


def oracle_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    def blur(channel: np.ndarray) -> np.ndarray:  # zeros beyond the image, and a kernel that is nowhere cut off
        return gaussian_filter(channel, sigma, mode="constant", radius=2 * max(channel.shape))

    return np.stack([blur(channel) / blur(np.ones_like(channel)) for channel in image])
