# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Measure the features of a saved model: linear probe, nearest neighbours, fine-tuning on few labels.

    python examples/evaluate_representation.py --model_name_or_path outputs/mine --dataset_name digits

The same as `lzn evaluate --what representation`, which needs no copy of the repository.
"""

from lzn_hf.commands.evaluate_representation import main
from lzn_hf.training.command_line import run_as_script


if __name__ == "__main__":
    run_as_script(main)
