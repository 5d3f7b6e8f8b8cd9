# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What `import lzn_hf` does and does not import, and that both libraries find its classes in whatever order they are imported."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import diffusers
import pytest
from diffusers import DiffusionPipeline
from diffusers.pipelines import pipeline_loading_utils
from helpers.pipelines import make_pipeline

import lzn_hf
from lzn_hf import LZNPipeline
from lzn_hf.registration_lzn import DIFFUSERS_TABLES, register_with_diffusers


# Two processes: diffusers may come last, or be there but not have loaded what the package adds its classes to.
WITHOUT_DIFFUSERS = """
import lzn_hf
from lzn_hf import LZNConfig, LZNForImageClassification, LZNImageProcessor, LZNModel, LZNProcessor, latent_zones
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

parts = [
    auto.from_pretrained(sys.argv[1])
    for auto in (AutoConfig, AutoModel, AutoModelForImageClassification, AutoImageProcessor)
]
assert list(map(type, parts)) == [LZNConfig, LZNModel, LZNForImageClassification, LZNImageProcessor], parts
assert not [name for name in sys.modules if name.partition(".")[0] == "diffusers"]
"""
DIFFUSERS_FIRST = """
import diffusers
import lzn_hf

assert "diffusers.pipelines.pipeline_loading_utils" not in sys.modules
"""
OPEN = """
from diffusers import DiffusionPipeline

assert "lzn_hf.pipeline_lzn" not in sys.modules
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
assert type(pipe) is lzn_hf.LZNPipeline, type(pipe)
pipe.save_pretrained("again")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("start", [WITHOUT_DIFFUSERS, DIFFUSERS_FIRST], ids=["lzn_hf first", "diffusers first"])
def test_both_libraries_find_the_classes(folder, tmp_path, start):
    env = {**os.environ, "PYTHONPATH": str(Path(lzn_hf.__file__).parents[1])}
    command = [sys.executable, "-c", "import sys" + start + OPEN, str(folder)]
    run = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "again" / "model_index.json").read_text() == (folder / "model_index.json").read_text()


def test_the_pipeline_first(folder):
    """Here, the tests before have imported it."""
    assert type(DiffusionPipeline.from_pretrained(folder)) is LZNPipeline


def test_waits_for_the_tables_of_diffusers_once(monkeypatch):
    """Until they are imported, with the source of the module as ever."""
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, DIFFUSERS_TABLES)
        patch.setattr(sys, "meta_path", list(sys.meta_path))
        before = list(sys.meta_path)
        register_with_diffusers()
        finder, *others = sys.meta_path
        assert others == before and finder.find_spec("diffusers.pipelines.pipeline_utils", None) is None
        path = sys.modules["diffusers.pipelines"].__path__
        spec, plain = finder.find_spec(DIFFUSERS_TABLES, path), PathFinder.find_spec(DIFFUSERS_TABLES, path)
        assert sys.meta_path == [finder, *before]  # whoever looks for the module has not imported it
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert sys.meta_path == before and "lzn_hf" in module.LOADABLE_CLASSES
        assert spec.loader.get_source(DIFFUSERS_TABLES) == plain.loader.get_source(DIFFUSERS_TABLES)


def test_diffusers_is_the_module_that_it_was():
    assert pickle.loads(pickle.dumps(diffusers)) is diffusers and diffusers.LZNPipeline is LZNPipeline
    assert pipeline_loading_utils.LOADABLE_CLASSES["lzn_hf"].keys() == {
        "LZNPreTrainedModel",
        "LZNImageProcessor",
        "LZNProcessor",
    }
    with pytest.raises(AttributeError, match="has no attribute LZNPipelin$"):
        diffusers.LZNPipelin  # noqa: B018


def test_names_of_the_package():
    assert set(lzn_hf.__all__) <= set(dir(lzn_hf))
    names: dict[str, object] = {}
    exec("from lzn_hf import *", names)
    assert set(lzn_hf.__all__) <= set(names) and names["LZNPipeline"] is LZNPipeline
    with pytest.raises(AttributeError, match="module 'lzn_hf' has no attribute 'LZNPipelin'"):
        lzn_hf.LZNPipelin  # noqa: B018
