# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Files that are whole or not there: written beside their place, flushed to disk, then renamed; and checked when they are read again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..evaluation.results import write_json


MANIFEST = "checkpoint.json"  # size and checksum of every other file of a folder


def sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to disk: neither a crash of the machine nor a power cut loses them."""
    if path.is_dir() and os.name == "nt":
        return  # Windows does not open folders
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flushes the files of a flat folder, and then their names, to disk."""
    for path in folder.iterdir():
        sync(path)
    sync(folder)


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file so that after a crash at any moment it has the old content or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yields an empty hidden folder in `parent`, from which to move what is complete. Deletes it at the end, also on errors."""
    folder = parent / f".{name}.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, **facts: Any) -> None:
    """Writes size and checksum of each file of a flat folder into its [`MANIFEST`], beside other facts (JSON values)."""
    files = {path.name: {"size": path.stat().st_size, "sha256": _checksum(path)} for path in sorted(folder.iterdir())}
    write_json(folder / MANIFEST, {**facts, "files": files})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the facts of [`write_manifest`], and as `files` the size and checksum by name."""
    return json.loads((folder / MANIFEST).read_text())


def find_damage(folder: Path) -> str | None:
    """Compares a folder with its [`MANIFEST`].

    Returns:
        `str`: what is wrong with which file, or `None` if all are as they were written.
    """
    try:
        manifest = read_manifest(folder)
        expected = {name: (facts["size"], facts["sha256"]) for name, facts in manifest["files"].items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing: it lost files, or was written by a version of lzn_hf without checksums, which this one cannot resume"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{MANIFEST} does not list the files ({type(error).__name__}: {error})"
    except OSError as error:
        return f"{MANIFEST} cannot be read ({error.strerror})"
    for name, (size, checksum) in expected.items():
        try:
            found = (folder / name).stat().st_size
            if found != size:
                return f"{name} has {found:,} bytes, not the {size:,} that were written"
            if _checksum(folder / name) != checksum:
                return f"{name} has other bytes than those that were written (its checksum differs)"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()
