# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Several processes (gloo, real ones) make the samples and reconstructions of one, in the same order."""

from __future__ import annotations

import pytest
import torch
from accelerate import PartialState
from helpers.pipelines import make_pipeline
from helpers.training import run_on

from lzn_hf.evaluation.processes import gather_rows
from lzn_hf.evaluation.samplers import Sampler, generated_batches


SAMPLERS = ("unipc:3", "heun:2")
COUNT = 7  # not evenly divided


def samples(accelerator) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)  # the weights
    pipe, state, made = make_pipeline(names=["cat", "dog", "eel"]), PartialState(), {}
    for text in SAMPLERS:
        indices = range(state.process_index, COUNT, state.num_processes)
        batches = list(generated_batches(pipe, Sampler.parse(text), indices, seed=4, batch_size=3))
        for name in ("pixel_values", "labels"):
            made[f"{text} {name}"] = gather_rows(state, torch.cat([batch[name] for batch in batches]))
    return made


@pytest.mark.parametrize("num_processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_samples_do_not_depend_on_the_number_of_processes(tmp_path, num_processes):
    [one], several = (run_on(count, samples, tmp_path) for count in (1, num_processes))
    assert len(several) == num_processes
    for made in several:  # all have all of them
        for text in SAMPLERS:
            images = f"{text} pixel_values"
            assert made[images].shape == one[images].shape == (COUNT, 1, 8, 8)
            off = (made[images].int() - one[images].int()).abs()
            assert off.max() <= 1 and (off > 0).float().mean() < 0.01, (
                off.max()
            )  # a rounding to the other side of a half
            assert torch.equal(made[f"{text} labels"], one[f"{text} labels"])
    assert one["heun:2 pixel_values"].float().std(0).mean() > 1  # and not one sample seven times
