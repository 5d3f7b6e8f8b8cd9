# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Reads a checkpoint of the published trainer: opens it safely, checks every tensor, makes a model of it.

A published file is a dict: the state dicts `encoder`, `decoder`, `label_anchor` (the last two not in all) with the key prefix
`model.module.`; `<part>_ema` with the moving averages of the trainable parameters as an unnamed list in the order of
registration; and the state of the trainer. `published_config.py` knows configs, `published_format.py` names.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import LZNConfig, LZNModel
from ..checks_lzn import FLOATING_TYPES, printable, tensor_kind
from .published_archive import check_archive, some
from .published_config import CASES
from .published_format import Entry, published_entries, to_ours


logger = logging.getLogger("convert_original_checkpoint")

PREFIX = "model.module."
PARTS = ("encoder", "decoder", "label_anchor")
WEIGHTS = ("ema", "raw")
# Contents of a checkpoint besides weights, and what to log about them. The model card names the iteration.
NOT_WEIGHTS = {
    "optimizer": "optimizer state is not carried over",
    "lr_scheduler": "the state of the learning rate schedule is not carried over",
    "grad_scalar": "the state of the gradient scaler is not carried over",
    "epoch": None,
    "iteration": None,
}
MAX_PROBLEMS = 1000  # that are listed
BUFFERS = {"decoder": ("sigmas",)}  # a table of noise levels that no supported network reads


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Opens a trainer checkpoint without running code from it. Tensors are read from the disk when they are used.

    Raises:
        ValueError: for a file that is not there, is truncated, is not of the trainer, or only opens by unpickling objects.
    """
    path, where = Path(path), printable(path)
    if not path.is_file():
        raise ValueError(f"the checkpoint {where} is not there, or not a file.")
    check_archive(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or "no reason given"
        raise ValueError(
            f"{where} is refused: it cannot be read as tensors and plain values alone ({printable(reason)}), and unpickling more can "
            "run any code. If you trust it, load it with the code that wrote it, and save the tensors with torch.save."
        ) from error
    except Exception as error:  # torch has no class of its own for the many things that may be wrong here
        raise ValueError(
            f"{where} is not a checkpoint of the trainer, or a damaged one: torch.load says {printable(repr(error))}. Name the .pt file "
            "that the trainer has written."
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("encoder"), Mapping):
        found = type(checkpoint).__name__ + (f" of {some(checkpoint)}" if isinstance(checkpoint, dict) else "")
        raise ValueError(
            f"{where} is not a checkpoint of the trainer: it holds a {found}, where a dict with the state dict `encoder` "
            "should be. Name the .pt file that the trainer has written."
        )
    return checkpoint


def _entries_by_part(config: LZNConfig) -> dict[str, dict[str, Entry]]:
    """Returns the published tensors by part and by key with the prefix, in the order of the trainer."""
    entries: dict[str, dict[str, Entry]] = {}
    for entry in published_entries(config):
        entries.setdefault(entry.part, {})[PREFIX + entry.key] = entry
    return entries


def published_weights(
    checkpoint: Mapping[str, Any], config: LZNConfig, weights: str = "ema"
) -> dict[str, dict[str, Tensor]]:
    """Returns the weights of a checkpoint by part and published key (without the prefix). The config has a place for each.

    Args:
        checkpoint: The result of [`load_checkpoint`].
        config: The config of the model.
        weights: `"ema"` for the moving averages, with the weights that are not trained and hence not averaged; `"raw"` for the
            weights as trained.

    Raises:
        ValueError: if anything is missing, left over, of a wrong shape or not finite. The message lists it all (up to 1,000 lines), and names the
            published model that the checkpoint looks like.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"`weights` must be 'ema' or 'raw', got {weights!r}.")
    parts = _entries_by_part(config)
    known = {*parts, *(f"{part}_ema" for part in parts), *NOT_WEIGHTS}
    problems = [f"`{printable(key)}` is unknown" for key in checkpoint if key not in known]
    used: dict[str, dict[str, Any]] = {}
    for part, entries in parts.items():
        if not isinstance(checkpoint.get(part), Mapping):
            problems.append(f"`{part}` is missing")
            continue
        found = _parameters(checkpoint, part)
        problems += _problems(part, found, entries)
        if weights == "raw":
            used[part] = found
        elif isinstance(shadows := _averages(checkpoint, part, found, entries), str):
            problems.append(shadows)
        else:
            averaged = {key: entry for key, entry in entries.items() if entry.trainable}
            problems += _problems(f"{part}_ema", shadows, averaged)
            used[part] = {key: shadows.get(key, found.get(key)) for key in entries}
    for part, tensors in used.items():
        for key, tensor in tensors.items():
            entry = parts[part].get(key)
            has_shape = _is_readable(tensor) and entry is not None and tuple(tensor.shape) == entry.shape
            if has_shape and not tensor.isfinite().all():  # another shape may be that of very many
                where = f"{part}_ema" if weights == "ema" and parts[part][key].trainable else part
                problems.append(f"`{where}`: `{key}` has values that are NaN or infinite")
    if problems:
        raise ValueError(_misfit(checkpoint, parts, problems))
    _log_what_is_dropped(checkpoint, used, weights)
    return {
        part: {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()} for part, tensors in used.items()
    }


def _parameters(checkpoint: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Returns a state dict without its buffers."""
    buffers = [PREFIX + name for name in BUFFERS.get(part, ())]
    return {key: tensor for key, tensor in checkpoint[part].items() if key not in buffers}


def _averages(
    checkpoint: Mapping[str, Any], part: str, found: Mapping[str, Any], entries: Mapping[str, Entry]
) -> dict[str, Any] | str:
    """Returns the moving averages of a part by key, or why they cannot be named."""
    averages = checkpoint.get(f"{part}_ema")
    names = [key for key, entry in entries.items() if entry.trainable]
    if averages is None:
        return f"`{part}_ema` is missing: use `--weights raw` for the weights as trained"
    if not isinstance(averages, Mapping) or not isinstance(averages.get("shadow_params"), list):
        return f"`{part}_ema` has no list `shadow_params`"
    if len(averages["shadow_params"]) != len(names):
        return f"`{part}_ema` has {len(averages['shadow_params'])} tensors, not {len(names)}"
    if list(found) != list(entries) and set(found) == set(entries):
        return (
            f"`{part}` has its tensors in another order than the trainer, which leaves the unnamed ones of "
            f"`{part}_ema` without names: use `--weights raw` for the weights as trained"
        )
    return dict(zip(names, averages["shadow_params"], strict=True))


def _is_readable(tensor: Any) -> bool:
    """Whether this is a dense tensor of floating point numbers."""
    return isinstance(tensor, Tensor) and tensor_kind(tensor) == "dense" and tensor.dtype in FLOATING_TYPES


def _problems(where: str, found: Mapping[str, Any], wanted: Mapping[str, Entry]) -> Iterator[str]:
    yield from (f"`{where}`: `{key}` {entry.shape} is missing" for key, entry in wanted.items() if key not in found)
    for key, tensor in found.items():
        if key not in wanted:
            yield f"`{where}`: `{printable(key)}` is unknown"
        elif not _is_readable(tensor):
            yield f"`{where}`: `{key}` is not a tensor of floating point numbers"
        elif tuple(tensor.shape) != wanted[key].shape:
            yield f"`{where}`: `{key}` has shape {tuple(tensor.shape)}, but the config makes it {wanted[key].shape}"


def _shapes(parts: Mapping[str, Mapping]) -> frozenset:
    return frozenset(
        (part, key, tuple(getattr(tensor, "shape", ())))
        for part, keys in parts.items()
        for key, tensor in keys.items()
    )


@functools.cache
def _shapes_of_case(name: str) -> frozenset:
    return _shapes(_entries_by_part(CASES[name]))


def _misfit(checkpoint: Mapping[str, Any], wanted: Mapping[str, Mapping], problems: Sequence[str]) -> str:
    """Returns the message for a checkpoint with `problems`, with the published model that it looks like."""

    parts = [part for part in PARTS if isinstance(checkpoint.get(part), Mapping)]
    found = _shapes({part: _parameters(checkpoint, part) for part in parts})
    counts = [f"`{part}` ({len(checkpoint[part])} tensors)" for part in parts]
    others = [
        f"`{printable(key)}`" for key, _ in zip(checkpoint, range(MAX_PROBLEMS), strict=False) if key not in parts
    ]
    message = f"It has {', '.join([*counts, *others])}."
    cases = {name: _shapes_of_case(name) for name in CASES}
    common = {name: len(found & case) / len(found | case) for name, case in cases.items()}
    most = max(common.values())
    likely = " or ".join(name for name, fraction in common.items() if fraction == most)
    if most == 1 and found != _shapes(wanted):
        return (
            f"the checkpoint is not of this model. {message} These are the tensors of {likely}: pass that as `--case`."
        )
    looks = (
        f" It looks most like {likely}, with {int(100 * most)} % of the tensors in common." if 0.1 < most < 1 else ""
    )
    shown = (
        [*problems[:MAX_PROBLEMS], f"and {more:,} more"] if (more := len(problems) - MAX_PROBLEMS) > 0 else problems
    )
    return "\n  ".join(["the checkpoint does not fit the config:", *shown]) + f"\n{message}{looks}"


def _log_what_is_dropped(checkpoint: Mapping[str, Any], used: Mapping[str, Mapping], weights: str) -> None:
    for key, note in NOT_WEIGHTS.items():
        if key in checkpoint and note is not None:
            logger.info("%s: %s", key, note)
    for part, buffers in BUFFERS.items():
        for name in buffers:
            if PREFIX + name in checkpoint.get(part, ()):
                logger.info("%s: the buffer `%s` is not carried over, as nothing reads it", part, name)
    if weights == "ema":
        logger.info("%s: the weights as trained are not carried over, but the moving averages", ", ".join(used))
    elif averages := [f"{part}_ema" for part in used if f"{part}_ema" in checkpoint]:
        logger.info("%s: the moving averages are not carried over, but the weights as trained", ", ".join(averages))


def convert(checkpoint: Mapping[str, Any], config: LZNConfig, weights: str = "ema") -> LZNModel:
    """Returns the model of a checkpoint, in float32 and evaluation mode. Arguments and errors: [`published_weights`]."""
    tensors = to_ours(config, published_weights(checkpoint, config, weights))
    with torch.device("meta"):  # no time for an initialisation that is overwritten
        model = LZNModel(copy.deepcopy(config))
    # copied, so that the model does not depend on the file any more
    state = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()
