# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Make a set of colour images with labels from an emoji font that is installed on this computer:

    sudo apt install fonts-noto-color-emoji unicode-data
    python examples/make_emoji_images.py --output_dir emoji

writes emoji/GROUP/NAME.png for each emoji of Unicode's list, for example `emoji/Animals & Nature/dog face.png`: square, on white. Skin tones
are left out. The font must hold its pictures as bitmaps (table CBDT), as Noto Color Emoji of Debian and Ubuntu does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError
from PIL import Image, ImageOps

from lzn_hf.images_lzn import flatten_image, open_image
from lzn_hf.training.arguments import flag
from lzn_hf.training.command_line import parse_command_line, run_as_script


EMOJI_LINE = re.compile(r"(?P<code_points>[0-9A-F ]+?)\s*; fully-qualified\s+# \S+ E[\d.]+ (?P<name>.+)")
SKIN_TONES = range(0x1F3FB, 0x1F3FF + 1)
VARIATION_SELECTOR = 0xFE0F  # asks for the picture instead of the text; fonts leave it out of their sequences
LIGATURES = 4  # type of a lookup that replaces several glyphs by one
FORBIDDEN_IN_FILE_NAMES = re.compile(r'[\\/:*?"<>|]')  # on one system or another


@dataclass
class EmojiArguments:
    """Where the pictures and their labels come from, and where to write them."""

    _argument_group_name = "emoji"

    font: str = flag("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf", "Font file with colour bitmaps.")
    emoji_test: str = flag(
        "/usr/share/unicode/emoji/emoji-test.txt", "Unicode's list of all emoji by group, from which the labels are."
    )
    output_dir: str = flag("emoji", "Folder for the images: new or empty.")


@dataclass
class Emoji:
    """A line of Unicode's list."""

    group: str
    name: str
    code_points: list[int]


def main(argv: Sequence[str] | None = None) -> Path:
    """Writes the images by the command line `argv` (`None`: that of the process). Returns their folder."""
    (args,) = parse_command_line([EmojiArguments], argv, __doc__)
    output_dir = Path(args.output_dir)
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise ValueError(f"`output_dir` {output_dir} must be a new or an empty folder.")
    listed = list(read_emoji(Path(args.emoji_test)))
    font = EmojiFont(Path(args.font))
    pictures = [(emoji, font.picture(emoji.code_points)) for emoji in listed]
    drawn = [(emoji, square_on_white(png)) for emoji, png in pictures if png is not None]
    if not drawn:
        raise ValueError(f"`font` {args.font} has a picture for none of the {len(listed)} emoji.")
    for emoji, image in drawn:
        path = output_dir / file_name(emoji.group) / f"{file_name(emoji.name)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:  # of two emoji with one name, the second is an error
            image.save(file)
    for group, count in Counter(emoji.group for emoji, _ in drawn).most_common():
        print(f"{count:6} {group}")
    print(f"{len(drawn):6} images of {len(listed)} emoji in {output_dir}")
    return output_dir


def read_emoji(path: Path) -> Iterator[Emoji]:
    """Reads Unicode's emoji-test.txt, without the emoji that differ from another one by a skin tone.

    Yields:
        `Emoji`: in the order of the list.

    Raises:
        ValueError: if the file lists no emoji.
    """
    group = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ")
        elif match := EMOJI_LINE.fullmatch(line.strip()):
            if group is None:
                raise ValueError(f"`emoji_test` {path} has an emoji before the first '# group: ' line: {line!r}.")
            code_points = [int(number, 16) for number in match["code_points"].split()]
            if not any(code_point in SKIN_TONES for code_point in code_points):
                yield Emoji(group, match["name"], code_points)
    if group is None:
        raise ValueError(
            f"`emoji_test` {path} lists no emoji. It must be emoji-test.txt of Unicode, for example of the Debian package unicode-data."
        )


class EmojiFont:
    """The pictures of a font with colour bitmaps.

    Args:
        path (`Path`): the font file.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is no font, or a font without colour bitmaps.
    """

    def __init__(self, path: Path):
        try:
            font = TTFont(path)
        except TTLibError as error:
            raise ValueError(f"`font` {path} is no font file: {error}") from error
        if "CBDT" not in font:
            raise ValueError(
                f"`font` {path} has no colour bitmaps: no table CBDT, only {', '.join(sorted(font.keys()))}. Noto Color Emoji of the "
                "Debian package fonts-noto-color-emoji has it."
            )
        self.glyphs: dict[int, str] = font.getBestCmap()
        strikes = zip(font["CBLC"].strikes, font["CBDT"].strikeData, strict=True)
        self.bitmaps = max(strikes, key=lambda strike: strike[0].bitmapSizeTable.ppemY)[1]  # the largest
        self.ligatures: dict[tuple[str, ...], str] = {}
        for lookup in font["GSUB"].table.LookupList.Lookup if "GSUB" in font else ():
            for table in lookup.SubTable if lookup.LookupType == LIGATURES else ():
                for first, ligatures in table.ligatures.items():
                    self.ligatures |= {(first, *one.Component): one.LigGlyph for one in ligatures}

    def picture(self, code_points: Sequence[int]) -> bytes | None:
        """Returns the PNG file of an emoji, or `None` if the font has none."""
        glyphs = tuple(self.glyphs.get(one, "") for one in code_points if one != VARIATION_SELECTOR)
        bitmap = self.bitmaps.get(glyphs[0] if len(glyphs) == 1 else self.ligatures.get(glyphs))
        return None if bitmap is None else bitmap.imageData


def square_on_white(png: bytes) -> Image.Image:
    """Decodes a picture and lays it in the middle of a white square of its longer side."""
    image = flatten_image(open_image(png)).convert("RGB")
    side = max(image.size)
    return ImageOps.pad(image, (side, side), color="white")


def file_name(name: str) -> str:
    """Returns a name with an underscore for each character that some file system refuses."""
    return FORBIDDEN_IN_FILE_NAMES.sub("_", name)


if __name__ == "__main__":
    run_as_script(main)
