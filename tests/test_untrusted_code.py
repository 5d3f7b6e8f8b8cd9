# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Nothing of a folder is unpickled, imported or run, unless the caller says `trust_remote_code=True`."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from helpers.pipelines import make_pipeline
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

from lzn_hf import LZNForImageClassification, LZNImageProcessor, LZNModel, LZNPipeline


WAYS_IN = [LZNPipeline, LZNModel, LZNForImageClassification, AutoModel, AutoModelForImageClassification]


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture
def folder(tmp_path) -> Path:
    make_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def marker(tmp_path) -> Path:
    """A file that any code of the folder makes."""
    return tmp_path / "code_has_run"


def change(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("way_in", WAYS_IN)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickles_are_not_opened(folder, marker, way_in, name):
    (folder / "model.safetensors").unlink()
    if name.endswith(".bin"):
        torch.save({"encoder.conv_in.weight": Bomb(marker)}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(OSError, match=r"model\.safetensors"):
        way_in.from_pretrained(folder)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()  # the bomb is one


@pytest.mark.parametrize("way_in", WAYS_IN[1:])
def test_nobody_may_ask_for_pickles(folder, way_in):
    with pytest.raises(ValueError, match="`use_safetensors` must be one of None, True, got False"):
        way_in.from_pretrained(folder, use_safetensors=False)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "pytorch_model.bin", 5])
def test_shards_lie_in_the_folder(folder, shard):
    shutil.copy(folder / "model.safetensors", folder.parent)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"encoder.conv_in.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for way_in in WAYS_IN:
        with pytest.raises(ValueError, match=r"index\.json: `weight_map` must map tensors to"):
            way_in.from_pretrained(folder)


def test_code_beside_the_files_is_not_run(folder, marker):
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
    classes = {"AutoConfig": "LZNConfig", "AutoModel": "LZNModel", "AutoImageProcessor": "LZNImageProcessor"}
    auto_map = {auto: f"evil_module.{name}" for auto, name in classes.items()}
    for name in ("evil_module", "pipeline_lzn", "LZNPipeline", "model", "scheduler", "image_processor"):
        (folder / f"{name}.py").write_text(code)
    for name in ("config.json", "preprocessor_config.json"):
        change(folder / name, auto_map=auto_map)
    for way_in in (*WAYS_IN, LZNImageProcessor, AutoConfig, AutoImageProcessor):
        way_in.from_pretrained(folder)
    pipeline("image-classification", model=str(folder))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"model": ["evil_module", "LZNModel"]}, "model"),
        ({"scheduler": ["evil_module", "UniPCMultistepScheduler"]}, "scheduler"),
        ({"scheduler": ["diffusers", "DDIMScheduler"]}, "scheduler"),
        ({"image_processor": ["os", "system"]}, "image_processor"),
        ({"image_processor": [None, None]}, "image_processor"),
        ({"safety_checker": ["evil_module", "Anything"]}, "safety_checker"),
        ({"_class_name": ["evil_module", "LZNPipeline"]}, "_class_name"),
    ],
)
def test_an_index_imports_no_other_module(folder, marker, monkeypatch, fields, name):
    (folder / "evil_module.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    monkeypatch.syspath_prepend(folder)
    change(folder / "model_index.json", **fields)
    with pytest.raises(ValueError, match=rf"model_index\.json: `{name}`"):
        LZNPipeline.from_pretrained(folder)
    assert not marker.exists() and "evil_module" not in sys.modules


@pytest.mark.parametrize("field", ["attn_implementation", "experts_implementation", "configuration_files"])
def test_a_config_names_no_code_of_the_hub(folder, field):
    change(folder / "config.json", **{field: "someone/kernel"})
    for way_in in WAYS_IN[:3]:
        with pytest.raises(ValueError, match=f"`{field}` must not be in the file of a configuration"):
            way_in.from_pretrained(folder)
