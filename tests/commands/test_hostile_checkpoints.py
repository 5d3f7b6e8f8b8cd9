# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Property: whatever a checkpoint file holds, the converter makes the model of the intact file of it, or refuses it in one way."""

from __future__ import annotations

import io
import json
import pickle
import random
import shutil
import struct
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.hostile import FAST
from helpers.tiny_checkpoints import copy_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lzn_hf.commands import convert_original_checkpoint as converter


CASE = "case_study_2"  # the fastest
DIRECTORY = b"PK\x01\x02"


class Files:
    """The folder of a tiny model, its intact checkpoint, and what the converter makes of it."""

    def __init__(self, folder: Path, tiny: dict):
        self.folder, self.path, self.output = folder, folder / "x.pt", folder / "out"
        self.checkpoint = tiny["checkpoint"]
        buffer = io.BytesIO()
        torch.save(self.checkpoint, buffer)
        self.content = buffer.getvalue()
        (folder / "c.json").write_text(json.dumps(tiny["published"]))
        self.path.write_bytes(self.content)
        self.convert()
        self.weights = load_file(self.output / "model.safetensors")
        self.clear()

    def convert(self) -> None:
        flags = {"checkpoint": self.path, "config": self.folder / "c.json", "output_dir": self.output}
        converter.main([word for name, value in flags.items() for word in (f"--{name}", str(value))])

    def clear(self) -> None:
        shutil.rmtree(self.output, ignore_errors=True)

    def outcome(self) -> str:
        """Converts the file and returns "equal" or the first words of the error; anything else fails."""
        start = time.process_time()
        try:
            self.convert()
            found = load_file(self.output / "model.safetensors")
            assert found.keys() == self.weights.keys()
            assert all(torch.equal(found[key], self.weights[key]) for key in found)
            result = "equal"
        except ValueError as error:
            message = str(error)
            assert all(character.isprintable() or character == "\n" for character in message), message
            assert len(message) < 300_000
            named = str(self.path) in message
            assert named or "does not fit the config" in message or "is not of this model" in message, message
            phrases = (
                "truncated",
                "damaged",
                "is refused",
                "is not a checkpoint",
                "is a zip archive",
                "fit the config",
            )
            result = next((phrase for phrase in phrases if phrase in message), "is not of this model")
            assert not self.output.exists()
        finally:
            self.clear()
        assert {path.name for path in self.folder.iterdir()} <= {"x.pt", "c.json"}  # nothing is left behind
        assert time.process_time() - start < 10
        return result


@pytest.fixture(scope="module")
def files(tiny, tmp_path_factory) -> Files:
    return Files(tmp_path_factory.mktemp("hostile"), tiny[CASE])


def mutate(content: bytes, kind: str, seed: int) -> bytes:
    """A damaged copy of a file; the same for the same seed."""
    rng, changed = random.Random(seed), bytearray(content)
    directory = content.find(DIRECTORY)
    if kind == "bit":
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == "directory bit":
        changed[rng.randrange(directory, len(changed))] ^= 1 << rng.randrange(8)
    elif kind == "number":  # of the directory, or of a header: counts, sizes and offsets
        start = rng.randrange(directory, len(changed) - 8)
        changed[start : start + 4] = rng.choice([b"\0" * 4, b"\xff" * 4, struct.pack("<L", rng.randrange(2**32))])
    elif kind == "cut":
        del changed[rng.randrange(len(changed)) :]
    elif kind == "hole":
        start = rng.randrange(len(changed))
        del changed[start : start + rng.randrange(1, 5000)]
    elif kind == "noise":
        start = rng.randrange(len(changed) - 64)
        changed[start : start + 64] = rng.randbytes(64)
    elif kind == "zeros":
        start = rng.randrange(len(changed))
        changed[start : start + 4096] = bytes(len(changed[start : start + 4096]))
    elif kind == "added":
        changed += rng.randbytes(rng.randrange(1, 100))
    elif kind == "before":
        changed[:0] = rng.randbytes(rng.randrange(1, 100))
    return bytes(changed)


KINDS = ("bit", "directory bit", "number", "cut", "hole", "noise", "zeros", "added", "before")


@FAST
@example("bit", 0)
@example("directory bit", 27)  # a name that is no UTF-8
@given(st.sampled_from(KINDS), st.integers(0, 10**6))
def test_a_damaged_file_is_refused_or_makes_no_difference(files, kind, seed):
    files.path.write_bytes(mutate(files.content, kind, seed))
    files.outcome()


def test_a_flipped_bit_of_a_tensor_is_found(files):
    tensor = next(iter(files.checkpoint["encoder_ema"]["shadow_params"])).contiguous()
    start = files.content.find(tensor.numpy().tobytes())
    assert start > 0
    changed = bytearray(files.content)
    changed[start] ^= 1
    files.path.write_bytes(changed)
    with pytest.raises(ValueError, match="is damaged: .*Bad CRC-32"):
        files.convert()


class Reduced:
    """Pickles to the call of a function."""

    def __init__(self, function: Callable, *arguments: object):
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


NAMES = st.text(max_size=30) | st.sampled_from(
    [
        "../../../etc/passwd",
        "/etc/passwd",
        "a\nb",
        "\x1b[31mred",
        "\u202egnp.exe",
        "\ud800",
        "x" * 10**5,
        "",
        "`",
        "{0}",
        "%s",
    ]
)
SHAPES = st.lists(st.integers(0, 3), max_size=5)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.sampled_from(
        [torch.float32, torch.float64, torch.int64, torch.complex64, torch.float8_e4m3fn, torch.bool]
    ).flatmap(lambda dtype: SHAPES.map(lambda shape: torch.zeros(shape).to(dtype))),
    st.sampled_from(
        [
            torch.zeros(1).expand(10**12),
            torch.zeros(3, 3).to_sparse(),
            torch.zeros(3, 3, device="meta"),
            torch.full((64,), torch.nan),
            torch.full((64,), torch.inf),
        ]
    ),
)


@settings(FAST, max_examples=40)
@given(st.data())
def test_other_contents_are_refused_by_name(files, data):
    checkpoint = copy_of(files.checkpoint)
    place = data.draw(st.sampled_from(["name", "value", "average", "top name", "top value"]))
    if place == "name":
        checkpoint["encoder"][data.draw(NAMES | st.integers() | st.floats() | st.none())] = data.draw(VALUES)
    elif place == "value":
        checkpoint["encoder"][data.draw(st.sampled_from(sorted(checkpoint["encoder"])))] = data.draw(VALUES)
    elif place == "average":
        averages = checkpoint["encoder_ema"]["shadow_params"]
        averages[data.draw(st.integers(0, len(averages) - 1))] = data.draw(VALUES)
    elif place == "top name":
        checkpoint[data.draw(NAMES)] = data.draw(VALUES)
    else:
        # The state of the trainer may be anything: it is not used.
        checkpoint[data.draw(st.sampled_from(["encoder", "encoder_ema", "iteration", "optimizer"]))] = data.draw(
            VALUES
        )
    torch.save(checkpoint, files.path)
    files.outcome()


def pickled(code: bytes) -> bytes:
    """An archive as of `torch.save`, with a pickle of bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", code)
        archive.writestr("x/version", b"3\n")
    return buffer.getvalue()


def repacked(content: bytes, compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w", compression) as archive:
        for member in source.infolist():
            archive.writestr(member.filename, source.read(member))
    return buffer.getvalue()


def claimed(content: bytes) -> bytes:
    """With 4 GB in the directory for the first member."""
    changed, start = bytearray(content), content.find(DIRECTORY)
    changed[start + 20 : start + 28] = struct.pack("<LL", 2**32 - 2, 2**32 - 2)
    return bytes(changed)


def with_members(content: bytes, count: int) -> bytes:
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        for number in range(count):
            archive.writestr(f"archive/data/x{number}", b"")
    return buffer.getvalue()


def saved(checkpoint: dict) -> bytes:
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


ENCODER = b"\x80\x02}X\x07\x00\x00\x00encoder"
CORPUS = {
    "a zip in a zip": (lambda f: repacked(pickled(b"N.").replace(b"data.pkl", b"inner.pt"), 0), "is a zip archive"),
    "a zip bomb": (lambda f: repacked(pickled(bytes(10**8)), zipfile.ZIP_DEFLATED), "are compressed"),
    "compressed": (lambda f: repacked(f.content, zipfile.ZIP_DEFLATED), "are compressed"),
    "a size that is not there": (lambda f: claimed(f.content), "claims to have 4,29"),
    "60,000 members": (lambda f: with_members(f.content, 60_000), "the directory of the archive has"),
    "a million names": (lambda f: saved(f.checkpoint | {f"extra{i}": 0 for i in range(10**6)}), "list of its tensors"),
    "a million numbers as names": (lambda f: saved(f.checkpoint | dict.fromkeys(range(10**6))), "list of its tensors"),
    "names with line ends": (
        lambda f: saved(f.checkpoint | {"encoder": {f"k\n{i}": 0 for i in range(10**4)}}),
        r"`k\\n0` is unknown.*and 9,\d\d\d more",
    ),
    "no pickle": (lambda f: pickled(b""), "is damaged: .*pickle exhausted"),
    "a cut pickle": (lambda f: pickled(ENCODER), "is damaged: .*pickle exhausted"),
    "an empty stack": (lambda f: pickled(b"\x80\x02s."), "is not a checkpoint of the trainer, or a damaged"),
    "deep lists": (lambda f: pickled(b"\x80\x02" + b"]" * 10**5 + b"."), "is not a checkpoint of the trainer"),
    # Python itself ends the process in the hash of the key.
    "deep tuples": (
        lambda f: pickled(ENCODER + b"})" + b"\x85" * 2 * 10**5 + b"K\x00ss."),
        "nests tuples 200,00. deep",
    ),
    "a large array": (lambda f: pickled(pickle.dumps({"encoder": Reduced(bytearray, 10**13)}, 2)), "MemoryError"),
    "a large tensor": (lambda f: pickled(pickle.dumps({"encoder": Reduced(torch.Tensor, 10**13)}, 2)), "allocate"),
    "code": (lambda f: saved(f.checkpoint | {"optimizer": Reduced(print, "code ran")}), "is refused: .*any code"),
}


@pytest.mark.parametrize("name", CORPUS)
def test_what_was_found(files, name, capsys):
    make, message = CORPUS[name]
    files.path.write_bytes(make(files))
    assert files.outcome() != "equal"
    with pytest.raises(ValueError, match=f"(?s){message}"):
        files.convert()
    assert "code ran" not in capsys.readouterr().out


CONFIGS = {
    "nesting": ("[" * 10**5, "cannot be read as JSON"),
    "a long number": ("9" * 10**5, "cannot be read as JSON"),
    "a name with a control character": ('{"encoder": {"name": "\\u001b[31m"}}', r"'\\x1b\[31m', but supported"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_hostile_configs(files, tmp_path, name):
    text, message = CONFIGS[name]
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        converter.read_config(str(tmp_path / "c.json"))


def test_a_config_of_many_labels_is_refused_before_they_are_named(tiny):
    published = json.loads(json.dumps(tiny["case_study_3"]["published"]))
    published["decoder"]["params"]["num_classes"] = published["label_anchor"]["params"]["num_classes"] = 10**9
    with pytest.raises(ValueError, match="`decoder.params.num_classes` of the published config must be at most"):
        converter.config_from_published(published)


def test_the_model_card_has_nothing_of_the_file_but_a_number(tiny, tmp_path):
    made = Files(tmp_path, tiny[CASE] | {"checkpoint": tiny[CASE]["checkpoint"] | {"iteration": "1\n---\n# mine"}})
    made.convert()
    assert "| unknown |" in (made.output / "README.md").read_text()


@pytest.mark.slow
def test_many_damaged_files(files, capsys):
    outcomes: dict[str, Counter] = {}
    for seed in range(250):
        for kind in KINDS:
            files.path.write_bytes(mutate(files.content, kind, seed))
            outcomes.setdefault(kind, Counter())[files.outcome()] += 1
    names = sorted({name for counter in outcomes.values() for name in counter})
    with capsys.disabled():
        print("\n| damage | " + " | ".join(names) + " |")
        for kind, counter in outcomes.items():
            print(f"| {kind} | " + " | ".join(str(counter[name]) for name in names) + " |")
