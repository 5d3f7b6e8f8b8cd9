# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Tests of image models of transformers as encoders, alone and inside LZNModel."""

import json
import logging
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from lzn_hf import LZNConfig, LZNModel
from lzn_hf.networks_backbone import BackboneEncoder, backbone_arguments, load_backbone_weights


TRANSFORMER = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
VIT = TRANSFORMER | {"intermediate_size": 64}
HIERARCHY = {"embed_dim": 32, "depths": [1, 1]}
BACKBONES = {
    "resnet": {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1], "freeze_batch_norm": False},
    "convnext": {"hidden_sizes": [32, 64], "depths": [1, 1], "num_stages": 2},
    "vit": VIT,
    "dinov2": TRANSFORMER | {"mlp_ratio": 2},
    "swin": HIERARCHY | {"num_heads": [1, 2], "window_size": 4, "patch_size": 2},
    "mobilenet_v2": {"depth_multiplier": 0.125, "min_depth": 8, "freeze_batch_norm": False},
    "efficientnet": {
        "width_coefficient": 0.25,
        "depth_coefficient": 0.1,
        "hidden_dim": 320,
        "drop_connect_rate": 0.0,
        "freeze_batch_norm": False,
    },
    "beit": VIT | {"use_mask_token": True, "use_relative_position_bias": True},
    "hiera": {"embed_dim": 32, "num_heads": [1, 2, 4, 8], "depths": [1, 1, 1, 1]},
    "ijepa": VIT,
    "poolformer": {"hidden_sizes": [32, 32, 32, 64], "depths": [1, 1, 1, 1]},
}
FAMILIES = ["resnet", "convnext", "vit", "dinov2", "swin"]
IMAGE_SIZES = {"efficientnet": 64, "hiera": 64, "mobilenet_v2": 32, "poolformer": 32}
# What a model is asked for, by its documentation in transformers; all others: the pooled output.
POOLED = {
    "vit": lambda output: output.last_hidden_state[:, 0],
    "ijepa": lambda output: output.last_hidden_state.mean(1),
    "poolformer": lambda output: output.last_hidden_state.mean((2, 3)),
}
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]


def backbone_of(model_type: str, **changes) -> dict:
    return {"model_type": model_type, **BACKBONES[model_type], **changes}


def make_encoder(model_type: str, *, image_size: int | None = None, **changes) -> BackboneEncoder:
    torch.manual_seed(0)
    return BackboneEncoder(
        backbone=backbone_of(model_type, **changes),
        image_size=image_size or IMAGE_SIZES.get(model_type, 16),
        in_channels=3,
        latent_dim=64,
        head_layers=2,
    )


def random_images(size: int = 16, channels: int = 3, batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


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
        features, anchors = encoder(images)
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
def test_weights_missing_in_a_file_are_initialised_as_by_the_library(model_type, tmp_path):
    model = make_model(model_type)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("encoder.backbone.")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = LZNModel.from_pretrained(tmp_path)
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
