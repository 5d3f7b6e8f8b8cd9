# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Train a model of images and texts: text to image, captions, zero-shot labels. A Latent Zoning Network (arXiv 2509.15591).

    accelerate launch examples/train_text_image.py

The script is `lzn_hf.train_text_image`, which `accelerate launch -m lzn_hf.train_text_image` starts where there is no copy of the repository.
"""

from lzn_hf.train_text_image import main
from lzn_hf.training.command_line import run_as_script


if __name__ == "__main__":
    run_as_script(main)
