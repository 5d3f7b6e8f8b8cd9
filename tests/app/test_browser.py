# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The page in a real headless Chromium: every control is used, nothing goes to the console, nothing is fetched from elsewhere.

    python -m pytest -m slow tests/app/test_browser.py

needs Debian's `chromium` (or another, named by `LZN_CHROMIUM`), `pip install playwright` without its own browsers, and the extra `app`.
"""

from __future__ import annotations

import os
import re
import shutil
import time

import numpy as np
import pytest
from helpers.browser import choose, contrast, disk, draw_by_finger, fill, fits, pictures, settle, wait_for_pictures
from helpers.pipelines import make_pipeline, seeded
from helpers.texts import make_text_pipeline
from PIL import Image

from lzn_hf.app.pictures import enlarge


pytestmark = pytest.mark.slow
CHROMIUM = os.environ.get("LZN_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no Chromium is installed (apt-get install chromium)", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
pytest.importorskip("gradio", reason='gradio is not installed (pip install "lzn_hf[app]")')

from lzn_hf.app.page import build_app, launch_app  # noqa: E402
from lzn_hf.app.zone_map import ZoneMap  # noqa: E402


LOAD_SECONDS = 3  # of the page after the start of its server
# A phone, and a window in the dark theme.
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
DARK = {"viewport": {"width": 1100, "height": 900}, "color_scheme": "dark"}
CHANGED = "([selector, old]) => document.querySelector(selector).src != old"
OPERATIONS = ["Classify", "Similar", "Reconstruct", "Vary", "Interpolate"]


@pytest.fixture(scope="module")
def images_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for i in range(6):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)).save(
            root / "ab"[i % 2] / f"{i}.png"
        )
    return root


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


@pytest.fixture(scope="module")
def address(pipe, images_dir):
    app = build_app(pipe, images_dir)
    yield launch_app(app, block=False)
    app.close()


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, address):
    """Opens pages and watches them: at the end, nothing may have gone wrong in any."""
    contexts, trouble = [], []

    def watch(request):
        failure = request.failure or ""
        # A stream of answers ends when the page has what it waited for.
        if "net::ERR_ABORTED" not in failure or "/queue/data" not in request.url:
            trouble.append(f"failed: {request.url} {failure}")

    def hear(message):
        # What gradio's own client says when it closes the stream of a request that ended in a message to the user.
        if message.type in ("error", "warning") and message.text != "Method not implemented.":
            trouble.append(f"{message.text} {message.location}")

    def open_one(to=address, **options):
        context = chromium.new_context(**{"viewport": {"width": 1100, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("requestfailed", watch)
        page.on("response", lambda got: got.status >= 400 and trouble.append(f"{got.status}: {got.url}"))
        page.on("request", lambda asked: _is_outside(asked.url, to) and trouble.append(f"outside: {asked.url}"))
        page.goto(to)
        page.get_by_role("tab", name="Generate").wait_for()
        settle(page)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert trouble == []


def _is_outside(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))


def test_the_page_loads_in_time(open_page):
    started = time.perf_counter()
    page = open_page()
    page.locator("#zone-map .cross").wait_for(state="attached")
    seconds = time.perf_counter() - started
    print(f"The page was there after {seconds:.2f} s.")
    assert seconds < LOAD_SECONDS


def test_a_click_on_the_map_generates_what_lives_there(open_page, pipe):
    """The picture on the page is, pixel by pixel, that of the latent whose place the map then shows."""
    page = open_page()
    x, y, radius = disk(page)
    page.mouse.click(x + 0.5 * radius, y - 0.2 * radius)
    (shown,) = wait_for_pictures(page, "#map-pictures", 1)
    place = page.locator("#zone-map .place")
    zone_map = ZoneMap(pipe.model)
    at = float(place.get_attribute("cx")), -float(place.get_attribute("cy"))
    latent, (where,) = zone_map.latents_at([at])
    (expected,) = pipe(latents=latent, num_inference_steps=20, generator=seeded(0)).images
    assert np.abs(shown.astype(int) - np.asarray(enlarge(expected), int)).max() <= 1
    np.testing.assert_allclose(at, where, atol=1e-6)
    np.testing.assert_allclose(at, (0.5, 0.2), atol=0.05)  # a pixel, and the next sample
    # Another seed shows the same place with other noise.
    old = page.locator("#map-pictures img").get_attribute("src")
    fill(page, "Seed", "7")
    page.wait_for_function(CHANGED, arg=["#map-pictures img", old])
    (expected,) = pipe(latents=latent, num_inference_steps=20, generator=seeded(7)).images
    (shown,) = pictures(page, "#map-pictures")
    assert np.abs(shown.astype(int) - np.asarray(enlarge(expected), int)).max() <= 1
    assert place.count() == 1


def test_a_path_on_the_map_is_an_interpolation(open_page):
    page = open_page()
    x, y, radius = disk(page)
    page.mouse.move(x - 0.7 * radius, y)
    page.mouse.down()
    for step in range(1, 11):
        page.mouse.move(x + (0.14 * step - 0.7) * radius, y - 0.3 * radius)
    page.mouse.up()
    shown = wait_for_pictures(page, "#map-pictures", 8)
    assert len({one.tobytes() for one in shown}) > 1
    assert page.locator("#zone-map .place").count() == 8
    page.get_by_role("button", name="More settings").click()
    fill(page, "Pictures along a path", "5")
    again = wait_for_pictures(page, "#map-pictures", 5)
    fill(page, "Steps", "3")
    page.wait_for_function(
        CHANGED, arg=["#map-pictures img", page.locator("#map-pictures img").first.get_attribute("src")]
    )
    assert not np.array_equal(again[0], pictures(page, "#map-pictures")[0])
    page.get_by_role("button", name="Use it as your picture").locator("visible=true").click()
    page.locator("#place svg .middle").wait_for(state="attached")


def test_the_map_by_keyboard(open_page):
    """Arrows move the cross, Enter generates, Space and Enter make a path, Escape drops one."""
    page = open_page()
    area = page.locator("#zone-map .lzn-map")
    page.get_by_role("tab", name="Map").focus()
    for _ in range(6):
        page.keyboard.press("Tab")
        if area.evaluate("one => one === document.activeElement"):
            break
    assert area.evaluate("one => one === document.activeElement")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    assert (
        page.locator("#zone-map .cross").get_attribute("d").startswith("M-0.17")
    )  # 0.05 + 0.05 - 0.2, less an arm of 0.07
    page.keyboard.press("Enter")
    wait_for_pictures(page, "#map-pictures", 1)
    page.keyboard.press("Space")
    page.keyboard.press("Escape")
    assert page.locator("#zone-map .drawn").count() == 0
    page.keyboard.press("Space")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Enter")
    wait_for_pictures(page, "#map-pictures", 8)


def test_generation(open_page):
    page = open_page()
    choose(page, "Generate")
    page.get_by_label("Label").click()
    page.get_by_role("option", name="seven").click()
    run = page.get_by_role("button", name="Generate", exact=True)
    run.click()
    wait_for_pictures(page, "#way", 8)
    page.locator(".grid-container img").first.wait_for()
    assert page.locator(".grid-container img").count() == 8
    before = page.locator("#way img").last.get_attribute("src")
    page.get_by_role("button", name="Generate with another seed").click()
    page.wait_for_function("old => [...document.querySelectorAll('#way img')].at(-1).src != old", arg=before)
    # By keyboard alone, with fewer pictures and steps.
    fill(page, "Pictures", "3")
    fill(page, "Steps", "4")
    fill(page, "Seed", "5")
    run.focus()
    page.keyboard.press("Enter")
    wait_for_pictures(page, "#way", 5)
    page.wait_for_function("document.querySelectorAll('.grid-container img').length == 3")
    # The second picture becomes that of the user.
    page.locator(".grid-container button").nth(1).click()
    page.get_by_role("button", name="Use it as your picture").locator("visible=true").click()
    page.locator("#place svg .middle").wait_for(state="attached")


def test_a_prompt(chromium, open_page):
    app = build_app(make_text_pipeline(condition_dropout=0.1))
    try:
        page = open_page(launch_app(app, block=False))
        page.get_by_label("Prompt").fill("a photo of a boot")
        fill(page, "Guidance", "2")
        page.get_by_label("Prompt").press("Enter")
        wait_for_pictures(page, "#way", 8)
        assert not page.get_by_role("tab", name="Map").count()
        page.get_by_role("button", name="Use it as your picture").locator("visible=true").click()
        page.get_by_label("Texts").locator("visible=true").fill("a photo of a boot\nthe big bag")
        found = page.get_by_text("the big bag").locator("visible=true")
        assert not found.count()
        page.get_by_role("button", name="Compare").click()
        found.last.wait_for()
    finally:
        app.close()


def test_a_picture_of_a_user(open_page, images_dir, tmp_path):
    """Upload, classification with its place on the map, similar pictures, reconstruction, variations, interpolation."""
    page = open_page()
    choose(page, "Your picture")
    choose(page, "Reconstruct")
    page.get_by_role("button", name="Reconstruct", exact=True).last.click()
    page.get_by_text("Choose a picture first.").wait_for()

    choose(page, "Classify")
    upload, *_ = page.locator("input[type=file]").all()
    upload.set_input_files(images_dir / "a" / "0.png")
    page.locator("#place svg .middle").wait_for(state="attached")
    assert page.locator("#place .dot").count() == 48
    assert "not calibrated" in page.locator("body").inner_text()

    choose(page, "Similar")
    fill(page, "Pictures", "4")
    page.get_by_role("button", name="Find similar pictures").click()
    page.get_by_text("a · 1.000").first.wait_for()  # itself
    assert page.locator(".grid-container img:visible").count() == 4

    choose(page, "Reconstruct")
    fill(page, "Seed", "2")
    fill(page, "Steps", "6")
    page.get_by_role("button", name="Reconstruct", exact=True).last.click()
    page.get_by_text(re.compile("back again, .* % off")).wait_for()

    choose(page, "Vary")
    page.get_by_text("the noise: how it is drawn").click()
    for label, value in [("Strength", "0.8"), ("Pictures", "5"), ("Seed", "3"), ("Steps", "6")]:
        fill(page, label, value)
    page.get_by_role("button", name="Vary", exact=True).last.click()
    page.get_by_text("variation 5").wait_for()

    choose(page, "Interpolate")
    page.get_by_role("button", name="Interpolate", exact=True).last.click()
    page.get_by_text("Choose the other picture, too.").wait_for()
    for give in (
        lambda: page.locator("input[type=file]").last.set_input_files(images_dir / "b" / "1.png"),
        lambda: page.get_by_role("button", name="Take one of the folder").last.click(),
    ):
        with page.expect_response(re.compile("/queue/join")):
            give()
        page.wait_for_timeout(500)
    for label, value in [("Pictures", "5"), ("Seed", "3"), ("Steps", "6")]:
        fill(page, label, value)
    page.get_by_role("button", name="Interpolate", exact=True).last.click()
    page.get_by_text("75 %").wait_for()

    # A damaged file is a sentence, and the picture before it stays.
    (tmp_path / "broken.png").write_bytes(b"not an image")
    choose(page, "Classify")
    before = page.locator("#place svg").inner_html()
    upload.set_input_files(tmp_path / "broken.png")
    page.get_by_text("broken.png cannot be read").wait_for()
    assert page.locator("#place svg").inner_html() == before and "Traceback" not in page.content()


def test_on_a_phone(open_page):
    """Nothing is wider than the screen, a finger scrolls or, when it is told to, draws."""
    page = open_page(**PHONE)
    assert fits(page)
    x, y, radius = disk(page)
    page.touchscreen.tap(x + 0.4 * radius, y)
    wait_for_pictures(page, "#map-pictures", 1)
    area = page.locator("#zone-map .lzn-map")
    assert area.evaluate("one => getComputedStyle(one).touchAction") == "pan-y"
    page.get_by_role("button", name="Draw by finger").tap()
    assert area.evaluate("one => getComputedStyle(one).touchAction") == "none"
    draw_by_finger(page, x, y, radius)
    wait_for_pictures(page, "#map-pictures", 8)
    assert fits(page)
    choose(page, "Generate")
    page.get_by_role("button", name="Generate", exact=True).tap()
    wait_for_pictures(page, "#way", 8)
    assert fits(page)
    choose(page, "Your picture")
    page.get_by_role("button", name="Take one of the folder").locator("visible=true").first.tap()
    page.locator("#place svg .middle").wait_for(state="attached")
    for name in OPERATIONS:
        choose(page, name)
        assert fits(page), name


def test_the_dark_theme(open_page):
    """Texts are light on dark, also in the map, with enough contrast to be read (WCAG: 4.5)."""
    page = open_page(**DARK)
    assert page.locator("body.dark").count() == 1
    for selector in (".lzn-head h1", ".lzn-head p", ".lzn-note p"):
        assert contrast(page, selector) > 4.5, selector
    light = open_page(color_scheme="light")
    for selector in (".lzn-head h1", ".lzn-head p", ".lzn-note p"):
        assert contrast(light, selector) > 4.5, selector
