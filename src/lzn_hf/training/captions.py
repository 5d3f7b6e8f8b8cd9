# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Captions of training images: from the names of their labels by templates, or the labels themselves; and their tokens."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..checks_lzn import normal_name
from ..networks_types import positions_before


PAD, UNKNOWN = "[PAD]", "[UNK]"
MAX_VOCABULARY = 30_000
FIELDS = ("templates", "names", "held_out_templates")


@dataclass(frozen=True)
class Captions:
    """What can be said of an image, by the id of its label.

    Args:
        by_label (`list[list[str]]`): captions of each label for training, at least one.
        held_out (`list[list[str]]`, *optional*): captions that training does not see.
    """

    by_label: list[list[str]]
    held_out: list[list[str]] = field(default_factory=list)

    @property
    def first_unseen(self) -> list[str]:
        """The first caption of each label, one that training does not see if there is any."""
        return [captions[0] for captions in self.held_out or self.by_label]

    def all(self) -> list[str]:
        """Returns the captions of all labels for training."""
        return [caption for captions in self.by_label for caption in captions]


def read_captions(path: str | os.PathLike | None, label_names: Sequence[str]) -> Captions:
    """Reads the file that says how the images of a label are described.

    The file is JSON: `templates`, each with `{}` for a name; `names`, other names of a label by its name (default: the label itself); and
    `held_out_templates`, which only measure.

    Args:
        path (`str` or `os.PathLike`, *optional*): the file. Without one, labels are captions. One label may have several, as lines.
        label_names (`Sequence[str]`): the labels of the data.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is something else, a template lacks `{}`, or `names` has a label that the data has not.
    """
    if path is None:
        return Captions([[line for line in name.splitlines() if line.strip()] or [name] for name in label_names])
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`captions` {os.fspath(path)} is no JSON file: {error}.") from error
    if not isinstance(fields, dict) or not set(fields) <= set(FIELDS) or not fields.get("templates"):
        raise ValueError(f"`captions` {os.fspath(path)} must be an object of {', '.join(FIELDS)}, with `templates`.")
    names = {normal_name(name): others for name, others in fields.get("names", {}).items()}
    if unknown := sorted(set(names) - {normal_name(name) for name in label_names}):
        raise ValueError(f"`names` of {os.fspath(path)} must be of labels of the data, got {', '.join(unknown[:5])}.")
    sets = [names.get(normal_name(name), [name]) for name in label_names]
    filled = []
    for templates in (fields["templates"], fields.get("held_out_templates", [])):
        for template in templates:
            if not isinstance(template, str) or template.count("{}") != 1:
                raise ValueError(f"templates of {os.fspath(path)} must be strings with one {{}}, got {template!r}.")
        filled.append([[t.replace("{}", name) for t in templates for name in names_of_one] for names_of_one in sets])
    return Captions(filled[0], filled[1] if fields.get("held_out_templates") else [])


def make_tokenizer(texts: Iterable[str], max_length: int, folder: str | None = None) -> PreTrainedTokenizerBase:
    """Opens a tokenizer, or makes one of the words of texts, in lower case.

    Args:
        texts (`Iterable[str]`): the texts.
        max_length (`int`): tokens of the longest text; longer ones are cut.
        folder (`str`, *optional*): folder or hub id of a tokenizer, which is opened instead. Code in it is not run.

    Raises:
        OSError: if there is no such tokenizer.
        ValueError: if it cannot pad.
    """
    if folder is not None:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if tokenizer.pad_token is None:
            raise ValueError(f"`tokenizer_name_or_path` {folder} must have a token for padding.")
        tokenizer.model_max_length = min(tokenizer.model_max_length, max_length)
        return tokenizer
    words = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    words.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.train_from_iterator(
        texts, trainers.WordLevelTrainer(vocab_size=MAX_VOCABULARY, special_tokens=[PAD, UNKNOWN], show_progress=False)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=PAD, unk_token=UNKNOWN, model_max_length=max_length
    )


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, Tensor]:
    """Returns the tokens of texts, all of the tokenizer's largest length: `input_ids` and `attention_mask`, `(N, L)` each."""
    tokens = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}


class CaptionTokens:
    """The tokens of all captions, and a caption for each image of a batch.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer.
        captions (`Sequence[Sequence[str]]`): captions by label.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, captions: Sequence[Sequence[str]]):
        counts = torch.tensor([len(some) for some in captions])
        self.counts, self.starts = counts, counts.cumsum(0) - counts
        self.tokens = tokenize(tokenizer, [caption for some in captions for caption in some])

    def draw(self, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Draws a caption for each label, and gives it to all images of the label.

        Images of one label have one caption in a batch, so that captions of the same meaning do not compete for them.

        Args:
            labels (`Tensor` of shape `(B,)`): labels of the images.
            generator (`torch.Generator`): draws, in one state on all processes.

        Returns:
            `dict[str, Tensor]`: the tokens of the captions, `(B, L)` each.
        """
        draws = torch.rand(len(self.counts), generator=generator, device=generator.device).cpu()
        chosen = self.starts + (draws * self.counts).long().clamp(max=self.counts - 1)
        rows = chosen[labels.cpu()]
        return {name: values[rows].to(labels.device) for name, values in self.tokens.items()}


def text_model_fields(tokenizer: PreTrainedTokenizerBase, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `text_config` of a model for a tokenizer: `fields`, with the size of the vocabulary and the token for padding."""
    needed = tokenizer.model_max_length + positions_before(fields.get("model_type"), tokenizer.pad_token_id)
    length = {"max_position_embeddings": max(fields.get("max_position_embeddings", 0), needed)}
    return {**fields, **length, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}


__all__ = ["CaptionTokens", "Captions", "make_tokenizer", "read_captions", "text_model_fields", "tokenize"]
