# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Editing: variations against what the inversion and the generation of the same pipeline say, and models without latents."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.pipelines import STEPS, generate, make_pipeline, pixels, seeded, smooth_pipeline
from torch import Tensor

from lzn_hf import LZNPipeline
from lzn_hf.pipeline_lzn import LZNInversion
from lzn_hf.sampling_lzn import integrate_velocity, slerp


OPTIONS = {"num_inference_steps": 3, "output_type": "pt"}


@pytest.fixture(scope="module")
def pipe() -> LZNPipeline:
    return smooth_pipeline()


@pytest.fixture(scope="module")
def noise_only() -> LZNPipeline:
    """A plain rectified flow."""
    return smooth_pipeline(names=[], num_reference_anchors=0, encoder_type=None)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 8, 8)


def vary(pipe: LZNPipeline, images: Tensor, strength: float, **options) -> Tensor:
    return pipe.vary(images, strength, **{**OPTIONS, "generator": seeded(), **options}).images


# ---------------------------------------------------------------- variations


@pytest.mark.parametrize("keep", ["latent", "noise"])
@pytest.mark.parametrize(("solver", "t_min"), [("heun", 0.0), ("euler", 0.2), ("rk45", 0.0)])
def test_variations_are_inversion_rotation_and_generation(pipe, images, keep, solver, t_min):
    """The place in the zones is drawn first, as by `invert`, and then the new noise of one variation after the other."""
    options, generator = {"solver": solver, "t_min": t_min}, seeded()
    inversion = pipe.invert(images, num_inference_steps=3, generator=generator, **options)
    latents, noise = inversion.latents, inversion.noise
    expected = []
    for _ in range(2):
        new = torch.randn(noise.shape if keep == "latent" else latents.shape, generator=generator)
        turned = next(math.sqrt(1 - 0.7**2) * x + 0.7 * new for x in ([noise] if keep == "latent" else [latents]))
        pair = (latents, turned) if keep == "latent" else (turned, noise)
        expected.append(pipe(latents=pair[0], sample_noise=pair[1], **OPTIONS, **options).images)
    actual = vary(pipe, images, 0.7, keep=keep, num_images_per_image=2, **options)
    assert actual.shape == (6, 1, 8, 8)
    torch.testing.assert_close(actual, torch.stack(expected, 1).flatten(0, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("keep", ["latent", "noise"])
def test_strength_goes_from_the_image_to_what_is_kept_alone(pipe, images, keep):
    reconstructed = pipe.reconstruct(images, generator=seeded(), **OPTIONS).images
    assert torch.equal(vary(pipe, images, 0, keep=keep), reconstructed)
    changes = [(vary(pipe, images, w, keep=keep) - reconstructed).square().mean() for w in (0.05, 0.3, 0.8)]
    assert 1e-9 < changes[0] < changes[1] < changes[2]
    # At 1 nothing is left of what is not kept: other noise there changes nothing.
    generator = seeded()
    inversion = pipe.invert(images, num_inference_steps=3, generator=generator)
    new = torch.randn(inversion.noise.shape if keep == "latent" else inversion.latents.shape, generator=generator)
    pair = (inversion.latents, new) if keep == "latent" else (new, inversion.noise)
    fresh = pipe(latents=pair[0], sample_noise=pair[1], solver="heun", **OPTIONS).images
    torch.testing.assert_close(vary(pipe, images, 1, keep=keep), fresh, atol=1e-5, rtol=0)


def test_the_noise_varies_if_nothing_is_said(pipe, images):
    assert torch.equal(vary(pipe, images, 0.5), vary(pipe, images, 0.5, keep="latent"))
    assert not torch.equal(vary(pipe, images, 0.5), vary(pipe, images, 0.5, keep="noise"))
    assert torch.equal(vary(pipe, images, 0.5), vary(pipe, images, 0.5, solver="heun", t_min=0))


def test_labels_follow_latents_that_move(pipe):
    """The decoder is given the label of the zone that a varied latent lies in, not that of the image."""
    images, seen = torch.rand(8, 1, 8, 8), []
    predict = pipe.model.predict_velocity

    def watched(x, t, latents, labels, **options):
        seen.append((latents, labels))
        return predict(x, t, latents, labels, **options)

    pipe.model.predict_velocity = watched
    try:
        vary(pipe, images, 1, keep="noise", solver="euler")
    finally:
        del pipe.model.predict_velocity
    (before, labels_before), (after, labels_after) = seen[0], seen[-1]
    assert not torch.equal(before, after) and not torch.equal(labels_before, labels_after)
    with torch.no_grad():
        assert torch.equal(labels_after, pipe.model.classify_latents(after).argmax(-1))


@pytest.mark.parametrize("keep", ["latent", "noise"])
def test_variations_of_an_image_depend_on_nothing_else(pipe, images, keep):
    """Neither on the other images, if each has its generator, nor on the chunks, nor on how many follow them."""
    options = {"keep": keep, "num_images_per_image": 3}
    together = vary(pipe, images, 0.5, generator=[seeded(i) for i in range(3)], **options)
    chunked = vary(pipe, images, 0.5, generator=[seeded(i) for i in range(3)], batch_size=2, **options)
    torch.testing.assert_close(chunked, together, atol=1e-5, rtol=0)
    for i in range(3):
        alone = vary(pipe, images[i : i + 1], 0.5, generator=seeded(i), **options)
        torch.testing.assert_close(alone, together[3 * i : 3 * i + 3], atol=1e-5, rtol=0)
        first = vary(pipe, images[i : i + 1], 0.5, generator=seeded(i), keep=keep)
        torch.testing.assert_close(first, alone[:1], atol=1e-5, rtol=0)
        assert (alone[1:] - alone[:-1]).flatten(1).abs().amax(1).min() > 1e-3


def test_output_types_of_variations(pipe, images):
    options = {"num_inference_steps": 1, "num_images_per_image": 2}
    pils = pipe.vary(images, 0.5, **options).images
    assert len(pils) == 6 and all(image.mode == "L" and image.size == (8, 8) for image in pils)
    (arrays,) = pipe.vary(pils[0], 0.5, output_type="np", return_dict=False, **options)
    assert arrays.shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 1.5}, "`strength` must be a number from 0 to 1, got 1.5"),
        ({"strength": -0.1}, "`strength` must be a number from 0 to 1, got -0.1"),
        ({"strength": float("nan")}, "`strength` must be a number from 0 to 1, got nan"),
        ({"strength": "0.5"}, "`strength` must be a number from 0 to 1, got '0.5'"),
        ({"strength": True}, "`strength` must be a number from 0 to 1, got True"),
        ({"keep": "label"}, "`keep` must be 'latent' or 'noise', got 'label'"),
        ({"num_images_per_image": 0}, "`num_images_per_image` must be a whole number of at least 1, got 0"),
        ({"num_inference_steps": 0}, "`num_inference_steps` must be a whole number of at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0"),
        ({"solver": None}, "`solver` must be one of 'euler', 'heun', 'rk45', got None"),
        ({"t_min": 1.0}, "`t_min` must be a number of at least 0 and less than 1, got 1.0"),
        ({"output_type": "jpg"}, "`output_type` must be 'pil', 'np' or 'pt', got 'jpg'"),
        ({"generator": [seeded()] * 6}, "list of 3, one an image, got 6"),
    ],
)
def test_bad_arguments(pipe, images, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe.vary(images, **{"strength": 0.5, "num_images_per_image": 2, **arguments})


def test_variations_need_reference_anchors(images):
    with pytest.raises(ValueError, match="set_reference_anchors"):
        make_pipeline(num_reference_anchors=0).vary(images, 0.5)


# ---------------------------------------------------------------- models without latents


def velocity(pipe: LZNPipeline):
    return lambda x, t: pipe.model.predict_velocity(x, t)


def test_without_latents_images_come_from_noise_alone(noise_only):
    noise = torch.randn(4, 1, 8, 8, generator=seeded())
    times = torch.linspace(0, 1, 4).tolist()
    with torch.no_grad():
        sample = integrate_velocity(velocity(noise_only), noise, times)
    expected = pixels(sample)
    options = {"solver": "heun", **OPTIONS}
    torch.testing.assert_close(generate(noise_only, num_images_per_label=4, **options), expected)
    torch.testing.assert_close(generate(noise_only, sample_noise=noise, **options), expected)
    assert torch.equal(
        generate(noise_only, sample_noise=noise, num_images_per_label=4, **options),
        generate(noise_only, sample_noise=noise, **options),
    )
    rk45 = {"solver": "rk45", "sample_noise": noise}
    torch.testing.assert_close(
        generate(noise_only, batch_size=3, **rk45), generate(noise_only, **rk45), atol=1e-4, rtol=0
    )
    assert generate(noise_only, num_images_per_label=2).shape == (2, 1, 8, 8)  # by the scheduler


def test_without_latents_there_and_back(noise_only, images):
    values = images * 2 - 1
    times = torch.linspace(1, 0, 4).tolist()
    with torch.no_grad():
        noise = integrate_velocity(velocity(noise_only), values, times)
    inversion = noise_only.invert(images, num_inference_steps=3)
    assert isinstance(inversion, LZNInversion) and inversion.latents is None
    torch.testing.assert_close(inversion.noise, noise, atol=1e-5, rtol=0)
    again = noise_only(latents=inversion.latents, sample_noise=inversion.noise, solver="heun", **OPTIONS).images
    assert torch.equal(again, noise_only.reconstruct(images, **OPTIONS).images)
    exact = noise_only.reconstruct(images, solver="rk45", output_type="pt").images
    torch.testing.assert_close(exact, images, atol=1e-4, rtol=0)


def test_without_latents_interpolations_and_variations(noise_only, images):
    noise = noise_only.invert(images, num_inference_steps=3).noise
    middle = generate(noise_only, sample_noise=slerp(noise[0], noise[1], 0.5)[None], solver="heun", **OPTIONS)
    way = noise_only.interpolate(images[:1], images[1:2], num_steps=3, **OPTIONS).images
    torch.testing.assert_close(way[1:2], middle, atol=1e-5, rtol=0)

    new = torch.randn(noise.shape, generator=seeded())  # there is no place in a zone to draw before
    turned = math.sqrt(1 - 0.6**2) * noise + 0.6 * new
    expected = generate(noise_only, sample_noise=turned, solver="heun", **OPTIONS)
    torch.testing.assert_close(vary(noise_only, images, 0.6), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="`keep` must be 'latent' for a model without latents.*got 'noise'"):
        noise_only.vary(images, 0.6, keep="noise")


def test_what_a_model_without_latents_cannot_do(noise_only, images):
    with pytest.raises(ValueError, match="no image encoder"):
        noise_only.embed(images)
    with pytest.raises(ValueError, match="no labels.*cannot classify"):
        noise_only.classify(images)
    with pytest.raises(ValueError, match="`latents` must be None for a model without image encoder"):
        noise_only(latents=torch.zeros(2, 6), num_inference_steps=STEPS)
    with pytest.raises(ValueError, match="`label` must be None"):
        noise_only(label=1)
    for call in (noise_only.invert, noise_only.reconstruct, lambda bad: noise_only.vary(bad, 0.5)):
        with pytest.raises(ValueError, match=r"`pixel_values` must have shape \(batch, 1, 8, 8\).*\(1, 1, 9, 9\)"):
            call({"pixel_values": torch.zeros(1, 1, 9, 9)})
        with pytest.raises(ValueError, match="`pixel_values` must be finite"):
            call({"pixel_values": torch.full((1, 1, 8, 8), torch.nan)})
    with pytest.raises(ValueError, match=r"`sample_noise` must be a tensor of shape \(3, 1, 8, 8\), got shape \(2,"):
        noise_only(sample_noise=torch.zeros(2, 1, 8, 8), num_images_per_label=3)
    with pytest.raises(
        ValueError, match=r"`sample_noise` must be a tensor of shape \(N, 1, 8, 8\), got shape \(1, 8,"
    ):
        noise_only(sample_noise=torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match="list of 2, one an image, got 1"):
        noise_only(sample_noise=torch.zeros(2, 1, 8, 8), generator=[seeded()])
