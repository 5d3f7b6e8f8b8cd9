# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What every model card says of a model, as far as its config decides: the metadata for the Hub, and code that runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from huggingface_hub import ModelCardData
from transformers import PreTrainedConfig


# Stands for the place of a folder in a card that is written before anyone knows the place.
ANY_FOLDER = "path/to/this/folder"
TAGS = ["latent-zoning-network", "lzn", "lzn_hf"]
# Stand for the texts that people try, in a card that is written before anyone knows what the model was trained on.
EXAMPLE_TEXTS = ("a photo of a cat", "a photo of a dog")


def can_classify(config: Any) -> bool:
    """Whether a model classifies images, each by itself."""
    return bool(config.encoder_type is not None and config.num_labels and config.num_reference_anchors)


def can_reconstruct(config: Any) -> bool:
    """Whether a pipeline takes an image to latent and noise: it must find the latent, and a flow of labels cannot know the label."""
    if config.decoder_type is None:
        return False
    return bool(config.num_reference_anchors) if config.encoder_type is not None else not config.num_labels


def can_compare_texts(config: Any) -> bool:
    """Whether a model finds the text of an image among any texts, each image by itself."""
    return bool(config.text_config is not None and config.num_reference_anchors)


def can_generate_from_texts(config: Any) -> bool:
    """Whether a pipeline takes a `prompt`."""
    return bool(config.decoder_type is not None and "text" in (config.num_type_reference_anchors or {}))


def hub_task(config: Any) -> str:
    """The task of a model on the Hub, by which `transformers.pipeline(model=...)` chooses what to do, if it can do that."""
    if can_classify(config):
        return "image-classification"
    if can_compare_texts(config):
        return "zero-shot-image-classification"
    return "unconditional-image-generation" if config.encoder_type is None else "image-feature-extraction"


def card_metadata(config: Any, **more: Any) -> ModelCardData:
    """The metadata of a model's card.

    Args:
        config ([`LZNConfig`]): the model's config.
        more: other fields of `ModelCardData`.
    """
    tags = list(TAGS)
    if config.decoder_type is not None:
        tags += ["image-generation", "rectified-flow"] + ["text-to-image"] * can_generate_from_texts(config)
    if config.encoder_type is not None:
        tags += ["image-feature-extraction"] + ["representation-learning"] * (config.decoder_type is None)
    # Not "lzn_hf", which the Hub does not know: of another library, `transformers.pipeline(model=...)` refuses to look up the task.
    return ModelCardData(library_name="transformers", pipeline_tag=hub_task(config), tags=tags, **more)


def check_license(license: str | None) -> str | None:
    """Returns a licence as it is; a `ValueError` unless it looks like the Hub's identifier of one: `mit`, `cc-by-4.0`, `other`."""
    if license is not None and not re.fullmatch(r"[a-z0-9]+([.+-][a-z0-9]+)*\+?", license):
        raise ValueError(
            f"`license` must be an identifier of the Hub in lower case, such as apache-2.0, mit, cc-by-4.0 or other, got {license!r}; see "
            "https://huggingface.co/docs/hub/repositories-licenses."
        )
    return license


def label_names(config: PreTrainedConfig) -> list[str]:
    """The names of a model's labels, by their ids."""
    names = cast(Mapping[int, str], config.id2label)
    return [names[label] for label in range(len(names))] if config.num_labels else []


def quoted(text: str) -> str:
    """Text as a literal of Python, in double quotes whatever it contains."""
    return json.dumps(text, ensure_ascii=False)


def usage(config: Any, location: str, variant: str | None = None, texts: Sequence[str] | None = EXAMPLE_TEXTS) -> str:
    """Snippets for what a model can do, with the package.

    Args:
        config ([`LZNConfig`]): the model's config.
        location (`str`): argument of `from_pretrained`: a Hub id or a folder.
        variant (`str`, *optional*): the variant of the weights.
        texts (sequence of `str`, *optional*): two or more texts such as a model that has texts was trained on; `None` where there is no
            tokenizer, and texts can be given in tokens only.
    """
    where, lines = quoted(location), []
    options = "" if variant is None else f", variant={quoted(variant)}"
    encodes, classifies, blocks = config.encoder_type is not None, can_classify(config), []
    if config.decoder_type is not None:
        lines = ["from lzn_hf import LZNPipeline", "", f"pipe = LZNPipeline.from_pretrained({where}{options})"]
        if config.num_labels or not (texts and can_generate_from_texts(config)):
            lines.append(f"images = pipe({_generate_arguments(config)}).images  # generate")
        if texts and can_generate_from_texts(config):
            lines.append(
                f"images = pipe(prompt={quoted(texts[0])}, num_images_per_prompt=4).images  # generate from a text"
            )
        if texts and can_compare_texts(config):
            lines.append(
                f"texts = pipe.caption(images, [{', '.join(map(quoted, texts))}])  # the best text of each image"
            )
        if classifies:
            lines.append("predictions = pipe.classify(images, top_k=3)  # classify, each image by itself")
        if encodes:
            lines.append("embeddings = pipe.embed(images)  # (4, features)")
        if can_reconstruct(config):
            lines.append("again = pipe.reconstruct(images).images  # to latent and noise, and back")
        blocks.append(lines)
    if encodes:
        lines = ["import lzn_hf", "from transformers import AutoModel, pipeline", ""]
        if classifies and variant is None:
            lines.append(f'classifier = pipeline("image-classification", model={where})')
        if variant is None:
            if texts and can_compare_texts(config):
                lines.append(f'by_text = pipeline("zero-shot-image-classification", model={where})')
            lines.append(f'extractor = pipeline("image-feature-extraction", model={where})')
        else:
            lines[1] = "from transformers import AutoModel"
        lines.append(
            f"model = AutoModel.from_pretrained({where}{options})  # get_image_features, get_image_anchors, ..."
        )
        blocks.append(lines)
    return "\n".join(_fenced(lines) for lines in blocks)


def remote_usage(config: Any, location: str, texts: Sequence[str] | None = EXAMPLE_TEXTS) -> str:
    """A snippet for what a model can do where the package is not installed, of a folder that holds its code.

    Args:
        config ([`LZNConfig`]): the model's config.
        location (`str`): argument of `from_pretrained`: a Hub id or a folder.
        texts (sequence of `str`, *optional*): see [`usage`].
    """
    arguments = f"({quoted(location)}, trust_remote_code=True)"
    encodes, generates, classifies = (
        config.encoder_type is not None,
        config.decoder_type is not None,
        can_classify(config),
    )
    compared = texts if can_compare_texts(config) else None
    names = ["AutoImageProcessor"] * encodes + ["AutoModel"] + ["AutoModelForImageClassification"] * classifies
    names += ["AutoModelForZeroShotImageClassification", "AutoTokenizer"] * (compared is not None)
    lines = [
        f"from transformers import {', '.join(names)}",
        "",
        f"model = AutoModel.from_pretrained{arguments}.eval()",
    ]
    if generates:
        lines.append(f"images = model.generate({_generate_arguments(config)})  # PIL images")
    elif encodes:
        lines = ["from PIL import Image", *lines, 'images = [Image.new("RGB", (64, 64), "white")]  # instead of yours']
    if encodes:
        lines.append(f"processor = AutoImageProcessor.from_pretrained{arguments}")
        lines.append('inputs = processor(images, return_tensors="pt")')
        lines.append("embeddings = model.get_image_features(**inputs)")
    if classifies:
        lines.append(f"classifier = AutoModelForImageClassification.from_pretrained{arguments}.eval()")
        lines.append("probabilities = classifier(**inputs).logits.softmax(-1)")
    if compared is not None:
        lines.append(f"by_text = AutoModelForZeroShotImageClassification.from_pretrained{arguments}.eval()")
        lines.append(f"tokenizer = AutoTokenizer.from_pretrained({quoted(location)})")
        lines.append(f'tokens = tokenizer([{", ".join(map(quoted, compared))}], padding=True, return_tensors="pt")')
        lines.append("probabilities = by_text(**inputs, **tokens).logits_per_image.softmax(-1)  # of these texts")
    return _fenced(lines)


def _generate_arguments(config: Any) -> str:
    label = f"label={quoted(label_names(config)[0])}, " if config.num_labels else ""
    return f"{label}num_images_per_label=4"


def _fenced(lines: list[str]) -> str:
    return "```py\n" + "\n".join(lines) + "\n```\n"


__all__ = [
    "ANY_FOLDER",
    "EXAMPLE_TEXTS",
    "can_classify",
    "can_compare_texts",
    "can_generate_from_texts",
    "can_reconstruct",
    "card_metadata",
    "check_license",
    "hub_task",
    "label_names",
    "quoted",
    "remote_usage",
    "usage",
]
