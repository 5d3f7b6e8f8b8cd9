# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`data.views`: what is drawn how often."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.views import seeded

from lzn_hf.data.views import IMAGENET_VIEWS, JITTER, ViewSettings, draw_parameters, random_views


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


@pytest.mark.parametrize("count", [2, 4])
def test_processes_draw_the_views_of_a_batch_as_one_process_does(count):
    whole, order = draw_parameters(IMAGENET_VIEWS, 12, 16, 16, seeded())
    shares = [draw_parameters(IMAGENET_VIEWS, 12 // count, 16, 16, seeded(), i, count) for i in range(count)]
    assert all(own_order == order for _, own_order in shares)
    for values, parts in zip(whole, zip(*(share for share, _ in shares), strict=True), strict=True):
        assert torch.equal(torch.cat(parts), values)
    images = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=seeded(1))
    views = random_views(images, IMAGENET_VIEWS, size=8, generator=seeded())
    halves = [
        random_views(part, IMAGENET_VIEWS, size=8, generator=seeded(), process_index=i, num_processes=2)
        for i, part in enumerate(images.chunk(2))
    ]
    torch.testing.assert_close(torch.cat(halves), views, rtol=0, atol=1e-5)
