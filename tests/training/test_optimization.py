# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The learning-rate schedule, and the guard against non-finite steps."""

from __future__ import annotations

import pytest
import torch
from helpers.training import accelerator_fixture  # noqa: F401 (a fixture)
from torch import nn

from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.optimization import NonFiniteGuard, make_scheduler


def learning_rates(**settings) -> list[float]:
    run = RunArguments(**settings)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer, run)
    rates = []
    for _ in range(run.max_train_steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_warm_up_is_the_published_one():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.0002, end_factor=1.0, total_iters=5000)
    expected = []
    for _ in range(5011):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle.step()
    assert learning_rates(warmup_steps=5000, max_train_steps=5010) == pytest.approx(expected, rel=1e-9)


def test_learning_rate_is_constant_or_a_cosine_after_the_warm_up():
    assert learning_rates(max_train_steps=3) == [1, 1, 1, 1]
    assert learning_rates(max_train_steps=4, warmup_steps=2) == [0.5, 0.75, 1, 1, 1]
    rates = learning_rates(max_train_steps=6, warmup_steps=2, lr_scheduler="cosine")
    assert rates == pytest.approx([0.5, 0.75, 1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0])


def test_a_non_finite_loss_or_gradient_is_refused_and_many_in_a_row_stop_the_run(accelerator):
    guard, fine, nan, inf = (
        NonFiniteGuard(2),
        torch.tensor(1.0),
        torch.tensor(float("nan")),
        torch.tensor(float("inf")),
    )

    def step(*losses, grad_norm=fine):
        for loss in losses:
            guard.watch(loss)
        return guard.step_is_finite(accelerator, grad_norm)

    assert step(fine, fine)
    assert not step(nan, fine)  # any micro-batch
    assert step(fine)  # the losses before are forgotten
    assert not step(fine, grad_norm=inf)
    assert (guard.total, guard.in_a_row) == (2, 1)
    restored = NonFiniteGuard(2)
    restored.load_state_dict(guard.state_dict())
    guard = restored
    with pytest.raises(RuntimeError, match="2 steps in a row had a non-finite loss.*`--max_nonfinite_steps`"):
        step(inf)


def test_an_overflow_in_float16_lowers_the_loss_scale(accelerator):
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scaler = accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    for factor, scale in ((float("inf"), 512.0), (1.0, 1024.0)):
        loss = (parameter * 3).sum()
        (scaler.scale(loss) * factor).backward()
        scaler.unscale_(optimizer)  # as clip_grad_norm_ does; a second time without update() would raise
        guard = NonFiniteGuard(2)
        guard.watch(loss)
        if guard.step_is_finite(accelerator, parameter.grad.norm()):
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
        assert scaler.get_scale() == scale
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.7]))
