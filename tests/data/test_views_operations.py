# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`data.views`: each operation against an independent float64 form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.views import oracle_blur, oracle_colour, oracle_crop, oracle_luma, random_images

from lzn_hf.data.views import (
    JITTER,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    crop,
    gaussian_blur,
    luma,
)


@pytest.mark.parametrize("size", [5, 12, 40])  # by a factor of up to 3.6 smaller, to 20 larger
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_is_pillows_resize_of_the_box(size: int, channels: int):
    images = random_images(4, channels, 14, 18).float()
    top, left = torch.tensor([0.0, 3.3, 11.5, 0.0]), torch.tensor([0.0, 0.25, 15.0, 7.0])
    height, width = torch.tensor([14.0, 9.1, 2.0, 14.0]), torch.tensor([18.0, 17.5, 3.0, 5.0])
    mirrored = torch.tensor([0.0, 1.0, 0.0, 1.0])
    result = crop(images, top, left, height, width, mirrored, size=size)
    assert result.shape == (4, channels, size, size)
    for i in range(4):
        box = (float(values[i]) for values in (top, left, height, width))
        expected = oracle_crop(images[i].double().numpy(), *box, bool(mirrored[i]), size)
        np.testing.assert_allclose(result[i], expected, atol=1e-3)


def test_crop_of_whole_pixels_is_a_slice():
    images = random_images(2, 3, 10).float()
    boxes = (torch.tensor([1.0, 4.0]), torch.tensor([2.0, 0.0]), torch.tensor([6.0, 6.0]), torch.tensor([6.0, 6.0]))
    result = crop(images, *boxes, torch.tensor([0.0, 1.0]), size=6)
    assert torch.equal(result[0], images[0, :, 1:7, 2:8])
    assert torch.equal(result[1], images[1, :, 4:10, 0:6].flip(-1))


@pytest.mark.parametrize(("name", "channels"), [*((name, 3) for name in JITTER), ("brightness", 1), ("contrast", 1)])
def test_colours_against_their_formulas(name: str, channels: int):
    images = random_images(5, channels, 6).float()
    images[:, :, 0, :4] = torch.tensor([0.0, 255.0, 77.0, 254.0])  # without hue
    if channels == 3:  # the corners of the colour cube, where two channels are equal
        images[:, :, 1, :] = 255 * torch.tensor([[1, 1, 0, 0, 0, 1], [0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]).float()
    values = torch.tensor([-0.5, -0.07, 0.0, 0.1, 0.5] if name == "hue" else [0.0, 0.6, 1.0, 1.4, 2.5])
    functions = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    result = dict(zip(JITTER, functions, strict=True))[name](images, values)
    for i, value in enumerate(values.tolist()):
        np.testing.assert_allclose(result[i], oracle_colour(name, images[i].double().numpy(), value), atol=2e-4)
    assert result.min() >= 0 and result.max() <= 255


@pytest.mark.parametrize("adjust", [adjust_brightness, adjust_contrast, adjust_saturation])
def test_factor_one_changes_nothing_and_zero_all(adjust):
    images = random_images(1).float().expand(2, -1, -1, -1)
    one, zero = adjust(images, torch.tensor([1.0, 0.0]))
    assert torch.equal(one, images[0])
    grey = luma(images[:1])[0]
    expected = {adjust_brightness: 0 * grey, adjust_contrast: grey.mean(), adjust_saturation: grey}[adjust]
    torch.testing.assert_close(zero, expected.expand(3, 16, 16))


def test_luma():
    images = random_images(2).float()
    for i in range(2):
        np.testing.assert_allclose(luma(images)[i, 0], oracle_luma(images[i].double().numpy()), rtol=1e-6)
    assert torch.equal(luma(images[:, :1]), images[:, :1])


@pytest.mark.parametrize("size", [1, 3, 17])  # smaller than the kernel, too
def test_blur_is_scipys(size: int):
    pytest.importorskip("scipy", reason="the oracle is scipy's gaussian_filter")
    images = random_images(5, 3, size, size + 2).float()
    sigma = torch.tensor([0.1, 0.0, 0.7, 2.0, 40.0])
    result = gaussian_blur(images, sigma)
    assert torch.equal(result[1], images[1])
    for i in (0, 2, 3):
        np.testing.assert_allclose(result[i], oracle_blur(images[i].double().numpy(), float(sigma[i])), atol=1e-3)
    # So wide a kernel weighs all pixels of a small image (almost) alike.
    means = images[4].mean((1, 2), keepdim=True)
    assert (result[4] - means).abs().max() < 0.2 * (images[4] - means).abs().max() + 1e-3


def test_everything_is_computed_on_the_device_of_the_images():
    """The meta device refuses to work with tensors of another one."""
    images, values = random_images().float().to("meta"), torch.ones(6, device="meta")
    results = [crop(images, *[values] * 5, size=16), gaussian_blur(images, values)]
    results += [function(images, values) for function in (adjust_brightness, adjust_contrast)]
    results += [function(images, values) for function in (adjust_saturation, adjust_hue)]
    for result in results:
        assert result.device.type == "meta" and result.shape == images.shape
