# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The short card that `save_pretrained` writes, of every kind of pipeline: its code runs. (See tests/evaluation/test_cards.py for more.)"""

from __future__ import annotations

import re

import pytest
from helpers.pipelines import NAMES, make_pipeline
from helpers.texts import make_text_pipeline
from huggingface_hub import ModelCard

from lzn_hf import LZNPipeline
from lzn_hf.card_lzn import hub_task, quoted, usage


KINDS = {
    "joint": {},
    "joint without anchors": {"num_reference_anchors": 0},
    "without labels": {"names": []},
    "flow of labels": {"encoder_type": None, "num_reference_anchors": 0},
    "rectified flow": {"names": [], "encoder_type": None, "num_reference_anchors": 0},
}
TASKS = ["image-classification", *["image-feature-extraction"] * 2, *["unconditional-image-generation"] * 2]


@pytest.mark.parametrize("variant", [None, "half"])
@pytest.mark.parametrize(("kind", "task"), list(zip(KINDS, TASKS, strict=True)))
def test_the_short_card_has_code_that_runs_and_a_task(kind, task, variant, tmp_path, monkeypatch):
    pipe = make_pipeline(**KINDS[kind])
    pipe.save_pretrained(tmp_path / "path" / "to" / "this" / "folder", variant=variant)
    card = ModelCard.load(tmp_path / "path" / "to" / "this" / "folder" / "README.md")
    assert card.data.pipeline_tag == hub_task(pipe.model.config) == task and card.data.license is None
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for snippet in re.findall(r"```py\n(.*?)```", card.text, re.DOTALL):
        exec(snippet, scope)
    assert len(scope["images"]) == 4
    if "encoder_type" not in KINDS[kind]:
        assert scope["embeddings"].shape[0] == 4 and scope["model"].config.image_size == 8


@pytest.mark.parametrize(("names", "task"), [((), "zero-shot-image-classification"), (NAMES, "image-classification")])
def test_the_card_of_a_model_with_texts_shows_the_prompt(names, task, tmp_path, monkeypatch):
    pipe = make_text_pipeline(names=names)
    pipe.save_pretrained(tmp_path / "path" / "to" / "this" / "folder")
    card = ModelCard.load(tmp_path / "path" / "to" / "this" / "folder" / "README.md")
    assert card.data.pipeline_tag == hub_task(pipe.model.config) == task and "text-to-image" in card.data.tags
    assert 'pipe(prompt="a photo of a cat", num_images_per_prompt=4)' in card.text
    assert ("label=" in card.text) == bool(names)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for snippet in re.findall(r"```py\n(.*?)```", card.text, re.DOTALL):
        exec(snippet, scope)
    assert len(scope["images"]) == len(scope["texts"]) == 4
    (best, _) = scope["by_text"](scope["images"][0], candidate_labels=["boot", "bag"])
    assert best["score"] >= 0.5


def test_the_card_shows_no_prompt_where_there_is_no_tokenizer_or_no_references(tmp_path):
    pipe = make_text_pipeline()
    assert "prompt=" not in LZNPipeline.from_model(pipe.model)._model_card("here", None).text
    assert "prompt=" not in usage(make_text_pipeline(captions=()).model.config, "here")
    assert 'prompt="a 7"' in usage(pipe.model.config, "here", texts=["a 7", "an 8"])


@pytest.mark.parametrize("text", ["7", 'a "b"', "it's", "back\\slash", "new\nline", "ünï ✓", "```", "{x}"])
def test_any_text_becomes_a_literal_of_one_line(text):
    assert eval(quoted(text)) == text and "\n" not in quoted(text)
