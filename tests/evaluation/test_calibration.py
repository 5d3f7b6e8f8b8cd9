# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Scores of probabilities against bins by hand, scikit-learn, and draws whose calibration is known."""

import math

import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from lzn_hf import LZNConfig
from lzn_hf.evaluation.calibration import (
    calibration_error,
    fit_prediction_time,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    score_places,
)
from lzn_hf.zones_lzn import score_labels


SCORES = (negative_log_likelihood, reliability, calibration_error, fit_temperature)


def drawn(count=2000, num_labels=4, temperature=1.0):
    """Log-probabilities, and labels drawn by them at another temperature: those of temperature 1 are calibrated."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, num_labels, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    return logits.log_softmax(1), labels


@pytest.fixture
def by_hand():
    """Five images of two labels; in four bins (0, 1/4], (1/4, 1/2], ... their confidences are in the 2nd, 3rd and 4th."""
    probs = torch.tensor([[0.5, 0.5], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9], [1.0, 0.0]], dtype=torch.float64)
    return probs.log(), torch.tensor([1, 0, 0, 1, 0])


def test_bins_by_hand(by_hand):
    points = reliability(*by_hand, bins=4)
    assert [point["count"] for point in points] == [1, 2, 2]
    assert [point["confidence"] for point in points] == pytest.approx([0.5, 0.65, 0.95])
    assert [point["accuracy"] for point in points] == pytest.approx([0.0, 0.5, 1.0])
    assert calibration_error(*by_hand, bins=4) == pytest.approx((0.5 + 2 * 0.15 + 2 * 0.05) / 5)
    assert calibration_error(*by_hand, bins=1) == pytest.approx(abs(3 / 5 - (0.5 + 0.6 + 0.7 + 0.9 + 1.0) / 5))


def test_the_likelihood_by_hand(by_hand):
    expected = -(math.log(0.5) + math.log(0.6) + math.log(0.3) + math.log(0.9) + math.log(1.0)) / 5
    assert negative_log_likelihood(*by_hand) == pytest.approx(expected)
    log_probs, labels = by_hand
    assert negative_log_likelihood(log_probs, 1 - labels) == math.inf  # label 1 of the last image has probability 0


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_scikit_learn_agrees(bins):
    log_probs, labels = drawn()
    points = reliability(log_probs, labels, bins)
    correct = log_probs.argmax(1) == labels
    accuracy, confidence = calibration_curve(correct, log_probs.exp().amax(1), n_bins=bins)
    assert [point["accuracy"] for point in points] == pytest.approx(accuracy.tolist())
    assert [point["confidence"] for point in points] == pytest.approx(confidence.tolist())
    assert sum(point["count"] for point in points) == len(labels)
    assert negative_log_likelihood(log_probs, labels) == pytest.approx(log_loss(labels, log_probs.exp()))


def test_calibrated_probabilities_have_no_error_and_sharp_ones_have():
    calibrated = calibration_error(*drawn(200_000))
    assert calibrated < 0.005
    log_probs, labels = drawn(200_000, temperature=3.0)  # labels are less certain than the probabilities say
    assert calibration_error(log_probs, labels) > 0.2
    points = reliability(log_probs, labels)
    assert all(point["confidence"] > point["accuracy"] for point in points if point["confidence"] > 0.4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_the_draw_is_found(temperature):
    log_probs, labels = drawn(50_000, temperature=temperature)
    fitted = fit_temperature(log_probs, labels)
    assert fitted == pytest.approx(temperature, rel=0.03)
    scaled = (log_probs / fitted).log_softmax(1)
    assert calibration_error(scaled, labels) < 0.01
    losses = [negative_log_likelihood((log_probs / t).log_softmax(1), labels) for t in (0.97 * fitted, 1.03 * fitted)]
    assert negative_log_likelihood(scaled, labels) < min(losses)


@pytest.mark.parametrize(("time", "scale", "num_places"), [(0.3, 2.0, 1), (0.1, 9.0, 1), (0.5, 1.0, 2)])
def test_the_time_of_the_draw_is_found(time, scale, num_places):
    """Labels are drawn by the scores at one time, so that no other time fits them as well."""
    generator = torch.Generator().manual_seed(0)
    config = LZNConfig(latent_dim=3, num_labels=4)
    label_anchors = (scale * torch.randn(4, 3, generator=generator)).requires_grad_()
    latents = torch.randn(5000, num_places, 3, generator=generator)
    log_probs = score_places(config, latents, label_anchors, time)
    torch.testing.assert_close(log_probs[250:260], score_labels(config, latents[250:260], label_anchors, time))
    labels = torch.multinomial(log_probs.exp(), 1, generator=generator)[:, 0]
    fitted = fit_prediction_time(config, latents, label_anchors, labels)
    assert fitted / (1 - fitted) == pytest.approx(time / (1 - time), rel=0.1)
    scores = [score_places(config, latents, label_anchors, t) for t in (fitted, 0.9 * fitted, 1.1 * fitted, None)]
    losses = [negative_log_likelihood(one, labels) for one in scores]
    assert losses[0] == min(losses)
    assert calibration_error(scores[0], labels) < 0.02 < calibration_error(scores[-1], labels)


def test_no_error_on_few_images_is_no_certainty():
    """Without smoothing the last time would be the best."""
    config, label_anchors = LZNConfig(latent_dim=2, num_labels=2), torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    labels = torch.tensor([0, 1]).repeat(20)
    latents = torch.stack([(2.0 * labels - 1) * torch.linspace(0.5, 2, 40), torch.zeros(40)], dim=1)[:, None]
    confidences = []
    for count in (10, 40):
        time = fit_prediction_time(config, latents[:count], label_anchors, labels[:count])
        scores = score_places(config, latents[:count], label_anchors, time)
        assert torch.equal(scores.argmax(1), labels[:count])
        confidences.append(scores.exp().amax(1).mean().item())
        log_probs = scores.log_softmax(1)
        confidences.append((log_probs / fit_temperature(log_probs, labels[:count])).softmax(1).amax(1).mean().item())
    by_time, by_temperature = confidences[::2], confidences[1::2]
    for few, many in (by_time, by_temperature):
        assert 0.8 < few < many < 0.995


def test_certainty_is_in_the_last_bin_and_float32_suffices():
    log_probs = torch.tensor([[0.0, -math.inf], [1e-5, -30.0]])  # probabilities 1 and, by rounding, a little more
    assert reliability(log_probs, torch.tensor([0, 0])) == [
        {"confidence": pytest.approx(1.0, abs=1e-5), "accuracy": 1.0, "count": 2}
    ]
    log_probs, labels = drawn()
    for score in (negative_log_likelihood, calibration_error):
        assert score(log_probs.float(), labels.int()) == pytest.approx(score(log_probs, labels), abs=1e-6)


@pytest.mark.parametrize("score", SCORES)
def test_bad_input_is_named(score):
    log_probs, labels = drawn(8)
    with pytest.raises(ValueError, match="sum to 1.*got sums from"):
        score(log_probs + 1, labels)
    with pytest.raises(ValueError, match="`labels` must be below 4"):
        score(log_probs, labels + 4)
    with pytest.raises(ValueError, match="`labels` must be whole numbers of shape \\(8,\\)"):
        score(log_probs, labels[:-1])
    with pytest.raises(ValueError, match="not empty"):
        score(log_probs[:0], labels[:0])
    with pytest.raises(ValueError, match="NaN"):
        score(log_probs * math.nan, labels)


def test_bins_are_checked():
    for score in (reliability, calibration_error):
        with pytest.raises(ValueError, match="`bins` must be a whole number of at least 1"):
            score(*drawn(8), bins=0)
