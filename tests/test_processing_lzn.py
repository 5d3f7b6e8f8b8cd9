# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`LZNProcessor` in one folder with its two parts, and texts to tokens."""

from __future__ import annotations

import json
import re
import warnings

import numpy as np
import pytest
import torch
from helpers.pipelines import make_pipeline
from helpers.texts import TEXTS, WORDS, make_text_pipeline, make_tokenizer
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase

from lzn_hf import LZNConfig, LZNImageProcessor, LZNProcessor
from lzn_hf.processing_lzn import check_tokenizer, tokenize_texts


CONFIG = LZNConfig(num_labels=0, **TEXTS)


@pytest.fixture
def processor() -> LZNProcessor:
    image_processor = LZNImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    return LZNProcessor(image_processor, make_tokenizer())


def test_the_inputs_are_those_of_its_parts(processor):
    images, texts = [Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))], ["a small boot", "the bag"]
    inputs = processor(images=images, text=texts, padding=True, return_tensors="pt")
    assert inputs.keys() == {"pixel_values", "input_ids", "attention_mask"}
    assert torch.equal(inputs["pixel_values"], processor.image_processor(images, return_tensors="pt")["pixel_values"])
    expected = [["a", "small", "boot"], ["the", "bag", "[PAD]"]]
    assert [processor.tokenizer.convert_ids_to_tokens(row) for row in inputs["input_ids"]] == expected
    assert processor(text="a bag").keys() == {"input_ids", "attention_mask"}


def test_all_auto_classes_open_its_folder(processor, tmp_path):
    files = processor.save_pretrained(tmp_path)
    assert {path.rpartition("/")[2] for path in files} <= {path.name for path in tmp_path.iterdir()}
    make_text_pipeline().model.save_pretrained(tmp_path)
    opened, tokenizer = AutoProcessor.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert type(opened) is LZNProcessor and type(AutoImageProcessor.from_pretrained(tmp_path)) is LZNImageProcessor
    assert opened.image_processor.to_dict() == processor.image_processor.to_dict()
    assert opened.tokenizer.get_vocab() == tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert json.loads((tmp_path / "processor_config.json").read_text()) == {"processor_class": "LZNProcessor"}


def test_the_image_processor_is_in_one_file(processor, tmp_path):
    """One that is saved later counts, also for the whole processor."""
    processor.save_pretrained(tmp_path)
    LZNImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    assert LZNProcessor.from_pretrained(tmp_path).image_processor.to_dict()["size"] == {"height": 16, "width": 16}


def test_a_folder_without_tokenizer_has_an_image_processor_alone(tmp_path):
    make_pipeline().save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is LZNImageProcessor
    with pytest.raises(FileNotFoundError, match="lacks tokenizer_config.json: it has no tokenizer"):
        LZNProcessor.from_pretrained(tmp_path)


def test_a_tokenizer_saved_by_itself_beside_a_model_is_enough(tmp_path):
    make_pipeline(names=[], **TEXTS).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is LZNProcessor


# ---------------------------------------------------------------- texts to tokens


def test_texts_are_padded_on_the_right():
    tokenizer = make_tokenizer()
    tokenizer.padding_side = "left"
    inputs = tokenize_texts(tokenizer, CONFIG, "prompt", ["A big BAG .", "bag"])
    assert tokenizer.convert_ids_to_tokens(inputs["input_ids"][1]) == ["bag", "[PAD]", "[PAD]", "[PAD]"]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    one = tokenize_texts(tokenizer, CONFIG, "prompt", "a bag")
    assert one.keys() == {"input_ids", "attention_mask"} and one["input_ids"].shape == (1, 2)


@pytest.mark.parametrize(("limit", "kept"), [(None, 12), (5, 5), (40, 12)])
def test_what_is_too_long_is_cut_with_a_warning(limit, kept):
    """By the tokenizer, or the positions that the model has."""
    tokenizer = make_tokenizer()
    if limit is not None:
        tokenizer.model_max_length = limit
    long = " ".join(["a"] * 13 + ["bag"])
    with pytest.warns(UserWarning, match=re.escape(f"`prompt` {long!r} has 14 tokens and the model reads {kept}")):
        inputs = tokenize_texts(tokenizer, CONFIG, "prompt", ["a small bag", long])
    assert inputs["input_ids"].shape == (2, kept) and inputs["attention_mask"].sum(1).tolist() == [3, kept]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenize_texts(tokenizer, CONFIG, "prompt", " ".join(["a"] * kept))


TEXT_ERRORS = [
    ("", "`prompt` must say something, got '', which is empty"),
    (["a bag", " \n"], "`prompt` must say something, got ' \\n', which is empty"),
    ([], "`prompt` must be a text or a list of at least one, got an empty list"),
    (7, "`prompt` must be a text or a list of at least one, got 7 of type int"),
    (["a bag", 7], "`prompt` must be made of texts, got 7 of type int"),
    (["a bag", None], "`prompt` must be made of texts, got None of type NoneType"),
    (["a bag", "xyzzy plugh"], "must have words that the tokenizer knows, got 'xyzzy plugh', of which it knows none"),
]


@pytest.mark.parametrize(("texts", "message"), TEXT_ERRORS)
def test_what_is_no_text_is_named(texts, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tokenize_texts(make_tokenizer(), CONFIG, "prompt", texts)


def test_some_unknown_words_are_read_over():
    tokenizer = make_tokenizer()
    (row,) = tokenize_texts(tokenizer, CONFIG, "prompt", "a xyzzy bag")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(row) == ["a", "[UNK]", "bag"]


def test_models_without_texts_and_pipelines_without_tokenizer_are_named():
    with pytest.raises(ValueError, match=re.escape("`prompt` must be None, as the model has no texts")):
        tokenize_texts(make_tokenizer(), LZNConfig(), "prompt", "a bag")
    with pytest.raises(ValueError, match="`candidates` needs the tokenizer that the model was trained with"):
        tokenize_texts(None, CONFIG, "candidates", "a bag")


def without_padding() -> PreTrainedTokenizerBase:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "config", "message"),
    [
        (make_tokenizer(), LZNConfig(), "`tokenizer` must be None, as the model has no texts"),
        (
            make_tokenizer([*WORDS, "more"]),
            CONFIG,
            "of at most 19 tokens (config.text_config.vocab_size), got one of 20",
        ),
        (without_padding(), CONFIG, "`tokenizer` must have a `pad_token`"),
    ],
)
def test_a_tokenizer_of_another_model_is_named(tokenizer, config, message):
    check_tokenizer(make_tokenizer(), CONFIG)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_tokenizer(tokenizer, config)


def test_the_padding_of_a_call_is_not_saved(processor, tmp_path):
    processor.tokenizer(["a boot"], padding="max_length", truncation=True, max_length=7)
    processor.save_pretrained(tmp_path)
    assert len(Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a boot").ids) == 2
    opened = LZNProcessor.from_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened(text=["a small boot", "bag"], padding=True, return_tensors="pt")["input_ids"].shape == (2, 3)
