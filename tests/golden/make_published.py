# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Makes `tests/golden/published`, a compact golden folder of at most 8 MB, from a whole one.

    PYTHONPATH=src:utils python tests/golden/make_published.py GOLDEN_DIR

Every kind of check of `utils/check_published_parity.py` runs on it. What a whole folder has beyond it is more of the same: other
sizes, the unconditional trainer, and the second and third training iteration.

- Of flows and layers, a selection; of a ResNet filled by a rule, one image.
- Of the conditional trainer, the weights as trained and their moving averages; of the contrastive one, the weights as trained. Adam
  keeps its state for those parameters whose values after the step are in the folder.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lzn_hf.commands.published_checkpoint import PREFIX
from lzn_hf.commands.published_config import config_from_published
from lzn_hf.commands.published_format import published_entries


FOLDER = Path(__file__).resolve().parent / "published"
LIMIT = 8_000_000  # bytes
LAYOUT = "state_dict_layout_case_study_2.json"
# Tensors of each file, as a pattern for the whole name.
KEPT = {
    "latent_flow.safetensors": (
        r"dup32/(anchors|prior|cotangent|subset_idx|rev_\w+"
        r"|f(32|64)/(velocity|euler/(fwd|fwd_subset|rev_w)20|dpm/(fwd|rev)8)/(?!pdfs$).+)"
    ),
    "ema.safetensors": r".+",
    "blocks.safetensors": (
        r"(fir_(down|up)_asym|naive_\w+|timestep_embedding_odd|fourier|nin|attn_rescale|combine_(sum|cat)|biggan_down_fir_16"
        r"|biggan_no_rescale|resnet_head2|ddpm_same)/.+"
    ),
    "cs2_w1_outputs.safetensors": r"in/images|encoder/\w+|f64/encoder/head|fill_check/.+",
    "cs2_tiny_outputs.safetensors": (
        r"in/.+|encoder/(no_)?head_view\d|f64/.+|latent|assignment/.+|train/(metric/.+|grad_norms|(grad|new_param)/.+)"
    ),
    "cs3_tiny_outputs.safetensors": (
        r"in/.+|encoder/.+|latent_from_data|decoder/(velocity|cotangent|grad_latent|module_trace)|f64/encoder/.+|label/.+"
        r"|sampler/(x0|euler10(_pred_label|_uint8|_inverse)?|rk45)|ema/.+"
        r"|train/(in/.+|anchor|latent|class_weights|label_prob|recon_per_sample|metric/.+|grad_norms|(grad|new_param)/.+)"
    ),
}
ONE_ROW = "cs2_w1_outputs.safetensors"  # its images are encoded each by itself
WITH_AVERAGES = "cs3_tiny_outputs.safetensors"


def compact_checkpoint(path: Path, header: dict[str, Any], stepped: set[str], with_averages: bool) -> dict[str, Any]:
    """Returns a checkpoint with Adam's state for the parameters `stepped`, given by part and key."""
    checkpoint = torch.load(path, weights_only=True)
    entries = published_entries(config_from_published(header["config"]))
    # The three projections of an attention are one parameter of ours: their state comes together.
    ours = {entry.ours for entry in entries if f"{entry.part}.{PREFIX}{entry.key}" in stepped}
    state = checkpoint["optimizer"]["state"]
    kept = {i: state[i] for i, entry in enumerate(entries) if entry.ours in ours and i in state}
    checkpoint["optimizer"] = {"state": kept, "param_groups": checkpoint["optimizer"]["param_groups"]}
    return {key: value for key, value in checkpoint.items() if with_averages or not key.endswith("_ema")}


def make_published(golden: Path, folder: Path) -> None:
    index = json.loads((golden / "index.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, pattern in KEPT.items():
        header, notes = (index["files"][name][key] for key in ("header", "tensors"))
        kept = {key: value for key, value in load_file(golden / name).items() if re.fullmatch(pattern, key)}
        if name == ONE_ROW:
            kept |= {key: value[:1].clone() for key, value in kept.items() if not key.startswith("fill_check/")}
        save_file(kept, folder / name)
        if "blocks" in header:
            blocks = {key.partition("/")[0] for key in kept}
            header["blocks"] = {block: text for block, text in header["blocks"].items() if block in blocks}
        if "checkpoint" in header:
            stepped = {key.partition("new_param/")[2] for key in kept if "new_param/" in key}
            path = header["checkpoint"]
            torch.save(compact_checkpoint(golden / path, header, stepped, name == WITH_AVERAGES), folder / path)
        # in the order of the index, which is that of the parameters of a layer
        tensors = {key: note | {"shape": list(kept[key].shape)} for key, note in notes.items() if key in kept}
        files[name] = {"header": header, "tensors": tensors}
    (folder / "index.json").write_text(json.dumps({"files": files}, indent=1) + "\n")
    (folder / LAYOUT).write_bytes((golden / LAYOUT).read_bytes())
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size:,} bytes")
    if size > LIMIT:
        raise SystemExit(f"That is more than {LIMIT:,}: keep fewer tensors.")


if __name__ == "__main__":
    make_published(Path(sys.argv[1]), FOLDER)
