# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Kernel distance as a module of `evaluate`; the computation is `lzn_hf.evaluation.metrics.kernel_distance`."""

from lzn_hf.evaluation import evaluate_modules as modules
from lzn_hf.evaluation.metrics import kernel_distance


class KernelDistance(modules.FeatureMetric):
    function = staticmethod(kernel_distance)
    description = (
        "Unbiased squared maximum mean discrepancy of two sets of features under a cubic polynomial kernel, over all pairs. "
        "Name the feature extractor beside it: only on Inception features the literature calls it KID."
    )
    arguments = f"{modules.FEATURES}Returns:\n    `kernel_distance`: around 0 for one distribution, also below it."
    citation = "arXiv 1801.01401"
