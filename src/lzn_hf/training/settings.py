# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""All settings of a run as JSON values: saved with its results, compared when it is resumed, printed by a dry run."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..configuration_lzn import LZNConfig
from ..data.summary import DataSummary
from .arguments import RunArguments, argument_values


SETTINGS_FILE = "training_settings.json"
DATA_SUMMARY_FILE = "data_summary.json"

# These do not change the result of a step, so a resumed run may set them differently.
MAY_CHANGE_ON_RESUME = {
    "output_dir",
    "overwrite_output_dir",
    "max_train_steps",  # see `check_last_step`
    "logging_steps",
    "eval_steps",
    "checkpointing_steps",
    "checkpointing_minutes",
    "checkpoints_total_limit",
    "resume_from_checkpoint",
    "max_nonfinite_steps",
    "report_to",
    "process_timeout",
    "push_to_hub",
    "hub_model_id",
    "private",
    "license",
    "dry_run",
    "gradient_checkpointing",
    "samples_per_label",
    "num_samples",
    "num_neighbours_from",
    "num_inference_steps",
    "max_eval_samples",
    "num_workers",
    "skip_bad_images",  # the images that were read are compared
    "encoder_name_or_path",  # the source of the initial weights
    "model_name_or_path",  # likewise; the architecture itself is compared
    "config_overrides",
}
SHAPE_OF_IMAGES = {"image_size", "num_channels"}  # as asked for in the section `data`: those of the model are compared
# Where the images come from and how they are split: compared only if the images themselves cannot be.
SOURCE_OF_IMAGES = {
    "dataset_name",
    "data_dir",
    "dataset_config_name",
    "image_column",
    "label_column",
    "train_split",
    "validation_split",
    "validation_fraction",
    "data_seed",
    "shuffle_buffer_size",
}
CONFIG_FIELDS = tuple(LZNConfig.__annotations__)  # without those that transformers adds
FIELDS_OF_INFERENCE = {
    "num_reference_anchors",
    "num_type_reference_anchors",
    "num_prediction_draws",
    "prediction_time",
}  # unused in training
MAX_DIFFERENCES = 20  # lines of a message

Settings = dict[str, dict[str, Any]]


def resolve_settings(config: LZNConfig, images: DataSummary | None = None, **sections: Any) -> Settings:
    """Collects the settings of a run.

    Args:
        config (`LZNConfig`): config of the model at the start of the run.
        images (`DataSummary`, *optional*): the images of the run, of which counts, labels, sizes and a fingerprint are kept.
        sections: argument dataclasses by the name of their section.

    Returns:
        `dict`: JSON values by section and name.
    """
    settings: Settings = {
        "model": {name: getattr(config, name) for name in CONFIG_FIELDS if name not in FIELDS_OF_INFERENCE}
    }
    if config.text_config is not None:
        settings["model"]["text_config"] = config.type_configs["text"].to_diff_dict()
    settings["model"]["labels"] = list((config.id2label or {}).values())
    for name, arguments in sections.items():
        settings[name] = argument_values(arguments)
    if images is not None:
        settings["images"] = {
            "training images": images.used.get("train"),
            "label": {label: parts.get("train") for label, parts in images.labels.items()},
            "size": images.sizes,
            "fingerprint": images.fingerprint,
        }
    return json.loads(json.dumps(settings))


def default_settings(**sections: Any) -> Settings:
    """Returns the defaults of the settings in [`resolve_settings`]: what a run did before an argument existed.

    Args:
        sections: argument dataclasses by the name of their section.
    """
    defaults: Settings = {"model": {name: getattr(LZNConfig, name) for name in CONFIG_FIELDS}}
    for section, arguments in sections.items():
        defaults[section] = {
            f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            for f in dataclasses.fields(arguments)
            if f.init
        }
    return json.loads(json.dumps(defaults, default=lambda value: None))  # a field without default has no JSON value


def settings_differences(saved: Settings, current: Settings, defaults: Settings | None = None) -> list[str]:
    """Lists the settings that make a run compute something else than another one.

    Images are compared by what they are, not by where they lie. Those of a stream, or too large to look through, cannot be: then
    the settings that say where they come from are compared.

    Args:
        saved (`dict`): settings of the other run, as of [`resolve_settings`].
        current (`dict`): settings of this run.
        defaults (`dict`, *optional*): values of settings that did not exist when `saved` was written.

    Returns:
        `list[str]`: one difference an entry.
    """
    images_before, images_now = saved.get("images", {}), current.get("images", {})
    is_known = bool(images_before.get("fingerprint") and images_now.get("fingerprint"))
    ignored_of_data = SHAPE_OF_IMAGES | (SOURCE_OF_IMAGES if is_known else set())
    found: list[str] = []
    for section in sorted({*saved, *current} - {"images"}):
        known = (defaults or {}).get(section, {})
        before, after = ({**known, **settings.get(section, {})} for settings in (saved, current))
        before, after = ({**values, **_absolute(values)} for values in (before, after))
        ignored = MAY_CHANGE_ON_RESUME | (ignored_of_data if section == "data" else set())
        for name in sorted({*before, *after} - ignored):
            found += _compare(f"{section}.{name}", before.get(name), after.get(name))
    if is_known:
        for name in ("training images", "label", "size"):
            found += _compare(name, images_before[name], images_now[name])
        if not found and images_before["fingerprint"] != images_now["fingerprint"]:
            found.append("as many training images of the same labels and sizes, but other pixels, or in another order")
    return found[:MAX_DIFFERENCES] + [f"and {len(found) - MAX_DIFFERENCES} more"] * (len(found) > MAX_DIFFERENCES)


def _absolute(values: Mapping[str, Any]) -> dict[str, str]:
    folder = values.get("data_dir")
    return {} if folder is None else {"data_dir": os.path.abspath(folder)}


def _compare(name: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict) and name in ("label", "size"):
        for key in sorted({*before, *after}):
            yield from _compare(f"images of {name} {key!r}", before.get(key, 0), after.get(key, 0))
    elif before != after:
        yield f"{name}: {before!r} in the checkpoint, {after!r} now"


def check_last_step(saved: Settings, run: RunArguments, step: int) -> None:
    """Raises a `ValueError` if a run that is resumed cannot end at `run.max_train_steps`.

    Args:
        saved (`dict`): settings of the run, as of [`resolve_settings`].
        run (`RunArguments`): the arguments it is resumed with.
        step (`int`): steps done when the checkpoint was written.
    """
    planned, end = saved["training"]["max_train_steps"], run.max_train_steps
    if end < step:
        raise ValueError(
            f"`max_train_steps` is {end}, but the checkpoint has {step} steps: pass at least `--max_train_steps {step}`, which takes "
            "no step and writes the final folder."
        )
    if run.lr_scheduler == "cosine" and end not in (step, planned):
        raise ValueError(
            f"`max_train_steps` was {planned} and is {end} now, but the cosine schedule of the learning rate reaches zero at the last "
            f"step, so the steps already done would have had other learning rates. Leave it at {planned}, pass `--max_train_steps {step}` "
            "to end at the checkpoint, or start another run (`--output_dir`) from the weights of this one (`--model_name_or_path`)."
        )
