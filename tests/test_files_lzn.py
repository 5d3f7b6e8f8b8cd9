# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""JSON files of a folder are objects of plain values under known names, and weights carry a checksum."""

from __future__ import annotations

import io
import json

import pytest
import torch
from helpers.models import tiny_config
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lzn_hf import LZNConfig, LZNModel, files_lzn
from lzn_hf.files_lzn import CHECKSUM, check_names, checksum, naming, read_object, stamp_weights


def test_an_object_is_read_as_it_is(tmp_path):
    fields = {"a": 1, "b": [0.5, None, True], "c": {"ä": "x"}, "big": 2**63 - 1}
    (tmp_path / "x.json").write_text(json.dumps(fields))
    assert read_object(tmp_path / "x.json") == fields


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff{}", b'{"a": nul}', b'{"a": ' + b"9" * 5000 + b"}", b"\x00" * 10]
)
def test_what_is_no_json_is_an_os_error(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(OSError, match=f"{path} is not a valid JSON file"):
        read_object(path)
    with pytest.raises(FileNotFoundError, match=r"no\.json"):
        read_object(tmp_path / "no.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must be a JSON object, got a list"),
        ("5", "must be a JSON object, got a int"),
        ("null", "must be a JSON object, got a NoneType"),
        ('{"a": 1, "b": 2, "a": 3}', "the field 'a' must be given once"),
        ('{"x": {"a": 1, "a": 1}}', "the field 'a' must be given once"),
        ('{"a": NaN}', "`a` must be finite, got nan"),
        ('{"a": {"b": [1, -Infinity]}}', r"`a\.b\.1` must be finite, got -inf"),
        ('{"a": 1e999}', "`a` must be finite, got inf"),
        ('{"a": ' + "9" * 30 + "}", "`a` must be a number of at most 64 bits"),
        ('{"a": ' + "[" * 16 + "]" * 16 + "}", "`a.*` must be nested at most 16 deep"),
        ("[" * 10**6, "must be nested at most 16 deep"),
        (json.dumps(dict.fromkeys(map(str, range(1001)))), "at most 1000 fields, got 1001"),
        (" " * (2**24 + 1), r"at most 16,777,216 bytes, got 16,777,217"),
    ],
)
def test_what_no_file_of_a_model_has_is_a_value_error(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path}: .*{message}"):
        read_object(path)


def test_a_field_may_be_infinite(tmp_path):
    (tmp_path / "x.json").write_text('{"lambda_min_clipped": -Infinity}')
    assert read_object(tmp_path / "x.json", infinite=["lambda_min_clipped"]) == {"lambda_min_clipped": -float("inf")}


def test_errors_name_the_file_once():
    for error in (ValueError("bad"), StrictDataclassError("bad")):
        with pytest.raises(ValueError, match=r"^x\.json: bad$"), naming("x.json"), naming("x.json"):
            raise error
    with pytest.raises(ValueError, match=r"x\.json: y{1500} \.\.\.$"), naming("x.json"):
        raise ValueError("y" * 10**6)
    with pytest.raises(KeyError), naming("x.json"):  # an error of the program stays one
        raise KeyError("y")


def test_names_of_methods_and_misspelt_names_are_refused():
    known = ["image_size", "latent_dim"]
    check_names({"image_size": 1, "note": "by a tool", "transformers.js_config": {}}, known, LZNConfig)
    for name in ("to_dict", "_check", "__class__", "save_pretrained"):
        with pytest.raises(ValueError, match=f"`{name}` is no field of a LZNConfig"):
            check_names({name: 1}, known, LZNConfig)
    with pytest.raises(ValueError, match=r"`latent_dm` is no field of a LZNConfig\. Did you mean `latent_dim`\?"):
        check_names({"latent_dm": 1}, known, LZNConfig)


@pytest.mark.parametrize("chunk", [1, 7, 100, 2**24])
def test_a_stamp_changes_nothing_but_metadata(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(files_lzn, "CHUNK", chunk)
    weights = {"a": torch.randn(3, 5), "ä": torch.zeros(0), "c": torch.randn(40).half()}
    path = tmp_path / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    before = checksum(path)
    stamp_weights(path)
    loaded = load_file(path)
    assert loaded.keys() == weights.keys() and all(torch.equal(loaded[name], weights[name]) for name in weights)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", CHECKSUM: before}
    assert checksum(path) == before
    content = path.read_bytes()
    stamp_weights(path)
    assert path.read_bytes() == content


def test_a_stamp_that_is_cut_off_leaves_a_file_that_nobody_loads(tmp_path, monkeypatch):
    """Stops after each write; what is then in the file is what a killed process leaves."""
    path = tmp_path / "model.safetensors"
    weights = {"a": torch.arange(40.0)}
    save_file(weights, path, metadata={"format": "pt"})
    original = path.read_bytes()
    monkeypatch.setattr(files_lzn, "CHUNK", 64)

    class Killed(Exception):
        pass

    class Limited(io.FileIO):
        """A file that its process can write to so many times."""

        left = 0

        def write(self, content):
            if Limited.left == 0:
                raise Killed
            Limited.left -= 1
            return super().write(content)

    def limited_open(name, mode):
        return Limited(name, mode) if "+" in mode else open(name, mode)

    monkeypatch.setattr(files_lzn, "open", limited_open, raising=False)
    stops = 0
    for writes in range(1, 50):
        path.write_bytes(original)
        Limited.left = writes
        try:
            stamp_weights(path)
        except Killed:
            stops += 1
            with pytest.raises(SafetensorError):
                load_file(path)
        else:
            break
    assert stops > 5 and torch.equal(load_file(path)["a"], weights["a"])


def test_every_flipped_byte_of_saved_weights_is_refused_or_without_effect(tmp_path):
    model = LZNModel(tiny_config(decoder_type=None, encoder_channel_multipliers=[1]))
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(0, header, max(header // 20, 1)), *range(header, len(content), len(content) // 20)]
    state, refused, same = model.state_dict(), 0, 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            loaded = LZNModel.from_pretrained(tmp_path).state_dict()
        except OSError as error:
            refused += "model.safetensors" in str(error)
        else:
            same += all(torch.equal(loaded[name], state[name]) for name in state)
    assert refused + same == len(places) and same < 5


def test_weights_without_a_checksum_load(tmp_path):
    model = LZNModel(tiny_config())
    model.save_pretrained(tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(LZNModel.from_pretrained(tmp_path).label_anchors(), model.label_anchors())
