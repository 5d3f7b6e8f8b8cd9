# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Saved models for the commands: on the device that is there, and without the chatter of the libraries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import transformers

from .. import LZNConfig, LZNImageProcessor, LZNModel
from ..training.mistakes import UsageError


HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"


def find_device(name: str) -> torch.device:
    """Returns the device of a name; `"auto"` is an accelerator if there is one, or else the CPU."""
    if name == "auto":
        # A build for a device names it also where no such device is.
        available = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return available or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (
        RuntimeError,
        AssertionError,
        NotImplementedError,
    ) as error:  # torch asserts that it was built for the device
        raise UsageError(f"`--device` {name!r} is not there: {str(error).splitlines()[0]}") from error
    return device


def open_encoder(model: str, device: str) -> tuple[LZNModel, LZNImageProcessor]:
    """Opens a saved model and its image processor, without diffusers, which takes a second to import.

    Raises:
        OSError, ValueError: for what is no saved model.
    """
    place = find_device(device)
    transformers.utils.logging.disable_progress_bar()
    open_config(model)
    opened = LZNModel.from_pretrained(model).eval().to(place)
    return opened, LZNImageProcessor.from_pretrained(model)


def open_pipeline(model: str, device: str, what: str) -> Any:
    """Opens a saved model as an [`LZNPipeline`] whose progress bar says `what`.

    Raises:
        OSError, ValueError: for what is no saved model, or for one that generates no images.
    """
    place = find_device(device)
    if open_config(model).decoder_type is None:
        raise ValueError(
            f"the model {model!r} has no decoder, so it makes no images: it can embed them (`lzn embed`)."
        )
    from diffusers.utils import logging

    from .. import LZNPipeline

    for library in (transformers.utils.logging, logging):
        library.disable_progress_bar()
    pipe = LZNPipeline.from_pretrained(model).to(place)
    pipe.set_progress_bar_config(desc=what, leave=False, disable=None)
    return pipe


def open_config(model: str) -> LZNConfig:
    """Reads the config of a saved model.

    Raises:
        OSError, ValueError: for what is no saved model.
    """
    if not Path(model).exists() and not re.fullmatch(HUB_ID, model):
        raise FileNotFoundError(
            f"`MODEL` {model!r} is not there: no such folder, and no Hub id, which has the form user/name."
        )
    try:
        saved = LZNConfig.get_config_dict(model)[0]
    except OSError as error:
        where = (
            "has no config.json of a model"
            if Path(model).exists()
            else "is no folder here, and the Hub did not give it"
        )
        raise OSError(f"`MODEL` {model!r} {where}: {error}") from error
    if saved.get("model_type") != LZNConfig.model_type:
        raise ValueError(
            f"`MODEL` must be a folder or hub id of a saved model of lzn_hf, but {model!r} "
            + (f"is of type {saved['model_type']!r}." if "model_type" in saved else "has no config.json of one.")
        )
    return LZNConfig.from_dict(saved)


__all__ = ["find_device", "open_config", "open_encoder", "open_pipeline"]
