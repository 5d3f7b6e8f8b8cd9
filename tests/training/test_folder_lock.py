# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""One run at a time in a folder, and a dead run holds nothing."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from lzn_hf.training.folder_lock import LOCK_FILE, FolderLock, check_unlocked


def hold(folder: Path) -> None:
    lock = FolderLock(folder)  # it is released with its last reference
    lock.acquire()
    (folder / "held").touch()
    time.sleep(60)


def test_the_second_run_is_refused_until_the_first_dies(tmp_path):
    folder = tmp_path / "new" / "run"
    check_unlocked(folder)
    assert not folder.exists()
    process = multiprocessing.get_context("fork").Process(target=hold, args=(folder,))
    process.start()
    while not (folder / "held").exists():
        time.sleep(0.01)
    second = FolderLock(folder)
    for refused in (second.acquire, lambda: check_unlocked(folder)):
        with pytest.raises(ValueError, match="`output_dir` .*run is in use by another run"):
            refused()
    process.kill()
    process.join()
    assert (folder / LOCK_FILE).exists()
    check_unlocked(folder)
    second.acquire()
    with pytest.raises(ValueError, match="in use by another run"):
        check_unlocked(folder)
    second.release()
    second.release()  # twice does no harm
    assert [path.name for path in folder.iterdir()] == ["held"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="`output_dir` .* cannot be written: Permission denied"):
        FolderLock(tmp_path / "run").acquire()
