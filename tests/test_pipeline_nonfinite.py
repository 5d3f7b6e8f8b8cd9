# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""NaN and infinity are an error of every method, not a black picture or a score."""

from __future__ import annotations

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from helpers.pipelines import generate, make_pipeline

from lzn_hf import LZNPipeline


MESSAGE = "of {} {} are NaN or infinite: half precision may have overflowed"
IMAGES = torch.rand(2, 1, 8, 8)
METHODS = {
    "__call__": (lambda pipe: generate(pipe, ["one", "two"], num_inference_steps=2), "images"),
    "heun": (lambda pipe: generate(pipe, ["one", "two"], solver="heun", num_inference_steps=2), "images"),
    "generate": (lambda pipe: pipe.model.generate(["one", "two"], num_inference_steps=2), "images"),
    "invert": (lambda pipe: pipe.invert(IMAGES, num_inference_steps=2), "images"),
    "reconstruct": (lambda pipe: pipe.reconstruct(IMAGES, num_inference_steps=2), "images"),
    "vary": (lambda pipe: pipe.vary(IMAGES, 0.5, num_inference_steps=2), "images"),
    "interpolate": (lambda pipe: pipe.interpolate(*IMAGES, num_steps=2, num_inference_steps=2), "images"),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_decoder_that_overflows(method):
    pipe = make_pipeline()
    with torch.no_grad():  # finite weights, infinite outputs
        pipe.model.decoder.conv_out.weight.fill_(3e38)
    call, name = METHODS[method]
    with pytest.raises(ValueError, match=MESSAGE.format(2, name)):
        call(pipe)


def test_an_encoder_that_overflows():
    pipe = make_pipeline()
    with torch.no_grad():
        for tap in pipe.model.encoder.taps.values():
            tap.project.weight.fill_(3e38)
    with pytest.raises(ValueError, match=MESSAGE.format(2, "embeddings")):
        pipe.embed(IMAGES)
    with pytest.raises(ValueError, match="NaN or infinite"):
        pipe.classify(IMAGES)


def test_settings_of_a_scheduler_that_give_nan():
    """They pass all checks of diffusers."""
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=0.0, solver_order=3
    )
    pipe = LZNPipeline(**{**make_pipeline().components, "scheduler": scheduler})
    with pytest.raises(ValueError, match="the settings of the scheduler may not fit the image flow"):
        generate(pipe, ["one", "two"], num_inference_steps=4)
