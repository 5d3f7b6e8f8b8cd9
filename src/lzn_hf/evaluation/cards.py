# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Model cards: [`make_model_card`] writes the README.md of a trained model, [`add_results`] puts results into one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..card_lzn import EXAMPLE_TEXTS, TAGS, can_classify, card_metadata, check_license, hub_task, usage
from ..configuration_lzn import LZNConfig


# The pictures that training leaves beside a card.
SAMPLES_PICTURE = "samples.png"
ZONES_PICTURE = "zones.png"
RELIABILITY_PICTURE = "reliability.png"
CURVES_PICTURE = "curves.png"
PICTURES = frozenset({SAMPLES_PICTURE, ZONES_PICTURE, RELIABILITY_PICTURE, CURVES_PICTURE})
LIMITS_HEADING = "## Intended use and limits"
SETTINGS_SHOWN = {
    "data": None,
    "joint": None,
    "unconditional": None,
    "representation": None,
    "views": None,
    "training": (
        "seed",
        "total_batch_size",
        "gradient_accumulation_steps",
        "max_train_steps",
        "warmup_steps",
        "lr_scheduler",
        "max_grad_norm",
        "ema_decay",
        "mixed_precision",
    ),
}  # the settings of a section that are shown; None: all that are set

TEMPLATE = """---
{metadata}
---

# {name}

{summary} {num_channels_text} images of {size} x {size} pixels, {latent_dim_text}{parameters:,}
parameters.
{pictures}
## Results

{results}
{scores}
## How to use

{usage}
{limits}
## Training

The weights are the moving averages.{reference}
{curves}
| setting | value |
|---|---|
{settings}

Everything else is in `training_settings.json`.

## Citation

```bibtex
@article{{lin2025latent,
  title={{Latent Zoning Network: A Unified Principle for Generative Modeling, Representation Learning, and
  Classification}}, author={{Lin, Zinan and Liu, Enshu and Ning, Xuefei and Zhu, Junyi and Wang, Wenyu and Yekhanin,
  Sergey}}, journal={{arXiv preprint arXiv:2509.15591}},
  year={{2025}}
}}
```
"""


SCORES = """
Scores of labels are read at time t = {time:.3f} of the flow of the label anchors (`prediction_time` in `config.json`), where they
fit the labels of the validation images best.{picture}
"""
RELIABILITY = f" Accuracy against score on these images:\n\n![Reliability]({RELIABILITY_PICTURE})"
SAMPLES = f"\n![Samples]({SAMPLES_PICTURE})\n"
ZONES = f"""
![Latent zones]({ZONES_PICTURE})

*The latent space: images as dots, in the colours of their labels, over the zones of the labels. Dots in the zone of another label are ringed.*
"""
CURVES = f"\n![Training curves]({CURVES_PICTURE})\n"


def _summary(config: LZNConfig, dataset: str) -> str:
    """A description of a model."""
    network = f"[Latent Zoning Network](https://arxiv.org/abs/2509.15591) trained on {dataset}"
    if config.num_labels and config.decoder_type is None:
        return f"A linear classifier on the anchors of an image encoder, trained on {dataset}: the encoder of a\n[Latent Zoning Network](https://arxiv.org/abs/2509.15591) without latent zones, as a baseline. `linear_log_probs` of `lzn_hf.evaluation.joint` classifies by it."
    if config.num_labels and config.encoder_type is not None:
        return f"A {network}. One model, one latent space: it\ngenerates images of {config.num_labels} labels, classifies images and embeds them."
    if config.decoder_type is None:
        return f"The image encoder of a {network}, without labels: it embeds images."
    if config.encoder_type is None:
        return f"A rectified flow trained on {dataset}: the decoder of a\n[Latent Zoning Network](https://arxiv.org/abs/2509.15591) without latents, as a baseline."
    return f"A {network}, without labels: it generates, reconstructs and\nembeds images."


def limits_section(config: LZNConfig, dataset: str | None = None) -> str:
    """The section on what a model is for and what not to expect of it.

    Args:
        config ([`LZNConfig`]): the model's config.
        dataset (`str`, *optional*): name of the training data for people.
    """
    data, size = dataset or "its training data", config.image_size
    abilities = ["embed"] * (config.encoder_type is not None) + ["classify"] * can_classify(config)
    abilities += ["generate"] * (config.decoder_type is not None)
    points = [
        f"For research and teaching: to {' and '.join(filter(None, [', '.join(abilities[:-1]), abilities[-1]]))} images like those of {data}. Not for decisions about people.",
        f"Images are brought to {size} x {size} pixels{' in grey' if config.num_channels == 1 else ''}: what is smaller than that is lost.",
        "What is rare or missing in the training data is rare, missing or wrong in what the model does.",
    ]
    if can_classify(config):
        points.append(
            f"An image of anything else gets one of the {config.num_labels} labels, too: scores compare labels with each other, and none "
            "says that no label fits."
        )
    if config.decoder_type is not None:
        points.append(
            "Generated images may resemble images of the training data; how often they do was not measured. Say of such images that a "
            "model made them."
        )
    if config.encoder_type is not None and not config.num_reference_anchors and config.decoder_type is not None:
        points.append(
            "It holds no reference anchors. Before it can place a single image in the latent space"
            f"{', to classify or reconstruct it' if config.num_labels else ', to reconstruct it'}, it needs those of some thousands of "
            "training images: `model.set_reference_anchors(anchors)`."
        )
    return f"{LIMITS_HEADING}\n\n" + "".join(f"- {point}\n" for point in points)


def make_model_card(
    config: LZNConfig,
    *,
    model_id: str,
    dataset: str,
    metrics: Mapping[str, float],
    settings: Mapping[str, Mapping[str, Any]],
    parameters: int,
    pictures: Collection[str] = (),
    hub_dataset: str | None = None,
    license: str | None = None,
    texts: Sequence[str] = EXAMPLE_TEXTS,
) -> ModelCard:
    """Writes the card of a trained model, with the snippets and tags that its config allows.

    Args:
        config ([`LZNConfig`]): the model's config.
        model_id (`str`): argument of `from_pretrained`: a hub id or a folder.
        dataset (`str`): name of the dataset for people.
        metrics (`dict[str, float]`): results on the validation data, by name.
        settings (`dict`): the settings of the training by section, see `resolve_settings`.
        parameters (`int`): number of parameters.
        pictures (collection of `str`, *optional*): file names of the pictures beside the card, those of this module, to show in it.
        hub_dataset (`str`, *optional*): id of the dataset on the Hub.
        license (`str`, *optional*): the licence of the weights, see [`check_license`]. The card names none that nobody chose.
        texts (sequence of `str`, *optional*): see [`usage`].

    Returns:
        `ModelCard`: not saved yet.

    Raises:
        ValueError: for a licence that the Hub cannot know.
    """
    name, time, task = model_id.rstrip("/").split("/")[-1], config.prediction_time, hub_task(config)
    values = [(metric.removeprefix("validation_"), None, round(value, 4)) for metric, value in metrics.items()]
    data = card_metadata(
        config,
        license=check_license(license),
        datasets=[hub_dataset] if hub_dataset else None,
        model_name=name,
        eval_results=evaluation_results(task, dataset, values, hub_dataset=hub_dataset) or None,
    )
    results = "\n".join(f"- {metric.replace('_', ' ')}: {value:.4f}" for metric, value in metrics.items())
    reference = ""
    if config.num_reference_anchors:
        reference = (
            f" The model holds anchors of {config.num_reference_anchors} training images, among\nwhich every image is placed by itself: a "
            "result does not depend on other images of a batch."
        )
    rows = []
    for section, shown in SETTINGS_SHOWN.items():
        for key, value in settings.get(section, {}).items():
            if value is not None and (shown is None or key in shown):
                rows.append(f"| {key} | `{json.dumps(value)}` |")
    content = TEMPLATE.format(
        metadata=data.to_yaml(),
        name=name,
        summary=_summary(config, dataset),
        num_channels_text="Grey" if config.num_channels == 1 else "Colour",
        size=config.image_size,
        latent_dim_text="" if config.encoder_type is None else f"{config.latent_dim} latent dimensions, ",
        parameters=parameters,
        pictures=SAMPLES * (SAMPLES_PICTURE in pictures) + ZONES * (ZONES_PICTURE in pictures),
        results=results or "There was no validation data.",
        scores=""
        if time is None
        else SCORES.format(time=time, picture=RELIABILITY * (RELIABILITY_PICTURE in pictures)),
        usage=usage(config, model_id, texts=texts),
        limits=limits_section(config, dataset),
        reference=reference,
        curves=CURVES * (CURVES_PICTURE in pictures),
        settings="\n".join(rows),
    )
    return ModelCard(content)


def evaluation_results(
    task: str,
    dataset: str,
    values: Iterable[tuple[str, str | None, float]],
    *,
    hub_dataset: str | None = None,
    split: str | None = None,
) -> list[EvalResult]:
    """Results for the metadata of a model card.

    Args:
        task, dataset (`str`): task on the Hub, and name of the dataset for people.
        values (iterable of `tuple`): type of metric, name of metric (or None) and value of each result.
        hub_dataset, split (`str`, *optional*): id of the dataset on the Hub, and split of the dataset.
    """
    about: dict[str, Any] = {"dataset_type": hub_dataset or task, "dataset_name": dataset, "dataset_split": split}
    return [
        EvalResult(task_type=task, metric_type=metric, metric_name=name, metric_value=value, **about)
        for metric, name, value in values
    ]


def add_results(folder: str | os.PathLike, results: Iterable[EvalResult], section: str | None = None) -> ModelCard:
    """Puts results into the card of a model folder. A folder without README.md gets a short card.

    Args:
        folder (`str` or `os.PathLike`): the folder of the model.
        results (iterable of `EvalResult`): for the metadata, where they replace all results of the same task, dataset and
            type of metric.
        section (`str`, *optional*): Markdown that begins with a heading of level 2. It replaces the section with this
            heading, or is inserted before "How to use".

    Returns:
        `ModelCard`: not saved yet.
    """
    folder, results = Path(folder).resolve(), list(results)
    if (folder / "README.md").is_file():
        card = ModelCard.load(folder / "README.md")
    else:
        data = ModelCardData(
            library_name="transformers", tags=list(TAGS), pipeline_tag=results[0].task_type if results else None
        )
        network = "[Latent Zoning Network](https://arxiv.org/abs/2509.15591)"
        card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {folder.name}\n\nA {network}.\n")
    card.data.model_name = card.data.model_name or folder.name
    replaced = {_result_key(result) for result in results}
    kept = [result for result in card.data.eval_results or [] if _result_key(result) not in replaced]
    card.data.eval_results = kept + results
    if section is not None:
        card.text = replace_section(card.text, section)
    return card


def _result_key(result: EvalResult) -> tuple[str, str, str]:
    return result.task_type, result.dataset_name, result.metric_type


def replace_section(text: str, section: str, before: str | None = "## How to use") -> str:
    """Puts a section into the text of a card: in place of the one with its heading, else before another one, else at the end.

    Args:
        text (`str`): the text.
        section (`str`): Markdown that begins with a heading of level 2.
        before (`str`, *optional*, defaults to `"## How to use"`): heading of the other section. `None`: at the end.
    """
    section = section.strip() + "\n"
    heading = re.escape(section.splitlines()[0])
    # From the heading to the next one of its level.
    old = re.compile(rf"^{heading}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if old.search(text):
        text = old.sub(lambda _: section + "\n", text, count=1)
    else:
        other = None if before is None else re.search(rf"^{re.escape(before)}\n", text, re.MULTILINE)
        at = other.start() if other else len(text)
        text = text[:at].rstrip() + "\n\n" + section + ("\n" + text[at:] if other else "")
    return text.rstrip() + "\n"


__all__ = [
    "add_results",
    "evaluation_results",
    "limits_section",
    "make_model_card",
    "replace_section",
]
