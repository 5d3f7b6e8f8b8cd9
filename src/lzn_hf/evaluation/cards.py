# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The README.md of a trained model: what it is, how good, how to use it, how it was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..configuration_lzn import LZNConfig


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
}  # None: all that are set

TEMPLATE = """---
{metadata}
---

# {name}

{summary} {num_channels_text} images of {size} x {size} pixels, {latent_dim_text}{parameters:,}
parameters.
{pictures}
## Results

{results}

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


def _usage(config: LZNConfig, model_id: str) -> str:
    """How to use a model, by what it has."""
    text, lines = "", []
    if config.decoder_type is not None:
        arguments, more = "num_images_per_label=4", []
        if config.num_labels:
            arguments = f'label="{config.id2label[0]}", num_images_per_label=4'
            more.append("predictions = pipe.classify(images, top_k=3)  # classify, each image by itself")
        if config.encoder_type is not None:
            more.append("embeddings = pipe.embed(images)  # (4, features)")
        more.append("again = pipe.reconstruct(images).images  # to latent and noise, and back")
        text = (
            GENERATE.format(model_id=model_id, arguments=arguments, more="".join(f"{line}\n" for line in more)) + "\n"
        )
    if config.num_labels:
        lines.append(f'classifier = pipeline("image-classification", model="{model_id}")')
    if config.encoder_type is not None:
        lines.append(f'extractor = pipeline("image-feature-extraction", model="{model_id}")')
        lines.append(f'model = AutoModel.from_pretrained("{model_id}")  # get_image_features, get_image_anchors, ...')
    return text + (LOAD.format(lines="\n".join(lines)) if lines else "")


def _summary(config: LZNConfig, dataset: str) -> tuple[str, str, list[str]]:
    """What a model is, its task on the Hub, and the tags of what it does."""
    network = f"[Latent Zoning Network](https://arxiv.org/abs/2509.15591) trained on {dataset}"
    if config.num_labels:
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
    """Writes the card of a model: what it does follows from its config.

    Args:
        config: The model's config.
        model_id: What `from_pretrained` is called with: a hub id or a folder.
        dataset: Name of the dataset for people.
        metrics: Results on the validation data, by name.
        settings: As of `resolve_settings`.
        parameters: Number of parameters.
        hub_dataset: Id of the dataset on the Hub, where it is there.
    """
    name = model_id.rstrip("/").split("/")[-1]
    summary, task, tags = _summary(config, dataset)
    data = ModelCardData(
        license="apache-2.0",
        library_name="lzn_hf",
        pipeline_tag=task,
        tags=TAGS + tags,
        datasets=[hub_dataset] if hub_dataset else None,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type=hub_dataset or task,
                dataset_name=dataset,
                metric_type=metric.removeprefix("validation_"),
                metric_value=round(value, 4),
            )
            for metric, value in metrics.items()
        ]
        or None,
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
        usage=_usage(config, model_id),
        reference=reference,
        settings="\n".join(rows),
    )
    return ModelCard(content)
