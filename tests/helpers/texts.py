# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A word-level tokenizer and a BERT so small that they take no time, and a pipeline with them."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from helpers.pipelines import make_pipeline
from lzn_hf import LZNPipeline


WORDS = "a an the photo picture image of this is small big boot bag dress shirt coat .".split()
THINGS = ["boot", "bag", "dress", "shirt", "coat"]
CAPTIONS = [f"{start} {thing}" for start in ("a photo of a", "a picture of the", "a small") for thing in THINGS]
TEXT_CONFIG = {
    "model_type": "bert",
    "vocab_size": len(WORDS) + 2,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 12,
}
TEXTS = {"text_config": TEXT_CONFIG, "type_head_layers": 1, "latent_dim": 64}


def make_tokenizer(words=WORDS) -> PreTrainedTokenizerBase:
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def tokens(texts) -> dict[str, torch.Tensor]:
    return dict(make_tokenizer()(texts, padding=True, return_tensors="pt"))


def make_text_pipeline(names=(), captions=CAPTIONS, **options) -> LZNPipeline:
    """A pipeline for texts whose random weights make every output depend on every input."""
    pipe = make_pipeline(names=names, **{**TEXTS, **options})
    if captions:
        with torch.no_grad():
            pipe.model.set_type_reference_anchors("text", pipe.model.get_text_anchors(**tokens(captions)))
    pipe = LZNPipeline.from_model(pipe.model, tokenizer=make_tokenizer())
    pipe.set_progress_bar_config(disable=True)
    return pipe
