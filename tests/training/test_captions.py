# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Captions of labels, their tokenizer, and the caption that each image of a batch gets."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import ROOT

from lzn_hf.training.captions import (
    CaptionTokens,
    make_tokenizer,
    read_captions,
    text_model_fields,
    tokenize,
)


FILE = {"templates": ["a {}", "one {} here"], "names": {"cat": ["cat", "kitty"]}, "held_out_templates": ["see the {}"]}


def write(path, fields) -> str:
    path.write_text(fields if isinstance(fields, str) else json.dumps(fields))
    return str(path)


def test_templates_are_filled_with_all_names_of_a_label(tmp_path):
    captions = read_captions(write(tmp_path / "captions.json", FILE), ["dog", "cat"])
    assert captions.by_label == [["a dog", "one dog here"], ["a cat", "a kitty", "one cat here", "one kitty here"]]
    assert captions.held_out == [["see the dog"], ["see the cat", "see the kitty"]]
    assert captions.all() == ["a dog", "one dog here", *captions.by_label[1]]


def test_without_a_file_labels_are_captions_and_lines_are_several():
    captions = read_captions(None, ["a red hat", "a dog\nan animal", " "])
    assert captions.by_label == [["a red hat"], ["a dog", "an animal"], [" "]]
    assert captions.held_out == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("{", "is no JSON file"),
        ([], "must be an object of templates, names, held_out_templates, with `templates`"),
        ({"templates": []}, "must be an object"),
        ({"templates": ["a {}"], "colours": []}, "must be an object"),
        ({"templates": ["a"]}, "must be strings with one {}, got 'a'"),
        ({"templates": ["{} {}"]}, "must be strings with one {}"),
        ({"templates": ["{}"], "names": {"horse": ["horse"]}}, "must be of labels of the data, got horse"),
    ],
)
def test_bad_files_are_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        read_captions(write(tmp_path / "captions.json", fields), ["dog", "cat"])
    with pytest.raises(FileNotFoundError):
        read_captions(tmp_path / "nothing.json", ["dog"])


def test_the_tokenizer_knows_the_words_and_cuts_long_texts(tmp_path):
    tokenizer = make_tokenizer(["A small dog.", "the cat"], max_length=4)
    tokens = tokenize(tokenizer, ["the SMALL cat", "a zebra . a dog a"])
    assert tokens["input_ids"].shape == tokens["attention_mask"].shape == (2, 4)
    assert tokenizer.convert_ids_to_tokens(tokens["input_ids"][0]) == ["the", "small", "cat", "[PAD]"]
    assert tokenizer.convert_ids_to_tokens(tokens["input_ids"][1]) == ["a", "[UNK]", ".", "a"]
    assert tokens["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    fields = text_model_fields(tokenizer, {"model_type": "bert", "max_position_embeddings": 2})
    assert fields == {
        "model_type": "bert",
        "max_position_embeddings": 4,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
    }
    tokenizer.save_pretrained(tmp_path)
    opened = make_tokenizer([], max_length=3, folder=str(tmp_path))
    assert opened.model_max_length == 3 and len(opened) == len(tokenizer)


def test_images_of_a_label_share_the_caption_of_a_batch_and_all_captions_come():
    captions = [["a dog", "the dog"], ["a cat", "the cat", "one cat"], ["fish"]]
    tokenizer = make_tokenizer([text for some in captions for text in some], max_length=3)
    tokens = CaptionTokens(tokenizer, captions)
    generator, labels = torch.Generator().manual_seed(0), torch.tensor([1, 0, 1, 2, 0])
    seen = set()
    for _ in range(40):
        drawn = tokens.draw(labels, generator)
        texts = tokenizer.batch_decode(drawn["input_ids"], skip_special_tokens=True)
        assert texts[0] == texts[2] and texts[1] == texts[4]
        assert all(text in captions[label] for text, label in zip(texts, labels.tolist(), strict=True))
        seen |= set(texts)
    assert seen == {text for some in captions for text in some}
    part = tokens.draw(labels[2:], torch.Generator().manual_seed(1))
    whole = tokens.draw(labels, torch.Generator().manual_seed(1))
    assert torch.equal(part["input_ids"], whole["input_ids"][2:])  # whatever the process has of the batch


def test_the_files_that_come_along_are_of_the_labels_of_their_data():
    captions = read_captions(ROOT / "src/lzn_hf/captions/digits.json", [str(digit) for digit in range(10)])
    seen, words = set(captions.all()), {word for text in captions.all() for word in text.lower().split()}
    for held_out in captions.held_out:
        assert not seen & set(held_out)
        assert {name for text in held_out for name in text.lower().split()[-1:]} <= words
