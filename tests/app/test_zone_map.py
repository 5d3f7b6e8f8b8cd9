# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Every place of the map is a latent of the prior, and paths are led through such latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.pipelines import NAMES, make_pipeline

from lzn_hf.app.zone_map import ZoneMap


pytest.importorskip("scipy", reason="scipy is not installed")


@pytest.fixture(scope="module")
def zone_map() -> ZoneMap:
    return ZoneMap(make_pipeline().model, num_samples=500)


def test_a_place_is_the_nearest_prior_sample(zone_map):
    """Against a search over all of them; the latent is one of the draws, to the bit."""
    points = np.array([[0.3, -0.4], [0.0, 0.0], [-1.2, 1.1]])
    latents, places = zone_map.latents_at(points.tolist())
    distances = np.linalg.norm(points[:, None] - zone_map.wheel.prior_points, axis=-1)
    rows = distances.argmin(1)
    assert torch.equal(latents, zone_map.wheel.prior[torch.from_numpy(rows)])
    assert np.array_equal(places, zone_map.wheel.prior_points[rows])
    # The prior samples are standard normal noise of the width of the model.
    prior = zone_map.wheel.prior
    assert prior.shape == (500, 6) and abs(prior.mean()) < 0.05 and abs(prior.std() - 1) < 0.05


def test_a_place_lies_where_its_latent_lies(zone_map):
    """The map shows a latent where the wheel places it, in the zone that the model itself says."""
    latents, places = zone_map.latents_at(np.random.default_rng(0).uniform(-0.7, 0.7, (40, 2)).tolist())
    placed, _ = zone_map.wheel.place(latents)
    np.testing.assert_allclose(placed, places, atol=0.01)
    model = make_pipeline().model
    with torch.no_grad():
        expected = [NAMES[i] for i in model.classify_latents(latents).argmax(-1)]
    assert zone_map.zones_of(latents) == expected


@pytest.mark.parametrize(("path", "num_frames"), [([[-0.8, 0], [0.8, 0]], 9), ([[0, 0], [0.5, 0.5], [0.5, -0.5]], 3)])
def test_a_path_leads_from_end_to_end(zone_map, path, num_frames):
    latents, places = zone_map.latents_along(path, num_frames)
    ends, end_places = zone_map.latents_at([path[0], path[-1]])
    assert latents.shape == (num_frames, 6) and places.shape == (num_frames, 2)
    torch.testing.assert_close(latents[[0, -1]], ends)
    np.testing.assert_allclose(places[[0, -1]], end_places, atol=0.01)
    np.testing.assert_allclose(zone_map.wheel.place(latents)[0], places)


def test_between_two_latents_a_path_follows_the_great_circle(zone_map):
    """Its middle is theirs, brought back to the sphere: (a + b) sin(w / 2) / sin(w) for an angle w between them."""
    path = [[-0.1, 0.2], [0.1, 0.2]]  # too short for a latent on the way
    (a, middle, b), _ = zone_map.latents_along(path, 3)
    angle = torch.acos(torch.cosine_similarity(a, b, dim=0))
    torch.testing.assert_close(middle, (a + b) * torch.sin(angle / 2) / torch.sin(angle))
    assert middle.norm() > 1.05 * ((a + b) / 2).norm()


def test_a_long_path_goes_through_the_latents_beside_it(zone_map):
    """A path around the disk visits all places on the way, not only its ends, which are the same."""
    angles = np.linspace(0, 2 * np.pi, 60)
    circle = 0.7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    _, places = zone_map.latents_along(circle.tolist(), 16)
    turns = np.diff(np.unwrap(np.arctan2(places[:, 1], places[:, 0])))
    assert len(set(zone_map.zones_of(zone_map.latents_along(circle.tolist(), 16)[0]))) >= 4
    assert turns.sum() == pytest.approx(2 * np.pi, abs=0.3)


def test_a_path_that_stands_still_is_one_latent(zone_map):
    latents, _ = zone_map.latents_along([[0.2, 0.2], [0.2, 0.2]], 4)
    expected, _ = zone_map.latents_at([[0.2, 0.2]])
    torch.testing.assert_close(latents, expected.expand(4, -1))


def test_the_picture_has_the_colours_of_the_zones(zone_map):
    """A pixel under a crowd of samples of one zone has its colour; what is outside of the disk is transparent."""
    image = np.asarray(zone_map.background(101))
    assert image.shape == (101, 101, 4) and image[0, 0, 3] == 0 and image[50, 50, 3] > 0
    wheel = zone_map.wheel
    for zone in np.unique(wheel.prior_zones):
        x, y = wheel.prior_points[wheel.prior_zones == zone].mean(0)
        near = np.argsort(np.hypot(*(wheel.prior_points - (x, y)).T))[:25]
        if (wheel.prior_zones[near] == zone).mean() > 0.8:
            pixel = image[round(50 - 50 * y / 1.02), round(50 + 50 * x / 1.02)]
            np.testing.assert_allclose(pixel[:3] / 255, zone_map.colours[zone], atol=0.01)


def test_names_stand_beside_their_zones(zone_map):
    for name, x, y, colour in zone_map.name_places():
        members = zone_map.wheel.prior_points[zone_map.wheel.prior_zones == NAMES.index(name)].mean(0)
        assert np.hypot(x, y) == pytest.approx(1) and np.dot((x, y), members) > 0
        assert colour.startswith("#") and len(colour) == 7


@pytest.mark.parametrize("points", [[], [[0.1]], [[0.1, float("nan")]], [[0, 99]], [["a", "b"]]])
def test_points_that_are_none(zone_map, points):
    with pytest.raises(ValueError):
        zone_map.latents_at(points)


def test_names_that_have_no_room_are_left_out_and_long_ones_cut():
    names = [f"a very long name {i}" for i in range(40)]
    places = ZoneMap(make_pipeline(names=names).model, num_samples=500).name_places()
    assert 4 <= len(places) < 40 and all(name == "a very long…" for name, *_ in places)
    for i, (_, x, y, _) in enumerate(places):
        assert all(abs(x - a) >= 0.5 or abs(y - b) >= 0.11 for _, a, b, _ in places[:i])


def test_two_labels_have_a_map_and_one_has_none():
    zone_map = ZoneMap(make_pipeline(names=["cat", "dog"]).model, num_samples=200)
    assert set(zone_map.zones_of(zone_map.wheel.prior)) == {"cat", "dog"}
    with pytest.raises(ValueError, match="at least 2 labels"):
        ZoneMap(make_pipeline(names=["cat"]).model, num_samples=10)
