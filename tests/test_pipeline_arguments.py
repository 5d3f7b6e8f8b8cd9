# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Arguments of LZNPipeline that users of diffusers know: callbacks, interruption, names of sizes and numbers; the trajectory as images."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from diffusers import FlowMatchHeunDiscreteScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.hooks import apply_layerwise_casting
from helpers.models import tiny_config
from helpers.pipelines import STEPS, generate, make_pipeline, pixels, seeded
from PIL import Image
from torch import Tensor

from lzn_hf import LZNForImageClassification, LZNPipeline


@pytest.fixture(scope="module")
def pipe() -> LZNPipeline:
    return make_pipeline()


def count_evaluations(pipe: LZNPipeline) -> list[int]:
    """A list that grows by the number of samples of each evaluation of the decoder."""
    evaluations: list[int] = []
    pipe.model.decoder.register_forward_hook(lambda module, inputs, output: evaluations.append(len(output)))
    return evaluations


# ---------------------------------------------------------------- callbacks


@pytest.mark.parametrize("solver", [None, "euler", "heun", FlowMatchHeunDiscreteScheduler()], ids=str)
def test_callback_sees_every_step(pipe, solver):
    """Of each chunk, with the samples that the trajectory has; results stay the same to the bit."""
    if not (solver is None or isinstance(solver, str)):
        pipe, solver = LZNPipeline(**{**pipe.components, "scheduler": solver}), None
        pipe.set_progress_bar_config(disable=True)
    arguments = {"num_images_per_label": 3, "batch_size": 2, "num_inference_steps": 4, "output_type": "pt"}
    arguments["solver"] = solver
    expected = pipe(**arguments, generator=seeded(), return_trajectory=True)
    seen: list[tuple[int, float, dict[str, Tensor]]] = []

    def look(caller: Any, step: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
        assert caller is pipe
        seen.append((step, t, tensors))
        return tensors if step % 2 else None

    names = ["latents", "sample"]
    actual = pipe(**arguments, generator=seeded(), callback_on_step_end=look, callback_on_step_end_tensor_inputs=names)
    assert torch.equal(actual.images, expected.images)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3] * 2 and [t for _, t, _ in seen] == expected.times[1:] * 2
    assert all(list(tensors) == names for _, _, tensors in seen)
    for start, first in ((0, 0), (4, 2)):
        samples = torch.stack([tensors["sample"] for _, _, tensors in seen[start : start + 4]])
        assert torch.equal(samples, expected.trajectory[1:, first : first + 2])
    latents = torch.randn(3, 6, generator=seeded())
    assert torch.equal(torch.cat([seen[0][2]["latents"], seen[4][2]["latents"]]), latents)


@pytest.mark.parametrize("in_place", [False, True])
def test_callback_changes_the_samples(pipe, in_place):
    """The last ones are the images, and the trajectory has what they were changed to."""

    def empty(pipe: Any, step: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if step == STEPS - 1:
            if in_place:
                tensors["sample"].zero_()
                return None
            return {"sample": torch.zeros(1, 1, 8, 8, dtype=torch.float64)}
        return tensors

    arguments = {"num_inference_steps": STEPS, "output_type": "pt", "return_trajectory": True}
    output = pipe("one", callback_on_step_end=empty, **arguments)
    assert output.images.dtype == torch.float32 and (output.images == 0.5).all()
    assert (output.trajectory[-1] == 0).all() and (output.trajectory[-2] != 0).any()


def test_callback_changes_the_latents(pipe):
    """From the next step on; the label for the decoder stays."""
    first, second = torch.randn(1, 6), torch.randn(1, 6)
    noise = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        labels, sample = pipe.model.classify_latents(first).argmax(-1), noise
        for step in range(4):
            latents = first if step < 2 else second
            sample = sample + pipe.model.predict_velocity(sample, step / 4, latents, labels) / 4

    def exchange(pipe: Any, step: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": second} if step == 1 else {}

    arguments = {"latents": first, "sample_noise": noise, "solver": "euler", "num_inference_steps": 4}
    actual = generate(pipe, **arguments, callback_on_step_end=exchange)
    torch.testing.assert_close(actual, pixels(sample))
    assert (actual - generate(pipe, **arguments)).abs().max() > 1e-3


def test_callbacks_of_diffusers(pipe):
    """They say themselves what they get."""

    class Flip(PipelineCallback):
        tensor_inputs = ["latents"]

        def callback_fn(self, pipeline, step_index, timesteps, callback_kwargs):
            callback_kwargs["latents"] = -callback_kwargs["latents"]
            return callback_kwargs

    plain = generate(pipe, num_images_per_label=2)
    flipped = generate(pipe, num_images_per_label=2, callback_on_step_end=Flip())
    assert (flipped - plain).abs().max() > 1e-3
    twice = MultiPipelineCallbacks([Flip(), Flip()])
    assert torch.equal(generate(pipe, num_images_per_label=2, callback_on_step_end=twice), plain)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (torch.zeros(1), "`callback_on_step_end` must return a dict of tensors or None, got Tensor"),
        ({"noise": torch.zeros(1)}, "must return some of 'sample', 'latents', got 'noise'"),
        (
            {"sample": torch.zeros(1, 8, 8)},
            r"`sample` must be a tensor of shape \(1, 1, 8, 8\), got shape \(1, 8, 8\)",
        ),
        ({"latents": None}, r"`latents` must be a tensor of shape \(1, 6\), got NoneType"),
        ({"sample": torch.full((1, 1, 8, 8), torch.nan)}, "`sample` must be finite"),
    ],
)
def test_callback_returns_something_else(pipe, returned, message):
    with pytest.raises(ValueError, match=message):
        generate(pipe, callback_on_step_end=lambda *arguments: returned)


def test_callback_of_a_model_without_latents():
    pipe = make_pipeline(names=[], num_reference_anchors=0, encoder_type=None)
    names = ["sample", "latents"]
    seen: list[object] = []

    def look(pipe: Any, step: int, t: float, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(tensors["latents"])
        return tensors

    generate(pipe, callback_on_step_end=look, callback_on_step_end_tensor_inputs=names)
    assert seen == [None] * STEPS
    with pytest.raises(ValueError, match="`latents` must stay None, as the model has none, got Tensor"):
        generate(pipe, callback_on_step_end=lambda *arguments: {"latents": torch.zeros(1, 6)})


# ---------------------------------------------------------------- interruption


@pytest.mark.parametrize("solver", [None, "heun"])
def test_interruption(solver):
    """Images are the samples so far: finished ones of the first chunk, noise of the last."""
    pipe = make_pipeline()
    arguments = {"num_images_per_label": 3, "batch_size": 1, "solver": solver, "return_trajectory": True}
    arguments |= {"num_inference_steps": 4, "output_type": "pt"}
    whole = pipe(**arguments, generator=seeded())
    evaluations, calls = count_evaluations(pipe), []

    def stop(caller: Any, step: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        calls.append(step)
        caller._interrupt = len(calls) == 6  # the second step of the second chunk
        assert caller.interrupt is caller._interrupt is (len(calls) == 6)
        return tensors

    stopped = pipe(**arguments, generator=seeded(), callback_on_step_end=stop)
    assert calls == [0, 1, 2, 3, 0, 1] and len(evaluations) == 6 * (1 if solver is None else 2)
    expected = torch.stack([whole.trajectory[i, j] for i, j in ((-1, 0), (2, 1), (0, 2))])
    assert torch.equal(stopped.images, pixels(expected))
    assert stopped.times == whole.times and torch.equal(stopped.trajectory[-1], expected)
    assert torch.equal(stopped.trajectory[:3, 1], whole.trajectory[:3, 1])
    assert torch.equal(pipe(**arguments, generator=seeded()).images, whole.images) and not pipe.interrupt
    short = pipe(**arguments, callback_on_step_end=lambda pipe, *others: setattr(pipe, "_interrupt", True))
    assert len(short.trajectory) == len(short.times) == 2


@pytest.mark.parametrize("from_outside", [False, True])
def test_interruption_of_threads(pipe, from_outside):
    """A callback stops its own call; whoever is in no call stops all that run."""
    whole = generate(pipe, "one")
    begun, stopped = threading.Barrier(3), threading.Event()

    def call(is_first: bool) -> Tensor:
        def wait(caller: Any, step: int, t: float, tensors: dict[str, Tensor]) -> None:
            if step == 1:
                begun.wait(60)
                if is_first and not from_outside:
                    pipe._interrupt = True
                    stopped.set()
                assert stopped.wait(60)

        return generate(pipe, "one", callback_on_step_end=wait)

    with ThreadPoolExecutor(2) as threads:
        results = [threads.submit(call, is_first) for is_first in (True, False)]
        begun.wait(60)
        if from_outside:
            pipe._interrupt = True
            stopped.set()
        first, second = (result.result() for result in results)
    assert not torch.equal(first, whole) and torch.equal(second, first if from_outside else whole)
    assert torch.equal(generate(pipe, "one"), whole)


def test_interruption_between_chunks_of_the_adaptive_solver():
    pipe = make_pipeline()
    with torch.no_grad():  # of a random velocity, it would take many steps
        for parameter in pipe.model.decoder.parameters():
            parameter.zero_()
    evaluations = count_evaluations(pipe)
    noise = torch.randn(3, 1, 8, 8)
    arguments = {"latents": torch.zeros(3, 6), "sample_noise": noise, "solver": "rk45", "batch_size": 1}
    whole = generate(pipe, **arguments)
    num_evaluations = len(evaluations) // 3
    evaluations.clear()

    def stop(*arguments: object) -> None:
        evaluations.append(0)
        pipe._interrupt = True

    pipe.model.decoder.register_forward_hook(stop)
    assert torch.equal(generate(pipe, **arguments), whole)  # no velocity: the noise is the image
    assert len(evaluations) == 2 * num_evaluations


def test_a_call_within_a_callback(pipe):
    """Has an interruption of its own."""
    previews: list[Tensor] = []

    def preview(caller: Any, step: int, t: float, tensors: dict[str, Tensor]) -> None:
        if step == 0:
            stop = {"callback_on_step_end": lambda pipe, *others: setattr(pipe, "_interrupt", True)}
            previews.append(generate(caller, "two", **stop))
            assert not caller.interrupt

    assert torch.equal(generate(pipe, "one", callback_on_step_end=preview), generate(pipe, "one"))
    assert not torch.equal(previews[0], generate(pipe, "two"))


# ---------------------------------------------------------------- other arguments


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_trajectory_as_images(pipe, output_type):
    arguments = {"label": ["one", "two"], "num_inference_steps": 3, "batch_size": 1}
    tensors = pipe(**arguments, generator=seeded(), return_trajectory=True)
    output = pipe(**arguments, generator=seeded(), output_type=output_type, return_trajectory="images")
    trajectory, expected = output.trajectory, pixels(tensors.trajectory).numpy()
    assert output.times == tensors.times and len(trajectory) == 4
    if output_type == "pil":
        assert all(len(images) == 2 for images in trajectory)
        assert [image.tobytes() for image in trajectory[-1]] == [image.tobytes() for image in output.images]
        trajectory, expected = np.stack([np.stack(images) for images in trajectory]), (expected * 255).round()[:, :, 0]
    elif output_type == "np":
        expected = np.moveaxis(expected, 2, -1)
    assert trajectory.shape == expected.shape
    np.testing.assert_allclose(trajectory, expected, rtol=0, atol=1e-6)
    (_, as_tuple, times) = pipe(**arguments, output_type=output_type, return_trajectory="images", return_dict=False)
    assert type(as_tuple) is type(output.trajectory) and times == output.times


def test_other_names(pipe):
    expected = generate(pipe, "one", num_images_per_label=3)
    assert torch.equal(generate(pipe, "one", num_images_per_prompt=3), expected)
    both = {"num_images_per_label": 3, "num_images_per_prompt": 3}
    assert torch.equal(generate(pipe, "one", **both, height=8, width=8, seed=None), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images_per_prompt": 0}, "`num_images_per_prompt` must be a whole number of at least 1, got 0"),
        (
            {"num_images_per_prompt": 2, "num_images_per_label": 3},
            "is another name of `num_images_per_label`.* 2 and 3",
        ),
        ({"height": 16}, "`height` must be 8, the size of the images of this model, got 16"),
        ({"height": 8, "width": 16}, "`width` must be 8, the size of the images of this model, got 16"),
        ({"seed": 7}, r"`seed` must be None, got 7: pass generator=torch.Generator\(\).manual_seed\(7\)"),
        ({"return_trajectory": "pil"}, "`return_trajectory` must be one of False, True, 'images', got 'pil'"),
        ({"return_trajectory": "images", "solver": "rk45"}, "`return_trajectory` needs steps that all images share"),
        (
            {"callback_on_step_end": print, "solver": "rk45"},
            "`callback_on_step_end` needs steps that all images share",
        ),
        ({"callback_on_step_end": 1}, "`callback_on_step_end` must be callable, got 1"),
        (
            {"callback_on_step_end_tensor_inputs": ["sample", "prompt_embeds"]},
            r"a list of 'sample' and 'latents' or a part of it, got \['sample', 'prompt_embeds'\]",
        ),
        ({"callback_on_step_end_tensor_inputs": "sample"}, "a list of 'sample' and 'latents' .* got 'sample'"),
    ],
)
def test_bad_arguments(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


def test_layerwise_casting():
    """Of diffusers: weights of eight bits compute what the same values compute in float32."""
    small, images = make_pipeline(), torch.rand(3, 1, 8, 8)
    apply_layerwise_casting(small.model, storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert small.model.decoder.conv_in.weight.dtype == torch.float8_e4m3fn
    same = make_pipeline()
    same.model.load_state_dict({name: weight.float() for name, weight in small.model.state_dict().items()})
    assert torch.equal(generate(small, ["one", "two"]), generate(same, ["one", "two"]))
    assert torch.equal(small.embed(images), same.embed(images)) and small.classify(images) == same.classify(images)
    assert (generate(small, "one") - generate(make_pipeline(), "one")).abs().max() < 0.2


def test_progress_bar_can_be_disabled(pipe, capfd):
    generate(pipe, "one")
    assert capfd.readouterr().err == ""
    loud = LZNPipeline.from_pipe(pipe)
    generate(loud, "one")
    assert "6/6" in capfd.readouterr().err


@pytest.mark.parametrize("solver", [None, "heun"])
def test_inference_mode(pipe, solver):
    """Its tensors do not say whether a callback has written to them."""
    arguments = {"num_inference_steps": 3, "output_type": "pt", "solver": solver}

    def darken(pipe, step, t, tensors):
        if step == 0:
            tensors["sample"].mul_(0.5)

    for callback in (None, darken):
        expected = pipe(label=1, generator=seeded(), callback_on_step_end=callback, **arguments).images
        with torch.inference_mode():
            images = pipe(label=1, generator=seeded(), callback_on_step_end=callback, **arguments).images
            assert pipe.vary(images, 0.5, generator=seeded(), num_inference_steps=2).images
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)
    with torch.inference_mode():
        plain = pipe(label=1, generator=seeded(), **arguments).images
    assert (plain - images).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": None}, "`model` must be an LZNModel, got NoneType"),
        ({"model": "some/folder"}, "`model` must be an LZNModel, got str"),
        ({"image_processor": None}, "`image_processor` must be an LZNImageProcessor, got NoneType"),
    ],
)
def test_other_components_are_named(pipe, parts, message):
    with pytest.raises(ValueError, match=message):
        LZNPipeline(**{**pipe.components, **parts})
    if "model" in parts:
        with pytest.raises(ValueError, match=message):
            LZNPipeline.from_model(parts["model"])


def test_a_classifier_is_no_component_but_its_model_is(pipe):
    classifier = LZNForImageClassification(tiny_config())
    with pytest.raises(ValueError, match="`model` must be an LZNModel, got LZNForImageClassification: pass its `lzn`"):
        LZNPipeline.from_model(classifier)
    assert LZNPipeline.from_model(classifier.lzn).model is classifier.lzn


def test_columns_of_a_dataset(pipe):
    pictures = [Image.fromarray(np.full((8, 8), 30 * i, np.uint8)) for i in range(3)]
    dataset = Dataset.from_dict({"image": pictures, "label": [3, 1, 3]})
    dataset = dataset.cast_column("image", ImageFeature())
    assert torch.equal(pipe.embed(dataset["image"]), pipe.embed(pictures))
    arguments = {"generator": seeded(), "num_inference_steps": 2, "output_type": "pt"}
    expected = pipe(label=[3, 1, 3], **{**arguments, "generator": seeded()}).images
    assert torch.equal(pipe(label=dataset["label"], **arguments).images, expected)
