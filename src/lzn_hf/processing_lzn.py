# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images and texts to the inputs of a model: the image processor and the tokenizer of one folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import cached_file

from .image_processing_lzn import LZNImageProcessor
from .networks_types import longest_text


TOKENIZER_FILE = "tokenizer_config.json"  # that every tokenizer has


class LZNProcessor(ProcessorMixin):
    """An image processor and a tokenizer, whose files lie beside those of a model that has texts.

    `AutoImageProcessor` and `AutoTokenizer` open the same folder, each its part. `AutoProcessor` opens this class where there is a
    tokenizer, and else the image processor alone.

    Args:
        image_processor ([`LZNImageProcessor`]): images to pixel values in [-1, 1].
        tokenizer (`PreTrainedTokenizerBase`): texts to tokens, for the text encoder of the model.

    Example:

    ```py
    processor = LZNProcessor.from_pretrained("path/to/folder")
    inputs = processor(images=images, text=["a photo of a boot", "a photo of a bag"], padding=True, return_tensors="pt")
    ```
    """

    def __init__(self, image_processor: LZNImageProcessor, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(image_processor, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        cache_dir: str | os.PathLike | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        **kwargs: Any,
    ) -> Any:
        """Loads a folder or a repository of the Hub.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): the folder or repository.
            cache_dir, force_download, local_files_only, token, revision, kwargs: see `ProcessorMixin.from_pretrained`.

        Returns:
            [`LZNProcessor`]: the processor.

        Raises:
            FileNotFoundError: if there is no tokenizer. `AutoProcessor` loads the image processor then.
        """
        options: dict[str, Any] = {
            "cache_dir": cache_dir,
            "force_download": force_download,
            "local_files_only": local_files_only,
            "token": token,
            "revision": revision,
        }
        name, location = pretrained_model_name_or_path, {"subfolder": kwargs.get("subfolder", ""), **options}
        if cached_file(name, TOKENIZER_FILE, _raise_exceptions_for_missing_entries=False, **location) is not None:
            return super().from_pretrained(name, **options, **kwargs)
        if kwargs.pop("_from_auto", False):
            return AutoImageProcessor.from_pretrained(name, **options, **kwargs)
        raise FileNotFoundError(
            f"{os.fspath(name)!r} lacks {TOKENIZER_FILE}: it has no tokenizer. LZNImageProcessor.from_pretrained loads the image processor."
        )

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Saves both parts flat in one folder; see `ProcessorMixin.save_pretrained` for the arguments."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:  # it would be saved with the padding of the last call
            backend.no_padding()
            backend.no_truncation()
        files = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        return files + self.image_processor.save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The content of `processor_config.json`: no image processor, which has a file of its own and must not be in two."""
        return {name: value for name, value in super().to_dict().items() if name != "image_processor"}


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
    """Raises a `ValueError` for a tokenizer that cannot be that of the model with this configuration."""
    if config.text_config is None:
        raise ValueError("`tokenizer` must be None, as the model has no texts (config.text_config is None).")
    size = getattr(config.text_config, "vocab_size", len(tokenizer))
    if len(tokenizer) > size:
        raise ValueError(
            f"`tokenizer` must be the one that the model was trained with, of at most {size} tokens (config.text_config.vocab_size), got "
            f"one of {len(tokenizer)}."
        )
    if tokenizer.pad_token_id is None:
        raise ValueError(
            "`tokenizer` must have a `pad_token`, as texts of one batch differ in length, got one without."
        )


def tokenize_texts(
    tokenizer: PreTrainedTokenizerBase | None, config: Any, name: str, texts: str | Sequence[str]
) -> dict[str, Tensor]:
    """Converts one or more texts to the inputs of the text encoder of a model.

    Texts that are too long are cut, with a warning.

    Args:
        tokenizer (`PreTrainedTokenizerBase`, *optional*): the tokenizer that the text encoder was trained with.
        config ([`LZNConfig`]): the configuration of the model.
        name (`str`): what the texts are called in messages.
        texts (`str` or list of them): the texts.

    Returns:
        `dict[str, Tensor]`: `input_ids` and `attention_mask`, int64 `(N, L)`, padded on the right.

    Raises:
        ValueError: for a model without texts, without tokenizer, for what is no text or empty, and for texts of unknown words only.
    """
    if config.text_config is None:
        raise ValueError(
            f"`{name}` must be None, as the model has no texts (config.text_config is None), got {texts!r}."
        )
    if tokenizer is None:
        raise ValueError(
            f"`{name}` needs the tokenizer that the model was trained with, and this pipeline has none: pass it as "
            "`LZNPipeline.from_model(model, tokenizer=...)` or `LZNPipeline.from_pretrained(folder, tokenizer=...)`."
        )
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, (list, tuple)) or not texts:
        got = "an empty list" if isinstance(texts, (list, tuple)) else f"{texts!r} of type {type(texts).__name__}"
        raise ValueError(f"`{name}` must be a text or a list of at least one, got {got}.")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"`{name}` must be made of texts, got {text!r} of type {type(text).__name__}.")
        if not text.strip():
            raise ValueError(f"`{name}` must say something, got {text!r}, which is empty.")
    rows = tokenizer(list(texts), verbose=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    special = set(tokenizer.all_special_ids) - {unknown}
    for text, row in zip(texts, rows, strict=True):
        if {token for token in row if token not in special} <= {unknown}:
            raise ValueError(
                f"`{name}` must have words that the tokenizer knows, got {text!r}, of which it knows none."
            )
    positions = longest_text(config.text_config)
    longest = tokenizer.model_max_length if positions is None else min(tokenizer.model_max_length, positions)
    for text, row in zip(texts, rows, strict=True):
        if len(row) > longest:
            warnings.warn(
                f"`{name}` {text!r} has {len(row)} tokens and the model reads {longest}: the rest is cut off.",
                stacklevel=3,
            )
    cut: dict[str, Any] = {"truncation": True, "max_length": longest} if max(map(len, rows)) > longest else {}
    # On the right, whatever the tokenizer does by itself: positions must not depend on the other texts.
    inputs = tokenizer(list(texts), padding=True, padding_side="right", return_tensors="pt", **cut)
    return {key: inputs[key].to(torch.int64) for key in ("input_ids", "attention_mask")}


__all__ = ["TOKENIZER_FILE", "LZNProcessor", "check_tokenizer", "tokenize_texts"]
