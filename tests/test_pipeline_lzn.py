# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""LZNPipeline on tiny real models: what it computes against the model's own functions, and its errors."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path

import helpers.pipelines
import numpy as np
import pytest
import torch
from diffusers import ImagePipelineOutput
from helpers.pipelines import NAMES, STEPS, generate, make_pipeline, pixels, seeded
from PIL import Image

from lzn_hf import LZNPipeline
from lzn_hf.sampling_lzn import ImageFlow, default_scheduler, integrate_velocity


@pytest.fixture(scope="module")
def pipe() -> LZNPipeline:
    return make_pipeline()


@pytest.fixture(scope="module")
def unlabelled() -> LZNPipeline:
    return make_pipeline(names=[], num_reference_anchors=0)


@pytest.fixture
def images() -> list[Image.Image]:
    return [Image.fromarray(np.random.randint(0, 256, (8, 8), dtype=np.uint8)) for _ in range(5)]


# ---------------------------------------------------------------- generation


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_output_types(channels, mode):
    pipe = make_pipeline(channels=channels)
    output = pipe(label=["one", "two"], num_images_per_label=2, num_inference_steps=STEPS, generator=seeded())
    assert isinstance(output, ImagePipelineOutput) and len(output.images) == 4
    assert all(image.mode == mode and image.size == (8, 8) for image in output.images)
    tensor, array = (generate(pipe, ["one", "two"], num_images_per_label=2, output_type=kind) for kind in ("pt", "np"))
    assert tensor.shape == (4, channels, 8, 8) and array.shape == (4, 8, 8, channels)
    np.testing.assert_array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    assert 0 <= array.min() < 0.4 and 0.6 < array.max() <= 1
    np.testing.assert_array_equal(
        np.stack([np.array(image) for image in output.images]), (array * 255).round().squeeze()
    )
    (images,) = pipe(label="one", num_inference_steps=STEPS, return_dict=False)
    assert isinstance(images, list) and len(images) == 1


def test_label_to_image_is_what_the_model_says(pipe):
    """Noise of the latents, then of the images; latents in the zone of the label; the decoder's velocity, integrated."""
    generator, labels = seeded(), torch.tensor([7, 7, 2, 2])
    with torch.no_grad():
        latents = pipe.model.get_label_latents(labels, noise=torch.randn(4, 6, generator=generator))
        sample = ImageFlow(default_scheduler(), STEPS).to_images(
            lambda x, t: pipe.model.predict_velocity(x, t, latents, labels),
            torch.randn(4, 1, 8, 8, generator=generator),
        )
    actual = generate(pipe, ["seven", "two"], num_images_per_label=2)
    torch.testing.assert_close(actual, pixels(sample))


def test_decoder_is_told_the_label_that_was_asked_for():
    """Also where the solver leaves a latent outside the zone of its label, as few steps of Euler do."""
    pipe = make_pipeline(alignment_solver="euler", alignment_num_steps=5)
    labels, generators = torch.arange(10).repeat(4), [seeded(i) for i in range(40)]
    asked = generate(pipe, labels.tolist(), [seeded(i) for i in range(40)])
    with torch.no_grad():
        noise = torch.cat([torch.randn(1, 6, generator=generator) for generator in generators])
        latents = pipe.model.get_label_latents(labels, noise=noise)
        strayed = pipe.model.classify_latents(latents).argmax(-1) != labels
    by_zone = generate(pipe, latents=latents, generator=generators)
    differs = (asked - by_zone).flatten(1).abs().amax(1) > 1e-4
    assert strayed.any() and torch.equal(differs, strayed)


@pytest.mark.parametrize("given", [False, True])
def test_without_label_latents_are_prior_noise_and_labels_those_of_their_zones(pipe, given):
    generator = seeded()
    latents = torch.randn(3, 6, generator=generator)
    with torch.no_grad():
        labels = pipe.model.classify_latents(latents).argmax(-1)
        noise = torch.randn(3, 1, 8, 8, generator=seeded() if given else generator)
        sample = ImageFlow(default_scheduler(), STEPS).to_images(
            lambda x, t: pipe.model.predict_velocity(x, t, latents, labels), noise
        )
    actual = generate(pipe, latents=latents) if given else generate(pipe, num_images_per_label=3)
    torch.testing.assert_close(actual, pixels(sample))


def test_every_form_of_a_label(pipe):
    expected = generate(pipe, "seven")
    for label in (7, np.int64(7), ["seven"], [7], ("seven",)):
        assert torch.equal(generate(pipe, label), expected), label
    mixed = generate(pipe, ["seven", 2], [seeded(), seeded(1)])
    torch.testing.assert_close(mixed[:1], expected)
    torch.testing.assert_close(mixed[1:], generate(pipe, "two", seeded(1)))


def test_names_decide_and_ids_must_not_contradict_them():
    pipe = make_pipeline(names=["1", "0", "2", "x"])
    with pytest.raises(ValueError, match="`label` 0 is ambiguous: id 0 is '1'"):
        generate(pipe, 0)
    assert not torch.equal(generate(pipe, "1"), generate(pipe, "0"))
    assert torch.equal(generate(pipe, "2"), generate(pipe, 2)) and torch.equal(generate(pipe, "x"), generate(pipe, 3))


def test_a_batch_size_is_no_number_of_images(pipe):
    with pytest.warns(UserWarning, match="`batch_size=16` is .* which is 1: pass `num_images_per_label=16`") as caught:
        assert len(generate(pipe, batch_size=16)) == 1
    (warning,) = caught
    assert Path(warning.filename) == Path(helpers.pipelines.__file__)  # it points at the call
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(generate(pipe, num_images_per_label=3, batch_size=16)) == 3
        assert len(generate(pipe, "one", batch_size=16)) == 1
        assert len(generate(pipe, latents=torch.randn(1, 6), batch_size=16)) == 1
        assert len(generate(pipe, batch_size=1)) == len(generate(pipe)) == 1


def test_a_seed_is_no_generator_in_any_method(pipe, images):
    calls = [
        lambda seed: pipe(label="one", generator=seed),
        lambda seed: pipe.invert(images[:2], generator=seed),
        lambda seed: pipe.reconstruct(images[:2], generator=seed),
        lambda seed: pipe.interpolate(*images[:2], generator=seed),
        lambda seed: pipe.vary(images[:2], 0.5, generator=seed),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"`generator` must be .* got 0: pass torch.Generator\(\).manual_seed\(0\)"
        ):
            call(0)
        with pytest.raises(ValueError, match=r"`generator` must be .* got \[1, 2\]: pass \[torch.Generator"):
            call([1, 2])


def test_generator_decides(pipe):
    assert torch.equal(generate(pipe, "one", seeded(3)), generate(pipe, "one", seeded(3)))
    assert not torch.equal(generate(pipe, "one", seeded(3)), generate(pipe, "one", seeded(4)))
    both = []
    for _ in range(2):
        torch.manual_seed(5)
        both.append(pipe(label="one", num_inference_steps=STEPS, output_type="pt").images)
    assert torch.equal(*both)


def test_labels_and_latents_matter(pipe):
    latents = torch.randn(2, 6)
    assert (generate(pipe, "one") - generate(pipe, "two")).abs().max() > 1e-3
    assert (generate(pipe, latents=latents[:1]) - generate(pipe, latents=latents[1:])).abs().max() > 1e-3


def test_list_of_generators_makes_images_independent_of_their_company(pipe):
    together = generate(pipe, ["one", "two", "three"], [seeded(i) for i in range(3)])
    for i, label in enumerate(["one", "two", "three"]):
        torch.testing.assert_close(together[i : i + 1], generate(pipe, label, seeded(i)), atol=1e-5, rtol=0)
    backwards = generate(pipe, ["three", "two", "one"], [seeded(i) for i in (2, 1, 0)])
    torch.testing.assert_close(backwards.flip(0), together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_results_do_not_depend_on_chunks(pipe, batch_size):
    expected = generate(pipe, num_images_per_label=5, batch_size=5)
    actual = generate(pipe, num_images_per_label=5, batch_size=batch_size)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_several_images_of_each_of_the_given_latents(pipe):
    latents, generators = torch.randn(2, 6), [seeded(i) for i in range(4)]
    images = generate(pipe, latents=latents, num_images_per_label=2, generator=generators)
    for i in range(4):
        one = generate(pipe, latents=latents[i // 2, None], generator=seeded(i))
        torch.testing.assert_close(images[i : i + 1], one, atol=1e-5, rtol=0)


def test_model_without_labels(unlabelled):
    assert generate(unlabelled, num_images_per_label=2).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="`label` must be None, as the model has no labels.*got 'one'"):
        unlabelled(label="one")
    with pytest.raises(ValueError, match="no labels.*cannot classify"):
        unlabelled.classify(Image.new("L", (8, 8)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": "sevn"}, r"`label` 'sevn' is unknown\. Did you mean 'seven'.*10 labels: 'zero', 'one'"),
        ({"label": ["one", "xyzzy"]}, r"`label` 'xyzzy' is unknown\. The model has 10 labels"),
        ({"label": "Seven"}, "Did you mean 'seven'"),
        ({"label": 10}, r"`label` must be in 0\.\.9, got 10"),
        ({"label": -1}, r"`label` must be in 0\.\.9, got -1"),
        ({"label": True}, "a name or an id of a label, got True of type bool"),
        ({"label": 1.0}, "a name or an id of a label, got 1.0 of type float"),
        ({"label": [None]}, "a name or an id of a label, got None"),
        ({"label": []}, "at least one label"),
        ({"label": 1, "latents": torch.zeros(1, 6)}, "got `label` and `latents`"),
        ({"latents": torch.zeros(1, 7)}, r"`latents` must be a tensor of shape \(N, 6\), got shape \(1, 7\)"),
        ({"latents": torch.zeros(6)}, r"got shape \(6,\)"),
        ({"latents": torch.zeros(0, 6)}, r"got shape \(0, 6\)"),
        ({"latents": [0.0] * 6}, r"`latents` must be a tensor"),
        ({"latents": torch.full((1, 6), float("nan"))}, "`latents` must be finite"),
        ({"num_inference_steps": 0}, "`num_inference_steps` must be a whole number of at least 1, got 0"),
        ({"num_inference_steps": 2.5}, "`num_inference_steps` must be a whole number"),
        ({"num_images_per_label": 0}, "`num_images_per_label` must be a whole number of at least 1, got 0"),
        ({"num_images_per_label": True}, "`num_images_per_label` must be a whole number"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1"),
        ({"label": [1, 2], "generator": [seeded()]}, "`generator` must be one or a list of 2, one an image, got 1"),
        ({"output_type": "jpg"}, "`output_type` must be 'pil', 'np' or 'pt', got 'jpg'"),
    ],
)
def test_bad_arguments(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


def test_many_labels_are_not_all_listed():
    pipe = make_pipeline(names=[f"label {i}" for i in range(30)])
    with pytest.raises(ValueError, match=r"30 labels: 'label 0', .*'label 9', \.\.\.\.$"):
        pipe(label="xyzzy")


def test_mode_of_the_model(pipe):
    """A model in training is used without dropout and without gradients, and given back as it was."""
    expected = generate(pipe, "one")
    training = copy.deepcopy(pipe)
    training.model.train()
    training.model.encoder.eval()
    modes = [module.training for module in training.model.modules()]
    images = generate(training, "one")
    assert torch.equal(images, expected) and not images.requires_grad
    assert modes == [module.training for module in training.model.modules()] and training.model.decoder.training


def test_progress_bar(pipe, images, capfd):
    pipe = LZNPipeline.from_pipe(pipe)  # shares the components, not the settings of the bar

    def finished_bars() -> list[str]:
        return [bar.rsplit("\r", 1)[-1] for bar in capfd.readouterr().err.strip().split("\n")]

    pipe(num_images_per_label=3, num_inference_steps=4, batch_size=2)
    (bar,) = finished_bars()
    assert re.match(r"100%.* 8/8 ", bar)
    pipe.reconstruct(images[:3], num_inference_steps=4, batch_size=2)
    bars = finished_bars()
    assert len(bars) == 2 and all(re.match(r"100%.* 16/16 ", bar) for bar in bars)


# ---------------------------------------------------------------- images in


def test_classify(pipe, images):
    results = pipe.classify(images, top_k=3)
    with torch.no_grad():
        log_probs = pipe.model.classify_images(pipe.image_processor(images, return_tensors="pt").pixel_values)
    scores, ids = log_probs.exp().topk(3)
    assert [[entry["label"] for entry in row] for row in results] == [[NAMES[i] for i in row] for row in ids.tolist()]
    np.testing.assert_allclose([[entry["score"] for entry in row] for row in results], scores, rtol=1e-5)
    assert len({row[0]["label"] for row in pipe.classify(torch.rand(40, 1, 8, 8))}) > 1
    (everything,) = pipe.classify(images[0], top_k=99)
    assert len(everything) == 10 and sum(entry["score"] for entry in everything) == pytest.approx(1, abs=1e-5)
    assert len(pipe.classify(images[0])[0]) == 5


def test_classify_and_embed_each_image_alone(pipe, images):
    together, features = pipe.classify(images, top_k=10), pipe.embed(images)
    assert features.shape == (5, pipe.model.config.latent_dim) and features.dtype == torch.float32
    for i, image in enumerate(images):
        (alone,) = pipe.classify(image, top_k=10)
        score = {entry["label"]: entry["score"] for entry in alone}
        assert all(entry["score"] == pytest.approx(score[entry["label"]], abs=1e-5) for entry in together[i])
        torch.testing.assert_close(pipe.embed(image)[0], features[i], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pipe.embed(images, batch_size=2), features, atol=1e-5, rtol=1e-5)
    swapped = images[:1] + images[:0:-1]  # bit for bit on the same shapes
    assert pipe.classify(swapped, top_k=10)[0] == together[0] and torch.equal(pipe.embed(swapped)[0], features[0])


def test_every_form_of_images(pipe, images):
    values = pipe.image_processor(images, return_tensors="pt").pixel_values
    expected = pipe.embed(images)
    arrays = np.stack([np.array(image) for image in images])[..., None]
    forms = [
        [image.convert("RGB") for image in images],
        arrays,
        arrays / 255,
        list(torch.tensor(arrays)),
        values / 2 + 0.5,
        {"pixel_values": values},
        pipe.image_processor(images, return_tensors="pt"),
    ]
    for form in forms:
        torch.testing.assert_close(pipe.embed(form), expected, atol=1e-5, rtol=1e-5)
    assert pipe.embed(images[0].resize((20, 30))).shape == (1, expected.shape[1])


def test_outputs_can_be_fed_back(pipe):
    images = {kind: generate(pipe, "one", num_images_per_label=3, output_type=kind) for kind in ("pil", "np", "pt")}
    torch.testing.assert_close(pipe.embed(images["np"]), pipe.embed(images["pt"]))
    torch.testing.assert_close(pipe.embed(images["pil"]), pipe.embed(images["pt"]), atol=0.02, rtol=0.02)  # 8 bits


def test_reconstruct(pipe, images):
    values = pipe.image_processor.postprocess(pipe.image_processor(images, return_tensors="pt").pixel_values, "pt")
    errors = []
    for steps in (10, 40):
        output = pipe.reconstruct(images, num_inference_steps=steps, generator=seeded(), output_type="pt")
        errors.append((output.images - values).abs().max())
    assert errors[1] < errors[0] / 8 and errors[1] < 0.02
    reconstructed = pipe.reconstruct(images, generator=seeded()).images
    assert all(image.mode == "L" and image.size == (8, 8) for image in reconstructed)
    (arrays,) = pipe.reconstruct(images[0], output_type="np", return_dict=False)
    assert arrays.shape == (1, 8, 8, 1)


def test_reconstruct_goes_through_latents_and_noise(pipe, images):
    values = pipe.image_processor(images, return_tensors="pt").pixel_values
    with torch.no_grad():
        latents = pipe.model.get_image_latents(values, noise=torch.randn(5, 6, generator=seeded()))
        labels = pipe.model.classify_latents(latents).argmax(-1)
        times = torch.linspace(1, 0, 3).tolist()  # so coarse that the way matters
        sample = integrate_velocity(lambda x, t: pipe.model.predict_velocity(x, t, latents, labels), values, times)
        sample = integrate_velocity(
            lambda x, t: pipe.model.predict_velocity(x, t, latents, labels), sample, times[::-1]
        )
    actual = pipe.reconstruct(images, num_inference_steps=2, generator=seeded(), output_type="pt").images
    torch.testing.assert_close(actual, pixels(sample), atol=1e-5, rtol=0)


def test_reconstruct_each_image_alone(pipe, images):
    options = {"num_inference_steps": 2, "output_type": "pt"}
    together = pipe.reconstruct(images, generator=[seeded(i) for i in range(5)], **options).images
    chunked = pipe.reconstruct(images, generator=[seeded(i) for i in range(5)], batch_size=2, **options).images
    torch.testing.assert_close(chunked, together, atol=1e-5, rtol=0)
    for i in range(5):
        alone = pipe.reconstruct(images[i], generator=seeded(i), **options).images
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=0)


def test_interpolate(pipe, images):
    options = {"num_inference_steps": STEPS, "output_type": "pt"}
    way = pipe.interpolate(images[0], images[1], num_steps=5, generator=seeded(), **options).images
    ends = pipe.reconstruct(images[:2], generator=seeded(), **options).images
    assert way.shape == (5, 1, 8, 8)
    torch.testing.assert_close(way[[0, -1]], ends, atol=1e-5, rtol=0)
    assert (way[1:] - way[:-1]).flatten(1).abs().amax(1).min() > 1e-3
    assert len(pipe.interpolate(images[0], images[1], num_inference_steps=1).images) == 8
    with pytest.raises(ValueError, match="`num_steps` must be a whole number of at least 2, got 1"):
        pipe.interpolate(images[0], images[1], num_steps=1)
    with pytest.raises(ValueError, match="one image each, got 3 in all"):
        pipe.interpolate(images[0], images[1:3])
    with pytest.raises(ValueError, match="list of 2, one an image, got 1"):
        pipe.interpolate(images[0], images[1], generator=[seeded()])


def test_without_reference_anchors(unlabelled, images):
    assert unlabelled.embed(images).shape[0] == 5
    labelled = make_pipeline(num_reference_anchors=0)
    for call in (labelled.classify, labelled.reconstruct, lambda images: labelled.interpolate(*images[:2])):
        with pytest.raises(ValueError, match="set_reference_anchors"):
            call(images)


@pytest.mark.parametrize("method", ["classify", "embed", "reconstruct"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.full((8, 8), np.nan), "must be finite"),
        ({"pixel_values": torch.full((1, 1, 8, 8), float("nan"))}, "must be finite"),
        ({"pixel_values": torch.zeros(1, 1, 9, 9)}, r"must have shape \(batch, 1, 8, 8\), got \(1, 1, 9, 9\)"),
        ({"pixel_values": torch.zeros(1, 3, 8, 8)}, r"must have shape \(batch, 1, 8, 8\), got \(1, 3, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8) - 1, r"floating point values in \[0, 1\]"),
        (np.zeros((8, 8, 5)), "1, 3 or 4 channels"),
        ([], "at least one image"),
    ],
)
def test_bad_images(pipe, method, bad, message):
    with pytest.raises(ValueError, match=message):
        getattr(pipe, method)(bad)


def test_bad_arguments_with_images(pipe, images):
    for call in (pipe.classify, pipe.embed, pipe.reconstruct):
        with pytest.raises(ValueError, match="`batch_size` must be a whole number of at least 1"):
            call(images, batch_size=0)
    with pytest.raises(ValueError, match="`top_k` must be a whole number of at least 1"):
        pipe.classify(images, top_k=0)
    with pytest.raises(ValueError, match="`num_inference_steps` must be a whole number of at least 1"):
        pipe.reconstruct(images, num_inference_steps=0)
    with pytest.raises(ValueError, match="`output_type`"):
        pipe.reconstruct(images, output_type="jpg")
    with pytest.raises(ValueError, match="list of 5, one an image, got 2"):
        pipe.reconstruct(images, generator=[seeded(), seeded()])
