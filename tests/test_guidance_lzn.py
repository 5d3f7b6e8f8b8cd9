# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Guidance: the formula by known velocities, what a guide is given, its ends to the bit, and what is refused."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler
from helpers.pipelines import NAMES, generate, make_pipeline, pixels, seeded

from lzn_hf import LZNConfig, LZNModel, LZNPipeline
from lzn_hf.guidance_lzn import Guidance


@pytest.fixture(scope="module")
def pipe() -> LZNPipeline:
    return make_pipeline()


@pytest.fixture(scope="module")
def guide() -> LZNPipeline:
    """Another model: of another decoder, with its labels in another order."""
    return make_guide(NAMES[::-1], decoder_input_skip="sum")


@pytest.fixture(scope="module")
def free() -> LZNPipeline:
    """A model that knows how to do without a condition."""
    return make_pipeline(condition_dropout=0.1)


def make_guide(names=NAMES, **options) -> LZNPipeline:
    pipe = make_pipeline(names, **options)
    with torch.no_grad():
        for number, parameter in enumerate(pipe.model.parameters()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeded(number)))
    return pipe


def constant_velocity(pipe: LZNPipeline, value: float) -> LZNPipeline:
    """Makes the velocity of a pipeline a constant, whatever the decoder is given."""
    with torch.no_grad():
        pipe.model.decoder.conv_out.weight.zero_()
        pipe.model.decoder.conv_out.bias.fill_(value)
    return pipe


@pytest.mark.parametrize("scale", [0, 0.5, 1, 1.5, 4])
def test_constant_velocities_give_the_formula(scale):
    """Along a constant velocity v, an image is its noise + v, for every solver."""
    strong, weak = constant_velocity(make_pipeline(), 0.3), constant_velocity(make_pipeline(), 0.1)
    noise = torch.randn(2, 1, 8, 8, generator=seeded())
    expected = pixels(noise + 0.1 + scale * (0.3 - 0.1))
    for solver in (None, "euler", "heun", "rk45"):
        images = generate(strong, [1, 2], sample_noise=noise, solver=solver, guide=weak, guidance_scale=scale)
        torch.testing.assert_close(images, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("solver", [None, "euler", "heun"])
def test_scale_1_is_no_guidance_to_the_bit_and_does_not_evaluate_the_guide(pipe, guide, free, solver):
    calls: list[int] = []
    hook = guide.model.decoder.register_forward_hook(lambda *_: calls.append(1))
    options = {"solver": solver, "num_images_per_label": 2}
    expected = generate(pipe, ["one", "two"], **options)
    assert torch.equal(generate(pipe, ["one", "two"], **options, guide=guide, guidance_scale=1), expected)
    hook.remove()
    assert not calls
    assert torch.equal(generate(free, "one", guidance_scale=1.0), generate(free, "one"))
    assert not torch.equal(generate(pipe, ["one", "two"], **options, guide=guide, guidance_scale=2), expected)


def test_scale_0_is_the_guide_alone(pipe, guide):
    """Its own latents and labels, from the same noise: labels have the same names and other ids, anchors and weights."""
    for label in ("one", ["three", "seven"]):
        alone = generate(guide, label, num_images_per_label=2)
        assert torch.equal(generate(pipe, label, num_images_per_label=2, guide=guide, guidance_scale=0), alone)


def test_each_step_is_the_formula(pipe, guide):
    """Euler steps by hand. Each model places the noise that the generators draw in its own zones."""
    noise = torch.cat([torch.randn(1, 6, generator=seeded(number)) for number in range(2)])
    x = sample = torch.randn(2, 1, 8, 8, generator=seeded(2))
    strong, weak = (
        (one.model, one.model.get_label_latents(labels, noise=noise), labels)
        for one, labels in ((pipe, torch.tensor([3, 5])), (guide, torch.tensor([6, 4])))
    )
    with torch.no_grad():
        for step in range(4):
            velocity, guiding = (model.predict_velocity(x, step / 4, *given) for model, *given in (strong, weak))
            x = x + (guiding + 2.5 * (velocity - guiding)) / 4
    options = {"solver": "euler", "num_inference_steps": 4, "sample_noise": sample, "guidance_scale": 2.5}
    options["generator"] = [seeded(number) for number in range(2)]
    images = generate(pipe, ["three", "five"], guide=guide, **options)
    torch.testing.assert_close(images, pixels(x), atol=1e-5, rtol=0)


def test_without_a_guide_the_model_without_its_condition_guides(free):
    """Classifier-free: along given latents, too, and at scale 0 nothing but the noise counts."""
    model, x = free.model, torch.randn(2, 1, 8, 8, generator=seeded(2))
    latents, labels = torch.randn(2, 6, generator=seeded(1)), torch.tensor([3, 5])
    with torch.no_grad():
        conditional = model.predict_velocity(x, 0.3, latents, labels)
        nothing = model.predict_velocity(
            x, 0.3, torch.zeros(2, 6), torch.tensor([-1, -1])
        )  # no label: a one-hot of zeros
        guided = Guidance(model, 3.0).predict_velocity(x, 0.3, latents, labels)
        assert torch.equal(model.predict_velocity(x, 0.3, unconditional=True), nothing)
    torch.testing.assert_close(guided, nothing + 3 * (conditional - nothing))
    assert (conditional - nothing).abs().max() > 1e-3
    one, other = (generate(free, label, sample_noise=x, guidance_scale=0) for label in ([1, 2], [3, 4]))
    assert torch.equal(one, other)
    options = {"latents": latents, "sample_noise": x}
    assert torch.equal(generate(free, **options, guidance_scale=0), one)
    assert not torch.equal(generate(free, **options, guidance_scale=3), generate(free, **options))


def test_a_plain_flow_of_labels_guides_and_is_guided():
    """A decoder without latents, by labels or without."""
    options = {"encoder_type": None, "num_reference_anchors": 0}
    flow, unlabelled = make_pipeline(**options, condition_dropout=0.2), make_guide((), **options)
    noise, lzn = torch.randn(2, 1, 8, 8, generator=seeded()), make_pipeline()
    alone = generate(flow, [4, 7], sample_noise=noise)
    assert torch.equal(generate(lzn, [4, 7], sample_noise=noise, guide=flow, guidance_scale=0), alone)
    assert not torch.equal(generate(flow, [4, 7], sample_noise=noise, guidance_scale=2), alone)
    weak = generate(unlabelled, sample_noise=noise)
    for options in ({"label": [4, 7]}, {"latents": torch.randn(2, 6)}):
        guided = generate(lzn, sample_noise=noise, guide=unlabelled, guidance_scale=0, **options)
        assert torch.equal(guided, weak)


def test_a_guide_is_a_model_a_pipeline_or_a_folder(pipe, guide, tmp_path):
    expected = generate(pipe, "two", guide=guide, guidance_scale=2)
    guide.save_pretrained(tmp_path / "pipeline")
    guide.model.save_pretrained(tmp_path / "model")  # as in a checkpoint of a run
    for one in (guide.model, tmp_path / "pipeline", str(tmp_path / "model")):
        torch.testing.assert_close(generate(pipe, "two", guide=one, guidance_scale=2), expected, atol=1e-6, rtol=0)


def test_a_compiled_pipeline_guides(pipe, guide):
    compiled = LZNPipeline(**{**guide.components, "model": torch.compile(guide.model)})
    images = [generate(pipe, 1, seeded(), guide=one, guidance_scale=2.0) for one in (guide, compiled)]
    assert torch.equal(*images)


def test_chunks_trajectory_and_modes(pipe, guide):
    """A guide in training mode has no dropout during a call, and is in training mode after it."""
    options = {"guide": guide, "guidance_scale": 2, "num_images_per_label": 3}
    expected = generate(pipe, ["one", "two"], **options)
    guide.model.train()
    try:
        chunked = generate(pipe, ["one", "two"], **options, batch_size=4)
        assert guide.model.training and guide.model.decoder.training
    finally:
        guide.model.eval()
    torch.testing.assert_close(chunked, expected, atol=1e-5, rtol=0)
    output = pipe(
        "one", **options, generator=seeded(), num_inference_steps=4, output_type="pt", return_trajectory=True
    )
    assert output.trajectory.shape == (5, 3, 1, 8, 8)
    torch.testing.assert_close(pixels(output.trajectory[-1]), output.images)


@pytest.mark.parametrize(("solver", "scheduler", "calls"), [(None, None, 6), ("heun", None, 12), (None, "heun", 11)])
def test_the_progress_bar_counts_the_evaluations_of_both(pipe, guide, solver, scheduler, calls, monkeypatch):
    if scheduler:
        pipe = LZNPipeline(**{**pipe.components, "scheduler": FlowMatchHeunDiscreteScheduler()})
    counts, bars = [0, 0], []
    hooks = [
        one.model.decoder.register_forward_hook(lambda *_, place=place: counts.__setitem__(place, counts[place] + 1))
        for place, one in enumerate((pipe, guide))
    ]
    show = pipe.progress_bar

    def watched(total):
        bars.append((total, show(total=total)))
        return bars[-1][1]

    monkeypatch.setattr(pipe, "progress_bar", watched)
    pipe.set_progress_bar_config(disable=False)
    generate(pipe, ["one", "two"], solver=solver, batch_size=1, guide=guide, guidance_scale=2)
    pipe.set_progress_bar_config(disable=True)
    for hook in hooks:
        hook.remove()
    assert counts == [2 * calls, 2 * calls]
    assert bars[0][0] == sum(counts) == bars[0][1].n


def test_threads_share_pipeline_and_guide(pipe, guide):
    calls = [{}, {"guide": guide, "guidance_scale": 2}, {"guide": guide, "guidance_scale": 0.5}]
    expected = [generate(pipe, "four", **call) for call in calls]
    start = threading.Barrier(len(calls))

    def at_once(call):
        start.wait()
        return [generate(pipe, "four", **call) for _ in range(2)]

    with ThreadPoolExecutor(len(calls)) as threads:
        for results, alone in zip(threads.map(at_once, calls), expected, strict=True):
            assert all(torch.equal(result, alone) for result in results)


@pytest.mark.parametrize("scale", [-0.1, math.nan, math.inf, "2", True, None])
def test_bad_scales(pipe, scale):
    with pytest.raises(ValueError, match="`guidance_scale` must be a finite number of at least 0, got"):
        generate(pipe, "one", guidance_scale=scale)


def test_a_scale_without_anything_to_guide_names_both_ways(pipe):
    with pytest.raises(ValueError, match="`guidance_scale` must be 1 .* pass as `guide` .* `condition_dropout`"):
        generate(pipe, "one", guidance_scale=2)
    with pytest.raises(ValueError, match="`unconditional` needs a model trained with `config.condition_dropout`"):
        pipe.model.predict_velocity(torch.zeros(1, 1, 8, 8), 0.5, unconditional=True)
    with pytest.raises(ValueError, match="takes neither `latents` nor `labels`"):
        make_pipeline(condition_dropout=0.1).model.predict_velocity(
            torch.zeros(1, 1, 8, 8), 0.5, torch.zeros(1, 6), unconditional=True
        )


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": NAMES[:9]}, "`guide` must have the labels of the model, by their names, but it lacks 'nine'"),
        ({"names": ()}, "`guide` has latents of its own, .* the guide has no labels"),
        ({"channels": 3}, "`guide` must have the `num_channels` of the model, 1, got 3"),
        ({"image_size": 16}, "`guide` must have the `image_size` of the model, 8, got 16"),
        ({"latent_dim": 7}, "`guide` must have latents of the size of the model's, 6, .* got 7"),
        ({"decoder_type": None}, "`guide` must have a decoder"),
    ],
)
def test_guides_that_do_not_fit(pipe, options, message, scale):
    sizes = {"names": NAMES, "channels": 1, "image_size": 8, "latent_dim": 6} | options
    config = {
        name: value for name, value in vars(pipe.model.config).items() if name.startswith(("encoder", "decoder"))
    }
    config |= {"num_channels": sizes.pop("channels"), "id2label": dict(enumerate(sizes.pop("names")))}
    guide = LZNModel(LZNConfig(**(config | sizes)))
    with pytest.raises(ValueError, match=message):
        generate(pipe, "one", guide=guide, guidance_scale=scale)


def test_other_misuse_of_a_guide(pipe, guide):
    with pytest.raises(ValueError, match="`guide` must be an LZNModel, an LZNPipeline, or the folder .* got int"):
        generate(pipe, "one", guide=5, guidance_scale=2)
    for options in ({}, {"latents": torch.zeros(1, 6)}):
        with pytest.raises(ValueError, match="no `label` is given: pass a `label`"):
            generate(pipe, guide=guide, guidance_scale=2, **options)
    unlabelled = make_pipeline((), encoder_type=None, num_reference_anchors=0)
    labelled = make_pipeline(encoder_type=None, num_reference_anchors=0)
    with pytest.raises(ValueError, match="has labels and the model has none"):
        generate(unlabelled, guide=labelled, guidance_scale=2)
    with pytest.raises(ValueError, match="`guide` must be on the device of the model, cpu, got meta"):
        generate(pipe, "one", guide=make_pipeline().model.to("meta"), guidance_scale=2)
