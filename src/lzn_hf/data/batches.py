# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Batches of images: how stored pixels become pixel values, and the images of a dataset in order."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from itertools import islice
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset


def collate_images(items: dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stacks items to a batch, and returns a batch as it is: the `collate_fn` for every dataset of this package."""
    if isinstance(items, dict):
        return items
    return {key: torch.stack([item[key] for item in items]) for key in items[0]}


def to_pixel_values(
    images: torch.Tensor,
    *,
    flip: bool = False,
    shift: int = 0,
    generator: torch.Generator | None = None,
    process_index: int = 0,
    num_processes: int = 1,
) -> torch.Tensor:
    """Turns `uint8` images into float32 pixel values in [-1, 1], with optional random augmentation of each image.

    Args:
        images (`Tensor` of shape `(B, C, H, W)`): `uint8`, on any device.
        flip (`bool`, *optional*, defaults to `False`): whether to mirror each image left to right with probability 1/2.
        shift (`int`, *optional*, defaults to 0): move each image by a whole number of pixels drawn from `-shift..shift`, down and right
            independently; the border pixels are repeated, so no background colour is assumed.
        generator (`torch.Generator`, *optional*): draws everything. A CPU generator gives the same result whatever device the images
            are on.
        process_index, num_processes (`int`, *optional*, default to 0 and 1): draw for the batch of all processes, each of which has B
            images, and take the rows of this one.

    Returns:
        `Tensor` of shape `(B, C, H, W)`: float32, on the device of `images`: 0 becomes -1, 255 becomes 1.

    Raises:
        ValueError: `images` is not a `uint8` batch, or `shift` is negative or not below the image size.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"`images` must be uint8 (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
    (batch, _, height, width), device = images.shape, images.device
    if not 0 <= shift < min(height, width):
        raise ValueError(f"`shift` must be from 0 to below the image size {min(height, width)}, got {shift}")
    draw_on = device if generator is None else generator.device
    total, own = num_processes * batch, slice(process_index * batch, (process_index + 1) * batch)
    # Where each output pixel comes from, (B, H) and (B, W): flip and shift together are one gather of bytes.
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    if shift:
        moves = torch.randint(-shift, shift + 1, (2, total, 1), generator=generator, device=draw_on)[:, own].to(device)
        rows, columns = (rows - moves[0]).clamp(0, height - 1), (columns - moves[1]).clamp(0, width - 1)
    if flip:
        mirrored = torch.rand(total, 1, generator=generator, device=draw_on)[own].to(device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    if flip or shift:
        source = rows.expand(batch, -1)[:, :, None] * width + columns[:, None]
        source = source.view(batch, 1, -1).expand(-1, images.shape[1], -1)
        images = images.flatten(2).gather(2, source).view_as(images)
    return images.float().div_(127.5).sub_(1.0)


def image_batches(
    dataset: Dataset,
    batch_size: int,
    *,
    limit: int | None = None,
    seed: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
) -> Iterator[dict[str, Tensor]]:
    """Yields batches of a dataset, or of a part of it, for evaluation: each image once, in a last batch that may be smaller.

    Args:
        dataset (`Dataset`): the training or validation data of an [`ImageData`].
        batch_size (`int`): images in a batch.
        limit (`int`, *optional*): take this many images, drawn by `seed`; the first ones of a stream. `None` takes all.
        seed (`int`, *optional*, defaults to 0): see `limit`.
        process_index, num_processes (`int`, *optional*, default to 0 and 1): yield only the images of this process.
    """
    if isinstance(dataset, IterableDataset):
        items = islice(iter(dataset), process_index, limit, num_processes)
        while batch := list(islice(items, batch_size)):
            yield collate_images(batch)
    else:
        num_images = len(cast(Sized, dataset))
        order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))[:limit]
        part = Subset(dataset, order[process_index::num_processes].tolist())
        yield from DataLoader(part, batch_size=batch_size, collate_fn=collate_images)
