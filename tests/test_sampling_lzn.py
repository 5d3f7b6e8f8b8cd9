# Copyright 2026 The lzn_hf authors. Apache-2.0.
from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)
from scipy.integrate import solve_ivp

from lzn_hf.sampling_lzn import (
    check_scheduler,
    default_scheduler,
    integrate_rk45,
    integrate_velocity,
    mix_noise,
    rk45_step,
    run_scheduler,
    set_timesteps,
    slerp,
)


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SCHEDULERS = {
    "default": default_scheduler,
    "unipc2": lambda: UniPCMultistepScheduler(**FLOW),
    "dpm2": lambda: DPMSolverMultistepScheduler(**FLOW),
    "dpm3": lambda: DPMSolverMultistepScheduler(solver_order=3, **FLOW),
    "euler": FlowMatchEulerDiscreteScheduler,
    "heun": FlowMatchHeunDiscreteScheduler,
}
MEAN, STD = 0.3, 0.5


def gaussian_velocity(x: torch.Tensor, t: float) -> torch.Tensor:
    """E[data - noise | x_t = x] for data ~ N(MEAN, STD²): its flow takes noise e to MEAN + STD e."""
    variance = (t * STD) ** 2 + (1 - t) ** 2
    residual = (x - t * MEAN) / variance
    return MEAN + t * STD**2 * residual - (1 - t) * residual


def mixture_velocity(means: torch.Tensor, std: float):
    """The same for a mixture of N(means[i], std²), equally weighted."""

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        rows = x.flatten(1).double()
        variance = (t * std) ** 2 + (1 - t) ** 2
        logits = (t * rows @ means.T - t**2 * means.square().sum(1) / 2) / variance
        mean = logits.softmax(1) @ means
        residual = (rows - t * mean) / variance
        return (mean + t * std**2 * residual - (1 - t) * residual).view_as(x).to(x.dtype)

    return velocity


# ---------------------------------------------------------------- schedulers of diffusers


@pytest.mark.parametrize(
    ("name", "steps", "bound"),
    [
        ("default", 20, 0.008),
        ("unipc2", 20, 0.008),
        ("dpm2", 20, 0.01),
        ("dpm3", 20, 0.01),
        ("euler", 100, 0.02),
        ("heun", 20, 0.004),
    ],
)
def test_scheduler_solves_the_gaussian_flow(name, steps, bound):
    noise = torch.randn(50, 1, 4, 4)
    error = run_scheduler(SCHEDULERS[name](), steps, gaussian_velocity, noise) - (MEAN + STD * noise)
    assert error.square().mean().sqrt() < bound


def test_euler_is_plain_euler_on_a_uniform_grid():
    noise = torch.randn(5, 1, 4, 4)
    expected = integrate_velocity(gaussian_velocity, noise, torch.linspace(0, 1, 8).tolist(), method="euler")
    actual = run_scheduler(FlowMatchEulerDiscreteScheduler(), 7, gaussian_velocity, noise)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_default_is_the_most_accurate_at_equal_cost():
    from sklearn.datasets import load_digits

    velocity = mixture_velocity(torch.tensor(load_digits().data / 8 - 1), std=0.2)
    noise = torch.randn(64, 1, 8, 8)
    exact = integrate_velocity(velocity, noise.double(), torch.linspace(0, 1, 401).tolist())
    error = {}
    for name, make in SCHEDULERS.items():
        images = run_scheduler(make(), 10 if name == "heun" else 20, velocity, noise)
        error[name] = (images - exact).square().mean().sqrt().item()
    assert min(error, key=error.get) == "default" and error["default"] < 0.02, error


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_times(name, steps):
    """The velocity is asked for at the times that its samples are at, and the scheduler ends at t = 1 exactly."""
    times = []

    def velocity(x, t):  # of data = 2 and noise = 1, exactly on the way between them
        times.append(t)
        torch.testing.assert_close(x, torch.full_like(x, 1 + t), atol=2e-3, rtol=0)
        return torch.ones_like(x)

    data = run_scheduler(SCHEDULERS[name](), steps, velocity, torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(data, torch.full_like(data, 2.0), atol=2e-3, rtol=0)
    assert len(times) == (2 * steps - 1 if name == "heun" else steps)
    assert times == sorted(times) and 0 <= times[0] < 2e-3 and times[-1] < 1
    assert times == set_timesteps(SCHEDULERS[name](), steps, torch.device("cpu"))


@pytest.mark.parametrize("name", ["default", "dpm2"])
def test_more_steps_than_there_are_integer_timesteps(name):
    """The timesteps of these are rounded to integers, so some come twice; the steps must not."""
    data = run_scheduler(SCHEDULERS[name](), 1500, lambda x, t: torch.ones_like(x), torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(data, torch.full_like(data, 2.0), atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_can_be_used_again(name):
    """A run leaves nothing behind for the next one, also with another number of steps or after one that was cut off."""
    scheduler, noise = SCHEDULERS[name](), torch.randn(2, 1, 4, 4)
    first = run_scheduler(scheduler, 6, gaussian_velocity, noise)
    run_scheduler(scheduler, 3, gaussian_velocity, noise[:1])

    def interrupted(x, t):
        if t > 0.5:
            raise KeyboardInterrupt
        return gaussian_velocity(x, t)

    with pytest.raises(KeyboardInterrupt):
        run_scheduler(scheduler, 6, interrupted, noise)
    assert torch.equal(run_scheduler(scheduler, 6, gaussian_velocity, noise), first)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_supported_schedulers_pass_the_check(name):
    check_scheduler(SCHEDULERS[name]())


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DDPMScheduler(), "flow-matching one .*UniPC.*, got DDPMScheduler"),
        (FlowMatchLCMScheduler(), "got FlowMatchLCMScheduler"),
        (None, "got NoneType"),
        (UniPCMultistepScheduler(), "prediction_type='flow_prediction', use_flow_sigmas=True"),
        (DPMSolverMultistepScheduler(prediction_type="flow_prediction"), r"\(use_flow_sigmas=True\)"),
        (DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **FLOW), "algorithm_type='dpmsolver"),
        (UniPCMultistepScheduler(final_sigmas_type="sigma_min", **FLOW), "final_sigmas_type='zero'"),
        (UniPCMultistepScheduler(use_karras_sigmas=True, **FLOW), "use_karras_sigmas=False"),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "stochastic_sampling=False"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas=False"),
        (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "use_dynamic_shifting=False"),
    ],
)
def test_other_schedulers_do_not(scheduler, message):
    with pytest.raises(ValueError, match=message):
        check_scheduler(scheduler)


# ---------------------------------------------------------------- both ways


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


# ---------------------------------------------------------------- adaptive steps, both ways


def column(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return t.view(-1, *[1] * (x.ndim - 1))


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


# ---------------------------------------------------------------- great circles


def test_slerp():
    a, b = torch.randn(2, 3, 50, 50).unbind()
    assert torch.equal(slerp(a, b, 0.0), a) and torch.equal(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, b, 0.3), slerp(b, a, 0.7))
    for weight in (0.25, 0.5):  # of Gaussian noise again, while a straight line would shrink it
        assert slerp(a, b, weight).std() == pytest.approx(1, abs=0.03)
    assert torch.lerp(a, b, 0.5).std() < 0.75
    angle = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(slerp(*angle, 0.5), torch.full((2,), 0.5**0.5))


@pytest.mark.parametrize("b", [[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0]])
def test_slerp_without_a_great_circle_is_straight(b):
    a, b = torch.tensor([1.0, 2.0]), torch.tensor(b)
    torch.testing.assert_close(slerp(a, b, 0.25), 0.75 * a + 0.25 * b)


# ---------------------------------------------------------------- noise and steps on the way


def test_mixed_noise_stays_gaussian():
    noise, new = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0))
    for strength in (0.2, 0.5, 0.9):
        mixed = mix_noise(noise, new, strength)
        assert abs(mixed.var().item() - 1) < 0.02 and abs(mixed.mean().item()) < 0.01
        assert abs((mixed**4).mean().item() - 3) < 0.1
        assert abs((mixed * noise).mean().item() - math.sqrt(1 - strength**2)) < 0.02
    assert torch.equal(mix_noise(noise, new, 0), noise) and torch.equal(mix_noise(noise, new, 1), new)


def field(x, t):
    return torch.cos(3 * x) - t * x


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_integrator_shows_every_state(method):
    sample, times, seen = torch.randn(2, 1, 4, 4), [0.1, 0.3, 0.35, 1.0], []
    end = integrate_velocity(field, sample, times, method, on_step=lambda t, x: seen.append((t, x)))
    assert [t for t, _ in seen] == times
    assert torch.equal(seen[0][1], sample) and torch.equal(seen[-1][1], end)
    for i in range(1, 4):  # each is where an integration up to there ends
        torch.testing.assert_close(seen[i][1], integrate_velocity(field, sample, times[: i + 1], method))


def test_heun_scheduler_shows_its_steps_and_not_its_guesses():
    """Heun steps from sigma to sigma, the last one, to 0, an Euler step."""
    scheduler, sample, seen = FlowMatchHeunDiscreteScheduler(), torch.randn(2, 1, 4, 4), []
    end = run_scheduler(scheduler, 4, field, sample, on_step=lambda t, x: seen.append((t, x)))
    times = [t for t, _ in seen]
    assert len(times) == 5 and times == sorted(times) and times[0] == 0 and times[-1] == 1
    torch.testing.assert_close(seen[3][1], integrate_velocity(field, sample, times[:4], "heun"))
    torch.testing.assert_close(seen[4][1], integrate_velocity(field, seen[3][1], times[3:], "euler"))
    assert torch.equal(seen[0][1], sample) and torch.equal(seen[4][1], end)


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_scheduler_shows_every_state(name):
    """On a flow whose velocity is constant, each state is on the straight line at its time."""
    sample, speed, seen = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), []
    run_scheduler(SCHEDULERS[name](), 5, lambda x, t: speed, sample, on_step=lambda t, x: seen.append((t, x)))
    assert len(seen) == 6 and seen[-1][0] == 1
    start = seen[0][0]
    for t, x in seen:
        torch.testing.assert_close(x, sample + (t - start) * speed, atol=1e-4, rtol=0)
