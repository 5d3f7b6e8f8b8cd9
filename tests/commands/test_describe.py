# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`lzn info` says what a model can do, and it can do exactly that; `lzn data` says what training logs."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers.commands import DIGITS, lzn, saved_fixture, write_images  # noqa: F401
from helpers.pipelines import make_pipeline
from helpers.training import forget_accelerators, write_image_folder

from lzn_hf import LZNModel
from lzn_hf.commands.describe import abilities
from lzn_hf.data.images import load_image_data
from lzn_hf.evaluation.cards import add_results, evaluation_results


def test_info_of_a_joint_model(saved, capsys):
    assert lzn("info", saved) == 0
    printed = capsys.readouterr().out
    model = LZNModel.from_pretrained(saved)
    assert "lzn generate, lzn classify, lzn embed, lzn reconstruct, lzn interpolate\n" in printed
    assert "8 x 8, grey" in printed and f"10: {', '.join(DIGITS)}" in printed and "24 reference anchors" in printed
    assert f"decoder {sum(p.numel() for p in model.decoder.parameters()):,}" in printed


def test_info_as_json_with_the_results_of_the_card(saved, tmp_path, capsys):
    shutil.copytree(saved, tmp_path / "model")
    results = evaluation_results("image-classification", "digits", [("accuracy", None, 0.875)])
    add_results(tmp_path / "model", results).save(tmp_path / "model" / "README.md")
    assert lzn("info", tmp_path / "model", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["labels"] == DIGITS and facts["images"] == {"size": 8, "channels": 1}
    assert facts["results"] == {"accuracy (digits)": 0.875}
    (tmp_path / "model" / "README.md").unlink()
    assert lzn("info", tmp_path / "model") == 0
    assert "none in its card" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["generate", "classify", "embed", "reconstruct", "interpolate"]),
        ({"num_reference_anchors": 0}, ["generate", "embed"]),
        ({"names": []}, ["generate", "embed", "reconstruct", "interpolate"]),
        ({"names": [], "encoder_type": None, "num_reference_anchors": 0}, ["generate", "reconstruct", "interpolate"]),
        ({"encoder_type": None, "num_reference_anchors": 0}, ["generate"]),
    ],
)
def test_a_model_can_do_what_info_says_and_nothing_else(tmp_path, capsys, monkeypatch, options, expected):
    monkeypatch.chdir(tmp_path)
    pipe = make_pipeline(**options)
    assert abilities(pipe.model) == expected
    pipe.save_pretrained("model")
    first, second = (str(path.relative_to(tmp_path)) for path in write_images(tmp_path / "photos", 2))
    labels = ["--label", "0"] if pipe.model.config.num_labels else []
    commands = {
        "generate": ["generate", "model", "--num", 1, "--steps", 1, *labels],
        "classify": ["classify", "model", first],
        "embed": ["embed", "model", first],
        "reconstruct": ["reconstruct", "model", first, "--steps", 1],
        "interpolate": ["interpolate", "model", first, second, "--steps", 1],
    }
    assert [name for name, words in commands.items() if lzn(*words) == 0] == expected
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(commands) - len(expected) and all(line.startswith("error: ") for line in lines)


def test_data_is_the_summary_of_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    forget_accelerators()
    write_image_folder(tmp_path / "images")
    (tmp_path / "images" / "train" / "notes.txt").write_text("no image")
    assert lzn("data", "images", "--image_size", 4, "--out", "new/summary.json") == 0
    forget_accelerators()
    expected = load_image_data(data_dir="images", image_size=4).summary
    printed = capsys.readouterr().out
    assert printed == f"{expected}\nWrote new/summary.json\n" and "notes.txt" in printed
    assert json.loads((tmp_path / "new" / "summary.json").read_text()) == expected.to_dict()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("data images --image_size", 2, "--image_size"),
        ("data images --imge_size 4", 2, "unknown flag --imge_size; did you mean --image_size"),
        ("data images --train_split none", 1, "`train_split` is 'none'"),
        ("info images", 1, "images"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, words, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    forget_accelerators()
    write_image_folder(tmp_path / "images")
    assert lzn(*words.split()) == code
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1 and message in line
