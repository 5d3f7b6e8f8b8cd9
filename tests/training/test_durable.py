# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Damage of every kind is found and named: no file of a checkpoint is read before."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lzn_hf.training import durable


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / "a.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "b.json").write_text("{}")
    durable.write_manifest(folder, step=5)
    return folder


def test_a_whole_folder_has_no_damage(folder):
    assert durable.find_damage(folder) is None and durable.read_manifest(folder)["step"] == 5


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "a.bin").read_bytes())
    content[5000] ^= 1
    (folder / "a.bin").write_bytes(content)


def cut(folder: Path) -> None:
    os.truncate(folder / "a.bin", 100)


def put_a_folder(folder: Path) -> None:
    (folder / "a.bin").unlink()
    (folder / "a.bin").mkdir()


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (flip_a_bit, "a.bin has other bytes than those that were written"),
        (cut, "a.bin has 100 bytes, not the 10,240 that were written"),
        (put_a_folder, "a.bin has .* bytes, not the 10,240"),
        (lambda folder: (folder / "a.bin").unlink(), "a.bin is missing"),
        (lambda folder: (folder / "b.json").write_text(""), "b.json has 0 bytes, not the 2"),
        (lambda folder: (folder / "checkpoint.json").unlink(), "checkpoint.json is missing: it lost files, or was written by a version"),
        (lambda folder: os.truncate(folder / "checkpoint.json", 50), "checkpoint.json does not list the files"),
        (lambda folder: (folder / "checkpoint.json").write_bytes(b"\xff\x00"), "checkpoint.json does not list the files"),
        (lambda folder: (folder / "checkpoint.json").write_text("[]"), "checkpoint.json does not list the files"),
        (lambda folder: (folder / "checkpoint.json").write_text('{"files": {"a.bin": 3}}'), "checkpoint.json does not list"),
    ],
)  # fmt: skip
def test_damage_is_named(folder, damage, found):
    damage(folder)
    assert re.match(found, durable.find_damage(folder))


def test_a_file_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    durable.replace_file(path, b"old")

    def killed(*args) -> None:
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt

    monkeypatch.setattr(durable.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        durable.replace_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    durable.replace_file(path, b"new")
    assert path.read_bytes() == b"new" and [one.name for one in tmp_path.iterdir()] == ["lines"]
