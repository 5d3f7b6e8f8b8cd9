# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The end of a training script: one folder with everything, or the one that was there before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.training import forget_accelerators, tiny_model, toy_images, training_setup
from huggingface_hub import ModelCard

from lzn_hf import LZNModel
from lzn_hf.data.batches import to_pixel_values
from lzn_hf.data.images import TensorImageDataset
from lzn_hf.evaluation.calibration import negative_log_likelihood, reliability
from lzn_hf.evaluation.joint import accuracy, predict_log_probs
from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.final_folder import save_final_folder
from lzn_hf.training.loop import TrainingLoop


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    forget_accelerators()
    yield
    forget_accelerators()


def train_two_steps(output_dir: Path, validation: TensorImageDataset | None = None, **model_options) -> TrainingLoop:
    def compute_loss(model, batch, generator):
        pixel_values = to_pixel_values(batch["pixel_values"])
        if model.decoder is None:
            return model(pixel_values).anchors.square().mean(), {}
        return model(pixel_values, labels=batch["labels"], generator=generator).loss, {}

    torch.manual_seed(0)
    run = RunArguments(output_dir=str(output_dir), total_batch_size=8, max_train_steps=2, ema_decay=0.5)
    setup = training_setup(tiny_model(**model_options), toy_images(18), run, validation=validation)
    rates = dict.fromkeys(("encoder", "decoder", "label_anchors"), 1e-3)
    loop = TrainingLoop(setup, rates, compute_loss)
    loop.fit()
    return loop


FILES = {
    "README.md",
    "config.json",
    "curves.png",
    "data_summary.json",
    "metrics.jsonl",
    "model.safetensors",
    "preprocessor_config.json",
}
FILES |= {"training_settings.json"}


def test_the_final_folder(tmp_path):
    loop, drawn = train_two_steps(tmp_path), []
    model, settings = loop.setup.model, {"training": {"seed": 0}}
    loop.setup.settings = settings
    trained = {name: value.clone() for name, value in model.named_parameters()}

    def evaluate() -> dict[str, float]:
        assert model.reference_anchors is None
        return {"validation_score": float(model.label_anchors().detach().sum())}

    def draw(path: Path) -> None:
        drawn.append(path)
        path.touch()

    averages = {name: average.shadow_params for name, average in loop.ema.averages.items()}
    assert save_final_folder(loop, evaluate=evaluate, draw=draw, num_reference_anchors=5) == tmp_path
    names = FILES | {"samples.png", "zones.png", "model_index.json", "scheduler_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert drawn[0].parent != tmp_path and not drawn[0].parent.exists()  # written elsewhere first: never a half of it
    saved = LZNModel.from_pretrained(tmp_path)
    assert torch.equal(saved.label_anchors(), averages["label_anchors"][0])
    assert not torch.equal(saved.label_anchors(), trained["label_anchors.weight"])
    assert torch.equal(saved.reference_anchors(), loop.setup.encode_train_anchors(5)) is False  # of the last weights
    assert torch.equal(model.label_anchors(), trained["label_anchors.weight"])
    with loop.ema.scope():
        assert torch.equal(saved.reference_anchors(), loop.setup.encode_train_anchors(5))
    assert json.loads((tmp_path / "training_settings.json").read_text()) == settings
    score = float(saved.label_anchors().detach().sum())
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert line == {"step": 2, "validation_score": score}
    card = ModelCard.load(tmp_path / "README.md")
    assert f"validation score: {score:.4f}" in card.text and f"{saved.num_parameters():,}" in card.text


def test_an_encoder_alone_comes_with_its_image_processor(tmp_path):
    loop = train_two_steps(tmp_path / "encoder", labels=(), decoder_type=None)
    save_final_folder(loop, evaluate=dict, num_reference_anchors=5)
    assert {path.name for path in (tmp_path / "encoder").iterdir()} == FILES
    assert len(LZNModel.from_pretrained(tmp_path / "encoder").reference_anchors()) == 5


def test_scores_are_fitted_to_the_validation_images_and_shown(tmp_path):
    images, drawn = toy_images(40), []

    def draw_reliability(bins, path: Path) -> None:
        drawn.append(bins)
        path.touch()

    loop = train_two_steps(tmp_path, images)
    zones = {"validation_accuracy": 2.0}  # of the zones; that of the scores, which the folder has, takes its place
    save_final_folder(loop, evaluate=lambda: zones, num_reference_anchors=5, draw_reliability=draw_reliability)
    assert {path.name for path in tmp_path.iterdir()} == FILES | {
        "model_index.json",
        "scheduler_config.json",
        "reliability.png",
        "zones.png",
    }
    saved = LZNModel.from_pretrained(tmp_path)
    log_probs = predict_log_probs(saved, to_pixel_values(images.pixel_values))
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["validation_accuracy"] == accuracy(log_probs, images.labels)
    assert line["validation_nll"] == pytest.approx(negative_log_likelihood(log_probs, images.labels), abs=1e-5)
    assert [one["count"] for one in drawn[0]] == [one["count"] for one in reliability(log_probs, images.labels)]
    saved.config.prediction_time = None
    at_the_end = predict_log_probs(saved, to_pixel_values(images.pixel_values))
    assert negative_log_likelihood(at_the_end, images.labels) > line["validation_nll"] + 0.1
    card = ModelCard.load(tmp_path / "README.md").text
    assert f"validation nll: {line['validation_nll']:.4f}" in card and "![Reliability](reliability.png)" in card


@pytest.mark.parametrize("missing", ["validation images", "labels", "picture"])
def test_without_what_it_takes_scores_are_those_of_the_zones(tmp_path, missing):
    def draw_reliability(bins, path: Path) -> None:
        raise AssertionError("nothing to draw")

    options = {"labels": (), "decoder_type": None} if missing == "labels" else {}
    loop = train_two_steps(tmp_path, None if missing == "validation images" else toy_images(12), **options)
    draw = None if missing == "picture" else draw_reliability
    save_final_folder(loop, evaluate=dict, num_reference_anchors=5, draw_reliability=draw)
    assert LZNModel.from_pretrained(tmp_path).config.prediction_time is None
    assert not (tmp_path / "reliability.png").exists()
    assert "Scores of labels" not in (tmp_path / "README.md").read_text()


def test_a_failure_at_the_end_leaves_the_last_folder_alone(tmp_path):
    def draw(path: Path) -> None:
        path.with_name("README.md").mkdir()  # where the card goes

    loop = train_two_steps(tmp_path)
    (tmp_path / "model.safetensors").write_text("of an earlier run")
    with pytest.raises(IsADirectoryError):
        save_final_folder(loop, evaluate=dict, draw=draw, num_reference_anchors=5)
    loop.close()
    assert {path.name for path in tmp_path.iterdir()} == {"data_summary.json", "metrics.jsonl", "model.safetensors"}
    assert (tmp_path / "model.safetensors").read_text() == "of an earlier run"
