# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Pictures of images, latent zones, embeddings and quality. Every function returns a PIL image."""
