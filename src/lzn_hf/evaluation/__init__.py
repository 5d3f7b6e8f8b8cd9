# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Measures what a model is worth: generated images, representations and classification."""
