# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Measure the images of a saved model, for any number of samplers.

    python examples/evaluate_generation.py --model_name_or_path outputs/demo/model --samplers unipc:10 unipc:20

The same as `lzn evaluate`, which needs no copy of the repository.
"""

from lzn_hf.commands.evaluate_generation import main
from lzn_hf.training.command_line import run_as_script


if __name__ == "__main__":
    run_as_script(main)
