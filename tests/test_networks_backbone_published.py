# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Tests of published folders of transformers as encoders: their image processors and their weights."""

import json
import logging
import os
import pickle

import numpy as np
import pytest
import torch
from helpers.backbones import BACKBONES, MEAN, POOLED, STD, make_encoder
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from lzn_hf.networks_backbone import BackboneEncoder, backbone_arguments, load_backbone_weights


def save_folder(folder, model_type: str, processor: dict | None, **changes) -> nn.Module:
    """A classifier as it is published: its own head, and for ViT no dense layer on the CLS token."""
    fields = {k: v for k, v in BACKBONES[model_type].items() if k != "freeze_batch_norm"}
    size = {"image_size": 16} if model_type != "resnet" else {}
    torch.manual_seed(3)
    model = AutoModelForImageClassification.from_config(AutoConfig.for_model(model_type, **fields, **size, **changes))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model.eval()


NORMALISED = {"image_mean": MEAN, "image_std": STD}


@pytest.mark.parametrize(
    ("model_type", "processor"),
    [
        ("vit", {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}),
        ("vit", {"feature_extractor_type": "ViTFeatureExtractor", "size": 16, **NORMALISED}),
        ("vit", {"image_processor_type": "ViTImageProcessor", "size": 16, "do_normalize": False}),
        ("convnext", {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 16}, "crop_pct": 1}),
        ("resnet", {"image_processor_type": "EfficientNetImageProcessor", "size": 16, "do_center_crop": False}),
        ("dinov2", {"image_processor_type": "BitImageProcessor", "size": 16, "crop_size": 16, **NORMALISED}),
    ],
)
def test_published_model_gives_the_features_that_it_gives_behind_its_own_image_processor(
    model_type, processor, tmp_path
):
    published = save_folder(tmp_path, model_type, processor)
    arguments = backbone_arguments(str(tmp_path))
    assert json.loads(json.dumps(arguments)) == arguments
    encoder = BackboneEncoder(backbone=arguments, image_size=16, in_channels=3, latent_dim=64, head_layers=2)
    head = {name: value.clone() for name, value in encoder.head.state_dict().items()}
    assert load_backbone_weights(encoder, str(tmp_path)) is True
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    prepared = AutoImageProcessor.from_pretrained(tmp_path)([Image.fromarray(x) for x in pixels], return_tensors="pt")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        output = published.base_model(**prepared)
        expected = POOLED.get(model_type, lambda output: output.pooler_output.flatten(1))(output)
        for module in (encoder.train(), encoder.eval()):
            torch.testing.assert_close(module(images)[0], expected, atol=1e-3, rtol=1e-3)
    assert all(torch.equal(value, head[name]) for name, value in encoder.head.state_dict().items())
    common = {"architectures", "id2label", "label2id", "dtype", "transformers_version", "_name_or_path"}
    saved, rebuilt = published.config.to_dict(), encoder.backbone.config.to_dict()
    assert {k: v for k, v in saved.items() if k not in common} == {k: v for k, v in rebuilt.items() if k not in common}


def test_processors_that_crop_or_need_torchvision_give_size_and_normalisation(tmp_path):
    cropped = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 32}, "crop_size": 24}
    foreign = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 20, "width": 24}}
    save_folder(tmp_path, "dinov2", cropped | NORMALISED)
    for processor, size in ((cropped, [24, 24]), (foreign, [20, 24])):
        common = {
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "rescale_factor": 1 / 255,
            "resample": 2,
        }
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(common | processor | NORMALISED))
        arguments = backbone_arguments(str(tmp_path))
        assert arguments["input_size"] == size
        np.testing.assert_allclose(arguments["image_mean"], MEAN, atol=1e-5)
        np.testing.assert_allclose(arguments["image_std"], STD, atol=1e-5)
        assert (arguments["image_size"], arguments["num_channels"]) == (
            16,
            3,
        )  # stated, though the latter is a default
    flipped = {"image_processor_type": "MobileViTImageProcessor", "size": 16, "crop_size": 16}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(flipped | {"do_flip_channel_order": True}))
    with pytest.raises(ValueError, match="MobileViTImageProcessor.*does not only scale and shift"):
        backbone_arguments(str(tmp_path))


def test_folder_with_a_configuration_only_means_random_weights(tmp_path, caplog):
    for model_type in ("resnet", "vit"):
        fields = {k: v for k, v in BACKBONES[model_type].items() if k != "freeze_batch_norm"}
        AutoConfig.for_model(model_type, **fields).save_pretrained(tmp_path)
        with caplog.at_level(logging.WARNING, logger="lzn_hf.networks_backbone"):
            arguments = backbone_arguments(str(tmp_path))
            encoder = BackboneEncoder(backbone=arguments, image_size=32, in_channels=1, latent_dim=64, head_layers=2)
            before = {name: value.clone() for name, value in encoder.state_dict().items()}
            assert load_backbone_weights(encoder, str(tmp_path)) is False
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
        assert "has no image processor" in caplog.text and "has no weights" in caplog.text
        caplog.clear()
        assert arguments.get("freeze_batch_norm") is (False if model_type == "resnet" else None)
        assert arguments.get("input_size") == (None if model_type == "resnet" else [224, 224])
        assert "image_mean" not in arguments


def test_weights_are_read_from_shards_and_from_pytorch_files(tmp_path):
    published = save_folder(tmp_path, "vit", None)
    encoder = make_encoder("vit")
    published.save_pretrained(tmp_path, max_shard_size="50KB")
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert load_backbone_weights(encoder, str(tmp_path))
    torch.testing.assert_close(encoder.backbone.state_dict(), published.vit.state_dict())
    for file in [*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.index.json")]:
        file.unlink()
    torch.save(published.state_dict(), tmp_path / "pytorch_model.bin")
    encoder = make_encoder("vit")
    assert load_backbone_weights(encoder, str(tmp_path))
    torch.testing.assert_close(encoder.backbone.state_dict(), published.vit.state_dict())


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("what", ["other_type", "other_width", "missing", "damaged", "pickle", "torch_pickle"])
def test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(what, tmp_path):
    save_folder(tmp_path, "dinov2", None)
    encoder = make_encoder("vit" if what == "other_type" else "dinov2")
    message = "do not fit `backbone`"
    if what == "other_type":
        message = "is a 'dinov2', but `backbone` a 'vit'"
    elif what == "other_width":
        encoder, message = make_encoder("dinov2", mlp_ratio=4), "of another shape .*mlp"
    elif what == "missing":
        weights = load_file(tmp_path / "model.safetensors")
        weights = {name: value for name, value in weights.items() if "layernorm" not in name}
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        message = r"missing \['layernorm.bias', 'layernorm.weight'\]"
    else:
        message = "are damaged, or hold more than weights"
        (tmp_path / "model.safetensors").write_bytes(b"no weights")
        if what != "damaged":
            (tmp_path / "model.safetensors").unlink()
            bomb, file = {"x": Bomb(tmp_path / "went_off")}, tmp_path / "pytorch_model.bin"
            torch.save(bomb, file) if what == "torch_pickle" else file.write_bytes(pickle.dumps(bomb, protocol=2))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_backbone_weights(encoder, str(tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert not (tmp_path / "went_off").exists()


def test_mask_token_may_be_missing_in_the_weights(tmp_path):
    save_folder(tmp_path, "dinov2", None)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "mask_token" not in name}
    assert len(kept) == len(weights) - 1
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load_backbone_weights(make_encoder("dinov2"), str(tmp_path))


def test_folders_that_are_none_are_named(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        backbone_arguments(str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match="nowhere"):
        load_backbone_weights(make_encoder("vit"), str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="model_type"):
        backbone_arguments(str(tmp_path))
