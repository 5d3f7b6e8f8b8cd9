# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Converts a checkpoint of the published Latent Zoning Network trainer into one folder that `from_pretrained` opens.

    python utils/convert_original_checkpoint.py --checkpoint X.pt --case case_study_3 --output_dir lzn-cifar10

The same as `lzn convert`, which needs no copy of the repository.
"""

from lzn_hf.commands.convert_original_checkpoint import main
from lzn_hf.training.command_line import run_as_script


if __name__ == "__main__":
    run_as_script(main)
