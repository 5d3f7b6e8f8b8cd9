# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Pipelines on the Hub: what is uploaded, how, and that it opens again. The Hub is one of the loopback interface."""

from __future__ import annotations

import pytest
from helpers.hub import local_hub, run_with_hub
from helpers.pipelines import make_pipeline
from helpers.texts import make_text_pipeline


SHARE = """
import sys
from lzn_hf import LZNPipeline

pipe = LZNPipeline.from_pretrained(sys.argv[1])
pipe.save_pretrained("first", True)
pipe.save_pretrained("first", push_to_hub=True)
commit = pipe.save_pretrained(
    "second", variant="half", max_shard_size="20KB", push_to_hub=True, repo_id="me/named", commit_message="Say why", private=True,
    token="hf_mine", create_pr=True,
)
print("COMMIT", commit.oid)
pipe.push_to_hub("pushed")
pipe.model.push_to_hub("alone")
pipe.push_to_hub("me/parts", "In a folder", True, None, False, True, "half", "inner")
"""
OPEN = """
import os
import torch
import lzn_hf
from diffusers import DiffusionPipeline
from transformers import AutoModel
from lzn_hf import LZNModel

plain = DiffusionPipeline.from_pretrained("me/pushed")  # the first to ask for the pipeline and its components
from lzn_hf import LZNPipeline

expected = LZNPipeline.from_pretrained("first").model.state_dict()


def check(model):
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())


pipe = LZNPipeline.from_pretrained("me/named", variant="half")
check(pipe.model)
assert pipe.name_or_path == "me/named"
check(AutoModel.from_pretrained("me/named", variant="half"))
check(LZNPipeline.from_pretrained("me/pushed").model)
check(plain.model)
assert type(plain) is LZNPipeline
check(AutoModel.from_pretrained("me/parts", subfolder="inner", variant="half"))
for name, variant in (("me/named", None), ("me/named", "other"), ("me/first", "half"), ("me/alone", None)):
    try:
        LZNPipeline.from_pretrained(name, variant=variant)
    except (FileNotFoundError, ValueError) as error:
        print("REFUSED", type(error).__name__, error)
check(LZNPipeline.from_model(LZNModel.from_pretrained("me/alone")).model)
folder = LZNPipeline.download("me/named", variant="half")
print("DOWNLOADED", sorted(name for name in os.listdir(folder) if name.endswith(".json")))
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The Hub after some uploads, the folder in which they were made, and what the script said."""
    folder = tmp_path_factory.mktemp("hub")
    make_pipeline().save_pretrained(folder / "model")
    with local_hub() as hub:
        yield hub, folder, run_with_hub(SHARE, hub, folder, folder / "model")


def test_nothing_is_uploaded_unasked(shared):
    """The second positional argument is `safe_serialization`, as in diffusers."""
    hub, folder, _ = shared
    assert set(hub.repositories) == {"me/first", "me/named", "me/pushed", "me/parts", "me/alone"}
    assert len(hub.repositories["me/first"].messages) == 1
    assert set(hub.repositories["me/first"].files) == {path.name for path in (folder / "first").iterdir()}


def test_arguments_of_the_upload(shared):
    hub, _, said = shared
    first, named, pushed = (hub.repositories[f"me/{name}"] for name in ("first", "named", "pushed"))
    assert (first.messages, first.private, first.pull_requests) == (["Upload LZNPipeline"], False, 0)
    assert (named.messages, named.private, named.pull_requests) == (["Say why"], True, 1)
    assert (pushed.messages, pushed.private) == (["Upload LZNPipeline"], False)
    assert (hub.repositories["me/parts"].messages, hub.repositories["me/parts"].private) == (["In a folder"], True)
    assert hub.tokens == {"hf_default", "hf_mine"} and "COMMIT cccc" in said


def test_files_of_the_upload(shared):
    hub, _, _ = shared
    pushed, parts, named = (hub.repositories[f"me/{name}"].files for name in ("pushed", "parts", "named"))
    assert {"model.safetensors", "README.md"} <= set(pushed) and b'from_pretrained("me/pushed")' in pushed["README.md"]
    assert "inner/model.half.safetensors" in parts and all(name.startswith("inner/") for name in parts)
    assert "inner/README.md" not in parts
    assert "model.safetensors.index.half.json" in named and "model.safetensors" not in named
    assert b'from_pretrained("me/named", variant="half")' in named["README.md"]


def test_uploads_open_again(shared):
    hub, folder, _ = shared
    said = run_with_hub(OPEN, hub, folder).splitlines()
    refused = [line for line in said if line.startswith("REFUSED")]
    assert "REFUSED FileNotFoundError 'me/named' lacks model.safetensors. It has the variants half" in refused[0]
    assert all(line.startswith("REFUSED ValueError") and "variant" in line for line in refused[1:3])
    assert "REFUSED FileNotFoundError 'me/alone' lacks model_index.json." in refused[3] and len(refused) == 4
    assert "`LZNPipeline.from_model(LZNModel.from_pretrained(...))`" in refused[3]
    (downloaded,) = (line for line in said if line.startswith("DOWNLOADED"))
    assert "model.safetensors.index.half.json" in downloaded and "preprocessor_config.json" in downloaded


TEXTS = """
import sys
from lzn_hf import LZNPipeline, LZNProcessor
from transformers import AutoProcessor

pipe = LZNPipeline.from_pretrained(sys.argv[1])
pipe.push_to_hub("texts")
opened = LZNPipeline.from_pretrained("me/texts")
assert opened.tokenizer.get_vocab() == pipe.tokenizer.get_vocab()
assert len(opened(prompt="a bag", num_inference_steps=2).images) == 1
LZNProcessor(pipe.image_processor, pipe.tokenizer).save_pretrained("parts", push_to_hub=True, repo_id="me/parts")
for name in ("me/texts", "me/parts"):
    processor = AutoProcessor.from_pretrained(name)
    assert type(processor) is LZNProcessor
    assert processor.image_processor.to_dict() == pipe.image_processor.to_dict()
"""


def test_texts_come_with_their_tokenizer(tmp_path):
    make_text_pipeline().save_pretrained(tmp_path / "model")
    with local_hub() as hub:
        run_with_hub(TEXTS, hub, tmp_path, tmp_path / "model")
