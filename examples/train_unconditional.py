# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Train a model that generates, reconstructs and embeds images without labels: a Latent Zoning Network (arXiv 2509.15591).

    accelerate launch examples/train_unconditional.py --preset digits

The script is `lzn_hf.train_unconditional`, which `accelerate launch -m lzn_hf.train_unconditional` starts where there is no copy of the repository.
"""

from lzn_hf.train_unconditional import main
from lzn_hf.training.command_line import run_as_script


if __name__ == "__main__":
    run_as_script(main)
