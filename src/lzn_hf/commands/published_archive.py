# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Checks of a checkpoint file before anything reads it: an intact archive of `torch.save`, whose contents are as large as they say.

`torch.load` neither compares checksums nor limits what it unpacks.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checks_lzn import printable


# A larger directory or pickle would take minutes to read. The largest of a published model have 0.4 MiB.
MAX_INDEX_BYTES = 2 * 2**20
# Tuples within tuples. Python overflows the stack of the process, which ends it, in the hash of 150,000.
MAX_DEPTH = 1000
PICKLE = "/data.pkl"
AGAIN = "Download or copy it again."
LIMIT = f"More than {MAX_INDEX_BYTES:,} are not read; those of the trainer have a quarter of it."


def some(names: Collection) -> str:
    """Returns the first five names, and how many more there are."""
    first = [printable(name) for name, _ in zip(names, range(5), strict=False)]
    return ", ".join(first or ["nothing"]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def check_archive(path: Path) -> None:
    """Raises a `ValueError` for a file that is no zip archive of `torch.save`, or one that is damaged or claims more than it holds."""
    size = path.stat().st_size
    found = f"{printable(path)} ({size:,} bytes)"
    with path.open("rb") as file:
        start = file.read(8)
    with _naming_damage(found):
        is_archive = start[:2] == b"PK" and zipfile.is_zipfile(path)
    if not is_archive:
        if start[:2] == b"PK":
            raise ValueError(f"the checkpoint {found} is truncated: its end is missing. {AGAIN}")
        raise ValueError(
            f"{found} is not a checkpoint: it begins with {start!r}, and not as the zip archives of torch.save do. Name "
            "the .pt file that the trainer has written."
        )
    if (directory := _directory_size(path)) > MAX_INDEX_BYTES:
        raise ValueError(f"{found} is refused: the directory of the archive has {directory:,} bytes. {LIMIT}")
    with _naming_damage(found), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    _check_members(members, size, found)
    with _naming_damage(found), zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:  # reads all and compares checksums
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {damaged!r}")
        depth = max(_depth(archive.read(member)) for member in members if member.filename.endswith(PICKLE))
    if depth > MAX_DEPTH:
        raise ValueError(f"{found} is refused: it nests tuples {depth:,} deep. More than {MAX_DEPTH:,} are not read.")


@contextmanager
def _naming_damage(found: str) -> Iterator[None]:
    """Makes one error of the many that damaged files raise: BadZipFile, EOFError, struct.error, UnicodeDecodeError, IndexError, ..."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"the checkpoint {found} is damaged: {printable(repr(error))}. {AGAIN}") from error


def _depth(pickled: bytes) -> int:
    """Returns how deep tuples are nested in what a pickle makes, without making it."""
    deepest = 0
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        before, after = opcode.stack_before, opcode.stack_after
        if opcode.name == "MARK":
            marks.append(len(stack))
        elif opcode.name.endswith("PUT"):
            memo[argument] = stack[-1]
        elif opcode.name.endswith("GET"):
            stack.append(memo[argument])
        else:
            start = len(stack) - len(before)
            if pickletools.markobject in before:
                start = marks.pop() - before.index(pickletools.markobject)
            taken, stack[start:] = stack[start:], []
            # Lists, dicts and sets are looked into by nothing that goes deeper.
            goes_deeper = opcode.name.startswith("TUPLE") or opcode.name in ("NEWOBJ", "REDUCE", "BINPERSID")
            depth = 1 + max(taken, default=0) if goes_deeper else 0
            deepest = max(deepest, depth)
            stack += [depth] * len(after)
    return deepest


def _directory_size(path: Path) -> int:
    """Returns the size of the directory of a zip archive by its end record: reading a large directory takes minutes."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 2**17, 0))
        tail = file.read()
    # The 64-bit record comes before the other one, if there is any.
    end, end64 = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    sizes = [struct.unpack_from("<L", tail, end + 12)[0]] if end >= 0 else []
    sizes += [struct.unpack_from("<Q", tail, end64 + 40)[0]] if 0 <= end64 <= len(tail) - 48 else []
    sizes = [size for size in sizes if size != 2**32 - 1]
    return max(sizes, default=0)


def _check_members(members: list[zipfile.ZipInfo], file_size: int, found: str) -> None:
    pickles = [member for member in members if member.filename.endswith(PICKLE)]
    if not pickles:
        raise ValueError(
            f"{found} is a zip archive, but not one of torch.save: it holds {some([m.filename for m in members])}. Name "
            "the .pt file that the trainer has written."
        )
    if compressed := [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]:
        raise ValueError(
            f"{found} is refused: {some(compressed)} in it are compressed, as torch.save does not do, so that nothing limits what they "
            "unpack to. If you trust it, load it with torch.load and save it again."
        )
    if (size := sum(member.file_size for member in members)) > file_size:
        raise ValueError(f"{found} is refused: what it holds claims to have {size:,} bytes.")
    if (size := max(member.file_size for member in pickles)) > MAX_INDEX_BYTES:
        raise ValueError(f"{found} is refused: the list of its tensors (data.pkl) has {size:,} bytes. {LIMIT}")
