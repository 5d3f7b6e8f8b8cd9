# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Checks of arguments: each raises a `ValueError` that names the argument, what came and what would be right."""

from __future__ import annotations

import difflib
import math
import os
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral, Real

import torch
from torch import Tensor


Generators = torch.Generator | list[torch.Generator] | None

FLOATING_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# The largest pixel value that is taken for an image in [-1, 1]: samples that are not clipped, random views and the statistics of other
# models stay below, an image in 0..255 does not.
MAX_PIXEL_VALUE = 10.0


def shown(value: object, limit: int = 200) -> str:
    """Returns the literal of a value for a message, cut after `limit` characters; of a tensor or an array, its type and shape."""
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape):
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    literal = repr(value)
    return literal[:limit] + ("..." if len(literal) > limit else "")


def check_at_least(minimum: int, **arguments: int) -> None:
    """Raises a `ValueError` unless all arguments are whole numbers of at least `minimum`."""
    for name, value in arguments.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
            raise ValueError(f"`{name}` must be a whole number of at least {minimum}, got {shown(value)}.")


def is_among(choices: Sequence[object], value: object) -> bool:
    """Whether a value of any type is one of `choices`."""
    try:
        return value in choices
    except (TypeError, ValueError, RuntimeError):  # arrays and tensors are equal element by element
        return False


def check_choice(choices: Sequence[object], **arguments: object) -> None:
    """Raises a `ValueError` unless all arguments are among `choices`."""
    for name, value in arguments.items():
        if not is_among(choices, value):
            raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {shown(value)}.")


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
        if not is_among((None, image_size), value):
            raise ValueError(
                f"`{name}` must be {image_size}, the size of the images of this model, got {shown(value)}."
            )


def tensor_kind(tensor: Tensor) -> str:
    """Returns "dense" for a tensor whose values are all there, or what else it is: "nested", "quantized", "meta", "sparse_coo", ..."""
    for name, found in (("nested", tensor.is_nested), ("quantized", tensor.is_quantized), ("meta", tensor.is_meta)):
        if found:
            return name
    return "dense" if tensor.layout is torch.strided else str(tensor.layout).removeprefix("torch.")


def check_tensor(name: str, tensor: Tensor, shape: tuple[int | str, ...], *, finite: bool = True) -> None:
    """Raises a `ValueError` unless a tensor is dense, floating point, finite and of a shape, in which a letter is any size but 0.

    A graph that is compiled depends on no values, and without `finite` they are not looked at either: that waits for the device.
    """
    if got := _misfit(tensor, shape, finite):
        raise ValueError(f"`{name}` must be a tensor of shape ({', '.join(map(str, shape))}), got {got}.")
    if finite and not torch.compiler.is_compiling() and not tensor.isfinite().all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinite values.")


def _misfit(tensor: object, shape: tuple[int | str, ...], has_values: bool) -> str:
    """Returns what a tensor is instead of a dense one of floats of a shape, or "" if it is one."""
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    kind = "dense" if torch.compiler.is_compiling() else tensor_kind(tensor)
    if kind != "dense" and (kind != "meta" or has_values):
        return f"a {kind} one"
    fits = tensor.ndim == len(shape)
    for size, want in zip(tensor.shape, shape, strict=False):
        fits = fits and (size > 0 if isinstance(want, str) else size == want)
    if not fits:
        return f"shape {tuple(tensor.shape)}"
    return "" if tensor.dtype in FLOATING_TYPES else f"values of {tensor.dtype}, which are not floating point"


def check_time(t: Tensor | float, batch_size: int) -> None:
    """Raises a `ValueError` unless a time is a finite number, or a tensor of one or of `batch_size` numbers."""
    if not isinstance(t, Tensor):
        if not isinstance(t, Real) or isinstance(t, bool) or not math.isfinite(t):
            raise ValueError(f"`t` must be a finite number or a tensor of shape ({batch_size},), got {shown(t)}.")
    elif t.ndim > 1 or (t.ndim == 1 and t.shape[0] not in (1, batch_size)) or t.is_complex():
        raise ValueError(
            f"`t` must be a number or a tensor of shape ({batch_size},), got {t.dtype} of shape {tuple(t.shape)}."
        )


def check_result(name: str, values: Tensor) -> Tensor:
    """Returns what a model computed, or raises a `ValueError` for NaN and infinite values."""
    if not values.isfinite().all():
        rows = int((~values.flatten(1).isfinite().all(1)).sum())
        raise ValueError(
            f"{rows} of {len(values)} {name} are NaN or infinite: half precision may have overflowed (load the model in float32), the "
            "settings of the scheduler may not fit the image flow, or the model may be damaged."
        )
    return values


def check_generator(generator: torch.Generator | None) -> None:
    """Raises a `ValueError` unless `generator` is `None` or one generator."""
    if isinstance(generator, list):
        raise ValueError(f"`generator` must be one torch.Generator, got a list of {len(generator)}.")
    check_generators(generator, 1)


def check_generators(generator: Generators, num_images: int) -> None:
    """Raises a `ValueError` unless `generator` is `None`, one generator, or a list with one for each image."""
    given = generator if isinstance(generator, list) else [generator]
    if generator is not None and not all(isinstance(one, torch.Generator) for one in given):
        seeds = [one for one in given if isinstance(one, Integral)]
        right = f"torch.Generator().manual_seed({seeds[0] if seeds else 'seed'})"
        right = f"[{right}, ...]" if isinstance(generator, (list, tuple)) else right
        raise ValueError(
            f"`generator` must be a torch.Generator or a list of them, got {shown(generator)}: pass {right}."
        )
    if isinstance(generator, list) and len(generator) != num_images:
        raise ValueError(f"`generator` must be one or a list of {num_images}, one an image, got {len(generator)}.")


def printable(text: object, limit: int = 200) -> str:
    """Returns a name from a file for a message: control characters escaped, and cut after `limit` characters."""
    is_short = isinstance(text, int) and -(2**63) <= text < 2**63
    text = str(text) if is_short or isinstance(text, (str, os.PathLike, BaseException)) else f"a {type(text).__name__}"
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return shown + ("..." if len(text) > limit else "")


def normal_name(name: str) -> str:
    """Returns the NFC form of a name: what looks the same on the screen is one name, however it was typed or stored."""
    return unicodedata.normalize("NFC", name)


def near_matches(name: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The names most like a misspelt one, at most three, best first; of a similarity in [0, 1] of at least `cutoff`."""
    return difflib.get_close_matches(name, known, n=3, cutoff=cutoff)


def check_pixel_values(
    pixel_values: Tensor,
    num_channels: int,
    image_size: int,
    *,
    any_size: bool,
    look: bool,
    name: str = "pixel_values",
) -> None:
    """Raises a `ValueError` for images that a model does not take, and warns of images that look like ones in [0, 1].

    Args:
        pixel_values (`Tensor` of shape `(B, num_channels, image_size, image_size)`): the images.
        num_channels, image_size (`int`): those of the model.
        any_size (`bool`): whether height and width are free.
        look (`bool`): whether to look at the values, which waits for the device: they must be finite, and in [-1, 1] with much room.
        name (`str`, *optional*, defaults to `"pixel_values"`): what the argument is called.
    """
    sizes = ("height", "width") if any_size else (image_size, image_size)
    shape = ("batch", num_channels, *sizes)
    if got := _misfit(pixel_values, shape, look):
        raise ValueError(
            f"`{name}` must have shape ({', '.join(map(str, shape))}), got {got.removeprefix('shape ')}; LZNImageProcessor resizes and "
            "converts images."
        )
    if not look:
        return
    low, high = (bound.item() for bound in torch.aminmax(pixel_values.detach()))  # NaN if any value is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"`{name}` must be finite, got NaN or infinite values.")
    if max(-low, high) > MAX_PIXEL_VALUE:
        raise ValueError(
            f"`{name}` must be in [-1, 1], got values from {low:g} to {high:g}: LZNImageProcessor scales images, or "
            "`images / 127.5 - 1` those in 0..255."
        )
    # An 8-bit image in [-1, 1] has no 0, as 127.5 is none of its values.
    if low == 0 and 0.5 < high <= 1:
        warnings.warn(
            f"`{name}` must be in [-1, 1] and look like images in [0, 1], with values from 0 to {high:g}: if they are, pass "
            "`2 * images - 1`, or use LZNImageProcessor.",
            stacklevel=2,
        )


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
        raise ValueError(
            f"`label` must be None, as the model has no labels (config.num_labels is 0), got {shown(label)}."
        )
    # A column of a dataset is a sequence, too.
    labels: list[object] = list(label) if isinstance(label, Sequence) and not isinstance(label, str) else [label]
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
        raise ValueError(
            f"`label` must be a name or an id of a label, got {shown(label)} of type {type(label).__name__}."
        )
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
    "MAX_PIXEL_VALUE",
    "Generators",
    "check_at_least",
    "check_choice",
    "check_generator",
    "check_generators",
    "check_num_images",
    "check_pixel_values",
    "check_result",
    "check_size",
    "check_tensor",
    "check_time",
    "is_among",
    "labels_to_ids",
    "near_matches",
    "normal_name",
    "printable",
    "shown",
    "tensor_kind",
]
