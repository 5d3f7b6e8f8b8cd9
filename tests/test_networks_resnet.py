# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Tests of the GroupNorm ResNet.

`golden/resnet.safetensors` has numbers of the published implementation of Latent Zoning Networks (torch 2.13, CPU):

- `block/<name>/{in/0, out, param/<published name>}`: two bottlenecks and a projection head with random weights, float32,
  first sample of each. Parameters are in the published order, which is that of registration.
- `network/{in, features, anchors}`: the published ResNet of the stock widths with one bottleneck a stage, for one image;
  the first 256 features in float32, anchors in float64. Its weights are a hash of their published names (`hash_filled`) and not stored.
"""

import math
import zlib

import numpy as np
import pytest
import torch
from helpers import GOLDEN_DIR
from helpers.models import checkpoint_blocks
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from lzn_hf.networks_resnet import (
    RESNET_DEPTHS,
    RESNET_LAYERS,
    RESNET_WIDTHS,
    Bottleneck,
    HeConv2d,
    ProjectionHead,
    ResNetEncoder,
    ZeroGroupNorm,
)


with safe_open(GOLDEN_DIR / "resnet.safetensors", "pt") as file:
    GOLDEN = {name: file.get_tensor(name) for name in file.keys()}

# every kind of block: with and without a shortcut convolution, with and without a stride
TINY = {"in_channels": 1, "latent_dim": 64, "depths": (1, 2), "widths": (32, 64), "head_layers": 2}
IMAGE_SIZE = 18  # halved four times, rounded up: 2 x 2 at the end


def make_encoder(**changes) -> ResNetEncoder:
    torch.manual_seed(0)
    return ResNetEncoder(**(TINY | changes))


def make_trained_encoder(**changes) -> ResNetEncoder:
    """Residuals and normalisations that matter (in a new network the scale of each residual is 0)."""
    encoder = make_encoder(**changes)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return encoder


def random_images(size: int = IMAGE_SIZE) -> torch.Tensor:
    return torch.rand(4, 1, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def published_names(depths: tuple[int, ...], head_layers: int) -> list[str]:
    """Keys of a published ResNet, in their order."""
    norm, names = ("weight", "bias"), ["net.0.0.weight", "net.0.1.0.weight", "net.0.1.0.bias"]
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            prefix = f"net.{stage}.blocks.{block}"
            if block == 0:
                names += [f"{prefix}.projection.shortcut.weight", *(f"{prefix}.projection.bn.0.{x}" for x in norm)]
            for layer in (0, 2, 4):
                names += [f"{prefix}.net.{layer}.weight", *(f"{prefix}.net.{layer + 1}.0.{x}" for x in norm)]
    for layer in range(0, 3 * head_layers, 3):
        names += [f"head.layers.{layer}.weight", *(f"head.layers.{layer + 1}.{x}" for x in norm)]
    return names


def hash_filled(name: str, shape: torch.Size, salt: str, std: float) -> torch.Tensor:
    """The splitmix64 generator, started by the CRC of the name: uniform with standard deviation `std`, scales around 1."""
    z = np.arange(shape.numel(), dtype=np.uint64)
    z += np.uint64(((zlib.crc32(f"{salt}:{name}".encode()) << 32) + 0x9E3779B97F4A7C15) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    values = (2 * (z >> np.uint64(40)) * 2.0**-24 - 1) * std * math.sqrt(3)
    if len(shape) == 1 and name.endswith(".weight"):
        values += 1
    return torch.from_numpy(values.astype(np.float32)).view(shape)


def reset_all(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, RESNET_LAYERS):
            module.reset_parameters()


@pytest.mark.parametrize(
    ("name", "block", "tolerance"),
    [
        ("resnet_bottleneck_proj", Bottleneck(32, 32, stride=2), 5e-6),
        ("resnet_bottleneck_id", Bottleneck(128, 32), 5e-6),
        ("resnet_head2", ProjectionHead(64, 96, 2), 5e-5),  # groups of two elements amplify rounding
    ],
)
def test_blocks_reproduce_published_numbers(name, block, tolerance):
    prefix = f"block/{name}/"
    layers = ["projection.shortcut", "projection.bn", "net.0", "net.1", "net.2", "net.3", "net.4", "net.5"]
    layers += ["layers.0", "layers.1", "layers.3", "layers.4"]
    published = {
        key.removeprefix(prefix + "param/"): GOLDEN[key] for key in GOLDEN if key.startswith(prefix + "param/")
    }
    order = sorted(
        published, key=lambda key: ([key.startswith(layer) for layer in layers].index(True), key.endswith("bias"))
    )
    ours = block.state_dict()
    assert len(ours) == len(order)
    block.load_state_dict(dict(zip(ours, (published[key] for key in order), strict=True)), strict=True)
    torch.testing.assert_close(block(GOLDEN[prefix + "in/0"]), GOLDEN[prefix + "out"], atol=tolerance, rtol=0)


def test_network_reproduces_published_numbers():
    encoder = ResNetEncoder(in_channels=3, latent_dim=256, depths=(1, 1, 1, 1), widths=RESNET_WIDTHS, head_layers=2)
    ours, names = encoder.state_dict(), published_names((1, 1, 1, 1), 2)
    assert len(ours) == len(names)
    filled = {
        ours_name: hash_filled(name, ours[ours_name].shape, "cs2w1", 0.05)
        for ours_name, name in zip(ours, names, strict=True)
    }
    encoder.load_state_dict(filled, strict=True)
    with torch.no_grad():
        features, anchors, _ = encoder(GOLDEN["network/in"])
        anchors64 = encoder.double()(GOLDEN["network/in"].double())[1]
    torch.testing.assert_close(features[:, :256], GOLDEN["network/features"], atol=2e-5, rtol=0)
    torch.testing.assert_close(anchors.double(), GOLDEN["network/anchors"], atol=2.5e-5, rtol=0)
    torch.testing.assert_close(anchors64, GOLDEN["network/anchors"], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("depths", "widths", "latent_dim", "expected"),
    [
        ((1, 2, 1, 1), (32, 32, 64, 64), 128, 407_072),
        ((1, 1, 1, 1), RESNET_WIDTHS, 256, 12_739_136),
        (RESNET_DEPTHS[50], RESNET_WIDTHS, 256, 28_231_232),
    ],
)
def test_published_parameter_counts(depths, widths, latent_dim, expected):
    with torch.device("meta"):
        encoder = ResNetEncoder(in_channels=3, latent_dim=latent_dim, depths=depths, widths=widths, head_layers=2)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected
    assert len(encoder.state_dict()) == len(published_names(depths, 2))


def test_named_depths_have_that_many_layers():
    for depth, blocks in RESNET_DEPTHS.items():
        assert 1 + 3 * sum(blocks) + 1 == depth  # stem, three convolutions a bottleneck, and the classifier or head


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"depths": [1], "widths": [96], "latent_dim": 96, "head_layers": 1, "in_channels": 3},
        {"depths": (1, 1, 1), "widths": (64, 32, 32), "head_layers": 3},
    ],
)
def test_output_shapes(changes):
    encoder = make_encoder(**changes)
    features, anchors, _ = encoder(torch.randn(2, encoder.stem_conv.in_channels, 40, 33))
    assert encoder.feature_dim == 4 * changes.get("widths", TINY["widths"])[-1]
    assert features.shape == (2, encoder.feature_dim)
    assert anchors.shape == (2, encoder.latent_dim) == (2, changes.get("latent_dim", 64))


def test_height_and_width_are_halved_by_stem_pooling_and_all_stages_but_the_first():
    encoder = make_encoder(depths=(1, 2, 1), widths=(32, 32, 64))
    shapes = []
    for block in (block for stage in encoder.stages for block in stage):
        block.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[1:])))
    encoder(random_images(64))
    assert shapes == [(128, 16, 16), (128, 8, 8), (128, 8, 8), (256, 4, 4)]


def test_the_stem_for_small_images_keeps_their_size():
    encoder, shapes = make_trained_encoder(small_images=True), []
    encoder.stages[0][0].register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape[1:])))
    for block in (block for stage in encoder.stages for block in stage):
        block.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[1:])))
    images = random_images(16)
    features, anchors, _ = encoder(images)
    assert shapes == [(32, 16, 16), (128, 16, 16), (256, 8, 8), (256, 8, 8)]
    assert features.shape == (4, 256) and anchors.shape == (4, 64)
    assert encoder.stem_conv.weight.shape == (32, 1, 3, 3)
    # Every pixel of the stem depends on its 3 x 3 neighbours alone, but for the normalisation.
    expected = F.conv2d((images + 1) / 2, encoder.stem_conv.weight, padding=1)
    torch.testing.assert_close(encoder._stem(images), F.relu(encoder.stem_norm(expected)))


def test_a_new_block_passes_its_shortcut_on():
    inputs = torch.rand(2, 128, 5, 5)
    assert torch.equal(Bottleneck(128, 32)(inputs), inputs)  # not negative already, as all outputs of blocks
    block = Bottleneck(64, 32, stride=2)
    torch.testing.assert_close(block(inputs[:, :64]), block.shortcut_norm(block.shortcut_conv(inputs[:, :64])).relu())


def test_anchors_are_normalised_in_groups_before_scale_and_shift():
    groups = make_encoder()(random_images())[1].view(4, 32, 2)
    torch.testing.assert_close(groups.mean(2), torch.zeros(4, 32), atol=1e-5, rtol=0)
    assert (groups.std(2, correction=0) - 1).abs().median() < 1e-2


def test_everything_is_in_the_state_dict():
    """Buffers that are not saved, and plain tensors, would not survive a model that is built on the meta device."""
    encoder = make_encoder()
    assert not list(encoder.buffers())
    for module in encoder.modules():
        assert not [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("built", ["directly", "on_meta"])
def test_initial_distribution(built):
    """Every parameter has its distribution, also when a network is built on meta and initialised through its layers."""
    if built == "directly":
        encoder = make_encoder()
    else:
        with torch.device("meta"):
            encoder = make_encoder()
        encoder.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.fill_(torch.nan)
        reset_all(encoder)
    for name, layer in encoder.named_modules():
        if isinstance(layer, HeConv2d):
            expected = math.sqrt(2 / (layer.out_channels * layer.kernel_size[0] ** 2))
            assert abs(layer.weight.std() / expected - 1) < 0.1, name
            assert layer.weight.abs().max() > 2.5 * expected, name  # normal, not uniform
            assert layer.bias is None
        elif isinstance(layer, nn.GroupNorm):
            assert isinstance(layer, ZeroGroupNorm) == name.endswith("norm3")
            assert (layer.weight == float(not name.endswith("norm3"))).all(), name
            assert (layer.bias == 0).all(), name
        elif isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            assert 0.95 * bound < layer.weight.abs().max() <= bound, name
            assert layer.bias is None


def test_reset_parameters_sets_whole_parameters_once_and_through_nn_init_only(monkeypatch):
    """Else transformers, loading a checkpoint, initialises over what it has loaded (it guards `torch.nn.init`, for whole
    parameters), or leaves what is missing uninitialised (it skips modules that hold no parameter themselves)."""
    encoder = make_encoder()
    before = {name: parameter.clone() for name, parameter in encoder.named_parameters()}
    touched = []
    for name in dir(nn.init):
        if name.endswith("_") and not name.startswith("_"):
            monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: touched.append(id(tensor)))
    reset_all(encoder)
    assert len(touched) == len(set(touched))
    for module in encoder.modules():
        assert isinstance(module, RESNET_LAYERS) == bool(module._parameters)
    assert set(touched) == {id(parameter) for parameter in encoder.parameters()}
    for name, parameter in encoder.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_images_do_not_depend_on_their_batch():
    encoder, images = make_trained_encoder().double(), random_images().double()
    with torch.no_grad():
        together = encoder(images)
        for i in range(len(images)):
            for alone, expected in zip(encoder(images[i : i + 1]), together, strict=True):
                torch.testing.assert_close(alone, expected[i : i + 1])


def test_gradient_checkpointing_gives_the_same_gradients_from_less_memory():
    """In training only."""
    encoder, images = make_trained_encoder(), random_images()

    def gradients() -> tuple[int, dict[str, torch.Tensor]]:
        encoder.zero_grad()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            loss = encoder(images)[1].square().sum()
        num_kept = sum(kept)
        loss.backward()
        return num_kept, {name: parameter.grad.clone() for name, parameter in encoder.named_parameters()}

    memory, expected = gradients()
    checkpoint_blocks(encoder)
    memory_checkpointed, actual = gradients()
    for name, gradient in expected.items():
        assert gradient.isfinite().all() and gradient.abs().max() > 0, name
        assert torch.equal(gradient, actual[name]), name
    assert memory_checkpointed < memory / 3.9  # the stem counts, too
    encoder.eval()
    assert gradients()[0] == memory


def test_autocast_and_half_precision_keep_anchors_in_float32():
    encoder, images = make_trained_encoder(), random_images()
    with torch.no_grad():
        expected = encoder(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = encoder(images)
        half = encoder.bfloat16()(images.bfloat16())
    for features, anchors, _ in (autocast, half):
        assert anchors.dtype == torch.float32
        assert (features - expected[0]).norm() < 0.05 * expected[0].norm()
        assert (anchors - expected[1]).norm() < 0.1 * expected[1].norm()


def test_channels_last_gives_the_same_outputs():
    encoder, images = make_trained_encoder(), random_images()
    with torch.no_grad():
        expected = encoder(images)
        layout = {"memory_format": torch.channels_last}
        for value, other in zip(encoder.to(**layout)(images.to(**layout)), expected, strict=True):
            torch.testing.assert_close(value, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_compiles_without_graph_breaks(gradient_checkpointing):
    encoder, images = make_trained_encoder(), random_images()
    checkpoint_blocks(encoder, gradient_checkpointing)
    torch.compiler.reset()
    anchors = torch.compile(encoder, fullgraph=True, backend="eager")(images)[1]
    torch.testing.assert_close(anchors, encoder(images)[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 0}, "`in_channels` must be at least 1, got 0"),
        ({"head_layers": 0}, "`head_layers` must be at least 1, got 0"),
        ({"depths": ()}, r"`depths` must be one or more positive integers.* got \(\)"),
        ({"depths": (1, 0)}, r"`depths` must be one or more positive integers.* got \(1, 0\)"),
        ({"widths": (32, 32, 32)}, r"`widths` must have one entry for each of the 2 stages.* got \(32, 32, 32\)"),
        ({"widths": (32, 48)}, r"`widths` must be positive multiples of 32.* got \(32, 48\)"),
        ({"widths": (0, 32)}, r"`widths` must be positive multiples of 32.* got \(0, 32\)"),
        ({"latent_dim": 32}, "`latent_dim` must be a multiple of 32 and larger.* got 32"),
        ({"latent_dim": 100}, "`latent_dim` must be a multiple of 32 and larger.* got 100"),
    ],
)
def test_arguments_that_describe_no_network_are_named(changes, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make_encoder(**changes)
