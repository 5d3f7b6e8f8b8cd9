# Copyright 2026 The lzn_hf authors. Apache-2.0.
from __future__ import annotations

import json
import math
import time

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
from helpers.flows import MEAN, STD, column, gaussian_velocity

from lzn_hf import sampling_lzn
from lzn_hf.sampling_lzn import (
    FLOW_SOLVERS,
    ImageFlow,
    check_scheduler,
    check_scheduler_fields,
    default_scheduler,
    integrate_velocity,
    mix_noise,
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
        ("default", 20, 1e-4),
        ("unipc2", 20, 0.006),
        ("dpm2", 20, 0.008),
        ("dpm3", 20, 0.006),
        ("euler", 100, 0.01),
        ("heun", 20, 0.001),
    ],
)
def test_scheduler_solves_the_gaussian_flow(name, steps, bound):
    noise = torch.randn(50, 1, 4, 4)
    error = ImageFlow(SCHEDULERS[name](), steps).to_images(gaussian_velocity, noise) - (MEAN + STD * noise)
    assert error.square().mean().sqrt() < bound


def test_euler_is_plain_euler_on_a_uniform_grid():
    noise = torch.randn(5, 1, 4, 4)
    expected = integrate_velocity(gaussian_velocity, noise, torch.linspace(0, 1, 8).tolist(), method="euler")
    actual = ImageFlow(FlowMatchEulerDiscreteScheduler(), 7).to_images(gaussian_velocity, noise)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_default_is_the_most_accurate_at_equal_cost():
    from sklearn.datasets import load_digits

    velocity = mixture_velocity(torch.tensor(load_digits().data / 8 - 1), std=0.2)
    noise = torch.randn(64, 1, 8, 8)
    exact = integrate_velocity(velocity, noise.double(), torch.linspace(0, 1, 401).tolist())
    error = {}
    for name, make in SCHEDULERS.items():
        images = ImageFlow(make(), 10 if name == "heun" else 20).to_images(velocity, noise)
        error[name] = (images - exact).square().mean().sqrt().item()
    assert min(error, key=error.get) == "default" and error["default"] < 0.006, error


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_times(name, steps):
    """The velocity is asked for at the times that its samples are at, and the scheduler ends at t = 1 exactly."""
    times = []

    def velocity(x, t):  # of data = 2 and noise = 1, exactly on the way between them
        times.append(t)
        torch.testing.assert_close(x, torch.full_like(x, 1 + t), atol=2e-3, rtol=0)
        return torch.ones_like(x)

    data = ImageFlow(SCHEDULERS[name](), steps).to_images(velocity, torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(data, torch.full_like(data, 2.0), atol=2e-3, rtol=0)
    assert len(times) == (2 * steps - 1 if name == "heun" else steps)
    assert times == sorted(times) and 0 <= times[0] < 2e-3 and times[-1] < 1


@pytest.mark.parametrize("name", ["default", "dpm2"])
def test_more_steps_than_there_are_integer_timesteps(name):
    """The timesteps of these are rounded to integers, so some come twice; the steps must not."""
    data = ImageFlow(SCHEDULERS[name](), 1500).to_images(lambda x, t: torch.ones_like(x), torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(data, torch.full_like(data, 2.0), atol=2e-3, rtol=0)


def test_a_shift_that_was_set_later_counts():
    """It is not in the configuration of the scheduler."""
    scheduler, noise = FlowMatchEulerDiscreteScheduler(), torch.randn(2, 1, 4, 4)
    scheduler.set_shift(3.0)
    shifted = ImageFlow(FlowMatchEulerDiscreteScheduler(shift=3.0), 4).to_images(gaussian_velocity, noise)
    assert torch.equal(ImageFlow(scheduler, 4).to_images(gaussian_velocity, noise), shifted)
    plain = ImageFlow(FlowMatchEulerDiscreteScheduler(), 4).to_images(gaussian_velocity, noise)
    assert (shifted - plain).abs().max() > 1e-2


@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_can_be_used_again(name):
    """Also with another number of steps, after a run that was interrupted, and when it has run outside of a flow."""
    scheduler, noise = SCHEDULERS[name](), torch.randn(2, 1, 4, 4)
    first = ImageFlow(scheduler, 6).to_images(gaussian_velocity, noise)
    ImageFlow(scheduler, 3).to_images(gaussian_velocity, noise[:1])

    def interrupted(x, t):
        if t > 0.5:
            raise KeyboardInterrupt
        return gaussian_velocity(x, t)

    with pytest.raises(KeyboardInterrupt):
        ImageFlow(scheduler, 6).to_images(interrupted, noise)
    assert torch.equal(ImageFlow(scheduler, 6).to_images(gaussian_velocity, noise), first)
    scheduler.set_timesteps(3)
    scheduler.step(noise, scheduler.timesteps[0], noise)
    assert torch.equal(ImageFlow(scheduler, 6).to_images(gaussian_velocity, noise), first)


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


# ---------------------------------------------------------------- image flows


@pytest.mark.parametrize("name", [*SCHEDULERS, "euler solver", "heun solver"])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_number_of_evaluations(name, steps):
    flow = ImageFlow(SCHEDULERS[name]() if name in SCHEDULERS else name.split()[0], steps)
    times = []

    def velocity(x, t):
        times.append(t)
        return torch.ones_like(x)

    flow.to_images(velocity, torch.ones(1, 1, 2, 2))
    assert len(times) == flow.num_evaluations
    if name not in SCHEDULERS:
        flow.to_noise(velocity, torch.ones(1, 1, 2, 2))
        assert len(times) == 2 * flow.num_evaluations


def test_number_of_evaluations_of_adaptive_steps_is_open():
    assert ImageFlow("rk45", 5).num_evaluations == math.inf


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
@pytest.mark.parametrize("t_min", [0.0, 1e-3, 0.3])
def test_flow_between_noise_and_images(solver, t_min):
    """The noise of an image lies at t = 0, on the straight line from the image through the sample at `t_min`."""
    flow, seen = ImageFlow(solver, 200, t_min), []

    def velocity(x, t, rows=None):
        seen.extend(t.tolist() if isinstance(t, torch.Tensor) else [t])
        return gaussian_velocity(x, column(t, x) if isinstance(t, torch.Tensor) else t)

    def spread(t: float) -> float:  # of the samples at t
        return math.sqrt((t * STD) ** 2 + (1 - t) ** 2)

    images = MEAN + STD * torch.randn(4, 1, 3, 3)
    sample = t_min * MEAN + spread(t_min) * (images - MEAN) / STD
    noise = flow.to_noise(velocity, images)
    torch.testing.assert_close(
        noise, (sample - t_min * images) / (1 - t_min), atol=2e-2 if solver == "euler" else 1e-3, rtol=0
    )
    assert min(seen) == pytest.approx(t_min, abs=0.01) and max(seen) == 1
    torch.testing.assert_close(
        flow.to_images(velocity, sample), images, atol=2e-2 if solver == "euler" else 1e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rk4", 5), "`solver` must be one of 'euler', 'heun', 'rk45', got 'rk4'"),
        ((None, 5), "`solver` must be one of 'euler', 'heun', 'rk45', got None"),
        ((DDPMScheduler(), 5), "`scheduler` must be a flow-matching one .* got DDPMScheduler"),
        (("euler", 0), "`num_inference_steps` must be a whole number of at least 1, got 0"),
        (("euler", 5, 1), "`t_min` must be a number of at least 0 and less than 1, got 1"),
        (
            (default_scheduler(), 5, 0.1),
            r"`t_min` must be 0 without a `solver` \('euler', 'heun', 'rk45'\), .* got 0.1",
        ),
    ],
)
def test_bad_flows(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageFlow(*arguments)


def test_schedulers_do_not_go_to_noise():
    flow = ImageFlow(default_scheduler(), 5)
    with pytest.raises(
        ValueError, match="`solver` must be euler or heun or rk45 to go from images to noise, got UniPC"
    ):
        flow.to_noise(gaussian_velocity, torch.zeros(1, 1, 2, 2))


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


def test_heun_scheduler_shows_its_steps_and_not_its_guesses():
    """Heun steps from sigma to sigma, the last one, to 0, an Euler step."""
    scheduler, sample, seen = FlowMatchHeunDiscreteScheduler(), torch.randn(2, 1, 4, 4), []
    end = ImageFlow(scheduler, 4).to_images(field, sample, on_step=lambda t, x: seen.append((t, x)))
    times = [t for t, _ in seen]
    assert len(times) == 5 and times == sorted(times) and times[0] == 0 and times[-1] == 1
    torch.testing.assert_close(seen[3][1], integrate_velocity(field, sample, times[:4], "heun"))
    torch.testing.assert_close(seen[4][1], integrate_velocity(field, seen[3][1], times[3:], "euler"))
    assert torch.equal(seen[0][1], sample) and torch.equal(seen[4][1], end)


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_scheduler_shows_every_state(name):
    """On a flow whose velocity is constant, each state is on the straight line at its time."""
    sample, speed, seen = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), []
    ImageFlow(SCHEDULERS[name](), 5).to_images(lambda x, t: speed, sample, on_step=lambda t, x: seen.append((t, x)))
    assert len(seen) == 6 and seen[-1][0] == 1
    start = seen[0][0]
    for t, x in seen:
        torch.testing.assert_close(x, sample + (t - start) * speed, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [*SCHEDULERS, "solver euler", "solver heun"])
def test_a_step_may_change_the_samples(name):
    """Along a constant velocity, what a step adds is there in the end: nothing that a scheduler remembers takes it back."""
    solver = name.removeprefix("solver ") if name.startswith("solver ") else SCHEDULERS[name]()
    noise, velocity, added = torch.randn(3, 2, 1, 4, 4).double()
    calls = []

    def add(t: float, sample: torch.Tensor) -> torch.Tensor | None:
        calls.append(t)
        return sample + added if len(calls) in (3, 4, 6) else None

    images = ImageFlow(solver, 7).to_images(lambda x, t: velocity, noise, add)
    torch.testing.assert_close(
        images, noise + velocity + 3 * added, rtol=0, atol=0.01
    )  # DPM-Solver starts at t = 0.001
    calls.clear()
    kept = ImageFlow(solver, 7).to_images(lambda x, t: velocity, noise, lambda t, sample: calls.append(t))
    assert torch.equal(kept, ImageFlow(solver, 7).to_images(lambda x, t: velocity, noise))


@pytest.mark.parametrize("name", ["default", "dpm2"])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("changed_at", [None, 1])
def test_a_table_gives_the_samples_of_the_steps(name, steps, changed_at, monkeypatch):
    """Of a velocity that is not linear, also where a caller goes on from other samples."""
    flow, noise = ImageFlow(SCHEDULERS[name](), steps), torch.randn(3, 1, 4, 4, dtype=torch.float64)

    def run() -> list[torch.Tensor]:
        seen = []

        def on_step(t: float, sample: torch.Tensor) -> torch.Tensor | None:
            seen.append(sample)
            return -sample if len(seen) - 1 == changed_at else None

        seen.append(flow.to_images(lambda x, t: torch.sin(3 * x) * (1 + t) - x, noise, on_step))
        return seen

    tabulated = run()
    monkeypatch.setattr(sampling_lzn, "MAX_KEPT", 0)
    stepped = run()
    assert len(tabulated) == len(stepped) == steps + 2
    for one, other in zip(tabulated, stepped, strict=True):
        # DPM-Solver++ has its sigmas in float32
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 if name == "default" else 1e-5)


def test_a_scheduler_steps_once_for_all_calls(monkeypatch):
    """What a call costs beside the network: its steps are dozens of operations on numbers, as slow as a small network."""
    calls = []
    step = UniPCMultistepScheduler.step
    monkeypatch.setattr(
        UniPCMultistepScheduler, "step", lambda *args, **kwargs: calls.append(1) or step(*args, **kwargs)
    )
    sampling_lzn.scheduler_table.cache_clear()
    for _ in range(3):
        ImageFlow(default_scheduler(), 7).to_images(lambda x, t: -x, torch.randn(2, 1, 4, 4))
    assert len(calls) == 7


def test_thresholding_is_not_linear_and_has_no_table():
    scheduler = UniPCMultistepScheduler(
        solver_order=2, prediction_type="flow_prediction", use_flow_sigmas=True, thresholding=True
    )
    assert not sampling_lzn.is_tabulated(scheduler) and sampling_lzn.is_tabulated(default_scheduler())
    assert ImageFlow(scheduler, 4).to_images(lambda x, t: 9 - x, torch.randn(2, 1, 4, 4)).max() < 1.01


@pytest.mark.parametrize("name", SCHEDULERS)
def test_files_of_supported_schedulers_pass(name, tmp_path):
    SCHEDULERS[name]().save_pretrained(tmp_path)
    check_scheduler_fields(json.loads((tmp_path / "scheduler_config.json").read_text()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "DDIMScheduler"}, "`_class_name` must be one of 'UniPCMultistepScheduler'"),
        ({"_class_name": ["evil", "X"]}, "`_class_name` must be one of"),
        ({"num_train_timesteps": 10**12}, "`num_train_timesteps` must be at most 100,000, got 1000000000000"),
        ({"num_train_timesteps": "1000"}, "`num_train_timesteps` must be a int such as 1000, got '1000'"),
        ({"solver_order": True}, "`solver_order` must be a int"),
        ({"flow_shift": 1e300}, "`flow_shift` must be at most 100,000"),
        ({"flow_shift": 0.0}, "settings of the UniPCMultistepScheduler do not (solve the image flow|work)"),
        ({"flow_shift": float("nan")}, "settings of the UniPCMultistepScheduler do not (solve the image flow|work)"),
        ({"solver_order": 0}, "settings of the UniPCMultistepScheduler do not (solve the image flow|work)"),
        ({"solver_type": "x"}, "`solver_type` must be one of 'bh1', 'bh2', got 'x'"),
        ({"prediction_type": "epsilon"}, "must be set to solve the image flow"),
        ({"trained_betas": "x"}, "settings of the UniPCMultistepScheduler do not work"),
        ({"step": 1}, "`step` is no field of a UniPCMultistepScheduler"),
        ({"__class__": 1}, "`__class__` is no field of a UniPCMultistepScheduler"),
        ({"flow_shft": 2.0}, r"Did you mean `flow_shift`\?"),
    ],
)
def test_settings_in_files_are_named(changes, message, tmp_path):
    default_scheduler().save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "scheduler_config.json").read_text())
    start = time.process_time()
    with pytest.raises(ValueError, match=message):
        check_scheduler_fields({**fields, **changes})
    assert time.process_time() - start < 1
