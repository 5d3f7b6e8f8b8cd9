# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Numbers of a damaged or hostile folder are refused before anything is built: in a few seconds and little memory."""

from __future__ import annotations

import json
import re
import time

import pytest
import torch
from helpers.backbones import VIT
from helpers.hostile_folders import Mutation, measure, use
from helpers.models import TINY_RESNET, tiny_config
from helpers.pipelines import make_pipeline
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lzn_hf import LZNConfig, LZNImageProcessor, LZNModel, LZNPipeline
from lzn_hf.configuration_lzn import MAXIMA
from lzn_hf.sizes_lzn import MAX_COMPUTED, MAX_STORED, count_anchors, count_computed, count_stored


@pytest.mark.parametrize("name", [name for name in MAXIMA if name != "num_labels"])
def test_each_number_has_a_maximum(name):
    is_list = isinstance(getattr(LZNConfig(), name), list)
    other = {"encoder_widths": [64], "encoder_depths": [1]} if name in ("encoder_widths", "encoder_depths") else {}
    for value in (int(MAXIMA[name]) + 1, 10**9, 2**40):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            LZNConfig(**{**other, name: [value] if is_list else value})


def test_lists_have_a_length():
    with pytest.raises(ValueError, match="`encoder_depths` must be a list of at most 100 numbers, got 1000000"):
        LZNConfig(encoder_depths=[1] * 10**6)


HOSTILE = {
    "config.json": {
        "image_size": 10**9,
        "encoder_num_res_blocks": 10**9,
        "latent_dim": 2**40,
        "num_reference_anchors": 10**12,
        "decoder_channel_multipliers": [1] * 10**5,
        "id2label": {str(i): f"label {i}" for i in range(3 * 10**5)},
        "encoder_backbone": {str(i): i for i in range(10**5)},
    },
    "preprocessor_config.json": {"size": {"height": 10**6, "width": 10**6}},
    "scheduler_config.json": {"num_train_timesteps": 10**12, "flow_shift": 1e300, "solver_order": 10**9},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    make_pipeline().save_pretrained(folder)
    use(folder)  # imports what is imported only then
    return folder


@pytest.mark.parametrize(("file", "field"), [(file, field) for file, fields in HOSTILE.items() for field in fields])
def test_a_folder_is_refused_soon_and_in_little_memory(saved, file, field):
    mutation = Mutation("value", file, (field,), HOSTILE[file][field])
    outcome = measure(saved, mutation, "pipeline", torch.zeros(0))
    assert outcome.word == "clean error" and file in outcome.details, outcome
    assert re.search(f"`{field}` (must|has|and)", outcome.details), outcome


def test_a_processor_has_a_largest_size():
    with pytest.raises(ValueError, match="`size` must be at most 16384"):
        LZNImageProcessor(size={"height": 8, "width": 10**6})
    for size in ({"height": -8, "width": 8}, {"height": 8, "width": 0}):
        with pytest.raises(ValueError, match="`size` must be {'height': ..., 'width': ...}"):
            LZNImageProcessor(size=size)


def networks() -> dict:
    """Strategies of the fields that say how large NCSN++ networks are."""
    fields = {}
    for part in ("encoder", "decoder"):
        fields[f"{part}_base_channels"] = st.sampled_from([8, 16])
        fields[f"{part}_num_res_blocks"] = st.integers(1, 3)
        fields[f"{part}_channel_multipliers"] = st.sampled_from([[1], [1, 2], [2, 1, 1], [1, 1, 2, 2]])
        fields[f"{part}_attention_resolutions"] = st.sampled_from([[], [8]])
        fields[f"{part}_input_skip"] = st.sampled_from([None, "sum", "cat"])
    return fields


SMALL_NETWORKS = st.fixed_dictionaries(
    {
        **networks(),
        "decoder_output_skip": st.booleans(),
        "decoder_time_embedding": st.sampled_from(["sinusoidal", "fourier"]),
        "encoder_tap_layers": st.integers(1, 3),
        "encoder_tap_resolutions": st.sampled_from([None, [8]]),
        "num_labels": st.sampled_from([0, 3]),
        "num_reference_anchors": st.sampled_from([0, 5]),
        "num_channels": st.sampled_from([1, 3]),
    }
)
RESNETS = st.fixed_dictionaries(
    {
        "encoder_depths": st.lists(st.integers(1, 3), min_size=2, max_size=2),
        "encoder_widths": st.sampled_from([[32, 64], [64, 32], [32, 32]]),
        "encoder_small_images": st.booleans(),
        "encoder_head_layers": st.integers(1, 3),
    }
)
OTHER_PARTS = st.sampled_from([{}, {"decoder_type": None}, {"encoder_type": None, "num_reference_anchors": 0}])


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(SMALL_NETWORKS, RESNETS, OTHER_PARTS, st.booleans())
def test_what_a_model_stores_is_counted_exactly(fields, resnet, parts, is_resnet):
    config = tiny_config(**{**fields, **(TINY_RESNET | resnet if is_resnet else {}), **parts})
    with torch.device("meta"):
        model = LZNModel(config)
    counted = sum(count_stored(config).values()) + sum(count_anchors(config).values())
    assert counted == sum(value.numel() for value in model.state_dict().values())


LARGE = {
    "encoder_base_channels=8192 and 64": (
        {"encoder_base_channels": 8192, "encoder_channel_multipliers": [64] * 4},
        "parameters .* \\(encoder",
    ),
    "decoder": (
        {"decoder_base_channels": 8192, "decoder_channel_multipliers": [64] * 4},
        "parameters .* \\(decoder",
    ),
    "taps": ({"image_size": 4096, "encoder_tap_channels": 4096}, "parameters .* \\(encoder"),
    "blocks": (
        {
            "image_size": 4096,
            **{
                f"{part}_{name}": value
                for part in ("encoder", "decoder")
                for name, value in (
                    ("num_res_blocks", 100),
                    ("channel_multipliers", [1] * 13),
                    ("attention_resolutions", []),
                )
            },
        },
        "blocks .* \\(decoder",
    ),
    "ResNet": (
        {"encoder_type": "resnet", "encoder_depths": [1000] * 100, "encoder_widths": [16384] * 100, "latent_dim": 64},
        "blocks",
    ),
    "wide ResNet": (
        {"encoder_type": "resnet", "encoder_depths": [300] * 4, "encoder_widths": [16384] * 4, "latent_dim": 64},
        "parameters",
    ),
    "head": (
        {"encoder_type": "resnet", "encoder_widths": [16384] * 4, "encoder_head_layers": 100},
        "parameters",
    ),
    "anchors": (
        {"num_reference_anchors": 10**6, "latent_dim": 65536, "num_labels": 10**5},
        r"anchors .* \(reference anchors .*: 65,536,000,000",
    ),
    "activations": (
        {"image_size": 4096, "encoder_tap_resolutions": [512], "decoder_attention_resolutions": [4096]},
        "activations of one image",
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_totals_are_refused_before_anything_is_built(name):
    fields, message = LARGE[name]
    attention = {"encoder_attention_resolutions": [], "decoder_attention_resolutions": []}
    start = time.process_time()
    with pytest.raises(ValueError, match=f"{message}"):
        LZNConfig(**{**attention, **fields})
    assert time.process_time() - start < 1


@settings(max_examples=150, derandomize=True, deadline=5000, database=None)
@given(st.data())
def test_all_numbers_within_their_maxima_are_answered_soon(data):
    config, fields = LZNConfig(), {}
    for name, maximum in MAXIMA.items():
        value = st.integers(1, int(maximum)) | st.just(int(maximum)) | st.just(getattr(config, name, 1))
        is_list = isinstance(getattr(config, name), list)
        if name != "num_labels" and data.draw(st.booleans(), label=name):
            fields[name] = data.draw(st.lists(st.integers(1, int(maximum)), max_size=100) if is_list else value)
    fields["encoder_type"] = data.draw(st.sampled_from(["ncsnpp", "resnet", None]))
    start = time.process_time()
    try:
        config = LZNConfig(**fields)
    except ValueError as error:
        message = str(error)
        assume("must be" in message)  # else hypothesis shows the message
        config = LZNConfig()
    assert time.process_time() - start < 2
    assert sum(count_stored(config).values()) <= MAX_STORED and sum(count_computed(config).values()) <= MAX_COMPUTED


def test_published_models_are_far_from_the_limits():
    large = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in {
        "channel_multipliers": [1, 1, 2, 2, 2, 2, 2], "num_res_blocks": 2, "input_skip": "sum"}.items()}  # fmt: skip
    resnet = {"encoder_type": "resnet", "image_size": 224, "decoder_type": None, "latent_dim": 256}
    for config in (LZNConfig(), LZNConfig(image_size=256, **large), LZNConfig(**resnet, num_reference_anchors=65_536)):
        assert 50 * sum(count_stored(config).values()) < MAX_STORED
        assert 50 * sum(count_computed(config).values()) < MAX_COMPUTED


BACKBONES = [
    {"num_hidden_layers": 10**9},
    {"num_hidden_layers": 1000},
    {"hidden_size": 10**9},
    {"hidden_size": 10**6, "intermediate_size": 10**6},
    {"image_size": 10**9},
    {"patch_size": 0},
    {"image_size": 4096, "patch_size": 1},
    {"hidden_size": -64},
    {"hidden_act": "nothing"},
    {"layer_norm_eps": float("nan")},
    {"model_type": "vit_mae", "hidden_size": 65536, "image_size": 256, "patch_size": 1},
    {"model_type": "llama", "vocab_size": 10**9},
    {"model_type": "dpt", "backbone": "someone/model", "use_pretrained_backbone": True},
    {"model_type": ["vit"]},
    {"attn_implementation": "someone/kernel"},
]


@pytest.mark.parametrize("changes", BACKBONES, ids=lambda one: str(one)[:60])
def test_backbones_are_bounded(changes):
    fields = {"model_type": "vit", **VIT}
    if isinstance(changes.get("model_type"), str):
        fields = {
            name: value
            for name, value in fields.items()
            if name in ("num_attention_heads",) and "mae" in changes["model_type"]
        }
    config = LZNConfig(
        encoder_type="transformers", encoder_backbone={**fields, **changes}, decoder_type=None, latent_dim=64
    )
    start = time.process_time()
    with pytest.raises(ValueError, match=r"`backbone(\.\w+)?`"):
        LZNModel(config)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"size": {"height": 16, "width": 8}},
            r"`size` .*preprocessor_config.json.* `image_size` .*config.json.* is 8",
        ),
        (
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
            "`image_mean` .*preprocessor_config.json.* `num_channels` .*config.json",
        ),
        ({"image_std": [1e-3]}, "must map black and white to about -1 and 1"),
        ({"do_rescale": False}, "must map black and white to about -1 and 1"),
        ({"rescale_factor": 1e-300}, "must map black and white to about -1 and 1"),
    ],
)
def test_a_processor_fits_the_model(tmp_path, settings, message):
    pipe = make_pipeline()
    pipe.save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    fields = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message):
        LZNPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        LZNPipeline(**{**pipe.components, "image_processor": LZNImageProcessor.from_pretrained(tmp_path)})
