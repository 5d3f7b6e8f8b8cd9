# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Batches of a stream on 1, 2 and 4 real processes (gloo): each image once an epoch, as many batches everywhere, exact resuming."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate import debug_launcher
from helpers.forked_runs import assert_same_outcome, kill_at_random, run_undisturbed, start
from helpers.images import png
from helpers.streams import WRITERS, numbers_of, open_stream, write_parquet_shards
from helpers.training import TINY, accelerator_fixture, forget_accelerators, run_on  # noqa: F401 (a fixture)

from lzn_hf import train_joint, train_representation, train_unconditional
from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.batches import endless_batches, make_train_loader
from lzn_hf.training.processes import start_accelerator
from lzn_hf.training.streams import StreamBatches


TOTAL = 8  # images of a batch of all processes
EVEN = {"4 files": [12] * 4, "3 files": [16] * 3, "1 file": [48]}
UNEVEN = [12, 9, 3, 11, 5]  # of one epoch, 40 images


def take(batches: StreamBatches, count: int) -> list[list[int]]:
    iterator = iter(batches)
    taken = [numbers_of([next(iterator)])[0] for _ in range(count)]
    iterator.close()
    return taken


def make(accelerator, folder: Path, num_workers: int = 0, **options) -> StreamBatches:
    processes = accelerator.num_processes
    loader = make_train_loader(open_stream(folder, **options), TOTAL // processes, processes, num_workers)
    return endless_batches(accelerator.prepare(loader))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[tuple[str, str], Path]:
    root = tmp_path_factory.mktemp("shards")
    return {
        (kind, name): write(root / f"{kind} {name}", sizes)
        for kind, write in WRITERS.items()
        for name, sizes in {**EVEN, "uneven": UNEVEN}.items()
    }


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_each_image_is_seen_once_an_epoch(tmp_path, shards, processes):
    cases = [*itertools.product(WRITERS, EVEN, (0, 2))]

    def epochs(accelerator) -> list[list[list[int]]]:
        return [take(make(accelerator, shards[kind, name], workers), 12) for kind, name, workers in cases]

    results = run_on(processes, epochs, tmp_path)
    for case, *shares in zip(cases, *results, strict=True):
        for epoch in (slice(0, 6), slice(6, 12)):
            seen = [number for share in shares for batch in share[epoch] for number in batch]
            assert sorted(seen) == list(range(48)), case
    for index, (_, _, workers) in enumerate(cases):  # whose number changes nothing
        if workers:
            assert all(share[index] == share[index - 1] for share in results)


@pytest.mark.parametrize("processes", [2, 4])
def test_all_processes_end_an_epoch_together(tmp_path, shards, processes):
    """Files of 3 to 12 images: no process waits for one that has nothing left, and no image comes twice in an epoch."""
    cases = [*itertools.product(WRITERS, (0, 2))]

    def epochs(accelerator) -> list[list[tuple[int, list[int]]]]:
        results = []
        for kind, workers in cases:
            batches = make(accelerator, shards[kind, "uneven"], workers)
            iterator, taken = iter(batches), []
            for _ in range(12):
                [images] = numbers_of([next(iterator)])
                taken.append((batches.epoch, images))
            results.append(taken)
        return results

    results = run_on(processes, epochs, tmp_path)
    for shares in zip(*results, strict=True):
        assert len({tuple(epoch for epoch, _ in share) for share in shares}) == 1
        last = shares[0][-1][0]
        assert last >= 2
        for epoch in range(last):
            seen = [number for share in shares for e, images in share if e == epoch for number in images]
            assert len(set(seen)) == len(seen) >= TOTAL
        left_out = [set(range(40)) - {n for share in shares for e, images in share if e == 0 for n in images}]
        assert len(left_out[0]) < 40 - TOTAL


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("processes", [1, 2])
def test_batches_continue_where_they_stopped(tmp_path, shards, processes, kind):
    """Also with another number of workers, and where images that cannot be read were left out."""

    def resume(accelerator) -> list[bool]:
        batches = make(accelerator, shards[kind, "uneven"])
        iterator, states, expected = iter(batches), [], []
        for _ in range(9):
            states.append(json.loads(json.dumps(batches.state_dict())))  # plain numbers
            expected.append(numbers_of([next(iterator)])[0])
        same = []
        for done, state in enumerate(states):
            again = make(accelerator, shards[kind, "uneven"], num_workers=done % 2)
            again.load_state_dict(state)
            same.append(take(again, 9 - done) == expected[done:])
        return same

    assert run_on(processes, resume, tmp_path) == [[True] * 9] * processes


def test_images_that_are_left_out_shorten_no_batch(tmp_path, accelerator):
    folder = write_parquet_shards(tmp_path / "data", [12, 12])
    import pyarrow
    import pyarrow.parquet

    path = folder / "train-001.parquet"
    images = pyarrow.parquet.read_table(path).to_pydict()["image"]
    for place in (1, 4, 5, 11):
        images[place]["bytes"] = b"no image"
    pyarrow.parquet.write_table(pyarrow.table({"image": images}), path)

    def batches(**options) -> StreamBatches:
        loader = make_train_loader(open_stream(folder, skip_bad_images=True, **options), 3, 1)
        return endless_batches(loader)

    whole = batches()
    iterator, states, expected = iter(whole), [], []
    for _ in range(12):
        states.append(whole.state_dict())
        expected.append(numbers_of([next(iterator)])[0])
    assert all(len(batch) == 3 for batch in expected)
    assert len({number for batch in expected[:6] for number in batch}) == 18  # of 20 that can be read
    assert whole.epoch == 1
    for done, state in enumerate(states):
        again = batches()
        again.load_state_dict(state)
        assert take(again, 12 - done) == expected[done:], done


def test_a_stream_that_fills_no_batch_is_an_error_on_all_processes(tmp_path):
    """7 images in 2 files: one of two processes could fill a batch of 4."""
    folder = write_parquet_shards(tmp_path / "data", [4, 3])

    def first(accelerator) -> str:
        with pytest.raises(ValueError, match="did not fill one batch of 4 images on each process") as error:
            next(iter(make(accelerator, folder)))
        return str(error.value)

    assert len(set(run_on(2, first, tmp_path))) == 1


def test_epochs_of_one_batch_are_continued(tmp_path, accelerator):
    folder = write_parquet_shards(tmp_path / "data", [9])
    batches = make(accelerator, folder)
    iterator = iter(batches)
    next(iterator)
    state, expected = batches.state_dict(), numbers_of([next(iterator)])
    again = make(accelerator, folder)
    again.load_state_dict(state)
    assert take(again, 1) == expected


def test_each_process_names_the_images_that_it_leaves_out(tmp_path):
    def is_shown(_) -> list[bool]:
        forget_accelerators()
        start_accelerator(RunArguments(output_dir=str(tmp_path)))
        names = ("lzn_hf.data.streams", "lzn_hf.training.loop")
        return [logging.getLogger(name).isEnabledFor(logging.WARNING) for name in names]

    assert run_on(2, is_shown, tmp_path) == [[True, True], [True, False]]


def test_the_places_of_other_processes_are_refused(tmp_path, accelerator):
    batches = make(accelerator, write_parquet_shards(tmp_path / "data", [9]))
    state = batches.state_dict()
    state["positions"] *= 2
    with pytest.raises(ValueError, match=r"places in the stream of 2 process\(es\), but there are 1"):
        batches.load_state_dict(state)


# Runs of the scripts


STEPS = 8
FLAGS = f"--streaming --total_batch_size 8 --max_train_steps {STEPS} --checkpointing_steps 2 --logging_steps 1"
FLAGS += " --num_reference_anchors 5 --shuffle_buffer_size 6 --num_workers 1"
SCRIPTS = {
    "joint": (train_joint, "--samples_per_label 1 --num_inference_steps 1"),
    "unconditional": (train_unconditional, "--num_samples 1 --num_inference_steps 1"),
    "representation": (train_representation, "--config_overrides decoder_type=null"),
}


@pytest.fixture
def flags(tmp_path) -> str:
    """For three parquet files with 8 to 12 labelled images each."""
    import datasets
    import numpy as np

    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])}
    rng = np.random.default_rng(0)
    for split, file, count in (("train", 0, 12), ("train", 1, 8), ("train", 2, 11), ("test", 0, 6)):
        images = [{"bytes": png(rng.integers(0, 256, (8, 8), dtype=np.uint8)), "path": None} for _ in range(count)]
        columns = {"image": images, "label": [number % 3 for number in range(count)]}
        (tmp_path / "images").mkdir(exist_ok=True)
        rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        rows.to_parquet(tmp_path / "images" / f"{split}-{file}.parquet")
    (tmp_path / "toys.json").write_text(json.dumps({"model": TINY}))
    return f"--preset {tmp_path}/toys.json --data_dir {tmp_path}/images {FLAGS}"


def starter(name: str, flags: str) -> Callable:
    script, more = SCRIPTS[name]
    return lambda: start(script, f"{flags} {more}")


def test_a_killed_run_ends_as_one_that_nobody_disturbed(tmp_path, flags):
    run_undisturbed(starter("joint", f"{flags} --output_dir {tmp_path}/whole"), tmp_path / "whole")
    again = starter("joint", f"{flags} --output_dir {tmp_path}/killed --resume_from_checkpoint latest")
    assert len(kill_at_random(again, tmp_path / "killed", 3, 0.3, STEPS, seed=2)) == 3
    assert_same_outcome(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("name", SCRIPTS)
def test_two_processes_resume_to_the_bit(tmp_path, flags, name):
    script, more = SCRIPTS[name]
    argv = f"{flags} {more} --resume_from_checkpoint latest --checkpoints_total_limit 9 --output_dir".split()
    for run in ("whole", "parts"):
        forget_accelerators()
        debug_launcher(script.main, ([*argv, str(tmp_path / run)],), num_processes=2)
        if run == "whole":  # step 6 is in the second epoch
            shutil.copytree(tmp_path / "whole" / "checkpoint-6", tmp_path / "parts" / "checkpoint-6")
    assert_same_outcome(tmp_path / "parts", tmp_path / "whole")
    settings = json.loads((tmp_path / "whole" / "training_settings.json").read_text())
    assert settings["stream"] == {"processes": 2, "files": 3}
    if name == "unconditional":
        forget_accelerators()
        shutil.copytree(tmp_path / "whole" / "checkpoint-6", tmp_path / "one" / "checkpoint-6")
        with pytest.raises(
            ValueError, match=r"other settings or images: stream.processes: 2 in the checkpoint, 1 now"
        ):
            script.main([*argv, str(tmp_path / "one")])


def test_workers_may_change_when_a_run_is_resumed(tmp_path, flags):
    argv = (
        f"{flags} {SCRIPTS['unconditional'][1]} --output_dir {tmp_path}/{{}} --num_workers {{}} --max_train_steps {{}}"
    )
    for folder, workers, steps in (("whole", 0, 4), ("parts", 2, 2), ("parts", 0, 4)):
        forget_accelerators()
        train_unconditional.main([*argv.format(folder, workers, steps).split(), "--resume_from_checkpoint", "latest"])
    assert_same_outcome(tmp_path / "parts", tmp_path / "whole")
