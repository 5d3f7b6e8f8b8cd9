# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Checks of the arguments of a pipeline: each raises a `ValueError` that names the argument and what would be right."""

from __future__ import annotations

import difflib
from numbers import Integral, Real

import torch
from torch import Tensor


Generators = torch.Generator | list[torch.Generator] | None

# Solvers of the image flow in both directions.
SOLVERS = ("euler", "heun", "rk45")


def label_to_id(label: str | int, label2id: dict[str, int], num_labels: int) -> int:
    names = list(label2id)
    if isinstance(label, str):
        if label in label2id:
            return label2id[label]
        near = difflib.get_close_matches(label, names, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        known = ", ".join(map(repr, names[:10])) + (", ..." if num_labels > 10 else "")
        raise ValueError(f"`label` {label!r} is unknown.{hint} The model has {num_labels} labels: {known}.")
    if not isinstance(label, Integral) or isinstance(label, bool):
        raise ValueError(f"`label` must be a name or an id of a label, got {label!r} of type {type(label).__name__}.")
    if not 0 <= label < num_labels:
        raise ValueError(f"`label` must be in 0..{num_labels - 1}, got {label}.")
    return int(label)


def check_at_least(minimum: int, **arguments: int) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
            raise ValueError(f"`{name}` must be a whole number of at least {minimum}, got {value!r}.")


def check_share(**arguments: float) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be a number from 0 to 1, got {value!r}.")


def check_choice(choices: tuple[str, ...], **arguments: str) -> None:
    for name, value in arguments.items():
        if value not in choices:
            raise ValueError(f"`{name}` must be {' or '.join(map(repr, choices))}, got {value!r}.")


def check_solver(solver: str | None, t_min: float, solvers: tuple[str | None, ...]) -> None:
    if solver not in solvers:
        raise ValueError(f"`solver` must be one of {', '.join(map(repr, solvers))}, got {solver!r}.")
    if not isinstance(t_min, Real) or isinstance(t_min, bool) or not 0 <= t_min < 1:
        raise ValueError(f"`t_min` must be a number of at least 0 and less than 1, got {t_min!r}.")
    if solver is None and t_min > 0:
        choice = ", ".join(map(repr, SOLVERS))
        raise ValueError(f"`t_min` must be 0 without a `solver` ({choice}), as schedulers start there, got {t_min!r}.")


def check_tensor(name: str, tensor: Tensor, shape: tuple[int | str, ...]) -> None:
    """Raises a `ValueError` unless a tensor is finite and has a shape, in which a letter stands for any size but 0."""
    wanted = f"`{name}` must be a tensor of shape ({', '.join(map(str, shape))})"
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{wanted}, got {type(tensor).__name__}.")
    sizes = zip(tensor.shape, shape, strict=True)
    if tensor.ndim != len(shape) or any(size != want if isinstance(want, int) else size == 0 for size, want in sizes):
        raise ValueError(f"{wanted}, got shape {tuple(tensor.shape)}.")
    if not tensor.isfinite().all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinite values.")


def check_generators(generator: Generators, num_images: int) -> None:
    if isinstance(generator, list) and len(generator) != num_images:
        raise ValueError(f"`generator` must be one or a list of {num_images}, one an image, got {len(generator)}.")


__all__ = [
    "SOLVERS",
    "Generators",
    "check_at_least",
    "check_choice",
    "check_generators",
    "check_share",
    "check_solver",
    "check_tensor",
    "label_to_id",
]
