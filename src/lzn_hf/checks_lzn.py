# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Checks of arguments: each raises a `ValueError` that names the argument, what came and what would be right."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from numbers import Integral

import torch
from torch import Tensor


Generators = torch.Generator | list[torch.Generator] | None


def check_at_least(minimum: int, **arguments: int) -> None:
    """Raises a `ValueError` unless all arguments are whole numbers of at least `minimum`."""
    for name, value in arguments.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
            raise ValueError(f"`{name}` must be a whole number of at least {minimum}, got {value!r}.")


def check_choice(choices: Sequence[object], **arguments: object) -> None:
    """Raises a `ValueError` unless all arguments are among `choices`."""
    for name, value in arguments.items():
        if value not in choices:
            raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_num_images(num_images_per_label: int, num_images_per_prompt: int | None) -> int:
    """Returns the number of images of each label by either of its names; raises a `ValueError` for two numbers, or none of at least 1."""
    check_at_least(1, num_images_per_label=num_images_per_label)
    if num_images_per_prompt is None:
        return num_images_per_label
    check_at_least(1, num_images_per_prompt=num_images_per_prompt)
    if num_images_per_label not in (1, num_images_per_prompt):
        raise ValueError(
            "`num_images_per_prompt` is another name of `num_images_per_label`: pass one of them, got "
            f"{num_images_per_prompt} and {num_images_per_label}."
        )
    return num_images_per_prompt


def check_size(image_size: int, **arguments: int | None) -> None:
    """Raises a `ValueError` unless all arguments are `None` or `image_size`, that of the images of a model."""
    for name, value in arguments.items():
        if value not in (None, image_size):
            raise ValueError(f"`{name}` must be {image_size}, the size of the images of this model, got {value!r}.")


def check_tensor(name: str, tensor: Tensor, shape: tuple[int | str, ...]) -> None:
    """Raises a `ValueError` unless a tensor is finite and has a shape; a letter in the shape stands for any size but 0."""
    wanted = f"`{name}` must be a tensor of shape ({', '.join(map(str, shape))})"
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{wanted}, got {type(tensor).__name__}.")
    sizes = zip(tensor.shape, shape, strict=True)
    if tensor.ndim != len(shape) or any(size != want if isinstance(want, int) else size == 0 for size, want in sizes):
        raise ValueError(f"{wanted}, got shape {tuple(tensor.shape)}.")
    if not tensor.isfinite().all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinite values.")


def check_result(name: str, values: Tensor) -> Tensor:
    """Returns what a model computed, or raises a `ValueError` for NaN and infinite values."""
    if not values.isfinite().all():
        rows = int((~values.flatten(1).isfinite().all(1)).sum())
        raise ValueError(
            f"{rows} of {len(values)} {name} are NaN or infinite: half precision may have overflowed (load the model in float32), the "
            "settings of the scheduler may not fit the image flow, or the model may be damaged."
        )
    return values


def check_generators(generator: Generators, num_images: int) -> None:
    """Raises a `ValueError` unless `generator` is `None`, one generator, or a list with one for each image."""
    given = generator if isinstance(generator, list) else [generator]
    if generator is not None and not all(isinstance(one, torch.Generator) for one in given):
        seeds = [one for one in given if isinstance(one, Integral)]
        right = f"torch.Generator().manual_seed({seeds[0] if seeds else 'seed'})"
        right = f"[{right}, ...]" if isinstance(generator, (list, tuple)) else right
        raise ValueError(f"`generator` must be a torch.Generator or a list of them, got {generator!r}: pass {right}.")
    if isinstance(generator, list) and len(generator) != num_images:
        raise ValueError(f"`generator` must be one or a list of {num_images}, one an image, got {len(generator)}.")


def normal_name(name: str) -> str:
    """Returns the NFC form of a name: what looks the same on the screen is one name, however it was typed or stored."""
    return unicodedata.normalize("NFC", name)


def near_matches(name: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The names most like a misspelt one, at most three, best first; of a similarity in [0, 1] of at least `cutoff`."""
    return difflib.get_close_matches(name, known, n=3, cutoff=cutoff)


def check_pixel_values(
    pixel_values: Tensor, num_channels: int, image_size: int, *, any_size: bool, finite: bool
) -> None:
    """Raises a ValueError for images that a model does not take.

    Args:
        pixel_values (`Tensor` of shape `(B, num_channels, image_size, image_size)`): the images.
        num_channels, image_size (`int`): those of the model.
        any_size (`bool`): whether height and width are free.
        finite (`bool`): whether to look for NaN and infinite values.
    """
    expected, num_checked = (num_channels, image_size, image_size), 1 if any_size else 3
    if pixel_values.ndim != 4 or pixel_values.shape[1 : 1 + num_checked] != expected[:num_checked]:
        raise ValueError(
            f"`pixel_values` must have shape (batch, {', '.join(map(str, expected))}), got {tuple(pixel_values.shape)}; "
            "LZNImageProcessor resizes and converts images."
        )
    if finite and not torch.isfinite(pixel_values).all():
        raise ValueError("`pixel_values` must be finite, got NaN or infinite values.")


def labels_to_ids(label: str | int | Sequence[str | int], label2id: dict[str, int]) -> Tensor:
    """Converts one or more label names and ids to ids.

    Args:
        label (`str`, `int` or list of them): names in `label2id`, or ids below its length.
        label2id (`dict[str, int]`): the labels of the model.

    Returns:
        `Tensor` of shape `(N,)`: the ids, int64.

    Raises:
        ValueError: for an unknown label, an id that is the name of another label, an empty list and a model without labels.
    """
    if not label2id:
        raise ValueError(f"`label` must be None, as the model has no labels (config.num_labels is 0), got {label!r}.")
    labels: list[object] = list(label) if isinstance(label, (list, tuple)) else [label]
    if not labels:
        raise ValueError("`label` must be at least one label, got an empty list.")
    return torch.tensor([_label_to_id(one, label2id) for one in labels])


def _label_to_id(label: object, label2id: dict[str, int]) -> int:
    num_labels = len(label2id)
    if isinstance(label, str):
        if label in label2id:
            return label2id[label]
        for name, label_id in label2id.items():
            if normal_name(name) == normal_name(label):
                return label_id
        near = near_matches(label, label2id)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        known = ", ".join(map(repr, list(label2id)[:10])) + (", ..." if num_labels > 10 else "")
        raise ValueError(f"`label` {label!r} is unknown.{hint} The model has {num_labels} labels: {known}.")
    if not isinstance(label, Integral) or isinstance(label, bool):
        raise ValueError(f"`label` must be a name or an id of a label, got {label!r} of type {type(label).__name__}.")
    name, label_id = str(label), int(label)
    if not 0 <= label_id < num_labels:
        hint = f" {name!r} is the name of id {label2id[name]}: pass label={name!r}." if name in label2id else ""
        raise ValueError(f"`label` must be in 0..{num_labels - 1}, got {label}.{hint}")
    if label2id.get(name, label_id) != label_id:
        other = next(other for other, i in label2id.items() if i == label_id)
        raise ValueError(
            f"`label` {name} is ambiguous: id {name} is {other!r}, and {name!r} is the name of id {label2id[name]}: pass "
            f'label="{other}" or label="{name}".'
        )
    return label_id


__all__ = [
    "Generators",
    "check_at_least",
    "check_choice",
    "check_generators",
    "check_num_images",
    "check_pixel_values",
    "check_result",
    "check_size",
    "check_tensor",
    "labels_to_ids",
    "near_matches",
    "normal_name",
]
