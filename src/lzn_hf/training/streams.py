# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Training batches of a stream: each process reads and decodes images of its own, and all have the same number of batches.

accelerate would have the main process read and decode the images of all, or each process decode the images of all.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce, send_to_device
from torch import Tensor
from torch.utils.data import DataLoader

from ..data.batches import collate_images
from ..data.streams import START, Position, StreamedImageDataset, StreamedRow


logger = logging.getLogger(__name__)


class Chunk(NamedTuple):
    """Decoded images that were read in one piece: where it begins and ends, and how many of them batches have taken.

    There are fewer images than rows where images were left out.
    """

    start: Position
    end: Position
    images: dict[str, Tensor]
    taken: int


class RowChunks:
    """Reads the rows of this process in an epoch in pieces of `size`, one ahead in a thread: a "batch sampler" whose indices are rows.

    Args:
        dataset ([`StreamedImageDataset`]): the stream.
        size (`int`): rows of a piece.
    """

    def __init__(self, dataset: StreamedImageDataset, size: int):
        self.dataset = dataset
        self.size = size
        self.restart(0, START)

    def restart(self, epoch: int, position: Position) -> None:
        """Sets where the next iteration begins."""
        self.epoch, self.position = epoch, position
        self.ends: deque[Position] = deque()  # of the pieces that are being decoded

    def __iter__(self) -> Iterator[list[StreamedRow]]:
        processes = PartialState()
        share = (processes.process_index, processes.num_processes)
        rows = self.dataset.read(self.epoch, *share, self.position)

        def read() -> list[tuple[StreamedRow, Position]]:
            return list(islice(rows, self.size))

        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(read)
            while piece := coming.result():
                coming = thread.submit(read)
                self.ends.append(piece[-1][1])
                yield [row for row, _ in piece]


class StreamBatches:
    """Iterates over full batches of a stream, epoch after epoch, from a position that can be saved.

    The rows of a process are read by itself and decoded by its workers, whose number changes nothing else. Before each batch, the
    processes agree that all of them have one. The first that has none ends the epoch for all: what is left of it, less than a batch for
    that process, is not used. Where files have different numbers of images, other processes have more left. The next epoch deals all
    images anew.

    Args:
        dataset ([`StreamedImageDataset`]): the stream.
        batch_size (`int`): images in a batch of one process.
        num_workers (`int`, *optional*, defaults to 0): worker processes of this process that decode.
    """

    def __init__(self, dataset: StreamedImageDataset, batch_size: int, num_workers: int = 0):
        self.batch_size = batch_size
        self.rows = RowChunks(dataset, batch_size)
        self.loader = DataLoader(
            dataset.decoder,
            batch_sampler=self.rows,
            collate_fn=collate_images,
            num_workers=num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
        )
        self.epoch = 0
        self.batch = 0
        self.position, self.taken = START, 0  # the first piece with images left, and how many were taken
        processes = PartialState().num_processes
        if shared := dataset.num_files % processes:
            logger.info(
                f"The stream has {dataset.num_files:,} files for {processes} processes: {shared} of them are read by all, which take turns "
                "in using the images. A number divisible by that of the processes spares this."
            )

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        device = PartialState().device
        while True:
            for batch in self._rest_of_epoch():
                yield send_to_device(batch, device)
            if self.batch == 0:
                raise ValueError(
                    f"The stream did not fill one batch of {self.batch_size} images on each process: make the batches smaller by `--total_batch_size`."
                )
            self.epoch, self.batch, self.position, self.taken = self.epoch + 1, 0, START, 0

    def _rest_of_epoch(self) -> Iterator[dict[str, Tensor]]:
        self.rows.restart(self.epoch, self.position)
        decoded = iter(self.loader)
        chunks: deque[Chunk] = deque()
        start, taken, waiting = self.position, self.taken, 0
        while True:
            while waiting < self.batch_size and (images := next(decoded, None)) is not None:
                end = self.rows.ends.popleft()
                chunks.append(Chunk(start, end, images, taken))
                waiting += len(images.get("pixel_values", ())) - taken
                start, taken = end, 0
            if not self._all_have_one(waiting >= self.batch_size):
                return
            waiting -= self.batch_size
            batch = self._take(chunks)
            self.batch += 1
            yield batch

    def _take(self, chunks: deque[Chunk]) -> dict[str, Tensor]:
        """Takes a batch from the first chunks, and moves the position behind it."""
        parts: list[dict[str, Tensor]] = []
        missing = self.batch_size
        while missing:
            start, end, images, taken = chunks.popleft()
            part = {key: value[taken : taken + missing] for key, value in images.items()}
            count = len(part.get("pixel_values", ()))
            self.position, self.taken = end, 0
            if count and taken + count < len(images["pixel_values"]):
                chunks.appendleft(Chunk(start, end, images, taken + count))
                self.position, self.taken = start, taken + count
            missing -= count
            parts += [part] * (count > 0)
        return parts[0] if len(parts) == 1 else {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _all_have_one(self, has_one: bool) -> bool:
        processes = PartialState()
        if processes.num_processes == 1:
            return has_one
        number = reduce(torch.tensor(int(has_one), device=processes.device), reduction="sum")
        return int(number) == processes.num_processes

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of each process. All of them must call this."""
        return {"epoch": self.epoch, "batch": self.batch, "positions": gather_object([[*self.position, self.taken]])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a saved position.

        Raises:
            ValueError: for the positions of another number of processes.
        """
        processes, positions = PartialState(), state["positions"]
        if len(positions) != processes.num_processes:
            raise ValueError(
                f"`resume_from_checkpoint` has the places in the stream of {len(positions)} process(es), but there are "
                f"{processes.num_processes}: a stream goes on with as many processes."
            )
        *position, self.taken = positions[processes.process_index]
        self.epoch, self.batch, self.position = state["epoch"], state["batch"], Position(*position)
