# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""LZNModel and LZNForImageClassification: losses against their formulas, loading, and what a prediction may depend on."""

import math

import pytest
import torch
from helpers.models import TINY_RESNET, draws, is_checkpointing, perturbed, same_weights, tiny_config
from torch.nn import functional as F

from lzn_hf import LZNForImageClassification, LZNModel, latent_zones
from lzn_hf.distributed_lzn import log_label_frequencies
from lzn_hf.layers_scaled import ScaledConv2d, ScaledLinear
from lzn_hf.losses_lzn import reconstruction_loss
from lzn_hf.modeling_lzn import evaluation_mode
from lzn_hf.zones_lzn import draw_noise


@pytest.fixture
def model():
    return perturbed(LZNModel(tiny_config())).eval()


@pytest.fixture
def images():
    return torch.rand(12, 1, 8, 8) * 2 - 1


@pytest.fixture
def labels():
    return torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2])


# Losses.


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("reduction", ["prob", "log_prob"])
def test_losses_are_those_of_the_formulas(images, labels, training, reduction):
    weights = {"alignment_weight": 0.7, "reconstruction_weight": 1.3, "alignment_end": 0.6 if training else 1.0}
    config = tiny_config(encoder_dropout=0.0, decoder_dropout=0.0, alignment_reduction=reduction, **weights)
    model = perturbed(LZNModel(config)).train(training)
    given = draws(images)
    output = model(images, labels, **given)

    anchors = model.get_image_anchors(images)
    latents = latent_zones.compute_latents(anchors, given["noise"], num_steps=8)
    torch.testing.assert_close(output.latents, latents)
    t = given["timesteps"].view(-1, 1, 1, 1)
    velocity = model.decoder(t * images + (1 - t) * given["sample_noise"], given["timesteps"], latents, labels)
    reconstruction = ((images - given["sample_noise"] - velocity) ** 2).mean()
    torch.testing.assert_close(output.reconstruction_loss, reconstruction)
    frequencies = torch.tensor([6, 4, 2]) / 12 if training else torch.ones(3)  # frequencies are training's alone
    _, log_probs = latent_zones.trace_assignments(
        latents, model.label_anchors(), labels, log_weights=frequencies.log(), num_steps=10, end=config.alignment_end
    )
    alignment = latent_zones.alignment_loss(log_probs, 0.2, reduction)
    torch.testing.assert_close(output.alignment_loss, alignment, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.loss, 1.3 * reconstruction + 0.7 * alignment, rtol=1e-4, atol=1e-5)
    assert output.label_log_probs.shape == (10, 12)


def test_every_parameter_gets_a_gradient(model, images, labels):
    model.train()(images, labels).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.abs().max() > 0 for p in (model.label_anchors.weight, *model.decoder.parameters()))


def test_label_frequencies():
    got = log_label_frequencies(torch.tensor([0, 0, 2, 0]), 4)
    assert got.exp().tolist() == [0.75, 0.0, 0.25, 0.0]


def test_a_label_absent_from_the_batch_is_no_nan(model, images):
    output = model.train()(images, torch.tensor([0, 1] * 6))
    output.loss.backward()
    assert torch.isfinite(output.loss) and torch.isfinite(model.label_anchors.weight.grad).all()


def test_a_model_without_labels_has_the_reconstruction_loss_alone(images):
    model = LZNModel(tiny_config(num_labels=0))
    assert model(images).loss is None
    output = model(images, return_loss=True)
    assert output.alignment_loss is None and torch.equal(output.loss, output.reconstruction_loss)
    with pytest.raises(ValueError, match="no labels"):
        model.get_label_latents(torch.tensor([0]))
    with pytest.raises(ValueError, match="no labels"):
        model.predict_velocity(images, 0.5, torch.randn(12, 6), labels=torch.zeros(12, dtype=torch.int64))


def test_the_reconstruction_loss_is_that_of_forward(model, images, labels):
    """With the same draws, in the order of the generator: latents, times, noise of the images."""
    output = model(images, labels, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    draw_noise(output.anchors, generator)
    loss = reconstruction_loss(model.predict_velocity, images, output.latents, labels, generator=generator)
    assert torch.equal(loss, output.reconstruction_loss)


def test_generator_fixes_the_draws(model, images, labels):
    first, second, third = (model(images, labels, generator=torch.Generator().manual_seed(s)).loss for s in (0, 0, 1))
    assert first == second and first != third


def test_output_order_and_tuple(model, images, labels):
    assert model(images)[0].shape == (12, 6)  # the embeddings, what pipeline("image-feature-extraction") takes
    output = model(images, labels, **draws(images))
    assert list(output) == [
        *(
            "loss",
            "reconstruction_loss",
            "alignment_loss",
            "embeddings",
            "pooler_output",
            "features",
            "anchors",
            "latents",
            "label_log_probs",
            "last_hidden_state",
        )
    ]
    assert len(model(images, return_dict=False)) == 5


def test_gradient_checkpointing_can_be_switched(model, images, labels):
    given, grads = draws(images), []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        assert is_checkpointing(model) is (len(grads) == 1)
        torch.manual_seed(0)
        model.zero_grad()
        model.train()(images, labels, **given).loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(grads[0], grads[1])


def test_the_whole_model_compiles_to_one_graph(images, labels):
    config = tiny_config(encoder_dropout=0.0, decoder_dropout=0.0, condition_dropout=0.5)
    model = perturbed(LZNModel(config)).train()
    arguments = {"labels": labels, **draws(images)}
    results = []
    for call in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(0)  # draws the images whose condition is dropped
        output = call(images, **arguments)
        output.loss.backward()
        results.append([output.loss, output.latents, *(p.grad for p in model.parameters())])
        model.zero_grad(set_to_none=True)
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)


def test_zones_are_float32_under_autocast(model, images, labels):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, labels)
    assert output.features.dtype == torch.bfloat16
    assert output.embeddings.dtype == output.anchors.dtype == output.latents.dtype == torch.float32
    assert output.label_log_probs.dtype == output.loss.dtype == torch.float32


# Inference.


@pytest.mark.parametrize(("encoder_type", "embedding"), [("ncsnpp", "anchors"), ("resnet", "features")])
def test_features_and_anchors(images, encoder_type, embedding):
    changes = {} if encoder_type == "ncsnpp" else TINY_RESNET
    model = perturbed(LZNModel(tiny_config(**changes))).eval()
    output = model(images)
    features, anchors, _ = model.encoder(images)
    assert features.shape == (12, model.encoder.feature_dim) and anchors.shape == (12, model.config.latent_dim)
    for kind, expected in (("features", features), ("anchors", anchors)):
        assert torch.equal(model.get_image_features(images, kind), expected) and torch.equal(output[kind], expected)
    assert torch.equal(model.get_image_anchors(images), anchors)
    for got in (model.get_image_features(images), output.embeddings, output.pooler_output):
        assert torch.equal(got, output[embedding])
    with pytest.raises(ValueError, match="`kind` must be .*'anchors'.*got 'pixels'"):
        model.get_image_features(images, "pixels")


def test_image_latents_and_their_pool(model, images):
    noise, anchors = torch.randn(12, 6), model.get_image_anchors(images)
    with pytest.raises(ValueError, match="set_reference_anchors"):
        model.get_image_latents(images[:1])
    among_each_other = latent_zones.compute_latents(anchors, noise, num_steps=8)
    torch.testing.assert_close(model.get_image_latents(images, noise), among_each_other)

    pool = torch.randn(5, 6)
    want = latent_zones.compute_latents(anchors, noise, pool, include_own=True, num_steps=8)
    torch.testing.assert_close(model.get_image_latents(images, noise, pool), want)
    model.set_reference_anchors(pool)
    torch.testing.assert_close(model.get_image_latents(images, noise), want)
    torch.testing.assert_close(model.get_image_latents(images[3:4], noise[3:4]), want[3:4], rtol=1e-5, atol=1e-5)
    a, b = (model.get_image_latents(images, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(a, b) and not torch.allclose(a, want)


def test_label_latents_lie_in_their_zones(model):
    labels = torch.arange(3).repeat(50)
    latents = model.get_label_latents(labels)
    assert (model.classify_latents(latents).argmax(-1) == labels).float().mean() > 0.9
    torch.testing.assert_close(model.classify_latents(latents).exp().sum(-1), torch.ones(150))


@pytest.mark.parametrize("num_draws", [0, 4])
def test_a_prediction_depends_on_its_image_alone(model, images, num_draws):
    model.set_reference_anchors(model.get_image_anchors(images))
    model.config.num_prediction_draws = num_draws
    log_probs = model.classify_images(images)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(12))
    others = torch.rand_like(images) * 2 - 1
    others[5] = images[5]
    assert torch.equal(model.classify_images(others)[5], log_probs[5])  # the same shapes: to the bit
    torch.testing.assert_close(model.classify_images(images[5:6])[0].exp(), log_probs[5].exp(), rtol=0, atol=1e-5)


def test_prediction_draws_average_probabilities(model, images):
    model.set_reference_anchors(model.get_image_anchors(images))
    model.config.num_prediction_draws = 3
    noise = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    each = [model.classify_latents(model.get_image_latents(images, n.expand(12, -1))).exp() for n in noise]
    torch.testing.assert_close(model.classify_images(images).exp(), torch.stack(each).mean(0), rtol=1e-4, atol=1e-6)
    model.config.num_prediction_draws = 0
    middle = model.classify_latents(model.get_image_latents(images, torch.zeros(12, 6)))
    torch.testing.assert_close(model.classify_images(images), middle)


def test_velocity_takes_the_label_of_the_zone(model, images):
    latents = model.get_label_latents(torch.arange(3).repeat(4))
    zone_labels = model.classify_latents(latents).argmax(-1)
    velocity = model.predict_velocity(images, 0.3, latents)
    torch.testing.assert_close(velocity, model.predict_velocity(images, torch.full((12,), 0.3), latents, zone_labels))
    assert not torch.allclose(velocity, model.predict_velocity(images, 0.3, latents, (zone_labels + 1) % 3))


def test_evaluation_mode_restores_the_mode_of_every_submodule(model, images):
    model.train()
    model.encoder.eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="inside"), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        assert not model.get_image_anchors(images).requires_grad
        raise RuntimeError("inside")
    assert [module.training for module in model.modules()] == modes and True in modes and False in modes


# Loading and saving.


def test_save_and_reload_as_every_class(model, images, tmp_path):
    model.set_reference_anchors(model.get_image_anchors(images))
    model.save_pretrained(tmp_path / "base")
    assert same_weights(LZNModel.from_pretrained(tmp_path / "base"), model)
    classifier = LZNForImageClassification.from_pretrained(tmp_path / "base")
    assert same_weights(classifier.lzn, model)
    torch.testing.assert_close(classifier(images).logits, model.classify_images(images))
    classifier.save_pretrained(tmp_path / "head")
    assert same_weights(LZNModel.from_pretrained(tmp_path / "head"), model)


def test_initialisation_survives_from_pretrained(model):
    """Weights missing from a checkpoint get the layers' own initialisation, not transformers' normal(0, 0.02) or old memory.

    transformers calls `_init_weights` only on modules that own a missing parameter themselves, so a block cannot do it for its layers.
    """
    state = {
        k: v for k, v in model.state_dict().items() if not k.startswith("decoder.") and k != "label_anchors.weight"
    }
    loaded = LZNModel.from_pretrained(None, config=model.config, state_dict=state)
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in state.items())
    for module in loaded.decoder.modules():
        if isinstance(module, (ScaledConv2d, ScaledLinear)):
            # Uniform up to this bound (Glorot and Bengio, 2010, scaled), which the largest of dozens of draws comes close to.
            receptive = module.weight[0, 0].numel()
            bound = math.sqrt(6 * module.init_scale / (receptive * sum(module.weight.shape[:2])))
            assert 0.7 * bound < module.weight.abs().max() <= bound * (1 + 1e-6)
            assert not module.bias.any()
        elif isinstance(module, torch.nn.GroupNorm):
            assert (module.weight == 1).all() and not module.bias.any()
    images = torch.randn(4, 1, 8, 8)
    assert (
        loaded.decoder(images, torch.rand(4), torch.randn(4, 6), torch.zeros(4, dtype=torch.int64)).abs().max() < 1e-3
    )
    assert 0.5 < loaded.label_anchors().std() < 1.5
    assert 0.5 < LZNModel(tiny_config(label_anchor_std=3.0)).label_anchors().std() / 3 < 1.5


def test_reference_anchors_are_checked(model):
    with pytest.raises(ValueError, match=r"`anchors` must be a tensor of shape \(N, 6\), got shape \(3, 5\)"):
        model.set_reference_anchors(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="`anchors` must be finite"):
        model.set_reference_anchors(torch.full((3, 6), float("nan")))
    assert model.reference_anchors is None and model.config.num_reference_anchors == 0


def test_classifier_loss(model, images, labels):
    model.set_reference_anchors(model.get_image_anchors(images))
    classifier = LZNForImageClassification(model.config).eval()
    classifier.lzn.load_state_dict(model.state_dict())
    output = classifier(images, labels)
    torch.testing.assert_close(output.loss, F.nll_loss(output.logits, labels))
    assert classifier(images, return_dict=False)[0].shape == (12, 3)


def test_both_models_check_labels_alike(model, images, labels):
    model.set_reference_anchors(model.get_image_anchors(images))
    classifier = LZNForImageClassification(model.config).eval()
    classifier.lzn.load_state_dict(model.state_dict())
    for bad, message in (
        (labels + 1, r"`labels` must be in 0..2, got 1..3"),
        (labels - 1, r"`labels` must be in 0..2, got -1..1"),
        (torch.full((12,), -100), r"`labels` must be in 0..2, got -100..-100"),
        (labels[:5], r"`labels` must be int64 of shape \(12,\), one label an image, got torch.int64 of shape \(5,\)"),
        (labels[:, None], r"got torch.int64 of shape \(12, 1\)"),
        (labels.int(), r"got torch.int32 of shape \(12,\)"),
        (F.one_hot(labels).float(), r"got torch.float32 of shape \(12, 3\)"),
    ):
        for called in (model, classifier):
            with pytest.raises(ValueError, match=message):
                called(images, bad)
    with pytest.raises(ValueError, match=r"`labels` must be int64 of shape \(1,\).* of shape \(\)"):
        model.get_label_latents(torch.tensor(2))
    with pytest.raises(ValueError, match="no labels"):
        LZNForImageClassification(tiny_config(num_labels=0))(images, labels)


# Errors.


def test_bad_input_is_named(model, images, labels):
    with pytest.raises(ValueError, match=r"`pixel_values` must have shape \(batch, 1, 8, 8\).*LZNImageProcessor"):
        model(images[..., :4])
    with pytest.raises(ValueError, match="`pixel_values` must have shape"):
        model(images.repeat(1, 3, 1, 1))
    broken = images.clone()
    broken[2, 0, 1, 1] = float("nan")
    with pytest.raises(ValueError, match="`pixel_values` must be finite"):
        model.get_image_features(broken)
    with pytest.raises(ValueError, match=r"`labels` must be in 0..2, got 0..3"):
        model(images, torch.tensor([3] + [0] * 11))
    with pytest.raises(ValueError, match=r"`labels` must be in 0..2, got -1..-1"):
        model.get_label_latents(torch.tensor([-1]))
    with pytest.raises(ValueError, match="`labels` must be int64 of shape"):
        model(images, labels[:5])
    with pytest.raises(ValueError, match="`labels` are needed"):
        model(images, return_loss=True)
    with pytest.raises(ValueError, match="at least 2 images"):
        model(images[:1], labels[:1])
    with pytest.raises(ValueError, match="`latents` are needed"):
        model.predict_velocity(images, 0.5)
    with pytest.raises(ValueError, match="reference anchors"):
        model.classify_images(images)
