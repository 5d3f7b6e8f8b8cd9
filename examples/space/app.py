# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A Hugging Face Space: the page of the model in the folder `model`, or of the one that the variable `LZN_MODEL` of the Space names."""

import os

from lzn_hf.app.page import build_app, launch_app


app = build_app(os.environ.get("LZN_MODEL", "model"), os.environ.get("LZN_IMAGES"))

if __name__ == "__main__":
    launch_app(app)
