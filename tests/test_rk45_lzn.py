# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Adaptive steps against scipy, exact solutions, and each sample alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from helpers.flows import MEAN, STD, column, gaussian_velocity
from scipy.integrate import solve_ivp

from lzn_hf.rk45_lzn import integrate_rk45, rk45_step


VELOCITIES = {
    "wave": lambda x, t, rows: 5 * torch.sin(3 * x) * column(t, x) - 3 * x * torch.cos(7 * column(t, x)),
    "gaussian": lambda x, t, rows: gaussian_velocity(x, column(t, x)),
    "jump": lambda x, t, rows: torch.where(column(t, x) < 0.4, 1.0, -8.0) + x,  # steps across it must be repeated
    "growth": lambda x, t, rows: x,  # the velocity is the sample itself, the same tensor
    "nothing": lambda x, t, rows: torch.zeros((), dtype=x.dtype).expand_as(x),  # in memory of a single number
    "late": lambda x, t, rows: 500 * column(t, x) ** 2 + 0 * x,  # nothing at t = 0
    "slow": lambda x, t, rows: (
        0.01 * x * torch.exp(3 * column(t, x))
    ),  # 1 % of its size away from the start is behind the end
}


def by_scipy(velocity_fn, x: torch.Tensor, ends: tuple[float, float], rtol: float, atol: float):
    """RK45 of scipy in float64 on all elements of a sample, and its number of evaluations."""

    def velocity(t: float, y: np.ndarray) -> np.ndarray:
        t = torch.tensor([t], dtype=torch.float64)
        return velocity_fn(torch.tensor(y).view(1, *x.shape), t, torch.tensor([0])).numpy().reshape(-1)

    solution = solve_ivp(velocity, ends, x.double().numpy().reshape(-1), method="RK45", rtol=rtol, atol=atol)
    return torch.tensor(solution.y[:, -1]).view_as(x), solution.nfev


@pytest.mark.parametrize("name", VELOCITIES)
@pytest.mark.parametrize("ends", [(0, 1), (1, 0), (1e-3, 1), (1, 1e-3), (-0.5, 2)])
@pytest.mark.parametrize(("rtol", "atol"), [(1e-5, 1e-5), (1e-3, 1e-6), (1e-8, 1e-7)])
def test_rk45_is_that_of_scipy_for_each_sample(name, ends, rtol, atol):
    """The same values by the same number of evaluations, in a batch whose samples need different numbers of them."""
    start = torch.tensor([0.1, 1.0, 3.0]).view(3, 1, 1, 1) * torch.randn(3, 2, 2, 3, dtype=torch.float64)
    end, num_evaluations = integrate_rk45(VELOCITIES[name], start, *ends, rtol=rtol, atol=atol)
    expected, nfev = zip(*(by_scipy(VELOCITIES[name], x, ends, rtol, atol) for x in start), strict=True)
    assert num_evaluations.tolist() == list(nfev) and num_evaluations.dtype == torch.int64
    # Rounding decides where a short step gets across a jump, and processors round differently.
    tolerance = 2e-7 if name == "jump" else 1e-10
    torch.testing.assert_close(end, torch.stack(expected), atol=tolerance, rtol=tolerance)


def test_rk45_in_float32():
    """The published tolerances: state and times in float32, and still close to what scipy does in float64."""
    start = torch.randn(3, 2, 5, 5)
    kept = start.clone()

    def velocity(x, t, rows):
        assert x.dtype == t.dtype == torch.float32 and rows.dtype == torch.int64 and x.shape[1:] == (2, 5, 5)
        assert len(x) == len(t) == len(rows)
        return VELOCITIES["wave"](x, t, rows)

    end, num_evaluations = integrate_rk45(velocity, start, 1e-3, 1)
    expected, nfev = zip(*(by_scipy(VELOCITIES["wave"], x, (1e-3, 1), 1e-5, 1e-5) for x in start), strict=True)
    assert end.dtype == torch.float32 and torch.equal(start, kept)
    torch.testing.assert_close(end.double(), torch.stack(expected).double(), atol=1e-5, rtol=1e-5)
    assert all(abs(ours - theirs) <= 12 for ours, theirs in zip(num_evaluations.tolist(), nfev, strict=True))


def test_one_step_size_for_a_whole_batch_is_a_batch_of_one():
    """How the published sampler controls its steps: the batch is one ordinary differential equation."""
    start = torch.tensor([0.1, 3.0])[:, None] * torch.randn(2, 6, dtype=torch.float64)
    end, num_evaluations = integrate_rk45(VELOCITIES["wave"], start[None], 0, 1)
    expected, nfev = by_scipy(VELOCITIES["wave"], start, (0, 1), 1e-5, 1e-5)
    assert num_evaluations.tolist() == [nfev]
    torch.testing.assert_close(end[0], expected, atol=1e-10, rtol=0)


ROTATION = torch.tensor([[-0.5, 9.0], [-9.0, 0.1]], dtype=torch.float64)


@pytest.mark.parametrize("ends", [(0, 1), (1, -0.5)])
def test_rk45_solves_a_linear_equation(ends):
    """x' = A x has the solution exp((t1 - t0) A) x; the error goes with the tolerance, the cost with its fifth root."""
    start = torch.randn(4, 2, dtype=torch.float64)
    exact = start @ torch.matrix_exp((ends[1] - ends[0]) * ROTATION).T
    errors, costs = [], []
    for tolerance in (1e-5, 1e-7, 1e-9):
        end, cost = integrate_rk45(lambda x, t, rows: x @ ROTATION.T, start, *ends, rtol=tolerance, atol=tolerance)
        errors.append((end - exact).abs().max().item() / tolerance)
        costs.append(cost.double().mean().item())
    assert all(1e-2 < error < 50 for error in errors), errors
    for few, many in itertools.pairwise(costs):
        assert many / few == pytest.approx(100 ** (1 / 5), rel=0.1)


def test_rk45_step_is_of_order_five():
    start, errors = torch.randn(4, 2, dtype=torch.float64), []
    exact = start @ torch.matrix_exp(ROTATION).T
    for steps in (30, 60):
        x, slope, size = start, start @ ROTATION.T, torch.full((4,), 1 / steps, dtype=torch.float64)
        for i in range(steps):
            x, slopes = rk45_step(lambda x, t: x @ ROTATION.T, x, slope, i * size, size)
            slope = slopes[-1]
        torch.testing.assert_close(slope, x @ ROTATION.T)
        errors.append((x - exact).norm())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(5, abs=0.15)


def test_rk45_sample_does_not_depend_on_its_company():
    """Bit for bit, beside samples that are stiff; whoever has arrived is evaluated no more."""
    rates, starts = torch.tensor([1.0, 300.0, 2.0, 40.0]), torch.randn(4, 3, 4, 4)
    evaluated = torch.zeros(4, dtype=torch.int64)

    def velocity(rates):
        def velocity_fn(x, t, rows):
            evaluated.index_add_(0, rows, torch.ones_like(rows))
            return -column(rates[rows], x) * (x - torch.cos(column(t, x)))

        return velocity_fn

    together, cost = integrate_rk45(velocity(rates), starts, 0, 1)
    assert torch.equal(evaluated, cost) and cost[1] > 3 * cost[3] > 6 * cost[0]
    for i in range(4):
        alone, cost_alone = integrate_rk45(velocity(rates[i : i + 1]), starts[i : i + 1], 0, 1)
        assert torch.equal(alone[0], together[i]) and cost_alone.item() == cost[i]


def test_rk45_there_and_back():
    noise = torch.randn(20, 1, 4, 4)
    data, _ = integrate_rk45(VELOCITIES["gaussian"], noise, 0, 1)
    torch.testing.assert_close(data, MEAN + STD * noise, atol=5e-5, rtol=0)
    back, _ = integrate_rk45(VELOCITIES["gaussian"], data, 1, 0)
    torch.testing.assert_close(back, noise, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("velocity_fn", "message"),
    [
        (
            lambda x, t, rows: torch.full_like(x, math.nan),
            r"samples \[0, 1\] of the batch, the first at t = 0: .*not finite",
        ),
        (lambda x, t, rows: torch.full_like(x, math.inf), r"samples \[0, 1\] of the batch, the first at t = 0: "),
        (
            lambda x, t, rows: torch.where(column(t, x) > 0.5, math.nan, x),
            r"samples \[.*\] of the batch, the first at t = 0\.(5|49999)",
        ),
        # x = 1 / (1 / x0 - t): infinite at t = 1 / 2 for the second sample
        (
            lambda x, t, rows: x**2,
            r"samples \[1\] of the batch, the first at t = 0\.(5|4999).*too stiff for rtol = 1e-05",
        ),
    ],
)
def test_rk45_does_not_step_over_what_it_cannot_solve(velocity_fn, message):
    with pytest.raises(RuntimeError, match=f"step size underflow in {message}"):
        integrate_rk45(velocity_fn, torch.tensor([[0.5], [2.0]]), 0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sample": torch.zeros(3)},
            r"`sample` must be float32 or float64 of shape \(B, \.\.\.\).*got torch.float32 \(3,\)",
        ),
        ({"sample": torch.zeros(0, 3)}, r"`sample` must be .* not empty, got torch.float32 \(0, 3\)"),
        ({"sample": torch.zeros(2, 3, dtype=torch.bfloat16)}, "`sample` must be .* got torch.bfloat16"),
        ({"t_end": 0.0}, "`t_start` and `t_end` must be two different finite times, got 0.0 and 0.0"),
        ({"t_end": math.nan}, "`t_start` and `t_end` must be two different finite times, got 0.0 and nan"),
        ({"t_start": -math.inf}, "`t_start` and `t_end` must be two different finite times, got -inf and 1.0"),
        ({"rtol": 0.0}, "`rtol` must be positive and finite, got 0.0"),
        ({"atol": -1e-5}, "`atol` must be positive and finite, got -1e-05"),
        ({"rtol": math.nan}, "`rtol` must be positive and finite, got nan"),
        ({"atol": math.inf}, "`atol` must be positive and finite, got inf"),
    ],
)
def test_rk45_errors(change, message):
    arguments = {"sample": torch.zeros(2, 3), "t_start": 0.0, "t_end": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        integrate_rk45(VELOCITIES["growth"], **arguments)
