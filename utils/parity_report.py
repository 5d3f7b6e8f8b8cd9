# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the parity checks have in common: reading a golden folder, a record for each number checked, coverage, the table.

A golden folder has an `index.json` with `files: {name: {header, tensors: {tensor name: {shape, dtype, doc, ...}}}}` and the
safetensors files named there. Every tensor has to be accounted for: it is compared (it is the name of a [`Check`]), read as
an input, or part of a variant that lzn_hf does not have, which a check names. See [`uncovered`].
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


@dataclass(frozen=True)
class Check:
    """One number that was compared, or one that cannot be.

    Attributes:
        file: File of the golden folder.
        name: Tensor in the file, or what else was compared.
        group: Row of the table that the check is counted in.
        error: Largest absolute difference; infinite if there is nothing to compare.
        tolerance: Largest error that passes.
        unsupported: Name of the variant that lzn_hf does not have; empty if it has it.
    """

    file: str
    name: str
    group: str
    error: float = math.inf
    tolerance: float = 0.0
    unsupported: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # not if the error is NaN

    @property
    def badness(self) -> float:
        """Error in units of the tolerance, by which the worst check of a group is found."""
        if self.passed:
            return self.error / self.tolerance if self.tolerance else 0.0
        return self.error / self.tolerance if 0 < self.tolerance < self.error < math.inf else math.inf


class GoldenFile:
    """One safetensors file of a golden folder, and what its index says about it.

    Attributes `folder`, `name`, `header` and `entries` (by tensor) are those of the index; `inputs` collects what [`input`] reads.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if names, shapes or dtypes in the file are not those of the index.
    """

    def __init__(self, folder: Path, name: str, index: dict[str, Any]) -> None:
        self.folder, self.name = folder, name
        self.header: dict[str, Any] = index["files"][name]["header"]
        self.entries: dict[str, dict[str, Any]] = index["files"][name]["tensors"]
        self.inputs: set[str] = set()
        with safe_open(folder / name, "pt") as file:
            self.tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}
        wrong = sorted(self.entries.keys() ^ self.tensors.keys()) + [
            key
            for key, entry in self.entries.items()
            if key in self.tensors
            and (list(self.tensors[key].shape), str(self.tensors[key].dtype))
            != (entry["shape"], f"torch.{entry['dtype']}")
        ]
        if wrong:
            raise ValueError(f"{folder / name} is not the file that index.json describes; it differs in {wrong[:5]}.")

    def input(self, name: str) -> Tensor:
        """A tensor that checks start from; counts as covered."""
        self.inputs.add(name)
        return self.tensors[name]

    def inputs_under(self, prefix: str) -> dict[str, Tensor]:
        """All inputs whose name starts with the prefix, in the order of the index, by the rest of their name."""
        return {name.removeprefix(prefix): self.input(name) for name in self.entries if name.startswith(prefix)}

    def compare(self, name: str, actual: Tensor, tolerance: float, group: str) -> Check:
        """Check of `actual` against the tensor of this name."""
        return Check(self.name, name, group, max_difference(actual, self.tensors[name]), tolerance)

    def scale(self, name: str) -> float:
        """Largest magnitude in the tensor of this name."""
        return self.tensors[name].double().abs().max().item()

    def noise(self, name: str) -> float | None:
        """The noise note of a tensor: how far the published float32 number is from float64, or moves with its input."""
        notes = ("max_abs_diff_to_f64", "sensitivity_to_1e6_perturbation_of_x0", "change_under_1e6_input_noise")
        return next((self.entries[name][note] for note in notes if note in self.entries[name]), None)


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a golden folder."""
    return json.loads((folder / "index.json").read_text(encoding="utf-8"))


def max_difference(actual: Tensor, expected: Tensor) -> float:
    """max |actual - expected| in float64; infinite for another shape, or where only one of the two is finite."""
    if actual.shape != expected.shape:
        return math.inf
    difference = (actual.detach().double() - expected.double()).abs()
    return difference.nan_to_num(nan=math.inf).amax().item() if difference.numel() else 0.0


def uncovered(file: GoldenFile, checks: Iterable[Check]) -> list[Check]:
    """A failed check for each tensor of the file that is neither checked, nor an input, nor of an unsupported variant."""
    covered = file.inputs | {check.name for check in checks if check.file == file.name}
    return [Check(file.name, name, "not covered") for name in file.entries if name not in covered]


def print_table(checks: Iterable[Check]) -> bool:
    """Prints a row for each file and group with its worst check, then each failure, then what is not supported.

    Returns:
        Whether all supported checks passed, and there was one.
    """
    groups: dict[tuple[str, str], list[Check]] = {}
    unsupported: dict[tuple[str, str], int] = {}
    for check in checks:
        if check.unsupported:
            key = (check.file, check.unsupported)
            unsupported[key] = unsupported.get(key, 0) + 1
        else:
            groups.setdefault((check.file, check.group), []).append(check)
    failures = [check for members in groups.values() for check in members if not check.passed]

    rows = [("file", "check", "numbers", "max error", "tolerance", "verdict")]
    for (file, group), members in sorted(groups.items()):
        worst = max(members, key=lambda check: check.badness)
        failed = sum(not check.passed for check in members)
        verdict = f"FAIL ({failed})" if failed else "pass"
        rows.append((file, group, str(len(members)), f"{worst.error:.2e}", f"{worst.tolerance:.2e}", verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if 2 <= i <= 4 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    for check in sorted(failures, key=lambda check: -check.badness):
        print(f"FAIL {check.file} {check.name}: error {check.error:.3e}, tolerance {check.tolerance:.3e}")
    for (file, variant), count in sorted(unsupported.items()):
        print(f"not supported: {file} {variant} ({count} tensors)")
    passed = sum(len(members) for members in groups.values()) - len(failures)
    print(f"{passed} passed, {len(failures)} failed, {sum(unsupported.values())} of variants that are not supported.")
    return not failures and passed > 0
