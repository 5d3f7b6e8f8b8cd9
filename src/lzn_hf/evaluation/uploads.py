# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""To the Hub: whether one may write to a repository, and the upload of a folder that [`export_folder`] wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import auth_check, constants, create_repo, list_repo_files, upload_folder
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from ..pipeline_folder_lzn import WEIGHTS
from .sharing import export_folder


def prepare_repository(repo_id: str, private: bool | None = None) -> str:
    """Creates a repository unless it exists, and checks that one may write to it.

    Args:
        repo_id (`str`): as `user/name`, or a name in one's own namespace.
        private (`bool`, *optional*): whether a new repository is private. `None`: as the Hub or the organisation has it.

    Returns:
        `str`: its id, as `user/name`.

    Raises:
        ValueError: for an id that the Hub cannot have.
        PermissionError: without a token, or with one that may not write there.
        ConnectionError: if the Hub cannot be reached.
    """
    with _hub_errors(repo_id):
        hub_id = create_repo(repo_id, exist_ok=True, private=private).repo_id
        try:
            auth_check(
                hub_id, write=True
            )  # of a repository that exists, creation would only have asked whether one may read
        except HfHubHTTPError as error:
            if error.response.status_code != 404:  # not every mirror of the Hub can answer
                raise
    return hub_id


def upload(folder: str | os.PathLike, repo_id: str, commit_message: str = "Upload the model") -> str:
    """Uploads all files of a folder. Whole or sharded weights of an earlier upload that they replace are deleted.

    Args:
        folder (`str` or `os.PathLike`): the folder.
        repo_id (`str`): a repository that exists, see [`prepare_repository`].
        commit_message (`str`, *optional*): the message.

    Returns:
        `str`: the address of the commit.

    Raises:
        PermissionError, ConnectionError: as [`prepare_repository`].
    """
    with _hub_errors(repo_id):
        matches = ((name, WEIGHTS.fullmatch(name)) for name in list_repo_files(repo_id))
        stale = [name for name, match in matches if match and not (match[1] or match[2])]
        commit = upload_folder(
            repo_id=repo_id,
            folder_path=Path(folder),
            commit_message=commit_message,
            delete_patterns=[name for name in stale if not (Path(folder) / name).exists()] or None,
        )
    return commit.commit_url


def export_and_upload(folder: str | os.PathLike, repo_id: str, **options: Any) -> str:
    """Uploads what [`export_folder`] makes of a saved model, which stays as it is.

    Args:
        folder (`str` or `os.PathLike`): the saved model.
        repo_id (`str`): a repository that exists.
        options: see [`export_folder`].

    Returns:
        `str`: the address of the commit.
    """
    with TemporaryDirectory() as temporary:
        exported = export_folder(folder, Path(temporary) / "model", model_id=repo_id, **options)
        return upload(exported, repo_id)


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """Turns what goes wrong with the Hub into errors that say what to do."""
    try:
        yield
    except HTTPError as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in (401, 403):
            raise PermissionError(
                f"the Hub does not let you write to {repo_id!r} ({status}). Log in by `hf auth login`, or set HF_TOKEN to a token with "
                "write access."
            ) from error
        raise ConnectionError(f"{constants.ENDPOINT} failed on {repo_id!r}: {error}") from error


__all__ = ["export_and_upload", "prepare_repository", "upload"]
