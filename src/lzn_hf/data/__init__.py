# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images of folders, files and the Hub as `uint8` tensors; batches and random views of them."""

from .batches import collate_images, image_batches, to_pixel_values
from .images import ImageData, load_image_data
from .summary import DataSummary


__all__ = ["DataSummary", "ImageData", "collate_images", "image_batches", "load_image_data", "to_pixel_values"]
