# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Files of the commands: images that are named on the command line, and what is written by the suffix of `--out`."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ..data.folders import IMAGE_SUFFIXES, ImageFile, list_tree
from ..image_processing_lzn import LZNImageProcessor
from ..images_lzn import ImageError, open_image
from ..training.mistakes import UsageError
from ..visualization.grids import image_grid


PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".pdf")
TABLES = (".csv", ".json", ".jsonl")
TENSORS = (".safetensors",)
FOLDER = "a folder"
# Names of files may be no UTF-8, as old archives leave them. Their bytes are escaped, in JSON so that it reads them back.
TEXT: Any = {"encoding": "utf-8", "errors": "backslashreplace"}
SECONDS_PER_FRAME = 0.2  # of an animation


def find_images(words: Sequence[str]) -> list[ImageFile]:
    """Finds the images that words on the command line name.

    Args:
        words (`Sequence[str]`): files, folders and zip archives (all images below them, as training finds them) and patterns (`*.png`,
            `photos/**/*.jpg`).

    Returns:
        `list[ImageFile]`: the images, word by word, each in the order of their names.

    Raises:
        ValueError: for a word that names no image.
    """
    found: list[ImageFile] = []
    for word in words:
        path = Path(word)
        if path.exists():
            images = _images_of(path)
        else:
            if not glob.has_magic(word):
                raise FileNotFoundError(f"{word!r} is not there: no such file or folder.")
            matches = [Path(name) for name in sorted(glob.glob(word, recursive=True))]
            known = (path for path in matches if path.is_file() and path.suffix.lower() in (*IMAGE_SUFFIXES, ".zip"))
            images = [image for path in known for image in _images_of(path)]
        if not images:
            raise ValueError(f"{word!r} has no images: files that end in .png, .jpg, .webp and so on.")
        found += images
    return found


def _images_of(path: Path) -> list[ImageFile]:
    if path.is_file() and path.suffix.lower() != ".zip":
        return [ImageFile(path.name, path)]
    return list_tree(path).images


def image_source(file: ImageFile) -> str | Image.Image:
    """Returns what an image processor opens: the path of a file, or an image of an archive."""
    if file.member is None:
        return str(file.path)
    try:
        return open_image(file.read())
    except ImageError as error:
        raise ValueError(f"image {str(file)!r} {error}.") from error


class PixelBatches:
    """The pixel values of images in batches, beside a progress bar that counts images (on a terminal only).

    An image that cannot be read is left out: one damaged photo of thousands must not cost the results of the others. [`check_all_read`]
    names it when these are written.

    Args:
        files (`Sequence[ImageFile]`): the images.
        processor ([`LZNImageProcessor`]): images to pixel values.
        batch_size (`int`): images of a batch.
        what (`str`): what the progress bar says.
    """

    def __init__(self, files: Sequence[ImageFile], processor: LZNImageProcessor, batch_size: int, what: str) -> None:
        self.files, self.processor, self.batch_size, self.what = files, processor, batch_size, what
        self.read: list[ImageFile] = []
        self.errors: list[str] = []

    def __iter__(self) -> Iterator[Tensor]:
        with tqdm(total=len(self.files), desc=self.what, unit="image", disable=None, leave=False) as progress:
            for start in range(0, len(self.files), self.batch_size):
                batch = []
                for file in self.files[start : start + self.batch_size]:
                    try:
                        source: Any = image_source(file)
                        batch.append(self.processor(source, return_tensors="pt").pixel_values)
                        self.read.append(file)
                    except ValueError as error:
                        self.errors.append(str(error).removeprefix("`images`: "))
                if batch:
                    yield torch.cat(batch)
                progress.update(min(self.batch_size, len(self.files) - start))
        if not self.read:
            self.check_all_read()

    def check_all_read(self) -> None:
        """Raises a `ValueError` that names the images that could not be read."""
        if self.errors:
            total, count = len(self.files), len(self.errors)
            left_out = f"{count:,} of {total:,} images {'is' if count == 1 else 'are'} left out: " if total > 1 else ""
            raise ValueError(left_out + " ".join(self.errors[:5]) + (" ..." if count > 5 else ""))


def check_out(out: str, kinds: Sequence[str], flag: str = "--out") -> Path:
    """Returns the path of a result, before the work begins. A folder that does not look like one by its name is made.

    Args:
        out (`str`): a file, or a folder: a path without suffix, or one that ends in `/`.
        kinds (`Sequence[str]`): suffixes that the result can be written as, and `FOLDER`.
        flag (`str`, *optional*, defaults to `"--out"`): the flag, for messages.

    Raises:
        UsageError: for another suffix, or if the path is a file where a folder is meant, or the other way round.
    """
    path = Path(out)
    wants_folder = not path.suffix or out.endswith(("/", "\\")) or path.is_dir()
    if (FOLDER if wants_folder else path.suffix.lower()) not in kinds:
        raise UsageError(f"`{flag}` must be {', '.join(kinds[:-1])} or {kinds[-1]}, got {out!r}.")
    if wants_folder and path.is_file():
        raise UsageError(f"`{flag}` {out!r} is a file, not a folder.")
    if wants_folder and path.suffix:  # a path does not keep the slash at its end
        path.mkdir(parents=True, exist_ok=True)
    return path


def is_folder(path: Path) -> bool:
    """Returns whether a path of [`check_out`] is a folder."""
    return not path.suffix or path.is_dir()


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of the same keys as CSV, as JSON, or as JSON lines, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".csv":
        with open(path, "w", newline="", **TEXT) as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix.lower() == ".json":
        path.write_text(json.dumps(list(rows), indent=2, ensure_ascii=False) + "\n", **TEXT)
    else:
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines), **TEXT)


def write_tensors(path: Path, tensors: Mapping[str, Tensor | None], **names: Sequence[str]) -> None:
    """Writes tensors as safetensors, with lists of names as JSON in its metadata."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    there = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    lists = {name: json.dumps(list(values), ensure_ascii=False) for name, values in names.items()}
    save_file(there, path, {name: text.encode(**TEXT).decode() for name, text in lists.items()})


def write_pictures(
    path: Path,
    images: Sequence[Image.Image],
    names: Iterable[str],
    *,
    columns: int | None = None,
    row_labels: Sequence[str] | None = None,
) -> Image.Image:
    """Writes images as one picture, as an animation, or as files of a folder.

    Args:
        path (`Path`): of [`check_out`]. A `.gif` is an animation.
        images (list of `PIL.Image.Image`): the images.
        names (iterable of `str`): what the files of a folder are called, without `.png`.
        columns (`int`, *optional*): images in a row of the picture; by default about as many as rows.
        row_labels (list of `str`, *optional*): text to the left of each row.

    Returns:
        `PIL.Image.Image`: all images as one picture.
    """
    columns = columns or round(len(images) ** 0.5 + 0.49)
    grid = image_grid(images, columns, row_labels=row_labels)
    if is_folder(path):
        path.mkdir(parents=True, exist_ok=True)
        for name, image in zip(names, images, strict=True):
            (path / f"{name}.png").parent.mkdir(parents=True, exist_ok=True)
            image.save(path / f"{name}.png")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".gif":
            frames = [image_grid([image], 1, min_cell_size=128) for image in images]
            options: dict[str, Any] = {"duration": round(1000 * SECONDS_PER_FRAME), "loop": 0}
            frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        else:
            grid.save(path)
    return grid


def terminal_picture(picture: Image.Image, width: int = 80) -> str:
    """Returns a picture as coloured half blocks for a terminal of at most `width` columns, two pixels in a character."""
    if picture.width > width:
        size = (width, max(2, round(picture.height * width / picture.width)))
        picture = picture.resize(size, Image.Resampling.BOX)
    pixels = picture.convert("RGB")
    lines = []
    for y in range(0, pixels.height - pixels.height % 2, 2):
        cells = []
        for x in range(pixels.width):
            upper, lower = ((pixels.getpixel((x, y + below))) for below in (0, 1))
            cells.append(f"\x1b[38;2;{_codes(upper)}m\x1b[48;2;{_codes(lower)}m\u2580")
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def _codes(colour: Any) -> str:
    return ";".join(map(str, colour))


__all__ = [
    "FOLDER",
    "PICTURES",
    "TABLES",
    "TENSORS",
    "PixelBatches",
    "check_out",
    "find_images",
    "image_source",
    "is_folder",
    "terminal_picture",
    "write_pictures",
    "write_table",
    "write_tensors",
]
