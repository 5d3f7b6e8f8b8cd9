# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The names of labels by id, from the fields of a configuration that say so, and the fields that follow from them."""

from __future__ import annotations

from typing import Any

from .checks_lzn import check_at_least, normal_name


class LabelNames:
    """A configuration whose `label2id` follows its `id2label`, whenever that is set."""

    def __setattr__(self, name: str, value: Any) -> None:
        is_built = "label2id" in vars(self)  # both fields have been given, and are checked together
        if name == "id2label" and is_built and value is not None:
            value = label_names_by_id(value, None, None)
            super().__setattr__("label2id", {label: i for i, label in value.items()})
        super().__setattr__(name, value)


def label_names_by_id(id2label: dict | None, label2id: dict | None, num_labels: int | None) -> dict[int, str]:
    """Returns the names of labels by id, from those of the three fields that are not `None`. They must agree."""
    if num_labels is not None:
        check_at_least(0, num_labels=num_labels)
    for field, value in (("id2label", id2label), ("label2id", label2id)):
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"`{field}` must be a dict, got {value!r}.")
    names = None if id2label is None else _names_by_id("id2label", list(id2label.items()))
    if label2id is not None:
        inverse = _names_by_id("label2id", [(i, name) for name, i in label2id.items()])
        names = inverse if names is None else names
        for i in sorted({*names, *inverse}):
            if names.get(i) != inverse.get(i):
                raise ValueError(
                    f"`id2label` and `label2id` must agree: the name of id {i} is {names.get(i)!r} in `id2label`, but "
                    f"{inverse.get(i)!r} in `label2id`. Pass one of the two."
                )
    if names is None:
        return {i: f"LABEL_{i}" for i in range(num_labels or 0)}
    if num_labels not in (None, len(names)):
        raise ValueError(f"`num_labels` must be {len(names)}, the number of names that are given, got {num_labels}.")
    return names


def _names_by_id(field: str, pairs: list[tuple[int | str, str]]) -> dict[int, str]:
    """Returns the (id, name) pairs of a field of the configuration by id. Ids and names must not repeat."""
    if not all(isinstance(i, (int, str)) for i, _ in pairs):
        raise ValueError(f"`{field}` must have whole numbers as ids, got {[i for i, _ in pairs]}.")
    ids = [int(i) if str(i).isdecimal() else i for i, _ in pairs]
    if set(ids) != set(range(len(ids))):
        raise ValueError(f"`{field}` must be a dict with each id of 0..{len(ids) - 1} once, got the ids {ids}.")
    names = {int(i): name for i, (_, name) in sorted(zip(ids, pairs, strict=True))}
    if not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"`{field}` must have strings as names, got {list(names.values())}.")
    if len({normal_name(name) for name in names.values()}) < len(names):
        raise ValueError(
            f"`{field}` must be a dict with a different name for each label (NFC and NFD forms of a name are the same), got "
            f"{list(names.values())}."
        )
    return names


__all__ = ["LabelNames", "label_names_by_id"]
