# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Files of results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_json(path: Path, values: Any) -> None:
    """Writes indented JSON that ends with a newline."""
    path.write_text(json.dumps(values, indent=2, sort_keys=False) + "\n")
