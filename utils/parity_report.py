# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Shared parts of the parity checks: reading a golden folder, the record of a check, coverage, and the table.

A golden folder has an `index.json` with `files: {name: {header, tensors: {tensor name: {shape, dtype, doc, ...}}}}` and the
safetensors files named there. Every tensor must be accounted for: compared by a [`Check`] of its name, read as an input, or
marked as part of a variant that lzn_hf does not support. A tensor that is none of these fails ([`GoldenFile.check_coverage`]).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor


# Outputs in float32 may differ by this multiple of their noise note. A tensor without a note (a gradient, say) gets the largest
# relative note of any network output in its file, scaled to its own size.
NOISE_FACTOR = 10
MIN_RELATIVE_NOISE = 1e-6  # of a float32 network, in a file without any note
FLOAT64_TOLERANCE = 1e-9  # relative to the largest magnitude in the tensor
FLOAT32_EPS = torch.finfo(torch.float32).eps
NOISE_NOTES = ("max_abs_diff_to_f64", "sensitivity_to_1e6_perturbation_of_x0", "change_under_1e6_input_noise")


@dataclass(frozen=True)
class Check:
    """One comparison, or one tensor that cannot be compared.

    Attributes:
        file: File of the golden folder.
        name: Tensor in the file, or what else was compared.
        group: Row of the table that counts the check.
        error: Largest absolute difference; infinite if there is nothing to compare.
        tolerance: Largest error that passes.
        unsupported: Name of the variant that lzn_hf does not support, if any.
    """

    file: str
    name: str
    group: str
    error: float = math.inf
    tolerance: float = 0.0
    unsupported: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # False for NaN

    @property
    def badness(self) -> float:
        """Error in units of the tolerance, to find the worst check of a group."""
        if self.tolerance and math.isfinite(self.error):
            return self.error / self.tolerance
        return 0.0 if self.passed else math.inf


class GoldenFile:
    """One safetensors file of a golden folder with its part of the index, collecting the checks of its tensors.

    Attributes `folder`, `name`, `header` and `entries` (by tensor) come from the index.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if names, shapes or dtypes in the file are not those of the index.
    """

    def __init__(self, folder: Path, name: str, index: dict[str, Any]) -> None:
        self.folder, self.name = folder, name
        self.header: dict[str, Any] = index["files"][name]["header"]
        self.entries: dict[str, dict[str, Any]] = index["files"][name]["tensors"]
        self.inputs: set[str] = set()
        self.checks: list[Check] = []
        with safe_open(folder / name, "pt") as file:
            self.tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}
        found = {key: (list(value.shape), str(value.dtype)) for key, value in self.tensors.items()}
        wanted = {key: (entry["shape"], f"torch.{entry['dtype']}") for key, entry in self.entries.items()}
        if wrong := sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)):
            raise ValueError(f"{folder / name} is not the file that index.json describes; it differs in {wrong[:5]}.")

    def input(self, name: str) -> Tensor:
        """Returns a tensor that checks start from, which counts as covered."""
        self.inputs.add(name)
        return self.tensors[name]

    def inputs_under(self, prefix: str) -> dict[str, Tensor]:
        """Returns all inputs below a prefix in the order of the index, by the rest of their name."""
        return {name.removeprefix(prefix): self.input(name) for name in self.entries if name.startswith(prefix)}

    def scale(self, name: str) -> float:
        """Returns the largest magnitude in a tensor."""
        return self.tensors[name].double().abs().max().item()

    def noise(self, name: str) -> float | None:
        """Returns the noise note: how far the published float32 number is from float64, or moves with its input."""
        entry = self.entries.get(name, {})
        return next((entry[note] for note in NOISE_NOTES if note in entry), None)

    def relative_noise(self) -> float:
        """Returns the largest relative noise note of a network output in the file."""
        outputs = [name for name in self.entries if re.match(r"(encoder|decoder)/[^/]+$", name)]
        notes = [noise / self.scale(name) for name in outputs if (noise := self.noise(name))]
        return max(notes, default=MIN_RELATIVE_NOISE)

    def check(self, name: str, group: str, error: float, tolerance: float = 0.0) -> None:
        self.checks.append(Check(self.name, name, group, error, tolerance))

    def compare(self, name: str, actual: Tensor, group: str, tolerance: float | None = None, like: str = "") -> None:
        """Compares a tensor with the golden one of this name, if the file has it.

        Args:
            name: Name of the golden tensor.
            actual: Our tensor.
            group: Row of the table.
            tolerance: Largest absolute difference that passes; by default [`NOISE_FACTOR`] times the noise.
            like: Name of the tensor whose noise note holds where this one has none.
        """
        if name not in self.entries:
            return
        if tolerance is None:
            noise = self.noise(name) or self.noise(like) or self.relative_noise() * self.scale(name)
            tolerance = NOISE_FACTOR * noise
        self.check(name, group, max_difference(actual, self.tensors[name]), tolerance)

    def compare_float64(self, name: str, actual: Tensor, group: str) -> None:
        if name in self.entries:
            self.compare(name, actual, group, FLOAT64_TOLERANCE * self.scale(name))

    def mark_unsupported(self, variant: str, prefix: str = "") -> None:
        """Excuses all tensors below a prefix as part of a variant that lzn_hf does not support."""
        self.checks += [
            Check(self.name, name, "", unsupported=variant) for name in self.entries if name.startswith(prefix)
        ]

    def check_coverage(self) -> None:
        """Adds a failed check for each tensor that is neither compared, nor an input, nor of an unsupported variant."""
        covered = self.inputs | {check.name for check in self.checks}
        self.checks += [Check(self.name, name, "not covered") for name in self.entries if name not in covered]


def max_difference(actual: Tensor, expected: Tensor) -> float:
    """Returns max |actual - expected| in float64; infinite for another shape, or where only one of the two is finite."""
    if actual.shape != expected.shape:
        return math.inf
    difference = (actual.detach().double() - expected.double()).abs()
    return difference.nan_to_num(nan=math.inf).amax().item() if difference.numel() else 0.0


def log_weights(weights: Tensor) -> Tensor:
    """Returns log w, with a large negative number for weight 0: the published pdfs need l of all anchors."""
    return weights.double().clamp(min=1e-300).log().to(weights)


def unnormalized(log_probs: Tensor, weights: Tensor) -> Tensor:
    """Returns the published `pdfs`, `w_i exp(l_i - max_j l_j)`, given `log_probs_i = l_i + log w_i + constant`."""
    logits = log_probs - log_weights(weights)
    return weights * (logits - logits.amax(-1, keepdim=True)).exp()


def print_table(checks: Iterable[Check]) -> bool:
    """Prints a row for each file and group with its worst check, then each failure, then the unsupported variants.

    Returns:
        Whether at least one supported check ran and all of them passed.
    """
    groups: dict[tuple[str, str], list[Check]] = {}
    unsupported: Counter[tuple[str, str]] = Counter()
    for check in checks:
        if check.unsupported:
            unsupported[check.file, check.unsupported] += 1
        else:
            groups.setdefault((check.file, check.group), []).append(check)
    failures = [check for members in groups.values() for check in members if not check.passed]

    rows = [("file", "check", "numbers", "max error", "tolerance", "verdict")]
    for (file, group), members in sorted(groups.items()):
        worst = max(members, key=lambda check: check.badness)
        failed = sum(not check.passed for check in members)
        verdict = f"FAIL ({failed})" if failed else "pass"
        rows.append((file, group, str(len(members)), f"{worst.error:.2e}", f"{worst.tolerance:.2e}", verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
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
    passed = sum(map(len, groups.values())) - len(failures)
    print(f"{passed} passed, {len(failures)} failed, {unsupported.total()} of variants that are not supported.")
    return not failures and passed > 0
