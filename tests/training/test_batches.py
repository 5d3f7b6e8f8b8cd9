# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Training batches: their size, their order, where they go on, their seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from helpers.training import accelerator_fixture, toy_images  # noqa: F401 (a fixture)
from torch.utils.data import IterableDataset

from lzn_hf.data.batches import image_batches
from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.batches import EndlessBatches, make_train_loader, micro_batch_size, seed_draws, seed_dropout


def test_the_batch_is_split_over_processes_and_accumulation_steps():
    run = RunArguments(total_batch_size=24, gradient_accumulation_steps=3)
    assert micro_batch_size(run, num_processes=2) == 4
    with pytest.raises(ValueError, match="`total_batch_size` 24 cannot be split evenly over 5 processes x 3"):
        micro_batch_size(run, num_processes=5)


def test_a_batch_larger_than_the_data_is_an_error():
    assert len(make_train_loader(toy_images(7), batch_size=3, num_processes=2)) == 2  # drop_last
    with pytest.raises(ValueError, match="7 training images do not fill one batch of 4 on 2"):
        make_train_loader(toy_images(7), batch_size=4, num_processes=2)


def test_random_numbers_depend_on_seed_step_micro_batch_and_dropout_on_the_process():
    generator = torch.Generator()

    def draw(*position: int) -> tuple[list[float], list[float]]:
        seed_dropout(*position)
        seed_draws(generator, *position[:3])
        return torch.rand(4).tolist(), torch.rand(4, generator=generator).tolist()

    first = draw(0, 1, 2, 3)
    torch.rand(7), torch.rand(5, generator=generator)
    assert draw(0, 1, 2, 3) == first
    other = draw(0, 1, 2, 0)
    assert other[1] == first[1] and other[0] != first[0]
    draws = [first, *(draw(*position) for position in [(1, 1, 2, 3), (0, 0, 2, 3), (0, 1, 1, 3)])]
    streams = [tuple(stream) for pair in draws for stream in pair]
    assert len(set(streams)) == len(streams)  # also: dropout and noise do not share a stream


def test_batches_continue_where_they_stopped(accelerator):
    dataset = toy_images(11, num_labels=11)

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


@pytest.mark.parametrize("count", [8, 11, 12, 13, 15, 16])
def test_a_batch_is_split_over_processes_in_order(count):
    """Row r B + b of a batch of one process is row b of process r, up to the images that no batch takes, in every epoch."""

    def epochs(index: int, processes: int) -> list[list[int]]:
        dataset = toy_images(count, num_labels=count)
        loader = prepare_data_loader(
            make_train_loader(dataset, 4 // processes, processes),
            num_processes=processes,
            process_index=index,
            use_seedable_sampler=True,
            data_seed=3,
        )
        batches = iter(EndlessBatches(loader))
        return [next(batches)["labels"].tolist() for _ in range(3 * (count // 4))]

    whole = epochs(0, 1)
    assert all(len(batch) == 4 for batch in whole)
    for processes in (2, 4):
        shares = zip(*(epochs(index, processes) for index in range(processes)), strict=True)
        assert [list(itertools.chain(*share)) for share in shares] == whole


def test_data_that_fill_no_batch_do_not_loop_forever():
    class NoBatches(list):
        def set_epoch(self, epoch: int) -> None:
            pass

    with pytest.raises(ValueError, match="did not fill one batch"):
        next(iter(EndlessBatches(NoBatches())))


class ToyStream(IterableDataset):
    """Labels 0..count-1."""

    def __init__(self, count: int):
        self.count = count

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for index in range(self.count):
            yield {"pixel_values": torch.full((1, 8, 8), index, dtype=torch.uint8), "labels": torch.tensor(index)}


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
