# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Samples depend on their seed and number alone, and a sampler changes nothing in the pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from helpers.pipelines import make_pipeline

from lzn_hf.evaluation.samplers import SOLVERS, Sampler, generated_batches, sample_label


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline(names=["cat", "dog", "eel"])


def test_samplers_of_the_command_line():
    assert Sampler.parse("unipc:20") == Sampler("unipc:20", "unipc", 20)
    assert Sampler.parse("dpmsolver++:5").family == "dpmsolver++"
    assert Sampler.parse("rk45").family == "rk45"
    assert Sampler.parse("heun:10@1.5") == Sampler("heun:10@1.5", "heun", 10, 1.5)
    assert Sampler.parse("rk45@0").guidance_scale == 0 and Sampler.parse("rk45").guidance_scale == 1
    bad_scales = ("euler:2@", "euler:2@-1", "euler:2@nan", "euler:2@1e9", "euler@2:2", "rk45@x", "@2")
    for bad in (
        "unipc",
        "unipc:",
        "unipc:0",
        "unipc:-3",
        "unipc:2.5",
        "euler",
        "rk45:20",
        "rk4:20",
        "",
        ":20",
        *bad_scales,
    ):
        with pytest.raises(
            ValueError,
            match="a sampler must be unipc:STEPS or .* or rk45 with STEPS of at least 1, and @SCALE after it for guidance, got",
        ):
            Sampler.parse(bad)
    with pytest.raises(ValueError, match="must be euler:STEPS or heun:STEPS or rk45 with STEPS.*got 'unipc:20'"):
        Sampler.parse("unipc:20", SOLVERS)


@pytest.mark.parametrize("text", ["unipc:3", "dpmsolver++:3", "euler:2", "heun:2"])
def test_samples_depend_on_seed_and_index_alone(pipe, text):
    def make(indices, batch_size, seed=7):
        batches = list(generated_batches(pipe, Sampler.parse(text), indices, seed, batch_size))
        assert all(batch["pixel_values"].dtype == torch.uint8 for batch in batches)
        return {name: torch.cat([batch[name] for batch in batches]) for name in ("pixel_values", "labels")}

    whole, halves = make(range(7), 64), [make(range(start, 7, 2), 2) for start in (0, 1)]
    for start, half in enumerate(halves):
        assert torch.equal(half["labels"], whole["labels"][start::2])
        off = half["pixel_values"].int() - whole["pixel_values"][start::2].int()
        assert off.abs().max() <= 1  # rounding may end on the other side of a half
    assert not torch.equal(make(range(7), 64, seed=8)["pixel_values"], whole["pixel_values"])
    assert whole["pixel_values"].float().std(0).mean() > 1  # and not seven times one sample


def test_labels_are_drawn_evenly():
    counts = np.bincount([sample_label(0, i, 4) for i in range(4000)], minlength=4)
    assert (abs(counts - 1000) < 100).all() and len(set(counts)) > 1
    assert [sample_label(0, i, 4) for i in range(20)] != [sample_label(1, i, 4) for i in range(20)]


def test_the_scheduler_of_a_pipeline_stays(pipe):
    saved = pipe.scheduler
    other = Sampler.parse("dpmsolver++:3").pipeline(pipe)
    assert isinstance(other.scheduler, DPMSolverMultistepScheduler) and other.model is pipe.model
    assert pipe.scheduler is saved and not isinstance(saved, DPMSolverMultistepScheduler)
    assert Sampler.parse("heun:3").pipeline(pipe) is pipe
    list(generated_batches(pipe, Sampler.parse("dpmsolver++:2"), range(2), 0, 2))
    assert pipe.scheduler is saved
