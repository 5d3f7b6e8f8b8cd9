# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Checks lzn_hf against numbers of the published Latent Zoning Network implementation.

    python utils/check_published_parity.py --golden DIR        # tests/golden/published is such a folder

DIR holds `index.json`, the safetensors files it describes, tiny trainer checkpoints, and the layouts of the full-size ones
(`state_dict_layout_*.json`). Prints a row for each kind of check with its largest error and tolerance, every failure, and the
variants that lzn_hf does not support. Exits with 1 if a number is off, or if no check looked at a number of a supported variant.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from parity_flows import check_blocks, check_ema, check_latent_flow
from parity_models import check_generation, unsupported_variant
from parity_report import Check, GoldenFile, print_table
from parity_resnet import check_contrastive, check_filled_resnet
from parity_training import check_training

from lzn_hf import LZNModel
from lzn_hf.commands.published_config import CASES, config_from_published
from lzn_hf.commands.published_format import published_entries


def check_file(file: GoldenFile) -> list[Check]:
    """Runs the checks that fit the header of a file; each tensor that none of them looks at is a failed check."""
    header = file.header
    if "checkpoint" in header and (variant := unsupported_variant(header["config"])):
        file.mark_unsupported(variant)
    elif "checkpoint" in header:
        is_contrastive = header["config"]["trainer"].endswith("ContrastiveTrainer")
        (check_contrastive if is_contrastive else check_generation)(file)
        check_training(file)
    elif "fill_rule" in header and header.get("sk_ratio"):
        file.mark_unsupported("selective-kernel ResNet")
    else:
        kinds = {
            "fill_rule": check_filled_resnet,
            "blocks": check_blocks,
            "sets": check_latent_flow,
            "cases": check_ema,
        }
        check = next((check for key, check in kinds.items() if key in header), None)
        if check is not None:
            check(file)
    file.check_coverage()
    return file.checks


def check_layout(path: Path) -> list[Check]:
    """Compares keys, shapes, their order and parameter counts of a full-size model, built on the meta device."""
    layout = json.loads(path.read_text(encoding="utf-8"))
    if variant := unsupported_variant(layout["config"]):
        return [Check(path.name, "layout", "", unsupported=variant)]
    config = config_from_published(layout["config"])
    entries = published_entries(config)
    checks = []

    def check(name: str, mistakes: int) -> None:
        checks.append(Check(path.name, name, name.partition(" ")[2], mistakes))

    check("all the parts", len({entry.part for entry in entries} ^ layout["models"].keys()))
    for part, model in layout["models"].items():
        prefix, buffers = model["key_prefix"], set(model["buffers"])
        theirs = [(key, tuple(shape)) for key, shape, _ in model["state_dict"] if key not in buffers]
        ours = [(prefix + entry.key, entry.shape) for entry in entries if entry.part == part]
        misplaced = sum(a != b for a, b in zip(ours, theirs, strict=False)) + abs(len(ours) - len(theirs))
        check(f"{part} keys and shapes, in order", misplaced)
        count = sum(torch.Size(shape).numel() for _, shape in ours)
        check(f"{part} number of parameters", abs(count - model["num_params"]))
        frozen = {prefix + entry.key for entry in entries if entry.part == part and not entry.trainable}
        check(f"{part} parameters that are not trained", len(frozen ^ set(model["non_trainable_parameters"])))
    with torch.device("meta"):
        state = LZNModel(config).state_dict()
    check("every tensor of ours has a place", len(state.keys() ^ {entry.ours for entry in entries}))
    sizes = sum(torch.Size(entry.shape).numel() for entry in entries)
    check("the sizes of ours and theirs", abs(sum(value.numel() for value in state.values()) - sizes))
    if layout["case"] in CASES:
        check("the case by name", CASES[layout["case"]].to_dict() != config.to_dict())
    return checks


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", required=True, type=Path, metavar="DIR", help="folder with index.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # like the run that made the golden numbers
    index = json.loads((args.golden / "index.json").read_text(encoding="utf-8"))
    checks = []
    for name in index["files"]:
        print(f"checking {name}", file=sys.stderr, flush=True)
        try:
            checks += check_file(GoldenFile(args.golden, name, index))
        except Exception as error:  # a malformed file fails, and the other files are checked all the same
            traceback.print_exc()
            checks.append(Check(name, f"{type(error).__name__}: {error}", "could not be checked"))
    for path in sorted(args.golden.glob("state_dict_layout_*.json")):
        checks += check_layout(path)
    return 0 if print_table(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
