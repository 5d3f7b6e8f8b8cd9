# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What property tests of hostile input share: settings that draw the same in every run, and the outcome of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from torch import Tensor


FAST = settings(
    max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def outcome(call: Callable[[], Any], argument: str) -> str:
    """Returns "right" for finite results, else the first words of a `ValueError` that names the argument; anything else fails."""
    try:
        results = call()
    except ValueError as error:
        message = str(error)
        assert argument in message, message
        assert len(message) < 2000 and all(c.isprintable() or c == "\n" for c in message), message
        return "refused"
    for result in results if isinstance(results, (list, tuple)) else [results]:
        assert isinstance(result, Tensor) and result.numel() and result.isfinite().all()
    return "right"
