# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""SimCLR and momentum contrast against loops over their formulas, and what a queue is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lzn_hf.networks_resnet import ResNetEncoder
from lzn_hf.training.contrastive import MomentumContrast, simclr_loss


TEMPERATURE = 0.3


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# SimCLR


@pytest.fixture
def metric_learning():
    pytest.importorskip("pytorch_metric_learning", reason="simclr_loss is that of pytorch-metric-learning")


def unit(x: Tensor) -> Tensor:
    return x / math.sqrt(sum(value**2 for value in x.tolist()))


def loop_simclr(anchors: Tensor, targets: Tensor, temperature: float) -> float:
    z = [unit(x) for x in (*anchors.double(), *targets.double())]
    total = 0.0
    for i, z_i in enumerate(z):
        exps = {j: math.exp(float(z_i @ z_j) / temperature) for j, z_j in enumerate(z) if j != i}
        total -= math.log(exps[(i + len(anchors)) % len(z)] / sum(exps.values()))
    return total / len(z)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_simclr_is_the_loop(metric_learning, temperature):
    anchors, targets = randn(6, 4), randn(6, 4, seed=1)
    expected = loop_simclr(anchors, targets, temperature)
    assert simclr_loss(anchors.float(), targets.float(), temperature).item() == pytest.approx(expected, rel=1e-5)


def test_images_that_are_told_apart_count_in_the_mean(metric_learning):
    """Their loss is zero in float32."""
    anchors = torch.eye(5)
    anchors[1, 0] = 1  # near to anchor 0
    expected = loop_simclr(anchors, anchors, 0.04)
    assert expected > 1e-6
    assert simclr_loss(anchors, anchors, 0.04).item() == pytest.approx(expected, rel=1e-3)


def test_simclr_compares_images_with_images_not_pairs_with_pairs(metric_learning):
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            output = function(*args, **(kwargs or {}))
            sizes.extend(
                value.numel()
                for value in (output if isinstance(output, tuple) else [output])
                if isinstance(value, Tensor)
            )
            return output

    with Watch():
        simclr_loss(randn(32, 4), randn(32, 4, seed=1))
    assert 64**2 <= max(sizes) <= 2 * 64**2


# Momentum contrast


def make_encoder() -> ResNetEncoder:
    return ResNetEncoder(in_channels=1, latent_dim=64, depths=(1,), widths=(32,), head_layers=1, small_images=True)


def make_contrast(encoder: ResNetEncoder, **changes) -> MomentumContrast:
    options = {"queue_size": 10, "momentum": 0.75, "temperature": TEMPERATURE}
    generator = torch.Generator().manual_seed(4)
    return MomentumContrast(encoder, 64, **(options | changes), generator=generator)


def image_pairs(number: int, batch: int = 4) -> tuple[Tensor, Tensor]:
    images = randn(2, batch, 1, 8, 8, seed=100 + number, dtype=torch.float32)
    return images[0], images[1]


def loop_moco(queries: Tensor, keys: Tensor, queue: list[Tensor]) -> float:
    total = 0.0
    for q, k in zip(queries.double(), keys.double(), strict=True):
        own = math.exp(float(unit(q) @ unit(k)) / TEMPERATURE)
        others = sum(math.exp(float(unit(q) @ row.double()) / TEMPERATURE) for row in queue)
        total -= math.log(own / (own + others))
    return total / len(queries)


def train_step(contrast: MomentumContrast, optimizer: torch.optim.Optimizer, number: int) -> float:
    first, second = image_pairs(number)
    loss = contrast.loss(contrast.encoder(first)[1], second)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    contrast.end_step(True)
    return loss.item()


def test_momentum_contrast_is_its_formulas_over_steps_and_around_the_queue():
    encoder = make_encoder()
    contrast = make_contrast(encoder)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    queue = list(contrast.queue.clone())
    assert all(float(row @ row) == pytest.approx(1, abs=1e-5) for row in queue)
    averages = [parameter.detach().double() for parameter in encoder.parameters()]
    position = 0
    for step in range(4):  # 16 keys into 10 places
        first, second = image_pairs(step)
        with torch.no_grad():
            queries, keys = encoder(first)[1], contrast.momentum_encoder(second)[1]
        assert train_step(contrast, optimizer, step) == pytest.approx(loop_moco(queries, keys, queue), rel=1e-5)
        for key in keys:
            queue[position] = unit(key)
            position = (position + 1) % 10
        torch.testing.assert_close(contrast.queue, torch.stack(queue), rtol=1e-5, atol=1e-6)
        moving = zip(averages, encoder.parameters(), contrast.momentum_encoder.parameters(), strict=True)
        for i, (average, parameter, moved) in enumerate(moving):
            averages[i] = 0.75 * average + 0.25 * parameter.detach().double()
            torch.testing.assert_close(moved.double(), averages[i], rtol=1e-5, atol=1e-6)
    assert contrast.position == position == 6
    assert any(not torch.allclose(a, b.double()) for a, b in zip(averages, encoder.parameters(), strict=True))


def test_the_keys_of_all_micro_batches_of_a_step_enter_the_queue():
    encoder = make_encoder()
    contrast = make_contrast(encoder, queue_size=6)
    first_queue, batches = contrast.queue.clone(), [image_pairs(number) for number in range(2)]
    with torch.no_grad():
        keys = torch.cat([encoder(second)[1] for _, second in batches])
        keys = torch.stack([unit(key) for key in keys])
    for first, second in batches:
        contrast.loss(encoder(first)[1], second)
    assert torch.equal(contrast.queue, first_queue)
    contrast.end_step(True)
    torch.testing.assert_close(contrast.queue, keys[-6:], rtol=1e-5, atol=1e-6)  # eight into six places: the last ones
    assert contrast.position == 0


def test_a_skipped_step_leaves_no_trace():
    encoder = make_encoder()
    contrast, untouched = make_contrast(encoder), make_contrast(encoder)
    first, second = image_pairs(0)
    contrast.loss(encoder(first)[1], second * float("nan"))
    contrast.end_step(False)
    for one in (contrast, untouched):
        one.loss(encoder(first)[1], second)
        one.end_step(True)
    assert contrast.queue.isfinite().all() and torch.equal(contrast.queue, untouched.queue)
    assert contrast.position == untouched.position == 4


def test_gradients_go_to_the_encoder_alone():
    encoder = make_encoder()
    contrast = make_contrast(encoder)
    first, second = image_pairs(0)
    contrast.loss(encoder(first)[1], second).backward()
    assert all(parameter.grad.abs().max() > 0 for name, parameter in encoder.named_parameters() if "norm3" in name)
    contrast.end_step(True)
    assert not any(parameter.requires_grad for parameter in contrast.momentum_encoder.parameters())
    assert all(parameter.grad is None for parameter in contrast.momentum_encoder.parameters())
    assert not contrast.queue.requires_grad


def test_it_goes_on_from_its_state_to_the_bit(tmp_path):
    runs = []
    for parts in (1, 2):
        torch.manual_seed(0)
        encoder = make_encoder()
        contrast, optimizer, losses = make_contrast(encoder), torch.optim.SGD(encoder.parameters(), lr=0.1), []
        for step in range(6):
            if parts == 2 and step == 3:
                torch.save(contrast.state_dict(), tmp_path / "state.pt")
                before = contrast.queue.clone()
                resumed = MomentumContrast(encoder, 64, queue_size=10, momentum=0.75, temperature=TEMPERATURE)
                resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
                stopped, contrast = contrast, resumed
            losses.append(train_step(contrast, optimizer, step))
        runs.append((losses, contrast))
    assert torch.equal(stopped.queue, before)
    assert runs[0][0] == runs[1][0]
    states = [contrast.state_dict() for _, contrast in runs]
    assert states[0].keys() == states[1].keys() and states[0]["position"] == states[1]["position"] == 4
    assert torch.equal(states[0]["queue"], states[1]["queue"])
    assert all(torch.equal(value, states[1]["encoder"][name]) for name, value in states[0]["encoder"].items())


def test_a_loaded_state_is_a_copy():
    encoder = make_encoder()
    contrast, other = make_contrast(encoder), make_contrast(encoder)
    other.load_state_dict(contrast.state_dict())
    before = contrast.queue.clone()
    first, second = image_pairs(0)
    other.loss(encoder(first)[1], second)
    other.end_step(True)
    assert torch.equal(contrast.queue, before) and not torch.equal(other.queue, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue_size": 0}, "`queue_size` must be at least 1, got 0"),
        ({"momentum": 1.0}, "`momentum` must be at least 0 and below 1, got 1.0"),
        ({"momentum": -0.1}, "`momentum` must be at least 0 and below 1"),
        ({"temperature": 0.0}, "`temperature` must be positive, got 0.0"),
        ({"temperature": math.nan}, "`temperature` must be positive, got nan"),
    ],
)
def test_arguments_out_of_range_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make_contrast(make_encoder(), **changes)
    if "temperature" in changes:
        with pytest.raises(ValueError, match=message):
            simclr_loss(randn(3, 4), randn(3, 4), **changes)
