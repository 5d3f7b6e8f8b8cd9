# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The classifier in training: its loss, its own reference anchors, and the real `Trainer` of transformers, alone and on two processes."""

from __future__ import annotations

import re

import pytest
import safetensors.torch
import torch
from accelerate import load_checkpoint_in_model
from helpers import ROOT
from helpers.models import TINY_RESNET, perturbed, tiny_config
from helpers.training import launch
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

from lzn_hf import LZNForImageClassification, LZNModel, latent_zones
from lzn_hf.modeling_classification_lzn import NUM_REFERENCE_ANCHORS


# Without dropout and noise, a step is a function of the batch.
PLAIN = {"encoder_dropout": 0.0, "alignment_noise_scales": [0.0]}
UNSET = "needs reference anchors, and those of this model are not set"


def random_images(count: int) -> torch.Tensor:
    return 2 * torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count)) - 1


def make_classifier(**changes) -> LZNForImageClassification:
    torch.manual_seed(0)
    return perturbed(LZNForImageClassification(tiny_config(**{**PLAIN, **changes})))


def stored(model: LZNForImageClassification) -> torch.Tensor:
    return model.lzn.reference_anchors.weight


def test_the_loss_in_training_is_the_alignment_loss_of_the_formulas():
    model, images, labels = make_classifier().train(), random_images(6), torch.tensor([0, 0, 0, 1, 1, 2])
    output = model(images, labels)
    anchors, config = model.get_image_anchors(images), model.config
    latents = latent_zones.compute_latents(anchors, torch.zeros(6, 6), num_steps=config.latent_num_steps)
    options = {"num_steps": config.alignment_num_steps}
    log_weights = torch.tensor([3 / 6, 2 / 6, 1 / 6]).log()
    trace = latent_zones.trace_assignments(
        latents, model.lzn.label_anchors(), labels, log_weights=log_weights, **options
    )[1]
    torch.testing.assert_close(output.loss, latent_zones.alignment_loss(trace))
    scores = latent_zones.trace_assignments(latents, model.lzn.label_anchors(), **options)[1][-1]
    torch.testing.assert_close(output.logits, scores)
    output.loss.backward()
    assert all(p.grad.abs().max() > 0 for p in (model.lzn.label_anchors.weight, model.lzn.encoder.conv_in.weight))
    assert not any(parameter.requires_grad for parameter in model.lzn.decoder.parameters())


def test_the_anchors_of_the_last_images_become_the_reference_anchors():
    model = make_classifier(num_reference_anchors=8).train()
    batches = [random_images(count) for count in (3, 4, 5)]
    anchors = [model.get_image_anchors(batch).detach() for batch in batches]
    for number, batch in enumerate(batches):
        model(batch)
        expected = torch.cat(anchors[number::-1])[:8]
        assert torch.equal(model.lzn.reference_anchors(), expected)
    before = stored(model).clone()
    model.eval()(batches[0], torch.tensor([0, 1, 2]))
    assert torch.equal(stored(model), before)  # evaluation changes nothing


def test_rows_that_are_not_set_are_no_anchors():
    model, full = make_classifier(num_reference_anchors=8), make_classifier(num_reference_anchors=3)
    images = random_images(3)
    for one in (model, full):
        one.train()(images)
    other = random_images(5)
    torch.testing.assert_close(model.eval()(other).logits, full.eval()(other).logits)


def test_without_reference_anchors_there_is_no_answer():
    model = make_classifier()
    assert model.config.num_reference_anchors == len(stored(model)) == NUM_REFERENCE_ANCHORS
    with pytest.raises(ValueError, match=UNSET) as error:
        model.eval()(random_images(2))
    remedy = re.search(r"`(model\.set_reference_anchors\(.*\))`", str(error.value))[1]
    exec(remedy, {"model": model, "training_images": random_images(9)})  # what the message says works on this object
    assert model(random_images(2)).logits.shape == (2, 3) and model.config.num_reference_anchors == 9


def test_a_folder_without_reference_anchors_says_so(tmp_path):
    LZNModel(tiny_config()).save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=UNSET):
        loaded(random_images(2))


def test_a_batch_of_one_image_is_placed_among_those_before_it():
    model = make_classifier(num_reference_anchors=8).train()
    with pytest.raises(ValueError, match=UNSET):  # not even the first batch has another image
        model(random_images(1), torch.tensor([0]))
    model(random_images(5))
    image = random_images(1)
    expected = model.eval()(image).logits  # among the same anchors and its own
    output = model.train()(image, torch.tensor([0]))
    torch.testing.assert_close(output.logits, expected, rtol=1e-2, atol=0.1)  # solvers take other steps
    output.loss.backward()
    # The only label of a batch has frequency 1: nothing to learn, and nothing to go wrong.
    assert output.loss == -1 and torch.isfinite(model.lzn.encoder.conv_in.weight.grad).all()


@pytest.mark.parametrize("changes", [{}, TINY_RESNET])
def test_hidden_states(changes):
    model = make_classifier(**changes, num_reference_anchors=8)
    model.set_reference_anchors(torch.randn(8, model.config.latent_dim))
    images, sizes = random_images(2), []
    output = model.eval()(images, output_hidden_states=True)
    features = model.lzn(images, output_hidden_states=True)
    for state, same in zip(output.hidden_states, features.hidden_states, strict=True):
        assert torch.equal(state, same) and state.ndim == 4
        sizes.append(state.shape[-1])
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == (
        3 if changes else 6
    )  # the input of the first block too
    assert torch.equal(features.last_hidden_state, features.hidden_states[-1])
    torch.testing.assert_close(features.last_hidden_state.mean((2, 3)), features.features)
    assert model(images).hidden_states is None and model.lzn(images).hidden_states is None


def test_new_labels_of_a_saved_folder(tmp_path):
    model = make_classifier(num_reference_anchors=8)
    model.train()(random_images(8))
    model.save_pretrained(tmp_path)
    fresh = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert fresh.lzn.label_anchors.weight.shape == (5, 6) and 0.3 < fresh.lzn.label_anchors.weight.std() < 3
    assert torch.equal(fresh.lzn.encoder.conv_in.weight, model.lzn.encoder.conv_in.weight)
    assert fresh(random_images(2)).logits.shape == (2, 5)


def rows(count: int) -> list[dict[str, torch.Tensor]]:
    """Images whose mean says their label."""
    labels = torch.arange(count) % 3
    values = 0.2 * random_images(count) + (labels - 1.0)[:, None, None, None] * 0.7
    return [{"pixel_values": image, "labels": label} for image, label in zip(values, labels, strict=True)]


def train(output_dir, resume=None, **options) -> Trainer:
    """Trains on 49 images in batches of 16, the last of which has one."""
    model = make_classifier(
        alignment_noise_scales=[0.3], alignment_reduction="mean_log_prob", alignment_end=0.3, latent_dim=8
    )
    arguments = TrainingArguments(
        output_dir,
        per_device_train_batch_size=16,
        learning_rate=5e-3,
        **{"report_to": [], "save_strategy": "no", "use_cpu": True, "seed": 0, "disable_tqdm": True, **options},
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=rows(49),
        eval_dataset=rows(30),
        compute_metrics=lambda scores: {"accuracy": (scores.predictions.argmax(-1) == scores.label_ids).mean()},
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_the_trainer(tmp_path):
    trainer = train(tmp_path / "run", num_train_epochs=8)
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] == 1
    assert trainer.evaluate()["eval_loss"] == metrics["eval_loss"]  # the same number again
    trainer.save_model(tmp_path / "model")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    again = Trainer(loaded, trainer.args, eval_dataset=rows(30)).evaluate()
    assert again["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-6)


def test_resuming_and_the_best_checkpoint_have_all_weights(tmp_path):
    """The Trainer reads files without `from_pretrained`, and goes on where names do not fit."""
    options = {"save_strategy": "epoch", "eval_strategy": "epoch", "logging_strategy": "no"}
    whole = train(tmp_path / "whole", num_train_epochs=4, load_best_model_at_end=True, **options)
    assert whole.evaluate()["eval_loss"] == pytest.approx(whole.state.best_metric, rel=1e-6)

    last = AutoModelForImageClassification.from_pretrained(tmp_path / "whole" / "checkpoint-16")
    resumed = train(tmp_path / "again", num_train_epochs=4, resume=str(tmp_path / "whole" / "checkpoint-8"), **options)
    for name, value in last.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", [LZNModel, LZNForImageClassification])
def test_weights_of_a_file_load_into_a_model(cls, tmp_path):
    saved = perturbed(cls(tiny_config(num_reference_anchors=8)))
    saved.set_reference_anchors(torch.randn(8, 6))
    saved.save_pretrained(tmp_path)
    for load in (
        lambda model: safetensors.torch.load_model(model, tmp_path / "model.safetensors"),
        lambda model: model.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors")),
        lambda model: load_checkpoint_in_model(model, tmp_path, strict=True),
        lambda model: model.load_state_dict(saved.state_dict()),  # the names of the modules, as ever
    ):
        fresh = cls(saved.config)
        load(fresh)
        assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in saved.state_dict().items())


SCRIPT = """
import os, sys
from test_trainer import train
trainer = train(sys.argv[1], max_steps=3, gradient_checkpointing=True, ddp_find_unused_parameters=False)
assert trainer.args.world_size == 2
trainer.save_model()
# The Trainer leaves its process group open. Its threads, which belong to gloo, may abort a process that ends with them.
os._exit(0)
"""


def test_two_processes_with_gradient_checkpointing(tmp_path):
    """DistributedDataParallel waits for every parameter that requires a gradient: the decoder, which gets none, must not."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch("torch.distributed.run", "--nproc_per_node=2", script, tmp_path / "run")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert stored(loaded).any(1).sum() == 3 * 32  # the images of both processes
    assert not torch.equal(loaded.lzn.label_anchors(), make_classifier(latent_dim=8).lzn.label_anchors())


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "fine_tuning_trainer.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```py\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(compile(block, "page", "exec"), names)
    assert names["metrics"]["eval_accuracy"] > 0.93
    assert names["prediction"]["label"] == "LABEL_0" and 0.3 < names["prediction"]["score"] < 1
