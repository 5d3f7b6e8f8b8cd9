# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`LZNPipeline` with texts: prompts, captions and retrieval against the model's own functions; the folder; errors."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.pipelines import generate, make_pipeline, pixels, seeded
from helpers.texts import CAPTIONS, TEXTS, THINGS, make_text_pipeline, make_tokenizer, tokens
from PIL import Image

from lzn_hf import LZNPipeline
from lzn_hf.sampling_lzn import ImageFlow, default_scheduler


PROMPTS = ["a photo of a boot", "this is the big image"]  # one is a reference, one is not


@pytest.fixture(scope="module")
def pipe() -> LZNPipeline:
    return make_text_pipeline(prediction_time=0.3)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.fromarray(one) for one in np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)]


def assert_same_images(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-4)


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize("options", [{}, {"names": ["a", "b", "c"]}], ids=["texts", "texts and labels"])
def test_prompt_to_image_is_what_the_model_says(options):
    """Noise of the latents, then of the images; latents in the zones of the texts; a decoder of labels gets those of their zones."""
    pipe, generator = make_text_pipeline(**options), seeded()
    repeated = [prompt for prompt in PROMPTS for _ in range(2)]
    with torch.no_grad():
        latents = pipe.model.get_text_latents(**tokens(repeated), noise=torch.randn(4, 64, generator=generator))
        labels = pipe.model.classify_latents(latents).argmax(-1) if options else None
        sample = ImageFlow(default_scheduler(), 6).to_images(
            lambda x, t: pipe.model.predict_velocity(x, t, latents, labels),
            torch.randn(4, 1, 8, 8, generator=generator),
        )
    assert_same_images(generate(pipe, prompt=PROMPTS, num_images_per_prompt=2), pixels(sample))


def test_images_of_a_prompt_depend_on_no_other_prompt(pipe):
    """Nor on where it is in the list, how many are computed at once, or how long the others are."""
    alone = generate(pipe, prompt=PROMPTS[0], num_images_per_prompt=2, generator=[seeded(0), seeded(1)])
    others = ["a photo of a big big big small coat .", PROMPTS[0], PROMPTS[1]]
    generators = [seeded(i) for i in (7, 8, 0, 1, 9, 10)]
    together = generate(pipe, prompt=others, num_images_per_prompt=2, generator=generators, batch_size=4)
    assert_same_images(together[2:4], alone)
    assert (together[2:4] - together[4:]).abs().max() > 1e-2


def test_one_prompt_is_a_list_of_one(pipe):
    assert torch.equal(generate(pipe, prompt=PROMPTS[0]), generate(pipe, prompt=[PROMPTS[0]]))
    assert len(pipe(prompt=PROMPTS[0], num_inference_steps=2).images) == 1


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(pipe):
    with pytest.warns(UserWarning, match="has 14 tokens and the model reads 12: the rest is cut off"):
        long = generate(pipe, prompt=" ".join(["a"] * 14))
    assert_same_images(long, generate(pipe, prompt=" ".join(["a"] * 12)))


def test_guidance_goes_away_from_the_images_of_no_text():
    """v = v_0 + scale (v - v_0), where the model has learnt to do without."""
    pipe = make_text_pipeline(condition_dropout=0.2)
    generator = seeded()
    with torch.no_grad():
        latents = pipe.model.get_text_latents(**tokens(PROMPTS), noise=torch.randn(2, 64, generator=generator))

        def velocity(x, t):
            weak = pipe.model.predict_velocity(x, t, unconditional=True)
            return weak + 3.0 * (pipe.model.predict_velocity(x, t, latents) - weak)

        sample = ImageFlow(default_scheduler(), 6).to_images(velocity, torch.randn(2, 1, 8, 8, generator=generator))
    guided = generate(pipe, prompt=PROMPTS, guidance_scale=3.0)
    assert_same_images(guided, pixels(sample))
    assert (guided - generate(pipe, prompt=PROMPTS)).abs().max() > 1e-3


# ---------------------------------------------------------------- captions and retrieval


def test_captions_are_the_texts_of_the_zones(pipe, images):
    inputs = pipe.image_processor(images, return_tensors="pt")
    with torch.no_grad():
        anchors = pipe.model.get_image_anchors(inputs["pixel_values"])
        expected = pipe.model.compare_images(anchors, pipe.model.get_text_anchors(**tokens(CAPTIONS))).exp()
    captions = pipe.caption(images, CAPTIONS, top_k=len(CAPTIONS), batch_size=4)
    for row, scores in zip(captions, expected, strict=True):
        assert [one["text"] for one in row] == [CAPTIONS[i] for i in scores.argsort(descending=True)]
        assert [one["score"] for one in row] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-4)
    assert len({row[0]["text"] for row in captions}) > 1


def test_captions_of_an_image_depend_on_no_other_image(pipe, images):
    together, alone = pipe.caption(images, THINGS, top_k=3), pipe.caption(images[2], THINGS, top_k=3)
    assert len(alone) == 1 and len(alone[0]) == 3
    assert [one["text"] for one in alone[0]] == [one["text"] for one in together[2]]
    assert [one["score"] for one in alone[0]] == pytest.approx([one["score"] for one in together[2]], abs=1e-5)
    assert pipe.caption(images[2], ("a boot",)) == [[{"text": "a boot", "score": 1.0}]]


def test_images_are_found_by_the_zone_of_the_text(pipe, images):
    inputs = pipe.image_processor(images, return_tensors="pt")
    with torch.no_grad():
        anchors = pipe.model.get_image_anchors(inputs["pixel_values"])
        scores = pipe.model.match_images("text", anchors, pipe.model.get_text_anchors(**tokens(PROMPTS)))
    found = pipe.find_images(PROMPTS, images, top_k=4, batch_size=4)
    for row, column in zip(found, scores.t(), strict=True):
        order = column.argsort(descending=True)[:4]
        assert [one["index"] for one in row] == order.tolist()
        assert [one["score"] for one in row] == pytest.approx(column.softmax(0)[order].tolist(), abs=1e-4)
    assert [one["index"] for one in pipe.find_images(PROMPTS[1], images)[0]] == [
        one["index"] for one in pipe.find_images(PROMPTS, images)[1]
    ]


# ---------------------------------------------------------------- the folder


def test_a_folder_keeps_the_tokenizer(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    opened = LZNPipeline.from_pretrained(tmp_path)
    opened.set_progress_bar_config(disable=True)
    assert opened.tokenizer.get_vocab() == pipe.tokenizer.get_vocab()
    assert json.loads((tmp_path / "model_index.json").read_text())["tokenizer"][0] == "transformers"
    assert torch.equal(generate(opened, prompt=PROMPTS), generate(pipe, prompt=PROMPTS))
    assert not list(tmp_path.glob("*/"))
    again = LZNPipeline(**{**opened.components, "scheduler": default_scheduler()})
    assert again.tokenizer is opened.tokenizer


def test_a_folder_without_tokenizer_is_as_it_was(tmp_path):
    make_pipeline().save_pretrained(tmp_path)
    assert "tokenizer" not in json.loads((tmp_path / "model_index.json").read_text())
    assert not list(tmp_path.glob("tokenizer*")) and not (tmp_path / "processor_config.json").exists()
    assert LZNPipeline.from_pretrained(tmp_path).tokenizer is None


def test_a_tokenizer_may_be_given_or_left_out(pipe, tmp_path):
    LZNPipeline.from_model(pipe.model).save_pretrained(tmp_path / "without")
    opened = LZNPipeline.from_pretrained(tmp_path / "without", tokenizer=make_tokenizer())
    opened.set_progress_bar_config(disable=True)
    assert_same_images(generate(opened, prompt=PROMPTS[0]), generate(pipe, prompt=PROMPTS[0]))
    pipe.save_pretrained(tmp_path / "with")
    assert LZNPipeline.from_pretrained(tmp_path / "with", tokenizer=None).tokenizer is None
    (tmp_path / "with" / "tokenizer_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="lacks tokenizer_config.json"):
        LZNPipeline.from_pretrained(tmp_path / "with")
    assert LZNPipeline.from_pretrained(tmp_path / "with", tokenizer=make_tokenizer()).tokenizer is not None


def test_the_lines_of_the_documentation_run(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path / "path" / "to" / "folder")
    monkeypatch.chdir(tmp_path)
    page, scope = (ROOT / "docs" / "text.md").read_text(encoding="utf-8"), {}
    for block in re.findall(r"```py\n(.*?)```", page, re.DOTALL):
        exec(block, scope)
    assert len(scope["pipe"].tokenizer) == 19 and scope["loss"].isfinite()
    assert scope["model"].get_text_latents(torch.tensor([[5, 8]])).shape == (1, 64)


# ---------------------------------------------------------------- errors


ERRORS = [
    (lambda pipe, images: pipe(prompt=""), "`prompt` must say something"),
    (lambda pipe, images: pipe(prompt=["xyzzy"]), "`prompt` must have words that the tokenizer knows, got 'xyzzy'"),
    (lambda pipe, images: pipe(prompt=["a bag", 3]), "`prompt` must be made of texts, got 3"),
    (lambda pipe, images: pipe(prompt="a bag", latents=torch.zeros(1, 64)), "got `prompt` and `latents`"),
    (lambda pipe, images: pipe(prompt="a bag", label="0"), "got `label` and `prompt`"),
    (lambda pipe, images: pipe(prompt="a bag", guidance_scale=2), "`guidance_scale` must be 1 (none)"),
    (lambda pipe, images: pipe(prompt=["a", "the"], generator=[seeded()]), "a list of 2, one an image, got 1"),
    (lambda pipe, images: pipe.caption(images, []), "`candidates` must be a text or a list of at least one"),
    (lambda pipe, images: pipe.caption(images, ["a bag"], top_k=0), "`top_k` must be a whole number of at least 1"),
    (lambda pipe, images: pipe.caption([], ["a bag"]), "`images` must hold at least one image"),
    (lambda pipe, images: pipe.find_images(["a", ""], images), "`texts` must say something"),
    (lambda pipe, images: pipe.find_images("a bag", images, top_k=1.5), "`top_k` must be a whole number"),
]


@pytest.mark.parametrize(("act", "message"), ERRORS)
def test_what_is_wrong_is_named(pipe, images, act, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        act(pipe, images)


def test_what_is_missing_is_named(pipe, images):
    plain = make_pipeline()
    for act in (
        lambda p: p(prompt="a bag"),
        lambda p: p.caption(images, ["a bag"]),
        lambda p: p.find_images("a", images),
    ):
        with pytest.raises(
            ValueError, match=re.escape("must be None, as the model has no texts (config.text_config is None)")
        ):
            act(plain)
        with pytest.raises(ValueError, match="needs the tokenizer that the model was trained with"):
            act(LZNPipeline.from_model(pipe.model))
    with pytest.raises(ValueError, match="`tokenizer` must be None, as the model has no texts"):
        LZNPipeline.from_model(plain.model, tokenizer=make_tokenizer())
    bare = make_text_pipeline(captions=())
    for act in (lambda p: p(prompt="a bag"), lambda p: p.find_images("a", images)):
        with pytest.raises(ValueError, match=re.escape("`model.set_type_reference_anchors('text', anchors)`")):
            act(bare)
    bare = make_text_pipeline(num_reference_anchors=0)
    with pytest.raises(ValueError, match="comparing an image by itself needs reference anchors"):
        bare.caption(images, ["a bag"])


def test_a_guide_with_latents_of_its_own_needs_labels(pipe):
    guide = make_pipeline(names=[], **TEXTS).model
    with pytest.raises(ValueError, match="`guide` has latents of its own"):
        pipe(prompt="a bag", guide=guide, guidance_scale=2)


def test_batch_sizes_of_numpy(pipe):
    size, image = np.int64(4), Image.fromarray(np.full((8, 8), 90, np.uint8))
    assert pipe.caption(image, CAPTIONS[:3], batch_size=size) == pipe.caption(image, CAPTIONS[:3])
    assert len(pipe(prompt="a small boot", batch_size=size, num_inference_steps=1).images) == 1
