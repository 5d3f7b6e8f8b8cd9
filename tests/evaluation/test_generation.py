# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The evaluation of saved pipelines: its numbers against the metrics of images that the pipeline makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pipelines import make_pipeline
from helpers.training import forget_accelerators, toy_images
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import Tensor

from lzn_hf import LZNPipeline
from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.data.images import ImageData, TensorImageDataset
from lzn_hf.evaluation import generation
from lzn_hf.evaluation.features import FeatureExtractor
from lzn_hf.evaluation.generation import evaluate_folder, results_table, update_model_card
from lzn_hf.evaluation.joint import class_consistency
from lzn_hf.evaluation.metrics import (
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    psnr,
    reconstruction_l2,
)
from lzn_hf.evaluation.processes import process_state
from lzn_hf.evaluation.samplers import sample_generator, sample_label


LABELS = ["cat", "dog", "eel"]


class Classifier(FeatureExtractor):
    """Quadrant means as features, and a soft choice among the first three of them."""

    name = "quadrants"

    def _features(self, batch: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(batch, 4).flatten(1)

    def _spatial_features(self, batch: Tensor) -> Tensor:
        return batch[..., ::2, ::2].flatten(1)

    def _log_probs(self, batch: Tensor) -> Tensor:
        return (5 * self._features(batch)[:, :3]).log_softmax(1)


@pytest.fixture(autouse=True)
def fresh_state():
    forget_accelerators()
    yield
    forget_accelerators()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("evaluated") / "joint"
    make_pipeline(names=LABELS).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def noise_only(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("evaluated") / "flow"
    make_pipeline(names=[], num_reference_anchors=0, encoder_type=None).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def data() -> ImageData:
    train, rest = toy_images(40), toy_images(64)
    validation = TensorImageDataset(rest.pixel_values[40:], rest.labels[40:])
    return ImageData(train, validation, LABELS, image_size=8, num_channels=1, name="toys")


def signed(dataset: TensorImageDataset) -> Tensor:
    return to_pixel_values(dataset.pixel_values)


def samples(folder: Path, count: int, seed: int, **options) -> Tensor:
    """By the pipeline itself, one after the other, rounded to grey levels as files are."""
    pipe = LZNPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    images = []
    for i in range(count):
        label = sample_label(seed, i, 3) if pipe.model.config.num_labels else None
        images += pipe(label=label, generator=sample_generator(seed, i), **options).images
    return torch.stack([torch.from_numpy(np.array(image)) for image in images])[:, None] / 127.5 - 1


def test_guided_samples_and_their_evaluations(folder, data, tmp_path):
    """Scale 0 makes the images of the guide, and the evaluations of both networks count."""
    make_pipeline(names=LABELS, decoder_input_skip="sum").save_pretrained(tmp_path / "guide")
    options = {"num_samples": 8, "num_reconstructions": 0, "guide_name_or_path": tmp_path / "guide"}
    results = evaluate_folder(folder, data, FeatureExtractor(), ["heun:2", "heun:2@0", "heun:2@2"], **options)
    assert results["guide"] == str(tmp_path / "guide")
    alone, ends, guided = results["samplers"].values()
    assert (alone["evaluations"], ends["evaluations"], guided["evaluations"]) == (4, 8, 8)
    weak = evaluate_folder(tmp_path / "guide", data, FeatureExtractor(), ["heun:2"], 8, num_reconstructions=0)
    assert weak["guide"] is None
    assert {**ends, "evaluations": 4} == weak["samplers"]["heun:2"]
    assert guided["frechet_distance"] not in (alone["frechet_distance"], ends["frechet_distance"])
    with pytest.raises(ValueError, match="`guidance_scale` must be 1"):
        evaluate_folder(folder, data, FeatureExtractor(), ["heun:2@2"], 8)
    with pytest.raises(ValueError, match="`reconstruction_samplers` must be without guidance"):
        evaluate_folder(folder, data, FeatureExtractor(), ["heun:2"], 8, reconstruction_samplers=["heun:2@2"])


def test_numbers_are_the_metrics_of_what_the_pipeline_makes(folder, data):
    results = evaluate_folder(
        folder, data, FeatureExtractor(), ["unipc:2", "heun:2"], 30, 3, num_reconstructions=6,
        reconstruction_samplers=["heun:3"], batch_size=7,
    )  # fmt: skip
    assert results["settings"] == {"feature_extractor": "pixels", "num_samples": 30, "seed": 3}
    assert results["dataset"] == "toys"
    assert results["reference"] == {"split": "validation", "images": 24}
    reference = signed(data.validation).flatten(1)
    drawn = torch.tensor([sample_label(3, i, 3) for i in range(30)])
    for name, options in (("unipc:2", {}), ("heun:2", {"solver": "heun"})):
        made = samples(folder, 30, 3, num_inference_steps=2, **options)
        numbers = results["samplers"][name]
        assert numbers["evaluations"] == (2 if name == "unipc:2" else 4)
        assert numbers["frechet_distance"] == pytest.approx(frechet_distance(reference, made.flatten(1)), rel=1e-3)
        assert numbers["kernel_distance"] == pytest.approx(kernel_distance(reference, made.flatten(1)), abs=1e-3)
        assert {key: numbers[key] for key in ("precision", "recall")} == pytest.approx(
            precision_recall(reference, made.flatten(1)), abs=0.05
        )
        consistency = class_consistency(made, drawn, signed(data.train), data.train.labels)
        assert numbers["class_consistency"] == pytest.approx(consistency, abs=0.04)
        assert "inception_score" not in numbers and "spatial_frechet_distance" not in numbers
    # What real images have: 30 of the 40 training images, drawn by the seed, and the classifier on held-out ones.
    chosen = torch.randperm(40, generator=torch.Generator().manual_seed(3))[:30]
    real = signed(data.train)[chosen].flatten(1)
    numbers = results["real_images"]
    assert (numbers["split"], numbers["images"]) == ("train", 30)
    assert numbers["frechet_distance"] == pytest.approx(frechet_distance(reference, real), rel=1e-4)
    consistency = class_consistency(
        signed(data.validation), data.validation.labels, signed(data.train), data.train.labels
    )
    assert numbers["class_consistency"] == pytest.approx(consistency)

    # Reconstructions of six held-out images, each placed in its zone by its own generator.
    rows = torch.randperm(24, generator=torch.Generator().manual_seed(3))[:6]
    originals = signed(data.validation)[rows]
    pipe = LZNPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    generators = [sample_generator(3, i) for i in range(6)]
    again = pipe.reconstruct(
        {"pixel_values": originals}, num_inference_steps=3, generator=generators, output_type="pt"
    )
    again = again.images * 2 - 1
    assert results["reconstruction"] == {
        "heun:3": {
            "evaluations": 12,
            "reconstruction_l2": pytest.approx(reconstruction_l2(originals, again), rel=1e-3),
            "psnr": pytest.approx(psnr(originals, again), abs=1e-2),
            "images": 6,
        }
    }


def test_an_extractor_that_knows_more_gives_more(folder, data):
    results = evaluate_folder(folder, data, Classifier(), ["euler:2"], 20, reference="train", num_reconstructions=0)
    assert results["settings"]["feature_extractor"] == "quadrants" and results["reconstruction"] == {}
    assert results["reference"] == {"split": "train", "images": 40}
    assert results["real_images"]["split"] == "validation" and results["real_images"]["images"] == 20
    made, extractor = samples(folder, 20, 0, num_inference_steps=2, solver="euler"), Classifier()
    numbers, train = results["samplers"]["euler:2"], signed(data.train)
    expected = {
        "evaluations": 2,
        "frechet_distance": frechet_distance(extractor.features(train), extractor.features(made)),
        "spatial_frechet_distance": frechet_distance(
            extractor.spatial_features(train), extractor.spatial_features(made)
        ),
        "inception_score": inception_score(extractor.log_probs(made)),
    }
    assert {name: numbers[name] for name in expected} == pytest.approx(expected, rel=5e-3)
    hits = [row.argmax().item() == sample_label(0, i, 3) for i, row in enumerate(extractor.log_probs(made))]
    assert numbers["class_consistency"] == pytest.approx(sum(hits) / 20, abs=0.051)


def test_the_classifier_gets_a_limited_number_of_images(data, monkeypatch):
    monkeypatch.setattr(generation, "MAX_CLASSIFIED", 12)
    statistics = generation._collect_statistics(
        process_state(), Classifier(), image_batches(data.train, 5), keep_images=True
    )
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(statistics["images"], data.train.pixel_values[order[:12]])
    assert torch.equal(statistics["labels"], data.train.labels[order])
    assert len(statistics["features"]) == len(statistics["log_probs"]) == 40


def test_a_model_without_latents(noise_only, data):
    unlabelled = ImageData(
        TensorImageDataset(data.train.pixel_values),
        TensorImageDataset(data.validation.pixel_values),
        None,
        image_size=8,
        num_channels=1,
        name="toys",
    )
    for images in (unlabelled, data):  # it has no use for labels
        results = evaluate_folder(
            noise_only, images, FeatureExtractor(), ["euler:2"], 8, 1,
            num_reconstructions=4, reconstruction_samplers=["heun:40"],
        )  # fmt: skip
        assert "class_consistency" not in results["samplers"]["euler:2"]
        assert results["reconstruction"]["heun:40"]["psnr"] > 25
        made = samples(noise_only, 8, 1, num_inference_steps=2, solver="euler").flatten(1)
        expected = frechet_distance(signed(data.validation).flatten(1), made)
        assert results["samplers"]["euler:2"]["frechet_distance"] == pytest.approx(expected, rel=1e-3)


def test_without_validation_images_training_images_are_all_there_is(noise_only, data):
    images = ImageData(data.train, None, None, image_size=8, num_channels=1, name="toys")
    options = {"reconstruction_samplers": ["euler:2"], "num_reconstructions": 3, "reference": "train"}
    results = evaluate_folder(noise_only, images, FeatureExtractor(), ["euler:2"], 8, **options)
    assert results["real_images"] is None and results["reconstruction"]["euler:2"]["images"] == 3
    assert "real" not in results_table(results)
    with pytest.raises(ValueError, match="`reference` must be 'train' with these data, got 'validation'"):
        evaluate_folder(noise_only, images, FeatureExtractor(), ["euler:2"], 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samplers": ["euler:2", "euler:2"]}, "`samplers` must all be different"),
        ({"samplers": ["rk4"]}, "a sampler must be"),
        ({"reconstruction_samplers": ["unipc:3"]}, "a sampler must be euler:STEPS or heun:STEPS or rk45"),
        ({"num_samples": 3}, "`num_samples` must be at least 4, got 3"),
        ({"reference": "test"}, "`reference` must be 'validation' or 'train' with these data, got 'test'"),
    ],
)
def test_bad_arguments(folder, data, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate_folder(folder, data, FeatureExtractor(), **{"samplers": ["euler:2"], "num_samples": 8, **arguments})


def test_data_must_fit_the_model(folder, data, tmp_path):
    for change, message in (
        ({"label_names": ["cat", "eel", "dog"]}, "labels of the model, cat, dog, eel, but have cat, eel, dog"),
        ({"image_size": 16}, "`image_size` must be the model's, 8, but is 16"),
        ({"num_channels": 3}, "`num_channels` must be the model's, 1, but is 3"),
    ):
        other = ImageData(**{**vars(data), **change})
        with pytest.raises(ValueError, match=message):
            evaluate_folder(folder, other, FeatureExtractor(), ["euler:2"], 8)
    make_pipeline(names=LABELS, num_reference_anchors=0).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`num_reconstructions` must be 0 for a model without reference anchors"):
        evaluate_folder(tmp_path, data, FeatureExtractor(), ["euler:2"], 8)
    assert evaluate_folder(tmp_path, data, FeatureExtractor(), ["euler:2"], 8, num_reconstructions=0)["samplers"]


def test_model_card_holds_the_last_results(tmp_path):
    other = EvalResult("image-classification", "toys", "toys", "accuracy", 0.9)
    data = ModelCardData(model_name="joint", eval_results=[other], license="apache-2.0")
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n# Joint\n\nA text.\n").save(tmp_path / "README.md")
    results = {"dataset": "toys", "reference": {"split": "validation"}}
    results["settings"] = {"feature_extractor": "pixels", "num_samples": 7, "seed": 0}
    for value in (3.0, 2.0):
        results["samplers"] = {"unipc:2": {"evaluations": 2.0, "frechet_distance": value, "recall": 0.5}}
        update_model_card(tmp_path, results).save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    found = {(result.task_type, result.metric_type): result for result in card.data.eval_results}
    assert len(card.data.eval_results) == 3 and card.data.license == "apache-2.0" and "A text." in card.text
    assert found["image-classification", "accuracy"].metric_value == 0.9
    result = found["unconditional-image-generation", "frechet_distance"]
    assert result.metric_value == 2.0 and result.metric_name == "frechet distance (unipc:2; pixels, 7 samples)"
    assert result.dataset_split == "validation"
