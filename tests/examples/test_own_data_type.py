# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""examples/own_data_type.py and its page: an encoder of one's own is trained, saved and loaded with the model."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import own_data_type
import pytest
import torch
from helpers import ROOT
from transformers import AutoModel


def test_a_short_run_leaves_a_folder_that_opens(tmp_path, capsys):
    folder = own_data_type.main(f"--max_train_steps 2 --batch_size 16 --output_dir {tmp_path / 'model'}".split())
    results = json.loads((folder / "row_sums.json").read_text())
    assert set(results) == {"requested", "another", "retrieved", "among_5"} and all(
        map(float.__ge__, results.values(), [0.0] * 4)
    )
    assert "Row sums of generated images" in capsys.readouterr().out
    model = AutoModel.from_pretrained(folder)
    assert isinstance(model.type_encoders["row_sums"].backbone, own_data_type.RowSumsModel)
    values = torch.zeros(3, 8)
    latents = model.get_type_latents("row_sums", noise=torch.zeros(3, 64), values=values)
    alone = model.get_type_latents("row_sums", noise=torch.zeros(1, 64), values=values[:1])
    torch.testing.assert_close(latents[:1], alone, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="this model has no data type 'sounds': it has 'row_sums'"):
        model.get_type_anchors("sounds", values=values)
    # Where nobody imported the encoder, the error says what is missing.
    code = f"from lzn_hf import LZNModel; LZNModel.from_pretrained({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "registered by `AutoConfig.register`, got 'row_sums'" in done.stderr


def test_row_sums_are_of_rows():
    images = torch.zeros(1, 1, 8, 8)
    images[0, 0, 2] = 1
    assert own_data_type.row_sums(images).tolist() == [[0, 0, 1, 0, 0, 0, 0, 0]]


def test_the_page_runs():
    page = (ROOT / "docs" / "your_own_data_type.md").read_text()
    blocks = re.findall(r"```py\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 3
    scope: dict = {"__name__": "__main__"}
    exec("\n".join(blocks), scope)  # no other input than our own page
    assert scope["latents"].shape == (2, 64) and scope["log_probs"].shape == (16, 16)
