# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""One run at a time in an output folder: a lock that the operating system releases when its process dies, however it dies."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout


LOCK_FILE = ".run.lock"


class FolderLock:
    """The lock of a run's folder, to hold from before the first write to after the last.

    Args:
        output_dir (`Path`): the folder.
    """

    def __init__(self, output_dir: Path):
        self.output_dir, self.path = output_dir, output_dir / LOCK_FILE
        self._lock = FileLock(self.path)

    def acquire(self) -> None:
        """Creates the folder and locks it.

        Raises:
            ValueError: if another run holds the lock.
            OSError: if the folder cannot be written.
        """
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"`output_dir` {self.output_dir} is in use by another run, which is still going on: name another folder, or wait for its "
                "end."
            ) from None
        except OSError as error:
            raise OSError(f"`output_dir` {self.output_dir} cannot be written: {error.strerror or error}.") from error

    def release(self) -> None:
        """Releases the lock, if it is held, and deletes its file."""
        if self._lock.is_locked:
            self.path.unlink(missing_ok=True)
            self._lock.release()


def check_unlocked(output_dir: Path) -> None:
    """Raises the `ValueError` of [`FolderLock.acquire`] if a run is going on in a folder. Leaves the folder as it is."""
    lock = FolderLock(output_dir)
    if lock.path.exists():
        lock.acquire()
        lock.release()
