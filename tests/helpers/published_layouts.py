# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The layouts of the six published models, for the tests of the converter.

`golden/published_layouts.json.xz` has, for each of the six published models, the config (without paths, logging and metrics)
and the key and shape of every tensor in a checkpoint. It is made from a folder of golden data by

    PYTHONPATH=tests python tests/helpers/published_layouts.py GOLDEN_DIR
"""

from __future__ import annotations

import json
import lzma
import os
import sys
from pathlib import Path

import pytest

from helpers import GOLDEN_DIR


LAYOUTS = GOLDEN_DIR / "published_layouts.json.xz"
CASES = [
    "case_study_1_cifar10",
    "case_study_1_afhqcat",
    "case_study_1_celebahq",
    "case_study_1_lsunbedroom",
    "case_study_2",
    "case_study_3",
]
LARGE_CASES = CASES[1:4]
UNSHARED = ("checkpoint", "distributed", "loggers", "logging", "metrics", "result_folder")  # keys of no use to a model
PUBLISHED_DIR = os.environ.get("LZN_GOLDEN_DIR")
needs_golden = pytest.mark.skipif(not PUBLISHED_DIR, reason="LZN_GOLDEN_DIR does not name a folder of golden data")


def read_layouts() -> dict[str, dict]:
    return json.loads(lzma.decompress(LAYOUTS.read_bytes()))


def compact_layouts(golden: Path) -> dict[str, dict]:
    layouts = {}
    for case in CASES:
        layout = json.loads((golden / f"state_dict_layout_{case}.json").read_text())
        layouts[case] = {
            "config": {key: value for key, value in layout["config"].items() if key not in UNSHARED},
            "parts": {
                part: {
                    "num_params": model["num_params"],
                    "num_trainable_params": model["num_trainable_params"],
                    "num_averages": model["ema_shadow_params"]["count"],
                    "without_average": model["ema_shadow_params"]["skipped_parameter_indices"],
                    "tensors": [[key, shape] for key, shape, _ in model["state_dict"]],
                }
                for part, model in layout["models"].items()
            },
        }
    return layouts


if __name__ == "__main__":
    text = json.dumps(compact_layouts(Path(sys.argv[1])), separators=(",", ":"))
    LAYOUTS.write_bytes(lzma.compress(text.encode(), preset=9))
    print(f"{LAYOUTS}: {LAYOUTS.stat().st_size:,} bytes")
