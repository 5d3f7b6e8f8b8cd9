# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`train_joint.py --baseline`: the specialists that a joint model is compared with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.joint_runs import metrics, toy_flags, train, weights
from helpers.training import write_image_folder
from PIL import Image
from torch.nn import functional as F
from transformers import pipeline

from lzn_hf import LZNModel, LZNPipeline, train_joint
from lzn_hf.data.batches import to_pixel_values
from lzn_hf.data.images import load_image_data
from lzn_hf.evaluation.joint import linear_log_probs


CLASSIFIER, FLOW = "--baseline classifier", "--baseline rectified_flow"
STEPS = "--max_train_steps 3 --logging_steps 1 --eval_steps 2 --checkpointing_steps 1 --ema_decay 0.5"
STEPS += " --checkpoints_total_limit 3 --decoder_learning_rate 0.05"


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> str:
    return toy_flags(tmp_path_factory.mktemp("toys") / "images")


@pytest.fixture(scope="module")
def classifier(toys, tmp_path_factory) -> Path:
    # 4 images, of which two labels have unequally many.
    return train(
        f"{toys} {STEPS} {CLASSIFIER} --max_eval_samples 4 --output_dir {tmp_path_factory.mktemp('classifier') / 'run'}"
    )


@pytest.fixture(scope="module")
def flow(toys, tmp_path_factory) -> Path:
    return train(f"{toys} {STEPS} {FLOW} --output_dir {tmp_path_factory.mktemp('flow') / 'run'}")


def validation_images(toys: str) -> tuple[torch.Tensor, torch.Tensor]:
    data = load_image_data(data_dir=toys.split()[1]).validation
    return to_pixel_values(data.pixel_values), data.labels


def test_the_classifier_is_trained_by_the_cross_entropy_of_a_linear_layer(toys, tmp_path, monkeypatch):
    """The first step's loss is that of the formula, and its weights those of one step of Adam on it."""
    seen = []

    def watched(setup, model, batch, generator, baseline):
        before = {name: value.detach().clone() for name, value in setup.model.state_dict().items()}
        loss, logged = loss_of(setup, model, batch, generator, baseline=baseline)
        seen.append((before, {name: value.clone() for name, value in batch.items()}, loss.item(), logged))
        return loss, logged

    loss_of = train_joint.joint_loss
    monkeypatch.setattr(train_joint, "joint_loss", watched)
    no_dropout = "--config_overrides encoder_dropout=0"
    flags = f"{toys} --max_train_steps 1 {CLASSIFIER} {no_dropout} --max_grad_norm 1e9 --ema_decay 0"
    folder = train(f"{flags} --output_dir {tmp_path / 'run'} --encoder_learning_rate 0")
    before, batch, loss, logged = seen[0]

    model = LZNModel.from_pretrained(folder).train()
    model.load_state_dict(before)
    scores = model.get_image_anchors(to_pixel_values(batch["pixel_values"])) @ model.label_anchors().T
    expected = -scores.softmax(1).log()[torch.arange(8), batch["labels"]].mean()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert logged["train_accuracy"] == (scores.argmax(1) == batch["labels"]).float().mean()
    expected.backward()
    torch.optim.Adam([model.label_anchors.weight], lr=1e-2).step()
    after = weights(folder)
    torch.testing.assert_close(after["label_anchors"], model.label_anchors().detach())
    assert all(torch.equal(after[name], before[name]) for name in after if name != "label_anchors")


def test_a_classifier_trains_both_of_its_parts_and_is_validated_by_its_scores(classifier, toys):
    first, last = (weights(classifier / f"checkpoint-{step}") for step in (1, 3))
    moved = {name.split(".")[0] for name in first if not torch.equal(first[name], last[name])}
    assert moved == {"encoder", "label_anchors"} == {name.split(".")[0] for name in first}
    lines = metrics(classifier)
    assert [line.keys() for line in lines if "loss" not in line] == 2 * [{"step", "validation_accuracy"}]
    assert all(0 <= line["train_accuracy"] <= 1 for line in lines if "loss" in line)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))[:4]  # as evaluation draws images
    images, labels = (values[order] for values in validation_images(toys))
    model = LZNModel.from_pretrained(classifier).eval()
    with torch.no_grad():
        scores = F.linear(model.get_image_anchors(images), model.label_anchors())
        torch.testing.assert_close(linear_log_probs(model, images), scores.log_softmax(1))
    shares = [(one.argmax(1) == labels).double().mean().item() for one in (scores, -scores)]
    assert lines[-1]["validation_accuracy"] == shares[0] != shares[1]


def test_the_folder_of_a_classifier_is_no_zone_classifier_and_says_so(classifier):
    names = {path.name for path in classifier.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} < names
    assert not names & {"model_index.json", "samples.png"} and not (classifier / "samples").exists()
    assert json.loads((classifier / "config.json").read_text())["num_reference_anchors"] == 0
    with pytest.raises(ValueError, match="needs reference anchors, and those of this model are not set"):
        pipeline("image-classification", model=str(classifier))(Image.new("L", (8, 8)))
    embedded = pipeline("image-feature-extraction", model=str(classifier), pool=True)(Image.new("L", (8, 8)))
    assert len(embedded[0]) == LZNModel.from_pretrained(classifier).get_image_features(torch.zeros(1, 1, 8, 8)).numel()


def test_a_rectified_flow_generates_by_label(flow):
    names = {path.name for path in flow.iterdir()}
    assert {"model_index.json", "samples.png"} < names
    assert [path.name for path in (flow / "samples").iterdir()] == ["step-000002.png"]
    assert {name.split(".")[0] for name in weights(flow)} == {"decoder"}
    lines = metrics(flow)
    wanted = {"step", "loss", "decoder_learning_rate", "images_per_second", "nonfinite_steps"}
    assert all(line.keys() == wanted for line in lines if "loss" in line)
    pipe = LZNPipeline.from_pretrained(flow)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 1, 8, 8).repeat(2, 1, 1, 1)
    cat, eel = pipe(label=["cat", "eel"], sample_noise=noise, output_type="pt", num_inference_steps=2).images
    assert not torch.equal(cat, eel)


def test_the_validation_loss_of_a_rectified_flow_knows_the_labels(flow, toys):
    images, labels = validation_images(toys)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(9, 1, 8, 8, generator=generator)
    timesteps = torch.rand(9, generator=generator)
    model = LZNModel.from_pretrained(flow).eval()
    losses = []
    with torch.no_grad():
        for given in (labels[order], labels[order].roll(1)):
            losses.append(model(images[order], given, sample_noise=noise, timesteps=timesteps).loss.item())
    assert metrics(flow)[-1]["validation_loss"] == pytest.approx(losses[0], rel=1e-5)
    assert losses[1] != pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("baseline", [CLASSIFIER, FLOW])
def test_training_without_validation_images(tmp_path, baseline):
    images = write_image_folder(tmp_path / "images") / "train"
    flags = f"--data_dir {images} --validation_fraction 0 --total_batch_size 8 --max_train_steps 1 {baseline}"
    folder = train(f"{flags} --output_dir {tmp_path / 'run'}")
    assert list(metrics(folder)[-1]) == ["step"]


def test_a_resumed_classifier_ends_like_one_that_never_stopped(classifier, toys, tmp_path):
    for steps in (1, 3):
        flags = f"{toys} {STEPS} {CLASSIFIER} --output_dir {tmp_path} --resume_from_checkpoint latest"
        train(f"{flags} --max_train_steps {steps}")
    assert all(torch.equal(value, weights(classifier)[name]) for name, value in weights(tmp_path).items())
    with pytest.raises(ValueError, match="model.encoder_type: 'ncsnpp' in the checkpoint, None now"):
        train(f"{toys} {STEPS} {FLOW} --output_dir {tmp_path} --resume_from_checkpoint latest")


def test_the_decoder_alone_may_not_be_frozen_and_the_encoder_alone_needs_no_decoder(toys, tmp_path):
    frozen = "--max_train_steps 3 --decoder_train_steps 2"
    with pytest.raises(ValueError, match="`decoder_train_steps` 2 would leave nothing.*`--max_train_steps 2`"):
        train(f"{toys} {FLOW} {frozen} --output_dir {tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()
    train(f"{toys} {FLOW} --max_train_steps 2 --decoder_train_steps 2 --output_dir {tmp_path / 'flow'}")
    train(f"{toys} {CLASSIFIER} {frozen} --output_dir {tmp_path / 'classifier'}")
    assert metrics(tmp_path / "classifier")[-1]["step"] == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (f"{FLOW} --encoder_name_or_path some/model", "`encoder_name_or_path` names an image encoder"),
        (f"{FLOW} --config_overrides encoder_type=resnet", "`config_overrides` ask for `encoder_type=resnet`"),
        (f"{CLASSIFIER} --config_overrides decoder_type=ncsnpp", "`config_overrides` ask for `decoder_type=ncsnpp`"),
        ("--config_overrides encoder_type=null", "`baseline` none needs a model with image encoder.* is None"),
        (f"{FLOW} --model_name_or_path {{classifier}}", "`baseline` rectified_flow needs a model with image decoder"),
        (f"{CLASSIFIER} --model_name_or_path {{flow}}", "`baseline` classifier needs a model without image decoder"),
    ],
)  # fmt: skip
def test_contradictions_are_named(request, toys, tmp_path, argv, message):
    for name in ("classifier", "flow"):
        if f"{{{name}}}" in argv:
            argv = argv.replace(f"{{{name}}}", str(request.getfixturevalue(name)))
    with pytest.raises(ValueError, match=message):
        train(f"{toys} --output_dir {tmp_path / 'run'} {argv}")
    assert not (tmp_path / "run").exists()


def test_labels_are_needed_for_linear_scores(flow):
    with pytest.raises(ValueError, match="must have an image encoder and labels"):
        linear_log_probs(LZNModel.from_pretrained(flow), torch.zeros(1, 1, 8, 8))
