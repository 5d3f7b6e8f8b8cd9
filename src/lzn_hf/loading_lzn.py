# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Saved weights are whole or refused: transformers alone warns of missing tensors and goes on with random ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import cached_file

from .anchors_lzn import ReferenceAnchors


# What `from_pretrained` needs to find a file of a repository.
LOCATION_ARGUMENTS = ("cache_dir", "revision", "subfolder", "token")
# Types of tensors that are weights, as safetensors names them.
FLOATING_TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
# Modules that depend on the number of labels: fresh where `ignore_mismatched_sizes=True` says so.
LABEL_MODULES = ("label_anchors", "condition_embedding.linear1")


class WholeWeights:
    """A model of transformers that loads complete and finite weights, or none."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Loads a saved model, see `PreTrainedModel.from_pretrained`.

        With `ignore_mismatched_sizes=True`, for other labels, what depends on their number is fresh, which transformers logs.

        Raises:
            OSError: if a file is missing or damaged.
            ValueError: if tensors are missing, are of no module of the model, or are not floating point or not finite.
        """
        with_info = kwargs.pop("output_loading_info", False)
        load: Any = super().from_pretrained  # type: ignore[misc]  # of the class beside this one
        try:
            model, info = load(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        except SafetensorError as error:
            raise OSError(f"the weights of {pretrained_model_name_or_path!s} are damaged: {error}.") from error
        if kwargs.get("state_dict") is None and pretrained_model_name_or_path is not None:
            name = os.fspath(pretrained_model_name_or_path)
            _check_keys(model, info, name, kwargs.get("ignore_mismatched_sizes", False))
            location = {key: value for key, value in kwargs.items() if key in LOCATION_ARGUMENTS}
            _check_types(model, name, kwargs.get("variant"), location)
            _check_finite(model, name)
        return (model, info) if with_info else model


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


def _check_types(model: nn.Module, name: str, variant: str | None, location: dict[str, Any]) -> None:
    """Raises a `ValueError` for a file of weights with tensors that are not floating point, but counters of the model."""
    state = model.state_dict().items()
    counters = tuple({name.rpartition(".")[2] for name, value in state if not value.is_floating_point()})
    config: Any = cached_file(name, "config.json", local_files_only=not os.path.isdir(name), **location)
    weights = "model*.safetensors" if variant is None else f"model.{variant}*.safetensors"
    for path in sorted(Path(config).parent.glob(weights)):
        with safe_open(path, framework="pt") as file:
            types = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # no mapping
        if wrong := sorted(
            f"{key} ({dtype})"
            for key, dtype in types.items()
            if dtype not in FLOATING_TYPES and not key.endswith(counters)
        ):
            raise ValueError(f"the weights in {str(path)!r} must be floating point, got {_listed(wrong)}.")


def _check_finite(model: nn.Module, name: str) -> None:
    """Raises a `ValueError` for NaN and infinite weights. Those that are offloaded to a disk are not looked at."""
    wrong = [key for key, value in model.state_dict().items() if not value.is_meta and not torch.isfinite(value).all()]
    if wrong:
        raise ValueError(f"the weights of {name!r} must be finite, got NaN or infinite values in {_listed(wrong)}.")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return f"{', '.join(names[:3])}{f', ... ({len(names)} tensors)' if names[3:] else ''}"


__all__ = ["WholeWeights"]
