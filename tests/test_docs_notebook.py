# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""docs/quick_tour.ipynb runs from its first to its last cell without a network, and is committed as it was run, with small pictures."""

from __future__ import annotations

import os
import sys

import pytest
from helpers import ROOT


nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: it comes with the extra `docs`")
NOTEBOOK = ROOT / "docs" / "quick_tour.ipynb"


def read_notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_committed_as_it_was_run():
    notebook = read_notebook()
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert NOTEBOOK.stat().st_size < 300_000
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "/tmp/" not in text and "Warning" not in text


def test_it_runs(tmp_path, monkeypatch):
    """With two steps of training in the place of 400."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: it comes with the extra `docs`")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: it comes with the extra `docs`")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), *filter(None, sys.path)]))
    monkeypatch.setenv("QUICK_TOUR_STEPS", "2")
    notebook = read_notebook()
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (grid,) = (cell for cell in notebook.cells if "image_grid(images" in cell.source)
    assert "image/png" in grid.outputs[-1].data
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "of 200 held-out digits" in printed and "torch.Size([200, 32])" in printed
