# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Property: whatever comes in as pixel values or as another argument, the result is finite, or a `ValueError` names the argument."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.hostile import FAST, outcome
from helpers.models import tiny_config
from helpers.pipelines import make_pipeline
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lzn_hf import LZNForImageClassification, LZNModel, LZNPipeline
from lzn_hf.checks_lzn import MAX_PIXEL_VALUE


@pytest.fixture(scope="module")
def pipe() -> LZNPipeline:
    return make_pipeline()


PIXELS = torch.zeros(1, 1, 8, 8)
BAD_PIXEL_VALUES = {
    "None": None,
    "list": [[[[0.0]]]],
    "array": np.zeros((1, 1, 8, 8)),
    "text": "a",
    "number": 5,
    "dict": {},
    "uint8": PIXELS.byte(),
    "int64": PIXELS.long(),
    "bool": PIXELS.bool(),
    "complex": PIXELS + 0j,
    "float8": PIXELS.to(torch.float8_e4m3fn),
    "0..255": PIXELS + 200,
    "-255": PIXELS - 255,
    "1e30": PIXELS + 1e30,
    "NaN": PIXELS + torch.nan,
    "infinite": PIXELS - torch.inf,
    "3-D": PIXELS[0],
    "5-D": PIXELS[None],
    "no image": PIXELS[:0],
    "no rows": PIXELS[:, :, :0],
    "3 channels": PIXELS.expand(1, 3, 8, 8),
    "9 x 9": torch.zeros(1, 1, 9, 9),
    "meta": PIXELS.to("meta"),
    "sparse": PIXELS.to_sparse(),
    "nested": torch.nested.nested_tensor([torch.zeros(1, 8, 8)], layout=torch.jagged),
}


@pytest.mark.parametrize("name", BAD_PIXEL_VALUES)
def test_bad_pixel_values(pipe, name):
    bad, model = BAD_PIXEL_VALUES[name], pipe.model
    noise_only = LZNModel(tiny_config(encoder_type=None, num_labels=0)).eval()
    classifier = LZNForImageClassification(pipe.model.config).eval()
    classifier.lzn.load_state_dict(pipe.model.state_dict())
    labels = torch.zeros(1, dtype=torch.int64)
    for call in (
        model,
        lambda x: model(x, labels),
        lambda x: model(x, return_loss=True),
        lambda x: noise_only(x, return_loss=True),
        noise_only,
        classifier,
        lambda x: classifier(x, labels),
        model.get_image_features,
        model.get_image_anchors,
        model.get_image_latents,
        model.classify_images,
    ):
        assert outcome(lambda: call(bad), "`pixel_values` must ") == "refused"
    assert outcome(lambda: pipe.embed({"pixel_values": bad}), "`pixel_values` must ") == "refused"
    if bad is not None:
        assert outcome(lambda: model(PIXELS, second_views=bad), "`") == "refused"
    for missing in ({}, {"x": PIXELS}):
        assert outcome(lambda: pipe.reconstruct(missing), "`images` must be images, or {'pixel_values'") == "refused"


def test_training_looks_at_types_and_shapes_but_not_at_values(pipe):
    """Looking at values would make every step wait for the device."""
    model = LZNModel(tiny_config()).train()
    model(torch.full((2, 1, 8, 8), 200.0), torch.tensor([0, 1]))
    for bad in (torch.zeros(2, 1, 8, 8).byte(), torch.zeros(2, 3, 8, 8), None):
        with pytest.raises(ValueError, match="`pixel_values` must have shape"):
            model(bad, torch.tensor([0, 1]))


def test_room_around_minus_one_to_one(pipe):
    """Samples that are not clipped, random views, and the statistics of ImageNet."""
    for value in (1.01, 2.64, 6.0, MAX_PIXEL_VALUE):
        assert pipe.model.get_image_features(PIXELS + value).isfinite().all()
    with pytest.raises(ValueError, match=r"must be in \[-1, 1\], got values from 0 to 255.*images / 127.5 - 1"):
        pipe.model.get_image_features(torch.linspace(0, 255, 64).view(1, 1, 8, 8))


def test_images_in_0_to_1_are_warned_of(pipe):
    unit = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    with pytest.warns(UserWarning, match=r"look like images in \[0, 1\].*`2 \* images - 1`"):
        pipe.model.get_image_features(unit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.model.get_image_features(2 * unit - 1)
        pipe.model.get_image_features(PIXELS)
        # What comes through the processor never has a 0, even where an image is bright.
        for low in (0, 127, 128):
            image = np.linspace(low, 255, 64).astype(np.uint8).reshape(8, 8)
            pipe.embed(image)


# Other arguments.

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 3),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([{}, b"a", np.zeros(2), np.int64(1), np.float64(0.5), torch.tensor(1), object()]),
    st.lists(st.integers(0, 6), max_size=4).flatmap(
        lambda shape: st.sampled_from(
            [torch.zeros(shape), torch.zeros(shape).long(), torch.full(shape, torch.nan), torch.zeros(shape) + 0j]
        )
    ),
)


def calls(pipe: LZNPipeline, image: np.ndarray) -> dict[str, Callable[[Any], Any]]:
    model, flow = pipe.model, {"num_inference_steps": 1, "output_type": "pt"}
    pixels, labels, latents = PIXELS.repeat(2, 1, 1, 1), torch.tensor([0, 1]), torch.zeros(2, 6)
    scores: Callable[[Any], Tensor] = lambda rows: torch.tensor([row[0]["score"] for row in rows])  # noqa: E731
    return {
        "classify.top_k": lambda x: scores(pipe.classify(image, top_k=x)),
        "classify.batch_size": lambda x: scores(pipe.classify(image, batch_size=x)),
        "embed.kind": lambda x: pipe.embed(image, kind=x),
        "reconstruct.num_inference_steps": lambda x: (
            pipe.reconstruct(image, **flow | {"num_inference_steps": x}).images
        ),
        "reconstruct.t_min": lambda x: pipe.reconstruct(image, t_min=x, **flow).images,
        "reconstruct.solver": lambda x: pipe.reconstruct(image, solver=x, **flow).images,
        "reconstruct.generator": lambda x: pipe.reconstruct(image, generator=x, **flow).images,
        "vary.strength": lambda x: pipe.vary(image, x, **flow).images,
        "vary.keep": lambda x: pipe.vary(image, 0.5, keep=x, **flow).images,
        "vary.num_images_per_image": lambda x: pipe.vary(image, 0.5, num_images_per_image=x, **flow).images,
        "interpolate.num_steps": lambda x: pipe.interpolate(image, image, num_steps=x, **flow).images,
        "call.label": lambda x: pipe(x, **flow).images,
        "call.latents": lambda x: pipe(latents=x, **flow).images,
        "call.sample_noise": lambda x: pipe(sample_noise=x, **flow).images,
        "call.num_images_per_label": lambda x: pipe(num_images_per_label=x, **flow).images,
        "call.solver": lambda x: pipe(solver=x, **flow).images,
        "call.output_type": lambda x: torch.as_tensor(
            np.array(pipe(num_inference_steps=1, output_type=x).images)
        ).float(),
        "call.guidance_scale": lambda x: pipe(guidance_scale=x, **flow).images,
        "forward.labels": lambda x: model(pixels, x, return_loss=True).loss,
        "forward.noise": lambda x: model(pixels, labels, noise=x).loss,
        "forward.sample_noise": lambda x: model(pixels, labels, sample_noise=x).loss,
        "forward.timesteps": lambda x: model(pixels, labels, timesteps=x).loss,
        "forward.generator": lambda x: model(pixels, labels, generator=x).loss,
        "get_image_latents.noise": lambda x: model.get_image_latents(pixels, noise=x),
        "get_image_latents.pool": lambda x: model.get_image_latents(pixels, pool=x),
        "get_label_latents.labels": model.get_label_latents,
        "get_label_latents.noise": lambda x: model.get_label_latents(labels, noise=x),
        "classify_latents.latents": model.classify_latents,
        "predict_velocity.sample": lambda x: model.predict_velocity(x, 0.5, latents, labels),
        "predict_velocity.t": lambda x: model.predict_velocity(pixels, x, latents, labels),
        "predict_velocity.latents": lambda x: model.predict_velocity(pixels, 0.5, x, labels),
        "predict_velocity.labels": lambda x: model.predict_velocity(pixels, 0.5, latents, x),
        "set_reference_anchors.anchors": lambda x: (LZNModel(tiny_config()).set_reference_anchors(x), torch.zeros(1))[
            1
        ],
        "postprocess.pixel_values": lambda x: pipe.image_processor.postprocess(x, "pt"),
    }


IMAGE = np.zeros((8, 8), np.uint8)
CALLS = list(calls(make_pipeline(), IMAGE))
# These two are functions of mathematics that run at every step: they do not look at values, on which a device would have to wait.
NOT_LOOKED_AT = ("predict_velocity.t", "predict_velocity.latents", "predict_velocity.sample")


@settings(FAST, max_examples=400)
@given(st.sampled_from(CALLS), ODD)
@example("forward.labels", [0, 1])
@example("forward.timesteps", torch.zeros(2, 5))
@example("get_image_latents.noise", torch.full((2, 6), torch.nan))
@example("get_image_latents.pool", torch.full((2, 6), torch.inf))
@example("get_label_latents.labels", np.zeros(2, np.int64))
@example("predict_velocity.labels", torch.tensor([0, 99]))
@example("predict_velocity.t", "a")
@example("predict_velocity.latents", torch.zeros(3, 6))
@example("classify.batch_size", np.int64(2))
@example("forward.generator", 0)
@example("postprocess.pixel_values", torch.full((1, 1, 8, 8), torch.nan))
@example("call.sample_noise", torch.zeros(1, 1, 8, 8).long())
def test_odd_arguments(pipe, call, value):
    check_odd_argument(pipe, call, value)


def check_odd_argument(pipe: LZNPipeline, call: str, value: Any) -> str:
    name = call.rpartition(".")[2]
    if call in NOT_LOOKED_AT and isinstance(value, Tensor) and not value.isfinite().all():
        return "not looked at"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return outcome(lambda: calls(pipe, IMAGE)[call](value), name)


@pytest.mark.slow
def test_many_odd_arguments(pipe, capsys):
    table: dict[str, Counter] = {}

    @settings(FAST, max_examples=6000)
    @given(st.sampled_from(CALLS), ODD)
    def arguments(call, value):
        table.setdefault(call, Counter())[check_odd_argument(pipe, call, value)] += 1

    arguments()
    with capsys.disabled():
        print("\n| argument | right | refused | not looked at |")
        for name, counts in sorted(table.items()):
            print(f"| {name} | {counts['right']} | {counts['refused']} | {counts['not looked at']} |")
