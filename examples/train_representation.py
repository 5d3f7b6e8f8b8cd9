# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Learn features of images without labels: a Latent Zoning Network of two random views (arXiv 2509.15591).

    accelerate launch examples/train_representation.py --preset digits

The script is `lzn_hf.train_representation`, which `accelerate launch -m lzn_hf.train_representation` starts where there is no copy of the repository.
"""

from lzn_hf.train_representation import main
from lzn_hf.training.command_line import run_as_script


if __name__ == "__main__":
    run_as_script(main)
