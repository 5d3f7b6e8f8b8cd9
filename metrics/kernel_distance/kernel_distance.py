# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Kernel distance as a module of `evaluate`; the computation is `lzn_hf.evaluation.metrics.kernel_distance`."""

import datasets
import evaluate
import torch

from lzn_hf.evaluation.metrics import kernel_distance


DESCRIPTION = """
Unbiased squared maximum mean discrepancy of two sets of features under a cubic polynomial kernel, over all pairs. Name the
feature extractor beside it: only on Inception features it is what the literature calls KID.
"""

KWARGS = """
Args:
    predictions (`(N, F)`): features of generated images.
    references (`(N, F)`): the same features of real images, as many: evaluate keeps both in one table.

Returns:
    `kernel_distance`: around 0 for one distribution, also below it.
"""

CITATION = "arXiv 1801.01401"


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, KWARGS)
class KernelDistance(evaluate.Metric):
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
        return {"kernel_distance": kernel_distance(torch.tensor(references), torch.tensor(predictions))}
