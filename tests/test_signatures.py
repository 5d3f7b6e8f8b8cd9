# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What overrides a method of a library, or the constructor of a layer of PyTorch, can be called as that one: the parameters are the same, in
the same order, with the same defaults."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator

import pytest
from diffusers import DiffusionPipeline
from torch import nn

import lzn_hf


LAYERS = (nn.Conv2d, nn.Linear, nn.GroupNorm)


def public_classes() -> Iterator[type]:
    """Each class that a module of the package defines."""
    names = [module.name for module in pkgutil.walk_packages(lzn_hf.__path__, "lzn_hf.")]
    for module in map(importlib.import_module, names):
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == module.__name__ and not cls.__name__.startswith("_"):
                yield cls


def overrides() -> Iterator[tuple[type, str, type]]:
    """Each class with the name of a public method that overrides one of a base, and this base."""
    for cls in public_classes():
        for name in vars(cls):
            base = next((base for base in cls.__mro__[1:] if name in vars(base)), None)
            is_public = not name.startswith("_") and inspect.isroutine(getattr(cls, name))
            # `nn.Module.forward(*input)` says nothing about the arguments of its overrides.
            if is_public and base is not None and (base, name) != (nn.Module, "forward"):
                yield cls, name, base


def layers() -> Iterator[tuple[type, type]]:
    """Each layer of the package and the layer of PyTorch that it is."""
    for cls in public_classes():
        if issubclass(cls, LAYERS):
            yield cls, next(base for base in LAYERS if issubclass(cls, base))


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


@pytest.mark.parametrize(("cls", "base"), list(layers()), ids=lambda cls: cls.__name__)
def test_layers_are_built_as_those_of_pytorch(cls, base):
    """Adapters and quantisation build `type(layer)(in_channels, out_channels, kernel_size, stride=..., padding=..., ...)`."""
    assert not differences(cls, base)


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
    names = {cls.__name__ for cls, _ in layers()}
    assert names >= {"ScaledConv2d", "ScaledLinear", "HeConv2d", "ZeroGroupNorm", "GroupNormSiLU"}


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
