# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Checks of arguments: the values they accept, and the errors that name those they refuse."""

from __future__ import annotations

import re

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


@pytest.mark.parametrize(
    ("bad", "right"),
    [
        (0, "got 0: pass torch.Generator().manual_seed(0)."),
        (np.int64(7), "pass torch.Generator().manual_seed(7)."),
        ([3, 4], "got [3, 4]: pass [torch.Generator().manual_seed(3), ...]."),
        ([torch.Generator(), None], "None]: pass [torch.Generator().manual_seed(seed), ...]."),
        ((torch.Generator(),), "pass [torch.Generator().manual_seed(seed), ...]."),
        (np.random.default_rng(0), "pass torch.Generator().manual_seed(seed)."),
    ],
)
def test_a_seed_is_no_generator(bad, right):
    with pytest.raises(
        ValueError, match=f"^`generator` must be a torch.Generator or a list of them, .*{re.escape(right)}$"
    ):
        check_generators(bad, 2)


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


def test_an_id_that_is_the_name_of_another_label_is_refused():
    names = sorted(map(str, range(12)))  # 0, 1, 10, 11, 2, ...
    label2id = {name: i for i, name in enumerate(names)}
    message = "^`label` 2 is ambiguous: id 2 is '10', and '2' is the name of id 4: pass label=\"10\" or label=\"2\".$"
    for label in (2, np.int64(2), [0, 2]):
        with pytest.raises(ValueError, match=message):
            labels_to_ids(label, label2id)
    assert labels_to_ids(["2", "10", 0, 1], label2id).tolist() == [4, 2, 0, 1]
    digits = {str(i): i for i in range(10)}
    assert labels_to_ids(list(range(10)), digits).tolist() == list(range(10))
    with pytest.raises(
        ValueError, match="^`label` must be in 0..2, got 10. '10' is the name of id 2: pass label='10'.$"
    ):
        labels_to_ids(10, {"0": 0, "5": 1, "10": 2})
    with pytest.raises(ValueError, match="^`label` must be in 0..2, got 3.$"):
        labels_to_ids(3, {"0": 0, "5": 1, "10": 2})


def test_a_name_is_the_same_in_every_unicode_form():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for label, name in ((composed, decomposed), (decomposed, composed), (composed, composed)):
        assert labels_to_ids(label, {"tea": 0, name: 1}).tolist() == [1]
