# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Makes the auto classes of transformers and the loading of diffusers find the classes of this package."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)

from .configuration_lzn import LZNConfig
from .image_processing_lzn import LZNImageProcessor
from .modeling_classification_lzn import LZNForImageClassification
from .modeling_lzn import LZNModel
from .modeling_zero_shot_lzn import LZNForZeroShotImageClassification
from .processing_lzn import LZNProcessor


# The tables of classes that diffusers loads. It has no public way to make the components of another package known.
DIFFUSERS_TABLES = "diffusers.pipelines.pipeline_loading_utils"


def register_with_transformers() -> None:
    """Registers the classes of this package with the auto classes."""
    AutoConfig.register("lzn", LZNConfig, exist_ok=True)
    AutoModel.register(LZNConfig, LZNModel, exist_ok=True)
    AutoModelForImageClassification.register(LZNConfig, LZNForImageClassification, exist_ok=True)
    zero_shot = LZNForZeroShotImageClassification
    AutoModelForZeroShotImageClassification.register(LZNConfig, zero_shot, exist_ok=True)
    AutoProcessor.register(LZNConfig, LZNProcessor, exist_ok=True)
    # There is one image processor, and transformers looks under both names.
    image_processor_classes: dict[str, type] = {"pil": LZNImageProcessor, "torchvision": LZNImageProcessor}
    AutoImageProcessor.register(LZNConfig, image_processor_classes=image_processor_classes, exist_ok=True)


def register_with_diffusers() -> None:
    """Registers the classes of this package with diffusers: now if it can load pipelines already, else once it can.

    It is not imported for that, which would take a second from everyone who only classifies or embeds.
    """
    if DIFFUSERS_TABLES in sys.modules:
        _add_classes(sys.modules[DIFFUSERS_TABLES])
    else:
        sys.meta_path.insert(0, _TablesFinder())


class _TablesFinder(MetaPathFinder):
    """Adds the classes of this package to the tables of diffusers when these are imported, and is gone then.

    Looking for the module alone, as `importlib.util.find_spec` does, changes nothing.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != DIFFUSERS_TABLES:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is None or spec.loader is None:
            return spec
        exec_module = spec.loader.exec_module

        def exec_module_and_add(module: ModuleType) -> None:
            exec_module(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _add_classes(module)

        vars(spec.loader)["exec_module"] = exec_module_and_add
        return spec


def _add_classes(tables: ModuleType) -> None:
    # Without these, model_index.json holds full module paths and loading from the Hub fails.
    methods = ["save_pretrained", "from_pretrained"]
    loadable = {"LZNPreTrainedModel": methods, "LZNImageProcessor": methods, "LZNProcessor": methods}
    tables.LOADABLE_CLASSES["lzn_hf"] = loadable
    tables.ALL_IMPORTABLE_CLASSES.update(loadable)

    # DiffusionPipeline.from_pretrained looks in `diffusers` for the class that model_index.json names. It is imported only then: here,
    # a module that it needs may be half imported.
    def pipeline(diffusers: ModuleType) -> type:
        from .pipeline_lzn import LZNPipeline

        return LZNPipeline

    def reduce(diffusers: ModuleType) -> tuple:  # pickle could not find the class below
        return importlib.import_module, (diffusers.__name__,)

    diffusers = sys.modules["diffusers"]
    members = {"LZNPipeline": property(pipeline), "__reduce__": reduce}
    diffusers.__class__ = type("DiffusersWithLZN", (type(diffusers),), members)


__all__ = ["register_with_diffusers", "register_with_transformers"]
