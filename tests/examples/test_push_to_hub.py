# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Training scripts and a Hub of the loopback interface: what is uploaded at the end, and that no training is lost."""

from __future__ import annotations

import json
import shlex

import pytest
from helpers import ROOT
from helpers.hub import local_hub, run_with_hub
from helpers.training import TINY, write_image_folder
from huggingface_hub import ModelCard

from lzn_hf import LZNModel, LZNPipeline
from lzn_hf.evaluation.sharing import code_files


# All runs in one process: each start of one takes seconds.
RUN = f"""
import importlib, os, sys
sys.path[:0] = [{str(ROOT / "examples")!r}, {str(ROOT / "tests")!r}]
from helpers.training import forget_accelerators

for script, token, flags in eval(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    forget_accelerators()
    common = "--preset toys.json --data_dir toys --max_train_steps 1 --total_batch_size 8 --push_to_hub "
    try:
        importlib.import_module(script).main((common + flags).split())
    except OSError as error:
        print("FAILED", type(error).__name__, str(error).replace(chr(10), " "))
"""
RUNS = [
    ("train_joint", "hf_good", "--output_dir runs/joint --license mit --private --checkpointing_steps 1"),
    ("train_unconditional", "hf_good", "--output_dir runs/unconditional --hub_model_id flow"),
    (
        "train_representation",
        "hf_good",
        "--output_dir runs/encoder --hub_model_id org/encoder --config_overrides decoder_type=null",
    ),
    ("train_joint", "hf_good", "--output_dir runs/broken --hub_model_id me/broken --license mit --private"),
    ("train_joint", "hf_bad", "--output_dir runs/refused --hub_model_id me/refused"),
    ("train_joint", "hf_good", "--output_dir runs/taken --hub_model_id me/taken"),
]
CODE = {path.name for path in code_files()}
MODEL = {
    "README.md",
    "config.json",
    "curves.png",
    "model.safetensors",
    "preprocessor_config.json",
    "training_settings.json",
}
PIPELINE = {"model_index.json", "scheduler_config.json", "samples.png"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The Hub after runs, the folder in which they ran, and their errors."""
    folder = tmp_path_factory.mktemp("trained")
    write_image_folder(folder / "toys")
    (folder / "toys.json").write_text(json.dumps({"model": TINY}))
    with local_hub() as hub:
        hub.refused_tokens, hub.read_only, hub.refused_commits = {"hf_bad"}, {"me/taken"}, {"me/broken"}
        said = run_with_hub(RUN, hub, folder, repr(RUNS))
    return hub, folder, [line for line in said.splitlines() if line.startswith("FAILED")]


def test_each_script_uploads_what_its_model_needs(trained):
    hub, folder, _ = trained
    names = ("me/joint", "me/flow", "org/encoder")
    joint, flow, encoder = (hub.repositories[name] for name in names)
    assert set(joint.files) == MODEL | PIPELINE | CODE | {"reliability.png", "zones.png"} | {
        f"examples/{number}.png" for number in range(3)
    }
    assert set(flow.files) == MODEL | PIPELINE | CODE | {f"examples/{number}.png" for number in range(4)}
    assert set(encoder.files) == MODEL | CODE
    assert (joint.private, flow.private, encoder.private) == (True, False, False)
    cards = {name: ModelCard(hub.repositories[name].files["README.md"].decode()) for name in names}
    assert (cards["me/joint"].data.license, cards["me/flow"].data.license) == ("mit", None)
    assert 'from_pretrained("org/encoder", trust_remote_code=True)' in cards["org/encoder"].text
    assert joint.files["samples.png"] == (folder / "runs" / "joint" / "samples.png").read_bytes()


def test_the_local_folder_is_that_of_any_run(trained):
    _, folder, _ = trained
    local = {path.name for path in (folder / "runs" / "joint").iterdir()}
    run = {"metrics.jsonl", "data_summary.json", "checkpoint-1"}
    assert local == MODEL | PIPELINE | run | {"reliability.png", "zones.png"}
    assert 'from_pretrained("runs/joint")' in (folder / "runs" / "joint" / "README.md").read_text()


def test_a_failed_upload_loses_nothing_and_says_how_to_go_on(trained):
    hub, folder, errors = trained
    assert hub.repositories["me/broken"].files == {} and len(errors) == 3
    assert "FAILED OSError the upload to me/broken failed: " in errors[0]
    LZNPipeline.from_pretrained(folder / "runs" / "broken")
    assert ModelCard.load(folder / "runs" / "broken" / "README.md").data.license == "mit"
    _, command, _ = errors[0].split("`")
    assert command == "lzn export hub runs/broken --push_to_hub me/broken --private"
    with local_hub() as later:
        program, *arguments = shlex.split(command)
        assert program == "lzn"
        run_with_hub("from lzn_cli.main import main; main()", later, folder, *arguments)
    assert ModelCard(later.repositories["me/broken"].files["README.md"].decode()).data.license == "mit"
    assert later.repositories["me/broken"].private


def test_who_may_not_write_learns_it_before_training(trained):
    hub, folder, errors = trained
    assert "FAILED PermissionError the Hub does not let you write to 'me/refused' (401)" in errors[1]
    assert "FAILED PermissionError the Hub does not let you write to 'me/taken' (403)" in errors[2]
    for name in ("refused", "taken"):
        assert not (folder / "runs" / name).exists()
    assert hub.repositories["me/taken"].files == {} and "me/refused" not in hub.repositories


def test_the_weights_are_those_of_the_run(trained):
    hub, folder, _ = trained
    for repository, run in (("me/joint", "joint"), ("org/encoder", "encoder")):
        weights = (folder / "runs" / run / "model.safetensors").read_bytes()
        assert hub.repositories[repository].files["model.safetensors"] == weights
    assert len(LZNModel.from_pretrained(folder / "runs" / "encoder").reference_anchors()) == 18
