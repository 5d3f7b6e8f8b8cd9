# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""From the command line and a preset to argument dataclasses.

A preset is a JSON file with the sections `model` (fields of `LZNConfig`), `data`, `training` and those of the script
(flags). Its values are defaults, which flags on the command line override.
"""

from __future__ import annotations

import dataclasses
import json
from argparse import Action, ArgumentDefaultsHelpFormatter, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from .arguments import PresetArguments, near_names


def parse_arguments(
    dataclass_types: Mapping[str, Any],
    presets_dir: Path,
    argv: Sequence[str] | None = None,
    description: str | None = None,
) -> tuple[Any, ...]:
    """Parses the command line into dataclasses, with the values of a preset as defaults.

    Args:
        dataclass_types (`Mapping[str, type]`): argument dataclasses by the name of their section in a preset. `model`
            must be [`ModelArguments`]: its section holds fields of `LZNConfig` instead of flags. They go to `config`
            (unless a saved model is given), together with `--config_overrides`.
        presets_dir (`Path`): folder of the named presets.
        argv (`Sequence[str]`, *optional*): command line without the program name, by default that of the process.
        description (`str`, *optional*): first lines of `--help`.

    Returns:
        `tuple`: an instance of each dataclass, in their order.

    Raises:
        ValueError: for an unknown preset, an unknown field in it, or a malformed override.
    """
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=PresetArguments.preset)
    first.add_argument("--dataset_name", "--dataset-name")
    first.add_argument("--data_dir", "--data-dir")
    given = first.parse_known_args(argv)[0]
    preset = read_preset(given.preset, presets_dir, list(dataclass_types))
    config = preset.pop("model")
    if given.data_dir and not given.dataset_name and "/" in preset["data"].get("dataset_name", ""):
        del preset["data"]["dataset_name"]  # a folder on the command line replaces a preset's Hub dataset

    parser = HfArgumentParser(
        [PresetArguments, *dataclass_types.values()],  # type: ignore[list-item]  # mypy does not take classes for its protocol
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


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows defaults that are not empty, and keeps the line breaks of the description."""

    def _get_help_string(self, action: Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)
