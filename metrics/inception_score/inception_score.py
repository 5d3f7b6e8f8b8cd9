# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Inception score as a module of `evaluate`; the computation is `lzn_hf.evaluation.metrics.inception_score`."""

from lzn_hf.evaluation import evaluate_modules as modules
from lzn_hf.evaluation.metrics import inception_score


class InceptionScore(modules.Metric):
    function = staticmethod(inception_score)
    description = (
        "exp of the mean divergence of a classifier's probabilities from their mean. Name the classifier beside it: the "
        "literature means the Inception network."
    )
    arguments = (
        "    predictions (`(N, C)`): log-probabilities of generated images.\n"
        "Returns:\n    `inception_score`: from 1 to C."
    )
    citation = "arXiv 1606.03498"
