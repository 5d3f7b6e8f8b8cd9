# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Results as files and tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_json(path: Path, values: Any) -> None:
    """Writes indented JSON that ends with a newline."""
    path.write_text(json.dumps(values, indent=2, sort_keys=False) + "\n")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with aligned columns: numbers on the right, text on the left."""
    cells = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(header, *cells, strict=True))
    widths = [max(3, *map(len, column)) for column in columns]
    right = [all(cell[:1] in "-0123456789" for cell in column[1:]) for column in columns]
    lines = [
        [
            cell.rjust(width) if on_right else cell.ljust(width)
            for cell, width, on_right in zip(row, widths, right, strict=True)
        ]
        for row in [list(header), *cells]
    ]
    lines.insert(
        1, ["-" * (width - 1) + (":" if on_right else "-") for width, on_right in zip(widths, right, strict=True)]
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


__all__ = ["markdown_table", "write_json"]
