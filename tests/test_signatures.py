# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A method that overrides one of a library can be called as that one: same parameters, in the same order, with the same defaults."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator

import pytest
import torch
from diffusers import DiffusionPipeline

import lzn_hf


def overrides() -> Iterator[tuple[type, str, type]]:
    """Each class of the package with the name of a public method that overrides one of a base, and this base."""
    names = [module.name for module in pkgutil.walk_packages(lzn_hf.__path__, "lzn_hf.")]
    for module in map(importlib.import_module, names):
        for cls in vars(module).values():
            if not inspect.isclass(cls) or cls.__module__ != module.__name__ or cls.__name__.startswith("_"):
                continue
            for name in vars(cls):
                base = next((base for base in cls.__mro__[1:] if name in vars(base)), None)
                is_public = not name.startswith("_") and inspect.isroutine(getattr(cls, name))
                # `nn.Module.forward(*input)` says nothing about the arguments of its overrides.
                if is_public and base is not None and (base, name) != (torch.nn.Module, "forward"):
                    yield cls, name, base


def differences(override: Callable, base: Callable) -> list[str]:
    """What keeps `override` from being called as `base`. It may have more keyword-only parameters, with defaults."""
    ours, theirs = (list(inspect.signature(method).parameters.values()) for method in (override, base))
    known = {parameter.name for parameter in theirs}
    own = [one for one in ours if one.name not in known and one.kind is inspect.Parameter.KEYWORD_ONLY]
    found = [f"`{one.name}` has no default" for one in own if one.default is inspect.Parameter.empty]
    kept = [(one.name, one.kind, one.default) for one in ours if one not in own]
    expected = [(one.name, one.kind, one.default) for one in theirs]
    return found if kept == expected else [*found, f"{kept} instead of {expected}"]


@pytest.mark.parametrize(
    ("cls", "name", "base"), list(overrides()), ids=lambda value: getattr(value, "__name__", value)
)
def test_overrides_can_be_called_as_their_base(cls, name, base):
    assert not differences(getattr(cls, name), getattr(base, name))


def test_the_overrides_are_found():
    found = {(cls.__name__, name) for cls, name, _ in overrides()}
    assert found >= {
        *(
            (("FlatFolderPipeline", name))
            for name in ("from_pretrained", "download", "save_pretrained", "push_to_hub")
        ),
        *((("LZNConfig", name)) for name in ("from_dict", "to_diff_dict")),
        *((("LZNImageProcessor", name)) for name in ("from_dict", "process_image")),
        ("GroupNormSiLU", "forward"),
    }


def test_what_makes_an_override_bad():
    def first(self, save_directory, push_to_hub=False, *, repo_id=None):
        """The second positional argument means something else."""

    def save(self, folder, safe_serialization=True):
        """The base."""

    def renamed(self, path, safe_serialization=True):
        pass

    def without_default(self, folder, safe_serialization):
        pass

    def keyword_only(self, folder, *, safe_serialization=True):
        pass

    def inserted(self, folder, variant=None, safe_serialization=True):
        pass

    def appended(self, folder, safe_serialization=True, variant=None):
        pass

    def needs_more(self, folder, safe_serialization=True, *, variant):
        pass

    def good(self, folder: str, safe_serialization: bool = True, *, variant: str | None = None) -> str:
        pass

    assert differences(first, DiffusionPipeline.save_pretrained)
    for bad in (renamed, without_default, keyword_only, inserted, appended, needs_more):
        assert differences(bad, save), bad.__name__
    assert not differences(good, save) and not differences(save, save)
