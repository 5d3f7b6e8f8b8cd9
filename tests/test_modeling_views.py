# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""LZNModel in training without labels: the loss of second views, and a model without image encoder."""

import pytest
import torch
from helpers.models import draws, perturbed, same_weights, tiny_config
from transformers import AutoModel

from lzn_hf import LZNModel
from lzn_hf.losses_lzn import view_losses


@pytest.fixture
def model():
    return perturbed(LZNModel(tiny_config())).eval()


@pytest.fixture
def images():
    return torch.rand(12, 1, 8, 8) * 2 - 1


@pytest.fixture
def labels():
    return torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2])


# Second views.


@pytest.fixture
def embedder():
    changes = {"num_labels": 0, "decoder_type": None, "encoder_dropout": 0.0}
    config = tiny_config(**changes, latent_noise_scale=0.45, alignment_reduction="log_prob", alignment_weight=0.7)
    return perturbed(LZNModel(config)).train()


def test_the_loss_of_second_views_is_that_of_their_anchors(embedder, images):
    second, noise = torch.rand_like(images) * 2 - 1, torch.randn(12, 6)
    output = embedder(images, second_views=second, noise=noise)
    # Encoded together, as in forward: the flow magnifies the rounding by which anchors of two calls differ.
    anchors, targets = embedder.get_image_anchors(torch.cat([images, second])).chunk(2)
    expected = view_losses(embedder.config, anchors, targets, noise)
    for name, value in expected.items():
        assert torch.equal(output[name], value), name
    torch.testing.assert_close(output.loss, 0.7 * output.alignment_loss)
    torch.testing.assert_close(
        output.anchors, embedder.get_image_anchors(images)
    )  # of the first views, as for one view
    torch.testing.assert_close(targets, embedder.get_image_anchors(second))
    torch.testing.assert_close(output.pooler_output, embedder.get_image_features(images))
    assert output.view_log_probs.shape == (10, 12) and output.label_log_probs is None
    alone = embedder(images)
    assert alone.loss is None and alone.view_log_probs is None


def test_both_views_give_gradients_to_the_encoder(embedder, images):
    views = [images.requires_grad_(), (torch.rand_like(images) * 2 - 1).requires_grad_()]
    embedder(views[0], second_views=views[1]).loss.backward()
    for view in views:
        assert (view.grad.abs().amax((1, 2, 3)) > 0).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in embedder.parameters())


def test_the_generator_draws_the_noise_of_second_views(embedder, images):
    second = torch.rand_like(images)
    seeds = (0, 0, 1)
    a, b, c = (
        embedder(images, second_views=second, generator=torch.Generator().manual_seed(seed)).loss for seed in seeds
    )
    assert a == b and a != c


def test_bad_second_views_are_named(model, embedder, images, labels):
    shapes = r"`second_views` must have the shape of `pixel_values`, \(12, 1, 8, 8\), and come without `labels`, got "
    with pytest.raises(ValueError, match=shapes + r"\(11, 1, 8, 8\)\.$"):
        embedder(images, second_views=images[:11])
    with pytest.raises(ValueError, match=shapes + r"\(12, 1, 8, 4\)\.$"):
        embedder(images, second_views=images[..., :4])
    with pytest.raises(ValueError, match=shapes + r"\(12, 1, 8, 8\) and labels\.$"):
        model(images, labels, second_views=images)
    with pytest.raises(ValueError, match="at least 2 images"):
        embedder(images[:1], second_views=images[:1])
    with pytest.raises(ValueError, match="neither an image decoder nor labels.*`second_views`"):
        embedder(images, return_loss=True)


# A model without image encoder: a plain rectified flow.


@pytest.fixture
def flow():
    return perturbed(LZNModel(tiny_config(encoder_type=None, num_labels=0, decoder_dropout=0.0)))


def test_the_loss_without_encoder_is_that_of_a_rectified_flow(flow, images):
    given = {name: value for name, value in draws(images).items() if name != "noise"}
    flow.config.reconstruction_weight = 1.3
    output = flow(images, return_loss=True, **given)
    t = given["timesteps"].view(-1, 1, 1, 1)
    sample = t * images + (1 - t) * given["sample_noise"]
    velocity = flow.decoder(sample, given["timesteps"], torch.empty(12, 0), None)
    expected = ((images - given["sample_noise"] - velocity) ** 2).mean()
    torch.testing.assert_close(output.reconstruction_loss, expected)
    torch.testing.assert_close(output.loss, 1.3 * expected)
    assert list(output) == ["loss", "reconstruction_loss"]
    torch.testing.assert_close(flow.predict_velocity(sample, given["timesteps"]), velocity)
    assert flow(images[:1], return_loss=True).loss > 0  # without latents, without a pool
    output.loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in flow.parameters())


def test_a_model_without_encoder_has_no_latents(flow, images):
    with pytest.raises(ValueError, match="`latents` must be None for a model without image encoder.* got a Tensor"):
        flow.predict_velocity(images, 0.5, torch.randn(12, 6))
    for method in (flow.get_image_features, flow.get_image_anchors, flow.get_image_latents):
        with pytest.raises(ValueError, match="no image encoder"):
            method(images)
    with pytest.raises(ValueError, match="no image encoder"):
        flow(images, second_views=images)
    with pytest.raises(ValueError, match="no labels"):
        flow(images, torch.zeros(12, dtype=torch.int64), return_loss=True)


def test_a_model_without_encoder_is_saved(flow, images, tmp_path):
    flow.eval().save_pretrained(tmp_path)
    for kind in (LZNModel, AutoModel):
        loaded = kind.from_pretrained(tmp_path)
        assert type(loaded) is LZNModel and loaded.encoder is None and same_weights(loaded, flow)
        assert torch.equal(loaded.eval().predict_velocity(images, 0.4), flow.predict_velocity(images, 0.4))
