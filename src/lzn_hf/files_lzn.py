# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The files of a saved folder: JSON objects of plain values, and weights that carry a checksum; or errors that name file and field.

One rule for all of them: an `OSError` for a file that is missing or that nobody could read (no JSON, no safetensors, other bytes than
were written), a `ValueError` for what a readable file says.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.utils import cached_file

from .checks_lzn import check_choice, near_matches


# Of a JSON file, far above those of a model with 100,000 labels, its nesting, its fields at the top, and the size of its whole numbers.
MAX_BYTES, MAX_DEPTH, MAX_FIELDS, MAX_NUMBER = 2**24, 16, 1000, 2**63
# Fields of config.json that are not of the configuration: where the model comes from, the code that reads it, and what libraries add.
FILE_FIELDS = (
    "_name_or_path",
    "auto_map",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "quantization_config",
    "torch_dtype",
)
# Fields that make transformers load something else: attention from another repository of the Hub, whose code it runs, and other files.
REFUSED_FIELDS = ("attn_implementation", "configuration_files", "experts_implementation")
# Types that a model may be stored in, as config.json names them.
DTYPES = (None, "float64", "float32", "float16", "bfloat16")
# Of the text of an error, which may quote the file.
MAX_MESSAGE = 1500
# Under this name a file of weights has the checksum of its tensors.
CHECKSUM = "crc32"
CHUNK = 2**24
# The bytes of a file of safetensors that say how long its header is.
LENGTH_BYTES = 8
# What `from_pretrained` needs to find a file of a repository.
LOCATION_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


@contextmanager
def naming(file: object) -> Iterator[None]:
    """Errors about a value inside are a `ValueError` that begins with the name of the file, or folder, that has it."""
    try:
        yield
    except (ValueError, StrictDataclassError) as error:
        text = str(error)
        if text.startswith(str(file)) and isinstance(error, ValueError):
            raise
        text = text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} ..."
        raise ValueError(f"{file}: {text}") from error


def find_file(folder: str | os.PathLike, name: str, location: Mapping[str, Any]) -> str | None:
    """Finds a file of a folder or a repository by the arguments of `from_pretrained`; `None` if it has none."""
    location = {key: value for key, value in location.items() if key in LOCATION_ARGUMENTS}
    path: Any = cached_file(folder, name, _raise_exceptions_for_missing_entries=False, **location)
    return path


def read_object(path: str | os.PathLike, infinite: Collection[str] = ()) -> dict[str, Any]:
    """Reads a JSON file of a saved folder.

    Args:
        path (`str` or `os.PathLike`): the file.
        infinite (`Collection[str]`, *optional*): fields whose number may be infinite.

    Returns:
        `dict`: its fields.

    Raises:
        OSError: if the file is missing, or no JSON in UTF-8.
        ValueError: if it is larger than 16 MiB, no object, nested too deep, has a field twice, or a number that is NaN, infinite or too large.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path}: must have at most {MAX_BYTES:,} bytes, got {os.path.getsize(path):,}.")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise _ContentError(f"the field {twice!r} must be given once, got it twice.")
        return fields

    try:
        fields = json.loads(content.decode("utf-8"), object_pairs_hook=unique)
    except _ContentError as error:
        raise ValueError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: must be nested at most {MAX_DEPTH} deep.") from error
    except ValueError as error:  # no UTF-8, no JSON, or a number of thousands of digits
        raise OSError(f"{path} is not a valid JSON file: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: must be a JSON object, got a {type(fields).__name__}.")
    if len(fields) > MAX_FIELDS:
        raise ValueError(f"{path}: must have at most {MAX_FIELDS} fields, got {len(fields)}.")
    with naming(path):
        check_plain(fields, infinite)
    return fields


class _ContentError(ValueError):
    """An error about the content of a file that is JSON."""


def check_plain(fields: Mapping[str, Any], infinite: Collection[str] = ()) -> None:
    """Raises a `ValueError` that names the field, unless values are nested at most 16 deep and numbers are finite and of 64 bits."""
    stack: list[tuple[str, Any, int]] = [(name, value, 1) for name, value in fields.items()]
    while stack:
        name, value, depth = stack.pop()
        if isinstance(value, (dict, list, tuple)):
            if depth == MAX_DEPTH:
                raise ValueError(f"`{name}` must be nested at most {MAX_DEPTH} deep.")
            items = value.items() if isinstance(value, dict) else enumerate(value)
            # The names of deep fields would make long lists slow, and say little more.
            path = name if depth > 2 else None
            stack += [(path or f"{name}.{key}", one, depth + 1) for key, one in items]
        elif isinstance(value, float) and not math.isfinite(value) and name not in infinite:
            raise ValueError(f"`{name}` must be finite, got {value}.")
        elif isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise ValueError(f"`{name}` must be a number of at most 64 bits, got one of {value.bit_length()}.")


def check_names(fields: Mapping[str, Any], known: Collection[str], owner: type) -> None:
    """Raises a `ValueError` for the name of a method or another member of the class that reads the fields, and for a misspelt one.

    Other unknown names stay: tools write notes of their own into these files, and libraries fields of later versions.
    """
    for name in fields:
        if name in known:
            continue
        if name.startswith("_") or hasattr(owner, name):
            raise ValueError(f"`{name}` is no field of a {owner.__name__}.")
        if near := near_matches(name, known, cutoff=0.8):
            raise ValueError(f"`{name}` is no field of a {owner.__name__}. Did you mean `{near[0]}`?")


def check_config_fields(cls: type[PreTrainedConfig], fields: Mapping[str, Any]) -> None:
    """Raises a `ValueError` for fields of a file that no configuration of this package has, or that ask for something else to be loaded."""
    check_plain(fields)
    check_names(fields, {*vars(cls)["__dataclass_fields__"], *FILE_FIELDS}, cls)
    for name in REFUSED_FIELDS:
        if fields.get(name) is not None:
            raise ValueError(f"`{name}` must not be in the file of a configuration, got {fields[name]!r}.")
    check_choice((None, cls.model_type), model_type=fields.get("model_type"))
    for name in ("dtype", "torch_dtype"):
        value = fields.get(name)
        if not isinstance(value, torch.dtype):  # of a configuration that was no file
            check_choice(DTYPES, **{name: value})


def stamp_weights(path: Path) -> None:
    """Writes the checksum of its tensors into a file of safetensors, unless it has one.

    In place, because there may be no room for a copy. Until all is written, the file has a length that every reader refuses.
    """
    with open(path, "r+b") as file:
        old = file.read(int.from_bytes(file.read(LENGTH_BYTES), "little"))
        header = json.loads(old)
        metadata = header.setdefault("__metadata__", {})
        if CHECKSUM in metadata:
            return
        metadata[CHECKSUM] = checksum(path)
        new = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        new += b" " * (-len(new) % LENGTH_BYTES)
        start, shift = LENGTH_BYTES + len(old), len(new) - len(old)
        end = file.seek(0, os.SEEK_END)
        file.write(b"\0" * shift)  # the room, before anything is moved
        file.seek(0)
        file.write(b"\xff" * LENGTH_BYTES)
        file.flush()
        while end > start:  # from the back, as the parts overlap
            begin = max(start, end - CHUNK)
            file.seek(begin)
            part = file.read(end - begin)
            file.seek(begin + shift)
            file.write(part)
            end = begin
        file.seek(LENGTH_BYTES)
        file.write(new)
        file.flush()
        file.seek(0)
        file.write(len(new).to_bytes(LENGTH_BYTES, "little"))


def checksum(path: str | os.PathLike) -> str:
    """Computes the checksum of all bytes of a file of safetensors but its metadata. It tells of damage, not of forgery."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(LENGTH_BYTES), "little")))
        header.pop("__metadata__", None)
        value = zlib.crc32(json.dumps(header, sort_keys=True).encode())
        while part := file.read(CHUNK):
            value = zlib.crc32(part, value)
    return f"{value:08x}"


def plain_name(tensor: str) -> str:
    """The name of a tensor in files of any age, of a model and of a classifier alike."""
    return re.sub(r"^lzn\.|(?<=_anchors)\.weight$", "", tensor)


__all__ = [
    "CHECKSUM",
    "LOCATION_ARGUMENTS",
    "check_config_fields",
    "check_names",
    "check_plain",
    "checksum",
    "find_file",
    "naming",
    "plain_name",
    "read_object",
    "stamp_weights",
]
