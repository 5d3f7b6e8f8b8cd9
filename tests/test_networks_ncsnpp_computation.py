# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Tests of how the networks of NCSN++ compute: gradients and their checkpointing, precision, layout, devices, compilation."""

import pytest
import torch
from helpers.models import checkpoint_blocks
from helpers.ncsnpp import MAKE, MODELS, VARIANTS, fill, largest, make_decoder, make_encoder, random_inputs, run

from lzn_hf.layers_ncsnpp import FourierEmbedding, InputSkip, ResidualBlock


@pytest.mark.parametrize(("part", "variant"), MODELS)
def test_gradient_checkpointing_gives_the_same_gradients(part, variant):
    """Also with dropout, whose masks have to be drawn again; and the blocks do run a second time, in training."""
    inputs = random_inputs()
    network = fill(MAKE[part](variant, dropout=0.3))
    runs = []
    blocks = [block for block in network.blocks.values() if not isinstance(block, InputSkip)]
    for block in blocks:
        first_layer = block.norm1 if isinstance(block, ResidualBlock) else block.norm
        first_layer.register_forward_hook(lambda layer, inputs, output: runs.append(layer))
    num_blocks = len(blocks)

    def gradients() -> dict[str, torch.Tensor]:
        runs.clear()
        network.zero_grad()
        torch.manual_seed(3)
        output = network(inputs["sample"])[1] if part == "encoder" else network(**inputs)
        output.square().sum().backward()
        return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}

    expected = gradients()
    assert len(runs) == num_blocks
    checkpoint_blocks(network)
    actual = gradients()
    assert len(runs) == 2 * num_blocks
    for name, gradient in expected.items():
        assert torch.equal(gradient, actual[name]), name
    network.eval(), gradients()
    assert len(runs) == num_blocks


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(variant):
    inputs = random_inputs()
    encoder, decoder = fill(make_encoder(variant)), fill(make_decoder(variant))
    encoder(inputs["sample"])[1].square().sum().backward()
    decoder(**inputs).square().sum().backward()
    for network in (encoder, decoder):
        for name, parameter in network.named_parameters():
            assert parameter.grad.isfinite().all() and (parameter.grad != 0).any(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_and_half_precision_keep_anchors_in_float32(variant, dtype):
    encoder, decoder, inputs = fill(make_encoder(variant)), fill(make_decoder(variant)), random_inputs()
    expected = run(encoder, decoder, inputs)
    with torch.autocast("cpu", dtype=dtype):
        autocast = run(encoder, decoder, inputs)
    # a half-precision network takes latents and times in float32 all the same, and Fourier frequencies in float32
    frequencies = [module for module in decoder.modules() if isinstance(module, FourierEmbedding)]
    kept = [module.frequencies.clone() for module in frequencies]
    encoder.to(dtype), decoder.to(dtype)
    for module, values in zip(frequencies, kept, strict=True):
        module.frequencies = values
    half = run(encoder, decoder, inputs | {"sample": inputs["sample"].to(dtype)})
    # what is divided by time is divided in float32 and comes in the dtype of the sample
    assert autocast["velocity"].dtype == (dtype if variant == "small" else torch.float32)
    assert half["velocity"].dtype == dtype
    for actual in (autocast, half):
        assert actual["anchors"].dtype == torch.float32
        for name, value in actual.items():
            assert (largest(value - expected[name]) < 0.05 * largest(expected[name])).all(), name


def test_time_is_embedded_in_float32_under_autocast():
    decoder, inputs, embedded = fill(make_decoder("large")), random_inputs(), []
    decoder.condition_embedding.time_embedding.register_forward_hook(
        lambda module, args, output: embedded.append(output)
    )
    with torch.no_grad():
        decoder(**inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            decoder(**inputs)
    assert embedded[0].dtype == embedded[1].dtype == torch.float32
    assert torch.equal(*embedded)


@pytest.mark.parametrize("variant", VARIANTS)
def test_channels_last_gives_the_same_outputs(variant):
    encoder, decoder, inputs = fill(make_encoder(variant)), fill(make_decoder(variant)), random_inputs()
    expected = run(encoder, decoder, inputs)
    layout = {"memory_format": torch.channels_last}
    inputs["sample"] = inputs["sample"].to(**layout)
    for name, value in run(encoder.to(**layout), decoder.to(**layout), inputs).items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_networks_on_the_meta_device_give_shapes(variant):
    with torch.device("meta"):
        outputs = run(
            make_encoder(variant),
            make_decoder(variant),
            {key: torch.empty_like(value, device="meta") for key, value in random_inputs().items()},
        )
    assert {name: (*value.shape,) for name, value in outputs.items()} == {
        "features": (5, 16),
        "anchors": (5, 6),
        "velocity": (5, 1, 8, 8),
    }


@pytest.mark.parametrize(
    ("part", "variant", "mode"),
    [
        ("encoder", "small", "eval"),
        ("encoder", "large", "training"),
        ("decoder", "small", "training"),
        ("decoder", "large", "checkpointing"),
    ],
)
def test_compiles_without_graph_breaks_and_once(part, variant, mode):
    """One graph, forward and backward, with the same values and gradients, which other inputs of these shapes take again."""
    inputs = random_inputs()
    network = fill(MAKE[part](variant, num_res_blocks=1)).train(mode != "eval")
    checkpoint_blocks(network, mode == "checkpointing")

    def outputs_and_gradients(function, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        outputs = function(inputs["sample"])[1] if part == "encoder" else function(**inputs)
        if mode == "eval":
            return [outputs]
        return [outputs, *torch.autograd.grad(outputs.square().sum(), list(network.parameters()))]

    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager", dynamic=False)
    with torch.set_grad_enabled(mode != "eval"):
        first = outputs_and_gradients(compiled, inputs)
        other_inputs = {name: value.flip(0) for name, value in inputs.items()}
        with torch.compiler.set_stance("fail_on_recompile"):
            second = outputs_and_gradients(compiled, other_inputs)
        torch.testing.assert_close(first, outputs_and_gradients(network, inputs))
        torch.testing.assert_close(second, outputs_and_gradients(network, other_inputs))
