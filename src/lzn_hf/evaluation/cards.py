# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Model cards: [`make_model_card`] writes the README.md of a trained model, [`add_results`] puts results into one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedConfig

from ..configuration_lzn import LZNConfig


RELIABILITY_PICTURE = "reliability.png"
TAGS = ["latent-zoning-network", "lzn"]
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
## Training

The weights are the moving averages.{reference}

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


GENERATE = """```py
from lzn_hf import LZNPipeline

pipe = LZNPipeline.from_pretrained("{model_id}")
images = pipe({arguments}).images  # generate
{more}```
"""
LOAD = """```py
import lzn_hf
from transformers import AutoModel, pipeline

{lines}
```
"""

SCORES = """
Scores of labels are read at time t = {time:.3f} of the flow of the label anchors (`prediction_time` in `config.json`), where they
fit the labels of the validation images best. Accuracy against score on these images:

![Reliability]({picture})
"""


def _usage(config: LZNConfig, model_id: str) -> str:
    """Snippets for the parts that a model has."""
    text, lines = "", []
    if config.decoder_type is not None:
        arguments, more = "num_images_per_label=4", []
        if config.num_labels:
            arguments = f'label="{label_names(config)[0]}", num_images_per_label=4'
        if config.num_labels and config.encoder_type is not None:
            more.append("predictions = pipe.classify(images, top_k=3)  # classify, each image by itself")
        if config.encoder_type is not None:
            more.append("embeddings = pipe.embed(images)  # (4, features)")
        if config.encoder_type is not None or not config.num_labels:  # a flow of labels would have to know them
            more.append("again = pipe.reconstruct(images).images  # to latent and noise, and back")
        text = (
            GENERATE.format(model_id=model_id, arguments=arguments, more="".join(f"{line}\n" for line in more)) + "\n"
        )
    if config.num_labels and config.num_reference_anchors:
        lines.append(f'classifier = pipeline("image-classification", model="{model_id}")')
    if config.encoder_type is not None:
        lines.append(f'extractor = pipeline("image-feature-extraction", model="{model_id}")')
        lines.append(f'model = AutoModel.from_pretrained("{model_id}")  # get_image_features, get_image_anchors, ...')
    return text + (LOAD.format(lines="\n".join(lines)) if lines else "")


def _summary(config: LZNConfig, dataset: str) -> tuple[str, str, list[str]]:
    """A description of a model, its task on the Hub, and the tags of its abilities."""
    network = f"[Latent Zoning Network](https://arxiv.org/abs/2509.15591) trained on {dataset}"
    if config.num_labels and config.decoder_type is None:
        text = f"A linear classifier on the anchors of an image encoder, trained on {dataset}: the encoder of a\n[Latent Zoning Network](https://arxiv.org/abs/2509.15591) without latent zones, as a baseline. `linear_log_probs` of `lzn_hf.evaluation.joint` classifies by it."
        return text, "image-feature-extraction", ["image-feature-extraction"]
    if config.num_labels and config.encoder_type is not None:
        text = f"A {network}. One model, one latent space: it\ngenerates images of {config.num_labels} labels, classifies images and embeds them."
        return text, "image-classification", ["image-generation", "image-feature-extraction", "rectified-flow"]
    if config.decoder_type is None:
        text = f"The image encoder of a {network}, without labels: it embeds images."
        return text, "image-feature-extraction", ["image-feature-extraction", "representation-learning"]
    if config.encoder_type is None:
        text = f"A rectified flow trained on {dataset}: the decoder of a\n[Latent Zoning Network](https://arxiv.org/abs/2509.15591) without latents, as a baseline."
        return text, "unconditional-image-generation", ["image-generation", "rectified-flow"]
    text = f"A {network}, without labels: it generates, reconstructs and\nembeds images."
    return text, "unconditional-image-generation", ["image-generation", "image-feature-extraction", "rectified-flow"]


def make_model_card(
    config: LZNConfig,
    *,
    model_id: str,
    dataset: str,
    metrics: Mapping[str, float],
    settings: Mapping[str, Mapping[str, Any]],
    parameters: int,
    hub_dataset: str | None = None,
) -> ModelCard:
    """Writes the card of a trained model, with the snippets and tags that its config allows.

    Args:
        config ([`LZNConfig`]): the model's config.
        model_id (`str`): argument of `from_pretrained`: a hub id or a folder.
        dataset (`str`): name of the dataset for people.
        metrics (`dict[str, float]`): results on the validation data, by name.
        settings (`dict`): the settings of the training by section, see `resolve_settings`.
        parameters (`int`): number of parameters.
        hub_dataset (`str`, *optional*): id of the dataset on the Hub.

    Returns:
        `ModelCard`: not saved yet.
    """
    name, time = model_id.rstrip("/").split("/")[-1], config.prediction_time
    summary, task, tags = _summary(config, dataset)
    values = [(metric.removeprefix("validation_"), None, round(value, 4)) for metric, value in metrics.items()]
    data = ModelCardData(
        license="apache-2.0",
        library_name="lzn_hf",
        pipeline_tag=task,
        tags=TAGS + tags,
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
        summary=summary,
        num_channels_text="Grey" if config.num_channels == 1 else "Colour",
        size=config.image_size,
        latent_dim_text="" if config.encoder_type is None else f"{config.latent_dim} latent dimensions, ",
        parameters=parameters,
        pictures="" if config.decoder_type is None else "\n![Samples](samples.png)\n",
        results=results or "There was no validation data.",
        scores="" if time is None else SCORES.format(time=time, picture=RELIABILITY_PICTURE),
        usage=_usage(config, model_id),
        reference=reference,
        settings="\n".join(rows),
    )
    return ModelCard(content)


def label_names(config: PreTrainedConfig) -> list[str]:
    """The names of a model's labels, by their ids."""
    names = cast(Mapping[int, str], config.id2label)
    return [names[label] for label in range(len(names))] if config.num_labels else []


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
        data = ModelCardData(library_name="lzn_hf", tags=TAGS, pipeline_tag=results[0].task_type if results else None)
        network = "[Latent Zoning Network](https://arxiv.org/abs/2509.15591)"
        card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {folder.name}\n\nA {network}.\n")
    card.data.model_name = card.data.model_name or folder.name
    replaced = {_result_key(result) for result in results}
    kept = [result for result in card.data.eval_results or [] if _result_key(result) not in replaced]
    card.data.eval_results = kept + results
    if section is not None:
        card.text = _replace_section(card.text, section.strip() + "\n")
    return card


def _result_key(result: EvalResult) -> tuple[str, str, str]:
    return result.task_type, result.dataset_name, result.metric_type


def _replace_section(text: str, section: str) -> str:
    heading = re.escape(section.splitlines()[0])
    # From the heading to the next one of its level.
    old = re.compile(rf"^{heading}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if old.search(text):
        text = old.sub(lambda _: section + "\n", text, count=1)
    else:
        usage = re.search(r"^## How to use\n", text, re.MULTILINE)
        at = usage.start() if usage else len(text)
        text = text[:at].rstrip() + "\n\n" + section + ("\n" + text[at:] if usage else "")
    return text.rstrip() + "\n"


__all__ = ["add_results", "evaluation_results", "label_names", "make_model_card"]
