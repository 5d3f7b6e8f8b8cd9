# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Noise scales of the alignment loss, the time at which scores are read, and a rectified flow that is given labels."""

import pytest
import torch
from helpers.models import draws, perturbed, tiny_config

from lzn_hf import LZNForImageClassification, LZNModel, LZNPipeline, latent_zones
from lzn_hf.training.models import with_labels
from lzn_hf.zones_lzn import draw_noise


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.rand(12, 1, 8, 8) * 2 - 1


@pytest.fixture
def labels():
    return torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2])


def with_references(config, images):
    torch.manual_seed(1)
    model = perturbed(LZNModel(config)).eval()
    model.set_reference_anchors(model.get_image_anchors(images))
    return model


@pytest.mark.parametrize("scales", [[1.0, 0.3, 0.0], [0.5, 1.0], [0.3]])
def test_each_noise_scale_is_one_draw_of_the_formula(images, labels, scales):
    no_dropout = {"encoder_dropout": 0.0, "decoder_dropout": 0.0, "alignment_reduction": "mean_log_prob"}
    torch.manual_seed(1)
    model = perturbed(LZNModel(tiny_config(**no_dropout, alignment_noise_scales=scales, alignment_end=0.6))).train()
    given = draws(images)
    output = model(images, labels, **given, generator=torch.Generator().manual_seed(3))

    generator, losses = torch.Generator().manual_seed(3), []
    for number, scale in enumerate(scales):
        first = number == 0 and scale == 1  # the latents that the decoder is given
        noise = given["noise"] if first else scale * draw_noise(given["noise"], generator)
        latents = latent_zones.compute_latents(output.anchors, noise, num_steps=8)
        _, log_probs = latent_zones.trace_assignments(
            latents,
            model.label_anchors(),
            labels,
            log_weights=(torch.tensor([6, 4, 2]) / 12).log(),
            num_steps=10,
            end=0.6,
        )
        losses.append(latent_zones.alignment_loss(log_probs, 0.2, "mean_log_prob"))
    torch.testing.assert_close(output.alignment_loss, sum(losses) / len(losses), rtol=1e-4, atol=1e-5)
    assert output.label_log_probs.shape == (10, 12 * len(scales))
    torch.testing.assert_close(  # the decoder's latents are drawn from the prior, whatever the scales
        output.latents, latent_zones.compute_latents(output.anchors, given["noise"], num_steps=8)
    )


def test_a_scale_of_one_draws_no_more_noise_than_the_decoder_needs(images, labels):
    losses = []
    for scales in ([1.0], [1.0, 0.3]):
        model = with_references(tiny_config(alignment_noise_scales=scales), images)
        output = model(images, labels, generator=torch.Generator().manual_seed(5))
        losses.append((output.reconstruction_loss.item(), output.label_log_probs[:, :12]))
    assert losses[0][0] == losses[1][0]
    torch.testing.assert_close(losses[0][1], losses[1][1])


@pytest.mark.parametrize("num_draws", [0, 5])
def test_scores_are_read_at_the_prediction_time(images, labels, num_draws):
    """The probabilities are those of the formula: softmax_c(s y·l_c - s²|l_c|²/2) of the state y at s = t / (1 - t)."""
    time = 0.4
    model = with_references(tiny_config(num_prediction_draws=num_draws, alignment_num_steps=40), images)
    at_the_end = model.classify_images(images)
    model.config.prediction_time = time
    got = model.classify_images(images)
    assert at_the_end.exp().max() > got.exp().max()

    anchors, places = model.get_image_anchors(images), torch.zeros(1, 6)
    if num_draws:
        places = torch.randn(num_draws, 6, generator=torch.Generator().manual_seed(0))
    label_anchors, s, mean = model.label_anchors().double(), time / (1 - time), 0
    for place in places:
        latents = latent_zones.compute_latents(
            anchors, place.expand_as(anchors), model.reference_anchors(), include_own=True, num_steps=8
        )
        y, steps = latents.double(), 4000
        for k in range(steps):  # dy/ds = E[l | y, s] by the midpoint rule
            half = y + s / steps / 2 * expected(y, k * s / steps, label_anchors)
            y = y + s / steps * expected(half, (k + 0.5) * s / steps, label_anchors)
        mean = mean + probabilities(y, s, label_anchors) / len(places)
    torch.testing.assert_close(got.exp().double(), mean, atol=2e-3, rtol=0)
    zones = model.classify_latents(anchors)
    model.config.prediction_time = None
    assert torch.equal(zones, model.classify_latents(anchors))  # zones know no temperature
    assert torch.equal(at_the_end, model.classify_images(images))


def probabilities(y, s, label_anchors):
    return (s * y @ label_anchors.T - s**2 * (label_anchors**2).sum(1) / 2).softmax(-1)


def expected(y, s, label_anchors):
    return probabilities(y, s, label_anchors) @ label_anchors


def test_the_prediction_time_is_saved_and_is_that_of_all_ways_to_classify(images, tmp_path):
    model = with_references(tiny_config(prediction_time=0.3), images)
    pipe = LZNPipeline.from_model(model)
    pipe.save_pretrained(tmp_path)
    classifier = LZNForImageClassification.from_pretrained(tmp_path).eval()
    assert classifier.config.prediction_time == 0.3
    logits = classifier(images).logits
    torch.testing.assert_close(logits, model.classify_images(images))
    for row, scores in zip(logits.exp(), pipe.classify({"pixel_values": images}), strict=True):
        assert [entry["score"] for entry in scores] == pytest.approx(row.sort(descending=True).values.tolist())


def test_a_rectified_flow_is_given_labels(images, labels, tmp_path):
    torch.manual_seed(1)
    model = perturbed(LZNModel(tiny_config(encoder_type=None))).eval()
    assert model.label_anchors is None and model.encoder is None
    output = model(images, labels, generator=torch.Generator().manual_seed(0))
    assert output.alignment_loss is None and torch.equal(output.loss, output.reconstruction_loss)
    other = model(images, labels.flip(0), generator=torch.Generator().manual_seed(0))
    assert other.loss != output.loss  # the decoder sees the labels

    pipe = LZNPipeline.from_model(model)
    pipe.save_pretrained(tmp_path)
    pipe = LZNPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 1, 8, 8)
    made = pipe(
        label=[0, "LABEL_1"], sample_noise=noise, output_type="pt", num_inference_steps=2, solver="euler"
    ).images
    sample = noise
    with torch.no_grad():
        for t in (0.0, 0.5):
            sample = sample + 0.5 * model.predict_velocity(sample, t, labels=torch.tensor([0, 1]))
    torch.testing.assert_close(made, (sample.clamp(-1, 1) + 1) / 2)


def test_a_rectified_flow_with_labels_says_what_it_lacks(images):
    pipe = LZNPipeline.from_model(LZNModel(tiny_config(encoder_type=None)))
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match="`label` is needed"):
        pipe()
    with pytest.raises(ValueError, match="cannot invert"):
        pipe.reconstruct({"pixel_values": images})
    with pytest.raises(ValueError, match="no image encoder"):
        pipe.classify({"pixel_values": images})
    with pytest.raises(ValueError, match="no image encoder"):
        pipe.embed({"pixel_values": images})
    with pytest.raises(ValueError, match="`labels` are needed"):
        pipe.model.predict_velocity(images, 0.5)
    with pytest.raises(ValueError, match="`labels` are needed for the loss"):
        pipe.model(images, return_loss=True)


def test_a_rectified_flow_keeps_the_labels_that_it_knows():
    torch.manual_seed(0)
    old = perturbed(
        LZNModel(tiny_config(encoder_type=None, num_labels=None, id2label={0: "a", 1: "b", 2: "c"}))
    ).eval()
    new = with_labels(old, {0: "c", 1: "a"}).eval()
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        expected = old.predict_velocity(x, 0.3, labels=torch.tensor([2, 0]))
        torch.testing.assert_close(new.predict_velocity(x, 0.3, labels=torch.tensor([0, 1])), expected)


def test_a_pipeline_embeds_as_anchors_and_features_by_name(images):
    pipe = LZNPipeline.from_model(with_references(tiny_config(), images))
    with torch.no_grad():
        features, anchors, _ = pipe.model.encoder(images)
    for kind, expected in (("features", features), ("anchors", anchors), ("embeddings", anchors)):
        torch.testing.assert_close(pipe.embed({"pixel_values": images}, kind=kind), expected)
    with pytest.raises(ValueError, match="`kind` must be .*got 'pixels'"):
        pipe.embed({"pixel_values": images}, kind="pixels")


def test_a_model_that_sees_no_images_has_nothing_to_return():
    model, images = LZNModel(tiny_config(encoder_type=None)).eval(), torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="this model has no image encoder"):
        model(images)
    assert model(images, torch.tensor([0, 1])).loss > 0
