# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Pictures on the page are those of the model, pixel by pixel, and texts in it are texts."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.pipelines import make_pipeline
from PIL import Image

from lzn_hf.app.pictures import data_url, draw_map, enlarge, evenly, strip
from lzn_hf.app.zone_map import ZoneMap


pytest.importorskip("scipy", reason="scipy is not installed")


def small(seed=0, mode="L"):
    shape = (8, 8) if mode == "L" else (8, 8, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def opened(url):
    return Image.open(BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_enlarging_repeats_pixels(mode):
    image = small(mode=mode)
    large = enlarge(image)
    assert large.size == (128, 128) and large.mode == mode
    assert np.array_equal(np.asarray(large)[::16, ::16], image) and np.array_equal(
        np.asarray(large)[7::16, 7::16], image
    )
    assert enlarge(Image.new("L", (200, 130))).size == (200, 130)


def test_a_strip_holds_its_pictures_and_shows_texts_as_texts():
    images = [small(i) for i in range(3)]
    html = strip(images, ["one", "<b>two</b>", 'th"ree'], "Zone")
    urls = re.findall(r'<img src="([^"]+)"', html)
    assert all(np.array_equal(opened(url), enlarge(image)) for url, image in zip(urls, images, strict=True))
    assert "<b>" not in html and "&lt;b&gt;two" in html
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(html)
    assert [attributes["alt"] for tag, attributes in tags if tag == "img"][2] == 'Zone 3: th"ree'
    assert tags[0][1]["style"] == "--columns: 3; --narrow: 3"


def test_a_url_holds_a_picture():
    assert np.array_equal(opened(data_url(small())), small())


@pytest.mark.parametrize(
    ("count", "number", "expected"), [(3, 8, [0, 1, 2]), (21, 3, [0, 10, 20]), (9, 8, None), (100, 8, None)]
)
def test_evenly_spaced_with_both_ends(count, number, expected):
    found = evenly(range(count), number)
    assert expected is None or found == expected
    assert found[0] == 0 and found[-1] == count - 1 and len(set(found)) == min(count, number)


def test_the_map_is_a_drawing_with_places_upwards():
    zone_map = ZoneMap(make_pipeline(names=["<i>", "b&c", "d"]).model, num_samples=200)
    svg = ElementTree.fromstring(draw_map(zone_map, [(0.5, 0.25)], (0.0, -0.5), 'The "map"'))
    assert svg.get("aria-label") == 'The "map"'
    assert {text.text for text in svg.iter("text")} <= {"<i>", "b&c", "d"}
    marks = {circle.get("class"): (float(circle.get("cx")), float(circle.get("cy"))) for circle in svg.find("g")}
    assert marks == {"dot": (0.5, -0.25), "middle": (0.0, 0.5)}  # y of SVG points downwards
