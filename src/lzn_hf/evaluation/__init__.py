# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Evaluation of generated images, representations and classification, and model cards."""
