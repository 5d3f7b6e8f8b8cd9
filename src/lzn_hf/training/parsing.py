# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""From the command line and a preset to argument dataclasses.

A preset is a JSON file with the sections `model` (fields of `LZNConfig`), `data`, `training` and those of the script
(flags). Its values are defaults, which flags on the command line override. Data on the command line replaces that of the
preset; a preset without data needs some on the command line. `data` may also have `facts`, which a dry run uses instead of
the data.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.sources import IDX_FILE
from .arguments import PresetArguments, near_names
from .command_line import CommandLineParser, require_finite


PRESETS_DIR = Path(__file__).resolve().parent.parent / "presets"  # of the package, a folder for each kind of training
# Flags that say where the images and labels are.
SOURCE_FLAGS = (
    "dataset_name",
    "data_dir",
    "dataset_config_name",
    "image_column",
    "label_column",
    "train_split",
    "validation_split",
    "streaming",
    "shuffle_buffer_size",
)
PRESET_FACTS = ("image_size", "num_channels", "label_names", "train_images")


def parse_arguments(
    dataclass_types: Mapping[str, Any],
    presets_dir: Path,
    argv: Sequence[str] | None = None,
    description: str | None = None,
    default_preset: str = PresetArguments.preset,
) -> tuple[Any, ...]:
    """Parses the command line into dataclasses, with the values of a preset as defaults.

    Args:
        dataclass_types (`Mapping[str, type]`): argument dataclasses by the name of their section in a preset. `model`
            must be [`ModelArguments`]: its section holds fields of `LZNConfig` instead of flags. They go to `config`
            (unless a saved model is given), together with `--config_overrides`. `data` must be [`DataArguments`] and
            `training` [`RunArguments`].
        presets_dir (`Path`): folder of the named presets, named after the kind of training.
        argv (`Sequence[str]`, *optional*): command line without the program name, by default that of the process.
        description (`str`, *optional*): first lines of `--help`.
        default_preset (`str`, *optional*, defaults to `"digits"`): the preset without `--preset`.

    Returns:
        `tuple`: an instance of each dataclass, in their order.

    Raises:
        ValueError: for an unknown flag, preset or field of a preset, a value that is not allowed, a malformed override, or if
            neither the command line nor the preset has data.
    """
    parser = CommandLineParser([PresetArguments, *dataclass_types.values()], description)
    names = ", ".join(sorted(path.stem for path in presets_dir.glob("*.json")))
    parser.set_defaults(preset=default_preset)
    parser.describe_flag("preset", f"One of {names}, or the path of a JSON file; flags override its values.")
    given = parser.flags_given(argv)
    preset_name = given.get("preset", default_preset)
    preset = read_preset(preset_name, presets_dir, list(dataclass_types))
    config, facts = preset.pop("model"), preset["data"].pop("facts", {})
    for section, defaults in preset.items():
        known = [f.name for f in dataclasses.fields(dataclass_types[section]) if f.init]
        _refuse_unknown(defaults, known, preset_name, section)
    _refuse_unknown(facts, PRESET_FACTS, preset_name, "facts")

    is_replaced = not has_same_source(given, preset["data"])
    if is_replaced and {"dataset_name", "data_dir"} & set(preset["data"]):
        preset.get("text", {}).pop("captions", None)  # which describe the labels of the data
    if is_replaced:
        preset["data"] = {name: value for name, value in preset["data"].items() if name not in SOURCE_FLAGS}
    if is_replaced or "output_dir" not in preset["training"]:
        preset["training"]["output_dir"] = default_output_dir(presets_dir.name, {**preset["data"], **given})
    for defaults in preset.values():
        parser.set_defaults(**defaults)
    parsed = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)[1:]
    model, data = (parsed[list(dataclass_types).index(section)] for section in ("model", "data"))
    # A saved model brings its own network: the preset's is for random weights.
    model.config = {**({} if model.model_name_or_path else config), **parse_overrides(model.config_overrides)}
    require_finite(model.config)
    _require_source({**preset["data"], **given}, preset_name)
    if not is_replaced and not set(SOURCE_FLAGS[1:]) & set(given):  # other flags may change what is known of the data
        data.facts = facts
    return parsed


def _refuse_unknown(values: Mapping[str, Any], known: Sequence[str], preset: str, section: str) -> None:
    for name in values:
        if name not in known:
            raise ValueError(
                f"`preset` {preset}: `{name}` in the section {section!r} is no flag.{near_names(name, known)}"
            )


def _require_source(data: Mapping[str, Any], preset: str) -> None:
    if data.get("dataset_name") is None and data.get("data_dir") is None:
        raise ValueError(
            f"`data_dir` is missing: the preset {preset} has no data of its own. Pass `--data_dir FOLDER` with your images, or "
            "`--dataset_name` with the id of a dataset on the Hub."
        )


def has_same_source(given: Mapping[str, Any], preset: Mapping[str, Any]) -> bool:
    """Returns whether the flags that are given leave the data of a preset as it is.

    A preset for Fashion-MNIST does not say where its IDX files are: any folder of IDX files is the same data.

    Args:
        given (`Mapping[str, Any]`): the flags on the command line.
        preset (`Mapping[str, Any]`): the section `data` of the preset.
    """
    dataset_name, data_dir = given.get("dataset_name"), given.get("data_dir")
    preset_name = preset.get("dataset_name")
    if dataset_name not in (None, preset_name):
        return False
    if data_dir is None or dataset_name is not None:
        return True
    folder = Path(data_dir)
    if preset_name == "fashion-mnist":
        return folder.is_dir() and any(IDX_FILE.fullmatch(path.name) for path in folder.iterdir())
    return "data_dir" in preset and folder.resolve() == Path(preset["data_dir"]).resolve()


def default_output_dir(kind: str, data: Mapping[str, Any]) -> str:
    """Returns the output folder of a run on data that is not its preset's, for example `outputs/joint-my_images`.

    Args:
        kind (`str`): the kind of training.
        data (`Mapping[str, Any]`): see [`source_name`].
    """
    return f"outputs/{kind}-{source_name(data)}"


def source_name(data: Mapping[str, Any]) -> str:
    """Returns a short name of the data that the flags `dataset_name` and `data_dir` with these values say, for folders."""
    if data.get("dataset_name") is not None or data.get("data_dir") is None:
        return (data.get("dataset_name") or "images").rpartition("/")[2]
    folder = Path(data["data_dir"]).resolve()
    return folder.stem if folder.suffix.lower() == ".zip" else folder.name


def read_preset(preset: str, presets_dir: Path, known: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads a preset: a name in `presets_dir`, or the path of a JSON file.

    Returns:
        `dict`: the `known` sections by name. Those absent from the file are empty.

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


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Turns `["latent_dim=64", "latent_solver=euler"]` into a dictionary. Values are JSON, or else plain strings."""
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
