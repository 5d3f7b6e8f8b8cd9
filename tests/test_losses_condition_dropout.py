# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Condition dropout in training: which images lose what, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch
from helpers.models import draws, perturbed, tiny_config

from lzn_hf import LZNConfig, LZNModel
from lzn_hf.losses_lzn import drop_conditions, reconstruction_loss


IMAGES = 12


def make_model(condition_dropout=0.0, **changes) -> LZNModel:
    torch.manual_seed(0)
    config = tiny_config(condition_dropout=condition_dropout, encoder_dropout=0.0, decoder_dropout=0.0, **changes)
    return perturbed(LZNModel(config)).train()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(IMAGES, 1, 8, 8, generator=seeded(1)).tanh()


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return torch.arange(IMAGES) % 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Watch:
    """A velocity of zeros that keeps what it was given."""

    def __call__(self, sample, t, latents, labels, *, decoder_anchors=None):
        self.sample, self.t, self.latents, self.labels = sample, t, latents, labels
        self.decoder_anchors = decoder_anchors
        return torch.zeros_like(sample)


def test_latent_and_label_are_dropped_together_with_the_given_probability():
    watch, count = Watch(), 4000
    latents, labels = torch.randn(count, 3, generator=seeded(1)), torch.arange(count) % 7
    reconstruction_loss(watch, torch.zeros(count, 1, 2, 2), latents, labels, generator=seeded(), condition_dropout=0.2)
    dropped = watch.labels == -1
    assert abs(dropped.float().mean() - 0.2) < 4 * (0.2 * 0.8 / count) ** 0.5
    assert torch.equal(watch.latents[dropped], torch.zeros(int(dropped.sum()), 3))
    assert torch.equal(watch.latents[~dropped], latents[~dropped])
    assert torch.equal(watch.labels[~dropped], labels[~dropped])


def test_the_draw_comes_last_and_without_dropout_there_is_none():
    """Times and noise are those of a run without dropout, and so is the state of the generator there."""
    plain, dropping, x = Watch(), Watch(), torch.randn(50, 1, 2, 2, generator=seeded(1))
    latents, labels = torch.ones(50, 3), torch.zeros(50, dtype=torch.int64)
    states = []
    for watch, options in ((plain, {}), (dropping, {"condition_dropout": 0.3})):
        generator = seeded()
        reconstruction_loss(watch, x, latents, labels, generator=generator, **options)
        states.append(generator)
    assert plain.latents is latents and plain.labels is labels
    assert torch.equal(plain.sample, dropping.sample) and torch.equal(plain.t, dropping.t)
    by_hand = seeded()
    torch.rand(50, generator=by_hand), torch.randn(50, 1, 2, 2, generator=by_hand)
    assert torch.equal(states[0].get_state(), by_hand.get_state())
    assert torch.equal(dropping.labels == -1, torch.rand(50, generator=by_hand) < 0.3)
    assert torch.equal(states[1].get_state(), by_hand.get_state())


def test_a_training_step_is_that_of_the_velocities_with_and_without_condition(images, labels):
    model, given = make_model(0.5), draws(images)
    output = model(images, labels, **given, generator=seeded())
    dropped = torch.rand(IMAGES, generator=seeded()) < 0.5
    assert 0 < dropped.sum() < IMAGES
    t, target = given["timesteps"], images - given["sample_noise"]
    x = t[:, None, None, None] * images + (1 - t[:, None, None, None]) * given["sample_noise"]
    conditional = model.predict_velocity(x, t, output.latents, labels)
    unconditional = model.predict_velocity(x, t, unconditional=True)
    velocity = torch.where(dropped[:, None, None, None], unconditional, conditional)
    torch.testing.assert_close(output.reconstruction_loss, (velocity - target).square().mean())
    assert (conditional - unconditional).abs().amax((1, 2, 3)).min() > 1e-4


def test_only_the_decoder_in_training_is_concerned(images, labels):
    """The latents and their alignment keep all images; without training, so does the decoder."""
    plain, dropping, given = make_model(), make_model(0.9), draws(images)
    first, second = (model(images, labels, **given, generator=seeded()) for model in (plain, dropping))
    assert torch.equal(first.latents, second.latents) and torch.equal(first.alignment_loss, second.alignment_loss)
    assert not torch.equal(first.reconstruction_loss, second.reconstruction_loss)
    losses = [model.eval()(images, labels, **given, generator=seeded()).loss for model in (plain, dropping)]
    assert torch.equal(*losses)


def test_all_parameters_have_gradients_if_all_conditions_are_dropped(images, labels):
    """A part without one would stop the synchronisation of several processes."""
    model = make_model(0.999)
    output = model(images, labels, **draws(images), generator=seeded())
    output.reconstruction_loss.backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
    assert all((parameter.grad == 0).all() for parameter in model.encoder.parameters())
    assert (model.decoder.condition_embedding.linear1.weight.grad[:, : 6 + 3] == 0).all()


def test_models_without_latents_or_without_labels(images, labels):
    for changes, given in (({"encoder_type": None}, {"labels": labels}), ({"num_labels": 0}, {"return_loss": True})):
        model = make_model(0.5, **changes)
        losses = [model(images, **given, generator=seeded(seed)).loss for seed in (0, 0, 1)]
        assert losses[0] == losses[1] != losses[2]
        assert model.predict_velocity(images, 0.5, unconditional=True).shape == images.shape
    latents, nothing = drop_conditions(torch.ones(2, 3), None, torch.tensor([True, False]))
    assert nothing is None and latents.tolist() == [[0, 0, 0], [1, 1, 1]]


def test_gradient_checkpointing_changes_nothing(images, labels):
    """The draw is outside of what is computed again."""
    model, given, gradients = make_model(0.5), draws(images), []
    for enable in (False, True):
        if enable:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(images, labels, **given, generator=seeded()).loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("value", [-0.1, 1, float("nan")])
def test_probabilities_out_of_range(value):
    with pytest.raises(ValueError, match=r"`condition_dropout` must be (in \[0, 1\)|finite), got"):
        LZNConfig(condition_dropout=value)


def test_a_decoder_without_conditions_has_none_to_drop():
    with pytest.raises(ValueError, match="`condition_dropout` must be 0 for a decoder without latents and labels"):
        LZNConfig(encoder_type=None, condition_dropout=0.1)
    assert LZNConfig(encoder_type=None, num_labels=2, condition_dropout=0.1).condition_dropout == 0.1
    assert LZNConfig().condition_dropout == 0
