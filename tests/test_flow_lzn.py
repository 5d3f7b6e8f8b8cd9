# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The solvers of the image flow that need nothing but torch."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.flows import MEAN, STD, column, gaussian_velocity

from lzn_hf.flow_lzn import FLOW_SOLVERS, check_steps, integrate_flow, integrate_velocity


def field(x, t):
    return torch.cos(3 * x) - t * x


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_convergence(method, order):
    noise = torch.randn(20, 3, dtype=torch.float64)
    errors = []
    for steps in (40, 80):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()
        data = integrate_velocity(gaussian_velocity, noise, times, method)
        errors.append((data - MEAN - STD * noise).norm())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_there_and_back():
    data = torch.randn(20, 3, dtype=torch.float64)
    errors = []
    for steps in (20, 40):
        times = torch.linspace(1, 0, steps + 1).tolist()
        noise = integrate_velocity(gaussian_velocity, data, times)
        torch.testing.assert_close(noise, (data - MEAN) / STD, atol=0.01, rtol=0)
        errors.append((integrate_velocity(gaussian_velocity, noise, times[::-1]) - data).abs().max())
    assert errors[1] < errors[0] / 3 and errors[1] < 1e-3


def test_integrate_velocity_errors():
    with pytest.raises(ValueError, match="`method` must be 'heun' or 'euler', got 'rk4'"):
        integrate_velocity(gaussian_velocity, torch.zeros(1), [0, 1], method="rk4")
    with pytest.raises(ValueError, match="at least two times, got 1"):
        integrate_velocity(gaussian_velocity, torch.zeros(1), [0])


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_integrator_shows_every_state(method):
    sample, times, seen = torch.randn(2, 1, 4, 4), [0.1, 0.3, 0.35, 1.0], []
    end = integrate_velocity(field, sample, times, method, on_step=lambda t, x: seen.append((t, x)))
    assert [t for t, _ in seen] == times
    assert torch.equal(seen[0][1], sample) and torch.equal(seen[-1][1], end)
    for i in range(1, 4):  # each is where an integration up to there ends
        torch.testing.assert_close(seen[i][1], integrate_velocity(field, sample, times[: i + 1], method))


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
@pytest.mark.parametrize(("t_start", "t_end"), [(0.0, 1.0), (1.0, 0.25)])
def test_named_solvers_go_both_ways(solver, t_start, t_end):
    """Of Gaussian data the flow is known: x_t = t MEAN + sqrt(t² STD² + (1 - t)²) e."""
    noise = torch.randn(5, 1, 4, 4, dtype=torch.float64)

    def sample_at(t):
        return t * MEAN + math.sqrt((t * STD) ** 2 + (1 - t) ** 2) * noise

    def velocity(x, t, rows=None):
        return gaussian_velocity(x, t if rows is None else column(t, x))

    end = integrate_flow(velocity, sample_at(t_start), solver, 100, t_start, t_end)
    torch.testing.assert_close(end, sample_at(t_end), atol={"euler": 0.1, "heun": 2e-3, "rk45": 2e-4}[solver], rtol=0)


@pytest.mark.parametrize("arguments", [(0, 0.0), (1.5, 0.0), (5, 1.0), (5, -0.1), (5, True)])
def test_check_steps(arguments):
    check_steps(1, 0.999)
    with pytest.raises(ValueError, match="`num_inference_steps` must|`t_min` must"):
        check_steps(*arguments)
