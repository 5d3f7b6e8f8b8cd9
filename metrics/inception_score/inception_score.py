# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Inception score as a module of `evaluate`; the computation is `lzn_hf.evaluation.metrics.inception_score`."""

import datasets
import evaluate
import torch

from lzn_hf.evaluation.metrics import inception_score


DESCRIPTION = """
exp of the mean divergence of a classifier's probabilities from their mean. Name the classifier beside it: only with the
Inception network it is what the literature calls by this name.
"""

KWARGS = """
Args:
    predictions (`(N, C)`): log-probabilities of generated images.

Returns:
    `inception_score`: from 1 to C.
"""

CITATION = "arXiv 1606.03498"


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, KWARGS)
class InceptionScore(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=KWARGS,
            features=datasets.Features(predictions=datasets.Sequence(datasets.Value("float32"))),
        )

    def _compute(self, predictions):
        return {"inception_score": inception_score(torch.tensor(predictions))}
