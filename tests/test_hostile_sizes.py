# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Numbers of a damaged or hostile folder are refused before anything is built: in a few seconds and little memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers.pipelines import make_pipeline

from lzn_hf import LZNConfig, LZNImageProcessor
from lzn_hf.configuration_lzn import MAXIMA


@pytest.mark.parametrize("name", [name for name in MAXIMA if name != "num_labels"])
def test_each_number_has_a_maximum(name):
    is_list = isinstance(getattr(LZNConfig(), name), list)
    other = {"encoder_widths": [64], "encoder_depths": [1]} if name in ("encoder_widths", "encoder_depths") else {}
    for value in (int(MAXIMA[name]) + 1, 10**9, 2**40):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            LZNConfig(**{**other, name: [value] if is_list else value})


def test_lists_have_a_length():
    with pytest.raises(ValueError, match="`encoder_depths` must be a list of at most 100 numbers, got 1000000"):
        LZNConfig(encoder_depths=[1] * 10**6)


HOSTILE = {
    "config.json": {
        "image_size": 10**9,
        "encoder_num_res_blocks": 10**9,
        "latent_dim": 2**40,
        "num_reference_anchors": 10**12,
        "decoder_channel_multipliers": [1] * 10**5,
        "id2label": {str(i): f"label {i}" for i in range(10**6)},
    },
    "preprocessor_config.json": {"size": {"height": 10**6, "width": 10**6}},
}

SCRIPT = """
import resource, sys
from lzn_hf import LZNPipeline
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, resource.getrusage(resource.RUSAGE_SELF).ru_utime
try:
    LZNPipeline.from_pretrained(sys.argv[1])
    print("no error")
except ValueError as error:
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, resource.getrusage(resource.RUSAGE_SELF).ru_utime
    print(str(error)[:300].replace(chr(10), " "))
    print((after[0] - before[0]) / 1024, after[1] - before[1])
"""


@pytest.mark.parametrize(("file", "field"), [(file, field) for file, fields in HOSTILE.items() for field in fields])
def test_a_folder_is_refused_soon_and_in_little_memory(tmp_path, file, field):
    folder = tmp_path / "model"
    make_pipeline().save_pretrained(folder)
    fields = json.loads((folder / file).read_text())
    fields[field] = HOSTILE[file][field]
    fields.pop("label2id", None)
    (folder / file).write_text(json.dumps(fields))
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, check=True, timeout=120
    )
    message, cost = run.stdout.splitlines()[-2:]
    megabytes, seconds = map(float, cost.split())
    name = {"id2label": "num_labels"}.get(field, field)
    assert f"`{name}` must be" in message
    assert megabytes < 500 and seconds < 5, (megabytes, seconds)


def test_a_processor_has_a_largest_size():
    with pytest.raises(ValueError, match="`size` must be at most 16384"):
        LZNImageProcessor(size={"height": 8, "width": 10**6})
