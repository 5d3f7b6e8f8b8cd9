# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What a run reads: found, used and left out, so that no image is lost without a word."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


NUM_NAMES = 5  # that stand for all others


@dataclass
class DataSummary:
    """What [`load_image_data`] read; `str()` of it is what a run logs, `to_dict()` is what it saves.

    Args:
        source (`str`): where the images are from.
        found (`dict[str, int]`): images of each split of the source, whether it is used or not; a stream counts none.
        used (`dict[str, int]`): images to train on ("train") and to validate on ("validation").
        validation_from (`str`): where the validation images come from.
        left_out (`dict[str, dict]`): by the reason, the `count` of the files or images that are not used and their `first` names.
        labels (`dict[str, dict[str, int]]`): the images to train on and to validate on of each label; empty without labels.
        labels_from (`str`): the column, or where else the labels come from.
        columns (`list[str]`): all columns that the source has.
        sizes, modes (`dict[str, int]`): images of each size (upright) and of each of Pillow's modes, as they are stored.
        image_size, num_channels (`int`): what all of them become.
        fingerprint (`str`, *optional*): a hash of the training images and their labels, the same wherever they lie.
        unusual (`list[str]`): one sentence each.
    """

    source: str = "unknown"
    found: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    validation_from: str = "none"
    left_out: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    labels_from: str = "none"
    columns: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    image_size: int = 0
    num_channels: int = 0
    fingerprint: str | None = None
    unusual: list[str] = field(default_factory=list)

    def leave_out(self, left_out: Mapping[str, Iterable[str]]) -> None:
        """Adds names of what is not used, by the reason."""
        for reason, names in left_out.items():
            names = list(names)
            if names:
                self.left_out[reason] = {"count": len(names), "first": names[:NUM_NAMES]}

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields as JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        found = (
            ", ".join(f"{count:,} in {split!r}" for split, count in self.found.items()) or "as many as the stream has"
        )
        used = ", ".join(f"{count:,} for {part}" for part, count in self.used.items()) or "all, as they come"
        lines = [
            f"Data: {self.source}",
            f"  images found: {found}",
            f"  images used: {used}, as {self.image_size} x {self.image_size} {'grey' if self.num_channels == 1 else 'RGB'}",
            f"  validation: {self.validation_from}",
            f"  labels: {self._labels()}",
        ]
        if self.columns:
            lines.append(f"  columns: {', '.join(self.columns)}")
        if self.sizes:
            lines.append(f"  stored sizes: {_most(self.sizes)}; modes: {_most(self.modes)}")
        lines += [
            f"  left out, {reason}: {left['count']:,} ({', '.join(map(repr, left['first']))}{', ...' * (left['count'] > NUM_NAMES)})"
            for reason, left in self.left_out.items()
        ]
        return "\n".join(lines + [f"  note: {note}" for note in self.unusual])

    def _labels(self) -> str:
        if not self.labels:
            return self.labels_from
        counts = [
            f"{name!r} {' + '.join(f'{n:,}' for n in parts.values())}".rstrip() for name, parts in self.labels.items()
        ]
        shown = ", ".join(counts[:20]) + (", ..." if len(counts) > 20 else "")
        parts = " + ".join(next(iter(self.labels.values())))
        return f"{len(counts)} from {self.labels_from}: {shown}" + (f" ({parts})" if parts else "")


def _most(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    more = f" and {len(ordered) - NUM_NAMES} more" if len(ordered) > NUM_NAMES else ""
    return ", ".join(f"{name} ({count:,})" for name, count in ordered[:NUM_NAMES]) + more
