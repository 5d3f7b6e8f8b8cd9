# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""LZNModel with the networks of the published 256 pixel models, and with a ResNet and no decoder."""

import pytest
import torch
from helpers.models import TINY_RESNET, perturbed, tiny_config
from transformers import AutoModel

from lzn_hf import LZNForImageClassification, LZNModel, LZNPipeline, latent_zones
from lzn_hf.training.models import PartwiseEMA, model_parts


LARGE = {
    "decoder_time_embedding": "fourier",
    "decoder_scale_by_sigma": True,
    "decoder_output_skip": True,
    "encoder_tap_resolutions": [4],
    "num_labels": 0,
    **{f"{part}_fir_kernel": [1, 3, 3, 1] for part in ("encoder", "decoder")},
    **{f"{part}_input_skip": "sum" for part in ("encoder", "decoder")},
}
RESNET = {**TINY_RESNET, "decoder_type": None, "num_labels": 0}
FREQUENCIES = "decoder.condition_embedding.time_embedding.frequencies"


@pytest.fixture
def large():
    return perturbed(LZNModel(tiny_config(**LARGE))).eval()


@pytest.fixture
def resnet():
    return perturbed(LZNModel(tiny_config(**RESNET))).eval()


@pytest.fixture
def images():
    return torch.rand(6, 1, 8, 8) * 2 - 1


# The large networks.


def test_every_setting_of_the_large_networks_reaches_them(large):
    names = set(large.state_dict())
    assert FREQUENCIES in names and "decoder.norm_out.weight" not in names
    assert "encoder.blocks.down_4x4_input_skip.conv.weight" in names
    taps = {name.split(".")[2] for name in names if name.startswith("encoder.taps.")}
    assert taps == {"down_4x4_input_skip", "down_4x4_block0", "middle_block1"}  # none at 8x8
    plain = LZNModel(tiny_config(**{**LARGE, "encoder_skip_rescale": False, "decoder_skip_rescale": False})).eval()
    plain.load_state_dict(large.state_dict())
    x, z, t = torch.randn(2, 1, 8, 8), torch.randn(2, 6), torch.full((2,), 0.5)
    assert not torch.allclose(plain.get_image_anchors(x), large.get_image_anchors(x))
    assert not torch.allclose(plain.predict_velocity(x, t, z), large.predict_velocity(x, t, z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_is_saved_and_reloaded(large, images, tmp_path, dtype):
    large.save_pretrained(tmp_path)
    reloaded = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    assert reloaded.decoder.conv_in.weight.dtype == dtype
    assert torch.equal(reloaded.get_buffer(FREQUENCIES), large.get_buffer(FREQUENCIES))  # float32 in any case
    velocity = reloaded.predict_velocity(images, 0.3, torch.ones(6, 6))
    tolerance = {"rtol": 0, "atol": 0} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(velocity.float(), large.predict_velocity(images, 0.3, torch.ones(6, 6)), **tolerance)


def test_what_a_checkpoint_lacks_of_large_is_initialised():
    torch.manual_seed(1)
    saved = LZNModel(tiny_config(num_labels=0)).state_dict()
    config = tiny_config(**LARGE, decoder_fourier_scale=100.0)
    model = LZNModel.from_pretrained(None, config=config, state_dict=saved, ignore_mismatched_sizes=True)
    frequencies = model.get_buffer(FREQUENCIES)
    assert 40 < frequencies.std() < 250
    output = model.decoder.blocks["up_8x8_output_skip"].conv.weight
    assert 0 < output.abs().max() < 1e-4


def test_fourier_frequencies_are_not_trained(large, images):
    ema = PartwiseEMA(model_parts(large), decay=0.9)
    before = large.get_buffer(FREQUENCIES).clone()
    large.train()
    optimizer = torch.optim.Adam(large.parameters(), lr=0.1)
    large(images, return_loss=True).loss.backward()
    optimizer.step()
    ema.step()
    with ema.scope():
        assert torch.equal(large.get_buffer(FREQUENCIES), before)
    assert all(parameter.grad is not None for parameter in large.parameters())


def test_large_generates_from_pure_noise(large):
    """The default schedulers start at t = 0, where the published networks have no value."""
    pipe = LZNPipeline.from_model(large)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(num_images_per_label=2, num_inference_steps=3, output_type="pt").images
    assert images.isfinite().all()


# A ResNet without decoder.


def test_resnet_embeds_images_of_any_size(resnet, tmp_path):
    resnet.save_pretrained(tmp_path)
    reloaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(reloaded, LZNModel) and reloaded.decoder is None
    for size in (8, 48):
        images = torch.rand(2, 1, size, size) * 2 - 1
        features, anchors, _ = resnet.encoder(images)
        assert features.shape == (2, 128) and anchors.shape == (2, 64)
        torch.testing.assert_close(reloaded(images).pooler_output, features)
        torch.testing.assert_close(reloaded.get_image_anchors(images), anchors)
    with pytest.raises(ValueError, match="pixel_values"):
        resnet(torch.rand(2, 3, 48, 48))


def test_initialisation_of_a_resnet_survives_from_pretrained(tmp_path):
    LZNModel(tiny_config(**{**RESNET, "encoder_widths": [64, 64]})).save_pretrained(tmp_path)
    model = LZNModel.from_pretrained(tmp_path, config=tiny_config(**RESNET), ignore_mismatched_sizes=True)
    last_norm, conv = model.encoder.stages[0][0].norm3, model.encoder.stem_conv
    assert torch.equal(last_norm.weight, torch.zeros(128))
    assert conv.weight.std().item() == pytest.approx((2 / (32 * 49)) ** 0.5, rel=0.1)


def test_resnet_with_labels_has_the_alignment_loss_and_classifies(images):
    torch.manual_seed(0)
    model = perturbed(LZNModel(tiny_config(**{**RESNET, "num_labels": 3}))).train()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    output = model(images, labels)
    assert output.reconstruction_loss is None
    torch.testing.assert_close(output.loss, output.alignment_loss)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    classifier = LZNForImageClassification(model.config)
    classifier.lzn = model.eval()
    model.set_reference_anchors(model.get_image_anchors(images))
    probabilities = classifier(images).logits.exp()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(6))


def test_without_a_decoder_nothing_is_generated(resnet, images):
    with pytest.raises(ValueError, match="decoder_type"):
        resnet.predict_velocity(images, 0.5, torch.zeros(6, 64))
    with pytest.raises(ValueError, match="neither an image decoder nor labels"):
        resnet(images, return_loss=True)
    with pytest.raises(ValueError, match="decoder"):
        LZNPipeline.from_model(resnet)


# The solver of the flow of the label anchors.


def test_label_latents_have_the_solver_of_the_label_flow():
    config = tiny_config(latent_solver="dpmsolver++", alignment_solver="euler", alignment_num_steps=30)
    model = perturbed(LZNModel(config)).eval()
    labels, noise = torch.tensor([0, 2, 1]), torch.randn(3, 6)
    anchors = model.label_anchors()
    expected = latent_zones.compute_latents(anchors[labels], noise, anchors, solver="euler", num_steps=30)
    torch.testing.assert_close(model.get_label_latents(labels, noise), expected)
