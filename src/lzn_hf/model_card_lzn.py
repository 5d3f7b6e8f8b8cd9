# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The README.md of a trained model: what it is, how good, how to use it, how it was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .configuration_lzn import LZNConfig


TAGS = ["latent-zoning-network", "lzn", "image-generation", "image-feature-extraction", "rectified-flow"]
SETTINGS_SHOWN = {
    "data": None,
    "joint": None,
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

A [Latent Zoning Network](https://arxiv.org/abs/2509.15591) trained on {dataset}. One model, one latent space: it
generates images of {num_labels} labels, classifies images and embeds them. {num_channels_text} images of {size} x
{size} pixels, {latent_dim} latent dimensions, {parameters:,} parameters.

![A row of samples for each label](samples.png)

## Results

{results}

## How to use

```py
from lzn_hf import LZNPipeline

pipe = LZNPipeline.from_pretrained("{model_id}")
images = pipe(label="{label}", num_images_per_label=4).images  # generate
predictions = pipe.classify(images, top_k=3)  # classify, each image by itself
embeddings = pipe.embed(images)  # (4, features)
```

```py
import lzn_hf
from transformers import pipeline

classifier = pipeline("image-classification", model="{model_id}")
extractor = pipeline("image-feature-extraction", model="{model_id}")
```

## Training

The weights are the moving averages. The model holds anchors of {num_reference_anchors} training images, among which
every image is placed by itself; a prediction does not depend on other images of a batch.

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
    """Writes the card of a model with labels.

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
    data = ModelCardData(
        license="apache-2.0",
        library_name="lzn_hf",
        pipeline_tag="image-classification",
        tags=TAGS,
        datasets=[hub_dataset] if hub_dataset else None,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=hub_dataset or "image-classification",
                dataset_name=dataset,
                metric_type=metric.removeprefix("validation_"),
                metric_value=round(value, 4),
            )
            for metric, value in metrics.items()
        ]
        or None,
    )
    results = "\n".join(
        f"- {metric.replace('_', ' ')}: {value:.4f}, each image by itself" for metric, value in metrics.items()
    )
    rows = []
    for section, shown in SETTINGS_SHOWN.items():
        for key, value in settings.get(section, {}).items():
            if value is not None and (shown is None or key in shown):
                rows.append(f"| {key} | `{json.dumps(value)}` |")
    content = TEMPLATE.format(
        metadata=data.to_yaml(),
        name=name,
        dataset=dataset,
        num_labels=config.num_labels,
        num_channels_text="Grey" if config.num_channels == 1 else "Colour",
        size=config.image_size,
        latent_dim=config.latent_dim,
        parameters=parameters,
        results=results or "There was no validation data.",
        model_id=model_id,
        label=config.id2label[0],
        num_reference_anchors=config.num_reference_anchors,
        settings="\n".join(rows),
    )
    return ModelCard(content)
