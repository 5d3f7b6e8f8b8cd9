# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Train one model that generates, classifies and embeds images: a joint Latent Zoning Network (arXiv 2509.15591).

    accelerate launch examples/train_joint.py --preset digits

The script is `lzn_hf.train_joint`, which `accelerate launch -m lzn_hf.train_joint` starts where there is no copy of the repository.
"""

from lzn_hf.train_joint import main
from lzn_hf.training.command_line import run_as_script


if __name__ == "__main__":
    run_as_script(main)
