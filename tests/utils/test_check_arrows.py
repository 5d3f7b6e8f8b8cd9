# Copyright 2026 The lzn_hf authors. Apache-2.0.
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import check_arrows
import pytest


RIGHT = {
    "src/lzn_hf/__init__.py": "from . import modeling\nfrom .modeling import Model\n",
    "src/lzn_hf/modeling.py": "import torch\nfrom .layers import Layer\nfrom .losses import (\n    loss,\n)\n",
    "src/lzn_hf/data/__init__.py": "from .images import load\n",
    "src/lzn_hf/data/images.py": "import datasets\nfrom ..modeling import Model\nfrom .sources import read\n",
    "src/lzn_hf/evaluation/metrics.py": "from lzn_hf import modeling\nfrom lzn_hf.data.images import load\n",
    "src/lzn_hf/training/loop.py": "from ..data.images import load\nfrom ..evaluation.metrics import score\nfrom .. import modeling\n",
    "src/lzn_hf/visualization/grids.py": "from ..modeling import Model\n",
    "src/lzn_hf/commands/lzn.py": "from ..training.loop import fit\nfrom ..visualization.grids import grid\n",
    "src/lzn_hf/train_joint.py": "from lzn_hf import modeling\nfrom lzn_hf.training.loop import fit\n",
    "src/lzn_cli/main.py": "from lzn_hf.commands.lzn import main\nfrom .images import add\n",
    "examples/train.py": "import compare\nfrom lzn_hf.training.loop import fit\n",
    "examples/compare.py": "",
    "examples/common.py": "",
    "benchmarks/common.py": "from lzn_hf import modeling\n",
    "benchmarks/sampling.py": "from common import run\n",  # its sibling, not the one of examples
    "utils/convert.py": "import common_names\nfrom lzn_hf.modeling import Model\n",
}


def make_tree(root: Path, **changes: str) -> Path:
    for name, text in {**RIGHT, **changes}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_imports_along_the_arrows_pass(tmp_path):
    assert list(check_arrows.violations(make_tree(tmp_path))) == []


@pytest.mark.parametrize(
    ("path", "statement", "reason"),
    [
        ("modeling.py", "from .data import images", "core does not import data"),
        ("modeling.py", "from .data.images import load", "core does not import data"),
        ("modeling.py", "from . import data", "core does not import data"),
        ("modeling.py", "import lzn_hf.training.loop", "core does not import training"),
        ("modeling.py", "from lzn_hf.layers import Layer", "by `from .module import name` only"),
        ("modeling.py", "from . import layers", "by `from .module import name` only"),
        ("modeling.py", "import lzn_hf", "by `from .module import name` only"),
        ("__init__.py", "from .data import images", "core does not import data"),
        ("data/images.py", "from ..evaluation.metrics import score", "data does not import evaluation"),
        ("data/images.py", "from lzn_hf.visualization.grids import grid", "data does not import visualization"),
        ("evaluation/metrics.py", "from ..training.loop import fit", "evaluation does not import training"),
        (
            "evaluation/metrics.py",
            "from ..visualization.grids import grid",
            "evaluation does not import visualization",
        ),
        ("visualization/runs.py", "from .. import training", "visualization does not import training"),
        ("training/loop.py", "from ..commands.lzn import main", "training does not import commands"),
        ("modeling.py", "from .train_joint import main", "core does not import commands"),
        ("training/loop.py", "from .. import train_joint", "training does not import commands"),
        ("training/loop.py", "from lzn_hf.train_joint import main", "training does not import commands"),
        ("commands/lzn.py", "from lzn_cli.main import app", "nothing in lzn_hf imports its command line"),
        ("visualization/grids.py", "from ..data import images", "visualization does not import data"),
        ("data/images.py", "import train", "nothing in src imports examples"),
        ("data/images.py", "from benchmarks.common import run", "nothing in src imports benchmarks"),
        ("novel/file.py", "import torch", "novel has no place in the order"),
    ],
)
@pytest.mark.parametrize("block", ["{}", "def function():\n    {}", "if TYPE_CHECKING:\n    {}"])
def test_import_against_the_arrows_is_named(tmp_path, path, statement, reason, block):
    name = f"src/lzn_hf/{path}"
    make_tree(tmp_path, **{name: f"import os\n{block.format(statement)}\n"})
    first, *others = [line for line in check_arrows.violations(tmp_path) if statement in line]
    assert not others
    assert first.startswith(f"{name}:{2 + block.count(chr(10))}: `{statement}`: ")
    assert reason in first


@pytest.mark.parametrize("folder", ["utils", "benchmarks"])
@pytest.mark.parametrize("statement", ["import train", "from compare import run", "from examples import train"])
def test_scripts_import_no_example(tmp_path, folder, statement):
    make_tree(tmp_path, **{f"{folder}/new.py": f"\n\n{statement}\n"})
    assert list(check_arrows.violations(tmp_path)) == [
        f"{folder}/new.py:3: `{statement}`: nothing in {folder} imports examples."
    ]


def test_command_fails_on_a_wrong_import_only(tmp_path):
    script = make_tree(tmp_path) / "utils" / "check_arrows.py"
    script.write_text(Path(check_arrows.__file__).read_text())
    for text, code, output in [("", 0, "Imports point one way."), ("import train\n", 1, "src/lzn_hf/modeling.py:1: ")]:
        (tmp_path / "src" / "lzn_hf" / "modeling.py").write_text(text)
        answer = subprocess.run([sys.executable, script], capture_output=True, text=True)
        assert (answer.returncode, answer.stderr) == (code, "")
        assert answer.stdout.startswith(output)
