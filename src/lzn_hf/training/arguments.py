# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Command line of the example scripts: dataclass arguments, presets, and the comparison of two runs' settings.

A preset is a JSON file of sections: `model` (fields of `LZNConfig`), `data`, `training`, and what is particular to a
script (flags). Its values are defaults; a flag on the command line wins over them.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from argparse import Action, ArgumentDefaultsHelpFormatter, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch.nn import Parameter
from transformers import HfArgumentParser

from ..configuration_lzn import LZNConfig
from ..data.images import ImageData


SETTINGS_FILE = "training_settings.json"

# Fields that do not change what a step computes, so a resumed run may set them anew.
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
    "encoder_name_or_path",  # where the weights came from
    "model_name_or_path",  # likewise; the architecture itself is compared
    "config_overrides",
}
CONFIG_FIELDS = tuple(LZNConfig.__annotations__)  # those of LZNConfig itself, without transformers' own
FIELDS_OF_INFERENCE = {"num_reference_anchors", "num_prediction_draws"}  # training does not look at them


@dataclass
class PresetArguments:
    """Where the defaults come from."""

    _argument_group_name = "preset"

    preset: str = field(
        default="digits",
        metadata={"help": "A name in examples/presets/<script> or path of a JSON file; flags override its values."},
    )


@dataclass
class ModelArguments:
    """Which network to train."""

    _argument_group_name = "model"

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Fine-tune this saved folder or hub id instead of starting from random weights. Onto another label "
            "set, the label anchors and the decoder's label input are re-made and everything else is kept."
        },
    )
    encoder_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or hub id of an image model of transformers (ResNet, ConvNeXt, ViT, DINOv2, ...) that is to be the image "
            "encoder, with its weights if it has any, under a new projection head."
        },
    )
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Fields of LZNConfig as name=value, for example `latent_dim=64 encoder_channel_multipliers=[1,2]`; "
            "values are JSON. They override the preset's model section."
        },
    )
    # Not a flag: the preset's model section with the overrides in it.
    config: dict[str, Any] = field(default_factory=dict, init=False)


@dataclass
class DataArguments:
    """Which images to train on."""

    _argument_group_name = "data"

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "`digits` (ships with scikit-learn; the default without data_dir), `fashion-mnist` with data_dir, or a "
            "dataset id on the Hub."
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder: images in one folder a label (or a zip of it), parquet files, what `save_to_disk` wrote, or IDX files."
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    image_column: str | None = field(default=None, metadata={"help": "Column of the images; default: found by type."})
    label_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the labels, or `folder` for the names of class folders beside a table; default: the only candidate."
        },
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    validation_split: str | None = field(
        default=None,
        metadata={"help": "Split to validate on; default: validation or test, or else a share of the training split."},
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of the training split held out where there is no validation split."}
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Resize and crop images to this many pixels a side; default: their own size."}
    )
    num_channels: int | None = field(
        default=None, metadata={"help": "1 (grey) or 3 (colour); default: that of the first image."}
    )
    skip_bad_images: bool = field(
        default=False,
        metadata={"help": "Leave out images that cannot be read, counted and named, instead of stopping."},
    )
    streaming: bool = field(default=False, metadata={"help": "Read images as they come and keep none."})
    shuffle_buffer_size: int = field(
        default=5000,
        metadata={
            "help": "Images among which a stream is shuffled: more than one label has, where it is sorted by label."
        },
    )
    data_seed: int = field(
        default=0, metadata={"help": "Decides the held-out images and the order of a stream, whatever `seed` is."}
    )
    num_workers: int = field(
        default=0, metadata={"help": "Processes that decode images of data too large for memory."}
    )
    random_flip: bool = field(default=False, metadata={"help": "Mirror training images left to right at random."})
    max_shift: int = field(default=0, metadata={"help": "Move training images at random by up to this many pixels."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Validate on this many images; default: all there are."}
    )

    def __post_init__(self) -> None:
        require_at_least(self, 0, "num_workers", "max_shift", "data_seed")
        require_at_least(self, 1, "max_eval_samples", "shuffle_buffer_size")
        if self.dataset_name is None and self.data_dir is None:
            self.dataset_name = "digits"

    @property
    def hub_dataset(self) -> str | None:
        """Id of the dataset on the Hub, or None if it is from elsewhere."""
        return None if self.data_dir is not None or self.dataset_name == "digits" else self.dataset_name


@dataclass
class RunArguments:
    """What every training script needs: length, optimisation, logging, checkpoints, where results go."""

    _argument_group_name = "training"

    output_dir: str = field(
        default="outputs/train", metadata={"help": "Folder for checkpoints, metrics, samples and the final model."}
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Start anew in a folder that has files: its checkpoints, metrics and samples are deleted."},
    )
    seed: int = field(
        default=0,
        metadata={"help": "Same seed, settings and number of processes: the same run, to the bit on a CPU."},
    )
    total_batch_size: int = field(
        default=256,
        metadata={
            "help": "Images an optimizer step, over all processes and accumulation steps. An anchor pool is one "
            "micro-batch gathered over the processes: total_batch_size / gradient_accumulation_steps images."
        },
    )
    gradient_accumulation_steps: int = field(
        default=1,
        metadata={"help": "Micro-batches a step. More of them save memory but make the anchor pools smaller."},
    )
    max_train_steps: int = field(default=1200, metadata={"help": "Optimizer steps to train."})
    warmup_steps: int = field(
        default=0, metadata={"help": "Steps of linear learning-rate warm-up from 1/warmup_steps."}
    )
    lr_scheduler: Literal["constant", "cosine"] = field(
        default="constant", metadata={"help": "Learning rate after the warm-up: constant, or half a cosine to zero."}
    )
    max_grad_norm: float = field(default=1.0, metadata={"help": "Clip the joint gradient norm of all parts to this."})
    ema_decay: float = field(
        default=0.999,
        metadata={"help": "Moving average of the weights; step n uses min(ema_decay, (1 + n) / (10 + n))."},
    )
    mixed_precision: Literal["no", "fp16", "bf16"] | None = field(
        default=None,
        metadata={
            "help": "Precision of the networks; default: accelerate's configuration. Latent zones stay float32."
        },
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata={
            "help": "Keep few activations of the networks and compute them again: much less memory, a third more time."
        },
    )
    logging_steps: int = field(default=10, metadata={"help": "Steps between two lines of metrics."})
    eval_steps: int | None = field(
        default=None,
        metadata={
            "help": "Steps between two evaluations (validation accuracy, sample grid); default: only at the end."
        },
    )
    checkpointing_steps: int | None = field(
        default=None, metadata={"help": "Steps between two checkpoints; default: none."}
    )
    checkpoints_total_limit: int | None = field(
        default=None, metadata={"help": "Keep at most this many checkpoints; the oldest goes first."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "`latest`, or the folder of a checkpoint: continue it as if it had never stopped."},
    )
    max_nonfinite_steps: int = field(
        default=10,
        metadata={"help": "Stop when this many steps in a row had a non-finite loss or gradient and were skipped."},
    )
    report_to: Literal["none", "tensorboard"] = field(
        default="none", metadata={"help": "Tracker beside the metrics.jsonl that is always written."}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Upload the final folder to the Hugging Face Hub."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Repository to upload to, as user/name; default: the name of output_dir."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print the resolved settings, model sizes and steps, then exit."}
    )

    def __post_init__(self) -> None:
        require_at_least(
            self,
            1,
            "total_batch_size",
            "gradient_accumulation_steps",
            "max_train_steps",
            "logging_steps",
            "eval_steps",
            "checkpointing_steps",
            "checkpoints_total_limit",
            "max_nonfinite_steps",
        )
        require_at_least(self, 0, "warmup_steps", "seed")
        if self.max_grad_norm <= 0:
            raise ValueError(f"`max_grad_norm` must be above 0, but is {self.max_grad_norm}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be at least 0 and below 1, but is {self.ema_decay}.")
        if self.hub_model_id is not None and not self.push_to_hub:
            raise ValueError("`hub_model_id` is given, but nothing is uploaded without `--push_to_hub`.")


def require_at_least(arguments: Any, minimum: float, *names: str) -> None:
    """Raises a ValueError unless the named fields are None or at least `minimum`."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not value >= minimum:
            raise ValueError(f"`{name}` must be at least {minimum}, but is {value}.")


def near_names(name: str, known: Sequence[str]) -> str:
    """`" Did you mean ...?"` with the names most like `name`, or nothing."""
    matches = difflib.get_close_matches(name, known, n=3)
    return f" Did you mean {' or '.join(f'`{match}`' for match in matches)}?" if matches else ""


def read_preset(preset: str, presets_dir: Path, known: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads a preset: a name in `presets_dir`, or the path of a JSON file.

    Returns:
        Its sections; one of the `known` ones that the file lacks is empty.

    Raises:
        ValueError: if there is no such preset, or the file is not a JSON object of known sections.
    """
    path = Path(preset) if preset.endswith(".json") else presets_dir / f"{preset}.json"
    if not path.is_file():
        names = sorted(p.stem for p in presets_dir.glob("*.json"))
        raise ValueError(
            f"`preset` must be one of {', '.join(names)} or the path of a JSON file, but is {preset!r}."
            + near_names(preset, names)
        )
    try:
        sections = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"`preset` {path} is not valid JSON: {error}") from error
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise ValueError(f"`preset` {path} must be a JSON object with the sections {', '.join(known)}.")
    for name in sections:
        if name not in known:
            raise ValueError(f"`preset` {path} has an unknown section {name!r}; sections are {', '.join(known)}.")
    return {name: sections.get(name, {}) for name in known}


def parse_arguments(
    dataclass_types: Mapping[str, type],
    presets_dir: Path,
    argv: Sequence[str] | None = None,
    description: str | None = None,
) -> tuple[Any, ...]:
    """Parses the command line into dataclasses, with a preset's values as defaults.

    Args:
        dataclass_types: Argument dataclasses by the name of their section in a preset. `model` must be
            `ModelArguments`: its section holds fields of `LZNConfig` instead of flags, which go to `config` (unless a
            saved model is given), together with `--config_overrides`.
        presets_dir: Folder with the named presets.
        argv: Command line without the program name; None takes the process's own.
        description: First lines of `--help`.

    Returns:
        An instance of each dataclass, in their order.

    Raises:
        ValueError: for an unknown preset, a field in it that is no flag, or a malformed override.
    """
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=PresetArguments.preset)
    first.add_argument("--dataset_name", "--dataset-name")
    first.add_argument("--data_dir", "--data-dir")
    given = first.parse_known_args(argv)[0]
    preset = read_preset(given.preset, presets_dir, list(dataclass_types))
    config = preset.pop("model")
    if given.data_dir and not given.dataset_name and "/" in preset["data"].get("dataset_name", ""):
        del preset["data"]["dataset_name"]  # a folder on the command line takes the place of a preset's Hub dataset

    parser = HfArgumentParser(
        [PresetArguments, *dataclass_types.values()],
        description=description,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    for section, defaults in preset.items():
        known = [f.name for f in dataclasses.fields(dataclass_types[section]) if f.init]
        for name in defaults:
            if name not in known:
                raise ValueError(
                    f"`preset` {given.preset}: `{name}` in the section {section!r} is no flag.{near_names(name, known)}"
                )
        parser.set_defaults(**defaults)
    parsed = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)[1:]
    model = parsed[list(dataclass_types).index("model")]
    # A saved model brings its own network: the preset's is for random weights.
    model.config = {**({} if model.model_name_or_path else config), **parse_overrides(model.config_overrides)}
    return parsed


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows defaults where there are any, and the description as it is written."""

    def _get_help_string(self, action: Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Turns `["latent_dim=64", "latent_solver=euler"]` into a dictionary; values are JSON, or else plain strings."""
    values: dict[str, Any] = {}
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or not name:
            raise ValueError(f"`config_overrides` must be name=value pairs, but one is {override!r}.")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values


def resolve_settings(config: LZNConfig, **sections: Any) -> dict[str, dict[str, Any]]:
    """The settings of a run, as JSON values.

    Args:
        config: Config of the model at the start of the run.
        sections: Argument dataclasses by the name of their section.
    """
    settings = {"model": {name: getattr(config, name) for name in CONFIG_FIELDS if name not in FIELDS_OF_INFERENCE}}
    settings["model"]["labels"] = list(config.id2label.values())
    for name, arguments in sections.items():
        settings[name] = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(arguments) if f.init}
    return json.loads(json.dumps(settings))


def settings_differences(saved: dict[str, dict[str, Any]], current: dict[str, dict[str, Any]]) -> list[str]:
    """Lists, one line a setting, where `current` would compute something else than the run that `saved` describes."""
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


def describe_run(
    settings: dict[str, dict[str, Any]],
    parts: dict[str, list[Parameter]],
    data: ImageData,
    run: RunArguments,
    num_processes: int,
) -> str:
    """What a dry run prints: all settings, the size of each part of the model, and how the steps are made."""
    lines = [json.dumps(settings, indent=2)]
    sizes = {name: sum(parameter.numel() for parameter in parameters) for name, parameters in parts.items()}
    lines += [
        f"{name + ':':16}{size:>13,} parameters" for name, size in [*sizes.items(), ("total", sum(sizes.values()))]
    ]
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
