# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Exports a saved model to ONNX: what embeds, what classifies and what generates.

    python utils/export_onnx.py outputs/demo/model

The same as `lzn export onnx`, which needs no copy of the repository.
"""

from lzn_hf.commands.export_onnx import main
from lzn_hf.training.command_line import run_as_script


if __name__ == "__main__":
    run_as_script(main)
