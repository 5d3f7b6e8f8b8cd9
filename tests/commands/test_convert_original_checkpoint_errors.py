# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The command that converts published checkpoints, given files, configs, flags and folders that it cannot work with."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.tiny_checkpoints import copy_of, set_at, write

from lzn_hf import LZNPipeline
from lzn_hf.commands import convert_original_checkpoint as converter


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def bad_file(kind: str, folder: Path, checkpoint: dict) -> Path:
    path = folder / "bad.pt"
    if kind == "truncated":
        torch.save(checkpoint, path)
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<!DOCTYPE html>")
    elif kind == "bare pickle":
        torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("notes.txt", "nothing")
    elif kind == "evil":
        torch.save(checkpoint | {"optimizer": Evil(folder / "evil was here")}, path)
    elif kind == "list":
        torch.save([torch.zeros(2)], path)
    elif kind == "state dict":
        torch.save({f"layer{i}.weight": torch.zeros(2) for i in range(7)}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "messages"),
    [
        ("absent", ["is not there"]),
        ("truncated", ["is truncated", "Download or copy it again"]),
        ("empty", ["(0 bytes) is not a checkpoint"]),
        ("text", ["is not a checkpoint: it begins with b'<!DOCTYP'"]),
        ("bare pickle", ["is not a checkpoint: it begins with"]),
        ("zip", ["is a zip archive, but not one of torch.save", "notes.txt"]),
        ("evil", ["is refused", "can run any code", "open"]),
        ("list", ["is not a checkpoint of the trainer: it holds a list"]),
        ("state dict", ["holds a dict of layer0.weight, ", "layer4.weight and 2 more", "`encoder`"]),
    ],
)
def test_files_that_are_no_checkpoint_say_what_they_are(tiny, tmp_path, kind, messages):
    path = bad_file(kind, tmp_path, tiny["case_study_3"]["checkpoint"])
    before = set(tmp_path.iterdir())
    with pytest.raises(ValueError) as stop:
        converter.main(["--checkpoint", str(path), "--case", "case_study_3", "--output_dir", str(tmp_path / "out")])
    assert str(path) in str(stop.value)
    assert all(message in str(stop.value) for message in messages), stop.value
    assert set(tmp_path.iterdir()) == before  # no folder, and the evil code did not run


def test_a_config_that_contradicts_the_weights_is_refused(tiny, tmp_path):
    files = copy.deepcopy({"published": tiny["case_study_3"]["published"]}) | {
        "checkpoint": tiny["case_study_3"]["checkpoint"]
    }
    set_at(files["published"], "encoder.params.num_base_units", 9)
    with pytest.raises(ValueError) as stop:
        converter.main(write(tmp_path, files))
    taps = tiny["case_study_3"]["model"].encoder.taps
    lines = [line for line in str(stop.value).splitlines() if line.startswith("  `encoder`: ")]
    assert len(lines) == 3 * len(taps)  # weight and bias of the first linear layer, weight of the second
    assert "`model.module.latent_transformations.0.0.bias` has shape (8,), but the config makes it (9,)" in lines[1]


@pytest.mark.parametrize(
    ("flag", "message"), [(None, "use `--weights raw`"), ("ema", "use `--weights raw`"), ("raw", None)]
)
def test_without_averages_the_weights_as_trained_are_offered(tiny, tmp_path, flag, message):
    files = {**tiny["case_study_2"], "checkpoint": copy_of(tiny["case_study_2"]["checkpoint"])}
    del files["checkpoint"]["encoder_ema"]
    argv = write(tmp_path, files) + ([] if flag is None else ["--weights", flag])
    if message is None:
        converter.main(argv)
        assert "raw (as trained)" in (tmp_path / "out" / "README.md").read_text()
    else:
        with pytest.raises((ValueError, OSError), match=message):
            converter.main(argv)


def test_only_a_new_or_empty_folder_is_written_to(tiny, tmp_path, monkeypatch):
    argv = write(tmp_path, tiny["case_study_2"])
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    monkeypatch.setattr(converter, "load_checkpoint", None)  # it is found out before anything is read
    with pytest.raises(
        (ValueError, OSError), match="is not empty: it holds thesis.tex. Name a new folder, or empty it"
    ):
        converter.main(argv)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    with pytest.raises((ValueError, OSError), match="is a file"):
        converter.main([*argv[:-1], str(out / "thesis.tex")])
    monkeypatch.undo()
    (out / "thesis.tex").unlink()
    converter.main(argv)
    assert (out / "model.safetensors").is_file()


def test_a_write_that_fails_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    def full(self, folder):
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError("No space left on device")

    argv = write(tmp_path, tiny["case_study_3"])
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(LZNPipeline, "save_pretrained", full)
    with pytest.raises((ValueError, OSError), match="No space left on device"):
        converter.main(argv)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [("{not json", "cannot be read as JSON"), ("[1]", "must be a JSON object"), ("{}", "lacks `encoder.name`")],
)
def test_configs_that_are_none_are_refused(tiny, tmp_path, text, message):
    argv = write(tmp_path, tiny["case_study_3"])
    (tmp_path / "published.json").write_text(text)
    with pytest.raises((ValueError, OSError), match=message):
        converter.main(argv)


@pytest.mark.parametrize("flags", [[], ["--case", "case_study_3", "--config", "x.json"], ["--case", "case_study_4"]])
def test_case_or_config(flags):
    with pytest.raises(ValueError, match="--case"):
        converter.main(["--checkpoint", "x.pt", "--output_dir", "out", *flags])


def test_mistakes_end_the_script_with_one_line(tmp_path):
    flags = ["--checkpoint", str(tmp_path / "x.pt"), "--case", "case_study_3", "--output_dir", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", converter.__name__, *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ") and "x.pt" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(ValueError, match="unknown flag --wieghts; did you mean --weights[?]"):
        converter.main([*flags, "--wieghts", "raw"])
