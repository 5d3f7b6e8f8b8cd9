# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Reference anchors for a while, the accuracy of a model with them, and the time at which it reads scores."""

from __future__ import annotations

import pytest
import torch
from helpers.training import accelerator_fixture, tiny_model, toy_images  # noqa: F401 (a fixture)

from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.data.images import TensorImageDataset
from lzn_hf.training import validation
from lzn_hf.training.validation import calibrate, encode_anchors, measure_accuracy, reference_anchors


def test_accuracy_is_that_of_each_image_by_itself(accelerator):
    model, data = tiny_model(), toy_images(23)
    for parameter in model.parameters():  # dropout is behind fresh layers that are almost zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    anchors = encode_anchors(model, image_batches(data, 5, limit=8))
    assert anchors.shape == (8, 6) and model.training and not anchors.requires_grad
    assert torch.equal(anchors, encode_anchors(model, image_batches(data, 5, limit=8)))  # no dropout
    with reference_anchors(model, anchors):
        accuracy = measure_accuracy(accelerator, model, image_batches(data, 7), model.classify_images)
        model.eval()
        correct = 0
        for i in range(len(data)):
            item = data[i]
            with torch.no_grad():
                log_probs = model.classify_images(to_pixel_values(item["pixel_values"][None]))
            correct += int(log_probs.argmax() == item["labels"])
    assert accuracy == correct / 23
    assert model.reference_anchors is None and model.config.num_reference_anchors == 0


@pytest.mark.parametrize("num_draws", [0, 3])
def test_scores_are_read_when_they_fit_best(num_draws):
    model, data = tiny_model(num_prediction_draws=num_draws), toy_images(60)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.set_reference_anchors(encode_anchors(model, image_batches(data, 5, limit=8)))
    pixel_values, labels = to_pixel_values(data.pixel_values), data.labels

    def loss_at(time: float, smoothing: float = 1 / 61) -> float:
        model.config.prediction_time = time
        with torch.no_grad():
            log_probs = model.eval().classify_images(pixel_values).double()
        return torch.nn.functional.cross_entropy(log_probs, labels, label_smoothing=smoothing).item()

    metrics, bins = calibrate(model, image_batches(data, 7), seed=0)
    time = model.config.prediction_time
    again, _ = calibrate(model, image_batches(data, 60), seed=0)
    assert model.config.prediction_time == pytest.approx(time, rel=1e-6) and again == pytest.approx(metrics, abs=1e-5)
    assert metrics["validation_nll"] == pytest.approx(loss_at(time, 0.0), abs=1e-5)
    best = loss_at(time)
    assert all(best <= loss_at(other) + 1e-3 for other in (*torch.linspace(0.01, 0.99, 50).tolist(), 1.0))
    model.config.prediction_time = time
    correct = model.classify_images(pixel_values).argmax(-1) == labels
    assert metrics["validation_accuracy"] == pytest.approx(correct.double().mean().item(), abs=1e-6)
    assert sum(one["count"] for one in bins) == 60
    assert 0 <= metrics["validation_calibration_error"] <= 1


def test_of_many_images_some_that_the_seed_draws_decide(monkeypatch):
    monkeypatch.setattr(validation, "MAX_FITTED", 20)
    torch.manual_seed(0)
    model, data = tiny_model(), toy_images(60)
    model.set_reference_anchors(torch.randn(8, 6))

    def fitted(dataset, seed: int) -> tuple[float, int]:
        _, bins = calibrate(model, image_batches(dataset, 60), seed)
        return model.config.prediction_time, sum(one["count"] for one in bins)

    chosen = torch.randperm(60, generator=torch.Generator().manual_seed(3))[:20]
    of_the_chosen = fitted(TensorImageDataset(data.pixel_values[chosen], data.labels[chosen]), seed=0)
    assert fitted(data, seed=3) == (pytest.approx(of_the_chosen[0]), 60)
    assert len({fitted(data, seed)[0] for seed in range(4)}) > 1


def test_a_model_that_cannot_classify_is_not_calibrated():
    with pytest.raises(ValueError, match="must have labels, an image encoder and reference anchors"):
        calibrate(tiny_model(), [], seed=0)
