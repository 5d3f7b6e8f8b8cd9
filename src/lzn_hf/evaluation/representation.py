# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The representation of a saved model: fine-tuning on few labels, all measures of a folder, and its model card."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather, pad_across_processes
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from ..data.batches import collate_images, image_batches, to_pixel_values
from ..data.images import ImageData
from ..modeling_lzn import LZNModel, evaluation_mode
from ..visualization.embeddings import plot_embeddings
from .probes import FEATURE_KINDS, collect_all_features, knn_accuracy, linear_probe, nonzero_std, require_encoder


TASK = "image-feature-extraction"  # of our results in a model card
SECTION = "## Representation"
DESCRIPTIONS = {
    "embeddings": "embeddings, before the head",
    "anchors": "anchors, after the head",
    "latents": "latents, in the middle of the zone",
}


# Fine-tuning ---------------------------------------------------------------------------------------------------------


def balanced_draw(labels: Tensor, num_labels: int, share: float, seed: int = 0) -> Tensor:
    """Rows, drawn by `seed`, with as many of each label: about `share` of all `(N,)`, at least one of each label.

    Raises:
        ValueError: if `share` is not in (0, 1], or a label has fewer rows than the others should have.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must be above 0 and at most 1, got {share}.")
    count = max(1, round(share * len(labels) / num_labels))
    generator, drawn = torch.Generator().manual_seed(seed), []
    for label in range(num_labels):
        rows = (labels == label).nonzero()[:, 0]
        if len(rows) < count:
            raise ValueError(
                f"`share` {share:g} of {len(labels)} images is {count} of each label, but label {label} has {len(rows)}: "
                "a smaller share fits."
            )
        drawn.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    return torch.cat(drawn)


def fine_tune(
    model: LZNModel,
    data: ImageData,
    share: float = 0.01,
    *,
    num_steps: int = 500,
    batch_size: int = 128,
    learning_rate: float = 5e-4,
    weight_decay: float = 0.05,
    flip: bool = False,
    shift: int = 0,
    max_eval_samples: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> float:
    """Top-1 accuracy on the validation images after fine-tuning the whole encoder on a small share of the labels.

    Protocol: `share` of the training images, as many of each label ([`balanced_draw`]); a linear layer that starts at
    0 on the embeddings (before the head), standardised by what they are on these images before the first step;
    cross-entropy, AdamW, learning rate with 10 % linear warm-up and then half a cosine to zero; the last weights count,
    nothing is chosen on the validation images. The given model is not changed, and the global random generators are
    left as they were.

    Args:
        model: Its encoder is copied, with its device.
        data: With labels and validation images, not streamed.
        share: In (0, 1].
        num_steps, batch_size, learning_rate, weight_decay: Of AdamW. A batch is never larger than the images drawn.
        flip, shift: Augmentation of the training images, see [`to_pixel_values`].
        max_eval_samples: Test on this many validation images, drawn by `seed`; None takes all.
        seed: Draws the images, their order, augmentation and dropout.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: for data without labels or validation images or that is streamed, numbers out of range, or as
            [`balanced_draw`].
    """
    from tqdm.auto import tqdm
    from transformers import get_cosine_schedule_with_warmup

    for name, value in (("num_steps", num_steps), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    require_encoder(model)
    images, test = _labelled_subset(data, share, seed), _loader(_drawn(data.validation, max_eval_samples, seed))
    device, generator = model.device, torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # dropout
        classifier = _EncoderWithLinearLayer(model.encoder, _loader(images), len(data.label_names), device)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, weight_decay=weight_decay)
        scheduler = get_cosine_schedule_with_warmup(optimizer, num_steps // 10, num_steps)
        size = min(batch_size, len(images))
        loader = _loader(images, size, shuffle=True, drop_last=True, generator=generator)
        steps = islice(chain.from_iterable(repeat(loader)), num_steps)
        description = f"fine-tuning on {len(images)} images"
        classifier.train()
        for batch in tqdm(steps, total=num_steps, desc=description, unit="step", disable=not progress, leave=False):
            x = to_pixel_values(batch["pixel_values"].to(device), flip=flip, shift=shift, generator=generator)
            loss = F.cross_entropy(classifier(x), batch["labels"].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        correct = 0  # still in the fork: a data loader draws from the global generator
        with evaluation_mode(classifier):
            for batch in test:
                predicted = classifier(to_pixel_values(batch["pixel_values"].to(device))).argmax(-1)
                correct += (predicted == batch["labels"].to(device)).sum().item()
    return correct / len(test.dataset)


class _EncoderWithLinearLayer(nn.Module):
    """A copy of an encoder with a linear layer on its embeddings, standardised by what they are on these images."""

    def __init__(self, encoder: nn.Module, images: DataLoader, num_labels: int, device: torch.device):
        super().__init__()
        self.encoder = copy.deepcopy(encoder).float().to(device).requires_grad_(True)
        with evaluation_mode(self.encoder):
            features = torch.cat(
                [self.encoder(to_pixel_values(batch["pixel_values"].to(device)))[0] for batch in images]
            )
        self.mean, self.std = features.mean(0), nonzero_std(features)
        self.linear = nn.Linear(features.shape[1], num_labels, device=device)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.linear((self.encoder(pixel_values)[0] - self.mean) / self.std)


def _labelled_subset(data: ImageData, share: float, seed: int) -> Subset:
    if data.label_names is None or data.validation is None or isinstance(data.train, IterableDataset):
        raise ValueError("`data` must have labels and validation images and be stored, not streamed, to fine-tune on.")
    rows = balanced_draw(data.train.labels, len(data.label_names), share, seed)
    return Subset(data.train, rows.tolist())


def _drawn(dataset: Dataset, limit: int | None, seed: int) -> Subset:
    """The images that [`data.batches.image_batches`] takes."""
    return Subset(
        dataset, torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:limit].tolist()
    )


def _loader(dataset: Dataset, batch_size: int = 256, **arguments: Any) -> DataLoader:
    return DataLoader(dataset, batch_size=batch_size, collate_fn=collate_images, **arguments)


# Saved models --------------------------------------------------------------------------------------------------------


def evaluate_folder(
    model_name_or_path: str | os.PathLike,
    data: ImageData,
    *,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    k: int = 20,
    fine_tune_shares: Sequence[float] = (),
    fine_tune_steps: int = 500,
    flip: bool = False,
    shift: int = 0,
    batch_size: int = 256,
    map_file: str | os.PathLike | None = None,
    map_samples: int = 2000,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any] | None:
    """Measures the features of a saved model on labelled images.

    The encoding is shared by all processes, and the main process does the rest. The result does not depend on their
    number, but for rounding.

    Args:
        model_name_or_path: Folder or hub id of a saved [`LZNModel`] (or pipeline) with an image encoder.
        data: With labels and validation images, which are those to test on.
        max_train_samples, max_eval_samples: Take this many of the images, drawn by `seed`; None takes all.
        k: Neighbours of [`knn_accuracy`].
        fine_tune_shares: Shares of the training labels for [`fine_tune`], with its other defaults.
        fine_tune_steps, flip, shift: Of [`fine_tune`].
        batch_size: Images encoded at once, on each process.
        map_file: Where to write a map of the embeddings ([`plot_embeddings`]) of `map_samples` of the test images.
        map_samples: See `map_file`.
        seed: Of all that is random.
        progress: Whether to show progress bars.

    Returns:
        On the main process, a dictionary of JSON values; None on the others:
        `embeddings`, `anchors` and, of a model with reference anchors, `latents`: each with `size` (F), `linear` and
        `knn` (top-1 accuracies); `fine_tune`: accuracy by share, as text; `model`, `dataset`, `labels`,
        `train_images`, `test_images` and `settings`.

    Raises:
        OSError: if there is no model.
        ValueError: if the folder is not that of a whole model with an image encoder, the images have another shape
            than its, or as the functions named above.
    """
    if data.label_names is None or data.validation is None:
        raise ValueError("`data` must have labels, and validation images to test on.")
    for share in fine_tune_shares:
        _labelled_subset(data, share, seed)  # what is wrong with a share shows before the long work
    state = PartialState(cpu=not torch.accelerator.is_available())
    model = _load_model(model_name_or_path).to(state.device)
    kinds = [kind for kind in FEATURE_KINDS if kind != "latents" or model.reference_anchors is not None]
    progress = progress and state.is_main_process
    splits = []
    for dataset, limit in ((data.train, max_train_samples), (data.validation, max_eval_samples)):
        share = {"process_index": state.process_index, "num_processes": state.num_processes}
        batches = image_batches(dataset, batch_size, limit=limit, seed=seed, **share)
        features, labels = collect_all_features(model, batches, kinds, progress=progress)
        splits.append(({kind: _gather(state, rows) for kind, rows in features.items()}, _gather(state, labels)))
    if not state.is_main_process:
        return None

    (train, train_labels), (test, test_labels) = splits
    results: dict[str, Any] = {}
    for kind in kinds:
        sets = (train[kind], train_labels, test[kind], test_labels)
        results[kind] = {
            "size": train[kind].shape[1],
            "linear": linear_probe(*sets, seed=seed, progress=progress),
            "knn": knn_accuracy(*sets, k=k, progress=progress),
        }
    results["fine_tune"] = {
        f"{share:g}": fine_tune(
            model,
            data,
            share,
            num_steps=fine_tune_steps,
            flip=flip,
            shift=shift,
            max_eval_samples=max_eval_samples,
            seed=seed,
            progress=progress,
        )
        for share in fine_tune_shares
    }
    if map_file is not None:
        count = min(map_samples, len(test_labels))
        shown = image_batches(data.validation, batch_size, limit=count, seed=seed)  # the first of those in `test`
        picture = plot_embeddings(
            test["embeddings"][:count].cpu(),
            test_labels[:count].cpu(),
            data.label_names,
            images=torch.cat([batch["pixel_values"] for batch in shown]),
            title=f"Map of the embeddings of {data.name}",
            what="test images",
            seed=seed,
        )
        Path(map_file).parent.mkdir(parents=True, exist_ok=True)
        picture.save(map_file)
    settings = {"k": k, "fine_tune_steps": fine_tune_steps, "flip": flip, "shift": shift, "seed": seed}
    return {
        "model": os.fspath(model_name_or_path),
        "dataset": data.name,
        "labels": len(data.label_names),
        "train_images": len(train_labels),
        "test_images": len(test_labels),
        **results,
        "settings": settings,
    }


def _load_model(model_name_or_path: str | os.PathLike) -> LZNModel:
    model, info = LZNModel.from_pretrained(model_name_or_path, dtype=torch.float32, output_loading_info=True)
    wrong = {name: sorted(map(str, info[name]))[:3] for name in ("missing_keys", "mismatched_keys") if info[name]}
    if wrong:  # transformers draws random weights for these, with no more than a warning
        raise ValueError(f"`model_name_or_path` {model_name_or_path} is not a whole LZNModel: {wrong}")
    require_encoder(model)
    return model


def _gather(state: PartialState, rows: Tensor) -> Tensor:
    """Rows of all processes, on this one's device, in the order in which `image_batches` dealt them out."""
    rows, total = rows.to(state.device), state.num_processes
    if total == 1:
        return rows
    counts = gather(torch.tensor([len(rows)], device=state.device)).tolist()
    parts = gather(pad_across_processes(rows)).chunk(total)
    joined = rows.new_empty(sum(counts), *rows.shape[1:])
    for process, (part, count) in enumerate(zip(parts, counts, strict=True)):
        joined[process::total] = part[:count]
    return joined


# Model card ----------------------------------------------------------------------------------------------------------


def results_table(results: Mapping[str, Any]) -> str:
    """The results of [`evaluate_folder`] as Markdown."""
    lines = [
        f"| features | size | linear probe | {results['settings']['k']} nearest neighbours |",
        "|---|---|---|---|",
    ]
    for kind in FEATURE_KINDS:
        if kind in results:
            row = results[kind]
            lines.append(
                f"| {DESCRIPTIONS[kind]} | {row['size']} | {100 * row['linear']:.2f} % | {100 * row['knn']:.2f} % |"
            )
    if results["fine_tune"]:
        lines += ["", "| labels used | fine-tuned encoder |", "|---|---|"]
        lines += [
            f"| {100 * float(share):g} % | {100 * value:.2f} % |" for share, value in results["fine_tune"].items()
        ]
    return "\n".join(lines)


def update_model_card(
    folder: str | os.PathLike,
    results: Mapping[str, Any],
    *,
    hub_dataset: str | None = None,
    picture: str | None = None,
) -> ModelCard:
    """The card of a model folder with the results of [`evaluate_folder`], not saved yet.

    They go into a section of their own and into the metadata, and replace what an earlier evaluation on the same
    dataset wrote. The rest of the card stays; a folder without README.md gets a short one.

    Args:
        folder: With the README.md, if there is one.
        results: See [`evaluate_folder`].
        hub_dataset: Id of the dataset on the Hub, where it is there.
        picture: File name of the map in the folder.
    """
    path = Path(folder) / "README.md"
    if path.is_file():
        card = ModelCard.load(path)
    else:
        data = ModelCardData(library_name="lzn_hf", pipeline_tag=TASK, tags=["latent-zoning-network", "lzn"])
        name = Path(folder).resolve().name
        card = ModelCard(
            f"---\n{data.to_yaml()}\n---\n\n# {name}\n\nA [Latent Zoning Network](https://arxiv.org/abs/2509.15591).\n"
        )
    accuracies = {}
    for kind in FEATURE_KINDS:
        if kind in results:
            accuracies[f"linear probe, {kind}"] = results[kind]["linear"]
            accuracies[f"{results['settings']['k']} nearest neighbours, {kind}"] = results[kind]["knn"]
    for share, value in results["fine_tune"].items():
        accuracies[f"fine-tuned on {100 * float(share):g} % of the labels"] = value
    kept = [
        result
        for result in card.data.eval_results or []
        if (result.task_type, result.dataset_name, result.metric_type) != (TASK, results["dataset"], "accuracy")
    ]
    card.data.eval_results = kept + [
        EvalResult(
            task_type=TASK,
            dataset_type=hub_dataset or TASK,
            dataset_name=results["dataset"],
            metric_type="accuracy",
            metric_name=name,
            metric_value=round(value, 4),
        )
        for name, value in accuracies.items()
    ]
    card.data.model_name = card.data.model_name or Path(folder).resolve().name

    section = (
        f"{SECTION}\n\nTop-1 accuracy on {results['test_images']:,} test images of {results['dataset']}; linear probe and neighbours "
        f"use {results['train_images']:,}\ntraining images and frozen features.\n\n{results_table(results)}\n"
    )
    if picture is not None:
        section += f"\n![Map of the embeddings of test images]({picture})\n"
    # From our heading to the next one of its level; a new section goes before "How to use", or to the end.
    old = re.compile(rf"^{SECTION}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    text = card.text
    if old.search(text):
        text = old.sub(lambda _: section + "\n", text, count=1)
    else:
        place = re.search(r"^## How to use\n", text, re.MULTILINE)
        at = place.start() if place else len(text)
        text = text[:at].rstrip() + "\n\n" + section + ("\n" + text[at:] if place else "")
    card.text = text.rstrip() + "\n"
    return card


__all__ = ["balanced_draw", "evaluate_folder", "fine_tune", "results_table", "update_model_card"]
