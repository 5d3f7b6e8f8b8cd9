# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The weights of a checkpoint of the published trainer: which are taken, and what is wrong where they do not fit."""

from __future__ import annotations

import pytest
import torch
from helpers.published_layouts import LARGE_CASES
from helpers.tiny_checkpoints import TINY, copy_of

from lzn_hf.commands import convert_original_checkpoint as converter
from lzn_hf.commands import published_checkpoint


@pytest.mark.parametrize("case", TINY)
def test_converting_takes_the_weights_asked_for(tiny, case):
    model, checkpoint = tiny[case]["model"], tiny[case]["checkpoint"]
    raw = converter.convert(checkpoint, model.config, "raw")
    averaged = converter.convert(checkpoint, model.config)
    for name, tensor in model.state_dict().items():
        assert torch.equal(raw.state_dict()[name], tensor)
        trained = not name.endswith("time_embedding.frequencies")
        assert torch.equal(averaged.state_dict()[name], tensor / 2 if trained else tensor)
    assert not raw.training and raw.config is not model.config
    assert [p.requires_grad for p in raw.parameters()] == [p.requires_grad for p in model.parameters()]
    assert all(p.device.type == "cpu" for p in raw.parameters())


def test_other_floating_point_types_become_float32(tiny):
    checkpoint = copy_of(tiny["case_study_2"]["checkpoint"])
    checkpoint["encoder"] = {key: tensor.double() for key, tensor in checkpoint["encoder"].items()}
    model = converter.convert(checkpoint, tiny["case_study_2"]["model"].config, "raw")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_averages_survive_weights_that_are_lost(tiny):
    """One infinite gradient makes every parameter of the published trainer NaN, but not the averages."""
    checkpoint = copy_of(tiny["case_study_3"]["checkpoint"])
    for part in ("encoder", "decoder", "label_anchor"):
        checkpoint[part] = {key: torch.full_like(tensor, torch.nan) for key, tensor in checkpoint[part].items()}
    config = tiny["case_study_3"]["model"].config
    assert all(p.isfinite().all() for p in converter.convert(checkpoint, config).parameters())
    with pytest.raises(ValueError, match="`label_anchor`: `model.module.anchor` has values that are NaN or infinite"):
        converter.convert(checkpoint, config, "raw")


def full_size(layouts, case: str) -> dict:
    """A checkpoint of a published model that takes no memory: each tensor is one zero, seen from everywhere."""
    return {
        part: {key: torch.zeros(()).expand(shape) for key, shape in layout["tensors"]}
        for part, layout in layouts[case]["parts"].items()
    }


@pytest.mark.parametrize(
    ("case", "taken_for", "cases"),
    [
        ("case_study_1_cifar10", "case_study_3", "case_study_1_cifar10"),
        ("case_study_3", "case_study_1_cifar10", "case_study_3"),
        ("case_study_2", "case_study_3", "case_study_2"),
        ("case_study_1_celebahq", "case_study_1_cifar10", " or ".join(LARGE_CASES)),
    ],
)
def test_a_checkpoint_of_another_case_is_recognised(layouts, case, taken_for, cases):
    checkpoint = full_size(layouts, case)
    with pytest.raises(ValueError) as error:
        published_checkpoint.published_weights(checkpoint, converter.CASES[taken_for])
    assert f"These are the tensors of {cases}: pass that as `--case`" in str(error.value)
    for part, tensors in checkpoint.items():
        assert f"`{part}` ({len(tensors)} tensors)" in str(error.value)
    assert "\n" not in str(error.value)  # no list of hundreds of tensors


def test_a_checkpoint_that_is_nearly_of_a_case_says_so(layouts):
    checkpoint = full_size(layouts, "case_study_3")
    del checkpoint["label_anchor"]
    with pytest.raises(ValueError, match=r"`label_anchor` is missing\n(.|\n)*most like case_study_3, with 99 %"):
        published_checkpoint.published_weights(checkpoint, converter.CASES["case_study_3"], "raw")


def test_everything_that_does_not_fit_is_listed_in_one_message(tiny):
    checkpoint, config = copy_of(tiny["case_study_3"]["checkpoint"]), tiny["case_study_3"]["model"].config
    encoder, decoder, anchor = (checkpoint[part] for part in ("encoder", "decoder", "label_anchor"))
    prefix, num_averages = "model.module.", len(checkpoint["encoder_ema"]["shadow_params"])
    del encoder[prefix + "all_modules.0.bias"], checkpoint["decoder_ema"]
    encoder["all_modules.0.bias"] = torch.zeros(8)  # without the prefix
    encoder[prefix + "all_modules.1.Conv_0.bias"] = torch.zeros(9)
    decoder[prefix + "all_modules.2.weight"] = torch.zeros(8, 3, 3, 3, dtype=torch.int64)
    anchor[prefix + "anchor"] = "ten times six"
    checkpoint["label_anchor_ema"]["shadow_params"][0] = torch.full((10, 6), torch.inf)
    checkpoint["encoder_ema"]["shadow_params"].pop()
    checkpoint["discriminator"] = {}
    with pytest.raises(ValueError) as error:
        converter.convert(checkpoint, config)
    for problem in (
        "`discriminator` is unknown",
        "`encoder`: `model.module.all_modules.0.bias` (8,) is missing",
        "`encoder`: `all_modules.0.bias` is unknown",
        "`encoder`: `model.module.all_modules.1.Conv_0.bias` has shape (9,), but the config makes it (8,)",
        f"`encoder_ema` has {num_averages - 1} tensors, not {num_averages}",
        "`decoder`: `model.module.all_modules.2.weight` is not a tensor of floating point numbers",
        "`decoder_ema` is missing: use `--weights raw`",
        "`label_anchor`: `model.module.anchor` is not a tensor of floating point numbers",
        "`label_anchor_ema`: `model.module.anchor` has values that are NaN or infinite",
    ):
        assert f"\n  {problem}" in str(error.value)
    assert str(error.value).count("\n  ") == 9


def test_averages_of_another_shape_or_order_are_refused(tiny):
    """Their lists are unnamed: nothing but shape and order can tell that they are wrong."""
    checkpoint, config = (
        copy_of(tiny["case_study_1_afhqcat"]["checkpoint"]),
        tiny["case_study_1_afhqcat"]["model"].config,
    )
    shadows = checkpoint["decoder_ema"]["shadow_params"]
    shadows[0], shadows[2] = shadows[2], shadows[0]
    with pytest.raises(ValueError, match="`decoder_ema`: `model.module.all_modules.1.weight` has shape"):
        converter.convert(checkpoint, config)
    shadows[0], shadows[2] = shadows[2], shadows[0]
    converter.convert(checkpoint, config)
    shadows.insert(0, checkpoint["decoder"]["model.module.all_modules.0.W"])  # not trained, so not averaged
    with pytest.raises(ValueError, match=rf"`decoder_ema` has {len(shadows)} tensors, not {len(shadows) - 1}"):
        converter.convert(checkpoint, config)
    del shadows[0]
    checkpoint["decoder"] = dict(sorted(checkpoint["decoder"].items()))
    with pytest.raises(ValueError, match="`decoder` has its tensors in another order than the trainer"):
        converter.convert(checkpoint, config)
    converter.convert(checkpoint, config, "raw")
