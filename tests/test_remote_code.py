# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The model's files go along with the weights, and `trust_remote_code=True` loads them where the package is not imported."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from helpers.pipelines import make_pipeline

import lzn_hf


SAVE = """
import sys
from lzn_hf import LZNConfig, LZNModel

LZNConfig.register_for_auto_class()
LZNModel.register_for_auto_class("AutoModel")
LZNModel.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
"""
LOAD = """
import sys
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
images = torch.load(sys.argv[2], weights_only=True)
assert "lzn_hf" not in sys.modules
torch.save({"features": model.get_image_features(images), "log_probs": model.classify_images(images)}, sys.argv[3])
"""


def test_copied_code_computes_the_same(tmp_path):
    model, images = make_pipeline().model, torch.rand(3, 1, 8, 8) * 2 - 1
    model.save_pretrained(tmp_path / "plain")
    torch.save(images, tmp_path / "images.pt")
    env = {**os.environ, "PYTHONPATH": str(Path(lzn_hf.__file__).parents[1])}
    for code, names in ((SAVE, ("plain", "with_code")), (LOAD, ("with_code", "images.pt", "answers.pt"))):
        arguments = [str(tmp_path / name) for name in names]
        run = subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    answers = torch.load(tmp_path / "answers.pt", weights_only=True)
    with torch.no_grad():
        torch.testing.assert_close(answers["features"], model.get_image_features(images))
        torch.testing.assert_close(answers["log_probs"], model.classify_images(images))
