# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What `lzn_hf.visualization` exports, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from lzn_hf import visualization
from lzn_hf.visualization.figures import load_library


def test_every_name_is_there_and_is_listed():
    assert list(visualization._MODULES) == visualization.__all__ == sorted(visualization.__all__)
    assert set(visualization.__all__) <= set(dir(visualization))
    for name in visualization.__all__:
        assert getattr(visualization, name).__module__.startswith("lzn_hf.visualization.")
    with pytest.raises(AttributeError, match="has no attribute 'plot_nothing'"):
        visualization.plot_nothing  # noqa: B018


def test_plots_are_figures():
    for name in visualization.__all__:
        if name.startswith("plot_"):
            assert getattr(visualization, name).__annotations__["return"] == Figure.__name__


def test_importing_a_function_imports_no_library_for_drawing():
    code = (
        "import sys\n"
        "from lzn_hf.visualization import plot_zones, plot_curves, plot_embeddings, image_grid\n"
        "print([name for name in ('matplotlib', 'sklearn') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_library_that_is_missing_is_named_with_its_extra():
    with pytest.raises(ImportError, match=r'this picture needs no_such_library, .* pip install "lzn_hf\[train\]"'):
        load_library("no_such_library.part", "train")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'matplotlib.no_such_part'"):
        load_library("matplotlib.no_such_part", "train")  # installed, but of another version
