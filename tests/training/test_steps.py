# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The pieces that the training scripts share, each by itself."""

from __future__ import annotations

import pytest
import torch
from helpers.training import ToyStream, accelerator_fixture, tiny_model, toy_images  # noqa: F401 (a fixture)
from torch import nn
from torch.utils.data import IterableDataset

from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.steps import (
    EndlessBatches,
    MetricAverager,
    NonFiniteGuard,
    check_num_processes,
    encode_anchors,
    make_scheduler,
    make_train_loader,
    measure_accuracy,
    micro_batch_size,
    reference_anchors,
    seed_micro_batch,
)


def test_processes_that_do_not_see_each_other_are_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_num_processes(2)
    with pytest.raises(ValueError, match="2 processes were started .* sees 1: each would train alone.*torchrun"):
        check_num_processes(1)


def test_the_batch_is_split_over_processes_and_accumulation_steps():
    run = RunArguments(total_batch_size=24, gradient_accumulation_steps=3)
    assert micro_batch_size(run, num_processes=2) == 4
    with pytest.raises(ValueError, match="`total_batch_size` 24 cannot be split evenly over 5 processes x 3"):
        micro_batch_size(run, num_processes=5)


def test_a_batch_larger_than_the_data_is_an_error():
    assert len(make_train_loader(toy_images(7), batch_size=3, num_processes=2)) == 2  # drop_last
    with pytest.raises(ValueError, match="7 training images do not fill one batch of 4 on 2"):
        make_train_loader(toy_images(7), batch_size=4, num_processes=2)


def test_random_numbers_depend_on_seed_step_micro_batch_and_process_only():
    generator = torch.Generator()

    def draw(*position: int) -> tuple[list[float], list[float]]:
        seed_micro_batch(generator, *position)
        return torch.rand(4).tolist(), torch.rand(4, generator=generator).tolist()

    first = draw(0, 1, 2, 3)
    torch.rand(7), torch.rand(5, generator=generator)
    assert draw(0, 1, 2, 3) == first
    draws = [first, *(draw(*position) for position in [(1, 1, 2, 3), (0, 0, 2, 3), (0, 1, 1, 3), (0, 1, 2, 0)])]
    streams = [tuple(stream) for pair in draws for stream in pair]
    assert len(set(streams)) == len(streams)  # also: dropout and noise do not share a stream


def learning_rates(**settings) -> list[float]:
    run = RunArguments(**settings)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer, run)
    rates = []
    for _ in range(run.max_train_steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_warm_up_is_the_published_one():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.0002, end_factor=1.0, total_iters=5000)
    expected = []
    for _ in range(5011):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle.step()
    assert learning_rates(warmup_steps=5000, max_train_steps=5010) == pytest.approx(expected, rel=1e-9)


def test_learning_rate_is_constant_or_a_cosine_after_the_warm_up():
    assert learning_rates(max_train_steps=3) == [1, 1, 1, 1]
    assert learning_rates(max_train_steps=4, warmup_steps=2) == [0.5, 0.75, 1, 1, 1]
    rates = learning_rates(max_train_steps=6, warmup_steps=2, lr_scheduler="cosine")
    assert rates == pytest.approx([0.5, 0.75, 1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0])


def test_a_non_finite_loss_or_gradient_is_refused_and_many_in_a_row_stop_the_run(accelerator):
    guard, fine, nan, inf = (
        NonFiniteGuard(2),
        torch.tensor(1.0),
        torch.tensor(float("nan")),
        torch.tensor(float("inf")),
    )

    def step(*losses, grad_norm=fine):
        for loss in losses:
            guard.watch(loss)
        return guard.step_is_finite(accelerator, grad_norm)

    assert step(fine, fine)
    assert not step(nan, fine)  # any micro-batch
    assert step(fine)  # the losses before are forgotten
    assert not step(fine, grad_norm=inf)
    assert (guard.total, guard.in_a_row) == (2, 1)
    restored = NonFiniteGuard(2)
    restored.load_state_dict(guard.state_dict())
    guard = restored
    with pytest.raises(RuntimeError, match="2 steps in a row had a non-finite loss.*`--max_nonfinite_steps`"):
        step(inf)


def test_an_overflow_in_float16_lowers_the_loss_scale(accelerator):
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scaler = accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    for factor, scale in ((float("inf"), 512.0), (1.0, 1024.0)):
        loss = (parameter * 3).sum()
        (scaler.scale(loss) * factor).backward()
        scaler.unscale_(optimizer)  # as clip_grad_norm_ does; a second time without update() would raise
        guard = NonFiniteGuard(2)
        guard.watch(loss)
        if guard.step_is_finite(accelerator, parameter.grad.norm()):
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
        assert scaler.get_scale() == scale
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.7]))


def test_metrics_are_means_over_good_steps(accelerator):
    averager = MetricAverager(images_per_step=10)
    for keep, losses in ((True, (1.0, 3.0)), (False, (float("nan"), 5.0)), (True, (4.0, 8.0))):
        for loss in losses:
            averager.add(loss=torch.tensor(loss), absent=None)
        averager.end_step(keep)
    metrics = averager.compute(accelerator)
    assert metrics["loss"] == 4.0 and metrics.keys() == {"loss", "images_per_second"}
    assert metrics["images_per_second"] > 0
    assert averager.compute(accelerator) == {"images_per_second": 0}


@pytest.mark.parametrize("streamed", [False, True])
def test_batches_continue_where_they_stopped(accelerator, streamed):
    dataset = ToyStream(11) if streamed else toy_images(11, num_labels=11)

    def batches():
        return EndlessBatches(accelerator.prepare(make_train_loader(dataset, batch_size=3, num_processes=1)))

    endless = batches()
    iterator = iter(endless)
    states, expected = [], []
    for _ in range(10):  # 3 batches an epoch, 2 images left out of each
        states.append(endless.state_dict())
        expected.append(next(iterator)["labels"].tolist())
    for epoch in range(3):
        assert len({label for batch in expected[3 * epoch : 3 * epoch + 3] for label in batch}) == 9
    assert expected[:3] != expected[3:6]
    for start, state in enumerate(states):
        resumed = batches()
        resumed.load_state_dict(state)
        iterator = iter(resumed)
        assert [next(iterator)["labels"].tolist() for _ in range(10 - start)] == expected[start:], start


def test_data_that_fill_no_batch_do_not_loop_forever():
    class NoBatches(list):
        def set_epoch(self, epoch: int) -> None:
            pass

    with pytest.raises(ValueError, match="did not fill one batch"):
        next(iter(EndlessBatches(NoBatches())))


@pytest.mark.parametrize("dataset", [toy_images(10, num_labels=10), ToyStream(10)], ids=["stored", "streamed"])
def test_evaluation_batches_are_shared_out_and_limited(dataset):
    def labels(**options):
        return [label for batch in image_batches(dataset, 4, **options) for label in batch["labels"].tolist()]

    assert sorted(labels()) == list(range(10))
    assert [len(batch["labels"]) for batch in image_batches(dataset, 4)] == [4, 4, 2]
    shares = [labels(limit=7, process_index=i, num_processes=3) for i in range(3)]
    assert [len(share) for share in shares] == [3, 2, 2]
    assert (
        sorted(label for rows in shares for label in rows) == sorted(labels(limit=7))
        and len(set(labels(limit=7))) == 7
    )
    if not isinstance(dataset, IterableDataset):
        assert labels(limit=7, seed=1) == labels(limit=7, seed=1) != labels(limit=7, seed=2)


def test_accuracy_is_that_of_each_image_by_itself(accelerator):
    model, data = tiny_model(), toy_images(23)
    for parameter in model.parameters():  # dropout is behind fresh layers that are almost zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    anchors = encode_anchors(model, image_batches(data, 5, limit=8))
    assert anchors.shape == (8, 6) and model.training and not anchors.requires_grad
    assert torch.equal(anchors, encode_anchors(model, image_batches(data, 5, limit=8)))  # no dropout
    with reference_anchors(model, anchors):
        accuracy = measure_accuracy(accelerator, model, image_batches(data, 7))
        model.eval()
        correct = 0
        for i in range(len(data)):
            item = data[i]
            with torch.no_grad():
                log_probs = model.classify_images(to_pixel_values(item["pixel_values"][None]))
            correct += int(log_probs.argmax() == item["labels"])
    assert accuracy == correct / 23
    assert model.reference_anchors is None and model.config.num_reference_anchors == 0
