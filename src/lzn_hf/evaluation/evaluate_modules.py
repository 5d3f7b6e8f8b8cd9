# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Bases of the modules of `evaluate` in the folder `metrics`, each of which makes a function of `evaluation.metrics` loadable.

A module must import this file, not its classes: `evaluate.load` takes the first class that it finds in a module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import datasets
import evaluate
import torch


class Metric(evaluate.Metric):
    """A function of `predictions`, which are rows of numbers.

    Attributes:
        function: computes the value.
        name (`str`): of the value, if the function returns a number and not a dictionary.
        description, arguments, citation (`str`): documentation.
        columns (`tuple` of `str`): names of the inputs.
    """

    function: ClassVar[Callable[..., Any]]
    description: ClassVar[str]
    arguments: ClassVar[str]
    citation: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ("predictions",)

    def _info(self) -> evaluate.MetricInfo:
        rows = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=self.description,
            citation=self.citation,
            inputs_description=f"Args:\n{self.arguments}",
            features=datasets.Features(dict.fromkeys(self.columns, rows)),
        )

    def _compute(self, predictions: Any, references: Any = None, **options: Any) -> dict[str, float]:
        sets = [torch.tensor(rows) for rows in (references, predictions) if rows is not None]
        value = type(self).function(*sets, **options)
        return value if isinstance(value, dict) else {type(self).function.__name__: value}


class FeatureMetric(Metric):
    """A function of features of real images (`references`) and of generated ones (`predictions`)."""

    columns = ("predictions", "references")


FEATURES = """    predictions (`(N, F)`): features of generated images.
    references (`(N, F)`): the same features of real images, as many: evaluate keeps both in one table.
"""
