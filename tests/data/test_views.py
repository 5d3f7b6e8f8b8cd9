# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`data.views`: each operation against an independent float64 form, whole views image by image, what is drawn how often."""

from __future__ import annotations

import colorsys
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from lzn_hf.data.batches import to_pixel_values
from lzn_hf.data.views import (
    IMAGENET_VIEWS,
    JITTER,
    ViewSettings,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    crop,
    draw_parameters,
    gaussian_blur,
    luma,
    random_views,
)


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


# Operations -------------------------------------------------------------------------------------------------------------


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


# Whole views ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_view_is_what_the_oracles_make_of_the_drawn_parameters(channels: int, seed: int):
    pytest.importorskip("scipy", reason="the oracle is scipy's gaussian_filter")
    settings = replace(IMAGENET_VIEWS, grayscale=0.5)
    images = random_images(6, channels, 14, 18)
    views = view(images, settings, size=9, seed=seed)
    drawn, order = draw_parameters(settings, 6, 14, 18, seeded(seed))
    for i, image in enumerate(images.double().numpy()):
        own = {name: float(values[i]) for name, values in drawn._asdict().items()}
        image = oracle_crop(image, *(own[name] for name in ("top", "left", "height", "width", "mirrored")), 9)
        for name in order:
            if channels == 3 or name in ("brightness", "contrast"):
                image = oracle_colour(name, image, own[name])
        if own["grey"]:
            image = np.broadcast_to(oracle_luma(image), image.shape)
        if own["sigma"]:
            image = oracle_blur(image, own["sigma"])
        np.testing.assert_allclose(views[i], image / 127.5 - 1, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 8, 28, 33, 96])
def test_settings_that_do_nothing_give_the_pixel_values(channels: int, size: int):
    images = random_images(3, channels, size)
    for settings in (
        ViewSettings(),
        ViewSettings(crop_ratio=(0.75, 1.5)),
        ViewSettings(jitter=1.0, blur_sigma=(1, 2)),
    ):
        views = view(images, settings, size=size)
        assert views.dtype == torch.float32 and torch.equal(views, to_pixel_values(images))
    assert torch.equal(view(images, ViewSettings(flip=1.0), size=size), to_pixel_values(images.flip(-1)))


def test_seed_decides_everything():
    images = random_images(16)
    first, again, other = (view(images, IMAGENET_VIEWS, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert ((first - other).abs().amax((1, 2, 3)) > 0.01).all()


def test_two_calls_with_one_generator_are_two_views():
    images, generator = random_images(16), seeded()
    first, second = (random_views(images, IMAGENET_VIEWS, size=12, generator=generator) for _ in range(2))
    assert ((first - second).abs().amax((1, 2, 3)) > 0.01).all()


@pytest.mark.parametrize(
    "settings",
    [
        ViewSettings(crop_scale=(0.2, 0.9)),
        ViewSettings(jitter=1.0, brightness=0.4),
        ViewSettings(jitter=1.0, contrast=0.4),
        ViewSettings(jitter=1.0, saturation=0.4),
        ViewSettings(jitter=1.0, hue=0.1),
        ViewSettings(blur=1.0, blur_sigma=(0.5, 2.0)),
    ],
)
def test_each_image_has_parameters_of_its_own(settings: ViewSettings):
    views = view(random_images(1).expand(8, -1, -1, -1), settings)
    distances = (views[:, None] - views).abs().amax((2, 3, 4))
    assert (distances + torch.eye(8) > 1e-4).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_values_stay_in_range(channels: int):
    strong = ViewSettings((0.05, 1.0), (0.5, 2.0), 0.5, 1.0, 2.0, 3.0, 3.0, 0.5, 0.2, 0.5, (0.1, 5.0))
    images = 255 * (random_images(64, channels) > 127).to(torch.uint8)
    views = view(images, strong, size=20)
    assert torch.isfinite(views).all()
    assert views.min() == -1 and views.max() == 1


def test_grey_images_have_no_colours_to_change():
    images = random_images(8, 1)
    colours = {"saturation": 0.4, "hue": 0.1, "grayscale": 0.5}
    plain = replace(IMAGENET_VIEWS, **dict.fromkeys(colours, 0.0))
    assert torch.equal(view(images, IMAGENET_VIEWS), view(images, plain))


def test_lost_colours_leave_equal_channels():
    views = view(random_images(200), replace(IMAGENET_VIEWS, grayscale=0.3))
    grey = (views.amax(1) - views.amin(1)).amax((1, 2)) < 1e-6
    assert 0.15 < grey.float().mean() < 0.45
    assert (view(random_images(200), replace(IMAGENET_VIEWS, grayscale=0.0)).std(1).amax((1, 2)) > 1e-3).all()


def test_jitter_and_blur_leave_the_other_images_alone():
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    settings = ViewSettings(jitter=0.5, **strengths, blur=0.5, blur_sigma=(0.5, 2.0))
    images = random_images(64)
    drawn, _ = draw_parameters(settings, 64, 16, 16, seeded())
    changed = (view(images, settings, size=16) - to_pixel_values(images)).abs().amax((1, 2, 3)) > 1e-4
    assert torch.equal(changed, (drawn.brightness != 1) | (drawn.sigma > 0))
    assert 5 < (~changed).sum() < 30


def test_global_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    view(random_images(), IMAGENET_VIEWS)
    assert torch.equal(torch.get_rng_state(), before)


def test_autocast_does_not_round_the_pixels():
    images = random_images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = view(images, IMAGENET_VIEWS)
    assert inside.dtype == torch.float32 and torch.equal(inside, view(images, IMAGENET_VIEWS))


def test_everything_is_computed_on_the_device_of_the_images():
    """The meta device refuses to work with tensors of another one."""
    images, values = random_images().float().to("meta"), torch.ones(6, device="meta")
    results = [crop(images, *[values] * 5, size=16), gaussian_blur(images, values)]
    results += [function(images, values) for function in (adjust_brightness, adjust_contrast)]
    results += [function(images, values) for function in (adjust_saturation, adjust_hue)]
    for result in results:
        assert result.device.type == "meta" and result.shape == images.shape


def test_batch_may_be_empty():
    assert view(random_images(0), IMAGENET_VIEWS).shape == (0, 3, 12, 12)


# What is drawn ----------------------------------------------------------------------------------------------------------


COUNT = 20_000


def published_boxes(settings: ViewSettings, height: int, width: int) -> np.ndarray:
    """Areas and ratios of the published crop: a loop that draws a box anew until it fits."""
    random, boxes = np.random.default_rng(0), []
    while len(boxes) < COUNT:
        area = height * width * random.uniform(*settings.crop_scale)
        ratio = math.exp(random.uniform(*np.log(settings.crop_ratio)))
        if math.sqrt(area * ratio) <= width and math.sqrt(area / ratio) <= height:
            boxes.append((area, ratio))
    return np.array(boxes)


@pytest.mark.parametrize(("height", "width"), [(20, 20), (20, 24)])
def test_boxes_are_drawn_as_published(height: int, width: int):
    drawn, _ = draw_parameters(IMAGENET_VIEWS, COUNT, height, width, seeded())
    areas, ratios = (drawn.height * drawn.width).numpy(), (drawn.width / drawn.height).numpy()
    published = published_boxes(IMAGENET_VIEWS, height, width)
    for values, expected in zip((areas, np.log(ratios)), (published[:, 0], np.log(published[:, 1])), strict=True):
        quantiles = np.linspace(0.02, 0.98, 25)
        differences = np.quantile(values, quantiles) - np.quantile(expected, quantiles)
        assert np.abs(differences).max() < 0.03 * np.ptp(expected)  # 0.01 where both are right
    assert areas.min() >= 0.2 * height * width * (1 - 1e-5)
    assert ratios.min() >= 0.75 * (1 - 1e-5) and ratios.max() <= 4 / 3 * (1 + 1e-5)
    for start, length, whole in ((drawn.top, drawn.height, height), (drawn.left, drawn.width, width)):
        assert (start >= 0).all() and (start + length <= whole * (1 + 1e-6)).all()
        place = start / (whole - length)
        torch.testing.assert_close(place.quantile(torch.tensor([0.25, 0.5, 0.75])), torch.tensor([0.25, 0.5, 0.75]), atol=0.02, rtol=0)  # fmt: skip


@pytest.mark.parametrize(("height", "width", "box"), [(10, 40, (10, 20)), (40, 10, (20, 10)), (12, 12, (12, 12))])
def test_where_no_box_fits_it_is_the_largest_of_the_nearest_ratio(height: int, width: int, box: tuple[int, int]):
    settings = ViewSettings(crop_scale=(1.0, 1.0), crop_ratio=(0.5, 2.0))
    drawn, _ = draw_parameters(settings, 100, height, width, seeded())
    torch.testing.assert_close(drawn.height, torch.full((100,), float(box[0])))
    torch.testing.assert_close(drawn.width, torch.full((100,), float(box[1])))


def test_how_often_and_how_much():
    drawn, _ = draw_parameters(IMAGENET_VIEWS, COUNT, 32, 32, seeded())
    jittered, blurred = drawn.brightness != 1, drawn.sigma > 0
    shares = {"mirrored": drawn.mirrored, "jittered": jittered, "grey": drawn.grey, "blurred": blurred}
    for name, expected in (("mirrored", 0.5), ("jittered", 0.8), ("grey", 0.2), ("blurred", 0.5)):
        assert abs(shares[name].float().mean() - expected) < 4 * 0.5 / math.sqrt(COUNT), name
    for name in JITTER:
        assert torch.equal(getattr(drawn, name) != (0 if name == "hue" else 1), jittered), name  # all or none
    ranges = {**dict.fromkeys(JITTER, (0.6, 1.4)), "hue": (-0.1, 0.1), "sigma": (0.1, 2.0)}
    for name, (low, high) in ranges.items():
        values = getattr(drawn, name)[blurred if name == "sigma" else jittered]
        places = ((values - low) / (high - low)).quantile(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
        torch.testing.assert_close(places, torch.linspace(0, 1, 5), atol=0.02, rtol=0)
        assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
    places = [drawn.top / (32 - drawn.height), drawn.left / (32 - drawn.width), drawn.width * drawn.height]
    own = torch.stack([*places, *drawn[drawn._fields.index("mirrored") :]])
    correlations = torch.corrcoef(own[:, jittered & blurred])  # drawn independently of each other
    assert (correlations - torch.eye(len(own))).abs().max() < 0.06


def test_strength_above_one_does_not_turn_colours_round():
    drawn, _ = draw_parameters(ViewSettings(jitter=1.0, contrast=1.5), 1000, 8, 8, seeded())
    assert 0 <= drawn.contrast.min() < 0.02 and 2.48 < drawn.contrast.max() <= 2.5


def test_orders_of_the_colours_are_all_drawn():
    generator = seeded()
    orders = [tuple(draw_parameters(IMAGENET_VIEWS, 1, 8, 8, generator)[1]) for _ in range(400)]
    assert len(set(orders)) == 24 and all(sorted(order) == sorted(JITTER) for order in orders)


def test_settings_with_one_seed_differ_only_in_what_they_name():
    drawn, order = draw_parameters(IMAGENET_VIEWS, 50, 16, 16, seeded())
    other, other_order = draw_parameters(replace(IMAGENET_VIEWS, flip=0.0, blur=0.0), 50, 16, 16, seeded())
    assert order == other_order
    for name, values in drawn._asdict().items():
        if name in ("mirrored", "sigma"):
            assert not getattr(other, name).any() and values.any()
        else:
            assert torch.equal(values, getattr(other, name)), name
        assert values.shape == (50,) and values.dtype == torch.float32


# Settings and errors ----------------------------------------------------------------------------------------------------


def test_settings_come_back_from_json():
    assert ViewSettings(**json.loads(json.dumps(asdict(IMAGENET_VIEWS)))) == IMAGENET_VIEWS
    assert ViewSettings(crop_scale=[0.5, 1]).crop_scale == (0.5, 1)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("crop_scale", [(0.0, 1.0), (0.5, 1.1), (0.8, 0.2), 0.3, (0.2,), ("0.2", "1"), (0.5, math.nan)]),
        ("crop_ratio", [(0.0, 1.0), (2.0, 1.0), (1.0, math.inf)]),
        ("blur_sigma", [(0.0, 1.0), (2.0, 1.0), 1.0]),
        ("flip", [-0.1, 1.1, "0.5", True, math.nan]),
        ("jitter", [1.1]),
        ("grayscale", [1.1]),
        ("blur", [1.1]),
        ("brightness", [-0.1, math.inf]),
        ("contrast", [-0.1]),
        ("saturation", [-0.1]),
        ("hue", [-0.1, 0.6]),
    ],
)
def test_settings_out_of_range_are_refused(name: str, values: list):
    for value in values:
        with pytest.raises(ValueError, match=f"`{name}` must be .*, got "):
            ViewSettings(**{name: value})


@pytest.mark.parametrize(
    "images",
    [
        random_images().float(),
        random_images()[0],
        random_images(channels=2),
        random_images(channels=4),
        torch.empty(2, 3, 0, 4, dtype=torch.uint8),
    ],
)
def test_what_is_no_batch_of_images_is_refused(images: torch.Tensor):
    with pytest.raises(ValueError, match="`images` must be uint8"):
        view(images, IMAGENET_VIEWS)


def test_size_must_be_positive():
    with pytest.raises(ValueError, match="`size` must be at least 1 pixel, got 0"):
        view(random_images(), IMAGENET_VIEWS, size=0)
