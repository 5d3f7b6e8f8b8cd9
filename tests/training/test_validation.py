# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Reference anchors for a while, and the accuracy of a model with them."""

from __future__ import annotations

import torch
from helpers.training import accelerator_fixture, tiny_model, toy_images  # noqa: F401 (a fixture)

from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.training.validation import encode_anchors, measure_accuracy, reference_anchors


def test_accuracy_is_that_of_each_image_by_itself(accelerator):
    model, data = tiny_model(), toy_images(23)
    for parameter in model.parameters():  # dropout is behind fresh layers that are almost zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    anchors = encode_anchors(model, image_batches(data, 5, limit=8))
    assert anchors.shape == (8, 6) and model.training and not anchors.requires_grad
    assert torch.equal(anchors, encode_anchors(model, image_batches(data, 5, limit=8)))  # no dropout
    with reference_anchors(model, anchors):
        accuracy = measure_accuracy(accelerator, model, image_batches(data, 7), model.classify_images)
        model.eval()
        correct = 0
        for i in range(len(data)):
            item = data[i]
            with torch.no_grad():
                log_probs = model.classify_images(to_pixel_values(item["pixel_values"][None]))
            correct += int(log_probs.argmax() == item["labels"])
    assert accuracy == correct / 23
    assert model.reference_anchors is None and model.config.num_reference_anchors == 0
