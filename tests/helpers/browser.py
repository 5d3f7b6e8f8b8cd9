# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What a person does with the page of `lzn_hf.app`, and what they see of it, by a page of Playwright."""

from __future__ import annotations

import base64
import re
from io import BytesIO

import numpy as np
from PIL import Image


def pictures(page, selector) -> list[np.ndarray]:
    """The pictures in a part of the page, as arrays."""
    urls = [image.get_attribute("src") for image in page.locator(f"{selector} figure img").all()]
    return [np.asarray(Image.open(BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


def wait_for_pictures(page, selector, count) -> list[np.ndarray]:
    page.wait_for_function(f"document.querySelectorAll({(selector + ' figure img')!r}).length == {count}")
    return pictures(page, selector)


def fill(page, label, value) -> None:
    """Enters a number, as a person does who types."""
    box = (
        page.get_by_label(f"number input for {label}")
        .or_(page.get_by_label(label, exact=False))
        .locator("visible=true")
    )
    box = box.and_(page.locator("input[type=number]")).first
    box.fill(value)
    box.press("Enter")


def disk(page):
    """Middle and radius of the map on the screen."""
    box = page.locator("#zone-map .disk").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["width"] / 2


def choose(page, name):
    """Opens a tab, by the menu of those that have no room if need be."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.count():
        page.locator(".overflow-menu > button:visible").click()
        tab = page.locator(".overflow-dropdown button:visible", has_text=name)
    tab.click()
    settle(page)


def settle(page) -> None:
    """Waits until nothing moves: gradio builds a tab when it is first shown, and the map draws its cross when it listens."""
    if page.get_by_role("tab", name="Map").count():
        page.locator("#zone-map .cross").wait_for(state="attached")
    page.wait_for_function(
        "() => { const last = window.height; window.height = document.body.scrollHeight; return last === window.height; }",
        polling=150,
    )


def fits(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def draw_by_finger(page, x, y, radius) -> None:
    touch = page.context.new_cdp_session(page)
    points = [(x + (0.14 * step - 0.7) * radius, y) for step in range(11)]
    for kind, at in [("touchStart", points[0]), *(("touchMove", point) for point in points), ("touchEnd", None)]:
        touched = [] if at is None else [{"x": at[0], "y": at[1]}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touched})


def contrast(page, selector) -> float:
    """The ratio of luminances of a text and of the page behind it."""
    colours = page.evaluate(
        """selector => [getComputedStyle(document.querySelector(selector)).color,
                        getComputedStyle(document.querySelector('.gradio-container')).backgroundColor,
                        getComputedStyle(document.body).backgroundColor]""",
        selector,
    )
    text, *behind = [[float(part) for part in re.findall(r"[\d.]+", colour)] for colour in colours]
    ground = next(colour for colour in behind if len(colour) == 3 or colour[3] == 1)
    bright, dark = sorted((_luminance(text), _luminance(ground)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour[:3])]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))
