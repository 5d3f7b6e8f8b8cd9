# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A model keeps its values, and the batch its open size, in torch.export and torch.compile. For ONNX see test_latent_export.py and
utils/test_export_onnx.py."""

from __future__ import annotations

import shutil

import pytest
import torch
from helpers.models import perturbed, tiny_config
from torch import nn

from lzn_hf import LZNForImageClassification, LZNModel


FEW_STEPS = {"latent_num_steps": 3, "alignment_num_steps": 3, "prediction_time": 0.6}
PUBLISHED = {"latent_solver": "dpmsolver++", "alignment_solver": "euler"}
METHODS = ["get_image_features", "classify_images", "predict_velocity"]


def make_model(cls=LZNModel, **changes):
    """A tiny model that still has room for four reference anchors."""
    torch.manual_seed(0)
    model = perturbed(cls(tiny_config(**FEW_STEPS, **changes))).eval()
    anchors = torch.randn(12, 6)
    anchors[8:] = 0
    model.set_reference_anchors(anchors)
    return model


def make_inputs(method: str, batch: int) -> tuple[torch.Tensor, ...]:
    images = torch.rand(batch, 1, 8, 8) * 2 - 1
    step = (images, torch.rand(batch), torch.randn(batch, 6))
    return step if method == "predict_velocity" else (images,)


class Method(nn.Module):
    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *inputs):
        return getattr(self.model, self.name)(*inputs)


def open_batch(*inputs):
    batch = torch.export.Dim("batch", min=1)
    return tuple({0: batch} for _ in inputs)


# ---------------------------------------------------------------- torch.export


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("changes", [{"num_prediction_draws": 2}, PUBLISHED], ids=["default", "published"])
def test_exported_programs_equal_the_model(method, changes):
    model = make_model(**changes)
    inputs = make_inputs(method, 3)
    with torch.no_grad():
        program = torch.export.export(Method(model, method), inputs, dynamic_shapes=(open_batch(*inputs),)).module()
        for batch in (1, 2, 5):
            inputs = make_inputs(method, batch)
            torch.testing.assert_close(program(*inputs), getattr(model, method)(*inputs), rtol=1e-6, atol=1e-6)


def test_the_classifier_of_transformers_is_exported_as_it_is():
    model = make_model(LZNForImageClassification, **PUBLISHED)
    images = make_inputs("classify_images", 3)
    program = torch.export.export(model, images, dynamic_shapes={"pixel_values": open_batch(images)[0]}).module()
    (images,) = make_inputs("classify_images", 4)
    torch.testing.assert_close(program(images).logits, model(images).logits, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- torch.compile


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("get_image_features", {}),
        ("classify_images", PUBLISHED),
        ("predict_velocity", {"num_labels": 0, "decoder_channel_multipliers": [1]}),
        pytest.param("classify_images", {"num_prediction_draws": 2}, marks=pytest.mark.slow),
        pytest.param("predict_velocity", {}, marks=pytest.mark.slow),
    ],
)
def test_inductor_compiles_one_graph_for_every_batch(method, changes):
    if shutil.which("c++") is None and shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("inductor needs a C++ compiler, and there is none")
    model = make_model(**changes)
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(getattr(model, method), fullgraph=True, dynamic=True)
        inputs = make_inputs(method, 3)
        torch.testing.assert_close(compiled(*inputs), getattr(model, method)(*inputs), rtol=1e-5, atol=1e-5)
        with torch.compiler.set_stance("fail_on_recompile"):
            for batch in (2, 5):
                inputs = make_inputs(method, batch)
                torch.testing.assert_close(compiled(*inputs), getattr(model, method)(*inputs), rtol=1e-5, atol=1e-5)
    torch.compiler.reset()
