# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The real script for models without labels, on images without labels: what it leaves, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from helpers import ROOT
from helpers.training import TINY, data_flags, forget_accelerators, tiny_model, weights
from PIL import Image

from lzn_hf import LZNModel, LZNPipeline, train_unconditional
from lzn_hf.data.batches import to_pixel_values
from lzn_hf.data.images import load_image_data
from lzn_hf.training.checkpoints import STATE_FILE
from lzn_hf.training.models import build_model, model_parts
from lzn_hf.training.parsing import PRESETS_DIR, parse_arguments


EXAMPLES = ROOT / "examples"
PRESETS = PRESETS_DIR / "unconditional"


BASELINE = "--baseline rectified_flow"
FILES = {
    "README.md",
    "config.json",
    "curves.png",
    "data_summary.json",
    "metrics.jsonl",
    "model.safetensors",
    "model_index.json",
    "preprocessor_config.json",
    "samples.png",
    "scheduler_config.json",
    "training_settings.json",
}


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> str:
    """Flags for 18 training and 9 test images of noise in folders without labels, and a model for them."""
    root = tmp_path_factory.mktemp("toys")
    rng = np.random.default_rng(0)
    for split, count in (("train", 18), ("test", 9)):
        (root / "images" / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(root / "images" / split / f"{i}.png")
    own = {"num_reference_anchors": 9, "num_samples": 3, "num_inference_steps": 2}
    training = {"total_batch_size": 8, "logging_steps": 1, "ema_decay": 0.5}
    (root / "toys.json").write_text(json.dumps({"model": TINY, "training": training, "unconditional": own}))
    return f"--preset {root / 'toys.json'} --data_dir {root / 'images'}"


def train(flags: str) -> Path | None:
    forget_accelerators()
    return train_unconditional.main(flags.split())


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


FOUR_STEPS = "--max_train_steps 4 --eval_steps 2 --checkpointing_steps 2"


@pytest.fixture(scope="module")
def lzn(toys, tmp_path_factory) -> Path:
    return train(f"{toys} {FOUR_STEPS} --output_dir {tmp_path_factory.mktemp('lzn') / 'run'}")


@pytest.fixture(scope="module")
def flow(toys, tmp_path_factory) -> Path:
    return train(f"{toys} {FOUR_STEPS} {BASELINE} --output_dir {tmp_path_factory.mktemp('flow') / 'run'}")


@pytest.fixture(params=["lzn", "flow"])
def trained(request) -> Path:
    return request.getfixturevalue(request.param)


def test_a_run_leaves_exactly_these_files_and_metrics(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == FILES | {"samples", "checkpoint-2", "checkpoint-4"}
    assert [path.name for path in (trained / "samples").iterdir()] == ["step-000002.png"]
    lines = metrics(trained)
    assert [line["step"] for line in lines] == [1, 2, 2, 3, 4, 4]
    has_encoder = (trained.parent.name).startswith("lzn")
    wanted = {"step", "loss", "decoder_learning_rate", "images_per_second", "nonfinite_steps"}
    wanted |= {"latent_mean", "latent_std", "encoder_learning_rate"} if has_encoder else set()
    assert all(line.keys() == wanted for line in lines if "loss" in line)
    evaluations = [line for line in lines if "loss" not in line]
    assert all(line.keys() == {"step", "validation_loss"} for line in evaluations) and len(evaluations) == 2
    assert evaluations[0]["validation_loss"] != evaluations[1]["validation_loss"]


def test_the_final_weights_are_the_moving_averages(trained):
    model = LZNModel.from_pretrained(trained)
    averages = torch.load(trained / "checkpoint-4" / STATE_FILE, weights_only=True)["ema"]
    for part, parameters in model_parts(model).items():
        assert all(map(torch.equal, parameters, averages[part]["shadow_params"]))
    last = weights(trained / "checkpoint-4")
    assert any(not torch.equal(parameter, last[name]) for name, parameter in model.named_parameters())


def test_the_validation_loss_is_that_of_the_averaged_model(trained, toys):
    model = LZNModel.from_pretrained(trained).eval()
    pixel_values = to_pixel_values(
        load_image_data(data_dir=toys.split()[-1], use_labels=False).validation.pixel_values
    )
    pixel_values = pixel_values[torch.randperm(9, generator=torch.Generator().manual_seed(0))]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(9, 6, generator=generator) if model.encoder is not None else None
    draws = {"sample_noise": torch.randn(9, 1, 8, 8, generator=generator)}
    draws["timesteps"] = torch.rand(9, generator=generator)
    with torch.no_grad():
        loss = model(pixel_values, return_loss=True, noise=noise, **draws).loss.item()
    assert metrics(trained)[-1]["validation_loss"] == pytest.approx(loss, rel=1e-5)


def test_the_folder_of_an_lzn_opens_everywhere(lzn, toys):
    model = transformers.AutoModel.from_pretrained(lzn)
    assert type(model) is LZNModel and model.config.num_labels == 0
    image = Image.open(next(Path(toys.split()[-1]).glob("test/*.png")))
    extractor = transformers.pipeline("image-feature-extraction", model=str(lzn))
    features = torch.tensor(extractor(image))[0]
    pipe = LZNPipeline.from_pretrained(lzn)
    pipe.set_progress_bar_config(disable=True)
    torch.testing.assert_close(features, pipe.embed(image)[0], rtol=1e-4, atol=1e-5)
    generated = pipe(num_images_per_label=3, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images
    assert len(generated) == 3 and generated[0].size == (8, 8)
    # The anchors are those of training images under the averaged weights.
    images = to_pixel_values(load_image_data(data_dir=toys.split()[-1], use_labels=False).train.pixel_values)
    with torch.no_grad():
        distances = torch.cdist(model.reference_anchors(), model.eval().get_image_anchors(images))
    assert distances.shape == (9, 18) and distances.min(1).values.max() < 1e-4


def test_the_folder_of_a_rectified_flow_generates(flow):
    model = transformers.AutoModel.from_pretrained(flow)
    assert model.encoder is None and model.reference_anchors is None
    assert json.loads((flow / "training_settings.json").read_text())["model"]["encoder_type"] is None
    pipe = LZNPipeline.from_pretrained(flow)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(num_images_per_label=2, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images
    assert len(images) == 2
    with pytest.raises(ValueError, match="no image encoder"):
        pipe.embed(images)


def test_the_snippets_of_the_model_card_run_as_printed(trained):
    card = (trained / "README.md").read_text()
    snippets = re.findall(r"```py\n(.*?)```", card, re.DOTALL)
    scope: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet, scope)
    assert len(scope["images"]) == len(scope["again"]) == 4
    has_encoder = scope["pipe"].model.encoder is not None
    assert len(snippets) == (2 if has_encoder else 1)
    assert ("embeddings" in scope) == ("extractor" in scope) == ("model" in scope) == has_encoder
    assert ("6 latent dimensions" in card) == ("anchors of 9 training images" in card) == has_encoder
    assert ("A rectified flow trained on" in card) == (not has_encoder)
    assert f"validation loss: {metrics(trained)[-1]['validation_loss']:.4f}" in card
    assert f'| baseline | `"{"none" if has_encoder else "rectified_flow"}"` |' in card


@pytest.mark.parametrize("baseline", ["", BASELINE])
def test_a_resumed_run_ends_like_one_that_never_stopped(toys, tmp_path, baseline, request):
    whole = request.getfixturevalue("flow" if baseline else "lzn")
    flags = f"{toys} {baseline} --output_dir {tmp_path} --checkpointing_steps 2"
    train(f"{flags} --max_train_steps 3")
    train(f"{flags} --max_train_steps 4 --resume_from_checkpoint latest --num_samples 2")
    for folder in ("", "checkpoint-4"):
        resumed = weights(tmp_path / folder)
        assert all(torch.equal(resumed[name], value) for name, value in weights(whole / folder).items())
    states = [torch.load(path / "checkpoint-4" / STATE_FILE, weights_only=True) for path in (whole, tmp_path)]
    names = {"step", "optimizer", "scheduler", "ema", "batches", "guard", "metrics", "model", "pieces"}
    assert states[0].keys() == names
    assert states[0]["ema"].keys() == ({"decoder"} if baseline else {"encoder", "decoder"})


def test_gradient_checkpointing_changes_no_loss(lzn, toys, tmp_path):
    folder = train(f"{toys} {FOUR_STEPS} --gradient_checkpointing --output_dir {tmp_path}")
    losses, expected = ([line["loss"] for line in metrics(path) if "loss" in line] for path in (folder, lzn))
    assert losses == pytest.approx(expected, rel=1e-5)
    assert json.loads((folder / "training_settings.json").read_text())["training"]["gradient_checkpointing"]


def test_fine_tuning_leaves_labels_behind(toys, tmp_path):
    tiny_model().save_pretrained(tmp_path / "labelled")
    flags = f"{toys} --max_train_steps 1 --output_dir {tmp_path / 'run'} --encoder_learning_rate 0"
    folder = train(f"{flags} --model_name_or_path {tmp_path / 'labelled'}")
    before, after = weights(tmp_path / "labelled"), weights(folder)
    assert "label_anchors" in before and "label_anchors" not in after
    assert all(torch.equal(before[name], value) for name, value in after.items() if name.startswith("encoder."))
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("decoder.blocks"))


def test_without_validation_images_there_is_no_validation_loss(toys, tmp_path):
    folder = train(
        f"{toys} --max_train_steps 1 --validation_split train --validation_fraction 0 --output_dir {tmp_path}"
    )
    assert not any("validation_loss" in line for line in metrics(folder))
    assert "There was no validation data." in (folder / "README.md").read_text()


# Presets


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.json")))
@pytest.mark.parametrize("encoder", [{}, {"encoder_type": None}])
def test_presets_describe_networks_that_can_be_built(preset, encoder):
    model, data, run, own = parse_arguments(
        train_unconditional.ARGUMENTS, PRESETS, ["--preset", preset, *data_flags(PRESETS / f"{preset}.json")]
    )
    size = data.image_size or {"digits": 8, "fashion-mnist": 28, "cifar10": 32}[preset]
    channels = 1 if preset.startswith(("digits", "fashion-mnist")) else 3
    with torch.device("meta"):
        network = build_model(model.config | encoder, image_size=size, num_channels=channels, label_names=())
    sizes = {name: sum(p.numel() for p in parameters) for name, parameters in model_parts(network).items()}
    assert sizes.keys() == {"decoder"} | ({"encoder"} if not encoder else set())
    if channels == 1:
        assert sum(sizes.values()) < 10_000_000
    elif preset == "cifar10" and not encoder:  # published
        assert sizes["encoder"] == 49_790_260
        assert (run.total_batch_size, own.encoder_learning_rate, own.decoder_learning_rate) == (2000, 2.5e-5, 1e-3)
    assert run.output_dir != type(run).output_dir  # each has its own


def test_help_teaches(capsys):
    with pytest.raises(SystemExit, match="0"):
        train_unconditional.main(["--help"])
    printed = capsys.readouterr().out
    for flag in (
        "--baseline {none,rectified_flow}",
        "--encoder_name_or_path",
        "--gradient_checkpointing",
        "--num_samples",
    ):
        assert flag in printed


# Errors


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (f"{BASELINE} --encoder_name_or_path some/model", "`encoder_name_or_path` names an image encoder"),
        (f"{BASELINE} --config_overrides encoder_type=resnet", "`config_overrides` ask for `encoder_type=resnet`"),
        ("--config_overrides decoder_type=null", "`decoder_type` of the model is None"),
        ("--config_overrides encoder_type=null", "`baseline` none needs a model with image encoder.* is None"),
        ("--model_name_or_path {flow}", "`baseline` none needs a model with image encoder.* is None"),
        (f"{BASELINE} --model_name_or_path {{lzn}}", "`baseline` rectified_flow needs a model without.* is 'ncsnpp'"),
        ("--num_samples 0", "`num_samples` must be at least 1"),
        ("--decoder_learning_rate -1", "`decoder_learning_rate` must be at least 0"),
        ("--preset afhq-cat", "afhq"),  # which has to be there
    ],
)  # fmt: skip
def test_an_error_leaves_nothing_behind(request, toys, tmp_path, monkeypatch, argv, message):
    for name in re.findall(r"{(\w+)}", argv):
        argv = argv.replace(f"{{{name}}}", str(request.getfixturevalue(name)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        train(f"{'' if '--preset' in argv else toys} --output_dir {tmp_path / 'run'} {argv}")
    assert not (tmp_path / "run").exists()
