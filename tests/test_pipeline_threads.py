# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Several threads that call one pipeline at once get what each would get alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from helpers.pipelines import generate, make_pipeline, seeded

from lzn_hf import LZNPipeline
from lzn_hf.sampling_lzn import default_scheduler


@pytest.mark.parametrize(
    "scheduler",
    [
        default_scheduler(),
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        FlowMatchEulerDiscreteScheduler(),
        FlowMatchHeunDiscreteScheduler(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_threads_share_a_pipeline(scheduler):
    """To the bit: different numbers of steps and images, beside calls that integrate the other way or not at all."""
    pipe = LZNPipeline(**{**make_pipeline().components, "scheduler": scheduler})  # its progress bars are on
    images = torch.rand(3, 1, 8, 8)
    calls = [
        lambda: generate(pipe, "one", num_inference_steps=8),
        lambda: generate(pipe, ["two", "three"], num_inference_steps=5, batch_size=1),
        lambda: generate(pipe, num_images_per_label=2, num_inference_steps=8, return_trajectory=True),
        lambda: pipe.reconstruct(images, num_inference_steps=3, generator=seeded(), output_type="pt").images,
        lambda: torch.tensor([[entry["score"] for entry in row] for row in pipe.classify(images, top_k=10)]),
        lambda: pipe.embed(images),
    ]
    expected = [call() for call in calls]
    start = threading.Barrier(len(calls))

    def at_once(call) -> list[torch.Tensor]:
        start.wait()
        return [call() for _ in range(2)]

    with ThreadPoolExecutor(len(calls)) as threads:
        results = list(threads.map(at_once, calls))
    for result, alone in zip(results, expected, strict=True):
        assert all(torch.equal(again, alone) for again in result)
    assert not any(module.training for module in pipe.model.modules())


@pytest.mark.parametrize("repeats", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_threads_share_a_model_in_training_mode(repeats):
    """Every call runs without dropout, and the last one to end gives the model its mode back: 4 x 5 x 25 = 500 calls."""
    pipe = make_pipeline()
    pipe.model.train()
    images = torch.rand(2, 1, 8, 8)
    calls = [
        lambda: generate(pipe, ["one", "two"], num_inference_steps=3),
        lambda: pipe.reconstruct(images, num_inference_steps=2, generator=seeded(), output_type="pt").images,
        lambda: pipe.vary(images, 0.5, num_inference_steps=2, generator=seeded(), output_type="pt").images,
        lambda: torch.tensor([[entry["score"] for entry in row] for row in pipe.classify(images, top_k=10)]),
    ]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(5) as threads:
        futures = [(i, threads.submit(calls[i])) for _ in range(5 * repeats) for i in range(4)]
    for i, future in futures:
        assert torch.equal(future.result(), expected[i]), i
    assert all(module.training for module in pipe.model.modules())


def test_a_call_leaves_the_scheduler_as_it_was():
    pipe = make_pipeline()
    state = dict(vars(pipe.scheduler))
    generate(pipe, "one")
    assert pipe.scheduler.num_inference_steps is None and pipe.scheduler.step_index is None
    assert vars(pipe.scheduler).keys() == state.keys()
    assert all(value is state[name] for name, value in vars(pipe.scheduler).items())


def test_another_scheduler_for_some_calls():
    """A second pipeline around the same components leaves the first one alone."""
    pipe = make_pipeline()
    expected = generate(pipe, "one")
    other = LZNPipeline(**{**pipe.components, "scheduler": FlowMatchEulerDiscreteScheduler()})
    assert other.model is pipe.model and other.image_processor is pipe.image_processor
    # That scheduler takes the uniform Euler steps of the solver of this name.
    torch.testing.assert_close(generate(other, "one"), generate(pipe, "one", solver="euler"), atol=1e-5, rtol=0)
    assert (generate(other, "one") - expected).abs().max() > 1e-3 and torch.equal(generate(pipe, "one"), expected)
