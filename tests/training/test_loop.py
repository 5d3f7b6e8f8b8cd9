# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the loop calls when, and with which weights; the scripts' own tests look at what comes out of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.training import forget_accelerators, tiny_model, toy_images
from torch import Tensor

from lzn_hf.data.batches import to_pixel_values
from lzn_hf.training.arguments import RunArguments
from lzn_hf.training.checkpoints import JSONLinesTracker
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.steps import make_train_loader, start_accelerator


RATES = {"encoder": 1e-2, "decoder": 1e-2, "label_anchors": 1e-2}


def loss_of_batch(model, batch, generator) -> tuple[Tensor, dict[str, Tensor | None]]:
    output = model(to_pixel_values(batch["pixel_values"]), labels=batch["labels"], generator=generator)
    return output.loss, {"alignment_loss": output.alignment_loss, "nothing": None}


class Run:
    """A loop over 20 images of noise, 5 steps an epoch, with its file of metrics."""

    def __init__(self, folder: Path, *, compute_loss=loss_of_batch, resume: Path | None = None, **options):
        forget_accelerators()
        loop_options = {
            name: options.pop(name) for name in ("freeze_after", "end_step", "extra_state") if name in options
        }
        run = RunArguments(
            **({"output_dir": str(folder), "total_batch_size": 4, "logging_steps": 1, "max_train_steps": 4} | options)
        )
        torch.manual_seed(0)
        model = tiny_model()
        if run.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        loader = make_train_loader(toy_images(20), 4 // run.gradient_accumulation_steps, 1)
        self.tracker, self.resume = JSONLinesTracker(folder / "metrics.jsonl"), resume
        accelerator = start_accelerator(run, trackers=[self.tracker])
        self.loop = TrainingLoop(accelerator, model, loader, run, RATES, compute_loss, **loop_options)

    def fit(self, **options) -> list[dict[str, float]]:
        self.loop.fit(self.tracker, {}, name="test", checkpoint=self.resume, **options)
        lines = [json.loads(line) for line in self.tracker.path.read_text().splitlines()]
        self.weights = {name: value.clone() for name, value in self.loop.plain.state_dict().items()}
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

    def end_step(keep: bool) -> None:
        now = run.loop.plain.label_anchors.detach().clone()
        told.append((keep, before[0] is None or not torch.equal(now, before[0])))
        before[0] = now

    options = {"compute_loss": nan_in({bad_call}), "gradient_accumulation_steps": accumulated}
    run = Run(tmp_path, end_step=end_step, **options)
    lines = run.fit()
    assert told == [(True, True), (True, True), (False, False), (True, True)]
    assert [line["nonfinite_steps"] for line in lines] == [0, 0, 1, 1]


def test_all_of_the_state_is_in_a_checkpoint(tmp_path):
    """A run in two parts, with a state of the caller's, is one run to the bit."""

    class Count:
        def __init__(self):
            self.steps, self.total = 0, torch.zeros(())

        def end_step(self, keep: bool) -> None:
            self.steps += keep

        def state_dict(self) -> dict:
            return {"steps": self.steps}

        def load_state_dict(self, state: dict) -> None:
            self.steps = state["steps"]

    counts, runs = [Count() for _ in range(3)], []
    for count, folder, steps, resume in (
        (counts[0], "whole", 7, None),
        (counts[1], "parts", 3, None),
        (counts[2], "parts", 7, tmp_path / "parts" / "checkpoint-3"),
    ):
        options = {"end_step": count.end_step, "extra_state": {"count": count}}
        options |= {"resume_from_checkpoint": str(resume)} if resume else {}
        run = Run(tmp_path / folder, max_train_steps=steps, checkpointing_steps=3, resume=resume, **options)
        runs.append((run, run.fit()))
    assert [count.steps for count in counts] == [7, 3, 7]
    assert all(torch.equal(runs[0][0].weights[name], value) for name, value in runs[2][0].weights.items())
    assert not all(torch.equal(runs[1][0].weights[name], value) for name, value in runs[2][0].weights.items())
    losses = [[(line["step"], line["loss"]) for line in lines] for _, lines in (runs[0], runs[2])]
    assert losses[0] == losses[1] and len(losses[0]) == 7


def test_gradient_checkpointing_gives_the_same_losses(tmp_path):
    """With dropout: what is computed again has the same units out."""
    losses = []
    for checkpointing in (False, True):
        run = Run(tmp_path / str(checkpointing), gradient_checkpointing=checkpointing)
        assert run.loop.plain.encoder.gradient_checkpointing is run.loop.plain.decoder.gradient_checkpointing
        assert run.loop.plain.decoder.gradient_checkpointing is checkpointing
        losses.append([line["loss"] for line in run.fit()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(set(losses[0])) == 4


def test_it_evaluates_the_averaged_weights_between_steps(tmp_path):
    run, seen = Run(tmp_path, max_train_steps=6, eval_steps=2, ema_decay=0.9), []

    def evaluate(step: int) -> dict[str, float]:
        averages = run.loop.ema.averages["label_anchors"].shadow_params
        seen.append((step, torch.equal(run.loop.plain.label_anchors, averages[0])))
        return {"score": float(step)}

    lines = run.fit(evaluate=evaluate)
    assert seen == [(2, True), (4, True)]  # not after the last step: the script does that itself
    assert [line for line in lines if "score" in line] == [{"step": step, "score": step} for step in (2, 4)]
    assert not torch.equal(run.weights["label_anchors"], run.loop.ema.averages["label_anchors"].shadow_params[0])


def test_a_part_stops_after_its_steps_and_none_is_never(tmp_path):
    history = []
    run = Run(
        tmp_path,
        freeze_after={"decoder": 2, "encoder": None},
        end_step=lambda keep: history.append(
            {name: p.detach().clone() for name, p in run.loop.plain.named_parameters()}
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
