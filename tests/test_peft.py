# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Adapters of the real PEFT on all kinds of layers: they train, are saved, loaded and merged."""

from __future__ import annotations

import pytest
import torch
from helpers.models import TINY_RESNET, perturbed
from helpers.pipelines import generate, make_pipeline
from torch import nn

from lzn_hf import LZNConfig, LZNModel, LZNPipeline


peft = pytest.importorskip("peft", reason="peft is not installed: it comes with the extra `test`")

# The layers of docs/fine_tuning_peft.md. A tap is also called `conv_in`.
NCSNPP = r"(encoder|decoder)\.conv_in|.*\.(conv1|conv2|conv_out|shortcut|embedding_proj|qkv|out|project|linear\d)"
RESNET = r".*\.(stem_conv|conv\d|shortcut_conv|linear\d)"
RESNET_SIZES = {**TINY_RESNET, "encoder_small_images": True, "decoder_type": None}


def make_model(kind: str) -> LZNModel:
    """The same model at each call: NCSN++ encoder and decoder, or a ResNet without decoder."""
    if kind == "ncsnpp":
        return make_pipeline().model
    torch.manual_seed(0)
    config = LZNConfig(image_size=8, num_channels=1, id2label=dict(enumerate("0123456789")), **RESNET_SIZES)
    return perturbed(LZNModel(config)).eval()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(6, 1, 8, 8) * 2 - 1, torch.arange(6)


def outputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the encoder and the decoder, if any, make of images, in one row."""
    model.eval()
    with torch.no_grad():
        parts = [model.get_image_anchors(images)]
        if model.decoder is not None:
            parts.append(model.predict_velocity(images, 0.5, torch.ones(len(images), 6)))
    return torch.cat([part.flatten() for part in parts])


def train(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], steps: int = 2) -> None:
    """A few steps of joint training, each of which must reach every weight that is trained."""
    model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(*batch).loss.backward()
        assert all(weight.grad is not None for weight in trained)
        optimizer.step()


def base_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights under an adapter by the names that they have without one."""
    found = {name.replace(".base_layer.", "."): weight for name, weight in model.state_dict().items()}
    return {name: weight for name, weight in found.items() if ".lora_" not in name}


@pytest.mark.parametrize(("kind", "targets"), [("ncsnpp", NCSNPP), ("resnet", RESNET)])
def test_lora_on_every_convolution_and_linear_layer(kind, targets, batch, tmp_path):
    plain = make_model(kind)
    before = outputs(plain, batch[0])
    wanted = {name for name, module in plain.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    wrapped = make_model(kind)
    model = peft.get_peft_model(wrapped, peft.LoraConfig(r=2, target_modules=targets))
    adapted = {name for name, module in wrapped.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)}
    assert adapted == wanted
    torch.testing.assert_close(outputs(model, batch[0]), before)  # a new adapter adds 0

    train(model, batch)
    tuned = outputs(model, batch[0])
    assert (tuned - before).abs().max() > 1e-3
    assert all(torch.equal(weight, plain.state_dict()[name]) for name, weight in base_weights(wrapped).items())
    assert all("lora_" in name for name, weight in model.named_parameters() if weight.requires_grad)

    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(make_model(kind), tmp_path)
    torch.testing.assert_close(outputs(loaded, batch[0]), tuned, rtol=0, atol=1e-5)
    merged = loaded.merge_and_unload()
    assert type(merged) is LZNModel and merged.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(outputs(merged, batch[0]), tuned, rtol=1e-4, atol=1e-4)


def test_adapters_of_transformers(batch, tmp_path):
    """`add_adapter` and `load_adapter` write and read the files of PEFT, and leave the new weights alone."""
    model = make_model("ncsnpp")
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["conv1", "qkv", "linear0"]))
    train(model, batch)
    tuned = outputs(model, batch[0])
    model.save_pretrained(tmp_path)
    native = make_model("ncsnpp")
    native.load_adapter(str(tmp_path))
    torch.testing.assert_close(outputs(native, batch[0]), tuned, rtol=0, atol=1e-5)
    loaded = peft.PeftModel.from_pretrained(make_model("ncsnpp"), tmp_path)
    torch.testing.assert_close(outputs(loaded, batch[0]), tuned, rtol=0, atol=1e-5)
    native.disable_adapters()
    torch.testing.assert_close(outputs(native, batch[0]), outputs(make_model("ncsnpp"), batch[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("modules", [["conv_out", "norm_out"], ["condition_embedding"], ["project"], ["decoder"]])
def test_modules_to_save(modules, batch, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=r"encoder\..*\.conv1", modules_to_save=modules)
    model = peft.get_peft_model(make_model("ncsnpp"), config)
    train(model, batch)
    tuned = outputs(model, batch[0])
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(make_model("ncsnpp"), tmp_path)
    torch.testing.assert_close(outputs(loaded, batch[0]), tuned, rtol=0, atol=1e-5)
    merged, plain = loaded.merge_and_unload(), make_model("ncsnpp").state_dict()
    torch.testing.assert_close(outputs(merged, batch[0]), tuned, rtol=1e-4, atol=1e-4)
    changed = {name for name, weight in merged.state_dict().items() if not torch.equal(weight, plain[name])}
    assert all(any(module in name for module in modules) for name in changed if not name.startswith("encoder."))
    assert all(any(module in name for name in changed) for module in modules)


def test_label_anchors_are_frozen(batch):
    """As the page says: they are a parameter of the model and of no module."""
    model = peft.get_peft_model(make_model("ncsnpp"), peft.LoraConfig(r=2, target_modules=["conv1"]))
    before = model.label_anchors().clone()
    train(model, batch)
    assert not model.label_anchors.weight.requires_grad and torch.equal(model.label_anchors(), before)


def test_pipelines_with_adapters(tmp_path):
    """They generate; their folder holds merged weights or nothing."""
    pipe = make_pipeline()
    plain = generate(pipe, "one")
    config = peft.LoraConfig(r=2, target_modules=["conv1", "out"], init_lora_weights=False)  # not 0 at first
    adapted = LZNPipeline(**{**pipe.components, "model": peft.get_peft_model(pipe.model, config)})
    adapted.set_progress_bar_config(disable=True)
    expected = generate(adapted, "one")
    assert (expected - plain).abs().max() > 1e-3
    native = make_pipeline()
    native.model.add_adapter(config)
    for refused in (adapted, native):
        for save in (refused.save_pretrained, refused.push_to_hub):
            with pytest.raises(ValueError, match="`model` must have no adapters, got default: merge them by"):
                save(tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()

    merged = LZNPipeline(**{**pipe.components, "model": adapted.model.merge_and_unload()})
    merged.save_pretrained(tmp_path / "merged")
    loaded = LZNPipeline.from_pretrained(tmp_path / "merged")
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(generate(loaded, "one"), expected, rtol=0, atol=1e-4)
