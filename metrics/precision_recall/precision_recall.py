# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Precision and recall of a generator as a module of `evaluate`; the computation is `lzn_hf.evaluation.metrics.precision_recall`."""

from lzn_hf.evaluation import evaluate_modules as modules
from lzn_hf.evaluation.metrics import precision_recall


class PrecisionRecall(modules.FeatureMetric):
    function = staticmethod(precision_recall)
    description = (
        "Fractions of generated images within the manifold of the real ones, and of real images within that of the "
        "generated ones. Name the feature extractor beside them."
    )
    arguments = (
        f"{modules.FEATURES}    k (`int`, *optional*, defaults to 3): the neighbour on the surface of a ball.\n"
        "Returns:\n    `precision` and `recall`, each from 0 to 1."
    )
    citation = "arXiv 1904.06991"
