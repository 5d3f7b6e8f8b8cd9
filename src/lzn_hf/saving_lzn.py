# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Weights on disk that carry a checksum, and that those may read who may read the files beside them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .files_lzn import stamp_weights


class ReadableWeights:
    """A model of transformers whose saved weights have the permissions of its `config.json`, which are those of the umask.

    safetensors writes into a temporary file that only its owner may read, and renames it.
    """

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, *args, **kwargs
    ) -> None:
        """Saves config and weights, see `PreTrainedModel.save_pretrained`, with a checksum in each file of weights."""
        self.base_model.settle_config()  # type: ignore[attr-defined]  # of the class beside it
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)  # type: ignore[misc]  # of the class beside it
        if is_main_process:
            for weights in sorted(Path(save_directory).glob("model*.safetensors")):
                stamp_weights(weights)
        share_weights(save_directory)


def share_weights(folder: str | os.PathLike) -> None:
    """Gives the weights in a folder the permissions of its `config.json`, if there is one."""
    config = Path(folder) / "config.json"
    if config.is_file():  # only the main process writes
        for weights in config.parent.glob("*.safetensors"):
            shutil.copymode(config, weights)


__all__ = ["ReadableWeights", "share_weights"]
