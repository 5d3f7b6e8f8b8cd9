# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Dry runs of the three scripts: what they print and time, and that they write nothing."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch
from helpers.images import write_idx_folder
from helpers.training import forget_accelerators, tiny_model, toy_images, training_setup, write_image_folder

from lzn_hf import train_joint, train_representation, train_unconditional
from lzn_hf.data.batches import to_pixel_values
from lzn_hf.training import dry_run, metrics
from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.dry_run import peak_memory, timing_report
from lzn_hf.training.loop import TrainingLoop


SCRIPTS = {"joint": train_joint, "representation": train_representation, "unconditional": train_unconditional}
TIMES = r"[\d.e+]+ s a step, [\d.e+]+ images/s: 2 steps after one to warm up, on cpu with 1 thread\(s\) a process"
CPU = torch.device("cpu")


def dry_run_of(kind: str, flags: str) -> None:
    forget_accelerators()
    assert SCRIPTS[kind].main([*flags.split(), "--dry_run"]) is None


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def batches(monkeypatch) -> list[torch.Tensor]:
    """The images of each step that is taken, on the way into the loop."""
    seen = []
    for script in SCRIPTS.values():

        class Watching(TrainingLoop):
            def __init__(self, setup, rates, compute_loss, **options):
                def watched(model, batch, generator):
                    seen.append(batch["pixel_values"])
                    return compute_loss(model, batch, generator)

                super().__init__(setup, rates, watched, **options)

        monkeypatch.setattr(script, "TrainingLoop", Watching)
    return seen


@pytest.mark.parametrize(
    ("kind", "flags", "settings", "parts"),
    [
        ("joint", "", ("joint", "samples_per_label", 10), "encoder decoder label_anchors"),
        ("unconditional", "", ("unconditional", "baseline", "none"), "encoder decoder"),
        (
            "unconditional",
            "--baseline rectified_flow",
            ("unconditional", "baseline", "rectified_flow"),
            "decoder",
        ),
        ("representation", "--flip 0.25", ("views", "flip", 0.25), "encoder"),
        ("representation", "--flip 0.25 --method moco", ("representation", "method", "moco"), "encoder"),
    ],
)
@pytest.mark.parametrize("data", ["digits", "idx files"])
def test_it_prints_everything_and_writes_nothing(tmp_path, capsys, batches, kind, flags, settings, parts, data):
    flags += " --preset digits --total_batch_size 8"
    if data == "idx files":
        write_idx_folder(tmp_path / "idx")
        flags += " --data_dir idx --image_size 8"
    before = sorted(tmp_path.rglob("*"))
    dry_run_of(kind, f"{flags} --max_train_steps 7000 --push_to_hub --report_to tensorboard --output_dir out")
    assert sorted(tmp_path.rglob("*")) == before
    assert [tuple(images.shape) for images in batches] == 3 * [(8, 1, 8, 8)] and batches[0].dtype == torch.uint8
    printed = capsys.readouterr().out
    values, _ = json.JSONDecoder().raw_decode(printed)
    section, name, value = settings
    assert values[section][name] == value
    assert re.findall(r"^(\w+): +[\d,]+ parameters", printed, re.MULTILINE) == [*parts.split(), "total"]
    images = {"digits": "1,437", "idx files": "12"}[data]
    assert f"epochs of {images} training images" in printed and f"images used: {images} for train" in printed
    assert re.search(TIMES, printed) and re.search(r"7,000 steps: [\d:]+ \(h:mm:ss\) of training", printed)
    memory = re.search(r"([\d.]+) GiB of memory at the peak of a process, resident in the main memory", printed)
    assert 0.1 < float(memory[1]) < 20


def test_a_checkpoint_or_a_file_in_the_folder_is_no_obstacle(tmp_path, capsys):
    """They are what a run would refuse."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    write_image_folder(tmp_path / "images")
    before = sorted(tmp_path.rglob("*"))
    flags = "--data_dir images --total_batch_size 8 --output_dir out --resume_from_checkpoint out/checkpoint-9"
    dry_run_of("joint", flags)
    assert re.search(TIMES, capsys.readouterr().out) and sorted(tmp_path.rglob("*")) == before


def test_no_step_is_taken_without_data(capsys, batches):
    dry_run_of("joint", "--preset fashion-mnist")
    printed = capsys.readouterr().out
    assert "The data was not looked at" in printed and "no steps were timed" in printed
    assert not batches and "a step" not in printed and "GiB" not in printed


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_first_step_does_not_count(tmp_path, monkeypatch, capsys, accumulated):
    now, seconds = [0.0], iter([100.0] * accumulated + 2 * accumulated * [0.5 / accumulated])
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def compute_loss(model, batch, generator):
        assert model.training
        now[0] += next(seconds)
        return model(to_pixel_values(batch["pixel_values"]), labels=batch["labels"], generator=generator).loss, {}

    forget_accelerators()
    options = {"total_batch_size": 4, "gradient_accumulation_steps": accumulated, "max_train_steps": 14_400}
    model = tiny_model().eval()  # as `from_pretrained` returns it
    setup = training_setup(model, toy_images(20), RunArguments(output_dir=str(tmp_path / "out"), **options))
    loop = TrainingLoop(setup, {"encoder": 1e-2, "decoder": 1e-2, "label_anchors": 1e-2}, compute_loss)
    now[0] += 50.0
    loop.time_steps()
    printed = capsys.readouterr().out
    assert "0.5 s a step, 8 images/s" in printed and "14,400 steps: 2:00:00 (h:mm:ss)" in printed
    assert next(seconds, None) is None and not (tmp_path / "out").exists()


def test_memory_is_that_of_the_device():
    run = RunArguments(total_batch_size=100, max_train_steps=10)
    assert "3.00 GiB of memory at the peak of a process, allocated on the GPU" in timing_report(
        run, torch.device("cuda", 0), 50.0, 3 * 2**30
    )
    assert "on cuda\n" in timing_report(run, torch.device("cuda", 0), 50.0, 1)
    assert peak_memory(torch.device("cuda")) == 0  # nothing was allocated there
    before = peak_memory(CPU)
    assert before > 2**27
    ballast = torch.ones(before // 4 + 2**26)  # float32: once more the peak, and 256 MiB
    assert peak_memory(CPU) > before + 2**27 and ballast[-1] == 1


def test_memory_that_the_system_does_not_tell_is_left_out(monkeypatch):
    monkeypatch.setattr(dry_run, "resource", None)
    assert peak_memory(CPU) is None
    assert "GiB" not in timing_report(RunArguments(), CPU, 50.0, peak_memory(CPU))


def test_an_estimate_of_days():
    printed = timing_report(RunArguments(total_batch_size=2000, max_train_steps=200_000), CPU, 1000.0, None)
    assert "2 s a step, 1000 images/s" in printed and "200,000 steps: 4 days, 15:06:40 (h:mm:ss)" in printed


def test_a_preset_for_own_images_brings_size_and_channels(tmp_path, capsys):
    write_image_folder(tmp_path / "photos")
    flags = "--preset images-32 --data_dir photos --total_batch_size 4 --config_overrides"
    dry_run_of("unconditional", f"{flags} encoder_base_channels=8 decoder_base_channels=8 latent_dim=8")
    printed = capsys.readouterr().out
    assert "as 32 x 32 RGB" in printed and re.search(TIMES, printed)
