# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The parity script: it passes on published numbers, fails on any other, and looks at all of them.

`golden/published` is a compact golden folder: numbers of the published implementation that every kind of check runs on.
`golden/make_published.py` makes it from a whole one. If the environment variable LZN_GOLDEN_DIR names a whole one, the script
runs on that, too.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import check_published_parity
import pytest
from helpers import GOLDEN_DIR, ROOT
from safetensors.torch import load_file, save_file


SUBSET = GOLDEN_DIR / "published"
LZN_GOLDEN_DIR = os.environ.get("LZN_GOLDEN_DIR")


FILES = (
    "latent_flow.safetensors",
    "ema.safetensors",
    "blocks.safetensors",
    "cs2_w1_outputs.safetensors",
    "cs2_tiny_outputs.safetensors",
    "cs3_tiny_outputs.safetensors",
    "state_dict_layout_case_study_2.json",
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the compact folder, to be damaged."""
    return Path(shutil.copytree(SUBSET, tmp_path / "golden"))


def only(folder: Path, *names: str) -> None:
    """Leaves these files in the index, so that only they are checked."""
    change_index(folder, lambda files: [files.pop(name) for name in list(files) if name not in names])
    for layout in folder.glob("state_dict_layout_*"):
        layout.unlink()


def change_index(folder: Path, change) -> None:
    index = json.loads((folder / "index.json").read_text())
    change(index["files"])
    (folder / "index.json").write_text(json.dumps(index))


def check(folder: Path, capsys) -> tuple[int, str]:
    code = check_published_parity.main(["--golden", str(folder)])
    return code, capsys.readouterr().out


def test_all_published_numbers_are_reproduced():
    command = [sys.executable, str(ROOT / "utils" / "check_published_parity.py"), "--golden", str(SUBSET)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = run.stdout.splitlines()
    assert rows[0].split() == ["file", "check", "numbers", "max", "error", "tolerance", "verdict"]
    for name in FILES:
        assert any(row.startswith(name) and row.endswith("pass") for row in rows), name
    for group in (
        "label predictions",
        "averages",
        "RK45 sampler at the published steps",
        "gradients",
        "parameters after Adam",
    ):
        assert any(group in row for row in rows), group
    assert "not supported: blocks.safetensors ddpm blocks" in run.stdout
    assert re.search(r"^[1-9]\d+ passed, 0 failed, ", rows[-1])


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("latent_flow.safetensors", "dup32/f64/euler/rev_w20/final"),
        ("latent_flow.safetensors", "dup32/f64/dpm/fwd8/grad"),
        ("ema.safetensors", "d9999/shadow/2/1"),
        ("blocks.safetensors", "fir_up_asym/out"),
        ("blocks.safetensors", "nin/param/W"),
        ("cs2_w1_outputs.safetensors", "encoder/no_head"),
        ("cs2_w1_outputs.safetensors", "fill_check/net.0.0.weight"),
        ("cs2_tiny_outputs.safetensors", "train/metric/loss/cross_entropy"),
    ],
)
def test_a_wrong_number_fails(folder, capsys, name, key):
    only(folder, name)
    tensors = load_file(folder / name)
    tensors[key] = tensors[key] + 1e-3 * tensors[key].abs().max()
    save_file(tensors, folder / name)
    code, table = check(folder, capsys)
    assert code == 1 and f"FAIL {name} {key.replace('param/W', 'out')}: " in table


def test_a_number_that_no_check_knows_fails(folder, capsys):
    name = "ema.safetensors"
    only(folder, name)
    tensors = load_file(folder / name)
    tensors["d9999/shadow/2/9"] = tensors["d9999/shadow/2/1"].clone()
    save_file(tensors, folder / name)

    def add(files):
        entries = files[name]["tensors"]
        entries["d9999/shadow/2/9"] = entries["d9999/shadow/2/1"]

    change_index(folder, add)
    code, table = check(folder, capsys)
    assert code == 1 and f"FAIL {name} d9999/shadow/2/9: error inf" in table and "not covered" in table


def test_a_file_of_an_unknown_kind_fails(folder, capsys):
    only(folder, "ema.safetensors")
    change_index(folder, lambda files: files["ema.safetensors"].update(header={"what": "something else"}))
    code, table = check(folder, capsys)
    assert code == 1 and "0 passed" in table and "not covered" in table


def test_a_damaged_file_fails_and_the_others_are_checked(folder, capsys):
    only(folder, "ema.safetensors", "blocks.safetensors")
    (folder / "ema.safetensors").write_bytes(b"nothing")
    code, table = check(folder, capsys)
    assert code == 1 and "could not be checked" in table
    assert any(row.startswith("blocks.safetensors") and row.endswith("pass") for row in table.splitlines())


@pytest.mark.parametrize(
    ("change", "variant"),
    [
        ({"resblock_type": "ddpm"}, "ddpm blocks"),
        ({"progressive": "residual"}, "residual pyramids"),
        ({"progressive_input": "residual"}, "residual pyramids"),
        ({"scale_by_sigma": True, "embedding_type": "positional"}, "division by a table of sigmas"),
    ],
)
def test_variants_that_are_not_supported_are_named(folder, capsys, change, variant):
    only(folder, "ema.safetensors", "blocks.safetensors")
    check_variant(folder, capsys, {"decoder": {"params": {"config": {"model": change}}}}, variant)


def test_a_sum_of_both_alignment_losses_is_not_supported(folder, capsys):
    name = "cs2_tiny_outputs.safetensors"
    only(folder, name, "blocks.safetensors")
    config = json.loads((folder / "index.json").read_text())["files"][name]["header"]["config"]
    assert config["training"]["loss_weight"] == {"cross_entropy": 1.0, "prob": 0.0}
    config["training"]["loss_weight"]["prob"] = 0.5
    check_variant(folder, capsys, config, "sum of both alignment losses", name)


def check_variant(folder: Path, capsys, config: dict, variant: str, name: str = "ema.safetensors") -> None:
    """All tensors of the file, with that config, are reported as of a variant that is not supported; none fails."""
    header = {"checkpoint": "x.pt", "config": config}
    change_index(folder, lambda files: files[name].update(header=header))
    code, table = check(folder, capsys)
    count = len(json.loads((folder / "index.json").read_text())["files"][name]["tensors"])
    assert code == 0 and f"not supported: {name} {variant} ({count} tensors)" in table
    assert not any(row.startswith(name) for row in table.splitlines())


@pytest.mark.parametrize("damage", ["shape", "missing", "extra", "count"])
def test_a_layout_of_another_model_fails(folder, capsys, damage):
    only(folder)
    layout = json.loads((SUBSET / "state_dict_layout_case_study_2.json").read_text())
    encoder = layout["models"]["encoder"]
    if damage == "shape":
        encoder["state_dict"][3][1][0] += 1
    elif damage == "missing":
        del encoder["state_dict"][-1]
    elif damage == "extra":
        encoder["state_dict"].append(["model.module.more", [2], "float32"])
    else:
        encoder["num_params"] += 1
    (folder / "state_dict_layout_x.json").write_text(json.dumps(layout))
    code, table = check(folder, capsys)
    assert code == 1 and "FAIL state_dict_layout_x.json encoder " in table


@pytest.mark.slow
@pytest.mark.skipif(not LZN_GOLDEN_DIR, reason="LZN_GOLDEN_DIR does not name a folder of golden data")
def test_all_numbers_of_the_whole_folder_are_reproduced(capsys):
    code, table = check(Path(LZN_GOLDEN_DIR), capsys)
    assert code == 0, table
