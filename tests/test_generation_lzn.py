# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A model by itself makes the images that its pipeline makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from helpers.pipelines import make_pipeline, seeded, smooth_pipeline

from lzn_hf.flow_lzn import FLOW_SOLVERS
from lzn_hf.generation_lzn import draw_normal


KINDS = {
    "joint": {},
    "without labels": {"names": []},
    "rectified flow": {"names": [], "encoder_type": None, "num_reference_anchors": 0},
    "flow of labels": {"encoder_type": None, "num_reference_anchors": 0},
}
# What each kind is asked for; all kinds but the flow of labels can do without.
LABELS = {"joint": [None, "seven", 7, ["two", 7]], "without labels": [None], "rectified flow": [None]}
LABELS["flow of labels"] = ["seven", ["two", 7]]


@pytest.mark.parametrize(("kind", "label"), [(kind, label) for kind in KINDS for label in LABELS[kind]])
def test_a_model_generates_what_its_pipeline_does(kind, label):
    pipe = make_pipeline(**KINDS[kind])
    options = {"num_images_per_label": 2, "num_inference_steps": 3, "output_type": "np"}
    images = pipe.model.generate(label, generator=seeded(), **options)
    expected = pipe(label, generator=seeded(), solver="heun", **options).images
    assert images.shape == ((4 if isinstance(label, list) else 2), 8, 8, 1)
    assert np.array_equal(images, expected)
    assert not np.array_equal(images, pipe.model.generate(label, generator=seeded(1), **options))


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
@pytest.mark.parametrize("t_min", [0.0, 1e-3])
def test_all_solvers(solver, t_min):
    pipe = smooth_pipeline()
    options = {"num_inference_steps": 4, "output_type": "pt", "solver": solver, "t_min": t_min, "batch_size": 2}
    images = pipe.model.generate(["one", "two", "three"], generator=seeded(), **options)
    assert torch.equal(images, pipe(["one", "two", "three"], generator=seeded(), **options).images)


def test_images_are_of_the_requested_type_and_a_list_of_generators_makes_each_independent():
    model = make_pipeline().model
    generators = [seeded(seed) for seed in range(3)]
    images = model.generate("six", 3, 3, generators)
    assert [(image.mode, image.size) for image in images] == [("L", (8, 8))] * 3
    alone = model.generate("six", 1, 3, [seeded(2)])[0]
    assert np.abs(np.asarray(alone).astype(int) - np.asarray(images[2])).max() <= 1  # rounding of another batch size
    assert not np.array_equal(images[0], images[1])


def test_dropout_is_off_and_the_mode_restored():
    model = make_pipeline().model
    images = model.generate("six", generator=seeded(), num_inference_steps=2, output_type="pt")
    model.train()
    again = model.generate("six", generator=seeded(), num_inference_steps=2, output_type="pt")
    assert torch.equal(images, again) and not images.requires_grad
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ({}, {"label": "sevn"}, "`label` 'sevn' is unknown. Did you mean 'seven'"),
        ({"names": []}, {"label": "seven"}, "`label` must be None"),
        (KINDS["flow of labels"], {}, "`label` is needed for a model with labels and without image encoder"),
        ({}, {"solver": "unipc"}, "`solver` must be one of 'euler', 'heun', 'rk45', got 'unipc'"),
        ({}, {"num_images_per_label": 0}, "`num_images_per_label` must be a whole number of at least 1"),
        ({}, {"batch_size": 0}, "`batch_size` must be a whole number of at least 1"),
        ({}, {"num_inference_steps": 0}, "`num_inference_steps` must be a whole number of at least 1"),
        ({}, {"t_min": 1}, "`t_min` must be a number of at least 0 and less than 1"),
        ({}, {"output_type": "jpg"}, "`output_type` must be 'pil', 'np' or 'pt', got 'jpg'"),
        ({}, {"generator": 7}, "`generator` must be a torch.Generator"),
        ({}, {"generator": [None, None]}, "`generator` must be a torch.Generator"),
    ],
)
def test_errors_come_before_any_computation(kind, arguments, message):
    model = make_pipeline(**kind).model
    with pytest.raises(ValueError, match=message):
        model.generate(**arguments)


def test_a_model_without_decoder_says_so():
    model = make_pipeline().model
    model.decoder = None
    with pytest.raises(ValueError, match="no image decoder"):
        model.generate("six")


@pytest.mark.parametrize("count", [None, 1, 4])
def test_noise_is_drawn_as_diffusers_draws_it(count):
    def generators():
        return seeded() if count is None else [seeded(seed) for seed in range(count)]

    shape = (count or 3, 2, 5)
    drawn = draw_normal(shape, generators(), torch.device("cpu"))
    assert torch.equal(drawn, randn_tensor(shape, generators(), torch.device("cpu"), torch.float32))


def test_transformers_does_not_take_it_for_a_language_model():
    model = make_pipeline().model
    assert not model.can_generate() and getattr(model, "generation_config", None) is None
