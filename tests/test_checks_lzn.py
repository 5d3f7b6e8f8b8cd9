# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Checks of arguments: the values they accept, and the errors that name those they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lzn_hf.checks_lzn import check_at_least, check_choice, check_generators, check_tensor, labels_to_ids, near_matches


def test_whole_numbers():
    check_at_least(2, a=2, b=np.int64(3))
    for bad in (1, -5, 2.0, "2", True, None, float("nan")):
        with pytest.raises(ValueError, match=f"^`b` must be a whole number of at least 2, got {bad!r}"):
            check_at_least(2, a=2, b=bad)


def test_choices():
    check_choice((None, "euler"), solver=None)
    with pytest.raises(ValueError, match="^`solver` must be one of None, 'euler', got 'rk4'"):
        check_choice((None, "euler"), solver="rk4")


def test_shapes():
    check_tensor("x", torch.zeros(5, 3), ("N", 3))
    for bad in (torch.zeros(3), torch.zeros(0, 3), torch.zeros(5, 4), torch.zeros(5, 3, 1)):
        with pytest.raises(ValueError, match=r"^`x` must be a tensor of shape \(N, 3\), got shape"):
            check_tensor("x", bad, ("N", 3))
    with pytest.raises(ValueError, match="^`x` must be finite"):
        check_tensor("x", torch.tensor([[0.0, torch.inf, 0.0]]), ("N", 3))


def test_generators():
    for good in (None, torch.Generator(), [torch.Generator(), torch.Generator()]):
        check_generators(good, 2)
    with pytest.raises(ValueError, match="^`generator` must be one or a list of 2, one an image, got 1"):
        check_generators([torch.Generator()], 2)


def test_near_matches():
    known = ["seven", "eleven", "one", "sever", "severe"]
    assert near_matches("sevn", known) == ["seven", "sever", "severe"]  # three, best first
    assert near_matches("xyzzy", known) == []


def test_labels():
    label2id = {"cat": 0, "dog": 1, "eel": 2}
    ids = labels_to_ids(["eel", 0, np.int64(1)], label2id)
    assert ids.tolist() == [2, 0, 1] and ids.dtype == torch.int64
    assert labels_to_ids("dog", label2id).tolist() == [1]
    with pytest.raises(
        ValueError, match="^`label` 'dig' is unknown. Did you mean 'dog'[?] The model has 3 labels: 'cat'"
    ):
        labels_to_ids("dig", label2id)
    with pytest.raises(ValueError, match="^`label` must be None, as the model has no labels"):
        labels_to_ids(0, {})
