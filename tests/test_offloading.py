# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Hooks that move weights where they are needed run around `forward`: all work must go through it."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from diffusers.hooks import apply_layerwise_casting
from helpers.models import TINY_RESNET, perturbed, tiny_config

from lzn_hf import LZNForImageClassification, LZNModel, LZNPipeline


CPU = torch.device("cpu")
ON_DISK = {"": "disk"}
# Every part elsewhere; the names are those in an LZNModel.
MIXED = {"encoder": "cpu", "decoder": "disk", "label_anchors": "disk", "reference_anchors": "cpu"}


@pytest.fixture(scope="module")
def images():
    return 2 * torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    model = perturbed(LZNModel(tiny_config())).eval()
    model.set_reference_anchors(torch.randn(12, 6))
    path = tmp_path_factory.mktemp("model")
    LZNPipeline.from_model(model).save_pretrained(path)
    return path


@torch.no_grad()
def results(model: LZNModel, classifier: LZNForImageClassification, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What users ask of a model, by every method that reads weights."""
    noise = torch.zeros(len(images), 6)
    pipe = LZNPipeline.from_model(model)
    pipe.set_progress_bar_config(disable=True)
    generated = pipe(label=[0, 1], num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="pt")
    return {
        "embeddings": model(images).embeddings,
        "latents": model.get_image_latents(images, noise=noise),
        "label latents": model.get_label_latents(torch.arange(3), noise=noise[:3]),
        "velocity": model.predict_velocity(images, 0.5, noise),
        "loss": model(
            images, torch.tensor([0, 1, 2, 0]), noise=noise, sample_noise=images, timesteps=noise[:, 0]
        ).loss,
        "log-probabilities": model.classify_images(images),
        "logits": classifier(images).logits,
        "images": generated.images,
        "scores": torch.tensor([row[0]["score"] for row in pipe.classify({"pixel_values": images})]),
    }


@pytest.fixture(scope="module")
def expected(folder, images):
    return results(*(cls.from_pretrained(folder) for cls in (LZNModel, LZNForImageClassification)), images)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_weights_are_there_when_needed(folder, images, expected, where, tmp_path):
    models = []
    for cls in (LZNModel, LZNForImageClassification):
        model = cls.from_pretrained(folder)
        if where == "cpu":
            cpu_offload(model, execution_device=CPU, offload_buffers=True)
        else:
            disk_offload(model, tmp_path / cls.__name__, execution_device=CPU, offload_buffers=True)
        assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
        models.append(model)
    assert_same(results(*models, images), expected)


@pytest.mark.parametrize("options", [{"device_map": MIXED}, {"device_map": "auto", "max_memory": {"cpu": 100_000}}])
def test_a_device_map_with_a_disk(folder, images, expected, options, tmp_path):
    model = LZNModel.from_pretrained(folder, offload_folder=tmp_path / "model", **options)
    if isinstance(options["device_map"], dict):
        options = {"device_map": {f"lzn.{name}": where for name, where in MIXED.items()}}
    classifier = LZNForImageClassification.from_pretrained(folder, offload_folder=tmp_path / "classifier", **options)
    for loaded in (model, classifier):
        assert {"cpu", "disk"} == set(loaded.hf_device_map.values())
        assert any(parameter.is_meta for parameter in loaded.parameters())
    assert_same(results(model, classifier, images), expected)


def test_blocks_are_not_split(folder, tmp_path):
    options = {"device_map": "auto", "max_memory": {"cpu": 100_000}, "offload_folder": tmp_path}
    for name in LZNModel.from_pretrained(folder, **options).hf_device_map:
        assert not any(part in name for part in (".conv1", ".conv2", ".norm1", ".norm2", ".shortcut")), name


def replicate(module: torch.nn.Module) -> torch.nn.Module:
    """A replica as `nn.DataParallel` makes it on each device: parameters are plain tensors, `parameters()` yields none."""
    replica = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        replica._modules[name] = None if child is None else replicate(child)
    for name, parameter in module._parameters.items():
        if parameter is None:
            replica._parameters[name] = None
        else:
            setattr(replica, name, parameter * 1)
    for name, buffer in module._buffers.items():
        replica._buffers[name] = buffer
    return replica


@pytest.mark.parametrize("changes", [{}, TINY_RESNET])
def test_replicas_of_data_parallel_compute_the_same(images, changes):
    torch.manual_seed(0)
    model = perturbed(LZNForImageClassification(tiny_config(**changes, encoder_dropout=0.0, decoder_dropout=0.0)))
    labels = torch.tensor([0, 1, 2, 0])

    def step(model: torch.nn.Module, base: LZNModel) -> list[torch.Tensor]:
        torch.manual_seed(1)
        output = model.train()(images, labels)
        joint = base.train()(images, labels)
        return [output.loss, output.logits, joint.loss, model.eval()(images).logits]

    replica = replicate(copy.deepcopy(model))
    assert not list(replica.parameters())
    for found, value in zip(step(replica, replica.lzn), step(model, model.lzn), strict=True):
        torch.testing.assert_close(found, value)


def test_layerwise_casting(folder, images):
    """Weights lie in bfloat16 and are used in float32: images are those of weights that were rounded once."""
    model, rounded = LZNModel.from_pretrained(folder), LZNModel.from_pretrained(folder)
    apply_layerwise_casting(model, torch.bfloat16, torch.float32, skip_modules_pattern=["norm"])
    assert model.encoder.conv_in.weight.dtype == torch.bfloat16
    for module in rounded.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.to(torch.bfloat16).float()
    with torch.no_grad():
        noise = torch.zeros(4, 6)
        torch.testing.assert_close(model(images).anchors, rounded(images).anchors)
        torch.testing.assert_close(
            model.predict_velocity(images, 0.5, noise), rounded.predict_velocity(images, 0.5, noise)
        )
