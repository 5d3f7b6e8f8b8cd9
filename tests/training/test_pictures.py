# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The pictures of a final folder: what they show, and that none of them can cost the model."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training import forget_accelerators, tiny_model, toy_images, training_setup
from PIL import Image

from lzn_hf import LZNModel
from lzn_hf.data.batches import to_pixel_values
from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.final_folder import save_final_folder
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.pictures import draw_pictures
from lzn_hf.visualization.figures import draw_figure
from lzn_hf.visualization.runs import plot_metrics, read_metrics


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    forget_accelerators()
    yield
    forget_accelerators()


def trained(output_dir: Path, labels=("a", "b", "c"), validation=None) -> TrainingLoop:
    def compute_loss(model, batch, generator):
        pixel_values = to_pixel_values(batch["pixel_values"])
        return model(pixel_values, labels=batch["labels"], generator=generator).loss, {}

    torch.manual_seed(0)
    run = RunArguments(output_dir=str(output_dir), total_batch_size=8, max_train_steps=3, logging_steps=1)
    images = toy_images(18, len(labels))
    setup = training_setup(tiny_model(labels), images, run, validation=validation)
    loop = TrainingLoop(setup, dict.fromkeys(("encoder", "decoder", "label_anchors"), 1e-3), compute_loss)
    loop.fit()
    return loop


def test_the_curves_are_those_of_the_whole_file(tmp_path):
    save_final_folder(trained(tmp_path), evaluate=lambda: {"validation_score": 0.25}, num_reference_anchors=5)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 3] and lines[-1] == {"step": 3, "validation_score": 0.25}
    expected = draw_figure(plot_metrics({"Training on toys": lines}))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "curves.png")), np.asarray(expected))


@pytest.mark.parametrize("labels", [("a",), ("a", "b"), ("a", "b", "c")])
def test_there_is_a_map_of_two_zones_or_more(tmp_path, labels):
    save_final_folder(trained(tmp_path, labels), evaluate=dict, num_reference_anchors=5)
    assert (tmp_path / "zones.png").exists() == (len(labels) > 1)


def test_the_map_shows_images_that_were_held_out_if_there_are_any(tmp_path):
    loop = trained(tmp_path)
    data, pictures = loop.setup.data, []
    for validation in (toy_images(31), toy_images(30), None):
        loop.setup.data = replace(data, validation=validation)
        with loop.averaged_model() as model:
            model.set_reference_anchors(loop.setup.encode_train_anchors(5))
            for _ in range(2):
                assert draw_pictures(loop.setup, tmp_path, {}, last_line={"step": 3}) == ["curves.png", "zones.png"]
                pictures.append((tmp_path / "zones.png").read_bytes())
    assert pictures[0::2] == pictures[1::2]  # drawn by the seed
    assert len(set(pictures)) == 3
    loop.close()


def test_a_picture_that_fails_is_a_warning_and_the_model_is_there(tmp_path, caplog):
    def draw(path: Path) -> None:
        path.write_text("a half")
        raise RuntimeError("no colours left")

    loop = trained(tmp_path)
    (tmp_path / "samples.png").write_text("of an earlier run")
    save_final_folder(loop, evaluate=dict, num_reference_anchors=5, draw=draw)
    assert "samples.png was not drawn: RuntimeError: no colours left. The model is saved without it." in caplog.text
    assert LZNModel.from_pretrained(tmp_path).reference_anchors is not None
    assert not (tmp_path / "samples.png").exists() and (tmp_path / "zones.png").exists()
    card = (tmp_path / "README.md").read_text()
    assert "samples.png" not in card and "![Latent zones](zones.png)" in card


class WithoutMatplotlib:
    """Finds modules as Python does where matplotlib is not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_without_matplotlib_the_warning_says_what_to_install(tmp_path, caplog, monkeypatch):
    loop = trained(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [WithoutMatplotlib(), *sys.meta_path])
    save_final_folder(loop, evaluate=dict, num_reference_anchors=5)
    for name in ("curves.png", "zones.png"):
        assert f"{name} was not drawn: ImportError: this picture needs matplotlib" in caplog.text
        assert not (tmp_path / name).exists()
    assert 'pip install "lzn_hf[train]"' in caplog.text
    assert (tmp_path / "model.safetensors").exists()


def test_a_full_disk_is_an_error_for_which_the_model_finds_another_place(tmp_path):
    def draw(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    loop = trained(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        draw_pictures(loop.setup, tmp_path, {"samples.png": draw}, last_line={"step": 3})
    loop.close()
