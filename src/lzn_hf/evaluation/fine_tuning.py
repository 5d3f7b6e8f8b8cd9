# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Accuracy of an encoder that is fine-tuned on few labels."""

from __future__ import annotations

import copy
from itertools import chain, islice, repeat
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from ..checks_lzn import check_at_least
from ..data.batches import collate_images, image_batches, to_pixel_values
from ..data.images import ImageData, StoredImageDataset, TensorImageDataset
from ..modeling_lzn import LZNModel, evaluation_mode
from .probes import nonzero_std, require_encoder


def balanced_draw(labels: Tensor, num_labels: int, fraction: float, seed: int = 0) -> Tensor:
    """Draws a class-balanced subset.

    Args:
        labels (`Tensor` of shape `(N,)`): the labels.
        num_labels (`int`): draws equally many rows of each label below this.
        fraction (`float`): of all rows, in (0, 1], rounded to at least one row per label.
        seed (`int`, *optional*, defaults to 0): decides the draw.

    Returns:
        `Tensor` of shape `(M,)`: the rows. A larger fraction contains a smaller one.

    Raises:
        ValueError: if `fraction` is not in (0, 1], or a label has fewer rows than needed.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"`fraction` must be above 0 and at most 1, got {fraction}.")
    count = max(1, round(fraction * len(labels) / num_labels))
    generator, drawn = torch.Generator().manual_seed(seed), []
    for label in range(num_labels):
        rows = (labels == label).nonzero()[:, 0]
        if len(rows) < count:
            raise ValueError(
                f"`fraction` {fraction:g} of {len(labels)} images is {count} of each label, but label {label} has "
                f"{len(rows)}: use a smaller fraction."
            )
        drawn.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    return torch.cat(drawn)


def labelled_subset(data: ImageData, fraction: float, seed: int) -> Subset:
    """The [`balanced_draw`] from the training images.

    Args:
        data (`ImageData`): the data.
        fraction, seed: see [`balanced_draw`].

    Raises:
        ValueError: for data without labels or validation images, streamed data, or as [`balanced_draw`].
    """
    train, stored = data.train, (StoredImageDataset, TensorImageDataset)
    if data.label_names is None or data.validation is None or not isinstance(train, stored) or train.labels is None:
        raise ValueError("`data` must have labels and validation images and be stored, not streamed, to fine-tune on.")
    return Subset(train, balanced_draw(train.labels, len(data.label_names), fraction, seed).tolist())


def fine_tune(
    model: LZNModel,
    data: ImageData,
    fraction: float = 0.01,
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
    """Top-1 accuracy on the validation images after the whole encoder is fine-tuned on a small fraction of the labels.

    Protocol: a class-balanced fraction of the training images ([`balanced_draw`]); a linear layer on the embeddings
    (before the head), which are standardised by their moments on these images before the first step; it starts at 0;
    cross-entropy, AdamW, 10 % linear warm-up and then half a cosine to zero. The weights of the last step are tested: no
    choice depends on the validation images. The given model and the global random generators do not change.

    Args:
        model ([`LZNModel`]): its encoder is copied, with its device.
        data (`ImageData`): with labels and validation images, not streamed.
        fraction (`float`, *optional*, defaults to 0.01): of the training images, in (0, 1].
        num_steps (`int`, *optional*, defaults to 500): optimizer steps.
        batch_size (`int`, *optional*, defaults to 128): images per step, or all drawn images if they are fewer.
        learning_rate (`float`, *optional*, defaults to 5e-4): highest learning rate of AdamW.
        weight_decay (`float`, *optional*, defaults to 0.05): weight decay of AdamW.
        flip, shift: augmentation of the training images, see [`to_pixel_values`].
        max_eval_samples (`int`, *optional*): test on so many validation images, drawn by `seed`; all if not given.
        seed (`int`, *optional*, defaults to 0): decides the images, their order, augmentation and dropout.
        progress (`bool`, *optional*, defaults to `False`): whether to show a progress bar.

    Raises:
        ValueError: for data without labels or validation images, streamed data, numbers out of range, or as
            [`balanced_draw`].
    """
    from tqdm.auto import tqdm
    from transformers import get_cosine_schedule_with_warmup

    check_at_least(1, num_steps=num_steps, batch_size=batch_size)
    encoder = require_encoder(model)
    images, num_labels = labelled_subset(data, fraction, seed), len(data.label_names or ())
    device, generator = model.device, torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # dropout
        classifier = _EncoderWithLinearLayer(encoder, _loader(images, 256), num_labels, device)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, weight_decay=weight_decay)
        scheduler = get_cosine_schedule_with_warmup(optimizer, num_steps // 10, num_steps)
        loader = _loader(images, min(batch_size, len(images)), shuffle=True, drop_last=True, generator=generator)
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
        correct = total = 0  # still in the fork: a data loader draws from the global generator
        with evaluation_mode(classifier):
            for batch in image_batches(cast(Dataset, data.validation), 256, limit=max_eval_samples, seed=seed):
                predicted = classifier(to_pixel_values(batch["pixel_values"].to(device))).argmax(-1)
                correct += (predicted == batch["labels"].to(device)).sum().item()
                total += len(predicted)
    return correct / total


class _EncoderWithLinearLayer(nn.Module):
    """A copy of an encoder with a linear layer on its embeddings, which are standardised by their moments on some images."""

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


def _loader(dataset: Dataset, batch_size: int, **arguments: Any) -> DataLoader:
    return DataLoader(dataset, batch_size=batch_size, collate_fn=collate_images, **arguments)


__all__ = ["balanced_draw", "fine_tune", "labelled_subset"]
