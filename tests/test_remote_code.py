# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The model's files go along with the weights, and `trust_remote_code=True` loads them where the package is not imported."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from helpers.pipelines import make_pipeline
from helpers.texts import make_text_pipeline

import lzn_hf
from lzn_hf.evaluation.sharing import export_folder


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

LOAD_WITH_TEXTS = """
import sys
import torch
from transformers import AutoModelForZeroShotImageClassification, AutoProcessor, AutoTokenizer

processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(processor).__name__ == "LZNProcessor", type(processor)
assert AutoTokenizer.from_pretrained(sys.argv[1]).get_vocab() == processor.tokenizer.get_vocab()
model = AutoModelForZeroShotImageClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
images = (torch.load(sys.argv[2], weights_only=True) + 1) / 2
inputs = processor(images=images, text=["a boot", "a big bag"], padding=True, return_tensors="pt")
assert "lzn_hf" not in sys.modules
torch.save(model(**inputs).logits_per_image, sys.argv[3])
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


def test_a_shared_folder_has_the_code_for_texts(tmp_path):
    pipe, images = make_text_pipeline(prediction_time=0.3), torch.rand(3, 1, 8, 8) * 2 - 1
    pipe.save_pretrained(tmp_path / "plain")
    export_folder(tmp_path / "plain", tmp_path / "with_code")
    torch.save(images, tmp_path / "images.pt")
    env = {**os.environ, "PYTHONPATH": str(Path(lzn_hf.__file__).parents[1])}
    arguments = [str(tmp_path / name) for name in ("with_code", "images.pt", "answers.pt")]
    command = [sys.executable, "-c", LOAD_WITH_TEXTS, *arguments]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    with torch.no_grad():
        texts = pipe.tokenizer(["a boot", "a big bag"], padding=True, return_tensors="pt")
        anchors = pipe.model.get_image_anchors(images), pipe.model.get_text_anchors(**texts)
        expected = pipe.model.compare_images(*anchors)
    answers = torch.load(tmp_path / "answers.pt", weights_only=True)
    torch.testing.assert_close(answers, expected, rtol=1e-3, atol=1e-3)
    # What its card says, too, of two texts of its own.
    card = (tmp_path / "with_code" / "README.md").read_text(encoding="utf-8")
    assert 'tokenizer(["a photo of a cat", "a photo of a dog"]' in card
    (snippet,) = re.findall(r"## Without lzn_hf\n.*?```py\n(.*?)```", card, re.DOTALL)
    check = "import sys\nassert 'lzn_hf' not in sys.modules and probabilities.shape == (4, 2) == (len(images), len(tokens.input_ids))"
    run = subprocess.run([sys.executable, "-c", f"{snippet}\n{check}"], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
