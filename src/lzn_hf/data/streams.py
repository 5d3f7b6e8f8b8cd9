# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Images that come one after the other and are never stored: who reads which file, in which order, and how to go on from a place.

The files of a stream are dealt to the processes as they are, so that no process reads what another one trains on. Only the last few, where
their number is not divisible, are read by all, which take turns in using their images.

`datasets` can shuffle and resume a stream, too, but a shuffle buffer of it starts empty when it is resumed: images are lost, and others
follow. Here images are shuffled in blocks, so that a [`Position`] of five numbers leads back to the very next image.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from .batches import collate_images
from .columns import label_tensor
from .stores import ImageDecoder, Rows, UnreadableImageError


logger = logging.getLogger(__name__)

READ_AT_ONCE = 32  # rows; one by one, `datasets` takes longer


class Position(NamedTuple):
    """A place in what a process reads of a stream in an epoch.

    Args:
        file (`int`): files of its share that were read to the end when the current block began.
        row (`int`): rows read of the next one by then.
        dealt (`int`): rows of files that all processes read, by then.
        block (`int`): number of the current block.
        taken (`int`): images taken from that block.
    """

    file: int = 0
    row: int = 0
    dealt: int = 0
    block: int = 0
    taken: int = 0


START = Position()


class StreamedRow(NamedTuple):
    """A row of a stream as it is stored: the number of its file, its number in that file, and its columns."""

    file: int
    number: int
    columns: dict[str, Any]


@dataclass(frozen=True)
class Shuffling:
    """How a stream is shuffled: the order of its files, and its images in blocks.

    Args:
        seed (`int`): decides both, together with the epoch.
        block_size (`int`): images in a block.
    """

    seed: int
    block_size: int


class RowDecoder(Dataset):
    """Turns rows of a stream into images and labels. The index of an item is the row itself, so that workers of a DataLoader decode.

    Args:
        rows ([`Rows`]): what the rows are called; the stream itself is not needed.
        label_column (`str`, *optional*): the column of the labels; `None`: no labels.
        label_ids (`dict`): the label id of each stored label.
        decoder ([`ImageDecoder`]): makes all images alike.
        skip_bad (`bool`): leave out images that cannot be read, with a warning each.
    """

    def __init__(
        self, rows: Rows, label_column: str | None, label_ids: dict[Any, int], decoder: ImageDecoder, skip_bad: bool
    ):
        self.rows = replace(rows, rows=None)
        self.label_column = label_column
        self.label_ids = label_ids
        self.decoder = decoder
        self.skip_bad = skip_bad

    def __getitem__(self, row: StreamedRow) -> dict[str, Tensor]:
        split = self.rows.split if row.file == 0 else f"{self.rows.split}, file {row.file}"
        item = {"pixel_values": self.decoder(self.rows.stored(row.columns), row.number, split)}
        if self.label_column is not None:
            item["labels"] = label_tensor([row.columns[self.label_column]], self.label_ids, split, row.number)[0]
        return item

    def decode(self, rows: Sequence[StreamedRow]) -> list[dict[str, Tensor]]:
        """Returns the images of these rows, without those that are left out."""
        items = []
        for row in rows:
            try:
                items.append(self[row])
            except UnreadableImageError as error:
                if not self.skip_bad:
                    raise
                logger.warning(f"Left out: {error}")
        return items

    def __getitems__(self, rows: Sequence[StreamedRow]) -> dict[str, Tensor]:
        items = self.decode(rows)
        return collate_images(items) if items else {}


class StreamedImageDataset(IterableDataset):
    """Images that come one after the other and are never stored.

    Iterating gives all of them once, those of one worker to each worker of a DataLoader. Training reads a part for each process by
    [`read`], from any position.

    Args:
        rows ([`Rows`]): the stream, a `datasets.IterableDataset` that is not shuffled, its images not decoded.
        label_column (`str`, *optional*): the column of the labels; `None`: no labels.
        label_ids (`dict`): the label id of each stored label.
        decoder ([`ImageDecoder`]): makes all images alike.
        skip_bad (`bool`, *optional*, defaults to `False`): leave out images that cannot be read, with a warning each.
        shuffling ([`Shuffling`], *optional*): how to shuffle; `None` keeps the order of the source.
    """

    def __init__(
        self,
        rows: Rows,
        label_column: str | None,
        label_ids: dict[Any, int],
        decoder: ImageDecoder,
        skip_bad: bool = False,
        shuffling: Shuffling | None = None,
    ):
        self.rows = rows
        self.decoder = RowDecoder(rows, label_column, label_ids, decoder, skip_bad)
        self.shuffling = shuffling
        self.epoch = 0

    @property
    def num_files(self) -> int:
        """The number of files, or of other parts that can be read by themselves."""
        return self.rows.rows.num_shards

    def set_epoch(self, epoch: int) -> None:
        """Changes the order in which a shuffled stream is iterated."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        share = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for row, _ in self.read(self.epoch, *share):
            yield from self.decoder.decode([row])

    def read(
        self, epoch: int, process_index: int = 0, num_processes: int = 1, start: Position = START
    ) -> Iterator[tuple[StreamedRow, Position]]:
        """Yields the rows that a process reads in an epoch.

        Each row of the stream is read by one of the processes, once. Files are dealt to them one by one; of the last `num_files %
        num_processes` ones, whose rows are dealt one by one, every process reads all.

        Rows are shuffled in blocks. While a block is taken, the rows of the next one come into the places that become free, so that no more
        than one block is in memory.

        Args:
            epoch (`int`): changes the order of a shuffled stream.
            process_index, num_processes (`int`, *optional*, default to 0 and 1): which process of how many.
            start ([`Position`], *optional*): where to begin, by default the start of the epoch.

        Yields:
            `tuple[StreamedRow, Position]`: a row, and the position after it.
        """
        rows = self._read_files(epoch, process_index, num_processes, start)
        if self.shuffling is None:
            yield from rows
            return
        block: list[Any] = list(islice(rows, self.shuffling.block_size))
        while block:
            seed = [self.shuffling.seed, epoch, process_index, start.block + 1]  # the order of files has another seed
            order, end = np.random.default_rng(seed).permutation(len(block)).tolist(), block[-1][1]
            coming: list[Any] = []
            for taken, place in enumerate(order, 1):
                row, block[place] = block[place][0], None  # its memory is free
                coming += islice(rows, 1)
                if taken > start.taken:
                    yield row, start._replace(taken=taken)
            block, start = coming, end._replace(block=start.block + 1, taken=0)

    def _read_files(
        self, epoch: int, process_index: int, num_processes: int, start: Position
    ) -> Iterator[tuple[StreamedRow, Position]]:
        """The rows of a process in the order of its files."""
        files = np.arange(self.num_files)
        if self.shuffling is not None:
            files = np.random.default_rng([self.shuffling.seed, epoch]).permutation(files)
        own = len(files) // num_processes
        share = [*files[process_index : own * num_processes : num_processes], *files[own * num_processes :]]
        dealt = start.dealt
        for place in range(start.file, len(share)):
            file, first = int(share[place]), start.row if place == start.file else 0
            for number, columns in enumerate(self._read_file(file, first), first):
                is_own = place < own or dealt % num_processes == process_index
                dealt += place >= own
                if is_own:
                    yield StreamedRow(file, number, columns), Position(place, number + 1, dealt)

    def _read_file(self, file: int, first: int) -> Iterator[dict[str, Any]]:
        """The rows of one file from number `first` on."""
        stream = self.rows.rows.shard(self.num_files, file)
        if first:
            stream = stream.skip(first)
        # Not `iter(stream)`, which would deal the rows to the workers of a DataLoader for a second time.
        for batch in stream.iter(READ_AT_ONCE):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))
