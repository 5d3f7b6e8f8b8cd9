# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Saved weights are whole or refused: transformers alone warns of missing tensors and goes on with random ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .anchors_lzn import ReferenceAnchors
from .checks_lzn import check_choice
from .files_lzn import CHECKSUM, checksum, find_file, plain_name, read_object


# Types of tensors that are weights, as safetensors names them.
FLOATING_TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
# Modules that depend on the number of labels: fresh where `ignore_mismatched_sizes=True` says so.
LABEL_MODULES = ("label_anchors", "condition_embedding.linear1")
# Numbers that a model may have in excess of its files before it is made.
SMALL = 10**7


class WeightsMismatchError(ValueError, RuntimeError):
    """Tensors of a folder have other shapes than its configuration says. transformers has a `RuntimeError` for that."""


class WholeWeights:
    """A model of transformers that loads complete and finite weights, or none."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Loads a saved model, see `PreTrainedModel.from_pretrained`. Weights are safetensors: no file is ever unpickled.

        With `ignore_mismatched_sizes=True`, for other labels, what depends on their number is fresh, which transformers logs.

        Raises:
            OSError: if a file is missing or damaged.
            ValueError: for bad fields in config.json; and if tensors are missing, have other shapes than the configuration says (this one
                is a `RuntimeError`, too), are of no module of the model, or are not floating point or not finite.
        """
        load: Any = super().from_pretrained  # type: ignore[misc]  # of the class beside this one
        with_info, name = kwargs.pop("output_loading_info", False), None
        if pretrained_model_name_or_path is not None and kwargs.get("state_dict") is None:
            name = os.fspath(pretrained_model_name_or_path)
            check_choice((None, True), use_safetensors=kwargs.get("use_safetensors"))
            kwargs["use_safetensors"] = True
            if path := find_file(name, "config.json", kwargs):
                read_object(path)
            variant = f"{kwargs['variant']}." if kwargs.get("variant") else ""
            index = os.path.join(name, kwargs.get("subfolder") or "", f"model.safetensors.index.{variant}json")
            if os.path.isfile(index):
                _check_index(index)
        try:
            model, info = load(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        except SafetensorError as error:
            raise OSError(f"the weights of {name!s} are damaged: {error}.") from error
        if name is not None:
            _check_keys(model, info, name, kwargs.get("ignore_mismatched_sizes", False))
            _check_finite(model, name)
        return (model, info) if with_info else model

    @staticmethod
    def _load_pretrained_model(
        model: Any,
        state_dict: dict | None,
        checkpoint_files: list[str] | None,
        load_config: Any,
        expected_keys: list[str] | None = None,
    ) -> Any:
        # The one place where the files are found and nothing is made yet. What they lack, transformers makes, whatever its size.
        # Adapters of PEFT, for which it expects their own keys, are no whole model.
        is_whole = state_dict is None and expected_keys is None and load_config.hf_quantizer is None
        if is_whole and checkpoint_files:
            _check_files(model, checkpoint_files, load_config.ignore_mismatched_sizes)
        load: Any = super(WholeWeights, model)._load_pretrained_model  # type: ignore[misc]  # noqa: UP008  # static
        return load(model, state_dict, checkpoint_files, load_config, expected_keys)


def _check_index(path: str) -> None:
    """Raises a `ValueError` unless the index of shards maps tensors to files of weights beside it."""
    shards = read_object(path).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else [None]
    if wrong := [
        one
        for one in names
        if not isinstance(one, str) or not one.endswith(".safetensors") or one != os.path.basename(one)
    ]:
        raise ValueError(f"{path}: `weight_map` must map tensors to .safetensors files beside it, got {wrong[0]!r}.")


def _check_files(model: nn.Module, paths: Iterable[str], fresh_sizes: bool) -> None:
    """Checks the files of weights before anything of them is read into memory.

    Raises:
        OSError: if a file is damaged.
        ValueError: for tensors that are not floating point, but counters of the model; for shapes that are not those of the model, unless
            those may be fresh; and for a model that is larger than all files.
    """
    state = model.state_dict()
    wanted = {plain_name(key): tuple(value.shape) for key, value in state.items()}
    counters = tuple({key.rpartition(".")[2] for key, value in state.items() if not value.is_floating_point()})
    optional = [key for key, module in model.named_modules() if isinstance(module, ReferenceAnchors)]
    needed = sum(value.numel() for key, value in state.items() if not key.startswith(tuple(optional)))
    stored = 0
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # no mapping
                found = {key: (one.get_dtype(), tuple(one.get_shape())) for key, one in slices.items()}
                expected = (file.metadata() or {}).get(CHECKSUM)
        except SafetensorError as error:
            raise OSError(f"the weights in {path!r} are damaged: {error}.") from error
        if expected is not None and expected != checksum(path):
            raise OSError(
                f"the weights in {path!r} are damaged: their checksum is not the one that they were saved with."
            )
        types = {key: dtype for key, (dtype, _) in found.items() if not key.endswith(counters)}
        if wrong := sorted(f"{key} ({dtype})" for key, dtype in types.items() if dtype not in FLOATING_TYPES):
            raise ValueError(f"the weights in {path!r} must be floating point, got {_listed(wrong)}.")
        shapes = {key: (shape, wanted.get(plain_name(key), shape)) for key, (_, shape) in found.items()}
        wrong = [f"{key} {got}, not {want}" for key, (got, want) in shapes.items() if got != want]
        if wrong and not fresh_sizes:
            raise WeightsMismatchError(
                f"the weights in {path!r} have another size than the configuration says: {_listed(wrong)}. For another number of "
                "labels, pass `ignore_mismatched_sizes=True`: what depends on it is fresh then."
            )
        stored += sum(torch.Size(shape).numel() for _, shape in found.values())
    # Single tensors that are missing are named once the rest is loaded.
    if needed > 2 * stored + SMALL and not fresh_sizes:
        raise ValueError(
            f"the weights in {os.path.dirname(path)!r} have {stored:,} numbers, but by its config.json the model has {needed:,}: the folder is "
            "incomplete, damaged, or its config.json is of another model."
        )


def _check_keys(model: nn.Module, info: dict[str, Any], name: str, fresh_labels: bool) -> None:
    """Raises a `ValueError` for missing and unknown tensors, but those of parts that the configuration adds or leaves out on purpose."""
    parts = {key.removeprefix("lzn.").split(".")[0] for key in model.state_dict()}
    # A classifier without reference anchors in its folder says so when it is asked; those of a model come with its config.
    optional = [key for key, module in model.named_modules() if isinstance(module, ReferenceAnchors)]
    optional = optional if hasattr(model, "lzn") else []
    if fresh_labels:
        optional += [key for key, _ in model.named_modules() if key.endswith(LABEL_MODULES)]
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(tuple(f"{one}." for one in optional)))
    unknown = sorted(key for key in info["unexpected_keys"] if key.removeprefix("lzn.").split(".")[0] in parts)
    # A renamed part is both: what the file has beside it is of no part at all.
    unknown += sorted(set(info["unexpected_keys"]) - set(unknown)) if missing else []
    if missing or unknown:
        found = [f"lack {_listed(missing)}"] if missing else []
        found += [f"have {_listed(unknown)}, which the model has not"] if unknown else []
        raise ValueError(
            f"the weights of {name!r} {' and '.join(found)}: the folder is incomplete, damaged, or its config.json is of another model."
        )


def _check_finite(model: nn.Module, name: str) -> None:
    """Raises a `ValueError` for NaN and infinite weights. Those that are offloaded to a disk are not looked at."""
    wrong = [key for key, value in model.state_dict().items() if not value.is_meta and not torch.isfinite(value).all()]
    if wrong:
        raise ValueError(f"the weights of {name!r} must be finite, got NaN or infinite values in {_listed(wrong)}.")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return f"{', '.join(names[:3])}{f', ... ({len(names)} tensors)' if names[3:] else ''}"


__all__ = ["WeightsMismatchError", "WholeWeights"]
