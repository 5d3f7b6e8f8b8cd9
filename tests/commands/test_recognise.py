# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`lzn classify` and `lzn embed` give what the pipeline gives, in every form."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.commands import lzn, saved_fixture, write_images  # noqa: F401
from helpers.pipelines import make_pipeline
from helpers.texts import make_text_pipeline
from safetensors import safe_open
from safetensors.torch import load_file

from lzn_hf import LZNConfig, LZNModel, LZNPipeline


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return [str(path.relative_to(tmp_path)) for path in write_images(tmp_path / "photos")]


@pytest.fixture
def pipe(saved, images) -> LZNPipeline:
    return LZNPipeline.from_pretrained(saved)


def test_classify_prints_what_the_pipeline_finds(saved, images, pipe, capsys):
    assert lzn("classify", saved, "photos", "--top", 2) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        [path, entry["label"], f"{entry['score']:.4f}"]
        for path, row in zip(images, pipe.classify(images, top_k=2), strict=True)
        for entry in row
    ]


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
def test_classify_writes_tables(saved, images, pipe, suffix, capsys):
    assert lzn("classify", saved, *images[::-1], "--batch", 2, "--out", f"new/labels.{suffix}") == 0
    assert "5 images classified" in capsys.readouterr().out
    with open(f"new/labels.{suffix}", encoding="utf-8") as file:
        if suffix == "csv":
            rows = list(csv.DictReader(file))
        else:
            rows = json.load(file) if suffix == "json" else [json.loads(line) for line in file]
    assert len(rows) == 25 and [row["file"] for row in rows[::5]] == images[::-1]
    entries = [entry for found in pipe.classify(images[::-1]) for entry in found]
    for row, entry in zip(rows, entries, strict=True):
        assert row["label"] == entry["label"] and float(row["score"]) == pytest.approx(entry["score"], abs=1e-6)
    assert [int(row["rank"]) for row in rows[:5]] == [1, 2, 3, 4, 5]


def test_classify_writes_all_scores_as_tensors(saved, images, pipe):
    assert lzn("classify", saved, "photos/*.png", "-o", "scores.safetensors") == 0
    with safe_open("scores.safetensors", "pt") as file:
        scores, names = file.get_tensor("scores"), json.loads(file.metadata()["labels"])
        assert json.loads(file.metadata()["files"]) == images
    for row, entries in zip(scores, pipe.classify(images, top_k=10), strict=True):
        assert {entry["label"]: entry["score"] for entry in entries} == pytest.approx(
            dict(zip(names, row.tolist(), strict=True)), abs=1e-6
        )


def test_archives_are_read_like_folders(saved, images, pipe, capsys):
    shutil.make_archive("photos", "zip", "photos")
    assert lzn("classify", saved, "photos.zip", "-k", 1) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[1] for line in lines] == [row[0]["label"] for row in pipe.classify(images)]
    assert lines[0][0] == "photos.zip: 0.png"


def test_classify_among_texts(images, tmp_path, capsys):
    pipe = make_text_pipeline()
    pipe.save_pretrained(tmp_path / "texts")
    candidates = ["a boot", "the big bag", "a coat"]
    texts = [word for text in [*candidates, candidates[0]] for word in ("--text", text)]  # one of them twice
    assert lzn("classify", tmp_path / "texts", "photos", *texts, "-k", 3, "-o", "texts.json") == 0
    found = [entry for row in pipe.caption(images, candidates) for entry in row]
    rows = json.loads((tmp_path / "texts.json").read_text())
    assert [row["label"] for row in rows] == [entry["text"] for entry in found]
    assert [row["score"] for row in rows] == pytest.approx([entry["score"] for entry in found], abs=1e-6)
    capsys.readouterr()
    assert lzn("classify", tmp_path / "texts", "photos") == 1
    assert "has no labels, so it cannot classify: give it texts by `--text`." in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["embeddings", "features", "anchors"])
def test_embed_gives_what_the_pipeline_gives(saved, images, kind):
    assert lzn("embed", saved, *images, "--kind", kind, "--batch", 3) == 0
    tensors = load_file("embeddings.safetensors")
    torch.testing.assert_close(tensors["embeddings"], LZNPipeline.from_pretrained(saved).embed(images, kind=kind))


def test_embed_writes_tables(saved, images):
    expected = LZNPipeline.from_pretrained(saved).embed(images).flatten().tolist()
    assert lzn("embed", saved, "photos", "-o", "e.csv") == 0
    assert lzn("embed", saved, "photos", "-o", "e.jsonl") == 0
    with open("e.csv", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[:2] == ["file", "e0"] and [row[0] for row in rows] == images
    assert [float(value) for row in rows for value in row[1:]] == pytest.approx(expected, abs=1e-6)
    with open("e.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert [value for line in lines for value in line["embedding"]] == pytest.approx(expected, abs=1e-6)


def test_an_encoder_alone_embeds_and_does_nothing_else(images, tmp_path, capsys):
    pipe = make_pipeline()
    config = {**pipe.model.config.to_dict(), "decoder_type": None, "id2label": {}, "label2id": {}}
    encoder = LZNModel(LZNConfig.from_dict(config)).eval()
    encoder.save_pretrained("encoder")
    pipe.image_processor.save_pretrained("encoder")
    assert lzn("embed", "encoder", "photos") == 0
    expected = encoder.get_image_features(pipe.image_processor(images, return_tensors="pt").pixel_values)
    torch.testing.assert_close(load_file("embeddings.safetensors")["embeddings"], expected)
    capsys.readouterr()
    assert lzn("classify", "encoder", "photos") == 1
    assert "has no labels, so it cannot classify" in capsys.readouterr().err
    assert lzn("generate", "encoder") == 1
    assert "has no decoder, so it makes no images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("photos/9.png", 1, "'photos/9.png' is not there: no such file or folder."),
        ("photos/*.jpg", 1, "'photos/*.jpg' has no images"),
        ("empty", 1, "'empty' has no images"),
        ("broken.png", 1, "image 'broken.png' cannot be"),
        ("broken.zip", 1, "image 'broken.zip: a.png' cannot be"),
        ("photos --out labels.png", 2, "`--out` must be .csv, .json, .jsonl or .safetensors, got 'labels.png'."),
        ("photos --device nowhere", 2, "`--device` 'nowhere' is not there"),
    ],
)
def test_mistakes_are_one_line(saved, images, tmp_path, capsys, words, code, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no image")
    with zipfile.ZipFile(tmp_path / "broken.zip", "w") as archive:
        archive.writestr("a.png", b"no image")
    assert lzn("classify", saved, *words.split()) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and message in printed.err
    assert printed.out == "" and not (tmp_path / "labels.png").exists()


@pytest.mark.parametrize("command", ["classify", "embed"])
def test_images_that_cannot_be_read_cost_no_results(saved, images, capsys, command):
    """Batches of two: a broken one beside a good one, and two broken ones."""
    good = sorted(path.name for path in Path("photos").iterdir())
    assert lzn(command, saved, "photos", "--out", "good.jsonl") == 0
    for name in ("00.png", "zy.png", "zz.png"):
        Path("photos", name).write_bytes(b"no image")
    capsys.readouterr()
    assert lzn(command, saved, "photos", "--out", "all.jsonl", "--batch", "2") == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: 3 of {len(good) + 3} images are left out: image 'photos/00.png' cannot be")
    assert printed.err.count("\n") == 1 and "zy.png" in printed.err and "zz.png" in printed.err
    assert f"{len(good)} " in printed.out
    rows = [[json.loads(line) for line in Path(name).read_text().splitlines()] for name in ("good.jsonl", "all.jsonl")]
    for one, other in zip(*rows, strict=True):
        assert one["file"] == other["file"]
        for key in set(one) - {"file"}:
            assert other[key] == (one[key] if key in ("label", "rank") else pytest.approx(one[key], abs=1e-5))


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have names in UTF-8 alone")
@pytest.mark.parametrize("out", ["all.csv", "all.json", "all.jsonl", "all.safetensors"])
def test_names_that_are_no_utf_8_are_written(saved, images, out):
    os.rename(b"photos/0.png", b"photos/caf\xe9.png")  # latin-1, as old archives have it
    assert lzn("classify", saved, "photos", "--top", "1", "--out", out) == 0
    if out.endswith("safetensors"):
        with safe_open(out, "pt") as file:
            names = json.loads(file.metadata()["files"])
    elif out.endswith("csv"):
        names = [row["file"] for row in csv.DictReader(Path(out).read_text(encoding="utf-8").splitlines())]
    else:
        text = Path(out).read_text(encoding="utf-8")
        names = [
            row["file"] for row in (json.loads(text) if out == "all.json" else map(json.loads, text.splitlines()))
        ]
    assert len(names) == len(images)
    assert ("photos/caf\\udce9.png" if out.endswith("csv") else os.fsdecode(b"photos/caf\xe9.png")) in names


@pytest.mark.parametrize("model", ["nowhere", "no/where", "photos", "a/b/c"])
def test_what_is_no_model_is_named(images, capsys, monkeypatch, model):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert lzn("embed", model, "photos") == 1
    line = capsys.readouterr().err
    assert line.startswith("error: ") and model in line and line.count("\n") == 1
