# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the training scripts in `examples/` are made of."""
