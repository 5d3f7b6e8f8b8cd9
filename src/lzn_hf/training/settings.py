# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""All settings of a run as JSON values: saved with its results, compared when it is resumed, printed by a dry run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence, Sized
from typing import Any

from torch.nn import Parameter

from ..configuration_lzn import LZNConfig
from ..data.images import ImageData
from .arguments import RunArguments


SETTINGS_FILE = "training_settings.json"
DATA_SUMMARY_FILE = "data_summary.json"

# These do not change the result of a step, so a resumed run may set them differently.
MAY_CHANGE_ON_RESUME = {
    "output_dir",
    "overwrite_output_dir",
    "max_train_steps",
    "logging_steps",
    "eval_steps",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "resume_from_checkpoint",
    "max_nonfinite_steps",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "dry_run",
    "gradient_checkpointing",
    "samples_per_label",
    "num_samples",
    "num_neighbours_from",
    "num_inference_steps",
    "max_eval_samples",
    "num_workers",
    "encoder_name_or_path",  # the source of the initial weights
    "model_name_or_path",  # likewise; the architecture itself is compared
    "config_overrides",
}
CONFIG_FIELDS = tuple(LZNConfig.__annotations__)  # without those that transformers adds
FIELDS_OF_INFERENCE = {"num_reference_anchors", "num_prediction_draws"}  # unused in training

Settings = dict[str, dict[str, Any]]


def resolve_settings(config: LZNConfig, **sections: Any) -> Settings:
    """Collects the settings of a run.

    Args:
        config (`LZNConfig`): config of the model at the start of the run.
        sections: argument dataclasses by the name of their section.

    Returns:
        `dict`: JSON values by section and name.
    """
    settings: Settings = {
        "model": {name: getattr(config, name) for name in CONFIG_FIELDS if name not in FIELDS_OF_INFERENCE}
    }
    settings["model"]["labels"] = list((config.id2label or {}).values())
    for name, arguments in sections.items():
        settings[name] = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(arguments) if f.init}
    return json.loads(json.dumps(settings))


def settings_differences(saved: Settings, current: Settings) -> list[str]:
    """Lists the settings that make `current` compute something else than the run with the settings `saved`, one per line."""
    may_change = set(MAY_CHANGE_ON_RESUME)
    if current.get("training", {}).get("lr_scheduler") == "cosine":
        may_change.remove("max_train_steps")  # the learning rate of every step depends on the last one
    lines = []
    for section in sorted({*saved, *current}):
        before, after = saved.get(section, {}), current.get(section, {})
        for name in sorted({*before, *after} - may_change):
            if before.get(name) != after.get(name):
                lines.append(f"{section}.{name}: {before.get(name)!r} in the checkpoint, {after.get(name)!r} now")
    return lines


def dry_run_report(
    settings: Settings,
    parts: Mapping[str, Sequence[Parameter]],
    data: ImageData,
    run: RunArguments,
    num_processes: int,
) -> str:
    """Returns the text of a dry run: all settings, the size of each part of the model, and the division into steps."""
    lines = [json.dumps(settings, indent=2)]
    sizes = {name: sum(parameter.numel() for parameter in parameters) for name, parameters in parts.items()}
    sizes["total"] = sum(sizes.values())
    lines += [f"{name + ':':16}{size:>13,} parameters" for name, size in sizes.items()]
    pool = run.total_batch_size // run.gradient_accumulation_steps
    lines.append(
        f"{run.max_train_steps:,} steps x {run.total_batch_size:,} images = {run.gradient_accumulation_steps} anchor pool(s) "
        f"of {pool:,} images x {num_processes} process(es) x {pool // num_processes:,} images"
    )
    if isinstance(data.train, Sized):
        epochs = run.max_train_steps * run.total_batch_size / len(data.train)
        held_out = len(data.validation) if isinstance(data.validation, Sized) else 0
        lines.append(
            f"{data.name}: {len(data.train):,} training images ({epochs:.1f} epochs), {held_out:,} validation images"
        )
    return "\n".join(lines)
