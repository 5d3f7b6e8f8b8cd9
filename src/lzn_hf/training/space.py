# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Room on the disk of a run: estimated at the start, made where older checkpoints stand, and missed with a message that says how much."""

from __future__ import annotations

import errno
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from safetensors import SafetensorError


logger = logging.getLogger(__name__)

# A full disk, a spent quota, and a file beyond the limit of the process or the file system.
NO_SPACE = {errno.ENOSPC, errno.EFBIG} | ({errno.EDQUOT} if hasattr(errno, "EDQUOT") else set())
# What writers raise: safetensors an error of its own with the number in its text, torch.save a RuntimeError raised while handling that of
# the file.
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)")
# Copies of the weights in a checkpoint: raw and averaged ones to train on, those of the model folder, and two moments of Adam.
COPIES_IN_CHECKPOINT = 5

T = TypeVar("T")


class NoSpaceError(OSError):
    """A file does not fit on its device. The message says how much is needed and free, and which checkpoint is good."""


def is_out_of_space(error: BaseException | None) -> bool:
    """Returns whether an error of a writer, or one that it came from, says that the device is full."""
    while error is not None:
        match = NUMBER_IN_TEXT.search(str(error)) if isinstance(error, SafetensorError) else None
        number = int(match[1]) if match else getattr(error, "errno", None)
        if number in NO_SPACE:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def full_device_as_os_error() -> Iterator[None]:
    """Turns whatever a writer raises on a full device into an `OSError` with its number, which one process can send to another."""
    try:
        yield
    except WRITE_ERRORS as error:
        if not is_out_of_space(error):
            raise
        raise OSError(errno.ENOSPC, str(error)) from error


def no_space(path: Path, needed: int | None, last_good: Path | None) -> NoSpaceError:
    """Returns the error for a file or folder that does not fit.

    Args:
        path (`Path`): what was to be written.
        needed (`int`, *optional*): its bytes, if known.
        last_good (`Path`, *optional*): the last checkpoint of the run.
    """
    parent = next(one for one in (path, *path.absolute().parents) if one.exists())
    amounts = ([] if needed is None else [f"{size_text(needed)} needed"]) + [f"{size_text(free_space(parent))} free"]
    good = "there is no checkpoint yet" if last_good is None else f"the last good checkpoint is {last_good}"
    return NoSpaceError(f"no space on {device_of(parent)} for {path}: {', '.join(amounts)}; {good}")


def free_space(folder: Path) -> int:
    """Returns the bytes that may be written to the device of a folder."""
    return shutil.disk_usage(folder).free


def device_of(folder: Path) -> str:
    """Returns the name and the mount point of the device of an existing folder."""
    folder = folder.resolve()
    inside = [one for one in psutil.disk_partitions(all=True) if folder.is_relative_to(one.mountpoint)]
    if not inside:
        return str(folder.anchor)
    # The last of those mounted at the deepest point hides the others.
    device = max(enumerate(inside), key=lambda pair: (len(pair[1].mountpoint), pair[0]))[1]
    return f"{device.device} ({device.mountpoint})"


def size_text(size: float) -> str:
    """Returns bytes for readers, as `12 bytes` or `3.4 MB`."""
    if size < 1000:
        return f"{size:.0f} bytes"
    unit = next((unit for unit in ("kB", "MB", "GB") if (size := size / 1000) < 1000), None)
    return f"{size:.1f} {unit}" if unit else f"{size / 1000:.1f} TB"


def tensor_bytes(values: Any) -> int:
    """Returns the bytes of all tensors in nested dictionaries, lists and tuples."""
    if isinstance(values, torch.Tensor):
        return values.numel() * values.element_size()
    if isinstance(values, Mapping):
        return sum(map(tensor_bytes, values.values()))
    return sum(map(tensor_bytes, values)) if isinstance(values, list | tuple) else 0


def write_with_room(
    write: Callable[[], T],
    path: Path,
    needed: int,
    older: Sequence[Path],
    delete: Callable[[Path], object] = shutil.rmtree,
) -> T:
    """Writes a file or folder, if need be in the place of the run's older checkpoints. The last of them stays.

    Args:
        write (`Callable`): writes it. If that fails, nothing of it may remain.
        path (`Path`): what is written.
        needed (`int`): bytes that it takes, for the message.
        older (`Sequence[Path]`): the checkpoints of the run, oldest first.
        delete (`Callable`, *optional*): deletes one of them.

    Returns:
        What `write` returns.

    Raises:
        NoSpaceError: if it does not fit beside the last checkpoint.
    """
    older = list(older)
    while True:
        try:
            return write()
        except WRITE_ERRORS as error:
            if not is_out_of_space(error):
                raise
            full = no_space(path, needed, older[-1] if older else None)
            if len(older) < 2:
                raise full from error
        logger.warning(f"{full}. Deleting {older[0]} to make room.")
        delete(older.pop(0))


def check_space(output_dir: Path, weights: int, checkpoints: int, kept: int) -> None:
    """Estimates before the first step whether a run fits on its device.

    Args:
        output_dir (`Path`): folder of the run, which exists.
        weights (`int`): bytes of the weights.
        checkpoints (`int`): number of checkpoints that the run writes at least.
        kept (`int`): number of them that lie there at the same time, with one that is being written.

    Raises:
        NoSpaceError: if not even one checkpoint and the final model fit.
    """
    checkpoint = COPIES_IN_CHECKPOINT * weights
    free, at_once = free_space(output_dir), min(checkpoints, kept)
    if free < weights + min(checkpoints, 1) * checkpoint:
        raise NoSpaceError(
            f"no space on {device_of(output_dir)} for {output_dir}: {size_text(weights + min(checkpoints, 1) * checkpoint)} needed "
            f"(about {size_text(checkpoint)} for a checkpoint and {size_text(weights)} for the final model), {size_text(free)} free. "
            "Nothing was trained."
        )
    if free < weights + at_once * checkpoint:
        logger.warning(
            f"{output_dir} may become too large for {device_of(output_dir)}: about {size_text(weights + at_once * checkpoint)} needed for "
            f"{at_once} checkpoints and the final model, {size_text(free)} free. If it does, older checkpoints are deleted."
        )
