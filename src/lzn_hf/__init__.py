# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Latent Zoning Networks for Hugging Face: one model that generates, embeds and classifies (arXiv 2509.15591).

Importing the package registers its classes with the auto classes of transformers and with diffusers.
"""

from typing import TYPE_CHECKING, Any

from . import latent_zones
from .configuration_lzn import LZNConfig
from .image_processing_lzn import LZNImageProcessor
from .modeling_classification_lzn import LZNForImageClassification
from .modeling_lzn import LZNModel, LZNOutput, LZNPreTrainedModel
from .modeling_zero_shot_lzn import LZNForZeroShotImageClassification
from .processing_lzn import LZNProcessor
from .registration_lzn import register_with_diffusers, register_with_transformers


if TYPE_CHECKING:
    from .pipeline_lzn import LZNPipeline

__version__ = "0.1.0"

__all__ = [
    "LZNConfig",
    "LZNForImageClassification",
    "LZNForZeroShotImageClassification",
    "LZNImageProcessor",
    "LZNModel",
    "LZNOutput",
    "LZNPipeline",
    "LZNPreTrainedModel",
    "LZNProcessor",
    "latent_zones",
]


def __getattr__(name: str) -> Any:
    """Imports the pipeline, and with it diffusers, when somebody first asks for it."""
    if name != "LZNPipeline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .pipeline_lzn import LZNPipeline

    globals()[name] = LZNPipeline
    return LZNPipeline


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_transformers()
register_with_diffusers()
