# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The demo around a tiny model: what it runs, measures, writes and replaces. The training itself is tested with its script."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.commands import lzn
from helpers.training import forget_accelerators
from PIL import Image

from lzn_hf import LZNConfig, LZNModel, LZNPipeline
from lzn_hf.commands import demo


PICTURES = ("samples.png", "reconstructions.png", "zones.png")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    sizes = {"base_channels": 8, "channel_multipliers": (1,), "num_res_blocks": 1, "attention_resolutions": ()}
    config = LZNConfig(
        image_size=8,
        num_channels=1,
        latent_dim=12,
        id2label={label: str(label) for label in range(10)},
        label2id={str(label): label for label in range(10)},
        encoder_tap_channels=2,
        encoder_tap_hidden_dim=8,
        **{f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in sizes.items()},
    )
    model = LZNModel(config)
    model.set_reference_anchors(torch.randn(30, 12))
    folder = tmp_path_factory.mktemp("model")
    LZNPipeline.from_model(model).save_pretrained(folder)
    return folder


def test_demo_writes_numbers_and_pictures_and_replaces_only_its_own(model_dir, tmp_path, monkeypatch, capsys):
    seen = []

    def train(args, folder: Path) -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        if not folder.exists():
            folder.symlink_to(model_dir)

    monkeypatch.setattr(demo, "train", train)
    monkeypatch.setattr(demo, "IMAGES_PER_LABEL", 20)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "metrics.json").write_text("of an earlier run")
    arguments = ["--output_dir", str(tmp_path), "--seed", "3"]
    metrics = demo.main(arguments)
    printed = capsys.readouterr().out
    assert seen == [["notes.txt"]]  # what a failed training would leave: nothing of an earlier run
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["metrics.json", "model", "notes.txt", *PICTURES]
    )

    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert set(demo.TARGETS) < set(demo.MEANINGS) < set(metrics)
    assert all(np.isfinite(metrics[name]) for name in demo.MEANINGS)
    assert metrics["seed"] == 3
    assert metrics["class_consistency_of_test_images"] > 0.985
    assert 0.3 < metrics["pixel_frechet_distance_of_train_images"] < 0.5
    assert metrics["pixel_frechet_distance"] > 1 and metrics["test_accuracy"] < 0.5  # it is not trained
    assert abs(metrics["latent_mean"]) < 0.02 and abs(metrics["latent_std"] - 1) < 0.05
    assert metrics["seconds"]["total"] == pytest.approx(
        sum(metrics["seconds"][part] for part in ("train", "evaluation"))
    )
    assert metrics["versions"]["torch"] == version("torch") and metrics["machine"]["cpu_count"] >= 1
    for name in PICTURES:
        assert np.asarray(Image.open(tmp_path / name)).std() > 20
        assert str(tmp_path / name) in printed
    assert "test_accuracy" in printed and "MISSED" in printed

    # Again: the same numbers but for the time, and for another seed other generated images.
    again = demo.main(arguments)
    assert {name: again[name] for name in demo.MEANINGS} == {name: metrics[name] for name in demo.MEANINGS}
    other = demo.main(["--output_dir", str(tmp_path)])
    assert other["seed"] == 0 and other["pixel_frechet_distance"] != metrics["pixel_frechet_distance"]


@pytest.mark.parametrize(("flags", "expected"), [([], []), (["--max_train_steps", "7"], ["--max_train_steps", "7"])])
def test_demo_trains_by_the_command_it_prints(tmp_path, monkeypatch, capsys, flags, expected):
    commands = []

    def run(command, check):
        commands.append(command)
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(demo.subprocess, "run", run)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with pytest.raises(SystemExit, match="Training failed with exit code 1"):
        demo.main(["--output_dir", str(tmp_path), "--seed", "5", *flags])
    (command,) = commands
    script = command.index("--preset") - 1
    assert command[script - 1 : script + 1] == ["-m", "lzn_hf.train_joint"]
    settings = ["--preset", "digits", "--seed", "5", "--output_dir", str(tmp_path / "model"), "--overwrite_output_dir"]
    assert command[script + 1 :] == settings + expected
    assert command[command.index("--num_cpu_threads_per_process") + 1] == "3"
    assert f"$ accelerate launch {' '.join(command[3:])}" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_quick_demo_leaves_a_model_and_names_commands_that_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    forget_accelerators()
    threads = torch.get_num_threads()
    assert demo.main(["--quick", "--max_train_steps", "2"]) is None
    assert torch.get_num_threads() == threads
    assert {path.name for path in Path("outputs/demo").iterdir()} == {"model", "samples.png"}
    printed = capsys.readouterr().out
    assert "outputs/demo/samples.png" in printed and "\x1b" not in printed  # this is no terminal
    commands = re.findall(r"^  lzn ((?:generate|info) .*)$", printed, re.MULTILINE)
    assert [lzn(*command.split()) for command in commands] == [0, 0]
    forget_accelerators()


def test_summary_says_which_targets_are_met(tmp_path):
    metrics = dict.fromkeys(demo.MEANINGS, 0.98) | {"seconds": {"train": 100.4, "total": 123.0}}
    lines = demo.summary(metrics, tmp_path).splitlines()
    verdicts = {line.split()[0]: " met " in line for line in lines if " met " in line or " MISSED " in line}
    assert verdicts == {name: low <= 0.98 <= high for name, (low, high) in demo.TARGETS.items()}
    assert set(verdicts.values()) == {True, False}
    assert "Seconds: train 100, total 123" in lines


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_trained_model_meets_the_targets(tmp_path, seed):
    metrics = demo.main(["--output_dir", str(tmp_path), "--seed", str(seed)])
    for name, (low, high) in demo.TARGETS.items():
        assert low <= metrics[name] <= high, name
    assert metrics["class_diversity_min"] > 0.8  # not one picture a label
