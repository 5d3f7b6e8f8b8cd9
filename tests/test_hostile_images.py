# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Property: whatever comes in as an image, the output is that of the equivalent clean image, or a `ValueError` that names it."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.hostile import FAST, outcome
from helpers.pipelines import make_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features
from transformers import pipeline

from lzn_hf import LZNForImageClassification, LZNPipeline
from lzn_hf import images_lzn as images_module
from lzn_hf.data.stores import UnreadableImageError, open_stored
from lzn_hf.images_lzn import image_to_pixels


@pytest.fixture(scope="module")
def pipe() -> LZNPipeline:
    return make_pipeline()


# Files.


def file_of(name: str, size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, name, **options)
    return buffer.getvalue()


FORMATS = {
    "PNG": {},
    "JPEG": {},
    "GIF": {},
    "TIFF": {"compression": "tiff_lzw"},
    "PPM": {},
    "BMP": {},
    "TGA": {},
    "ICO": {"sizes": [(8, 8)]},
    **({"WEBP": {}} if features.check("webp") else {}),
    **({"JPEG2000": {}} if features.check("jpg_2000") else {}),
}


def damaged(name: str, kind: str, seed: int) -> bytes:
    """A damaged image file; the same for the same seed."""
    rng, content = random.Random(seed), bytearray(file_of(name, **FORMATS[name]))
    place = rng.randrange(len(content))
    if kind == "cut":
        del content[place:]
    elif kind == "bit":
        content[place] ^= 1 << rng.randrange(8)
    elif kind == "header":
        content[rng.randrange(min(40, len(content)))] = rng.choice([0, 1, 127, 128, 255])
    elif kind == "number":
        content[place : place + 4] = struct.pack(
            rng.choice("<>") + "L", rng.choice([0, 1, 2**16 - 1, 2**31 - 1, 2**32 - 1])
        )
    elif kind == "noise":
        content[place : place + 16] = rng.randbytes(16)
    return bytes(content)


DAMAGE = ("cut", "bit", "header", "number", "noise")


@settings(FAST, max_examples=150)
@given(st.sampled_from(list(FORMATS)), st.sampled_from(DAMAGE), st.integers(0, 10**6))
def test_damaged_files(pipe, name, kind, seed):
    content = damaged(name, kind, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, on what it has made good
        read = outcome(lambda: image_to_pixels(content, 1, (8, 8)).float(), "image of ")
        assert outcome(lambda: pipe.embed(content), "`images`: image of ") == read
        stored = {"bytes": content, "path": None}
        assert outcome(lambda: image_to_pixels(open_stored(stored, 3, "train")[0]).float(), "image 3 of split") == read


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    head = b"GIF89a" + struct.pack("<HH", *screen) + b"\x80\0\0" + bytes(6)
    return head + b"\x2c\0\0\0\0" + struct.pack("<HH", *frame) + b"\0\x02\x02\x44\x01\0\x3b"


def patched(name: str, offset: int, form: str, *numbers: int) -> bytes:
    """A file with other numbers where its header has the size."""
    content = bytearray(file_of(name, **FORMATS[name]))
    struct.pack_into(form, content, offset, *numbers)
    return bytes(content)


def jpeg(width: int, height: int) -> bytes:
    content = file_of("JPEG")
    return patched("JPEG", content.index(b"\xff\xc0") + 5, ">HH", height, width)


def tiff(width: int, height: int) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 4)]
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def ico(inner: bytes) -> bytes:
    """An icon that says 8 x 8, with a file in it that may say something else."""
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHLL", 8, 8, 0, 0, 1, 8, len(inner), 22) + inner


def icns(inner: bytes) -> bytes:
    """The same as an icon of a Mac, of 16 x 16."""
    entry = b"icp4" + struct.pack(">L", len(inner) + 8) + inner
    return b"icns" + struct.pack(">L", len(entry) + 8) + entry


ROWS = b"".join(b"\0" + bytes(range(row, row + 8)) for row in range(8))  # of 8 x 8 pixels, each after its filter

# None of them holds more than a few bytes of pixels.
BOMBS = {
    "PNG": png(60_000, 60_000, b""),
    "PNG that Pillow would decode": png(10_000, 9000, b""),
    "PNG, all bits": png(2**31 - 1, 2**31 - 1, b""),
    "JPEG": jpeg(65_000, 65_000),
    "JPEG that Pillow would decode": jpeg(10_000, 9000),
    "GIF": gif((60_000, 60_000), (8, 8)),
    "GIF, a frame beyond the screen": gif((8, 8), (10_000, 9000)),
    "TIFF": tiff(2**31 - 1, 2**31 - 1),
    "TIFF that Pillow would decode": tiff(10_000, 9000),
    "PPM": b"P6 60000 60000 255\n",
    "PPM that Pillow would decode": b"P5 10000 9000 255\n" + bytes(100),
    "BMP": patched("BMP", 18, "<ll", 10_000, 9000),
    "TGA": patched("TGA", 12, "<HH", 65_000, 65_000),
    "ICO": ico(png(10_000, 9000, b"")),
    "ICNS": icns(png(10_000, 9000, b"")),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_are_decoded(pipe, name, monkeypatch, tmp_path):
    for module in (Image.core, Image.Image):  # whatever makes or fills pixels
        for maker in ("fill", "new", "frombytes"):
            if hasattr(module, maker):
                monkeypatch.setattr(module, maker, lambda *arguments: pytest.fail("pixels were made"))
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[name])
    for source in (BOMBS[name], bytearray(BOMBS[name]), path, str(path)):
        with pytest.raises(ValueError, match=r"64,000,000 pixels"):
            image_to_pixels(source)
    with pytest.raises(ValueError, match="^`images`: image .*64,000,000 pixels"):
        pipe.image_processor([BOMBS[name]])
    with pytest.raises(UnreadableImageError, match="^image 0 of split 'a' .*64,000,000 pixels"):
        open_stored({"bytes": BOMBS[name], "path": None}, 0, "a")


def test_a_header_that_lies_about_less(monkeypatch):
    """More pixels follow than the header says: what it says is read, and no more."""
    full = image_to_pixels(png(8, 8, ROWS))
    assert full.shape == (1, 8, 8)
    assert torch.equal(image_to_pixels(png(8, 8, ROWS + bytes(10**8))), full)
    with pytest.raises(ValueError, match="cannot be read: OSError.*truncated"):
        image_to_pixels(png(8, 8, bytes(20)))
    monkeypatch.setattr(images_module, "MAX_PIXELS", 63)
    for source in (png(8, 8, bytes(72)), Image.new("L", (8, 8)), np.zeros((8, 8)), torch.zeros(8, 8)):
        with pytest.raises(ValueError, match="more than 63 pixels"):
            image_to_pixels(source)


def test_a_member_of_an_archive_may_not_unpack_to_anything(tmp_path, monkeypatch):
    import zipfile

    from lzn_hf.data import stores
    from lzn_hf.data.folders import ImageFile

    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(10**6))
        archive.writestr("good.png", file_of("PNG"))
    monkeypatch.setattr(stores, "MAX_MEMBER_BYTES", 10**5)
    assert open_stored(ImageFile("good.png", tmp_path / "a.zip", "good.png"), 0, "a")[0].size == (8, 8)
    with pytest.raises(UnreadableImageError, match="bomb.png'?.* has 1,000,000 bytes"):
        open_stored(ImageFile("bomb.png", tmp_path / "a.zip", "bomb.png"), 0, "a")


def test_a_file_in_an_archive_that_datasets_names_is_not_decoded_by_it(tmp_path, monkeypatch):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", png(8, 8, ROWS))
        archive.writestr("bomb.png", BOMBS["PNG that Pillow would decode"])
    for name in ("a.png", "bomb.png"):
        stored = {"bytes": None, "path": f"zip://{name}::{tmp_path / 'a.zip'}"}
        if name == "a.png":
            assert open_stored(stored, 0, "a")[0].size == (8, 8)
        else:
            with pytest.raises(UnreadableImageError, match="64,000,000 pixels"):
                open_stored(stored, 0, "a")


# Arrays and tensors as images.

VIEWS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda x: x,
    "turned": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "every second": lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
    "transposed twice": lambda x: np.ascontiguousarray(np.swapaxes(x, 0, 1)).swapaxes(0, 1),
    "Fortran": np.asfortranarray,
    "other bytes": lambda x: x.astype(x.dtype.newbyteorder()),
    "tensor": lambda x: torch.from_numpy(x.copy()),
    "tensor, transposed": lambda x: torch.from_numpy(x.copy()).transpose(0, 1).contiguous().transpose(0, 1),
    "tensor with gradient": lambda x: torch.from_numpy(x.copy()).requires_grad_(x.dtype.kind == "f"),
    "list": lambda x: [x],
}


@FAST
@given(
    st.sampled_from(list(VIEWS)),
    st.sampled_from(["u1", "i2", "i8", "f4", "f8"]),
    st.sampled_from([1, 3, 4, None]),
    st.data(),
)
def test_every_view_of_an_array_is_the_array(pipe, view, dtype, channels, data):
    shape = (data.draw(st.integers(5, 9)), data.draw(st.integers(5, 9)), *([] if channels is None else [channels]))
    values = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, shape)
    array = (values / 255 if dtype[0] == "f" else values).astype(dtype)
    clean = pipe.image_processor(np.ascontiguousarray(array), return_tensors="pt").pixel_values
    hostile = VIEWS[view](array)
    result = pipe.image_processor(hostile, return_tensors="pt").pixel_values
    torch.testing.assert_close(result, clean, rtol=0, atol=0)
    assert result.shape == (1, 1, 8, 8)


def read_only() -> np.ndarray:
    array = np.zeros((8, 8), np.uint8)
    array.flags.writeable = False
    return array


GOOD_IMAGES = {
    "read-only": read_only(),
    "bool": np.ones((8, 8), bool),
    "float16": np.zeros((8, 8), np.float16),
    "longdouble": np.zeros((8, 8), np.longdouble),
    "one pixel": np.zeros((1, 1)),
    "one row": np.zeros((1, 60_000), np.uint8),
    "one column": Image.new("L", (1, 60_000)),
    "np.matrix": np.asmatrix(np.zeros((8, 8))),
    "bfloat16": torch.zeros(8, 8, dtype=torch.bfloat16),
    "a negative view": torch.zeros(8, 8, dtype=torch.complex64).conj().imag,
    "mixed": [np.zeros((8, 8)), torch.zeros(1, 9, 9), Image.new("RGB", (8, 5)), file_of("PNG")],
    "pixel values": {"pixel_values": torch.zeros(2, 1, 8, 8)},
}
SPARSE = torch.zeros(8, 8).to_sparse()
BAD_IMAGES = {
    "complex": np.zeros((8, 8), complex),
    "object": np.zeros((8, 8), object),
    "strings": np.full((8, 8), "a"),
    "records": np.zeros((8, 8), [("a", "u1")]),
    "times": np.zeros((8, 8), "M8[s]"),
    "masked": np.ma.masked_less(np.zeros((8, 8)), 1),
    "0 x 0": np.zeros((0, 0)),
    "8 x 0 x 3": np.zeros((8, 0, 3)),
    "no image": np.zeros((0, 8, 8, 1)),
    "NaN": np.full((8, 8), np.nan),
    "infinite": np.full((8, 8), np.inf),
    "0-D": np.zeros(()),
    "1-D": np.zeros(8),
    "5-D": np.zeros((1, 1, 1, 8, 8)),
    "2 channels": np.zeros((2, 8, 8)),
    "5 channels": np.zeros((8, 8, 5)),
    "huge": np.broadcast_to(np.uint8(0), (10**6, 10**6)),
    "a huge tensor": torch.zeros(1, 1).expand(10**6, 10**6),
    "0..255 as floats": np.full((8, 8), 200.0),
    "below 0": np.full((8, 8), -1),
    "above 255": np.full((8, 8), 2**64 - 1, np.uint64),
    "complex tensor": torch.zeros(8, 8, dtype=torch.complex64).conj(),
    "sparse": SPARSE,
    "meta": torch.zeros(8, 8, device="meta"),
    "nested": torch.nested.nested_tensor([torch.zeros(8, 8)], layout=torch.jagged),
    "None": None,
    "number": 0.5,
    "set": {1},
    "generator": (image for image in ()),
    "empty list": [],
    "empty tuple": (),
    "a list in a list": [[np.zeros((8, 8))]],
    "an empty list in a list": [[]],
    "numbers": [[0.1] * 8] * 8,
    "one bad of two": [np.zeros((8, 8)), None],
    "a dict in a list": [{"pixel_values": torch.zeros(1, 1, 8, 8)}],
    "no file": "a\0b\n\x1b[31m",
    "a long name": "x" * 10**6,
    "a URL": "http://localhost/a.png",
    "a device": "/dev/zero",
    "a folder": "/",
    "no bytes": b"",
    "bytes": b"\x1b[31m<!DOCTYPE html>",
    "mode F": Image.new("F", (8, 8)),
    "no pixels": Image.new("L", (0, 0)),
}


def ways_in(pipe: LZNPipeline) -> dict[str, Callable[[Any], Any]]:
    flow = {"num_inference_steps": 1, "output_type": "pt"}
    return {
        "processor": lambda images: pipe.image_processor(images, return_tensors="pt").pixel_values,
        "embed": pipe.embed,
        "classify": lambda images: torch.tensor([row[0]["score"] for row in pipe.classify(images)]),
        "reconstruct": lambda images: pipe.reconstruct(images, **flow).images,
        "vary": lambda images: pipe.vary(images, 0.5, **flow).images,
        "interpolate": lambda image: pipe.interpolate(image, np.zeros((8, 8)), num_steps=2, **flow).images,
    }


@pytest.mark.parametrize("name", GOOD_IMAGES)
def test_unusual_images(pipe, name):
    for way, call in ways_in(pipe).items():
        if (way, name) in {("processor", "pixel values"), ("interpolate", "mixed"), ("interpolate", "pixel values")}:
            continue
        assert outcome(lambda: call(GOOD_IMAGES[name]), "") == "right", way


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_what_is_no_image(pipe, name):
    for way, call in ways_in(pipe).items():
        assert outcome(lambda: call(BAD_IMAGES[name]), "`images`") == "refused", way


@pytest.mark.parametrize("bad", [None, 0.5, {1}, {}, "no such file", [None]], ids=repr)
@pytest.mark.parametrize("task", ["image-classification", "image-feature-extraction"])
def test_pipelines_of_transformers(pipe, task, bad):
    """They open what they take themselves, and convert it before this package sees it."""
    model: Any = pipe.model
    if task == "image-classification":
        model = LZNForImageClassification(pipe.model.config).eval()
        model.lzn.load_state_dict(pipe.model.state_dict())
    with pytest.raises((ValueError, TypeError, OSError)):
        pipeline(task, model=model, image_processor=pipe.image_processor)(bad)


@pytest.mark.slow
def test_many_damaged_files(capsys):
    table: dict[str, Counter] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in FORMATS:
            for kind in DAMAGE:
                for seed in range(200):
                    content = damaged(name, kind, seed)
                    result = outcome(lambda: image_to_pixels(content, 1, (8, 8)).float(), "image of ")
                    table.setdefault(name, Counter())[result] += 1
    with capsys.disabled():
        print("\n| damaged files | read | refused |")
        for name, counts in table.items():
            print(f"| {name} | {counts['right']} | {counts['refused']} |")
