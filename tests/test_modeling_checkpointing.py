# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Gradient checkpointing as transformers switches it, and what else it asks of models."""

from __future__ import annotations

import pytest
import torch
from helpers.models import TINY_RESNET, draws, perturbed, tiny_config
from transformers.modeling_layers import GradientCheckpointingLayer

from lzn_hf import LZNForImageClassification, LZNModel


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("encoder", [{}, {**TINY_RESNET, "encoder_small_images": True}], ids=["ncsnpp", "resnet"])
def test_both_kinds_of_checkpoints_give_the_same_gradients(encoder, use_reentrant):
    model = perturbed(LZNModel(tiny_config(**encoder))).train()
    images, labels = torch.rand(4, 1, 8, 8) * 2 - 1, torch.tensor([0, 1, 2, 0])
    given, runs = draws(images, model.config.latent_dim), []
    for block in model.modules():
        if isinstance(block, GradientCheckpointingLayer):
            block.conv1.register_forward_hook(lambda *_: runs.append(1))

    def gradients() -> tuple[int, dict[str, torch.Tensor]]:
        runs.clear()
        model.zero_grad()
        torch.manual_seed(0)  # dropout
        model(images, labels, **given).loss.backward()
        return len(runs), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    num_blocks, expected = gradients()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": use_reentrant})
    num_runs, actual = gradients()
    assert num_runs == 2 * num_blocks
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, msg=name)


@pytest.mark.parametrize("model_class", [LZNModel, LZNForImageClassification])
def test_only_fourier_features_are_kept_in_float32(model_class, tmp_path):
    for options, kept in (
        ({"decoder_time_embedding": "fourier"}, {"time_embedding"}),
        ({}, set()),
        ({"decoder_type": None}, set()),
    ):
        model = model_class(tiny_config(**options))
        assert model._keep_in_fp32_modules_strict == kept
        model.save_pretrained(tmp_path)
        half = model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
        wide = {name for name, value in half.state_dict().items() if value.dtype == torch.float32}
        assert {name.split(".")[-2] for name in wide} == kept


def test_a_classifier_returns_feature_maps_if_its_configuration_says_so():
    model = LZNForImageClassification(tiny_config(output_hidden_states=True, num_reference_anchors=4)).eval()
    model.set_reference_anchors(torch.randn(4, 6))
    images = torch.rand(2, 1, 8, 8)
    shapes = [tuple(hidden.shape) for hidden in model(images).hidden_states]
    assert shapes[0] == (2, 8, 8, 8) and shapes[-1] == (2, 16, 4, 4)
    assert model(images, output_hidden_states=False).hidden_states is None
