# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Latent Zoning Networks for Hugging Face: one model that generates, embeds and classifies (arXiv 2509.15591).

Importing the package registers its classes with the auto classes of transformers and with diffusers.
"""

import diffusers
from diffusers.pipelines import pipeline_loading_utils
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from . import latent_zones
from .configuration_lzn import LZNConfig
from .image_processing_lzn import LZNImageProcessor
from .modeling_classification_lzn import LZNForImageClassification
from .modeling_lzn import LZNModel, LZNOutput, LZNPreTrainedModel
from .pipeline_lzn import LZNPipeline


__version__ = "0.1.0"

__all__ = [
    "LZNConfig",
    "LZNForImageClassification",
    "LZNImageProcessor",
    "LZNModel",
    "LZNOutput",
    "LZNPipeline",
    "LZNPreTrainedModel",
    "latent_zones",
]


def _register() -> None:
    """Makes the auto classes of transformers and the loading of diffusers find the classes of this package."""
    AutoConfig.register("lzn", LZNConfig, exist_ok=True)
    AutoModel.register(LZNConfig, LZNModel, exist_ok=True)
    AutoModelForImageClassification.register(LZNConfig, LZNForImageClassification, exist_ok=True)
    # There is one image processor, and transformers looks under both names.
    image_processor_classes: dict[str, type] = {"pil": LZNImageProcessor, "torchvision": LZNImageProcessor}
    AutoImageProcessor.register(LZNConfig, image_processor_classes=image_processor_classes, exist_ok=True)
    # diffusers has no public way to make the components of another package known. Without it, model_index.json holds full module
    # paths and loading from the Hub fails.
    methods = ["save_pretrained", "from_pretrained"]
    loadable = {"LZNPreTrainedModel": methods, "LZNImageProcessor": methods}
    pipeline_loading_utils.LOADABLE_CLASSES["lzn_hf"] = loadable
    pipeline_loading_utils.ALL_IMPORTABLE_CLASSES.update(loadable)
    # DiffusionPipeline.from_pretrained looks there for the class that model_index.json names.
    vars(diffusers)["LZNPipeline"] = LZNPipeline


_register()
