# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The real script of representation learning: its methods, what it leaves, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from helpers.training import data_flags, forget_accelerators, tiny_model, weights, write_image_folder
from PIL import Image

from lzn_hf import LZNImageProcessor, LZNModel, train_representation
from lzn_hf.data.batches import to_pixel_values
from lzn_hf.data.images import load_image_data
from lzn_hf.data.views import IMAGENET_VIEWS, ViewSettings, random_views
from lzn_hf.training.checkpoints import STATE_FILE
from lzn_hf.training.models import build_model, model_parts
from lzn_hf.training.parsing import PRESETS_DIR, parse_arguments


PRESETS = PRESETS_DIR / "representation"
FILES = {"README.md", "config.json", "curves.png", "data_summary.json", "metrics.jsonl", "model.safetensors", "preprocessor_config.json", "training_settings.json"}  # fmt: skip
METRICS = {"lzn": {"latent_std", "own_view_share", "anchor_spread"}, "simclr": {"similarity"}, "moco": set()}
MODEL = {
    "latent_dim": 64,
    "encoder_type": "resnet",
    "encoder_small_images": True,
    "encoder_depths": [1],
    "encoder_widths": [32],
    "encoder_head_layers": 1,
    "latent_noise_scale": 0.45,
    "alignment_reduction": "log_prob",
    "decoder_type": None,
}
BACKBONES = {
    "convnext": {"hidden_sizes": [32, 64], "depths": [1, 1], "num_stages": 2},
    "vit": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 4,
        "intermediate_size": 64,
    },
}
DECODER = "decoder_type=ncsnpp decoder_channel_multipliers=[1] decoder_attention_resolutions=[]"
FOUR_STEPS = "--max_train_steps 4 --eval_steps 2 --checkpointing_steps 2"


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> str:
    """Flags for 18 training and 9 test images of noise with labels, and a small encoder for them."""
    root = tmp_path_factory.mktemp("toys")
    sections = {
        "model": MODEL,
        "training": {"total_batch_size": 8, "logging_steps": 1, "ema_decay": 0.5},
        "representation": {"num_reference_anchors": 9, "queue_size": 24},
        "views": {"crop_scale": [0.5, 1.0], "blur": 0.0},
    }
    (root / "toys.json").write_text(json.dumps(sections))
    return f"--preset {root / 'toys.json'} --data_dir {write_image_folder(root / 'images')}"


def train(flags: str) -> Path | None:
    forget_accelerators()
    if "simclr" in flags:
        pytest.importorskip("pytorch_metric_learning", reason="simclr_loss is that of pytorch-metric-learning")
    return train_representation.main(flags.split())


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def runs(toys, tmp_path_factory):
    """The folder of four steps with a method; each is run once."""
    folders = {}

    def run(method: str) -> Path:
        if method not in folders:
            output_dir = tmp_path_factory.mktemp(method) / "run"
            folders[method] = train(f"{toys} {FOUR_STEPS} --method {method} --output_dir {output_dir}")
        return folders[method]

    return run


@pytest.mark.parametrize("method", METRICS)
def test_a_run_leaves_exactly_these_files_and_metrics(runs, method):
    folder = runs(method)
    assert {path.name for path in folder.iterdir()} == FILES | {"checkpoint-2", "checkpoint-4"}
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 2, 3, 4, 4]
    wanted = {"step", "loss", "encoder_learning_rate", "images_per_second", "nonfinite_steps", *METRICS[method]}
    assert all(line.keys() == wanted for line in lines if "loss" in line)
    evaluations = [line for line in lines if "loss" not in line]
    assert all(line.keys() == {"step", "validation_knn_accuracy"} for line in evaluations) and len(evaluations) == 2
    assert all(0 <= line["validation_knn_accuracy"] <= 1 for line in evaluations)
    state = torch.load(folder / "checkpoint-4" / STATE_FILE, weights_only=True)
    assert ("contrast" in state) == (method == "moco")


def test_the_final_weights_are_the_moving_averages(runs):
    folder = runs("lzn")
    model = LZNModel.from_pretrained(folder)
    averages = torch.load(folder / "checkpoint-4" / STATE_FILE, weights_only=True)["ema"]
    for part, parameters in model_parts(model).items():
        assert all(map(torch.equal, parameters, averages[part]["shadow_params"]))
    last = weights(folder / "checkpoint-4")
    assert any(not torch.equal(parameter, last[name]) for name, parameter in model.named_parameters())


def test_methods_differ(runs):
    assert not same(weights(runs("lzn")), weights(runs("moco")))
    assert not same(weights(runs("lzn")), weights(runs("simclr")))


@pytest.mark.parametrize("method", METRICS)
def test_the_folder_opens_everywhere(runs, toys, method):
    folder = runs(method)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    assert type(model) is LZNModel and model.decoder is None and model.config.num_labels == 0
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert isinstance(processor, LZNImageProcessor)
    image = Image.open(next(Path(toys.split()[-1]).glob("test/cat/*.png")))
    extractor = transformers.pipeline("image-feature-extraction", model=str(folder))
    data = load_image_data(data_dir=toys.split()[-1])
    pixel_values = to_pixel_values(torch.from_numpy(np.array(image))[None, None])
    with torch.no_grad():
        features = model.get_image_features(pixel_values)
        distances = torch.cdist(
            model.reference_anchors(), model.get_image_anchors(to_pixel_values(data.train.pixel_values))
        )
    torch.testing.assert_close(torch.tensor(extractor(image)), features, rtol=1e-4, atol=1e-5)
    assert distances.shape == (9, 18) and distances.min(1).values.max() < 1e-3


def test_the_snippets_of_the_model_card_run_as_printed(runs, toys):
    card = (runs("lzn") / "README.md").read_text()
    [snippet] = re.findall(r"```py\n(.*?)```", card, re.DOTALL)
    scope: dict[str, object] = {}
    exec(snippet, scope)
    image = Image.open(next(Path(toys.split()[-1]).glob("test/cat/*.png")))
    assert len(scope["extractor"](image)[0]) == 128 and type(scope["model"]) is LZNModel
    accuracy = metrics(runs("lzn"))[-1]["validation_knn_accuracy"]
    for text in (f"validation knn accuracy: {accuracy:.4f}", '| method | `"lzn"` |', "| crop_scale | `[0.5, 1.0]` |"):
        assert text in card, text
    assert "samples.png" not in card


def test_the_accuracy_is_that_of_the_averaged_model(runs, toys):
    """18 training images are fewer than the neighbours that vote elsewhere."""
    data = load_image_data(data_dir=toys.split()[-1])
    model = LZNModel.from_pretrained(runs("lzn")).eval()
    features = []
    with torch.no_grad():
        for images in (data.train, data.validation):
            embeddings = model.get_image_features(to_pixel_values(images.pixel_values)).double()
            features.append(embeddings / embeddings.norm(dim=1, keepdim=True))
    votes = torch.zeros(9, 3, dtype=torch.float64)
    votes.index_add_(1, data.train.labels, (features[1] @ features[0].T / 0.07).exp())
    accuracy = (votes.argmax(1) == data.validation.labels).double().mean().item()
    assert metrics(runs("lzn"))[-1]["validation_knn_accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("method", ["lzn", "moco"])
def test_a_resumed_run_ends_like_one_that_never_stopped(runs, toys, tmp_path, method):
    """The queue of MoCo goes around between the two parts."""
    flags = f"{toys} --method {method} --output_dir {tmp_path} --checkpointing_steps 2"
    train(f"{flags} --max_train_steps 3")
    train(f"{flags} --max_train_steps 4 --resume_from_checkpoint latest --num_neighbours_from 5")
    for folder in ("", "checkpoint-4"):
        assert same(weights(runs(method) / folder), weights(tmp_path / folder)), folder
    if method == "moco":
        whole, resumed = (
            torch.load(path / "checkpoint-4" / STATE_FILE, weights_only=True)["contrast"]
            for path in (runs(method), tmp_path)
        )
        assert whole["position"] == resumed["position"] == 4 * 8 % 24
        assert torch.equal(whole["queue"], resumed["queue"]) and same(whole["encoder"], resumed["encoder"])


def test_moco_survives_a_step_that_is_skipped(toys, tmp_path, monkeypatch):
    """The keys of a batch of NaN must not enter the queue, nor the checkpoint that follows, nor the next step."""
    calls = iter(range(1000))

    def broken(*args, **options):
        views = random_views(*args, **options)
        return views * float("nan") if next(calls) in (2, 3) else views

    monkeypatch.setattr(train_representation, "random_views", broken)
    flags = f"{toys} --method moco --checkpointing_steps 2"
    whole = train(f"{flags} --max_train_steps 4 --output_dir {tmp_path / 'whole'}")
    assert [line["nonfinite_steps"] for line in metrics(whole) if "nonfinite_steps" in line] == [0, 1, 1, 1]
    state = torch.load(whole / "checkpoint-4" / STATE_FILE, weights_only=True)["contrast"]
    assert state["queue"].isfinite().all() and state["position"] == 0  # three batches of eight
    monkeypatch.setattr(train_representation, "random_views", random_views)
    (tmp_path / "parts").mkdir()
    (whole / "checkpoint-3").rename(tmp_path / "parts" / "checkpoint-3")  # due at step 2, which was skipped
    parts = train(f"{flags} --max_train_steps 4 --output_dir {tmp_path / 'parts'} --resume_from_checkpoint latest")
    assert same(weights(whole), weights(parts))


def test_gradient_checkpointing_changes_no_loss(runs, toys, tmp_path):
    folder = train(f"{toys} {FOUR_STEPS} --gradient_checkpointing --output_dir {tmp_path}")
    losses, expected = ([line["loss"] for line in metrics(path) if "loss" in line] for path in (folder, runs("lzn")))
    assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "flags",
    [
        "--crop_scale 0.9 1.0",
        "--crop_ratio 1 1",
        "--flip 0",
        "--jitter 0",
        "--brightness 0",
        "--contrast 0",
        "--blur 1",
        "--blur_sigma 3 4 --blur 0.5",
        "--config_overrides latent_noise_scale=1.0",
        "--seed 1",
        "--encoder_learning_rate 0.1",
        "--mixed_precision bf16",
        "--method simclr --temperature 0.1",
        "--method moco --temperature 0.1",
        "--method moco --queue_size 8",
        "--method moco --key_momentum 0.5",
    ],
)
def test_flags_change_the_model(runs, toys, tmp_path, flags):
    method = flags.split()[1] if flags.startswith("--method") else "lzn"
    folder = train(f"{toys} {flags} --max_train_steps 2 --checkpointing_steps 2 --output_dir {tmp_path}")
    changed, before = weights(folder / "checkpoint-2"), weights(runs(method) / "checkpoint-2")
    assert not same(changed, before)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in changed.values())


def test_images_need_no_labels(toys, tmp_path):
    images = Path(toys.split()[-1])
    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for number, path in enumerate(sorted(images.glob(f"{split}/*/*.png"))):
            (tmp_path / "images" / split / f"{number:02}.png").write_bytes(path.read_bytes())
    flags = f"{toys} --data_dir {tmp_path / 'images'} --max_train_steps 4 --checkpointing_steps 4 --eval_steps 2"
    folder = train(f"{flags} --output_dir {tmp_path / 'run'}")
    assert not any("validation_knn_accuracy" in line for line in metrics(folder))
    assert "There was no validation data." in (folder / "README.md").read_text()


def test_labels_do_not_reach_the_training(runs, toys, tmp_path):
    folder = train(f"{toys} --max_train_steps 4 --no_use_labels --output_dir {tmp_path}")
    assert same(weights(folder), weights(runs("lzn")))


# An encoder of transformers


def backbone_of(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of the encoder without its head, under the names of the model (those in the file are the Hub's)."""
    return LZNModel.from_pretrained(folder).encoder.backbone.state_dict()


@pytest.mark.parametrize("model_type", BACKBONES)
def test_a_published_encoder_is_trained_and_saved(toys, tmp_path, model_type):
    config = transformers.AutoConfig.for_model(model_type, **BACKBONES[model_type], image_size=8)
    torch.manual_seed(3)
    published = transformers.AutoModel.from_config(config)
    published.save_pretrained(tmp_path / "published")
    flags = f"{toys} --encoder_name_or_path {tmp_path / 'published'} --checkpointing_steps 1"
    kept = train(f"{flags} --encoder_learning_rate 0 --max_train_steps 1 --output_dir {tmp_path / 'kept'}")
    before = published.state_dict()
    backbone = backbone_of(kept)
    assert len(backbone) > 10 and all(torch.equal(value, before[name]) for name, value in backbone.items())

    whole = train(f"{flags} --max_train_steps 2 --output_dir {tmp_path / 'whole'}")
    changed = backbone_of(whole)
    assert all(not torch.equal(value, before[name]) for name, value in changed.items() if name.endswith("weight"))
    settings = json.loads((whole / "training_settings.json").read_text())["model"]
    assert settings["encoder_type"] == "transformers" and settings["encoder_backbone"]["model_type"] == model_type
    # From the file it is the same model: a resumed run ends like one that never stopped.
    train(f"{flags} --max_train_steps 1 --output_dir {tmp_path / 'parts'}")
    parts = train(f"{flags} --max_train_steps 2 --output_dir {tmp_path / 'parts'} --resume_from_checkpoint latest")
    assert same(weights(whole), weights(parts))
    # What is saved is independent of the folder that it came from.
    (tmp_path / "published").rename(tmp_path / "elsewhere")
    tuned = f"{toys} --max_train_steps 1 --model_name_or_path {whole} --encoder_learning_rate 0"
    assert same(backbone_of(train(f"{tuned} --output_dir {tmp_path / 'tuned'}")), changed)


# Presets


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.json")))
def test_presets_describe_networks_that_can_be_built(preset):
    model, data, run, own, views = parse_arguments(
        train_representation.ARGUMENTS, PRESETS, ["--preset", preset, *data_flags(PRESETS / f"{preset}.json")]
    )
    size = data.image_size or {"digits": 8, "fashion-mnist": 28, "cifar10": 32}[preset]
    channels = 1 if preset.startswith(("digits", "fashion-mnist")) else 3
    with torch.device("meta"):
        network = build_model(model.config, image_size=size, num_channels=channels, label_names=())
    train_representation.check_model(network, "lzn")
    sizes = {name: sum(p.numel() for p in parameters) for name, parameters in model_parts(network).items()}
    assert network.config.latent_noise_scale == 0.45
    alignment = network.config.alignment_end, network.config.alignment_reduction, network.config.alignment_symmetric
    assert alignment == ((1.0, "log_prob", False) if preset == "imagenet" else (0.5, "mean_log_prob", True))
    assert size > 64 or views.blur == 0  # see ViewSettings
    if preset == "imagenet":  # published
        assert sizes == {"encoder": 28_231_232}
        assert (run.total_batch_size, run.warmup_steps, own.encoder_learning_rate) == (8192, 5000, 8e-4)
        assert views.settings() == IMAGENET_VIEWS
        assert (model.config["latent_solver"], model.config["latent_num_steps"]) == ("euler", 20)
    elif channels == 1:
        assert sizes["encoder"] < 10_000_000


def test_without_flags_the_views_are_those_of_imagenet_but_for_the_preset(tmp_path):
    (tmp_path / "empty.json").write_text(json.dumps({"data": {"dataset_name": "digits"}}))
    views = parse_arguments(train_representation.ARGUMENTS, PRESETS, ["--preset", str(tmp_path / "empty.json")])[-1]
    assert views.settings() == IMAGENET_VIEWS
    argv = ["--crop_scale", "0.5", "0.75", "--preset", str(tmp_path / "empty.json"), "--blur", "0"]
    views = parse_arguments(train_representation.ARGUMENTS, PRESETS, argv)[-1]
    expected = {"crop_scale": (0.5, 0.75), "blur": 0.0}
    for name in ViewSettings.__annotations__:
        assert getattr(views.settings(), name) == expected.get(name, getattr(IMAGENET_VIEWS, name)), name


def test_help_teaches(capsys):
    with pytest.raises(SystemExit, match="0"):
        train_representation.main(["--help"])
    printed = capsys.readouterr().out
    for flag in (
        "--method {lzn,simclr,moco}",
        "--no_use_labels",
        "--encoder_name_or_path",
        "--crop_scale",
        "--queue_size",
    ):
        assert flag in printed


# Errors


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--random_flip", "`random_flip` and `max_shift` are not for views"),
        ("--max_shift 1", "`random_flip` and `max_shift` are not for views"),
        (f"--config_overrides {DECODER}", "trains an image encoder alone.* 'resnet' and 'ncsnpp'"),
        (f"--config_overrides {DECODER} encoder_type=null", "trains an image encoder alone.* None and 'ncsnpp'"),
        ("--model_name_or_path {joint}", "trains an image encoder alone.* 'ncsnpp' and 'ncsnpp'"),
        ("--temperature 0", "`temperature` must be positive"),
        ("--queue_size 0", "`queue_size` must be at least 1"),
        ("--key_momentum 1", "`key_momentum` must be at least 0 and below 1"),
        ("--crop_scale 0.5 0.2", "`crop_scale` must be two finite numbers from low to high"),
        ("--flip 2", "`flip` must be a finite number from 0 to 1"),
        ("--encoder_name_or_path no/such/model", "no/such/model"),
        ("--encoder_name_or_path x --model_name_or_path {joint}", "`encoder_name_or_path` x is for a new model"),
    ],
)  # fmt: skip
def test_an_error_leaves_nothing_behind(toys, tmp_path, argv, message):
    if "{joint}" in argv:
        tiny_model().save_pretrained(tmp_path / "joint")
        argv = argv.replace("{joint}", str(tmp_path / "joint"))
    with pytest.raises((ValueError, OSError), match=message):
        train(f"{toys} --output_dir {tmp_path / 'run'} {argv}")
    assert not (tmp_path / "run").exists()
