# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Files and tables of results."""

from __future__ import annotations

import json

from lzn_hf.evaluation.results import markdown_table, write_json


def test_json_is_indented_and_ends_with_a_newline(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1.5, None], "a": 2})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"b": [1.5, None], "a": 2}
    assert text.startswith('{\n  "b"') and text.endswith("}\n")  # in the given order


def test_columns_are_aligned_numbers_on_the_right():
    table = markdown_table(["name", "n", "by"], [["a long name", 7, "euler"], ["b", -12.25, "-"]])
    assert table.splitlines() == [
        "| name        |      n | by    |",
        "| ----------- | -----: | ----- |",
        "| a long name |      7 | euler |",
        "| b           | -12.25 | -     |",
    ]
