# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the loop calls when, and with which weights; the scripts' own tests look at what comes out of it."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import re
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.models import is_checkpointing
from helpers.training import forget_accelerators, tiny_model, toy_images, training_setup
from torch import Tensor

from lzn_hf import train_joint
from lzn_hf.data.batches import to_pixel_values
from lzn_hf.training import metrics
from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.durable import find_damage
from lzn_hf.training.loop import TrainingLoop


RATES = {"encoder": 1e-2, "decoder": 1e-2, "label_anchors": 1e-2}


def loss_of_batch(model, batch, generator) -> tuple[Tensor, dict[str, Tensor | None]]:
    assert model.training
    output = model(to_pixel_values(batch["pixel_values"]), labels=batch["labels"], generator=generator)
    return output.loss, {"alignment_loss": output.alignment_loss, "nothing": None}


class Run:
    """A loop over 20 images of noise, 5 steps an epoch, with its file of metrics."""

    def __init__(self, folder: Path, *, compute_loss=loss_of_batch, resume: Path | None = None, **options):
        forget_accelerators()
        loop_options = {
            name: options.pop(name) for name in ("freeze_after", "on_step_end", "extra_state") if name in options
        }
        run = RunArguments(
            **({"output_dir": str(folder), "total_batch_size": 4, "logging_steps": 1, "max_train_steps": 4} | options)
        )
        torch.manual_seed(0)
        self.model = tiny_model().eval()  # as `from_pretrained` returns it
        if run.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        setup = training_setup(self.model, toy_images(20), run, checkpoint=resume)
        self.metrics_file = setup.tracker.path
        self.loop = TrainingLoop(setup, RATES, compute_loss, **loop_options)

    def fit(self, **options) -> list[dict[str, float]]:
        self.loop.fit(**options)
        lines = [json.loads(line) for line in self.metrics_file.read_text().splitlines()]
        self.weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.loop.close()
        return lines


@pytest.fixture(autouse=True)
def no_accelerator_left() -> Iterator[None]:
    yield
    forget_accelerators()


def test_the_metrics_are_those_of_the_loss_and_none_is_left_out(tmp_path):
    lines = Run(tmp_path).fit()
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    rates = {f"{part}_learning_rate": 1e-2 for part in RATES}
    for line in lines:
        assert line.keys() == {"step", "loss", "alignment_loss", *rates, "images_per_second", "nonfinite_steps"}
        assert {name: line[name] for name in rates} == rates


def test_each_micro_batch_has_seeds_of_its_own_and_the_gradient_is_clipped(tmp_path):
    seeds, norms, run = [], [], None

    def compute_loss(model, batch, generator):
        seeds.extend([generator.initial_seed(), torch.initial_seed()])
        return loss_of_batch(model, batch, generator)

    run = Run(tmp_path, compute_loss=compute_loss, gradient_accumulation_steps=2, max_grad_norm=1e-3)
    update = run.loop.optimizer.step

    def watched_update() -> None:
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in run.model.parameters()]).item())
        update()

    run.loop.optimizer.step = watched_update
    run.fit()
    assert len(seeds) == len(set(seeds)) == 2 * 2 * 4
    assert norms == pytest.approx([1e-3] * 4, rel=1e-2)


def nan_in(calls: set[int]):
    """The loss of these calls is NaN, counted from 0."""
    numbers = iter(range(1000))

    def compute_loss(model, batch, generator):
        loss, metrics = loss_of_batch(model, batch, generator)
        return loss * (float("nan") if next(numbers) in calls else 1.0), metrics

    return compute_loss


@pytest.mark.parametrize(("accumulated", "bad_call"), [(1, 2), (2, 4)])
def test_the_end_of_each_step_is_told_once_and_whether_it_changed_the_weights(tmp_path, accumulated, bad_call):
    told, run = [], None
    before = [None]

    def on_step_end(applied: bool) -> None:
        now = run.model.label_anchors().detach().clone()
        told.append((applied, before[0] is None or not torch.equal(now, before[0])))
        before[0] = now

    options = {"compute_loss": nan_in({bad_call}), "gradient_accumulation_steps": accumulated}
    run = Run(tmp_path, on_step_end=on_step_end, **options)
    lines = run.fit()
    assert told == [(True, True), (True, True), (False, False), (True, True)]
    assert [line["nonfinite_steps"] for line in lines] == [0, 0, 1, 1]


@pytest.mark.parametrize("trouble", ["loss", "gradient"])
@pytest.mark.parametrize(("accumulated", "bad_call"), [(1, 2), (2, 4)])
def test_a_skipped_step_counts_in_no_mean(tmp_path, trouble, accumulated, bad_call):
    """Neither the loss that is NaN, nor a finite loss whose gradient is NaN, nor other micro-batches of the same step."""
    values = []

    def compute_loss(model, batch, generator):
        loss, metrics = loss_of_batch(model, batch, generator)
        if len(values) == bad_call:
            loss = (
                loss * float("nan") if trouble == "loss" else loss + (0 * loss).sqrt()
            )  # 0, with the derivative 0 / 0
        values.append((loss.item(), metrics["alignment_loss"].item()))
        return loss, metrics

    options = {"gradient_accumulation_steps": accumulated, "logging_steps": 4}
    [line] = Run(tmp_path, compute_loss=compute_loss, **options).fit()
    assert len(values) == 4 * accumulated and line["nonfinite_steps"] == 1
    assert math.isfinite(values[bad_call][0]) == (trouble == "gradient")
    skipped = range(2 * accumulated, 3 * accumulated)
    applied = [pair for call, pair in enumerate(values) if call not in skipped]
    means = [sum(column) / len(applied) for column in zip(*applied, strict=True)]
    assert [line["loss"], line["alignment_loss"]] == pytest.approx(means, rel=1e-6)


def test_learning_rates_and_averages_follow_the_steps_that_were_applied(tmp_path):
    history = []

    def on_step_end(applied: bool) -> None:
        history.append((applied, run.model.label_anchors().detach().clone()))

    options = {"warmup_steps": 4, "ema_decay": 0.3, "max_train_steps": 5}
    run = Run(tmp_path, compute_loss=nan_in({2}), on_step_end=on_step_end, **options)
    average, count = run.model.label_anchors().detach().clone(), 0
    lines = run.fit()
    rates = [1e-2 * factor for factor in (0.4375, 0.625, 0.625, 0.8125, 1.0)]  # of the step after the logged one
    for part in RATES:
        assert [line[f"{part}_learning_rate"] for line in lines] == pytest.approx(rates)
    for applied, weights in history:
        if applied:
            count += 1
            average += (1 - min(0.3, (1 + count) / (10 + count))) * (weights - average)
    assert count == 4
    torch.testing.assert_close(run.loop.ema.averages["label_anchors"].shadow_params[0], average)


def test_all_of_the_state_is_in_a_checkpoint(tmp_path):
    """A run in two parts, with a skipped step and a state of the caller's, is bit-identical to one in one part."""

    class Count:
        def __init__(self):
            self.steps, self.total = 0, torch.zeros(())

        def end_step(self, applied: bool) -> None:
            self.steps += applied

        def state_dict(self) -> dict:
            return {"steps": self.steps}

        def load_state_dict(self, state: dict) -> None:
            self.steps = state["steps"]

    def compute_loss(model, batch, generator):
        loss, metrics = loss_of_batch(model, batch, generator)
        return loss * (float("nan") if run.loop.step == 1 else 1.0), metrics

    counts, runs = [Count() for _ in range(3)], []
    for count, folder, steps, resume in (
        (counts[0], "whole", 7, None),
        (counts[1], "parts", 4, None),
        (counts[2], "parts", 7, tmp_path / "parts" / "checkpoint-3"),
    ):
        options = {"on_step_end": count.end_step, "extra_state": {"count": count}}
        options |= {"resume_from_checkpoint": str(resume)} if resume else {}
        options |= {"compute_loss": compute_loss, "warmup_steps": 5, "checkpointing_steps": 3}
        run = Run(tmp_path / folder, max_train_steps=steps, resume=resume, **options)
        runs.append((run, run.fit()))
    assert [count.steps for count in counts] == [6, 3, 6]
    assert all(torch.equal(runs[0][0].weights[name], value) for name, value in runs[2][0].weights.items())
    assert not all(torch.equal(runs[1][0].weights[name], value) for name, value in runs[2][0].weights.items())
    logged = [[{**line, "images_per_second": None} for line in lines] for _, lines in (runs[0], runs[2])]
    assert logged[0] == logged[1] and [line["nonfinite_steps"] for line in logged[1]] == [0, 1, 1, 1, 1, 1, 1]


def test_gradient_checkpointing_gives_the_same_losses(tmp_path):
    """With dropout: what is computed again has the same units out."""
    losses = []
    for checkpointing in (False, True):
        run = Run(tmp_path / str(checkpointing), gradient_checkpointing=checkpointing)
        assert is_checkpointing(run.model) is checkpointing
        losses.append([line["loss"] for line in run.fit()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(set(losses[0])) == 4


def names_of_checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_a_checkpoint_has_the_evaluation_of_its_step(tmp_path):
    seen = []

    def evaluate() -> dict[str, float]:
        seen.append(names_of_checkpoints(tmp_path))
        return {"score": 0.5}

    Run(tmp_path, max_train_steps=5, eval_steps=2, checkpointing_steps=2).fit(evaluate=evaluate)
    assert seen == [[], ["checkpoint-2"]]
    lines = (tmp_path / "checkpoint-4" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == {"step": 4, "score": 0.5} and len(lines) == 4 + 2


def test_old_checkpoints_make_place_and_time_alone_makes_new_ones(tmp_path):
    Run(tmp_path / "none").fit()  # ten minutes have not passed
    Run(tmp_path / "late", checkpointing_minutes=1e-9).fit()
    Run(tmp_path / "never", checkpointing_minutes=0.0).fit()
    found = {name: names_of_checkpoints(tmp_path / name) for name in ("none", "late", "never")}
    assert found == {"none": [], "late": ["checkpoint-3", "checkpoint-4"], "never": []}


def test_nothing_is_saved_while_steps_are_skipped(tmp_path):
    run = Run(
        tmp_path, compute_loss=nan_in({2, 3}), max_train_steps=6, checkpointing_steps=2, checkpoints_total_limit=5
    )
    run.fit()
    # Step 4 was due while steps 3 and 4 were skipped, and is made up for by step 5.
    assert names_of_checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-5", "checkpoint-6"]


@pytest.mark.parametrize("spoilt", ["weights", "averages"])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, spoilt):
    def on_step_end(applied: bool) -> None:
        if run.loop.step == 2:  # at the end of the third
            averages = run.loop.ema.averages["label_anchors"].shadow_params[0]
            (run.model.label_anchors.weight.data if spoilt == "weights" else averages)[0] = float("inf")

    run = Run(tmp_path, on_step_end=on_step_end, checkpointing_steps=1, checkpoints_total_limit=1)
    with pytest.raises(RuntimeError, match="label_anchors.*not saved. The last good checkpoint is .*checkpoint-2"):
        run.fit()
    assert names_of_checkpoints(tmp_path) == ["checkpoint-2"] and find_damage(tmp_path / "checkpoint-2") is None


def test_it_evaluates_the_averaged_weights_between_steps(tmp_path):
    run, seen = Run(tmp_path, max_train_steps=6, eval_steps=2, ema_decay=0.9), []

    def has_averages() -> bool:
        return torch.equal(run.model.label_anchors(), run.loop.ema.averages["label_anchors"].shadow_params[0])

    def draw(path: Path) -> None:
        seen.append((path, has_averages()))
        path.touch()

    def evaluate() -> dict[str, float]:
        seen.append((run.loop.step, has_averages()))
        return {"score": float(run.loop.step)}

    lines = run.fit(evaluate=evaluate, draw=draw)
    pictures = [tmp_path / "samples" / f"step-00000{step}.png" for step in (2, 4)]
    # Not after the last step: `save_final_folder` does that itself.
    assert seen == [(pictures[0], True), (2, True), (pictures[1], True), (4, True)]
    assert [line for line in lines if "score" in line] == [{"step": step, "score": step} for step in (2, 4)]
    assert not has_averages()


def test_time_left_and_metrics_fit_in_80_columns(tmp_path, monkeypatch):
    """In a real terminal, of a long run whose every metric has three digits."""
    terminal, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    values = {"reconstruction_loss": 0.98765, "alignment_loss": 0.12345, "own_label_share": 0.56789}

    def compute_loss(model, batch, generator):
        if run.loop.step == 3:
            raise InterruptedError
        time.sleep(0.2)
        metrics = {name: torch.tensor(value) for name, value in values.items()}
        return loss_of_batch(model, batch, generator)[0], metrics

    with os.fdopen(screen, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        run = Run(tmp_path, compute_loss=compute_loss, max_train_steps=200_000)
        with pytest.raises(InterruptedError):
            run.fit(shown=train_joint.SHOWN)
        lines = [line.rstrip() for line in os.read(terminal, 4096).decode().split("\r")]
    os.close(terminal)
    assert max(map(len, lines)) <= 79
    pattern = r" +3/200000, \d\d:\d\d:\d\d left, loss=\S+, recon=0.988, align=0.123, own=0.568"
    assert any(re.search(pattern, line) for line in lines), lines


def test_the_speed_is_that_of_the_steps_without_evaluations(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def compute_loss(model, batch, generator):
        now[0] += 2.0
        return loss_of_batch(model, batch, generator)

    def evaluate() -> dict[str, float]:
        now[0] += 100.0
        return {"score": 0.0}

    run = Run(tmp_path, compute_loss=compute_loss, max_train_steps=5, logging_steps=2, eval_steps=2)
    now[0] += 100.0  # and without what came before the first step
    lines = run.fit(evaluate=evaluate)
    assert [line["images_per_second"] for line in lines if "loss" in line] == [2.0, 2.0, 2.0]


def test_a_part_stops_after_its_steps_and_none_is_never(tmp_path):
    history = []
    run = Run(
        tmp_path,
        freeze_after={"decoder": 2, "encoder": None},
        on_step_end=lambda applied: history.append(
            {name: p.detach().clone() for name, p in run.model.named_parameters()}
        ),
    )
    run.fit()
    for name in history[0]:
        assert torch.equal(history[1][name], history[3][name]) == name.startswith("decoder."), name


def test_a_run_that_never_has_a_finite_loss_stops(tmp_path):
    run = Run(tmp_path, compute_loss=nan_in(set(range(100))), max_nonfinite_steps=3, max_train_steps=10)
    with pytest.raises(RuntimeError, match="3 steps in a row had a non-finite loss"):
        run.fit()
    assert run.loop.step == 2  # the third was not finished
