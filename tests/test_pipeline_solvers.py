# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The solvers of LZNPipeline beside its scheduler: Euler, Heun and adaptive steps, from noise to images and back."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from helpers.pipelines import STEPS, generate, make_pipeline, pixels, seeded, smooth_pipeline
from scipy.integrate import solve_ivp

from lzn_hf import LZNPipeline
from lzn_hf.pipeline_lzn import LZNInversion, LZNPipelineOutput
from lzn_hf.sampling_lzn import FLOW_SOLVERS, integrate_velocity


@pytest.fixture(scope="module")
def pipe() -> LZNPipeline:
    return smooth_pipeline()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 1, 8, 8)


# ---------------------------------------------------------------- from noise to images


@pytest.mark.parametrize("t_min", [0.0, 1e-3, 0.3])
def test_euler_is_the_noise_and_a_sum_of_uniform_steps(pipe, t_min):
    """x_{k+1} = x_k + h v(x_k, t_min + k h), h = (1 - t_min) / n: the published sampler with t_min = 1e-3."""
    latents, noise = torch.randn(3, 6), torch.randn(3, 1, 8, 8)
    x, h = noise, (1 - t_min) / 7
    with torch.no_grad():
        for k in range(7):
            x = x + h * pipe.model.predict_velocity(x, t_min + k * h, latents)
    options = {"num_inference_steps": 7, "solver": "euler", "t_min": t_min}
    actual = generate(pipe, latents=latents, sample_noise=noise, **options)
    torch.testing.assert_close(actual, pixels(x), atol=2e-6, rtol=0)


@pytest.mark.parametrize("t_min", [0.0, 0.3])
def test_heun_steps_are_uniform_from_t_min(pipe, t_min):
    latents, noise = torch.randn(3, 6), torch.randn(3, 1, 8, 8)
    times = [t_min + k * (1 - t_min) / 3 for k in range(4)]
    with torch.no_grad():
        x = integrate_velocity(lambda x, t: pipe.model.predict_velocity(x, t, latents), noise, times, "heun")
    options = {"num_inference_steps": 3, "solver": "heun", "t_min": t_min}
    actual = generate(pipe, latents=latents, sample_noise=noise, **options)
    torch.testing.assert_close(actual, pixels(x), atol=2e-6, rtol=0)


def test_rk45_is_the_flow(pipe):
    fine = generate(pipe, ["one", "two"], solver="heun", num_inference_steps=300)
    exact = generate(pipe, ["one", "two"], solver="rk45", num_inference_steps=1)  # which is not used
    assert (generate(pipe, ["one", "two"], solver="heun", num_inference_steps=5) - fine).abs().max() > 1e-3
    torch.testing.assert_close(exact, fine, atol=1e-4, rtol=0)


def test_rk45_starts_at_t_min(pipe):
    latents, noise = torch.randn(1, 6), torch.randn(1, 1, 8, 8)

    def velocity(t, y):
        x = torch.tensor(y, dtype=torch.float32).view(1, 1, 8, 8)
        with torch.no_grad():
            return pipe.model.predict_velocity(x, t, latents).flatten().double().numpy()

    solution = solve_ivp(velocity, (0.3, 1), noise.flatten().double().numpy(), method="RK45", rtol=1e-5, atol=1e-5)
    x = torch.tensor(solution.y[:, -1], dtype=torch.float32).view(1, 1, 8, 8)
    actual = generate(pipe, latents=latents, sample_noise=noise, solver="rk45", t_min=0.3)
    torch.testing.assert_close(actual, pixels(x), atol=1e-4, rtol=0)
    assert (generate(pipe, latents=latents, sample_noise=noise, solver="rk45") - actual).abs().max() > 1e-2


@pytest.mark.parametrize("solver", [None, *FLOW_SOLVERS])
def test_sample_noise_is_what_would_be_drawn(pipe, solver):
    """Latents first, then the noise of the images; given noise leaves the latents as they are."""
    generator = seeded()
    torch.randn(4, 6, generator=generator)
    noise = torch.randn(4, 1, 8, 8, generator=generator)
    options = {"num_images_per_label": 2, "solver": solver}
    drawn = generate(pipe, ["one", "two"], **options)
    assert torch.equal(generate(pipe, ["one", "two"], sample_noise=noise, **options), drawn)
    assert torch.equal(generate(pipe, ["one", "two"], sample_noise=noise.double(), **options), drawn)
    assert (generate(pipe, ["one", "two"], sample_noise=-noise, **options) - drawn).abs().max() > 0.1


def test_scheduler_and_solvers_agree(pipe):
    fine = generate(pipe, "one", num_inference_steps=200)
    for solver in FLOW_SOLVERS:
        assert (generate(pipe, "one", num_inference_steps=200, solver=solver) - fine).abs().max() < 0.002, solver


@pytest.mark.parametrize("names", [None, []])
def test_rk45_image_does_not_depend_on_its_company(pipe, names):
    """Each has the conditions of its own row, whoever has arrived before it; also over chunks."""
    pipe = pipe if names is None else smooth_pipeline(names=names)
    noise = torch.randn(5, 1, 8, 8) * torch.tensor([1.0, 0.1, 1.0, 3.0, 1.0]).view(5, 1, 1, 1)
    options = {"latents": torch.randn(5, 6), "sample_noise": noise, "solver": "rk45"}
    together = generate(pipe, **options)
    for batch_size in (1, 2, 64):
        torch.testing.assert_close(generate(pipe, batch_size=batch_size, **options), together, atol=1e-4, rtol=0)
    for i in range(5):
        alone = {name: value[i : i + 1] for name, value in options.items() if name != "solver"}
        torch.testing.assert_close(generate(pipe, solver="rk45", **alone)[0], together[i], atol=1e-4, rtol=0)


def test_rk45_labels_are_those_of_their_rows(pipe):
    generators = [seeded(i) for i in range(3)]
    together = generate(pipe, ["one", "nine", "four"], generators, solver="rk45")
    for i, label in enumerate(["one", "nine", "four"]):
        alone = generate(pipe, label, seeded(i), solver="rk45")
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=0)
    assert (generate(pipe, "nine", seeded(0), solver="rk45")[0] - together[0]).abs().max() > 1e-2


def test_progress_bar_of_rk45_has_no_total(pipe, capfd):
    pipe = LZNPipeline.from_pipe(pipe)
    pipe(num_images_per_label=3, batch_size=2, solver="rk45")
    bars = capfd.readouterr().err
    assert "%" not in bars and int(re.findall(r"(\d+)it \[", bars)[-1]) > 20
    pipe(num_images_per_label=3, batch_size=2, num_inference_steps=4, solver="euler")
    assert re.search(r"100%.* 8/8 ", capfd.readouterr().err)


# ---------------------------------------------------------------- schedulers


def test_schedulers_agree(pipe):
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    schedulers = [
        UniPCMultistepScheduler(**flow),
        DPMSolverMultistepScheduler(**flow),
        FlowMatchHeunDiscreteScheduler(),
        FlowMatchEulerDiscreteScheduler(),
    ]
    expected = generate(pipe, "one", num_inference_steps=60)
    for scheduler in schedulers:
        swapped = LZNPipeline(model=pipe.model, scheduler=scheduler, image_processor=pipe.image_processor)
        swapped.set_progress_bar_config(disable=True)
        assert (generate(swapped, "one", num_inference_steps=60) - expected).abs().max() < 0.005, scheduler


def test_number_of_steps_is_used(pipe):
    fine = generate(pipe, "one", num_inference_steps=100)
    errors = [(generate(pipe, "one", num_inference_steps=steps) - fine).abs().max() for steps in (2, 8, 30)]
    assert errors[0] > errors[1] > errors[2]


def test_scheduler_must_be_flow_matching(pipe):
    components = {"model": pipe.model, "image_processor": pipe.image_processor}
    with pytest.raises(ValueError, match="got DDPMScheduler"):
        LZNPipeline(scheduler=DDPMScheduler(), **components)
    swapped = LZNPipeline.from_pipe(pipe)
    swapped.scheduler = DDPMScheduler()
    with pytest.raises(ValueError, match="got DDPMScheduler"):
        swapped(label="one")


# ---------------------------------------------------------------- the way


@pytest.mark.parametrize(("solver", "t_min"), [("euler", 0.0), ("euler", 0.3), ("heun", 0.3)])
def test_trajectory_is_every_step_of_the_solver(pipe, solver, t_min):
    latents, noise = torch.randn(3, 6), torch.randn(3, 1, 8, 8)
    options = {"latents": latents, "sample_noise": noise, "solver": solver, "t_min": t_min, "num_inference_steps": 4}
    output = pipe(return_trajectory=True, batch_size=2, output_type="pt", **options)
    assert isinstance(output, LZNPipelineOutput) and output.trajectory.shape == (5, 3, 1, 8, 8)
    assert output.times == pytest.approx([t_min + k * (1 - t_min) / 4 for k in range(5)])
    assert torch.equal(output.trajectory[0], noise) and torch.equal(pixels(output.trajectory[-1]), output.images)
    with torch.no_grad():
        for k in range(4):
            step = integrate_velocity(
                lambda x, t: pipe.model.predict_velocity(x, t, latents),
                output.trajectory[k],
                output.times[k : k + 2],
                solver,
            )
            torch.testing.assert_close(output.trajectory[k + 1], step, atol=2e-6, rtol=0)
    assert torch.equal(output.images, pipe(batch_size=2, output_type="pt", **options).images)


@pytest.mark.parametrize(
    "scheduler",
    [
        None,
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        FlowMatchEulerDiscreteScheduler(),
        FlowMatchHeunDiscreteScheduler(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_trajectory_of_schedulers(pipe, scheduler):
    """From the noise to the images, on the way that a fine integration takes."""
    pipe = LZNPipeline.from_pipe(pipe)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = pipe.scheduler if scheduler is None else scheduler
    options = {"label": ["one", "two", "six"], "return_trajectory": True, "output_type": "pt"}
    noise = torch.randn(3, 1, 8, 8)
    output = pipe(generator=seeded(), sample_noise=noise, num_inference_steps=20, batch_size=2, **options)
    assert output.trajectory.shape == (21, 3, 1, 8, 8) and len(output.times) == 21
    assert output.times == sorted(output.times) and output.times[0] < 2e-3 and output.times[-1] == 1
    assert torch.equal(output.trajectory[0], noise) and torch.equal(pixels(output.trajectory[-1]), output.images)
    fine = pipe(generator=seeded(), sample_noise=noise, num_inference_steps=100, solver="heun", **options)
    for t, sample in list(zip(output.times, output.trajectory, strict=True))[5:20:5]:
        assert (sample - fine.trajectory[round(t * 100)]).abs().max() < 0.03
        assert (sample - noise).abs().max() > 0.3


def test_outputs_with_and_without_a_trajectory(pipe):
    options = {"num_images_per_label": 2, "num_inference_steps": STEPS}
    output = pipe(**options)
    assert output.trajectory is None and output.times is None and len(output.to_tuple()) == 1
    images, trajectory, times = pipe(return_trajectory=True, return_dict=False, **options)
    assert len(images) == 2 and trajectory.shape == (STEPS + 1, 2, 1, 8, 8) and len(times) == STEPS + 1
    with pytest.raises(ValueError, match="`solver` must be None, 'euler' or 'heun', got 'rk45'"):
        pipe(return_trajectory=True, solver="rk45", **options)


# ---------------------------------------------------------------- from images to noise and back


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
@pytest.mark.parametrize("t_min", [0.0, 0.2])
def test_invert_and_generate_is_reconstruct(pipe, images, solver, t_min):
    options = {"num_inference_steps": 4, "solver": solver, "t_min": t_min}
    inversion = pipe.invert(images, generator=seeded(), batch_size=2, **options)
    assert isinstance(inversion, LZNInversion) and inversion.latents.dtype == inversion.noise.dtype == torch.float32
    assert inversion.latents.shape == (5, 6) and inversion.noise.shape == images.shape
    again = pipe(latents=inversion.latents, sample_noise=inversion.noise, output_type="pt", batch_size=2, **options)
    both = pipe.reconstruct(images, generator=seeded(), output_type="pt", batch_size=2, **options)
    assert torch.equal(again.images, both.images)


@pytest.mark.parametrize("t_min", [0.0, 0.2])
def test_noise_is_what_the_image_leaves_at_t_min(pipe, images, t_min):
    """x from t = 1 down to t_min, then noise = (x - t_min x1) / (1 - t_min), as published."""
    values = images * 2 - 1
    x, h = values, (1 - t_min) / 4
    with torch.no_grad():
        latents = pipe.model.get_image_latents(values, noise=torch.randn(5, 6, generator=seeded()))
        for k in range(4):
            x = x - h * pipe.model.predict_velocity(x, 1 - k * h, latents)
    inversion = pipe.invert(images, num_inference_steps=4, solver="euler", t_min=t_min, generator=seeded())
    torch.testing.assert_close(inversion.latents, latents, atol=1e-6, rtol=0)
    torch.testing.assert_close(inversion.noise, (x - t_min * values) / (1 - t_min), atol=1e-5, rtol=0)


def test_reconstruct_by_rk45(pipe, images):
    options = {"generator": seeded(), "output_type": "pt"}
    torch.testing.assert_close(pipe.reconstruct(images, solver="rk45", **options).images, images, atol=1e-4, rtol=0)
    coarse = pipe.reconstruct(images, solver="heun", num_inference_steps=4, **options).images
    assert (coarse - images).abs().max() > 1e-3


def test_solver_is_heun_if_nothing_is_said(pipe, images):
    calls = (
        lambda **options: pipe.invert(images, **options).noise,
        lambda **options: pipe.reconstruct(images, output_type="pt", **options).images,
        lambda **options: pipe.interpolate(*images[:2, None], output_type="pt", **options).images,
    )
    for call in calls:
        plain, heun, euler = (
            call(num_inference_steps=4, generator=seeded(), **options)
            for options in ({}, {"solver": "heun", "t_min": 0}, {"solver": "euler"})
        )
        assert torch.equal(plain, heun) and not torch.equal(plain, euler)


@pytest.mark.parametrize(("solver", "t_min"), [("euler", 0.2), ("heun", 0.2), ("rk45", 0.0)])
def test_interpolation_ends_where_reconstruct_does(pipe, images, solver, t_min):
    options = {"num_inference_steps": 4, "solver": solver, "t_min": t_min, "output_type": "pt"}
    way = pipe.interpolate(images[:1], images[1:2], num_steps=3, generator=seeded(), **options).images
    ends = pipe.reconstruct(images[:2], generator=seeded(), **options).images
    torch.testing.assert_close(way[[0, -1]], ends, atol=1e-4, rtol=0)
    other = pipe.interpolate(images[:1], images[1:2], num_steps=3, generator=seeded(), num_inference_steps=4)
    assert len(other.images) == 3 and (way[1] - ends).flatten(1).abs().amax(1).min() > 1e-2


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "rk4"}, "`solver` must be one of None, 'euler', 'heun', 'rk45', got 'rk4'"),
        ({"solver": "euler", "t_min": 1}, "`t_min` must be a number of at least 0 and less than 1, got 1"),
        ({"solver": "euler", "t_min": -0.1}, "`t_min` must be a number of at least 0 and less than 1, got -0.1"),
        ({"solver": "rk45", "t_min": float("nan")}, "`t_min` must be a number of at least 0 and less than 1, got nan"),
        ({"solver": "rk45", "t_min": "0"}, "`t_min` must be a number of at least 0 and less than 1, got '0'"),
        ({"solver": "rk45", "t_min": False}, "`t_min` must be a number .*, got False"),
        ({"t_min": 1e-3}, r"`t_min` must be 0 without a `solver` \('euler', 'heun', 'rk45'\), .* got 0.001"),
        (
            {"sample_noise": torch.zeros(2, 1, 8, 8)},
            r"`sample_noise` must be a tensor of shape \(3, 1, 8, 8\), got shape \(2, 1, 8, 8\)",
        ),
        ({"sample_noise": torch.zeros(3, 1, 8, 9)}, r"`sample_noise` must be .*, got shape \(3, 1, 8, 9\)"),
        ({"sample_noise": torch.zeros(1, 8, 8)}, r"`sample_noise` must be .*, got shape \(1, 8, 8\)"),
        ({"sample_noise": [0.0]}, r"`sample_noise` must be a tensor of shape \(3, 1, 8, 8\), got list"),
        ({"sample_noise": torch.full((3, 1, 8, 8), torch.nan)}, "`sample_noise` must be finite"),
    ],
)
def test_bad_arguments(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(num_images_per_label=3, num_inference_steps=STEPS, **arguments)


def test_bad_arguments_with_images(pipe, images):
    for call in (
        pipe.invert,
        pipe.reconstruct,
        lambda images, **options: pipe.interpolate(*images[:2, None], **options),
    ):
        with pytest.raises(ValueError, match="`solver` must be one of 'euler', 'heun', 'rk45', got None"):
            call(images, solver=None)
        with pytest.raises(ValueError, match="`t_min` must be a number of at least 0 and less than 1, got 1.0"):
            call(images, t_min=1.0)
        with pytest.raises(ValueError, match="`num_inference_steps` must be a whole number of at least 1, got 0"):
            call(images, num_inference_steps=0)
        with pytest.raises(ValueError, match="`batch_size` must be a whole number of at least 1, got 0"):
            call(images, batch_size=0)
    with pytest.raises(ValueError, match="list of 5, one an image, got 1"):
        pipe.invert(images, generator=[seeded()])
    with pytest.raises(ValueError, match="set_reference_anchors"):
        make_pipeline(num_reference_anchors=0).invert(images)


def test_model_without_a_decoder(pipe):
    model = copy.deepcopy(pipe.model)
    model.decoder = None
    components = {"scheduler": pipe.scheduler, "image_processor": pipe.image_processor}
    with pytest.raises(ValueError, match=r"`model` must have a decoder.*AutoModel\.from_pretrained"):
        LZNPipeline(model=model, **components)
