# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`LZNForZeroShotImageClassification`, by itself and in the pipeline of transformers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from helpers.models import same_weights
from helpers.pipelines import make_pipeline
from helpers.texts import TEXTS, THINGS, make_text_pipeline, tokens
from PIL import Image
from transformers import AutoModelForZeroShotImageClassification, pipeline

from lzn_hf import LZNForZeroShotImageClassification, LZNModel


@pytest.fixture(scope="module")
def pipe():
    """Read in the middle of the flow, where scores are neither 0 nor 1."""
    return make_text_pipeline(prediction_time=0.3)


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.fromarray(pixels) for pixels in np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)]


@torch.no_grad()
def test_logits_are_the_log_probabilities_of_the_zones_of_the_texts(pipe, folder):
    model = AutoModelForZeroShotImageClassification.from_pretrained(folder)
    assert type(model) is LZNForZeroShotImageClassification and same_weights(model.lzn, pipe.model)
    images, texts = torch.rand(4, 1, 8, 8) * 2 - 1, tokens([f"a photo of a {thing}" for thing in THINGS])
    output = model(images, **texts, token_type_ids=torch.zeros_like(texts["input_ids"]))
    torch.testing.assert_close(output.image_embeds, pipe.model.get_image_anchors(images))
    torch.testing.assert_close(output.text_embeds, pipe.model.get_text_anchors(**texts))
    expected = pipe.model.compare_images(output.image_embeds, output.text_embeds)
    torch.testing.assert_close(output.logits_per_image, expected)
    assert output.logits_per_image.shape == (4, 5) and torch.equal(output.logits_per_text, output.logits_per_image.t())
    assert len(set(output.logits_per_image.argmax(1).tolist())) > 1
    torch.testing.assert_close(model(images[2:3], **texts).logits_per_image, expected[2:3], rtol=1e-4, atol=1e-4)
    assert torch.equal(model(images, **texts, return_dict=False)[0], output.logits_per_image)
    assert torch.equal(model.get_image_anchors(images), output.image_embeds)
    assert torch.equal(model.get_text_anchors(**texts), output.text_embeds)


def test_the_pipeline_of_transformers_says_what_caption_says(pipe, folder, images):
    classifier = pipeline("zero-shot-image-classification", model=str(folder))
    template = "a picture of the {}"
    together = classifier(images, candidate_labels=THINGS, hypothesis_template=template)
    captions = pipe.caption(images, [template.format(thing) for thing in THINGS])
    for image, answer, caption in zip(images, together, captions, strict=True):
        assert [one["label"] for one in answer] == [one["text"].rpartition(" ")[2] for one in caption]
        scores = [one["score"] for one in answer]
        assert scores == pytest.approx([one["score"] for one in caption], abs=1e-4) and sum(scores) == pytest.approx(1)
        alone = classifier(image, candidate_labels=THINGS, hypothesis_template=template)
        assert [one["score"] for one in alone] == pytest.approx(scores, abs=1e-5)
    assert len({answer[0]["label"] for answer in together}) > 1


def test_a_saved_one_is_the_same_model(pipe, folder, tmp_path):
    AutoModelForZeroShotImageClassification.from_pretrained(folder).save_pretrained(tmp_path)
    assert same_weights(LZNModel.from_pretrained(tmp_path), pipe.model)


IDS = torch.ones(2, 3, dtype=torch.int64)


def test_what_is_wrong_is_named(folder, tmp_path):
    model, images = LZNForZeroShotImageClassification.from_pretrained(folder), torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="`token_type_ids` must be zeros"):
        model(images, IDS, token_type_ids=IDS)
    with pytest.raises(ValueError, match=re.escape("`input_ids` must be at most 12 tokens long")):
        model(images, IDS.repeat(1, 9))
    with pytest.raises(ValueError, match=re.escape("`config` must have a `text_config`")):
        LZNForZeroShotImageClassification(make_pipeline().model.config)
    bare = LZNForZeroShotImageClassification(make_pipeline(names=[], num_reference_anchors=0, **TEXTS).model.config)
    with pytest.raises(ValueError, match="comparing an image by itself needs reference anchors"):
        bare(images, IDS)
