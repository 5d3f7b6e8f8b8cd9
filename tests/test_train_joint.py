# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The real training script on the digits: once by `accelerate launch`, then as a function."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.joint_runs import TINY, metrics, toy_flags, train, weights
from helpers.training import forget_accelerators, launch
from PIL import Image
from transformers import AutoConfig, AutoModel, pipeline

from lzn_hf import LZNForImageClassification, LZNPipeline, train_joint
from lzn_hf.data.batches import to_pixel_values
from lzn_hf.data.images import load_image_data
from lzn_hf.training import setup
from lzn_hf.training.checkpoints import STATE_FILE


EXAMPLES = ROOT / "examples"


# 1437 digits are 2 batches an epoch: step 3 is in the middle of the second one.
SIX_STEPS = "--max_train_steps 6 --checkpointing_steps 2 --checkpoints_total_limit 2 --ema_decay 0.5"
MODEL_FILES = {
    "README.md",
    "config.json",
    "curves.png",
    "model.safetensors",
    "model_index.json",
    "preprocessor_config.json",
    "scheduler_config.json",
    "samples.png",
    "reliability.png",
    "training_settings.json",
    "zones.png",
}


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> str:
    return toy_flags(tmp_path_factory.mktemp("toys"))


def as_text(state: dict) -> str:
    """All numbers of nested dictionaries of tensors."""
    return json.dumps(state, default=torch.Tensor.tolist)


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Path:
    """The folder of a run of six steps as users start it."""
    folder = tmp_path_factory.mktemp("launched") / "run"
    flags = f"{TINY} {SIX_STEPS} --eval_steps 3 --output_dir {folder}"
    stderr = launch("accelerate.commands.launch", EXAMPLES / "train_joint.py", *flags.split())
    assert "process 1 of 1" in stderr
    return folder


def test_a_run_leaves_exactly_these_files(launched):
    others = {"data_summary.json", "metrics.jsonl", "samples", "checkpoint-4", "checkpoint-6"}
    assert {path.name for path in launched.iterdir()} == MODEL_FILES | others
    assert [path.name for path in (launched / "samples").iterdir()] == ["step-000003.png"]
    for path in launched.glob("checkpoint-*"):
        model = {
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
            "scheduler_config.json",
            "model_index.json",
        }
        others = {"training_settings.json", "metrics.jsonl", "checkpoint.json", STATE_FILE}
        assert {file.name for file in path.iterdir()} == model | others
    assert Image.open(launched / "samples.png").width >= 2 * 8


def test_metrics_are_logged(launched):
    lines = metrics(launched)
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 6]
    losses, evaluations = [line for line in lines if "loss" in line], [line for line in lines if "loss" not in line]
    for line in losses:
        assert line.keys() == {
            *("step", "loss", "reconstruction_loss", "alignment_loss", "latent_mean", "latent_std", "own_label_share"),
            *("encoder_learning_rate", "decoder_learning_rate", "label_anchors_learning_rate"),
            *("images_per_second", "nonfinite_steps"),
        }
        assert abs(line["loss"] - line["reconstruction_loss"] - line["alignment_loss"]) < 1e-5
        assert abs(line["latent_mean"]) < 0.1 and 0.9 < line["latent_std"] < 1.1
        assert 0 <= line["own_label_share"] <= 1 and line["nonfinite_steps"] == 0
    scores = {"validation_nll", "validation_calibration_error"}
    keys = {"step", "validation_accuracy"}
    assert [line.keys() for line in evaluations] == [keys, keys | scores]


def test_the_final_folder_is_the_averaged_model_with_reference_anchors(launched):
    final, state = weights(launched), torch.load(launched / "checkpoint-6" / STATE_FILE, weights_only=True)
    trained = weights(launched / "checkpoint-6")
    pipe = LZNPipeline.from_pretrained(launched)
    averages = [p for part in ("encoder", "decoder", "label_anchors") for p in state["ema"][part]["shadow_params"]]
    names = [name.replace("label_anchors.weight", "label_anchors") for name, _ in pipe.model.named_parameters()]
    names.sort(key=lambda name: ("encoder", "decoder", "label_anchors").index(name.split(".")[0]))
    assert len(names) == len(averages) == len(trained)
    for name, average in zip(names, averages, strict=True):
        assert torch.equal(final[name], average), name
    assert any(not torch.equal(final[name], trained[name]) for name in names)
    # The anchors are those of training images under the averaged weights.
    images = to_pixel_values(load_image_data("digits").train.pixel_values)
    with torch.no_grad():
        anchors = pipe.model.eval().get_image_anchors(images)
    distance = torch.cdist(final["reference_anchors"], anchors, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert distance.values.max() < 1e-4 and len(distance.indices.unique()) == 50
    # Its scores are read where they fit the validation images best, in all ways to classify.
    assert 0 < pipe.model.config.prediction_time < 1 and Image.open(launched / "reliability.png").width == 540
    classifier = LZNForImageClassification.from_pretrained(launched).eval()
    (scores,) = pipe.classify({"pixel_values": images[:1]}, top_k=10)
    digit = pipe.image_processor.postprocess(images[:1], "pil")
    ours = {entry["label"]: entry["score"] for entry in scores}
    theirs = pipeline("image-classification", model=str(launched), top_k=10)(digit[0])
    with torch.no_grad():
        logits = classifier(images[:1]).logits[0].softmax(-1)
    assert ours == pytest.approx({entry["label"]: entry["score"] for entry in theirs}, abs=1e-4)
    assert ours == pytest.approx({classifier.config.id2label[i]: p for i, p in enumerate(logits.tolist())}, abs=1e-4)


def test_the_snippets_of_the_model_card_run_as_printed(launched):
    card = (launched / "README.md").read_text()
    snippets = re.findall(r"```py\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 2
    scope: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet, scope)
    assert len(scope["images"]) == 4 and len(scope["predictions"][0]) == 3 and len(scope["embeddings"]) == 4
    assert len(scope["classifier"](scope["images"][0])) == 5
    accuracy = metrics(launched)[-1]["validation_accuracy"]
    assert f"validation accuracy: {accuracy:.4f}" in card and "| max_train_steps | `6` |" in card


def test_a_resumed_run_ends_like_one_that_never_stopped(launched, tmp_path):
    # Other steps to log, evaluate and save than in the launched run: they must change nothing.
    first = f"--output_dir {tmp_path} --ema_decay 0.5 --logging_steps 1"
    train(f"{first} --max_train_steps 4 --checkpointing_steps 3")
    train(f"{first} --max_train_steps 6 --resume_from_checkpoint latest --checkpointing_steps 6")
    assert (tmp_path / "checkpoint-3").exists()
    for folder in ("", "checkpoint-6"):
        for name, value in weights(launched / folder).items():
            assert torch.equal(weights(tmp_path / folder)[name], value), (folder, name)
    states = [torch.load(path / "checkpoint-6" / STATE_FILE, weights_only=True) for path in (launched, tmp_path)]
    names = {"step", "optimizer", "scheduler", "ema", "batches", "guard", "metrics", "model", "pieces"}
    assert states[0].keys() == names
    assert as_text(states[0]) == as_text(states[1])
    # Step 4 of the first try was written again.
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 6]
    losses = {line["step"]: line["loss"] for line in metrics(tmp_path) if "loss" in line}
    for line in metrics(launched):
        if "loss" in line:
            assert line["loss"] == pytest.approx((losses[line["step"]] + losses[line["step"] - 1]) / 2, rel=1e-6)


def test_latest_without_a_checkpoint_starts_anew(toys, tmp_path, caplog):
    caplog.set_level("INFO")
    train(f"{toys} --output_dir {tmp_path} --max_train_steps 1 --resume_from_checkpoint latest")
    assert "No checkpoint in" in caplog.text and "starting from step 0" in caplog.text
    assert metrics(tmp_path)[0]["step"] == 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("--seed 1", r"training.seed: 0 in the checkpoint, 1 now"),
        ("--max_shift 1", r"data.max_shift: 0 in the checkpoint, 1 now"),
        ("--encoder_learning_rate 0.5", r"joint.encoder_learning_rate: 0.001 in the checkpoint, 0.5 now"),
        ("--image_size 16", r"images: model.image_size: 8 in the checkpoint, 16 now.$"),
    ],
)  # fmt: skip
def test_resuming_a_run_of_other_settings_lists_them(launched, change, line):
    before = sorted(path.name for path in launched.iterdir())
    with pytest.raises(ValueError, match=line):
        train(f"{SIX_STEPS} --output_dir {launched} --resume_from_checkpoint latest {change}")
    assert sorted(path.name for path in launched.iterdir()) == before


def test_a_dry_run_prints_and_writes_nothing(tmp_path, capsys):
    assert (
        train(f"--output_dir {tmp_path / 'run'} --max_train_steps 7 --gradient_accumulation_steps 4 --dry_run") is None
    )
    printed = capsys.readouterr().out
    settings, sizes = json.JSONDecoder().raw_decode(printed)
    assert settings["model"]["latent_dim"] == 6 and settings["training"]["max_train_steps"] == 7
    for text in (
        r"encoder: +[\d,]+ parameters",
        "label_anchors: +60 parameters",
        "7 steps x 512 images = 4 anchor pool",
    ):
        assert re.search(text, printed[sizes:]), text
    assert "2.5 epochs of 1,437 training images" in printed and "360 for validation" in printed
    assert not (tmp_path / "run").exists()


def test_without_flags_it_trains_digits(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forget_accelerators()
    assert train_joint.main(["--dry_run"]) is None
    assert "1,437 training images" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_help_teaches(capsys):
    with pytest.raises(SystemExit, match="0"):
        train_joint.main(["--help"])
    printed = capsys.readouterr().out
    assert "accelerate launch -m lzn_hf.train_joint --preset cifar10 --dry_run" in printed
    for flag in ("--preset", "--model_name_or_path", "--total_batch_size", "--decoder_train_steps", "--max_shift"):
        assert flag in printed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--total_batch_size 2000", "1437 training images do not fill one batch of 2000"),
        ("--max_train_steps 10 --encoder_learning_rate -1", "`encoder_learning_rate` must be at least 0"),
        ("--gradient_accumulation_steps 3", "`total_batch_size` 512 cannot be split evenly"),
        ("--data_dir no/such/folder", "no/such/folder"),
        ("--model_name_or_path no/such/model", "no/such/model"),
        ("--num_reference_anchors 0", "`num_reference_anchors` must be at least 1"),
        ("--decoder_train_steps 0", "`decoder_train_steps` must be at least 1"),
        ("--config_overrides decoder_type=null", "`decoder_type` of the model is None"),
        ("--encoder_name_or_path no/such/model", "no/such/model"),
        ("--push_to_hub", "offline mode is enabled"),
    ],
)  # fmt: skip
def test_an_error_leaves_nothing_behind(tmp_path, argv, message):
    with pytest.raises((ValueError, OSError), match=message):
        train(f"--output_dir {tmp_path / 'run'} {argv}")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_files_is_only_overwritten_on_demand(toys, tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "metrics.jsonl").write_text('{"step": 99}\n')
    with pytest.raises(ValueError, match="`output_dir` .* is not empty"):
        train(f"{toys} --output_dir {tmp_path}")
    train(f"{toys} --output_dir {tmp_path} --max_train_steps 1 --overwrite_output_dir")
    assert {path.name for path in tmp_path.iterdir()} == MODEL_FILES | {
        "data_summary.json",
        "metrics.jsonl",
        "notes.txt",
    }
    assert [line["step"] for line in metrics(tmp_path)] == [1, 1]


# Non-finite steps


def make_nan(monkeypatch, bad_calls) -> None:
    """The images of these training batches (counted from 0) become NaN."""
    calls = iter(range(1000))

    def broken(images, **options):
        pixel_values = to_pixel_values(images, **options)
        return pixel_values * float("nan") if next(calls) in bad_calls else pixel_values

    monkeypatch.setattr(setup, "to_pixel_values", broken)


def test_a_non_finite_step_is_skipped_and_counted(toys, tmp_path, monkeypatch, caplog):
    make_nan(monkeypatch, {1, 2})
    train(f"{toys} --output_dir {tmp_path} --max_train_steps 4 --logging_steps 1 --checkpointing_steps 1")
    lines = [line for line in metrics(tmp_path) if "images_per_second" in line]
    assert [line["nonfinite_steps"] for line in lines] == [0, 1, 2, 2]
    assert [line["step"] for line in lines if "loss" in line] == [1, 4]
    assert "step skipped (2 in a row, 2 in all)" in caplog.text
    # No checkpoint while steps are being skipped.
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-4"]
    first, last = (weights(tmp_path / f"checkpoint-{step}") for step in (1, 4))
    assert any(not torch.equal(first[name], last[name]) for name in first)
    assert all(value.isfinite().all() for value in {**last, **weights(tmp_path)}.values())


def test_many_in_a_row_stop_the_run(toys, tmp_path, monkeypatch):
    make_nan(monkeypatch, range(1, 1000))
    with pytest.raises(RuntimeError, match="3 steps in a row had a non-finite loss or gradient.*--warmup_steps"):
        train(
            f"{toys} --output_dir {tmp_path} --max_nonfinite_steps 3 --checkpointing_steps 1 --checkpoints_total_limit 1"
        )
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]  # not rotated away
    assert all(value.isfinite().all() for value in weights(tmp_path / "checkpoint-1").values())
    assert not (tmp_path / "model.safetensors").exists()


# Other data


def test_fine_tuning_onto_other_labels(launched, toys, tmp_path, caplog):
    caplog.set_level("INFO")
    rates = "--encoder_learning_rate 0 --decoder_learning_rate 0"
    folder = train(f"{toys} --model_name_or_path {launched} {rates} --max_train_steps 1 --output_dir {tmp_path}")
    assert "Labels kept: none; new, with initial weights: 3 ('cat', 'dog', 'eel'); dropped: 10 ('0'," in caplog.text
    pipe = LZNPipeline.from_pretrained(folder)
    assert pipe.model.config.label2id == {"cat": 0, "dog": 1, "eel": 2}
    pipe.set_progress_bar_config(disable=True)
    assert len(pipe(label="eel", num_inference_steps=1).images) == 1
    # With learning rates of zero, what was kept is still there.
    before, after = weights(launched), weights(folder)
    kept = [name for name in before if name.startswith(("encoder.", "decoder.blocks"))]
    assert len(kept) > 50 and all(torch.equal(before[name], after[name]) for name in kept)


def test_an_image_model_of_transformers_becomes_the_encoder(toys, tmp_path):
    config = AutoConfig.for_model("convnext", hidden_sizes=[32, 64], depths=[1, 1], num_stages=2)
    published = AutoModel.from_config(config)
    published.save_pretrained(tmp_path / "published")
    flags = f"{toys} --encoder_name_or_path {tmp_path / 'published'} --config_overrides latent_dim=64"
    flags += " --checkpointing_steps 1 --ema_decay 0"
    kept = train(f"{flags} --encoder_learning_rate 0 --max_train_steps 1 --output_dir {tmp_path / 'kept'}")
    backbone = LZNPipeline.from_pretrained(kept).model.encoder.backbone.state_dict()
    assert backbone and all(torch.equal(value, published.state_dict()[name]) for name, value in backbone.items())
    whole = train(f"{flags} --max_train_steps 2 --output_dir {tmp_path / 'whole'}")
    train(f"{flags} --max_train_steps 1 --output_dir {tmp_path / 'parts'}")
    parts = train(f"{flags} --max_train_steps 2 --output_dir {tmp_path / 'parts'} --resume_from_checkpoint latest")
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(parts).items())
    pipe = LZNPipeline.from_pretrained(whole)
    pipe.set_progress_bar_config(disable=True)
    trained = pipe.model.encoder.backbone.state_dict()
    assert not all(torch.equal(trained[name], value) for name, value in backbone.items())
    image = pipe(label="eel", num_inference_steps=1).images[0]
    assert pipe.embed(image).shape == (1, 64) and len(pipe.classify(image)[0]) == 3


def test_fine_tuning_refuses_another_image_size(launched, toys, tmp_path):
    with pytest.raises(ValueError, match="`image_size` is 16, but `model_name_or_path` .* was trained with 8"):
        train(f"{toys} --model_name_or_path {launched} --image_size 16 --output_dir {tmp_path}")


def test_streamed_images_resume_to_the_bit(toys, tmp_path):
    flags = f"{toys} --streaming --num_reference_anchors 5 --checkpointing_steps 2"
    whole = train(f"{flags} --max_train_steps 5 --output_dir {tmp_path / 'whole'}")
    train(f"{flags} --max_train_steps 2 --output_dir {tmp_path / 'parts'}")
    parts = train(f"{flags} --max_train_steps 5 --output_dir {tmp_path / 'parts'} --resume_from_checkpoint latest")
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(parts).items())
    sorted_by_label = train(f"{flags} --max_train_steps 5 --output_dir {tmp_path / 'other'} --shuffle_buffer_size 1")
    assert any(not torch.equal(weights(whole)[name], value) for name, value in weights(sorted_by_label).items())
