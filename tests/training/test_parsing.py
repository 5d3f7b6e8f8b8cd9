# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The command line and the presets of the training scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.images import write_idx_folder
from helpers.training import data_flags

from lzn_hf import train_joint, train_representation, train_unconditional
from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.models import build_model, model_parts
from lzn_hf.training.parsing import PRESETS_DIR, parse_arguments


PRESETS = PRESETS_DIR / "joint"


SCRIPTS = (train_joint, train_representation, train_unconditional)


def parse(*argv: str):
    return parse_arguments(train_joint.ARGUMENTS, PRESETS, argv)


def write_preset(tmp_path: Path, **sections) -> str:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(sections))
    return str(path)


def test_flags_win_over_the_preset_which_wins_over_the_defaults(tmp_path):
    preset = write_preset(
        tmp_path,
        model={"latent_dim": 12, "latent_solver": "euler"},
        data={"dataset_name": "digits", "max_shift": 1},
        training={"seed": 5, "warmup_steps": 7},
    )
    model, data, run, _ = parse(
        "--preset", preset, "--seed", "6", "--config_overrides", "latent_dim=13", "decoder_dropout=0.5"
    )
    assert model.config == {"latent_dim": 13, "latent_solver": "euler", "decoder_dropout": 0.5}
    assert (data.max_shift, run.seed, run.warmup_steps) == (1, 6, 7)
    assert run.max_train_steps == RunArguments.max_train_steps
    model, *_ = parse("--preset", preset, "--model_name_or_path", "saved", "--config_overrides", "decoder_dropout=0.5")
    assert model.config == {"decoder_dropout": 0.5}  # the network is the saved one


def test_overrides_are_json_or_else_strings():
    model, *_ = parse(
        "--config_overrides", "encoder_channel_multipliers=[1,3]", "latent_solver=euler", "step_cutoff=0.5"
    )
    assert model.config["encoder_channel_multipliers"] == [1, 3]
    assert model.config["latent_solver"] == "euler"
    assert model.config["step_cutoff"] == 0.5


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"training": {"warmup_step": 3}},
            "`warmup_step` in the section 'training' is no flag. Did you mean `warmup_steps`",
        ),
        (
            {"data": {"facts": {"imagesize": 3}}},
            "`imagesize` in the section 'facts' is no flag. Did you mean `image_size`",
        ),
        ({"training": {"ema_decay": float("nan")}}, "`ema_decay` must be a finite number, but is nan"),
        ({"model": {"step_cutoff": float("inf")}}, "`step_cutoff` must be a finite number, but is inf"),
        ({"optimizer": {}}, "unknown section 'optimizer'"),
        ({"training": 3}, "must be a JSON object with the sections model, data, training, joint"),
    ],
)
def test_a_bad_preset_file_is_an_error(tmp_path, sections, message):
    with pytest.raises(ValueError, match=message):
        parse("--preset", write_preset(tmp_path, **sections))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "digit"], "one of cifar10, digits, fashion-mnist, images-32, .*'digit'. Did you mean `digits`"),
        (["--preset", "missing.json"], "'missing.json'"),
        (["--config_overrides", "latent_dim"], "name=value pairs, but one is 'latent_dim'"),
        (["--total_batch_size", "0"], "`total_batch_size` must be at least 1, but is 0"),
        (["--checkpoints_total_limit", "0"], "`checkpoints_total_limit` must be at least 1"),
        (["--warmup_steps", "-1"], "`warmup_steps` must be at least 0, but is -1"),
        (["--max_grad_norm", "0"], "`max_grad_norm` must be above 0"),
        (["--ema_decay", "1"], "`ema_decay` must be at least 0 and below 1, but is 1.0"),
        (["--max_shift", "-2"], "`max_shift` must be at least 0"),
        (["--hub_model_id", "me/x"], "nothing is uploaded without `--push_to_hub`"),
    ],
)
def test_bad_arguments_are_named(argv, message):
    with pytest.raises(ValueError, match=message):
        parse(*argv)


def test_data_on_the_command_line_replaces_that_of_the_preset(tmp_path):
    def source(*argv: str):
        _, data, run, _ = parse(*argv)
        return data.dataset_name, data.data_dir, run.output_dir, bool(data.facts)

    assert source("--preset", "cifar10") == ("uoft-cs/cifar10", None, "outputs/cifar10", True)
    assert source("--preset", "cifar10", "--data_dir", "x/mine.zip") == (
        None,
        "x/mine.zip",
        "outputs/joint-mine",
        False,
    )
    assert source("--preset", "cifar10", "--dataset_name", "a/b") == ("a/b", None, "outputs/joint-b", False)
    assert source("--preset", "cifar10", "--dataset_name", "uoft-cs/cifar10") == source("--preset", "cifar10")
    assert source() == ("digits", None, "outputs/digits", False) == source("--dataset_name", "digits")
    assert source("--data-dir", f"{tmp_path}/") == (None, f"{tmp_path}/", f"outputs/joint-{tmp_path.name}", False)
    assert source("--data_dir", "x", "--output_dir", "mine") == (None, "x", "mine", False)
    own = write_preset(tmp_path, data={"data_dir": str(tmp_path / "images"), "validation_split": "held_out"})
    assert source("--preset", own)[1:3] == (str(tmp_path / "images"), "outputs/joint-images")
    assert parse("--preset", own)[1].validation_split == "held_out"
    assert parse("--preset", own, "--data_dir", "x")[1].validation_split is None
    assert [parse(*argv)[1].hub_dataset for argv in (["--preset", "cifar10"], ["--data_dir", "x"], [])] == [
        "uoft-cs/cifar10",
        None,
        None,
    ]


def test_a_folder_of_idx_files_is_the_data_of_the_preset_fashion_mnist_and_another_folder_is_not(tmp_path):
    idx, folder = write_idx_folder(tmp_path / "idx"), tmp_path / "mine"
    folder.mkdir()
    for argv, expected in (
        (["--data_dir", str(idx)], ("fashion-mnist", "outputs/fashion-mnist")),
        (["--data_dir", str(idx), "--dataset_name", "fashion-mnist"], ("fashion-mnist", "outputs/fashion-mnist")),
        (["--data_dir", str(folder)], (None, "outputs/joint-mine")),
    ):
        _, data, run, _ = parse("--preset", "fashion-mnist", *argv)
        assert (data.dataset_name, run.output_dir) == expected
    _, data, run, _ = parse("--data_dir", str(idx))  # the preset digits
    assert (data.dataset_name, run.output_dir) == (None, "outputs/joint-idx")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_preset_without_data_needs_some_on_the_command_line(script, tmp_path, capsys):
    kind = script.__name__.removeprefix("lzn_hf.train_")
    presets = PRESETS_DIR / kind
    own = write_preset(tmp_path, training={"seed": 5})
    for preset in ("images-32", own):
        for flags in ([], ["--output_dir", "x"], ["--image_size", "64"], ["--config_overrides", "latent_dim=4"]):
            with pytest.raises(
                ValueError, match=r"`data_dir` is missing: the preset .* has no data of its own.*--data_dir"
            ):
                parse_arguments(script.ARGUMENTS, presets, ["--preset", preset, *flags])
    parsed = parse_arguments(script.ARGUMENTS, presets, ["--preset", "images-32", "--data_dir", "x/mine"])
    data, run = parsed[1:3]
    assert (data.dataset_name, data.data_dir, data.image_size, data.num_channels) == (None, "x/mine", 32, 3)
    assert run.output_dir == f"outputs/{kind}-mine" and not data.facts
    data = parse_arguments(script.ARGUMENTS, presets, ["--preset", "images-32", "--dataset_name", "digits"])[1]
    assert (data.dataset_name, data.image_size) == ("digits", 32)  # asked for by name
    with pytest.raises(SystemExit, match="0"):
        parse_arguments(script.ARGUMENTS, presets, ["--preset", "images-32", "--help"])
    assert f"outputs/{kind}-images" in "".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_a_preset_for_digits_and_each_preset_a_folder_of_its_own(script):
    presets = PRESETS_DIR / script.__name__.removeprefix("lzn_hf.train_")
    paths = sorted(path for path in presets.glob("*.json") if not data_flags(path))
    folders = [parse_arguments(script.ARGUMENTS, presets, ["--preset", path.stem])[2].output_dir for path in paths]
    assert "digits" in [path.stem for path in paths]
    assert len({*folders, RunArguments.output_dir}) == len(paths) + 1


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.json")))
def test_presets_describe_networks_that_can_be_built(preset):
    sections = json.loads((PRESETS / f"{preset}.json").read_text())
    shape = {
        "digits": (8, 1),
        "fashion-mnist": (28, 1),
        "cifar10": (32, 3),
        "images-32": (32, 3),
        "images-64": (64, 3),
    }[preset]
    with torch.device("meta"):
        model = build_model(sections["model"], image_size=shape[0], num_channels=shape[1], label_names=[*"abcdefghij"])
    sizes = {name: sum(p.numel() for p in parameters) for name, parameters in model_parts(model).items()}
    if preset == "cifar10":  # published
        assert sizes == {"encoder": 49_790_260, "decoder": 61_911_939, "label_anchors": 2_000}
    else:
        assert sum(sizes.values()) < (50_000_000 if preset == "images-64" else 10_000_000)


def test_the_cifar10_preset_is_the_published_one():
    model, _, run, joint = parse("--preset", "cifar10")
    assert run.total_batch_size == 2000 and run.warmup_steps == 5000 and run.max_train_steps == 200_000
    assert (joint.encoder_learning_rate, joint.decoder_learning_rate, joint.label_anchors_learning_rate) == (
        5e-5,
        2e-3,
        1e-4,
    )
    assert joint.decoder_train_steps == 60_000
    assert run.ema_decay == 0.999999 and run.max_grad_norm == 1 and run.lr_scheduler == "constant"
    assert (model.config["latent_solver"], model.config["latent_num_steps"]) == ("dpmsolver++", 20)
    assert (model.config["alignment_solver"], model.config["alignment_num_steps"]) == ("euler", 100)
    assert (model.config["encoder_dropout"], model.config["decoder_dropout"]) == (0.15, 0.15)
