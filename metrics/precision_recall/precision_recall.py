# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Precision and recall of a generator as a module of `evaluate`; the computation is `lzn_hf.evaluation.metrics.precision_recall`."""

import datasets
import evaluate
import torch

from lzn_hf.evaluation.metrics import precision_recall


DESCRIPTION = """
Share of generated images within the manifold of the real ones, and of real images within that of the generated ones. Name
the feature extractor beside them.
"""

KWARGS = """
Args:
    predictions (`(N, F)`): features of generated images.
    references (`(N, F)`): the same features of real images, as many: evaluate keeps both in one table.
    k (`int`, *optional*, defaults to 3): the neighbour that is on the surface of a ball.

Returns:
    `precision` and `recall`, each from 0 to 1.
"""

CITATION = "arXiv 1904.06991"


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, KWARGS)
class PrecisionRecall(evaluate.Metric):
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

    def _compute(self, predictions, references, k=3):
        return precision_recall(torch.tensor(references), torch.tensor(predictions), k)
