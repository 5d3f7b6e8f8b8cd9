# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""examples/make_emoji_images.py on a font of a few coloured rectangles that fontTools writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import make_emoji_images
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import newTable
from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
from fontTools.ttLib.tables.E_B_L_C_ import SbitLineMetrics, Strike, eblc_index_sub_table_1, sbitLineMetricsFormat
from helpers.images import png
from PIL import Image

from lzn_hf.data.images import load_image_data


EMOJI_TEST = """# emoji-test.txt
# group: Animals & Nature

# subgroup: animal-mammal
1F415                                      ; fully-qualified     # 🐕 E0.7 dog
1F408                                      ; fully-qualified     # 🐈 E0.7 cat
1F408 200D 2B1B                            ; fully-qualified     # 🐈‍⬛ E13.0 black cat
2618 FE0F                                  ; fully-qualified     # ☘️ E1.0 shamrock
2618                                       ; unqualified         # ☘ E1.0 shamrock
1F9A4                                      ; fully-qualified     # 🦤 E13.0 dodo

# group: People & Body
1F44B                                      ; fully-qualified     # 👋 E0.6 waving hand
1F44B 1F3FB                                ; fully-qualified     # 👋🏻 E1.0 waving hand: light skin tone
1F415 200D 2B1B                            ; fully-qualified     # 🐕 E0.6 keycap: *

# group: Component
1F3FB                                      ; component           # 🏻 E1.0 light skin tone
"""
COLOURS = {
    "dog": (200, 0, 0),
    "cat": (0, 200, 0),
    "black": (9, 9, 9),
    "blackcat": (50, 60, 70),
    "clover": (0, 250, 9),
    "hand": (250, 200, 0),
}
CHARACTERS = {0x1F415: "dog", 0x1F408: "cat", 0x2B1B: "black", 0x200D: "joiner", 0x2618: "clover", 0x1F44B: "hand"}
LIGATURES = "feature ccmp { sub cat joiner black by blackcat; } ccmp;"


def picture(colour: tuple[int, int, int], size: int) -> bytes:
    """A rectangle one pixel lower than wide. Its left column is transparent red."""
    pixels = np.full((size - 1, size, 4), (*colour, 255), np.uint8)
    pixels[:, 0] = (255, 0, 0, 0)
    return png(pixels)


def line_metrics() -> SbitLineMetrics:
    metrics = SbitLineMetrics()
    for name in (line.split(":")[0].strip() for line in sbitLineMetricsFormat.splitlines() if ":" in line):
        setattr(metrics, name, 0)
    return metrics


def add_strike(font, size: int, pictures: Mapping[str, bytes]) -> None:
    strike, bitmaps = Strike(), {}
    table = strike.bitmapSizeTable
    table.hori, table.vert, table.colorRef = line_metrics(), line_metrics(), 0
    table.ppemX = table.ppemY = size
    table.bitDepth, table.flags = 32, 1
    index = eblc_index_sub_table_1(None, font)
    del index.data
    index.indexFormat, index.imageFormat, index.names = 1, 17, sorted(pictures, key=font.getGlyphID)
    strike.indexSubTables = [index]
    for name in index.names:
        bitmaps[name] = glyph = cbdt_bitmap_format_17(None, font)
        del glyph.data
        glyph.metrics, glyph.imageData = SmallGlyphMetrics(), pictures[name]
        glyph.metrics.height, glyph.metrics.width, glyph.metrics.Advance = size - 1, size, size
        glyph.metrics.BearingX = glyph.metrics.BearingY = 0
    font["CBLC"].strikes.append(strike)
    font["CBDT"].strikeData.append(bitmaps)


def write_font(path: Path, *, ligatures: str | None = LIGATURES, sizes: tuple[int, ...] = (4, 8, 6)) -> Path:
    """A font with pictures of these sizes, as Noto Color Emoji has of one."""
    builder = FontBuilder(unitsPerEm=100)
    builder.setupGlyphOrder([".notdef", "joiner", *COLOURS])
    builder.setupCharacterMap(CHARACTERS)
    builder.setupHorizontalMetrics(dict.fromkeys(builder.font.getGlyphOrder(), (8, 0)))
    builder.setupHorizontalHeader()
    builder.setupOS2()
    builder.setupPost()
    if ligatures is not None:
        builder.addOpenTypeFeatures(ligatures)
    if sizes:
        for tag, pictures in (("CBLC", "strikes"), ("CBDT", "strikeData")):
            builder.font[tag] = newTable(tag)
            builder.font[tag].version = 3.0
            setattr(builder.font[tag], pictures, [])
        for size in sizes:
            add_strike(builder.font, size, {name: picture(colour, size) for name, colour in COLOURS.items()})
    builder.save(path)
    return path


@pytest.fixture
def emoji_test(tmp_path) -> Path:
    path = tmp_path / "emoji-test.txt"
    path.write_text(EMOJI_TEST, encoding="utf-8")
    return path


def make(font: Path, emoji_test: Path, output_dir: Path) -> Path:
    flags = {"font": font, "emoji_test": emoji_test, "output_dir": output_dir}
    return make_emoji_images.main([text for name, value in flags.items() for text in (f"--{name}", str(value))])


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}


ANIMALS = {"Animals & Nature/dog.png", "Animals & Nature/cat.png", "Animals & Nature/shamrock.png"}
ALL = ANIMALS | {"Animals & Nature/black cat.png", "People & Body/waving hand.png"}


def test_images_by_group_and_name(tmp_path, emoji_test, capsys):
    folder = make(write_font(tmp_path / "font.ttf"), emoji_test, tmp_path / "emoji")
    # No skin tones, no second shamrock, and neither the dodo nor the sequence that the font lacks.
    assert names(folder) == ALL
    assert "5 images of 7 emoji" in capsys.readouterr().out
    for name, colour in (("dog", "dog"), ("black cat", "blackcat"), ("shamrock", "clover")):
        pixels = np.asarray(Image.open(folder / "Animals & Nature" / f"{name}.png"))
        assert pixels.shape == (8, 8, 3)  # of the largest pictures
        rows = (pixels[:, 1:] == COLOURS[colour]).all((1, 2))
        assert rows.sum() == 7 and (pixels[~rows] == 255).all() and (pixels[:, 0] == 255).all()
    data = load_image_data(data_dir=str(folder), validation_fraction=0.2)
    assert data.label_names == ["Animals & Nature", "People & Body"] and (data.image_size, data.num_channels) == (8, 3)


def test_a_font_without_sequences_has_the_pictures_of_single_characters(tmp_path, emoji_test):
    font = write_font(tmp_path / "font.ttf", ligatures=None)
    assert names(make(font, emoji_test, tmp_path / "emoji")) == ALL - {"Animals & Nature/black cat.png"}


def test_characters_that_file_names_cannot_have_become_underscores(tmp_path, emoji_test):
    font = write_font(tmp_path / "font.ttf", ligatures="feature ccmp { sub dog joiner black by blackcat; } ccmp;")
    assert "People & Body/keycap_ _.png" in names(make(font, emoji_test, tmp_path / "emoji"))


def test_two_emoji_of_one_name_are_an_error(tmp_path, emoji_test):
    emoji_test.write_text(EMOJI_TEST.replace("E0.7 cat", "E0.7 dog"), encoding="utf-8")
    with pytest.raises(FileExistsError, match="dog.png"):
        make(write_font(tmp_path / "font.ttf"), emoji_test, tmp_path / "emoji")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"font": "absent.ttf"}, OSError, "absent.ttf"),
        ({"font": "emoji-test.txt"}, ValueError, "`font` .*emoji-test.txt is no font file"),
        ({"font": "plain.ttf"}, ValueError, "`font` .*plain.ttf has no colour bitmaps: no table CBDT, only .*cmap"),
        ({"emoji_test": "absent.txt"}, OSError, "absent.txt"),
        ({"emoji_test": "notes.txt"}, ValueError, "`emoji_test` .*notes.txt lists no emoji"),
        ({"emoji_test": "headless.txt"}, ValueError, "headless.txt has an emoji before the first '# group: ' line"),
        ({"emoji_test": "others.txt"}, ValueError, "`font` .* has a picture for none of the 1 emoji"),
        ({"output_dir": "full"}, ValueError, "`output_dir` .*full must be a new or an empty folder"),
        ({"output_dir": "notes.txt"}, ValueError, "`output_dir` .*notes.txt must be a new or an empty folder"),
    ],
)
def test_an_error_writes_nothing(tmp_path, emoji_test, change, error, message):
    write_font(tmp_path / "font.ttf")
    write_font(tmp_path / "plain.ttf", ligatures=None, sizes=())
    (tmp_path / "notes.txt").write_text("nothing\n")
    lines = EMOJI_TEST.splitlines(keepends=True)
    (tmp_path / "headless.txt").write_text("".join(lines[4:]), encoding="utf-8")
    (tmp_path / "others.txt").write_text(lines[1] + lines[9], encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    arguments = {"font": "font.ttf", "emoji_test": "emoji-test.txt", "output_dir": "emoji"} | change
    with pytest.raises(error, match=message):
        make(**{name: tmp_path / value for name, value in arguments.items()})
    assert sorted(tmp_path.rglob("*")) == before
