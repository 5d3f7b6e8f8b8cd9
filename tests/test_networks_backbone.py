# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Tests of image models of transformers as encoders, alone and inside LZNModel."""

import copy
import sys

import numpy as np
import pytest
import torch
from helpers.backbones import BACKBONES, IMAGE_SIZES, MEAN, POOLED, STD, backbone_of, make_encoder, random_images
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoModel

from lzn_hf import LZNConfig, LZNModel
from lzn_hf.networks_backbone import BackboneEncoder


FAMILIES = ["resnet", "convnext", "vit", "dinov2", "swin"]


def make_model(model_type: str, **changes) -> LZNModel:
    torch.manual_seed(0)
    return LZNModel(
        LZNConfig(
            image_size=16,
            latent_dim=64,
            num_labels=3,
            encoder_type="transformers",
            encoder_backbone=backbone_of(model_type, **changes),
            decoder_type=None,
        )
    )


def seen_by_backbone(encoder: BackboneEncoder, images: torch.Tensor) -> torch.Tensor:
    seen = []
    hook = encoder.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    encoder(images)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("model_type", BACKBONES)
def test_features_are_what_the_model_pools(model_type):
    encoder = make_encoder(model_type, image_mean=MEAN, image_std=STD).eval()
    images = random_images(IMAGE_SIZES.get(model_type, 16))
    reference = AutoModel.from_config(encoder.backbone.config).eval()
    assert not reference.load_state_dict(encoder.backbone.state_dict(), strict=False).unexpected_keys
    normalised = ((images.double() + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        features, anchors, _ = encoder(images)
        output = reference(pixel_values=normalised.float())
        expected = POOLED.get(model_type, lambda output: output.pooler_output.flatten(1))(output)
        torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(anchors, encoder.head(features))
    assert features.shape == (4, encoder.feature_dim) and anchors.shape == (4, 64)
    assert not {"timm", "torchvision"} & set(sys.modules)


@pytest.mark.parametrize("model_type", BACKBONES)
def test_every_parameter_that_requires_gradients_gets_one(model_type):
    """Else DistributedDataParallel waits for it in vain."""
    encoder = make_encoder(model_type)
    images = random_images(IMAGE_SIZES.get(model_type, 16))
    anchors = encoder(images)[1]
    (anchors * torch.linspace(-1, 1, anchors.numel()).view_as(anchors).sin()).sum().backward()
    without = {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is None) == (name in without), name
        assert name in without or parameter.grad.isfinite().all(), name
    # Positions are sines and cosines in I-JEPA's model of transformers, and mask tokens hide patches in pre-training only.
    assert all("mask_token" in name or "position_embeddings" in name for name in without)
    assert ("backbone.embeddings.mask_token" in without) == (model_type in ("dinov2", "beit"))


def test_a_single_channel_is_repeated_for_a_backbone_of_more():
    arguments = {"image_size": 16, "in_channels": 1, "latent_dim": 64, "head_layers": 1}
    images = random_images(channels=1)
    encoder = BackboneEncoder(
        backbone=backbone_of("convnext", num_channels=3, image_mean=MEAN, image_std=STD), **arguments
    )
    expected = [((images.numpy() + 1) / 2 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
    np.testing.assert_allclose(seen_by_backbone(encoder, images), np.concatenate(expected, 1), atol=1e-6)
    # Without such a number the backbone has the channels of the images, which stay in [-1, 1].
    encoder = BackboneEncoder(backbone=backbone_of("convnext"), **arguments)
    assert encoder.backbone.config.num_channels == 1
    np.testing.assert_allclose(seen_by_backbone(encoder, images), images, atol=1e-6)


@pytest.mark.parametrize("size", [[16, 16], [64, 48]])
def test_images_are_resized_as_pillow_does(size):
    encoder, images = make_encoder("convnext", image_size=32, input_size=size), random_images(32)
    expected = [
        np.stack(
            [
                np.asarray(Image.fromarray(channel).resize(size[::-1], Image.Resampling.BILINEAR))
                for channel in image.numpy()
            ]
        )
        for image in images
    ]
    np.testing.assert_allclose(seen_by_backbone(encoder, images), np.stack(expected), atol=1e-5)


def test_position_embeddings_are_those_of_the_images_or_interpolated():
    assert make_encoder("vit").backbone.embeddings.position_embeddings.shape[1] == 1 + 4 * 4
    images = random_images()
    encoder = BackboneEncoder(
        backbone=backbone_of("vit", image_size=24), image_size=16, in_channels=3, latent_dim=64, head_layers=2
    ).eval()
    embeddings = encoder.backbone.embeddings.position_embeddings
    assert embeddings.shape[1] == 1 + 6 * 6
    with torch.no_grad():
        grid = embeddings[:, 1:].view(1, 6, 6, 64).permute(0, 3, 1, 2)
        grid = nn.functional.interpolate(grid, size=(4, 4), mode="bicubic").permute(0, 2, 3, 1).reshape(1, 16, 64)
        reference = make_encoder("vit").eval()
        state = encoder.backbone.state_dict()
        state["embeddings.position_embeddings"] = torch.cat([embeddings[:, :1], grid], 1)
        reference.backbone.load_state_dict(state)
        torch.testing.assert_close(encoder(images)[0], reference(images)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_images_do_not_depend_on_their_batch(model_type, training):
    """But for batch norm in training, unless it is frozen, which leaves its statistics alone."""
    choices = [False, True] if model_type == "resnet" else [None]
    for frozen in choices:
        encoder = make_encoder(model_type, freeze_batch_norm=frozen).double().train(training)
        images, before = random_images().double(), {k: v.clone() for k, v in encoder.named_buffers()}
        mixes = model_type == "resnet" and training and not frozen
        with torch.no_grad():
            together, alone = encoder(images)[0], torch.cat([encoder(image[None])[0] for image in images])
        assert torch.allclose(together, alone, atol=1e-9) is not mixes
        assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers()) is not mixes


def test_frozen_batch_norm_trains_scale_and_shift():
    encoder = make_encoder("resnet", freeze_batch_norm=True)
    encoder(random_images())[1][:, ::3].sum().backward()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.grad.abs().max() > 0 and module.bias.grad.abs().max() > 0


def test_finding_the_width_leaves_no_trace_in_models_of_the_same_process():
    """BEiT caches its position index for all models of a process, by the size only."""
    changes = {"image_size": 20, "patch_size": 4}  # no other test has a window of 5 x 5
    config = AutoConfig.for_model("beit", **(BACKBONES["beit"] | changes))
    with torch.device("meta"):  # as in from_pretrained()
        BackboneEncoder(
            backbone=backbone_of("beit", **changes), image_size=20, in_channels=3, latent_dim=64, head_layers=2
        )
    index = AutoModel.from_config(config).layers[0].relative_position_bias.generate_relative_position_index((5, 5))
    assert index.device.type == "cpu"


@pytest.mark.parametrize("model_type", FAMILIES)
def test_initial_weights_are_those_of_the_library(model_type):
    model = make_model(model_type)
    torch.manual_seed(0)
    reference = AutoModel.from_config(model.encoder.backbone.config).state_dict()
    for name, value in model.encoder.backbone.state_dict().items():
        assert torch.equal(value, reference[name]), name


@pytest.mark.parametrize("model_type", [*FAMILIES, "beit"])
def test_saved_and_loaded_model_is_the_same(model_type, tmp_path):
    model, images = make_model(model_type).eval(), random_images()
    model.save_pretrained(tmp_path)
    loaded, info = LZNModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert loaded.config.encoder_backbone == model.config.encoder_backbone
    for (name, value), other in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(value, other), name
        assert value.requires_grad == other.requires_grad == ("mask_token" not in name), name
    for (name, value), other in zip(model.named_buffers(), loaded.buffers(), strict=True):
        assert torch.equal(value, other), name
    with torch.no_grad():
        assert torch.equal(model(images).anchors, loaded(images).anchors)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_missing_weights_are_initialised_as_by_the_library(model_type):
    model = make_model(model_type)
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.backbone.")}
    loaded = LZNModel.from_pretrained(None, config=model.config, state_dict=kept)
    assert torch.equal(loaded.encoder.head.linear0.weight, model.encoder.head.linear0.weight)
    reference = AutoModel.from_config(model.encoder.backbone.config).state_dict()
    for name, value in loaded.encoder.backbone.state_dict().items():
        if value.numel() < 2 or reference[name].std() == 0:
            assert torch.equal(value, reference[name]), name
        else:
            assert abs(value.std() / reference[name].std() - 1) < 0.4, name


@pytest.mark.parametrize("model_type", FAMILIES)
def test_gradient_checkpointing_gives_the_same_gradients_from_less_memory(model_type):
    model, images = make_model(model_type), random_images()

    def gradients() -> tuple[int, dict[str, torch.Tensor]]:
        model.zero_grad()
        torch.manual_seed(0)  # Swin drops residuals at random
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            loss = model(images).anchors[:, ::3].square().sum()
        num_kept = sum(kept)
        loss.backward()
        return num_kept, {n: p.grad.clone() for n, p in model.encoder.named_parameters() if p.requires_grad}

    memory, expected = gradients()
    model.activation_checkpointing_enable()
    memory_checkpointed, actual = gradients()
    assert memory_checkpointed < memory / 2
    for name, gradient in expected.items():
        assert torch.equal(gradient, actual[name]), name
    model.activation_checkpointing_disable()
    assert gradients()[0] == memory


@pytest.mark.parametrize("model_type", FAMILIES)
def test_autocast_and_half_precision_keep_anchors_in_float32(model_type, tmp_path):
    model, images = make_model(model_type, input_size=[16, 16]).eval(), random_images()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = [model(images)]
        half = LZNModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in half.encoder.parameters()} == {torch.bfloat16}
        outputs.append(half(images))
    for output in outputs:
        assert output.anchors.dtype == torch.float32
        assert (output.embeddings - expected.embeddings).norm() < 0.05 * expected.embeddings.norm()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 0}, "`image_size` must be at least 1, got 0"),
        ({"in_channels": 0}, "`in_channels` must be at least 1, got 0"),
        ({"head_layers": 0}, "`head_layers` must be at least 1, got 0"),
        ({"latent_dim": 32}, "`latent_dim` must have a width that is a multiple of 32 and larger.* got 32"),
        ({"latent_dim": 100}, "`latent_dim` must have a width that is a multiple of 32 and larger.* got 100"),
        ({"hidden_size": 48}, "`backbone` must have a width that is a multiple of 32 and larger.* got 48"),
        ({"hiden_size": 64}, "`backbone`: a 'vit' has no field 'hiden_size', but .*hidden_size"),
        ({"hidden_size": "wide"}, "`backbone` is no configuration of a 'vit': .*hidden_size"),
        ({"model_type": "nothing"}, "`backbone` must have the `model_type` of an image model, got 'nothing'"),
        ({"model_type": None}, "`backbone` must have the `model_type` of an image model, got None"),
        ({"patch_size": 32}, "`backbone` of type 'vit' cannot encode images of 16 x 16 pixels with 3 channels"),
        (
            {"in_channels": 2, "num_channels": 3},
            "`in_channels` must be 1 or the `num_channels` of the backbone, 3, got 2",
        ),
        ({"image_mean": [0.5]}, r"`image_mean` of `backbone` must be 3 numbers.* got \[0.5\]"),
        ({"image_mean": 0.5}, r"`image_mean` of `backbone` must be 3 numbers.* got 0.5"),
        ({"image_std": [0.5, 0.5, 0]}, r"`image_std` of `backbone` must be 3 positive numbers.* got \[0.5, 0.5, 0\]"),
        ({"input_size": 16}, r"`input_size` of `backbone` must be \[height, width\], got 16"),
        ({"input_size": [16, 0]}, r"`input_size` of `backbone` must be \[height, width\], got \[16, 0\]"),
    ],
)
def test_arguments_that_describe_no_network_are_named(changes, message):
    arguments = {"image_size": 16, "in_channels": 3, "latent_dim": 64, "head_layers": 2}
    backbone = backbone_of("vit")
    for name, value in changes.items():
        (arguments if name in arguments else backbone)[name] = value
    with pytest.raises(ValueError, match=message):
        BackboneEncoder(backbone=backbone, **arguments)


def test_models_of_other_things_than_images_are_refused():
    for model_type in ("bert", "clip"):
        with pytest.raises(ValueError, match=f"`backbone` of type '{model_type}' cannot encode images"):
            BackboneEncoder(
                backbone={"model_type": model_type}, image_size=16, in_channels=3, latent_dim=64, head_layers=2
            )


def test_batch_norm_needs_a_decision():
    backbone = backbone_of("resnet")
    del backbone["freeze_batch_norm"]
    with pytest.raises(ValueError, match="'resnet' has batch norm.* `freeze_batch_norm`: true .* got None"):
        BackboneEncoder(backbone=backbone, image_size=16, in_channels=3, latent_dim=64, head_layers=2)


def test_one_linear_layer_takes_features_of_any_width():
    backbone = backbone_of("convnext", hidden_sizes=[32, 40])
    encoder = BackboneEncoder(backbone=backbone, image_size=16, in_channels=3, latent_dim=64, head_layers=1)
    assert encoder.feature_dim == 40 and encoder(random_images())[1].shape == (4, 64)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_hidden_states_are_those_of_the_backbone(model_type):
    model, images = make_model(model_type).eval(), random_images(16)
    encoder, alone = model.encoder, copy.deepcopy(model.encoder.backbone)
    seen = seen_by_backbone(encoder, images)
    expected = alone(pixel_values=seen, **encoder.forward_arguments, output_hidden_states=True)["hidden_states"]
    output = model(images, output_hidden_states=True)
    assert len(expected) > 2
    for state, same in zip(output.hidden_states, expected, strict=True):
        assert torch.equal(state, same)
    assert model(images).hidden_states is None
