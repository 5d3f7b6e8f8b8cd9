# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What several test files share."""

from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
GOLDEN_DIR = ROOT / "tests" / "golden"
