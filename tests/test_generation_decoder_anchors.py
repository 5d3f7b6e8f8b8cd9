# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A decoder that is given anchors of a data type beside the latents: which ones, in training and at inference, and errors."""

from __future__ import annotations

import re

import pytest
import torch
from helpers.models import perturbed, tiny_config
from helpers.pipelines import generate, make_pipeline, pixels, seeded
from helpers.texts import CAPTIONS, TEXTS, make_text_pipeline, tokens

from lzn_hf import LZNConfig, LZNModel
from lzn_hf.losses_lzn import reconstruction_loss
from lzn_hf.sampling_lzn import ImageFlow, default_scheduler
from lzn_hf.training.models import with_labels


SIX = [CAPTIONS[i] for i in (3, 0, 3, 7, 3, 0)]
PROMPTS = ["a photo of a boot", "this is the big image"]  # one is a reference, one is not


def make_model(**changes) -> LZNModel:
    torch.manual_seed(0)
    fields = {"num_labels": 0, **TEXTS, "decoder_data_type": "text", **changes}
    return perturbed(LZNModel(tiny_config(**fields))).eval()


@pytest.fixture(scope="module")
def pipe():
    return make_text_pipeline(decoder_data_type="text")


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 1, 8, 8, generator=seeded(1)).tanh()


def integrate(model, latents, anchors, noise, **options):
    flow = ImageFlow(default_scheduler(), 6)
    return flow.to_images(lambda x, t: model.predict_velocity(x, t, latents, decoder_anchors=anchors), noise)


# ---------------------------------------------------------------- training


def test_the_decoder_is_trained_with_the_anchors_of_the_texts(images):
    """They say what to draw, as labels do; where they lie is decided by the alignment alone."""
    model = make_model(alignment_weight=0.0)
    output = model(images, **tokens(SIX), generator=seeded())
    anchors = model.get_text_anchors(**tokens(SIX))

    def loss_with(decoder_anchors):
        generator = seeded()
        torch.randn(6, 64, generator=generator)  # of the latents
        options = {"generator": generator, "decoder_anchors": decoder_anchors}
        return reconstruction_loss(model.predict_velocity, images, output.latents, **options)

    torch.testing.assert_close(output.reconstruction_loss, loss_with(anchors))
    assert (loss_with(anchors.roll(1, 0)) - output.reconstruction_loss).abs() > 1e-4
    output.loss.backward()
    gradients = [p.grad for p in model.type_encoders.parameters()]
    assert all(gradient is None or not gradient.any() for gradient in gradients)
    assert model.encoder is not None and any(p.grad is not None and p.grad.any() for p in model.encoder.parameters())


def test_known_latents_come_with_their_anchors(images):
    """As micro-batches of a pool have them."""
    model = make_model()
    output = model(images, **tokens(SIX), generator=seeded())
    latents, anchors = output.latents.detach(), output.type_anchors["text"].detach()
    generator = seeded()
    torch.randn(6, 64, generator=generator)
    loss = model(images, latents=latents, decoder_anchors=anchors, generator=generator).loss
    torch.testing.assert_close(loss, output.reconstruction_loss)


def test_a_dropped_condition_is_dropped_whole():
    seen = {}

    def watch(sample, t, latents, labels, *, decoder_anchors):
        seen.update(latents=latents, anchors=decoder_anchors)
        return torch.zeros_like(sample)

    rows = torch.ones(500, 3)
    images = torch.zeros(500, 1, 2, 2)
    reconstruction_loss(watch, images, rows, generator=seeded(), condition_dropout=0.3, decoder_anchors=2 * rows)
    dropped = (seen["latents"] == 0).all(1)
    assert 100 < dropped.sum() < 200
    assert torch.equal(seen["anchors"], (~dropped).float()[:, None] * 2 * rows)
    model = make_model(condition_dropout=0.1)
    sample, t = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.7])
    nothing = model.decoder(sample, t, torch.zeros(2, 128))
    torch.testing.assert_close(model.predict_velocity(sample, t, unconditional=True), nothing)


def test_a_labelled_model_that_learns_texts_keeps_what_its_decoder_knows():
    torch.manual_seed(0)
    old = perturbed(LZNModel(tiny_config(num_labels=3, latent_dim=64)))
    new = with_labels(
        old, {}, {"text_config": TEXTS["text_config"], "type_head_layers": 1, "decoder_data_type": "text"}
    )
    before, after = (one.decoder.condition_embedding.linear1.weight for one in (old, new))
    assert torch.equal(before[:, :64], after[:, :64])  # the latent
    assert torch.equal(before[:, 64 + 3 :], after[:, 128:])  # the time
    again = with_labels(new, {0: "x"})
    weight = again.decoder.condition_embedding.linear1.weight
    assert torch.equal(weight[:, :128], after[:, :128]) and torch.equal(weight[:, 129:], after[:, 128:])


# ---------------------------------------------------------------- inference


def test_a_prompt_gives_its_own_anchor(pipe):
    generator, model = seeded(), pipe.model
    with torch.no_grad():
        anchors = model.get_text_anchors(**tokens(PROMPTS))
        latents = model.place_type_anchors("text", anchors, torch.randn(2, 64, generator=generator))
        sample = integrate(model, latents, anchors, torch.randn(2, 1, 8, 8, generator=generator))
    torch.testing.assert_close(generate(pipe, prompt=PROMPTS), pixels(sample), rtol=0, atol=2e-4)


def test_latents_give_the_anchor_of_the_zone_that_they_lie_in(pipe):
    model, references = pipe.model, pipe.model.require_type_reference_anchors("text")
    noise, rows = torch.randn(4, 64, generator=seeded(3)), torch.tensor([2, 9, 2, 5])
    with torch.no_grad():
        latents = model.place_type_anchors("text", references[rows], noise)
        found = model.decoder_conditions(latents)["decoder_anchors"]
        assert torch.equal(found, references[rows])
        sample, t = torch.randn(4, 1, 8, 8), torch.full((4,), 0.4)
        default = model.predict_velocity(sample, t, latents)
        torch.testing.assert_close(
            default, model.predict_velocity(sample, t, latents, decoder_anchors=references[rows])
        )
        other = model.predict_velocity(sample, t, latents, decoder_anchors=references[rows.roll(1)])
        assert (default - other).abs().max() > 1e-3
        torch.testing.assert_close(default[1:2], model.predict_velocity(sample[1:2], t[1:2], latents[1:2]))
        start = torch.randn(4, 1, 8, 8, generator=seeded())
        expected = pixels(integrate(model, latents, references[rows], start))
    torch.testing.assert_close(generate(pipe, latents=latents), expected, rtol=0, atol=2e-4)


def test_a_guide_is_given_the_anchors_of_its_own_zones():
    """Once a call, not once a step."""
    names = ["a", "b", "c"]
    pipe = make_text_pipeline(names=names, decoder_data_type="text")
    guide = make_text_pipeline(names=names, decoder_data_type="text").model
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.mul_(0.9)
        guide.set_type_reference_anchors("text", guide.get_text_anchors(**tokens(CAPTIONS)))
        generator, labels = seeded(), torch.tensor([0, 1, 2])
        prior, noise = (torch.randn(3, *shape, generator=generator) for shape in ((64,), (1, 8, 8)))

        def velocity(model):
            latents = model.get_label_latents(labels, noise=prior)
            anchors = model.decoder_conditions(latents)["decoder_anchors"]
            return lambda x, t: model.predict_velocity(x, t, latents, labels, decoder_anchors=anchors)

        strong, weak = velocity(pipe.model), velocity(guide)
        guided = ImageFlow(default_scheduler(), 6).to_images(
            lambda x, t: weak(x, t) + 2 * (strong(x, t) - weak(x, t)), noise
        )
        looked, found = [], guide._zone_anchors
        guide._zone_anchors = lambda latents: looked.append(None) or found(latents)
    expected = pixels(guided)
    torch.testing.assert_close(
        generate(pipe, label=names, guide=guide, guidance_scale=2.0), expected, rtol=0, atol=2e-4
    )
    assert len(looked) == 1


def test_an_image_comes_back_by_the_zone_of_its_latent(pipe, images):
    given = {"pixel_values": images[:2]}
    again = pipe.reconstruct(given, num_inference_steps=100, generator=seeded(), output_type="pt").images
    torch.testing.assert_close(2 * again - 1, images[:2], rtol=0, atol=2e-2)


def test_a_model_alone_generates_the_same(pipe):
    plain = pipe.model.generate(num_images_per_label=3, generator=seeded(), output_type="pt", num_inference_steps=3)
    expected = pipe(
        num_images_per_label=3, generator=seeded(), output_type="pt", num_inference_steps=3, solver="heun"
    ).images
    torch.testing.assert_close(plain, expected, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- errors


def test_what_is_wrong_is_named(images):
    with pytest.raises(
        ValueError, match=re.escape("`decoder_data_type` must be None or one of ['text'], got 'sound'")
    ):
        LZNConfig(num_labels=0, decoder_data_type="sound", **TEXTS)
    model = make_model()
    sample, latents = torch.randn(2, 1, 8, 8), torch.randn(2, 64)
    with pytest.raises(ValueError, match="its loss needs samples of it"):
        model(images, return_loss=True)
    with pytest.raises(ValueError, match="placing a sample of 'text' by itself needs reference anchors"):
        model.predict_velocity(sample, 0.5, latents)
    with pytest.raises(ValueError, match=r"`decoder_anchors` must .*\(2, 64\).*\(3, 64\)"):
        model.predict_velocity(sample, 0.5, latents, decoder_anchors=torch.randn(3, 64))
    with pytest.raises(ValueError, match="`decoder_anchors` are given beside `latents` alone"):
        model(images, **tokens(SIX), decoder_anchors=torch.randn(6, 64))
    with pytest.raises(ValueError, match="decoder is given latents alone"):
        make_pipeline(names=()).model.predict_velocity(sample, 0.5, None, decoder_anchors=latents)
    dropping = make_model(condition_dropout=0.2)
    with pytest.raises(ValueError, match="nor `decoder_anchors`"):
        dropping.predict_velocity(sample, 0.5, decoder_anchors=latents, unconditional=True)
