# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`data.streams`: which process reads which images, in which order, and how it goes on from a place."""

from __future__ import annotations

import itertools
import logging
import pickle
from pathlib import Path

import pytest
from helpers.streams import WRITERS, numbers_of, open_stream, write_parquet_shards
from torch.utils.data import DataLoader

from lzn_hf.data import streams
from lzn_hf.data.batches import collate_images
from lzn_hf.data.images import StreamedImageDataset
from lzn_hf.data.streams import START, Position


UNEVEN = [9, 8, 3, 9, 10, 1]  # images of files


def read(stream: StreamedImageDataset, *share: int, start: Position = START) -> list[tuple[int, Position]]:
    """The numbers of the images that a process reads, each with the position after it."""
    rows = list(stream.read(*share, start=start))
    images = numbers_of([stream.decoder.__getitems__([row for row, _ in rows])])[0] if rows else []
    return list(zip(images, (position for _, position in rows), strict=True))


def numbers(stream: StreamedImageDataset, *share: int) -> list[int]:
    return [number for number, _ in read(stream, *share)]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("num_files", [1, 3, 4, 6])
def test_each_image_is_read_by_one_process_in_each_epoch(tmp_path: Path, kind: str, num_files: int):
    stream = open_stream(WRITERS[kind](tmp_path / "data", UNEVEN[:num_files]))
    assert stream.num_files == num_files
    everything = list(range(sum(UNEVEN[:num_files])))
    for processes, epoch in itertools.product((1, 2, 4), (0, 1)):
        shares = [numbers(stream, epoch, index, processes) for index in range(processes)]
        assert sorted(itertools.chain(*shares)) == everything, (processes, epoch)


def test_files_are_dealt_whole_and_only_the_last_ones_row_by_row(tmp_path: Path, monkeypatch):
    """5 files of 4: two for each of two processes, and the last of the order for both."""
    stream = open_stream(write_parquet_shards(tmp_path / "data", [4] * 5))
    read_files: list[int] = []
    read_file = StreamedImageDataset._read_file

    def noting(self, file: int, first: int):
        read_files.append(file)
        return read_file(self, file, first)

    monkeypatch.setattr(StreamedImageDataset, "_read_file", noting)
    shares = [numbers(stream, 0, index, 2) for index in range(2)]
    first, second = read_files[:3], read_files[3:]
    assert first[2] == second[2] and sorted({*first, *second}) == list(range(5))
    for share, files in ((shares[0], first), (shares[1], second)):
        assert [sum(number // 4 == file for number in share) for file in files] == [4, 4, 2]


def test_files_and_images_are_shuffled_anew_for_each_epoch_and_seed(tmp_path: Path):
    folder = write_parquet_shards(tmp_path / "data", [10] * 4)
    stream = open_stream(folder)
    orders = [numbers(stream, 0), numbers(stream, 1), numbers(open_stream(folder, seed=1), 0)]
    for order in orders:
        assert sorted(order) == list(range(40)) and order != list(range(40))
    assert len(set(map(tuple, orders))) == 3 and numbers(stream, 0) == orders[0]
    files = [[number // 10 for number in order[:3]] for order in orders]
    assert len({file for first in files for file in first}) > 1  # not always the same file at the beginning
    unmixed = numbers(open_stream(folder, shuffle_buffer_size=1), 0)
    assert [number % 10 for number in unmixed] == list(range(10)) * 4  # files alone are shuffled
    mixed = numbers(open_stream(folder, shuffle_buffer_size=40), 0)
    assert len({number // 10 for number in mixed[:10]}) > 2
    assert numbers(open_stream(folder, shuffle_buffer_size=1000), 0) == mixed


def test_each_block_has_an_order_of_its_own(tmp_path: Path):
    order = numbers(open_stream(write_parquet_shards(tmp_path / "data", [40]), shuffle_buffer_size=10), 0)
    blocks = [order[first : first + 10] for first in range(0, 40, 10)]
    assert [sorted(block) for block in blocks] == [list(range(first, first + 10)) for first in range(0, 40, 10)]
    assert len({tuple(number % 10 for number in block) for block in blocks}) == 4


def test_a_block_of_rows_is_in_memory_and_no_more(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(streams, "READ_AT_ONCE", 1)
    stream = open_stream(write_parquet_shards(tmp_path / "data", [40]), shuffle_buffer_size=6)
    taken = 0
    read_file = StreamedImageDataset._read_file

    def watched(self, file: int, first: int):
        for number, row in enumerate(read_file(self, file, first), 1):
            assert number - taken <= 6 + 1  # with the one that is being handed out
            yield row

    monkeypatch.setattr(StreamedImageDataset, "_read_file", watched)
    for _ in stream.read(0):
        taken += 1
    assert taken == 40


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("index", "processes"), [(0, 1), (1, 2), (3, 4)])
def test_any_position_leads_to_the_images_that_follow(tmp_path: Path, kind: str, index: int, processes: int):
    stream = open_stream(WRITERS[kind](tmp_path / "data", UNEVEN), shuffle_buffer_size=4)
    whole = read(stream, 1, index, processes)
    for done, (_, position) in enumerate(whole, 1):
        assert all(type(number) is int for number in position)  # what checkpoints can hold
        assert read(stream, 1, index, processes, start=position) == whole[done:], done


def test_positions_without_shuffling(tmp_path: Path):
    stream = open_stream(write_parquet_shards(tmp_path / "data", UNEVEN))
    stream.shuffling = None
    whole = read(stream, 0, 0, 4)
    assert [number for number, _ in read(stream, 0)] == list(range(sum(UNEVEN)))
    for done, (_, position) in enumerate(whole, 1):
        assert read(stream, 0, 0, 4, start=position) == whole[done:]


def test_workers_of_a_plain_loader_share_a_stream(tmp_path: Path):
    stream = open_stream(write_parquet_shards(tmp_path / "data", [5, 5, 5]))
    loader = DataLoader(stream, batch_size=4, num_workers=2, collate_fn=collate_images)
    assert sorted(itertools.chain(*numbers_of(loader))) == list(range(15))


def test_errors_name_the_file_of_an_image(tmp_path: Path, caplog):
    folder = write_parquet_shards(tmp_path / "data", [3, 3])
    good = open_stream(folder)
    rows = [row for row, _ in good.read(0)]
    broken = next(row for row in rows if (row.file, row.number) == (1, 2))
    broken.columns["image"]["bytes"] = b"no image"
    with pytest.raises(ValueError, match=r"image 2 of split 'train, file 1'"):
        good.decoder.__getitems__(rows)
    skipping = open_stream(folder, skip_bad_images=True).decoder
    with caplog.at_level(logging.WARNING):
        assert sorted(numbers_of([skipping.__getitems__(rows)])[0]) == [0, 1, 2, 3, 4]
    assert [record.getMessage()[:25] for record in caplog.records] == ["Left out: image 2 of spli"]
    assert skipping.__getitems__([broken]) == {}


def test_workers_get_no_stream(tmp_path: Path):
    """What is sent to a worker process knows neither files nor connections."""
    decoder = open_stream(write_parquet_shards(tmp_path / "data", [3])).decoder
    assert decoder.rows.rows is None and len(pickle.dumps(decoder)) < 2000


def test_a_block_must_hold_an_image(tmp_path: Path):
    with pytest.raises(ValueError, match="`shuffle_buffer_size` must be at least 1, got 0"):
        open_stream(write_parquet_shards(tmp_path / "data", [3]), shuffle_buffer_size=0)
