# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Pools of several micro-batches, and of some of the processes, against plain autograd on all images of a pool at once."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from helpers.training import forget_accelerators, run_on, tiny_model, write_image_folder
from torch import Tensor, nn

from lzn_hf import train_joint
from lzn_hf.distributed_lzn import PartGenerator
from lzn_hf.losses_lzn import joint_losses, reconstruction_loss, view_losses
from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.batches import micro_batches_of_a_pool
from lzn_hf.training.pools import PooledLoss, backward_pool
from lzn_hf.training.processes import make_pool_group


SEED = 7
KINDS = {
    "joint": {"reconstruction_weight": 0.7, "condition_dropout": 0.3, "alignment_noise_scales": [1.0, 0.5]},
    "unweighted": {"reconstruction_weight": 0.0},
    "unconditional": {"labels": ()},
    "labels alone": {"decoder_type": None},
    "views": {"labels": (), "decoder_type": None},
}


def busy_model(kind: str, dropout: float = 0.3) -> nn.Module:
    """With dropout in both networks, and every path of gradients open: fresh output layers are almost zero."""
    torch.manual_seed(0)
    model = tiny_model(**{"encoder_dropout": dropout, "decoder_dropout": dropout, **KINDS[kind]}).double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.train()


def batch(size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    pixel_values = torch.rand(size, 1, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1
    return {"pixel_values": pixel_values, "labels": torch.arange(size) % 3}


def shaken(images: dict[str, Tensor], generator: torch.Generator, process_index: int, num_processes: int) -> Tensor:
    """One view of the images, which draws a brightness for each."""
    size = len(images["pixel_values"])
    moves = torch.rand(num_processes * size, 1, 1, 1, generator=generator)[process_index * size :][:size]
    return images["pixel_values"] * (0.5 + 0.5 * moves.double())


def two_views(*args, **share) -> Tensor:
    return torch.cat([shaken(*args, **share) for _ in range(2)])


def seed_dropout(micro_batch: int, stage: int) -> None:
    torch.manual_seed(100 * micro_batch + stage)


def loss_of_pool(model, anchors, labels, generator, reconstruct) -> tuple[Tensor, dict[str, Tensor]]:
    if len(anchors) == 2:
        losses = view_losses(model.config, *anchors, generator=generator)
    else:
        labels = labels if model.config.num_labels else None
        reconstruct = None if model.decoder is None else reconstruct
        losses = joint_losses(model, anchors[0], labels, reconstruct, generator=generator)
    return losses["loss"], {"latents": losses["latents"]}


def pooled_loss(model: nn.Module) -> PooledLoss:
    weight, is_of_views = model.config.reconstruction_weight, model.decoder is None and not model.config.num_labels
    images = two_views if is_of_views else shaken
    return PooledLoss(images, partial(loss_of_pool, model), 2 if is_of_views else 1, weight)


def gradient_by_parts(kind: str, parts: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    forget_accelerators()
    model, images = busy_model(kind), batch(12)
    plugin = GradientAccumulationPlugin(num_steps=parts, sync_with_dataloader=False)
    accelerator = Accelerator(cpu=True, gradient_accumulation_plugin=plugin)
    size = 12 // parts
    batches = [{name: x[size * k :][:size] for name, x in images.items()} for k in range(parts)]
    batches = batches if model.config.num_labels else [{"pixel_values": one["pixel_values"]} for one in batches]
    generator = PartGenerator().manual_seed(SEED)
    loss, metrics = backward_pool(accelerator, model, batches, generator, pooled_loss(model), seed_dropout)
    return loss, metrics["latents"], {name: p.grad for name, p in model.named_parameters()}


def gradient_at_once(kind: str, parts: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """One graph of all images. Only dropout goes by parts, as it draws for them."""
    model, images, generator = busy_model(kind), batch(12), torch.Generator().manual_seed(SEED)
    pooled, size = pooled_loss(model), 12 // parts
    pixel_values = pooled.images(images, generator, process_index=0, num_processes=1)

    def in_parts(function, stage, *rows: Tensor):
        results = []
        for k, some in enumerate(zip(*(x.split(size) for x in rows), strict=True)):
            seed_dropout(k, stage)
            results.append(function(*some))
        return torch.cat(results)

    views = pixel_values.unflatten(0, (pooled.num_views, -1)).transpose(0, 1)

    def encode(some: Tensor) -> Tensor:
        together = model(some.transpose(0, 1).flatten(0, 1)).anchors
        return together.unflatten(0, (pooled.num_views, -1)).transpose(0, 1)

    anchors = in_parts(encode, 0, views).transpose(0, 1)

    def velocity(
        sample: Tensor, t: Tensor, latents: Tensor, labels: Tensor | None, *, decoder_anchors: None
    ) -> Tensor:
        rows = (sample, t, latents) if labels is None else (sample, t, latents, labels)
        return in_parts(model.predict_velocity, 1, *rows)

    labels = images["labels"] if model.config.num_labels else None
    reconstruct = partial(
        reconstruction_loss,
        velocity,
        pixel_values,
        labels=labels,
        generator=generator,
        condition_dropout=model.config.condition_dropout,
    )
    loss, metrics = pooled.loss(anchors, labels, generator, reconstruct)
    loss.backward()
    return loss, metrics["latents"], {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_have_the_gradient_of_the_whole(kind):
    loss, latents, gradients = gradient_by_parts(kind, 3)
    expected_loss, expected_latents, expected = gradient_at_once(kind, 3)
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=1e-6, check_dtype=False)
    torch.testing.assert_close(latents, expected_latents, rtol=0, atol=1e-6)
    assert max(value.abs().max() for value in expected.values() if value is not None) > 0.01
    for name, value in expected.items():
        if value is None or not value.any():
            assert gradients[name] is None or not gradients[name].any(), name
        else:
            error = (gradients[name] - value).norm() / value.norm().clamp_min(1e-6)
            assert error < 1e-6, f"{name}: {error:.1e}"


def test_batch_norm_counts_each_image_once():
    forget_accelerators()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, dtype=torch.float64))

    class Anchors(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = model

        def forward(self, x):
            return type("Output", (), {"anchors": self.network(x)})

    def loss(anchors, labels, generator, reconstruct):
        return anchors.square().mean(), {}

    plugin = GradientAccumulationPlugin(num_steps=2, sync_with_dataloader=False)
    accelerator = Accelerator(cpu=True, gradient_accumulation_plugin=plugin)
    batches = [{"pixel_values": part} for part in batch(12)["pixel_values"].split(6)]
    backward_pool(accelerator, Anchors(), batches, PartGenerator(), PooledLoss(shaken, loss), seed_dropout)
    assert model[1].num_batches_tracked == 2


def gradient_in_groups(accelerator, kind: str, group_size: int | None) -> dict[str, Tensor]:
    """Of 12 images, spread over the processes; noise and times are given, and dropout is off."""
    plain = busy_model(kind, dropout=0.0)
    model = accelerator.prepare(plain)
    size = 12 // accelerator.num_processes
    rows = slice(accelerator.process_index * size, (accelerator.process_index + 1) * size)
    images, draws = batch(12), torch.Generator().manual_seed(9)
    given = {
        "noise": torch.randn(12, 6, generator=draws).double()[rows],
        "pool_group": make_pool_group(RunArguments(pool_group_size=group_size), accelerator.num_processes),
    }
    pixel_values = images["pixel_values"][rows]
    if kind == "views":
        loss = model(pixel_values, second_views=pixel_values.flip(-1), **given).loss
    else:
        loss = model(pixel_values, labels=images["labels"][rows], **given).loss
    accelerator.backward(loss)
    return {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}


def gradient_of_half(accelerator, kind: str, half: int) -> dict[str, Tensor]:
    plain = busy_model(kind, dropout=0.0)
    images, rows = batch(12), slice(6 * half, 6 * half + 6)
    noise = torch.randn(12, 6, generator=torch.Generator().manual_seed(9)).double()[rows]
    pixel_values = images["pixel_values"][rows]
    if kind == "views":
        plain(pixel_values, second_views=pixel_values.flip(-1), noise=noise).loss.backward()
    else:
        plain(pixel_values, labels=images["labels"][rows], noise=noise).loss.backward()
    return {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["labels alone", "views"])
def test_the_processes_of_a_group_share_a_pool(tmp_path, kind):
    """Four processes in two groups have the mean of the gradients of two pools."""
    results = run_on(4, partial(gradient_in_groups, kind=kind, group_size=2), tmp_path)
    halves = [run_on(1, partial(gradient_of_half, kind=kind, half=half), tmp_path)[0] for half in range(2)]
    [whole] = run_on(1, partial(gradient_in_groups, kind=kind, group_size=None), tmp_path)
    expected = torch.cat([(halves[0][name] + halves[1][name]).flatten() / 2 for name in results[0]])
    for result in results:
        found = torch.cat([value.flatten() for value in result.values()])
        assert (found - expected).norm() <= 1e-6 * expected.norm()
    other = torch.cat([value.flatten() for value in whole.values()])
    assert (other - expected).norm() > 0.01 * expected.norm()


def test_sizes_that_do_not_fit_are_refused():
    def count(num_processes: int = 2, **change) -> int:
        return micro_batches_of_a_pool(RunArguments(total_batch_size=24, **change), num_processes)

    assert count() == count(pool_batch_size=24) == count(pool_group_size=1, pool_batch_size=12) == 1
    assert count(gradient_accumulation_steps=3) == count(gradient_accumulation_steps=3, pool_batch_size=8) == 1
    assert count(gradient_accumulation_steps=3, pool_batch_size=24) == 3
    assert count(gradient_accumulation_steps=4, pool_batch_size=12) == 2
    assert count(gradient_accumulation_steps=4, pool_batch_size=12, pool_group_size=1) == 4
    for wrong in ({"pool_batch_size": 12}, {"pool_batch_size": 16, "gradient_accumulation_steps": 3}):
        with pytest.raises(ValueError, match="`pool_batch_size` must be a multiple of the .* images of a micro-batch"):
            count(**wrong)
    with pytest.raises(ValueError, match=r"`pool_group_size` must divide the 2 process\(es\), got 3"):
        count(pool_group_size=3)
    with pytest.raises(ValueError, match="`pool_batch_size` must be at least 1"):
        RunArguments(pool_batch_size=0)


def test_a_baseline_without_pool_is_refused(tmp_path):
    forget_accelerators()
    data = write_image_folder(tmp_path / "images")
    argv = f"--data_dir {data} --total_batch_size 8 --pool_batch_size 8 --output_dir {tmp_path / 'run'}".split()
    with pytest.raises(ValueError, match="`pool_batch_size` and `pool_group_size` are for losses that compare"):
        train_joint.main([*argv, "--baseline", "classifier", "--preset", "digits"])
    assert not (tmp_path / "run").exists()
