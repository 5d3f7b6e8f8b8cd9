# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The training loop. A script adds the loss of a batch and what to evaluate on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..evaluation.results import write_json
from .batches import EndlessBatches, seed_micro_batch
from .checkpoints import SAMPLES_DIR, load_checkpoint, prepare_output_dir, save_checkpoint
from .dry_run import TIMED_STEPS, peak_memory, timing_report
from .metrics import LatentWatch, MetricAverager
from .models import PartwiseEMA, freeze_part, model_parts
from .optimization import NonFiniteGuard, make_scheduler
from .settings import DATA_SUMMARY_FILE
from .setup import TrainingSetup


logger = logging.getLogger(__name__)

# (prepared model, batch, generator of all noise) -> loss, metrics to log (those that are None are left out). [`LatentWatch`] looks at
# `latent_mean` and `latent_std`, which only latents with the noise of the prior should have both.
# For several processes the prepared model is wrapped: only its `forward` may be called. `setup.model` is the unwrapped one.
ComputeLoss = Callable[[nn.Module, Mapping[str, Tensor], torch.Generator], tuple[Tensor, Mapping[str, Tensor | None]]]
Evaluate = Callable[[], Mapping[str, float]]
Draw = Callable[[Path], None]


class TrainingLoop:
    """Trains a model with Adam, and with a learning rate and a moving average for each of its parts.

    Attributes:
        prepared_model (`nn.Module`): `setup.model`, wrapped if there are several processes.
        ema (`PartwiseEMA`): the moving averages. Inside `with loop.ema.scope():` the model has the averaged weights.
        step (`int`): number of optimizer steps done.

    Args:
        setup (`TrainingSetup`): model, data, settings and accelerator.
        learning_rates (`Mapping[str, float]`): the learning rate of each part of the model, see [`model_parts`].
        compute_loss (`ComputeLoss`): computes the loss of a batch and the metrics to log.
        freeze_after (`Mapping[str, int | None]`, *optional*): parts to freeze after a number of steps; `None` is never.
        on_step_end (`Callable[[bool], None]`, *optional*): called at the end of each step with whether it was applied to the
            weights. It was not if a loss or gradient was non-finite.
        extra_state (`Mapping[str, Any]`, *optional*): more objects with `state_dict()` and `load_state_dict()` to save in
            checkpoints.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        learning_rates: Mapping[str, float],
        compute_loss: ComputeLoss,
        *,
        freeze_after: Mapping[str, int | None] | None = None,
        on_step_end: Callable[[bool], None] | None = None,
        extra_state: Mapping[str, Any] | None = None,
    ):
        self.setup, self.run, self.accelerator = setup, setup.run, setup.accelerator
        self.compute_loss, self.on_step_end = compute_loss, on_step_end
        self.freeze_after = {part: step for part, step in (freeze_after or {}).items() if step is not None}
        parts = model_parts(setup.model)
        groups = [{"name": name, "params": params, "lr": learning_rates[name]} for name, params in parts.items()]
        optimizer = torch.optim.Adam(groups, fused=True)
        self.scheduler = make_scheduler(optimizer, self.run)
        self.prepared_model, self.optimizer, loader = self.accelerator.prepare(setup.model, optimizer, setup.loader)
        self.ema = PartwiseEMA(parts, self.run.ema_decay)
        self.guard = NonFiniteGuard(self.run.max_nonfinite_steps)
        self.averages = MetricAverager(self.run.total_batch_size)
        self.latent_watch = LatentWatch(setup.model.config.latent_num_steps)
        self.generator = torch.Generator(device=self.accelerator.device)
        batches = EndlessBatches(loader)
        self.batches = iter(batches)
        self.step = 0
        self.stateful = {
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "ema": self.ema,
            "batches": batches,
            "guard": self.guard,
            **(extra_state or {}),
        }
        if self.accelerator.scaler is not None:
            self.stateful["scaler"] = self.accelerator.scaler

    def take_step(self) -> None:
        """Takes one optimizer step, over all of its micro-batches."""
        run, accelerator = self.run, self.accelerator
        for part in [part for part, step in self.freeze_after.items() if self.step >= step]:
            self.prepared_model = freeze_part(accelerator, self.prepared_model, self.optimizer, part)
            del self.freeze_after[part]
        for micro_batch in range(run.gradient_accumulation_steps):
            batch = next(self.batches)
            seed_micro_batch(self.generator, run.seed, self.step, micro_batch, accelerator.process_index)
            with accelerator.accumulate(self.prepared_model):
                loss, metrics = self.compute_loss(self.prepared_model, batch, self.generator)
                accelerator.backward(loss)
                self.guard.watch(loss)
                self.averages.add(loss=loss, **metrics)
                if accelerator.sync_gradients:
                    self._update()
                self.optimizer.zero_grad()
        self.step += 1

    def _update(self) -> None:
        grad_norm = self.accelerator.clip_grad_norm_(self.prepared_model.parameters(), self.run.max_grad_norm)
        applied = self.guard.step_is_finite(self.accelerator, grad_norm)
        if applied:
            self.optimizer.step()
            self.scheduler.step()
            self.ema.step()
        self.averages.end_step(applied)
        if self.on_step_end is not None:
            self.on_step_end(applied)

    def fit(
        self, *, evaluate: Evaluate | None = None, draw: Draw | None = None, shown: Mapping[str, str] | None = None
    ) -> None:
        """Trains to the last step.

        Args:
            evaluate (`Callable`, *optional*): returns metrics to log. It is called every `run.eval_steps` steps but the last,
                when `setup.model` has the averaged weights.
            draw (`Callable`, *optional*): saves a picture to the path that it is given. It is called on the main process
                before each evaluation.
            shown (`Mapping[str, str]`, *optional*): metrics beside the progress bar: from their short names to those in the log.

        Raises:
            RuntimeError: after too many non-finite steps in a row, see [`NonFiniteGuard`].
        """
        run, accelerator, model = self.run, self.accelerator, self.setup.model
        output_dir = prepare_output_dir(accelerator, run)
        if self.setup.checkpoint is not None:
            self.step = load_checkpoint(self.setup.checkpoint, model, self.stateful)
        if accelerator.is_main_process:
            write_json(output_dir / DATA_SUMMARY_FILE, self.setup.data.summary.to_dict())
            self.setup.tracker.rewind(self.step)
        accelerator.init_trackers(self.setup.name)
        logger.info(f"Steps {self.step} to {run.max_train_steps}, {run.total_batch_size} images each.")
        progress = tqdm(
            initial=self.step,
            total=run.max_train_steps,
            disable=not accelerator.is_main_process,
            bar_format="{bar} {n_fmt}/{total_fmt}, {remaining} left{postfix}",  # leaves 40 of 80 columns to the metrics
        )
        shown = {"loss": "loss"} | dict(shown or {})
        model.train()
        self.averages.restart_clock()
        while self.step < run.max_train_steps:
            self.take_step()
            progress.update()
            is_last = self.step == run.max_train_steps
            if is_last or self.step % run.logging_steps == 0:
                metrics = self.averages.compute(accelerator)
                self.latent_watch.watch(metrics, self.step)
                progress.set_postfix({short: f"{metrics[key]:.3g}" for short, key in shown.items() if key in metrics})
                rates = {f"{group['name']}_learning_rate": group["lr"] for group in self.optimizer.param_groups}
                accelerator.log({**metrics, **rates, "nonfinite_steps": self.guard.total}, step=self.step)
            if run.checkpointing_steps and self.step % run.checkpointing_steps == 0:
                settings, total_limit = self.setup.settings, run.checkpoints_total_limit
                save_checkpoint(accelerator, output_dir, self.step, model, self.stateful, settings, total_limit)
            if evaluate is not None and run.eval_steps and self.step % run.eval_steps == 0 and not is_last:
                with self.ema.scope():
                    if draw is not None and accelerator.is_main_process:
                        (output_dir / SAMPLES_DIR).mkdir(exist_ok=True)
                        draw(output_dir / SAMPLES_DIR / f"step-{self.step:06d}.png")
                    accelerator.log(dict(evaluate()), step=self.step)
                self.averages.restart_clock()
        progress.close()

    def time_steps(self) -> None:
        """Takes the steps of a dry run, prints their time and memory, and ends the run. Nothing is written. All processes must call it."""
        accelerator, device = self.accelerator, self.accelerator.device
        accelerator.print(f"Taking {1 + TIMED_STEPS} steps ...")
        self.setup.model.train()
        self.take_step()  # allocates the state of the optimizer, among others
        self.averages.compute(accelerator)  # waits for the device and restarts the clock
        for _ in range(TIMED_STEPS):
            self.take_step()
        images_per_second = self.averages.compute(accelerator)["images_per_second"]
        peak = max(gather_object([peak_memory(device)]), key=lambda one: one or 0)
        accelerator.print(timing_report(self.run, device, images_per_second, peak))
        self.close()

    def close(self) -> None:
        """Ends the run on all processes. `setup.model` and `ema` remain, but training cannot go on."""
        # The wrapper goes before the process group does: as the group's last owner it would wait, holding Python's lock, for a thread
        # of gloo that may need that lock (https://github.com/pytorch/pytorch/issues/56297).
        self.prepared_model = None
        self.accelerator.free_memory()
        self.accelerator.end_training()
