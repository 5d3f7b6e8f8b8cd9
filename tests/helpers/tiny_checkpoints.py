# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Trainer files of tiny models, for the tests of the converter."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch

from helpers.published_layouts import CASES, LARGE_CASES


TINY = [CASES[0], CASES[1], CASES[4], CASES[5]]  # one of each kind of network


def tiny_published(layouts, case: str) -> dict:
    """The published config of a case, with networks that take milliseconds."""
    published = copy.deepcopy(layouts[case]["config"])
    if case == "case_study_2":
        params = {"head_num_layers": 2, "head_out_dim": 64, "layers": [1, 2], "widths": [32, 32]}
        published["encoder"] = {"name": "tiny_resnet.make", "params": params}
        return published | {"latent_dim": 64, "prior": {}, "image_size": 40}
    published |= {"image_size": 16, "latent_dim": 6, "prior": {}}
    for part in ("encoder", "decoder"):
        params = published[part]["params"]
        params["latent_dim"] = 6
        params["config"]["data"]["image_size"] = 16
        params["config"]["model"] |= {"nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1}
    published["encoder"]["params"] |= {"num_base_channels": 2, "num_base_units": 8}
    if case in LARGE_CASES:
        published["encoder"]["params"]["latent_transformation_resolutions"] = [8]
    if case == "case_study_3":
        published["label_anchor"]["params"]["z_dim"] = 6
    return published


def set_at(tree: dict, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        tree = tree[parent]
    tree[last] = value


def copy_of(checkpoint: dict) -> dict:
    """A checkpoint whose dicts and lists may be changed."""
    return {
        key: dict(value)
        if "shadow_params" not in (value if isinstance(value, dict) else ())
        else value | {"shadow_params": list(value["shadow_params"])}
        for key, value in checkpoint.items()
        if isinstance(value, dict)
    } | {key: value for key, value in checkpoint.items() if not isinstance(value, dict)}


def write(folder: Path, files: dict) -> list[str]:
    """A checkpoint and its config; the flags to convert it to folder/out."""
    torch.save(files["checkpoint"], folder / "trainer.pt")
    (folder / "published.json").write_text(json.dumps(files["published"]))
    flags = {"checkpoint": "trainer.pt", "config": "published.json", "output_dir": "out"}
    return [word for name, file in flags.items() for word in (f"--{name}", str(folder / file))]
