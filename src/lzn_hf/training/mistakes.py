# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Which errors are mistakes of whoever called a command, and what is said about them in one line. It imports no large library."""

from __future__ import annotations

import os
import traceback

from huggingface_hub.errors import StrictDataclassError


# Packages whose `ValueError`s are about what the user asked for. One raised in another package (torch, numpy) is a bug.
ABOUT_ARGUMENTS = {"accelerate", "datasets", "diffusers", "huggingface_hub", "lzn_cli", "lzn_hf", "transformers"}


class UsageError(ValueError):
    """A command line that cannot be read: an unknown flag, a value that is missing or of another type."""


def is_mistake(error: BaseException, script: str = "") -> bool:
    """Returns whether an error is an `OSError`, or a `ValueError` of a library that checks arguments, of this package or of a script.

    Args:
        error (`BaseException`): what was raised.
        script (`str`, *optional*): the file of a script; those in its folder count as well.
    """
    if not isinstance(error, ValueError):
        return isinstance(error, (OSError, StrictDataclassError))
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    in_folder = os.path.dirname(frame.f_code.co_filename) == os.path.dirname(script)
    return package in ABOUT_ARGUMENTS or (bool(script) and in_folder)


def one_line(error: BaseException) -> str:
    """Returns the message of an error without line breaks."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


__all__ = ["UsageError", "is_mistake", "one_line"]
