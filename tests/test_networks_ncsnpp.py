# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Tests of the networks of NCSN++, small and large: stored outputs, structure, what each condition does, errors.

`golden/ncsnpp_small.safetensors` and `golden/ncsnpp_large.safetensors` have `network/[large/]{features, anchors, velocity}`:
outputs of this implementation, in float64, for the networks, weights and inputs of `helpers.ncsnpp.filled_networks`, which are
formulas. Stored when the same code had just reproduced whole published models, one small and one large (float64 outputs to
1e-14 and 1e-13). They pin what layers cannot: order of blocks, skip connections, conditions, and taps.
"""

import pytest
import torch
from helpers import GOLDEN_DIR
from helpers.ncsnpp import (
    MAKE,
    VARIANTS,
    fill,
    filled_networks,
    largest,
    make_decoder,
    make_encoder,
    random_inputs,
    run,
)
from safetensors.torch import load_file
from torch import nn


GOLDEN = load_file(GOLDEN_DIR / "ncsnpp_small.safetensors") | load_file(GOLDEN_DIR / "ncsnpp_large.safetensors")


@pytest.mark.parametrize("variant", VARIANTS)
def test_networks_reproduce_stored_outputs(variant):
    for name, value in run(*filled_networks(variant)).items():
        expected = GOLDEN[f"network/{name}" if variant == "small" else f"network/large/{name}"]
        assert expected.std() > 0.1  # a stored number that is nearly zero could not tell wrong from right
        assert (largest(value - expected) < 1e-6 * largest(expected)).all(), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_size": 12, "in_channels": 3, "channel_multipliers": [1, 2, 3], "attention_resolutions": []},
        {"image_size": 6, "channel_multipliers": (2,), "num_res_blocks": 1, "attention_resolutions": (6,)},
    ],
)
def test_output_shapes(changes):
    encoder, decoder = make_encoder(**changes), make_decoder(**changes)
    size, channels = changes.get("image_size", 8), changes.get("in_channels", 1)
    images = torch.randn(2, channels, size, size)
    features, anchors, _ = encoder(images)
    assert encoder.feature_dim == 8 * changes.get("channel_multipliers", (1, 2))[-1]
    assert features.shape == (2, encoder.feature_dim)
    assert anchors.shape == (2, 6)
    assert decoder(images, torch.rand(2), torch.randn(2, 6), torch.tensor([1, 2])).shape == images.shape


def test_number_of_tap_layers():
    for tap_layers in (1, 2, 3):
        for tap in make_encoder(tap_layers=tap_layers).taps.values():
            linears = [module for module in tap.modules() if isinstance(module, nn.Linear)]
            assert [linear.out_features for linear in linears] == [10] * (tap_layers - 1) + [6]


def test_attention_stands_at_listed_resolutions_and_in_the_middle():
    decoder = make_decoder()
    with_attention = [name for name, block in decoder.blocks.items() if block.attention is not None]
    assert with_attention == ["down_4x4_block0", "down_4x4_block1", "middle_block0", "up_4x4_block2"]
    with_attention = [name for name, block in make_encoder(attention_resolutions=()).blocks.items() if block.attention]
    assert with_attention == ["middle_block0"]


def test_names_say_what_a_module_is():
    encoder, decoder = make_encoder(), make_decoder()
    keys = [*encoder.state_dict(), *decoder.state_dict()]
    assert not [key for key in keys if any(part.isdigit() for part in key.split("."))]
    down = ["down_8x8_block0", "down_8x8_block1", "down_8x8_to_4x4", "down_4x4_block0", "down_4x4_block1"]
    middle = ["middle_block0", "middle_block1"]
    assert list(encoder.blocks) == down + middle
    assert list(encoder.taps) == ["conv_in", *down, "middle_block1"]
    up = [f"up_4x4_block{i}" for i in range(3)] + ["up_4x4_to_8x8"] + [f"up_8x8_block{i}" for i in range(3)]
    assert list(decoder.blocks) == down + middle + up


def test_names_of_pyramids_and_of_their_taps():
    encoder, decoder = make_encoder("large"), make_decoder("large")
    upper = ["down_8x8_block0", "down_8x8_to_4x4", "down_4x4_input_skip", "down_4x4_block0"]
    lower = ["down_4x4_to_2x2", "down_2x2_input_skip", "down_2x2_block0", "middle_block0", "middle_block1"]
    assert list(encoder.blocks) == upper + lower
    assert list(encoder.taps) == [
        *("down_4x4_input_skip", "down_4x4_block0"),
        *("down_2x2_input_skip", "down_2x2_block0", "middle_block1"),
    ]
    assert list(make_encoder("large", tap_resolutions=None).taps)[:3] == [
        *("conv_in", "down_8x8_block0", "down_4x4_input_skip"),
    ]
    assert list(decoder.blocks) == [
        *(upper + lower),
        *("up_2x2_block0", "up_2x2_block1", "up_2x2_output_skip", "up_2x2_to_4x4"),
        *("up_4x4_block0", "up_4x4_block1", "up_4x4_output_skip", "up_4x4_to_8x8"),
        *("up_8x8_block0", "up_8x8_block1", "up_8x8_output_skip"),
    ]
    assert [name for name, _ in decoder.named_children()] == ["condition_embedding", "conv_in", "blocks"]
    parts = [name for name, _ in decoder.condition_embedding.named_children()]
    assert parts == ["time_embedding", "linear1", "linear2"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_condition_influences_the_velocity(variant):
    _, decoder, inputs = filled_networks(variant)
    changed = {
        "sample": inputs["sample"].roll(1, 0),
        "t": torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64),
        "latents": inputs["latents"].roll(1, 0),
        "labels": torch.tensor([1, 8, 0]),
    }
    with torch.no_grad():
        velocity = decoder(**inputs)
        for name, value in changed.items():
            difference = largest(decoder(**(inputs | {name: value})) - velocity)
            assert (difference > 3e-4 * largest(velocity)).all(), name


@pytest.mark.parametrize(("variant", "smallest"), [("small", 0.0), ("large", 1e-3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_time_is_clamped(variant, smallest, dtype):
    """Fourier features, of the logarithm of time, and the division by time begin at 1e-3."""
    _, decoder, inputs = filled_networks(variant)
    inside = torch.tensor([smallest, 0.5, 1.0], dtype=dtype)
    outside = torch.tensor([-0.5, 0.5, 1.5], dtype=dtype)
    with torch.no_grad():
        velocity = decoder(**(inputs | {"t": inside}))
        assert velocity.isfinite().all()
        assert torch.equal(velocity, decoder(**(inputs | {"t": outside})))
        assert torch.equal(velocity[:1], decoder(**(inputs | {"t": torch.zeros(3, dtype=dtype)}))[:1])
        above = decoder(**(inputs | {"t": inside + 1e-3}))[:1]
        assert largest(above - velocity[:1]) > 1e-3 * largest(velocity[:1])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int64])
def test_time_is_taken_to_float32_before_anything_else(variant, dtype):
    _, decoder, inputs = filled_networks(variant)
    t = torch.tensor([0.0, 0.3, 1.0]).to(dtype)
    with torch.no_grad():
        assert torch.equal(decoder(**(inputs | {"t": t})), decoder(**(inputs | {"t": t.float()})))


def test_scale_by_sigma_divides_by_the_step_number():
    _, decoder, inputs = filled_networks("large")
    plain = make_decoder("large", scale_by_sigma=False).double()
    plain.load_state_dict(decoder.state_dict())
    steps = torch.tensor([0.999, 299.7, 999.0]).double()
    with torch.no_grad():
        divided, expected = decoder(**inputs), plain(**inputs) / steps[:, None, None, None]
    assert (largest(divided - expected) < 1e-6 * largest(expected)).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_feature_map_is_tapped(variant):
    encoder, _, inputs = filled_networks(variant)
    anchors = encoder(inputs["sample"])[1]
    for name, tap in encoder.taps.items():
        handle = tap.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
        assert (encoder(inputs["sample"])[1] - anchors).abs().max() > 1e-2, name
        handle.remove()


def test_labels_are_needed_exactly_by_a_decoder_with_labels():
    inputs = random_inputs()
    assert make_decoder(num_labels=0)(**(inputs | {"labels": None})).shape == inputs["sample"].shape
    with pytest.raises(ValueError, match="`labels`.* got a tensor"):
        make_decoder(num_labels=0)(**inputs)
    with pytest.raises(ValueError, match="`labels`.* got None"):
        make_decoder()(**(inputs | {"labels": None}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_samples_do_not_depend_on_their_batch(variant):
    encoder, decoder, inputs = filled_networks(variant)
    together = run(encoder, decoder, inputs)
    for i in range(3):
        alone = run(encoder, decoder, {name: value[i : i + 1] for name, value in inputs.items()})
        for name, value in alone.items():
            torch.testing.assert_close(value, together[name][i : i + 1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_dropout_acts_in_training_only(variant):
    encoder, decoder = fill(make_encoder(variant, dropout=0.5)), fill(make_decoder(variant, dropout=0.5))
    inputs = random_inputs()
    without = run(fill(make_encoder(variant)), fill(make_decoder(variant)), inputs)
    first, second = run(encoder, decoder, inputs), run(encoder, decoder, inputs)
    in_eval_mode = run(encoder.eval(), decoder.eval(), inputs)
    for name, value in without.items():
        assert not torch.equal(first[name], second[name]), name
        assert torch.equal(in_eval_mode[name], value), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 9}, r"`image_size` must be divisible by 2 .*got 9"),
        ({"image_size": 0}, "`image_size` must be at least 1, got 0"),
        ({"in_channels": 0}, "`in_channels` must be at least 1"),
        ({"base_channels": 3}, r"`base_channels`.* 3 channels"),
        ({"base_channels": 0}, "`base_channels` must be at least 1"),
        ({"base_channels": 9}, r"`base_channels`.*equal groups"),
        ({"base_channels": 132}, r"`base_channels`.* 132 channels"),
        ({"channel_multipliers": ()}, "`channel_multipliers`"),
        ({"channel_multipliers": (1, 0)}, "`channel_multipliers`"),
        ({"num_res_blocks": 0}, "`num_res_blocks` must be at least 1"),
        ({"attention_resolutions": (4, 16)}, r"`attention_resolutions` must be among.*\[8, 4\], got \[16\]"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, "`dropout`"),
        ({"fir_kernel": (1, 2, 1)}, r"`fir_kernel` must be an even number of taps.* got \(1, 2, 1\)"),
        ({"fir_kernel": ()}, "`fir_kernel`"),
        ({"input_skip": "residual"}, r"`input_skip` must be one of \[None, 'sum', 'cat'\], got 'residual'"),
        ({"input_skip": "cat", "base_channels": 68}, r"`base_channels`.* 136 channels"),
    ],
)
@pytest.mark.parametrize("make", [make_encoder, make_decoder])
def test_arguments_that_describe_no_network_are_named(make, changes, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("encoder", {"latent_dim": 0}, "`latent_dim` must be at least 1, got 0"),
        ("decoder", {"latent_dim": -1}, "`latent_dim` must be at least 0, got -1"),
        ("encoder", {"tap_channels": 0}, "`tap_channels` must be at least 1, got 0"),
        ("encoder", {"tap_hidden_dim": 0}, "`tap_hidden_dim` must be at least 1, got 0"),
        ("encoder", {"tap_layers": 0}, "`tap_layers` must be at least 1, got 0"),
        ("encoder", {"tap_resolutions": (4, 16)}, r"`tap_resolutions` must be among.*\[8, 4\], got \[16\]"),
        ("encoder", {"tap_resolutions": ()}, "`tap_resolutions` must have at least one resolution"),
        ("decoder", {"num_labels": -1}, "`num_labels` must be at least 0, got -1"),
        ("decoder", {"time_embedding": "positional"}, r"`time_embedding`.*'sinusoidal', 'fourier'.*got 'positional'"),
        ("decoder", {"fourier_scale": 0.0}, "`fourier_scale` must be positive, got 0.0"),
        ("decoder", {"scale_by_sigma": True}, "`scale_by_sigma`.*`time_embedding` 'sinusoidal'"),
    ],
)
def test_arguments_of_one_network_only_are_checked(part, changes, message):
    with pytest.raises(ValueError, match=message):
        MAKE[part](**changes)
