# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Copies of one image: found by content, and kept on one side where a validation split is cut."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from torch import Tensor

from .folders import ImageFile


def pixel_keys(pixel_values: Tensor) -> list[Hashable]:
    """Returns a hash of each image of `(N, C, H, W)`."""
    return [_digest(image.data) for image in pixel_values.numpy()]


def file_keys(files: Sequence[ImageFile]) -> list[Hashable]:
    """Returns a key of each file; those of two files are equal if and only if their bytes are.

    Only files of equal size are read, and only those with equal beginnings to the end.
    """
    keys: list[Hashable] = list(range(len(files)))
    groups = _group(range(len(files)), lambda i: files[i].size())
    for limit in (2**16, None):
        read = lambda i: _digest(files[i].read()[:limit])  # noqa: B023, E731
        groups = [part for group in groups for part in _group(group, read)]
    for group in groups:
        for i in group:
            keys[i] = group[0]
    return keys


def _group(items: Sequence[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    """The groups of at least two items with equal keys."""
    groups: dict[Hashable, list[int]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return [group for group in groups.values() if len(group) > 1]


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def fingerprint(keys: Sequence[Hashable], labels: Sequence[int] | None) -> str:
    """Returns a hash of images, given by hashes or names, and their label ids, in their order."""
    return _digest(repr((list(keys), None if labels is None else list(labels))).encode()).hex()


def cut(
    total: int, fraction: float, seed: int, keys: Sequence[Hashable] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draws images to hold out; all copies of one image are on the same side.

    Args:
        total (`int`): number of images.
        fraction (`float`): how many of them to hold out, at least one.
        seed (`int`): seed of the draw.
        keys (sequence, *optional*): equal for copies. `None`: there are no copies.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: numbers of the images to train on and of those held out, in ascending order.

    Raises:
        ValueError: if all images are copies of one.
    """
    wanted = min(max(round(total * fraction), 1), total - 1)
    order = np.random.default_rng(seed).permutation(total)
    copies: dict[Hashable, list[int]] = {}
    for number in range(total):
        copies.setdefault(number if keys is None else keys[number], []).append(number)
    held_out: list[int] = []
    for number in order.tolist():
        group = copies.pop(number if keys is None else keys[number], [])
        if len(held_out) + len(group) <= wanted:
            held_out += group
    if not held_out:  # every image has more copies than are wanted
        raise ValueError(
            f"all {total} images are copies of so few that none can be held out: pass a larger `validation_fraction`"
        )
    is_held_out = np.zeros(total, dtype=bool)
    is_held_out[held_out] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
