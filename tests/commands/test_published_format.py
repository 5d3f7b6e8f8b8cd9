# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Names, shapes and order of the published tensors, of models of full size and there and back with tiny ones."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from helpers.published_layouts import CASES, PUBLISHED_DIR, compact_layouts, needs_golden
from helpers.tiny_checkpoints import TINY

from lzn_hf import LZNModel
from lzn_hf.commands import convert_original_checkpoint as converter
from lzn_hf.commands import published_format
from lzn_hf.layers_ncsnpp import AttentionBlock


@pytest.mark.parametrize("case", CASES)
def test_the_key_map_is_a_bijection_with_equal_shapes(layouts, case):
    config, parts = converter.CASES[case], layouts[case]["parts"]
    published = {
        (part, key.removeprefix("model.module.")): tuple(shape)
        for part, layout in parts.items()
        for key, shape in layout["tensors"]
        if not key.endswith(".sigmas")
    }
    with torch.device("meta"):
        model = LZNModel(copy.deepcopy(config))
    ours = model.state_dict()
    keys: dict[str, list[tuple[str, str, bool]]] = {}
    for entry in published_format.published_entries(config):
        keys.setdefault(entry.ours, []).append((entry.part, entry.key, entry.transposed))

    sources = [(part, key) for names in keys.values() for part, key, _ in names]
    assert len(set(sources)) == len(sources) and set(sources) == set(published)
    assert set(keys) == set(ours)
    for name, names in keys.items():
        shapes = [
            published[part, key][::-1] if transposed else published[part, key] for part, key, transposed in names
        ]
        assert ours[name].shape == (sum(shape[0] for shape in shapes), *shapes[0][1:]), name
    for part, layout in parts.items():
        sizes = {name: tensor.numel() for name, tensor in ours.items() if name.startswith(part)}
        assert sum(sizes.values()) == layout["num_params"]
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert sum(sizes.get(name, 0) for name in trained) == layout["num_trainable_params"]


@pytest.mark.parametrize("case", CASES)
def test_the_order_is_the_published_one(layouts, case):
    """The unnamed lists of averages hang on it."""
    entries = published_format.published_entries(converter.CASES[case])
    for part, layout in layouts[case]["parts"].items():
        parameters = [key for key, _ in layout["tensors"] if not key.endswith(".sigmas")]
        mine = [entry for entry in entries if entry.part == part]
        assert ["model.module." + entry.key for entry in mine] == parameters
        assert [i for i, entry in enumerate(mine) if not entry.trainable] == layout["without_average"]
        assert sum(entry.trainable for entry in mine) == layout["num_averages"]


@pytest.mark.parametrize("case", [CASES[0], CASES[1]])
def test_modules_are_numbered_in_running_order(layouts, case):
    """A number for everything that the published list `all_modules` has, also where it holds no parameters."""
    with torch.device("meta"):
        model = LZNModel(copy.deepcopy(converter.CASES[case]))
    for part in ("encoder", "decoder"):
        numbers = {
            int(key.split(".")[3])
            for key, _ in layouts[case]["parts"][part]["tensors"]
            if key.startswith("model.module.all_modules.")
        }
        modules = published_format.numbered_modules(getattr(model, part))
        assert numbers == set(range(len(modules)))
        assert isinstance(modules[-1], torch.nn.Conv2d) == (part == "decoder")


@needs_golden
def test_the_committed_layouts_are_those_of_the_golden_folder(layouts):
    assert layouts == compact_layouts(Path(PUBLISHED_DIR))


@pytest.mark.parametrize("case", TINY)
def test_there_and_back_again(tiny, case):
    config, state = tiny[case]["model"].config, tiny[case]["model"].state_dict()
    back = published_format.to_ours(config, published_format.to_published(config, state))
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor) and back[name].is_contiguous()

    few = dict(list(state.items())[::3])  # as gradients, of which some parameters have none
    back = published_format.to_ours(config, published_format.to_published(config, few))
    assert set(back) == set(few) and all(torch.equal(back[name], few[name]) for name in few)


def test_keys_of_another_model_and_halves_are_refused(tiny):
    config, state = tiny["case_study_3"]["model"].config, tiny["case_study_3"]["model"].state_dict()
    with pytest.raises(ValueError, match="unknown keys: decoder.stem"):
        published_format.to_published(config, {**state, "decoder.stem": torch.zeros(1)})
    published = published_format.to_published(config, state)
    published["decoder"]["stem"] = torch.zeros(1)
    with pytest.raises(ValueError, match="unknown published keys: decoder stem"):
        published_format.to_ours(config, published)
    del published["decoder"]["stem"], published["decoder"]["all_modules.4.NIN_1.W"]
    with pytest.raises(ValueError, match=r"qkv.weight` is made of .*NIN_0.W, .*NIN_1.W, .*NIN_2.W, which are not all"):
        published_format.to_ours(config, published)


def test_attention_computes_with_converted_weights_what_the_published_formula_does(tiny):
    """q = x W0 + b0, k = x W1 + b1, v = x W2 + b2, softmax(q.k / sqrt(C)) v W3 + b3, plus x, over sqrt(2)."""
    model, checkpoint = tiny["case_study_3"]["model"], tiny["case_study_3"]["checkpoint"]
    attention = model.encoder.blocks["down_16x16_block0"].attention
    assert isinstance(attention, AttentionBlock)
    prefix = "model.module.all_modules.2."
    published = {k.removeprefix(prefix): v for k, v in checkpoint["encoder"].items() if k.startswith(prefix)}
    x = torch.randn(2, 8, 4, 4)
    flat = torch.nn.functional.group_norm(
        x, 2, published["GroupNorm_0.weight"], published["GroupNorm_0.bias"], eps=1e-6
    )
    flat = flat.flatten(2).transpose(1, 2)
    q, k, v = (flat @ published[f"NIN_{i}.W"] + published[f"NIN_{i}.b"] for i in range(3))
    mixed = (q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v @ published["NIN_3.W"] + published["NIN_3.b"]
    expected = (x + mixed.transpose(1, 2).view_as(x)) / 2**0.5
    with torch.no_grad():
        torch.testing.assert_close(attention(x), expected)
