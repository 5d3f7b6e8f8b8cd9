# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The parity script: it passes on published numbers, fails on any other, and looks at all of them.

`golden/published` is a small golden folder: numbers of the published implementation, most of them slices. It is made by

    PYTHONPATH=src python tests/test_check_published_parity.py GOLDEN_DIR

from a whole one. If the environment variable LZN_GOLDEN_DIR names a whole one, the script runs on that, too.
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


# What the small folder has of each file.
FLOWS = r"dup32/(anchors|prior|cotangent|subset_idx|rev_\w+|f(32|64)/(velocity|euler/(fwd|fwd_subset|rev_w)20|dpm/(fwd|rev)8)/(?!pdfs$).+)"
LAYERS = (
    r"(fir_(down|up)_asym|naive_\w+|timestep_embedding_odd|fourier|nin|attn_rescale|combine_(sum|cat)|biggan_down_fir_16"
    r"|biggan_no_rescale|resnet_head2|ddpm_same)/.+"
)
KEPT = {
    "latent_flow.safetensors": (FLOWS, None),
    "ema.safetensors": (r".+", None),
    "blocks.safetensors": (LAYERS, None),
    # one of the images, which are encoded each by itself
    "cs2_w1_outputs.safetensors": (r"in/images|encoder/\w+|f64/encoder/head|fill_check/.+", slice(0, 1)),
}


def make_subset(golden: Path, folder: Path) -> None:
    index = json.loads((golden / "index.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, (pattern, rows) in KEPT.items():
        entry = index["files"][name]
        kept = {key: value for key, value in load_file(golden / name).items() if re.fullmatch(pattern, key)}
        for key, value in kept.items():
            if rows is not None and not key.startswith("fill_check/"):
                kept[key] = value[rows].clone()
            entry["tensors"][key]["shape"] = list(kept[key].shape)
        save_file(kept, folder / name)
        header = entry["header"]
        if "blocks" in header:
            names = {key.partition("/")[0] for key in kept}
            header["blocks"] = {block: text for block, text in header["blocks"].items() if block in names}
        # the order of the index is that of the parameters of a layer
        tensors = {key: note for key, note in entry["tensors"].items() if key in kept}
        files[name] = {"header": header, "tensors": tensors}
    (folder / "index.json").write_text(json.dumps({"files": files}, indent=1) + "\n")
    shutil.copy(golden / "state_dict_layout_case_study_2.json", folder)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the small folder, to be damaged."""
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
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = run.stdout.splitlines()
    assert rows[0].split() == ["file", "check", "numbers", "max", "error", "tolerance", "verdict"]
    for name in (*KEPT, "state_dict_layout_case_study_2.json"):
        assert any(row.startswith(name) and row.endswith("pass") for row in rows), name
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
    config = {"decoder": {"params": {"config": {"model": change}}}}
    header = {"checkpoint": "x.pt", "config": config}
    change_index(folder, lambda files: files["ema.safetensors"].update(header=header))
    code, table = check(folder, capsys)
    assert code == 0 and f"not supported: ema.safetensors {variant} (" in table


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


if __name__ == "__main__":
    make_subset(Path(sys.argv[1]), SUBSET)
