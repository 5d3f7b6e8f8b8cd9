# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Fréchet distance as a module of `evaluate`; the computation is `lzn_hf.evaluation.metrics.frechet_distance`."""

from lzn_hf.evaluation import evaluate_modules as modules
from lzn_hf.evaluation.metrics import frechet_distance


class FrechetDistance(modules.FeatureMetric):
    function = staticmethod(frechet_distance)
    description = (
        "Fréchet distance of two sets of features as Gaussians. Name the feature extractor beside it: only on Inception "
        "features the literature calls it FID."
    )
    arguments = f"{modules.FEATURES}Returns:\n    `frechet_distance`: 0 for equal means and covariances."
    citation = "arXiv 1706.08500"
