# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A real disk that is small: a tmpfs that only one child process sees, in a mount namespace of its own. It takes no rights of root."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from .training import forget_accelerators


CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 32, 16384, 1 << 18
NOT_PERMITTED, FAILED = 77, 1


def mount(folder: Path, flags: int = 0, options: str = "", source: str = "tmpfs", kind: str | None = "tmpfs") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [word.encode() if word is not None else None for word in (source, str(folder), kind)]
    if libc.mount(*words, ctypes.c_ulong(flags), options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))


def enter_namespace() -> None:
    """What this process mounts from now on, no other process sees."""
    uid, gid = os.geteuid(), os.getegid()
    flags = CLONE_NEWNS | (CLONE_NEWUSER if uid else 0)
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        raise PermissionError(ctypes.get_errno(), "unshare")
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    mount(Path("/"), MS_REC | MS_PRIVATE, source="none", kind=None)


def on_small_disk(function: Callable[[Path], None], folder: Path, size: int, read_only: bool = False) -> None:
    """Calls a function with a folder on a disk of `size` bytes, in a child process. A failure in it is one of the test."""

    def child() -> None:
        try:
            folder.mkdir()
            enter_namespace()
            mount(folder, options=f"size={size}")
            if read_only:
                mount(folder, MS_REMOUNT | MS_RDONLY)
        except OSError as error:
            print(f"no small disk: {error}", file=sys.stderr)
            os._exit(NOT_PERMITTED)
        try:
            function(folder)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(FAILED)
        os._exit(0)

    if sys.platform != "linux":
        pytest.skip("mount namespaces are of Linux")
    forget_accelerators()
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(240)
    if process.exitcode is None:
        process.kill()
    if process.exitcode == NOT_PERMITTED:
        pytest.skip("this system permits no mounts in a namespace")
    assert process.exitcode == 0, "see what the child process printed"


def fill(folder: Path, leave: int) -> Path:
    """Fills the disk of a folder until so many bytes are free. The file that does it."""
    ballast = folder / "ballast"
    stats = os.statvfs(folder)
    with ballast.open("wb") as file:
        file.write(bytes(max(0, stats.f_bavail * stats.f_frsize - leave)))
    return ballast
