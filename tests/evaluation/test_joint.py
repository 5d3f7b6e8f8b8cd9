# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Numbers on data made to be good or bad; those of features and reconstructions are in test_metrics.py."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from helpers import ROOT

from lzn_hf import LZNConfig, LZNForImageClassification, LZNModel
from lzn_hf.data.batches import to_pixel_values
from lzn_hf.data.images import load_image_data
from lzn_hf.evaluation.joint import (
    accuracy,
    class_consistency,
    class_diversity,
    joint_latents,
    latent_statistics,
    novelty,
    pixel_frechet_distance,
    predict_log_probs,
)
from lzn_hf.evaluation.metrics import frechet_distance
from lzn_hf.latent_zones import compute_latents


SRC = ROOT / "src"


@pytest.fixture(scope="module")
def digits():
    """Training and test digits: (images in [-1, 1], labels) each."""
    data = load_image_data("digits")
    return [(to_pixel_values(part.pixel_values), part.labels) for part in (data.train, data.validation)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LZNConfig(
        image_size=8,
        num_channels=1,
        latent_dim=6,
        num_labels=3,
        encoder_base_channels=8,
        encoder_channel_multipliers=(1,),
        encoder_num_res_blocks=1,
        encoder_attention_resolutions=(),
        encoder_tap_channels=2,
        encoder_tap_hidden_dim=8,
        decoder_base_channels=8,
        decoder_channel_multipliers=(1,),
        decoder_num_res_blocks=1,
        decoder_attention_resolutions=(),
    )
    model = LZNForImageClassification(config)
    model.lzn.set_reference_anchors(torch.randn(20, 6))
    return model


# Generated images


def test_pixel_frechet_distance_of_real_digits(digits):
    (train, _), (test, _) = digits
    value = pixel_frechet_distance(train, test)
    assert value == pytest.approx(frechet_distance(train.flatten(1), test.flatten(1)))
    assert 0.3 < value < 0.5
    assert pixel_frechet_distance(train, torch.randn_like(test).clamp(-1, 1)) > 10
    with pytest.raises(ValueError, match=r"`images_b` must be in \[-1, 1\], got values from 0 to 255"):
        pixel_frechet_distance(train, (test + 1) * 127.5)
    with pytest.raises(ValueError, match="`images_a` must be floating point"):
        pixel_frechet_distance(train.to(torch.uint8), test)


def test_class_consistency_knows_real_digits_and_shuffled_labels(digits):
    (train, train_labels), (test, test_labels) = digits
    assert class_consistency(test, test_labels, train, train_labels) > 0.985
    shuffled = test_labels[torch.randperm(len(test_labels))]
    assert class_consistency(test, shuffled, train, train_labels) == pytest.approx(0.1, abs=0.06)
    # One image right, one wrong: a half.
    wrong = torch.stack([test_labels[0], (test_labels[0] + 1) % 10])
    assert class_consistency(test[[0, 0]], wrong, train, train_labels) == 0.5


def test_class_diversity_finds_one_picture_a_class(digits):
    (train, train_labels), (test, test_labels) = digits
    real = class_diversity(test, test_labels, train, train_labels)
    assert real["mean"] == pytest.approx(1, abs=0.05)
    assert 0.8 < real["min"] <= real["mean"]
    means = torch.stack([train[train_labels == label].mean(0) for label in range(10)])
    labels = torch.arange(10).repeat_interleave(5)
    assert class_diversity(means[labels], labels, train, train_labels) == pytest.approx(
        {"mean": 0, "min": 0}, abs=1e-9
    )
    # Half of the way to the mean is half of the spread, and one collapsed label shows in the minimum only.
    halved = (train + means[train_labels]) / 2
    assert class_diversity(halved, train_labels, train, train_labels) == pytest.approx({"mean": 0.5, "min": 0.5})
    one = torch.where((train_labels == 3)[:, None, None, None], means[3], train)
    assert class_diversity(one, train_labels, train, train_labels) == pytest.approx({"mean": 0.9, "min": 0}, abs=1e-6)


def test_novelty_finds_copies(digits):
    (train, _), (test, _) = digits
    assert novelty(test, train, test) == pytest.approx(1)
    assert novelty(train[:100], train, test) == 0
    assert novelty(torch.rand(50, 1, 8, 8) * 2 - 1, train, test) > 2
    with pytest.raises(ValueError, match="`held_out_images` must not be training images"):
        novelty(test, train, train)


def test_image_metrics_refuse_bad_arguments():
    images, labels = torch.zeros(4, 1, 2, 2), torch.tensor([0, 0, 1, 1])
    varied = torch.rand(4, 1, 2, 2)
    with pytest.raises(ValueError, match=r"`labels` must be whole numbers of shape \(4,\)"):
        class_consistency(images, labels[:3], images, labels)
    with pytest.raises(ValueError, match="`reference_labels` must hold at least two labels"):
        class_consistency(images, labels, images, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="same size, got 4 and 9 pixels"):
        class_consistency(images, labels, torch.zeros(4, 1, 3, 3), labels)
    with pytest.raises(ValueError, match="`images` must hold at least two images of label 0, got 1"):
        class_diversity(images[1:], labels[1:], images, labels)
    with pytest.raises(ValueError, match="`reference_images` must hold at least two images of label 2, got 0"):
        class_diversity(images, labels + 2, varied, labels)
    with pytest.raises(ValueError, match="`reference_images` of label 0 are all the same"):
        class_diversity(varied, labels, images, labels)


# Classification


def test_accuracy_counts_the_top_k():
    log_probs = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3], [0.4, 0.35, 0.25]]).log()
    labels = torch.tensor([0, 1, 1, 2])
    assert [accuracy(log_probs, labels, top_k=k) for k in (1, 2, 3)] == [0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("log_probs", "labels", "top_k", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 4, r"`top_k` must be in 1\.\.3, got 4"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), 1, r"`labels` must be whole numbers of shape \(2,\)"),
        (torch.zeros(2, 3), torch.zeros(2), 1, "`labels` must be whole numbers"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 1, "`log_probs` must be"),
        (torch.full((2, 3), float("nan")), torch.zeros(2, dtype=torch.int64), 1, "`log_probs` must not be NaN"),
    ],
)
def test_accuracy_refuses_bad_arguments(log_probs, labels, top_k, message):
    with pytest.raises(ValueError, match=message):
        accuracy(log_probs, labels, top_k)


def test_predict_log_probs_is_the_classifier_in_batches(model, capfd):
    images = torch.rand(7, 1, 8, 8) * 2 - 1
    model.train()
    log_probs = predict_log_probs(model, images, batch_size=3)
    assert model.training and model.lzn.encoder.training  # modes are restored
    assert capfd.readouterr().err == ""
    torch.testing.assert_close(predict_log_probs(model.lzn, images, batch_size=1, progress=True), log_probs)
    assert "7/7" in capfd.readouterr().err
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(log_probs, model(images).logits)
    with pytest.raises(ValueError, match="`batch_size` must be a whole number of at least 1, got 0"):
        predict_log_probs(model, images, batch_size=0)
    with pytest.raises(ValueError, match="`pixel_values` must hold at least one image"):
        predict_log_probs(model, images[:0])


# Latents


def test_joint_latents_are_one_pool_and_look_like_the_prior(model, monkeypatch):
    lzn: LZNModel = model.lzn.eval()
    images = torch.rand(500, 1, 8, 8) * 2 - 1
    monkeypatch.setattr("lzn_hf.evaluation.joint.CHUNK", 200)
    latents = joint_latents(lzn, images, generator=torch.Generator().manual_seed(3), batch_size=128)
    with torch.no_grad():
        anchors = lzn.get_image_anchors(images)
    noise = torch.randn(500, 6, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(latents, compute_latents(anchors, noise), atol=1e-4, rtol=0)
    statistics = latent_statistics(latents)
    assert abs(statistics["mean"]) < 0.05 and abs(statistics["std"] - 1) < 0.05
    with pytest.raises(ValueError, match="at least 2 images"):
        joint_latents(lzn, images[:1])


def test_latent_statistics_of_known_latents():
    latents = torch.tensor([[1.0, -3.0], [3.0, -5.0]])
    expected = {"mean": -1.0, "std": (40 / 3) ** 0.5, "max_abs_coordinate_mean": 4.0}
    assert latent_statistics(latents) == pytest.approx(expected)
    for bad in (torch.zeros(1, 2), torch.zeros(3), torch.full((2, 2), float("inf"))):
        with pytest.raises(ValueError, match="`latents` must be finite, of shape"):
            latent_statistics(bad)


def test_importing_evaluation_and_plotting_is_light():
    code = (
        "import sys, lzn_hf.evaluation.joint, lzn_hf.visualization.grids\n"
        "print([name for name in ('sklearn', 'matplotlib', 'evaluate') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split("\n")[-2] == "[]"
