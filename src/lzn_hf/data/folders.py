# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Which files of a folder are images: a walk over it, or over zip archives in it. Nothing is left out without a record."""

from __future__ import annotations

import functools
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


IMAGE_SUFFIXES = frozenset(
    ".apng .avif .avifs .bmp .bw .cur .dcx .dds .dib .emf .gif .heic .heif .icns .ico .im .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf "
    ".jpg .jpx .jxl .mpo .pbm .pcd .pcx .pgm .png .pnm .ppm .psd .qoi .ras .rgb .rgba .sgi .tga .tif .tiff .webp .xbm .xpm".split()
)
TABLE_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# What programs leave in folders of images, thumbnails and copies among it. In lower case.
JUNK_FOLDERS = frozenset(
    "__macosx @eadir .appledouble .cache .git .hg .idea .ipynb_checkpoints .svn .thumbnails .trash .vscode".split()
)
HIDDEN, NOT_IMAGES, ARCHIVES = "hidden files and folders", "not images", "archives beside images"


@dataclass(frozen=True)
class ImageFile:
    """One image, or another file that is read, of a folder or an archive.

    Args:
        name (`str`): its path below the folder with `/` between the parts, as `train/cat/1.png`.
        path (`Path`): the file, or the archive that it is in.
        member (`str`, *optional*): its name in the archive.
    """

    name: str
    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}: {self.member}"

    @property
    def parts(self) -> list[str]:
        return self.name.split("/")

    def size(self) -> int:
        """Returns the number of bytes, 0 for a file that is not there."""
        if self.member is not None:
            return _open_archive(self.path, os.getpid()).getinfo(self.member).file_size
        return self.path.stat().st_size if self.path.is_file() else 0

    def read(self) -> bytes:
        """Reads the content."""
        if self.member is not None:
            return _open_archive(self.path, os.getpid()).read(self.member)
        return self.path.read_bytes()


@dataclass
class FolderTree:
    """The files of a folder.

    Args:
        root (`Path`): the folder, or an archive that is read like one.
        images, tables (`list[ImageFile]`): images, and files that are named as in `TABLE_NAMES`, in the order of their names.
        left_out (`dict[str, list[str]]`): names of all other files, by the reason why they are not read.
    """

    root: Path
    images: list[ImageFile] = field(default_factory=list)
    tables: list[ImageFile] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def add(self, file: ImageFile) -> None:
        """Adds a file to the list where it belongs."""
        name = file.parts[-1]
        if name.startswith(".") or any(part.lower() in JUNK_FOLDERS for part in file.parts[:-1]):
            self.leave_out(HIDDEN, file.name)
            return
        is_image = os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
        if is_image or name.lower() in TABLE_NAMES:
            hidden = [part for part in file.parts[:-1] if part.startswith(".")]
            if hidden:
                raise ValueError(
                    f"the folder {hidden[0]!r} in '{self.root}' holds images or a table ({file.name!r}), but its name begins with a "
                    "dot, as names of hidden folders do: rename it if it is meant, or move it away"
                )
            (self.images if is_image else self.tables).append(file)
        else:
            self.leave_out(NOT_IMAGES, file.name)

    def leave_out(self, reason: str, name: str) -> None:
        self.left_out.setdefault(reason, []).append(name)


def list_tree(root: Path) -> FolderTree:
    """Lists a folder and all folders below it, or a zip archive.

    Images are the files with a suffix of `IMAGE_SUFFIXES`. Symbolic links are followed. Hidden files (names that begin with a dot) and
    the folders in `JUNK_FOLDERS` are left out; a folder with images whose own name begins with a dot is an error. Where no image lies
    outside of zip archives, each archive is read like a folder of its name without `.zip`; a single one is read like `root` itself.

    Raises:
        ValueError: for such a folder, and for an archive that cannot be read or needs a password.
    """
    tree, archives = FolderTree(root), []
    if root.is_file():
        archives.append(ImageFile(root.name, root))
    else:
        for name, path in _walk(root, "", (os.path.realpath(root),)):
            if path.suffix.lower() == ".zip" and path.is_file() and not path.name.startswith("."):
                archives.append(ImageFile(name, path))
            elif path.is_dir():
                tree.leave_out(HIDDEN, f"{name}/")
            elif path.exists() and not path.is_file():
                tree.leave_out("not regular files", name)
            else:
                tree.add(ImageFile(name, path))
    if tree.images:
        for archive in archives:
            tree.leave_out(ARCHIVES, archive.name)
    else:
        for archive in archives:
            for member, name in _list_archive(archive.path):
                prefix = "" if len(archives) == 1 else f"{archive.name[:-4]}/"
                tree.add(ImageFile(prefix + name, archive.path, member))
    for files in (tree.images, tree.tables):
        files.sort(key=lambda file: file.name)
    return tree


def _walk(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Yields the name and path of every file; of folders, only those in `JUNK_FOLDERS` and links to a folder above them."""
    for path in sorted(folder.iterdir()):
        name, real = prefix + path.name, os.path.realpath(path)
        if path.is_dir() and path.name.lower() not in JUNK_FOLDERS and real not in above:
            yield from _walk(path, f"{name}/", (*above, real))
        else:
            yield name, path


@functools.lru_cache(maxsize=8)
def _open_archive(path: Path, process_id: int) -> zipfile.ZipFile:
    """Opens an archive once in each process: those of a forked process would share one position in the file."""
    return zipfile.ZipFile(path)


def _list_archive(path: Path) -> list[tuple[str, str]]:
    """The members of an archive and their names, without a single folder around them that is called like the archive."""
    try:
        members = [member for member in _open_archive(path, os.getpid()).infolist() if not member.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"the archive '{path}' cannot be read: {error}") from error
    if any(member.flag_bits & 1 for member in members):
        raise ValueError(f"the archive '{path}' needs a password: unpack it")
    names = [(member.filename, member.filename.replace("\\", "/").strip("/")) for member in members]
    prefix = f"{path.name[:-4]}/"
    if all(name.startswith((prefix, "__MACOSX/")) for _, name in names):
        return [(member, name.removeprefix(prefix)) for member, name in names]
    return names
