# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`data.views`: whole views image by image, settings and errors."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from helpers.views import oracle_blur, oracle_colour, oracle_crop, oracle_luma, random_images, seeded, view

from lzn_hf.data.batches import to_pixel_values
from lzn_hf.data.views import IMAGENET_VIEWS, ViewSettings, draw_parameters, random_views


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


def test_batch_may_be_empty():
    assert view(random_images(0), IMAGENET_VIEWS).shape == (0, 3, 12, 12)


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
