# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Runs of `train_joint.py` as a function, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path

from lzn_hf import train_joint

from . import ROOT
from .training import forget_accelerators, weights, write_image_folder


TINY = f"--preset {ROOT / 'tests/helpers/toy_preset.json'} --max_eval_samples 40"


def train(flags: str) -> Path | None:
    """Runs the script with `flags`, on the digits if they name no other data."""
    forget_accelerators()
    return train_joint.main(f"{TINY} {flags}".split())


def toy_flags(folder: Path) -> str:
    """Flags for 18 noise images of 3 labels, 2 batches an epoch, on which a step takes no time."""
    return f"--data_dir {write_image_folder(folder)} --total_batch_size 8"


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


__all__ = ["TINY", "metrics", "toy_flags", "train", "weights"]
