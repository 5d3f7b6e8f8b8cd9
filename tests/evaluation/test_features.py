# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Feature extractors: pixels, tiny networks of transformers against themselves, and what image processors do to images."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTImageProcessorPil,
    ViTModel,
)

from lzn_hf import LZNConfig, LZNImageProcessor, LZNModel
from lzn_hf.evaluation.features import load_feature_extractor, process_images


VIT = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def resnet_config(**changes) -> ResNetConfig:
    values = {"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [1, 1, 1], "layer_type": "basic"}
    return ResNetConfig(**{**values, "num_labels": 4, **changes})


def save(folder: Path, model, **processor) -> Path:
    values = {"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    model.save_pretrained(folder)
    ViTImageProcessorPil(**{**values, **processor}).save_pretrained(folder)
    return folder


def random_resnet(cls=ResNetForImageClassification, **changes):
    """With running statistics that are not those of a new batch normalisation."""
    torch.manual_seed(2)
    model = cls(resnet_config(**changes))
    model.train()(torch.randn(16, model.config.num_channels, 32, 32))
    return model.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Whole grey levels, so that they are PIL images too: smooth, as bicubic weights would leave the range elsewhere."""
    torch.manual_seed(1)
    smooth = torch.nn.functional.interpolate(torch.rand(5, 3, 5, 5), (20, 20), mode="bilinear")
    return (smooth * 255).round() / 127.5 - 1


@pytest.fixture(scope="module")
def resnet_folder(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("resnet"), random_resnet(id2label={0: "a", 1: "b", 2: "c", 3: "d"}))


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Rounding to grey levels is small beside the differences between images."""
    assert found.shape == expected.shape
    spread = (expected - expected.mean(0)).square().mean().sqrt()
    assert (found - expected).square().mean().sqrt() < 0.05 * spread


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in ((images + 1) * 127.5).round().to(torch.uint8)]


# Pixels


def test_pixels_are_features_without_a_network(images):
    extractor = load_feature_extractor("pixels")
    assert extractor.name == "pixels"
    assert extractor.features(images).equal(images.flatten(1))
    assert extractor.features(images.double()).dtype == torch.float32
    assert extractor.spatial_features(images) is None and extractor.log_probs(images) is None


@pytest.mark.parametrize("method", ["features", "spatial_features", "log_probs"])
def test_bad_images_are_refused(method):
    extract = getattr(load_feature_extractor("pixels"), method)
    with pytest.raises(ValueError, match=r"`pixel_values` must be in \[-1, 1\], got values from 0 to 255"):
        extract(torch.tensor([0.0, 255.0]).view(1, 1, 1, 2))
    with pytest.raises(ValueError, match="`pixel_values` must be floating point"):
        extract(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="and not empty"):
        extract(torch.zeros(0, 1, 2, 2))


# Networks of transformers


@torch.no_grad()
def test_classifier_gives_what_its_own_model_and_processor_give(resnet_folder, images):
    extractor = load_feature_extractor(resnet_folder)
    model = ResNetForImageClassification.from_pretrained(resnet_folder).eval()
    processor = ViTImageProcessorPil.from_pretrained(resnet_folder)
    inputs = processor(to_pil(images), return_tensors="pt")["pixel_values"]
    output = model.resnet(inputs, output_hidden_states=True)
    # Tensors are resized without rounding to grey levels.
    features, spatial, log_probs = (
        getattr(extractor, name)(images) for name in ("features", "spatial_features", "log_probs")
    )
    assert_near(features, output.pooler_output.flatten(1))
    assert_near(spatial, output.hidden_states[2][:, :7].flatten(1))
    assert_near(log_probs, model(inputs).logits.log_softmax(1))
    assert (features.shape, spatial.shape, log_probs.shape) == ((5, 16), (5, 7 * 4 * 4), (5, 4))
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(5))


@torch.no_grad()
def test_without_resizing_it_is_the_network_to_the_bit(tmp_path, images):
    model = random_resnet()
    extractor = load_feature_extractor(save(tmp_path, model, do_resize=False))
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    inputs = ((images + 1) / 2 - mean) / std
    torch.testing.assert_close(extractor.features(images), model.resnet(inputs).pooler_output.flatten(1))
    torch.testing.assert_close(extractor.log_probs(images), model(inputs).logits.log_softmax(1))


def test_features_do_not_depend_on_the_batch_and_grey_images_are_repeated(resnet_folder, images, monkeypatch):
    extractor = load_feature_extractor(str(resnet_folder))
    together = extractor.features(images)
    monkeypatch.setattr("lzn_hf.evaluation.features.BATCH_SIZE", 2)
    torch.testing.assert_close(extractor.features(images), together)
    torch.testing.assert_close(extractor.features(images[3:4]), together[3:4])
    assert not together.requires_grad
    grey = images[:, :1]
    torch.testing.assert_close(extractor.features(grey), extractor.features(grey.repeat(1, 3, 1, 1)))


def test_network_of_grey_images_refuses_colours(tmp_path, images):
    folder = save(tmp_path, random_resnet(num_channels=1), image_mean=[0.5], image_std=[0.5])
    extractor = load_feature_extractor(folder)
    assert extractor.features(images[:, :1]).shape == (5, 16)
    with pytest.raises(ValueError, match="`pixel_values` must have 1 channels .* for this network, got 3"):
        extractor.features(images)


@torch.no_grad()
def test_models_without_classification_head(tmp_path, images):
    """A ResNet and a ViT by themselves have features but no labels; tokens are no feature maps."""
    resnet = load_feature_extractor(save(tmp_path / "resnet", random_resnet(ResNetModel)))
    assert resnet.log_probs(images) is None
    assert resnet.features(images).shape == (5, 16) and resnet.spatial_features(images).shape == (5, 112)
    model = ViTModel(ViTConfig(**VIT)).eval()
    vit = load_feature_extractor(save(tmp_path / "vit", model, size={"height": 8, "width": 8}, do_resize=True))
    assert vit.log_probs(images) is None and vit.spatial_features(images) is None
    inputs = process_images(images, ViTImageProcessorPil.from_pretrained(tmp_path / "vit"))
    torch.testing.assert_close(vit.features(images), model(inputs).pooler_output)


@torch.no_grad()
def test_features_without_pooled_output_are_those_of_the_class_token(tmp_path, images):
    model = ViTForImageClassification(ViTConfig(**VIT, num_labels=3)).eval()
    folder = save(tmp_path, model, size={"height": 8, "width": 8})
    extractor = load_feature_extractor(folder)
    inputs = process_images(images, ViTImageProcessorPil.from_pretrained(folder))
    torch.testing.assert_close(extractor.features(images), model.vit(inputs).last_hidden_state[:, 0])
    torch.testing.assert_close(extractor.log_probs(images), model(inputs).logits.log_softmax(1))


def test_latent_zoning_network_is_an_image_model_too(tmp_path):
    torch.manual_seed(0)
    model = LZNModel(
        LZNConfig(
            image_size=8,
            num_channels=1,
            latent_dim=6,
            encoder_base_channels=8,
            encoder_channel_multipliers=(1,),
            encoder_num_res_blocks=1,
            encoder_attention_resolutions=(),
            encoder_tap_channels=2,
            encoder_tap_hidden_dim=8,
            decoder_type=None,
        )
    ).eval()
    model.save_pretrained(tmp_path)
    LZNImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]).save_pretrained(tmp_path)
    extractor, images = load_feature_extractor(tmp_path), torch.rand(3, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(extractor.features(images), model(images).pooler_output)
    assert extractor.spatial_features(images).shape[0] == 3 and extractor.log_probs(images) is None


def test_name_is_what_the_folder_says_about_itself(tmp_path, resnet_folder):
    assert load_feature_extractor(resnet_folder).name == f"ResNetForImageClassification {resnet_folder.name}"
    model = random_resnet(feature_extractor_name="small ResNet classifier, digits, accuracy 0.98")
    assert load_feature_extractor(save(tmp_path, model)).name == "small ResNet classifier, digits, accuracy 0.98"


def test_what_is_no_usable_image_model_is_refused(tmp_path, resnet_folder):
    with pytest.raises(OSError, match="`name_or_path` must be .* but there is none at 'no/such/folder'"):
        load_feature_extractor("no/such/folder")
    bert = BertModel(BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(ValueError, match="must be an image model, but BertModel takes 'input_ids'"):
        load_feature_extractor(save(tmp_path / "bert", bert))
    # Saved without a pooler: AutoModel would make a random one.
    masked = ViTForMaskedImageModeling(ViTConfig(**VIT))
    with pytest.raises(ValueError, match="has no weights for pooler.dense.bias, .* of ViTModel would be random"):
        load_feature_extractor(save(tmp_path / "masked", masked))


def test_pickled_weights_are_never_loaded(tmp_path, resnet_folder):
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((resnet_folder / name).read_text())
    torch.save(AutoModel.from_pretrained(resnet_folder).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="model.safetensors"):
        load_feature_extractor(tmp_path)


# Image processors


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(size={"height": 33, "width": 33}, resample=2),
        ViTImageProcessorPil(size={"height": 12, "width": 12}, resample=3),
        ViTImageProcessorPil(size={"height": 40, "width": 40}, resample=0),
        ViTImageProcessorPil(size={"height": 20, "width": 20}, do_normalize=False),
        CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 24, "width": 24}),
        ConvNextImageProcessorPil(size={"shortest_edge": 28}, crop_pct=0.875),
        ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    ],
    ids=["bilinear", "bicubic, smaller", "nearest", "same size", "CLIP", "ConvNeXt", "ConvNeXt, large"],
)
def test_tensor_operations_do_what_the_processor_does_to_pil_images(images, processor):
    expected = processor(to_pil(images), return_tensors="pt")["pixel_values"]
    found = process_images(images, processor)
    one_grey_level = 1 / 255 / (min(processor.image_std) if processor.do_normalize else 1)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1.5 * one_grey_level
    assert (found - expected).abs().mean() < 0.5 * one_grey_level


def test_images_that_are_not_square_keep_their_ratio():
    wide = torch.linspace(-1, 1, 30).expand(1, 3, 20, 30)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 10}, crop_size={"height": 10, "width": 10})
    expected = processor(to_pil(wide), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(process_images(wide, processor), expected, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (ViTImageProcessorPil(resample=1), "`resample` must be one of"),
        (CLIPImageProcessorPil(size={"shortest_edge": 9, "longest_edge": 12}), "`size` must be height and width"),
        (CLIPImageProcessorPil(size={"shortest_edge": 9}), "crops 224 x 224 pixels out of images of 9 x 9"),
    ],
)
def test_processors_that_do_something_else_are_refused(images, processor, message):
    with pytest.raises(ValueError, match=message):
        process_images(images, processor)


# Inception


def test_inception_says_what_to_install():
    if importlib.util.find_spec("torch_fidelity"):
        pytest.skip("torch-fidelity is installed")
    with pytest.raises(ValueError, match="'inception' needs torch-fidelity and a torchvision .*pip install"):
        load_feature_extractor("inception")


def test_inception_with_random_weights(tmp_path, monkeypatch, images):
    pytest.importorskip("torch_fidelity", reason="needs torch-fidelity, which needs a torchvision that fits torch")
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(inception, "URL_INCEPTION_V3", "file:///nowhere/weights-12345678.pth")
    with pytest.raises(OSError, match=r"Get file:///nowhere/weights-12345678.pth .* put it at .*checkpoints"):
        load_feature_extractor("inception")
    with monkeypatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, weights: None)
        network = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    path = tmp_path / "checkpoints" / "weights-12345678.pth"
    torch.save(network.state_dict(), path)
    extractor = load_feature_extractor("inception")
    features, logits = network(((images + 1) * 127.5).round().to(torch.uint8))
    torch.testing.assert_close(extractor.features(images), features)
    torch.testing.assert_close(extractor.log_probs(images), logits.log_softmax(1))
    assert extractor.spatial_features(images).shape == (5, 2023)
    torch.save({"weights": argparse.Namespace()}, path)  # not a tensor: it would be unpickled without limits
    with pytest.raises(Exception, match="Weights only load failed"):
        load_feature_extractor("inception")
