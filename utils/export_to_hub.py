# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Completes a saved model for others, with its code, and pushes it to the Hub.

    python utils/export_to_hub.py outputs/digits --push_to_hub me/lzn-digits --license mit

The same as `lzn export hub`, which needs no copy of the repository.
"""

from lzn_hf.commands.export_to_hub import main
from lzn_hf.training.command_line import run_as_script


if __name__ == "__main__":
    run_as_script(main)
