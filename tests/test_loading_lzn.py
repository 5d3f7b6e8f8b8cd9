# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Damaged and incomplete weights are refused by every way in, with the names of tensors and folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers.models import TINY_RESNET, perturbed, tiny_config
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageClassification, pipeline

from lzn_hf import LZNForImageClassification, LZNModel, LZNPipeline


CONV = "encoder.conv_in.weight"
WAYS_IN = [AutoModel, AutoModelForImageClassification, LZNPipeline]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model = perturbed(LZNModel(tiny_config()))
    model.set_reference_anchors(torch.randn(4, 6))
    folder = tmp_path_factory.mktemp("saved")
    LZNPipeline.from_model(model).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def change(folder: Path, edit) -> None:
    """Rewrites the weights of a folder as `edit` changes them."""
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def rename(weights: dict[str, torch.Tensor], old: str, new: str) -> None:
    weights[new] = weights.pop(old)


DAMAGE = {
    "a tensor is missing": (lambda w: w.pop(CONV), rf"of '.*copy' lack {CONV}: the folder is incomplete"),
    "all are missing": (
        lambda w: (w.clear(), w.update(x=torch.zeros(1))),
        r"lack .*, \.\.\. \(\d+ tensors\) and have x",
    ),
    "one bit of a name": (
        lambda w: rename(w, CONV, CONV.replace("conv_in", "conv_io")),
        rf"lack {CONV} and have encoder.conv_io.weight, which the model has not",
    ),
    "of another part": (
        lambda w: rename(w, CONV, CONV.replace("encoder", "dncoder")),
        f"lack {CONV} and have dncoder",
    ),
    "one more": (lambda w: w.update({"decoder.more": torch.zeros(2)}), "have decoder.more, which the model has not"),
    "the label anchors": (lambda w: w.pop("label_anchors"), "lack label_anchors.weight"),
    "NaN": (
        lambda w: w[CONV].view(-1)[3:4].fill_(float("nan")),
        f"must be finite, got NaN or infinite values in {CONV}",
    ),
    "infinite": (
        lambda w: w["reference_anchors"].fill_(float("inf")),
        "infinite values in .*reference_anchors.weight",
    ),
    "integers": (lambda w: w.update({CONV: w[CONV].long()}), rf"must be floating point, got {CONV} \(I64\)"),
    "complex": (lambda w: w.update({CONV: w[CONV] + 0j}), rf"must be floating point, got {CONV} \(C64\)"),
}


@pytest.mark.parametrize("way_in", WAYS_IN)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights_are_refused(folder, damage, way_in):
    edit, message = DAMAGE[damage]
    change(folder, edit)
    prefix = "lzn\\." if way_in is AutoModelForImageClassification else ""
    with pytest.raises(ValueError, match=message.replace(f"lack {CONV}", f"lack {prefix}{CONV}").replace(
        f"in {CONV}", f"in {prefix}{CONV}").replace("lack label", f"lack {prefix}label")):  # fmt: skip
        way_in.from_pretrained(folder)


def test_the_pipelines_of_transformers_refuse_them(folder):
    change(folder, lambda weights: weights.pop(CONV))
    with pytest.raises(Exception, match=f"lack (lzn.)?{CONV}"):
        pipeline("image-classification", model=str(folder))


@pytest.mark.parametrize("keep", [0, 5, 100, 5000])
@pytest.mark.parametrize("way_in", WAYS_IN)
def test_truncated_files_are_refused(folder, keep, way_in):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(OSError, match=r"weights of .*copy are damaged|copy"):
        way_in.from_pretrained(folder)


def test_what_a_config_leaves_out_is_not_missed(folder):
    assert LZNModel.from_pretrained(folder, decoder_type=None).decoder is None
    assert LZNModel.from_pretrained(folder, num_reference_anchors=0).reference_anchors is None


def test_fresh_labels_on_purpose(folder):
    with pytest.raises(RuntimeError, match="size"):
        LZNModel.from_pretrained(folder, num_labels=5)
    fresh = LZNModel.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)
    assert fresh.label_anchors().shape == (5, 6)
    change(folder, lambda weights: weights.pop(CONV))
    with pytest.raises(ValueError, match=f"lack {CONV}"):
        LZNModel.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)


def test_models_without_labels_get_them_on_purpose(tmp_path):
    LZNModel(tiny_config(**TINY_RESNET, num_labels=0, decoder_type=None)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lack lzn.label_anchors.weight"):
        LZNForImageClassification.from_pretrained(tmp_path, num_labels=3)
    model, info = LZNForImageClassification.from_pretrained(
        tmp_path, num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert info["missing_keys"] == {"lzn.label_anchors.weight", "lzn.reference_anchors.weight"}
    assert model.lzn.label_anchors().std() > 0.3
