# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The number of processes (gloo, real ones) changes neither what is drawn nor what is learnt, for one total batch."""

from __future__ import annotations

import pytest
import torch
from helpers.many_processes import (  # noqa: F401 (train is a fixture)
    POOL,
    SCRIPTS,
    assert_equal,
    largest_difference,
    start_over_from_the_middle,
    train_fixture,
)


@pytest.mark.parametrize("name", ["joint", "unconditional", "representation"])
def test_two_processes_train_as_one(tmp_path, train, name):
    one, two = (train(name, count, tmp_path / str(count)) for count in (1, 2))
    assert_equal(two, one)


def test_two_processes_continue_the_run_of_one(tmp_path, train):
    """Also what momentum contrast keeps, and the position in the data."""
    one = train("moco", 1, tmp_path / "one")
    start_over_from_the_middle(tmp_path / "one", tmp_path / "two")
    assert_equal(train("moco", 2, tmp_path / "two", "--resume_from_checkpoint", "latest"), one)


@pytest.mark.parametrize(("name", "num_processes"), [("joint", 2), ("unconditional", 1), ("representation", 2)])
def test_a_pool_of_micro_batches_is_that_of_one_large_batch(tmp_path, train, name, num_processes):
    """With the same images, views, noise and times: the size of the micro-batches is a matter of memory alone."""
    whole = train(name, 1, tmp_path / "whole")
    flags = f"{POOL} --gradient_accumulation_steps 2".split()
    assert_equal(train(name, num_processes, tmp_path / "parts", *flags), whole)


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2, 4])
@pytest.mark.parametrize("name", ["joint", "unconditional", "representation", "simclr"])
def test_pools_of_all_sizes(tmp_path, train, name, num_processes):
    """Two pools a step, of which each has two micro-batches on all processes."""
    if name == "simclr":
        pytest.importorskip("pytorch_metric_learning", reason="simclr_loss is that of pytorch-metric-learning")
    size = ["--total_batch_size", "16"]
    # Of the default solver, which decides whether two anchors are a pair apart, 1e-14 can decide: one image of 320 is such a one.
    size += "--config_overrides latent_solver=euler alignment_solver=euler".split()
    size += [] if name in ("joint", "unconditional") else ["decoder_type=null"]
    whole = train(name, 1, tmp_path / "whole", *size, "--gradient_accumulation_steps", "2")
    flags = f"{POOL} --gradient_accumulation_steps 4".split()
    parts = train(name, num_processes, tmp_path / "parts", *size, *flags)
    assert_equal(parts, whole)


@pytest.mark.slow
def test_in_float32_the_place_of_all_anchors_together_is_left_to_chance(tmp_path, train):
    """What the encoder adds to all anchors alike, which changes no latent and no score, and nothing else."""
    solver = [
        "--config_overrides",
        "alignment_noise_scales=[1.0,0.5]",
    ]  # the default one, which rounds less than Euler
    one, two = (train("joint", count, tmp_path / str(count), *solver, double=False) for count in (1, 2))
    assert two.losses == pytest.approx(one.losses, rel=0, abs=1e-5)
    shifts = [key for key in one.weights if key.startswith("encoder.taps.") and key.endswith("linear1.bias")]
    for a, b in ((one.weights, two.weights), (one.averages, two.averages)):
        places = [state.pop("reference_anchors", torch.zeros(1, 1)) for state in (a, b)]
        centred = [rows - rows.mean(0) for rows in places]
        torch.testing.assert_close(*centred, rtol=0, atol=1e-5)
        assert largest_difference(*({key: state[key] for key in a if key not in shifts} for state in (a, b))) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_four_processes_train_as_one_and_continue_as_two(tmp_path, train, name):
    if name == "simclr":
        pytest.importorskip("pytorch_metric_learning", reason="simclr_loss is that of pytorch-metric-learning")
    double = name != "classifier"  # which asks for float32, and has no such shift
    one, four = (train(name, count, tmp_path / str(count), double=double) for count in (1, 4))
    assert_equal(four, one)
    start_over_from_the_middle(tmp_path / "4", tmp_path / "2")
    assert_equal(train(name, 2, tmp_path / "2", "--resume_from_checkpoint", "latest", double=double), one)
