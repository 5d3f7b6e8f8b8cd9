# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Fréchet distance as a module of `evaluate`; the computation is `lzn_hf.evaluation.metrics.frechet_distance`."""

import datasets
import evaluate
import torch

from lzn_hf.evaluation.metrics import frechet_distance


DESCRIPTION = """
Fréchet distance of two sets of features as Gaussians. Name the feature extractor beside it: only on Inception features
it is what the literature calls FID.
"""

KWARGS = """
Args:
    predictions (`(N, F)`): features of generated images.
    references (`(N, F)`): the same features of real images, as many: evaluate keeps both in one table.

Returns:
    `frechet_distance`: 0 for equal means and covariances.
"""

CITATION = "arXiv 1706.08500"


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, KWARGS)
class FrechetDistance(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=KWARGS,
            features=datasets.Features(
                predictions=datasets.Sequence(datasets.Value("float32")),
                references=datasets.Sequence(datasets.Value("float32")),
            ),
        )

    def _compute(self, predictions, references):
        return {"frechet_distance": frechet_distance(torch.tensor(references), torch.tensor(predictions))}
