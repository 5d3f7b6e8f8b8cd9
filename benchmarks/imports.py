# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Processor time that imports take, compared with the same kind of class of the libraries beneath.

    python benchmarks/imports.py

Each import runs in fresh processes, in turn with the others. The least time of a process is the result: whatever else the machine
does, and files and bytecode that no cache holds yet, only add to it. It includes the start of Python.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from common import ROOT, Row, row, run_benchmark


# What is imported from lzn_hf, and what that is compared with.
IMPORTS = {
    "LZNModel": "from transformers import ViTModel",
    "LZNImageProcessor": "from transformers import ViTImageProcessor",
    "LZNPipeline": "from diffusers import DiTPipeline",
    "latent_zones": "import torch",
}
ARGUMENTS = {"names": (list(IMPORTS), "what to import from lzn_hf", {"choices": list(IMPORTS)})}
MEASURE = "\nimport time\nprint(time.process_time())"


def processor_time(statement: str) -> float:
    """Returns the seconds of processor time of a fresh process that runs a statement."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", statement + MEASURE]
    return float(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure(args: argparse.Namespace) -> list[Row]:
    pairs = {f"from lzn_hf import {name}": IMPORTS[name] for name in args.names}
    statements = [statement for pair in pairs.items() for statement in pair]
    rounds = [{statement: processor_time(statement) for statement in statements} for _ in range(args.repeats)]
    least = {statement: min(seconds[statement] for seconds in rounds) for statement in statements}
    return [
        row(f"`{ours}` against `{baseline}`", least[ours], "s", baseline=least[baseline])
        for ours, baseline in pairs.items()
    ]


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick={"repeats": 1}, threads=1)
