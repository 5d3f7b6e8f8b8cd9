# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The common tests of transformers' image processors, on ours for colour and for grey images."""

from __future__ import annotations

import unittest

from PIL import Image
from transformers_tests import test_image_processing_common

from lzn_hf import LZNImageProcessor


class ImageProcessingTester(test_image_processing_common.ImageProcessingTester):
    def __init__(self, parent, num_channels=3):
        super().__init__(
            parent,
            num_channels=num_channels,
            size={"height": 18, "width": 20},
            do_resize=True,
            do_normalize=True,
            image_mean=[0.5] * num_channels,
            image_std=[0.25] * num_channels,
        )

    def _get_image_processing_classes(self):
        return {"pil": LZNImageProcessor}  # the mixin looks for those of transformers


class GreyImageProcessingTester(ImageProcessingTester):
    def __init__(self, parent):
        super().__init__(parent, num_channels=1)

    def prepare_image_inputs(self, numpify=False, torchify=False, **arguments):
        if numpify or torchify:
            return super().prepare_image_inputs(numpify=numpify, torchify=torchify, **arguments)
        # Pillow makes no image of an array (H, W, 1), which is what the mixin hands it.
        return [Image.fromarray(image[..., 0]) for image in super().prepare_image_inputs(numpify=True, **arguments)]


class LZNImageProcessingTest(test_image_processing_common.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = ImageProcessingTester


class LZNGreyImageProcessingTest(test_image_processing_common.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = GreyImageProcessingTester
