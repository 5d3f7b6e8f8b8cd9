# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Train on handwritten digits, then measure the saved model and draw pictures of its images and latents.

    python examples/demo.py --output_dir outputs/demo

The same as `lzn demo`, which needs no copy of the repository.
"""

from lzn_hf.commands.demo import main
from lzn_hf.training.command_line import run_as_script


if __name__ == "__main__":
    run_as_script(main)
