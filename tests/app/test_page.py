# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The page has the controls of what a model can do, and its server answers several users at once, each with their own."""

from __future__ import annotations

import base64
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from helpers.pipelines import make_pipeline, seeded
from helpers.texts import make_text_pipeline
from PIL import Image

from lzn_hf.app.pictures import enlarge


gr = pytest.importorskip("gradio", reason='gradio is not installed (pip install "lzn_hf[app]")')
pytest.importorskip("scipy", reason="scipy is not installed")

from lzn_hf.app.page import build_app, launch_app  # noqa: E402


def labels_of(app, kind=None) -> set[str]:
    """The labels of the visible controls, tabs and buttons of a page."""
    blocks = [block for block in app.blocks.values() if getattr(block, "visible", True)]
    wanted = [block for block in blocks if kind is None or isinstance(block, kind)]
    return {str(getattr(block, "label", None) or block.value) for block in wanted}


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


@pytest.fixture(scope="module")
def page(pipe):
    """The address of the page of a tiny model."""
    app = build_app(pipe, max_images=9, max_steps=12)
    yield launch_app(app, block=False)
    app.close()


@pytest.mark.parametrize(
    ("make", "tabs"),
    [
        (
            make_pipeline,
            {"Map", "Generate", "Your picture", "Classify", "Similar", "Reconstruct", "Vary", "Interpolate"},
        ),
        (
            make_text_pipeline,
            {"Generate", "Your picture", "Texts", "Similar", "Reconstruct", "Vary", "Interpolate"},
        ),
        (
            lambda: make_pipeline(names=[]),
            {"Generate", "Your picture", "Similar", "Reconstruct", "Vary", "Interpolate"},
        ),
        (
            lambda: make_pipeline(names=[], encoder_type=None, num_reference_anchors=0),
            {"Generate", "Your picture", "Reconstruct", "Vary", "Interpolate"},
        ),
        (lambda: make_pipeline(encoder_type=None, num_reference_anchors=0), {"Generate"}),
    ],
    ids=["all", "texts", "no labels", "plain flow", "flow of labels"],
)
def test_a_page_has_the_parts_that_apply(make, tabs):
    assert labels_of(build_app(make()), gr.Tab) == tabs


def test_prompts_and_guidance_are_there_for_models_that_take_them(pipe):
    of_texts = labels_of(build_app(make_text_pipeline(condition_dropout=0.1)), (gr.Textbox, gr.Slider, gr.Dropdown))
    of_labels = labels_of(build_app(pipe), (gr.Textbox, gr.Slider, gr.Dropdown))
    assert {"Prompt", "Guidance"} <= of_texts and "Label" not in of_texts
    assert "Label" in of_labels and not {"Prompt", "Guidance"} & of_labels


def test_the_limits_reach_the_controls(pipe):
    app = build_app(pipe, max_images=3, max_steps=7, max_at_once=4, max_waiting=5)
    tops = {block.label: block.maximum for block in app.blocks.values() if isinstance(block, gr.Slider)}
    assert tops["Pictures"] == 3 and tops["Steps"] == 7
    assert (app._queue.max_size, app._queue.default_concurrency_limit) == (5, 4)


def test_the_page_says_what_a_place_of_the_map_is(page):
    html = urllib.request.urlopen(page).read().decode()
    assert "a click takes the nearest of 10,000 draws of the prior" in html
    # Nothing is to be fetched from elsewhere: the addresses in it are names of namespaces and of cards for other sites.
    fetched = re.findall(r"""(?:src|href)=["'](https?://[^"']+)""", html)
    assert fetched == [] and "googleapis" not in html and '"analytics_enabled":false' in html.replace(" ", "")


def test_two_users_at_a_time_get_their_own_pictures(page, pipe):
    """Through the server, with its queue: what each would get alone."""
    from gradio_client import Client

    wanted = [("seven", 3), ("two", 40)]

    def ask(label, seed):
        client = Client(page, verbose=False, download_files=False)
        galleries = [client.predict(label, "", 2, seed, 5, 1, api_name="/generate")[0] for _ in range(3)]
        return [[item["image"]["url"] for item in gallery] for gallery in galleries]

    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda one: ask(*one), wanted))
    for (label, seed), galleries in zip(wanted, answers, strict=True):
        for i in range(2):
            (expected,) = pipe(label=label, num_inference_steps=5, generator=[seeded(seed + i)]).images
            for gallery in galleries:
                shown = Image.open(BytesIO(urllib.request.urlopen(gallery[i]).read()))
                assert np.abs(np.asarray(shown.convert("L"), int) - np.asarray(enlarge(expected), int)).max() <= 1


def test_what_is_asked_over_the_api_beyond_the_limits_is_a_sentence(page):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(page, verbose=False, download_files=False)
    with pytest.raises(AppError, match="either a label or a prompt"):
        client.predict("one", "a boot", 2, 0, 5, 1, api_name="/generate")
    with pytest.raises(AppError, match="greater than maximum value 9"):  # gradio's own words for a slider
        client.predict("one", "", 500, 0, 5, 1, api_name="/generate")


def test_the_strip_of_steps_ends_in_the_first_picture(page, pipe):
    from gradio_client import Client

    way = Client(page, verbose=False, download_files=False).predict("four", "", 2, 1, 12, 1, api_name="/generate")[1]
    urls = re.findall(r'<img src="data:image/png;base64,([^"]+)"', way)
    (expected,) = pipe(label="four", num_inference_steps=12, generator=[seeded(1)]).images
    last = np.asarray(Image.open(BytesIO(base64.b64decode(urls[-1]))), int)
    assert len(urls) == 8 and np.abs(last - np.asarray(enlarge(expected), int)).max() <= 1
    assert "t = 0.00" in way and "t = 1.00" in way


def test_a_page_of_a_saved_model_is_named_after_its_folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "demo" / "model")
    app = build_app(tmp_path / "demo" / "model")
    assert app.title == "demo/model · Latent Zoning Network"
    with pytest.raises((ValueError, OSError)):
        build_app(tmp_path / "nothing")
