# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A folder that is damaged or hostile gives an error that says where, or the same output, soon and in little memory. Never anything else."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers.hostile_folders import FILES, JSON_FILES, WAYS_IN, WEIGHTS, Mutation, json_places, measure
from helpers.models import perturbed, tiny_config
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lzn_hf import LZNModel, LZNPipeline


METHODS = [
    "forward",
    "save_pretrained",
    "from_pretrained",
    "__class__",
    "to_dict",
    "_check",
    "preprocess",
    "step",
    "config",
]
VALUES = [
    *(None, True, False, 0, 1, -1, 3, 10**9, -(10**9), 2**40, 10**12, 10**400, 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "forward", "os", "../..", "10", "\0\n\x1b[2J", "ä" * 10_000),
    *([], [None], [1], [0.5], [1] * 1000, [[1]], {}, {"a": 1}, {"0": "x"}, {"height": -1, "width": 10**9}),
    json.loads("[" * 50 + "]" * 50),
]
CONTENTS = [
    *(
        b"",
        b"[]",
        b"{}",
        b"5",
        b"null",
        b'"x"',
        b"true",
        b"NaN",
        b"{",
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
    ),
    *(b'{"a":' * 3000 + b"1" + b"}" * 3000, b'{"model_type": "lzn", "model_type": "lzn"}', b'{"model_type": "bert"}'),
    *(b'{"image_size": ' + b"9" * 5000 + b"}", b'{"auto_map": 5}', b'{"model_type": ["lzn"]}'),
]
TENSORS = [
    "missing",
    "renamed",
    "more",
    "nan",
    "infinite",
    "integers",
    "complex",
    "bool",
    "half",
    "huge",
    "flat",
    "more rows",
    "empty",
    "scalar",
]
# What once gave a wrong result, an obscure error, or took too much.
CORPUS = [
    Mutation("add", "config.json", ("attn_implementation",), "someone/kernel"),
    Mutation("add", "config.json", ("_check",), 5),
    Mutation("value", "config.json", ("dtype",), "float999"),
    Mutation("value", "config.json", ("reconstruction_weight",), float("inf")),
    Mutation("value", "config.json", ("encoder_base_channels",), 8192),
    Mutation("value", "config.json", ("encoder_channel_multipliers",), [64, 64]),
    Mutation("value", "config.json", ("encoder_num_res_blocks",), 100),
    Mutation("value", "config.json", ("num_reference_anchors",), 1_000_000),
    Mutation("value", "config.json", ("num_prediction_draws",), 10_000),
    Mutation("value", "config.json", ("latent_num_steps",), 1000),
    Mutation("value", "config.json", ("image_size",), 4096),
    Mutation("rename", "config.json", ("alignment_num_steps",), "alignment_num_stps"),
    Mutation("value", "scheduler_config.json", ("num_train_timesteps",), 10**12),
    Mutation("value", "scheduler_config.json", ("flow_shift",), 0),
    Mutation("value", "scheduler_config.json", ("flow_shift",), 1e-300),
    Mutation("value", "scheduler_config.json", ("solver_order",), 100),
    Mutation("value", "scheduler_config.json", ("_class_name",), "DDIMScheduler"),
    Mutation("value", "scheduler_config.json", ("solver_type",), "bh1"),
    Mutation("value", "scheduler_config.json", ("solver_type",), "x"),
    Mutation("add", "scheduler_config.json", ("step",), 5),
    Mutation("add", "scheduler_config.json", ("__class__",), -1),
    Mutation("value", "preprocessor_config.json", ("size", "height"), 16),
    Mutation("value", "preprocessor_config.json", ("size",), [-8, -8]),
    Mutation("value", "preprocessor_config.json", ("image_mean",), [0.5, 0.5, 0.5]),
    Mutation("value", "preprocessor_config.json", ("image_std",), [0.0]),
    Mutation("add", "preprocessor_config.json", ("preprocess",), 5),
    Mutation("value", "model_index.json", ("model",), ["os", "system"]),
    Mutation("value", "model_index.json", ("_class_name",), ["evil", "LZNPipeline"]),
    Mutation("add", "model_index.json", ("safety_checker",), ["os", "system"]),
    Mutation("flip", WEIGHTS, 0.9, 6),
    Mutation("flip header", WEIGHTS, 0.5, 2),
    Mutation("tensor", WEIGHTS, 0.0, "missing"),
    Mutation("directory", "config.json"),
    Mutation("swap", "config.json", None, "preprocessor_config.json"),
    *(Mutation("write", file, None, content) for file, content in zip(JSON_FILES * 4, CONTENTS, strict=False)),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    # Settings that are not the defaults, so that it matters if they are lost.
    model = perturbed(LZNModel(tiny_config(num_labels=5, encoder_skip_rescale=False, prediction_time=0.7)))
    model.set_reference_anchors(torch.randn(6, 6))
    folder = tmp_path_factory.mktemp("saved") / "model"
    LZNPipeline.from_model(model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(saved) -> dict[str, torch.Tensor]:
    return {name: way_in(saved) for name, way_in in WAYS_IN.items()}


def mutations(saved: Path) -> st.SearchStrategy[Mutation]:
    """All that may happen to a folder."""
    places = [(file, place) for file in JSON_FILES for place in json_places(json.loads((saved / file).read_text()))]
    fields = [(file, place) for file, place in places if isinstance(place[-1], str)]
    values = st.sampled_from([*VALUES, *{json.dumps(one): one for one in VALUES}.values()])
    unit, bit = st.floats(0, 1, exclude_max=True), st.integers(0, 7)
    names = st.sampled_from(METHODS) | st.text(max_size=10)

    def build(kind, where, *rest):
        return st.tuples(st.sampled_from(where), *rest).map(lambda drawn: Mutation(kind, *drawn[0], *drawn[1:]))

    def damage(kind, *rest):
        return st.tuples(*rest).map(lambda drawn: Mutation(kind, *drawn))

    misspelt = st.tuples(st.sampled_from(fields), st.sampled_from("_xs"))
    files = st.sampled_from(FILES)
    return st.one_of(
        build("value", places, values),
        build("value", places, values),
        build(
            "value", places, st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
        ),
        build("delete", fields),
        build("rename", fields, names),
        misspelt.map(lambda drawn: Mutation("rename", *drawn[0], drawn[0][1][-1][:-1] + drawn[1])),
        build("add", [(file, (name,)) for file in JSON_FILES for name in METHODS], values),
        damage("write", st.sampled_from([*JSON_FILES, WEIGHTS]), st.none(), st.sampled_from(CONTENTS)),
        damage("truncate", files, unit),
        damage("flip", files, unit, bit),
        damage("flip header", st.just(WEIGHTS), unit, bit),
        damage("tensor", st.just(WEIGHTS), unit, st.sampled_from(TENSORS)),
        damage("remove", files),
        damage("directory", files),
        damage("swap", files, st.none(), files).filter(lambda one: one.file != one.value),
    )


def run(saved: Path, expected: dict, ways_in: list[str], count: int) -> dict[str, list]:
    """Draws mutations until that many were tried. Outcomes by way in, with the mutation."""
    seen: dict[str, Mutation] = {}
    found: dict[str, list] = {way_in: [] for way_in in ways_in}

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations(saved))
    def draw(mutation: Mutation) -> None:
        seen.setdefault(repr(mutation), mutation)

    draw()
    for mutation in seen.values():
        for way_in in ways_in:
            found[way_in].append((measure(saved, mutation, way_in, expected[way_in]), mutation))
    return found


def bad(found: list) -> list[str]:
    words = ("obscure error", "wrong or NaN accepted", "over limits")
    return [f"{outcome}: {str(mutation)[:300]}" for outcome, mutation in found if outcome.word in words]


@pytest.mark.parametrize(
    "mutation", CORPUS, ids=lambda one: f"{one.kind}-{one.file}-{one.place}-{str(one.value)[:20]!r}"
)
def test_what_was_found_once(saved, expected, mutation):
    assert not bad([(measure(saved, mutation, "pipeline", expected["pipeline"]), mutation)])


def test_some_mutations(saved, expected):
    found = run(saved, expected, ["pipeline"], 80)
    assert not bad(found["pipeline"])


@pytest.mark.slow
def test_many_mutations(saved, expected):
    found = run(saved, expected, list(WAYS_IN), 1300)
    for way_in, outcomes in found.items():
        table = Counter((outcome.word, mutation.file) for outcome, mutation in outcomes)
        print(f"\n{way_in}, {len(outcomes)} mutations: {dict(Counter(outcome.word for outcome, _ in outcomes))}")
        for word in sorted({word for word, _ in table}):
            print(f"| {word} | " + " | ".join(str(table[word, file]) for file in FILES) + " |")
        print("\n".join(bad(outcomes)))
    assert len(found["pipeline"]) >= 1161
    words = Counter(outcome.word for outcome, _ in found["pipeline"])
    assert words["obscure error"] <= 5 and words["wrong or NaN accepted"] == words["over limits"] == 0
