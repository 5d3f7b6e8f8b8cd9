# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`metrics/`: each folder opens offline by `evaluate.load` and gives what the function of the library gives."""

from __future__ import annotations

import pytest
import torch
from helpers import ROOT

from lzn_hf.evaluation import metrics as metrics


evaluate = pytest.importorskip("evaluate", reason="pip install lzn_hf[eval]")

FOLDER = ROOT / "metrics"
OF_FEATURES = ["frechet_distance", "kernel_distance", "precision_recall"]


def as_dictionary(name: str, value: float | dict[str, float]) -> dict[str, float]:
    return value if isinstance(value, dict) else {name: value}


def test_each_folder_is_a_metric():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted([*OF_FEATURES, "inception_score"])


@pytest.mark.parametrize("name", OF_FEATURES)
def test_module_of_features_gives_the_value_of_the_library(name):
    generated, real = torch.randn(40, 6) + 0.5, torch.randn(40, 6)
    module = evaluate.load(str(FOLDER / name))
    expected = pytest.approx(as_dictionary(name, getattr(metrics, name)(real, generated)))
    assert module.compute(predictions=generated, references=real) == expected
    assert module.compute(predictions=generated.numpy(), references=real.tolist()) == expected
    for rows in torch.arange(40).split(15):
        module.add_batch(predictions=generated[rows], references=real[rows])
    assert module.compute() == expected


def test_precision_is_that_of_the_predictions_and_k_reaches_it():
    real, generated = torch.randn(50, 4), torch.randn(50, 4) * 0.5
    module = evaluate.load(str(FOLDER / "precision_recall"))
    result = module.compute(predictions=generated, references=real, k=1)
    assert result == pytest.approx(metrics.precision_recall(real, generated, 1))
    assert result["precision"] > 0.8 > 0.5 > result["recall"]
    assert result != module.compute(predictions=generated, references=real)


def test_module_of_log_probabilities():
    log_probs = (torch.randn(30, 5) * 2).log_softmax(1)
    log_probs[0] = torch.tensor([1.0, 0, 0, 0, 0]).log()  # with minus infinity
    module = evaluate.load(str(FOLDER / "inception_score"))
    expected = metrics.inception_score(log_probs)
    assert module.compute(predictions=log_probs) == {"inception_score": pytest.approx(expected)}


@pytest.mark.parametrize("name", [*OF_FEATURES, "inception_score"])
def test_module_says_what_it_takes_and_where_it_is_from(name):
    module = evaluate.load(str(FOLDER / name))
    assert "predictions (`(N, " in module.inputs_description and name[:6] in module.inputs_description
    assert module.citation.startswith("arXiv ") and "beside" in module.description


def test_bad_input_is_refused_by_the_library():
    module = evaluate.load(str(FOLDER / "frechet_distance"))
    with pytest.raises(ValueError, match="at least 2 samples"):
        module.compute(predictions=torch.zeros(1, 3), references=torch.zeros(1, 3))
