# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The loop of the training scripts in `examples/`: what a script adds is how a batch becomes a loss, and what to look at on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..modeling_lzn import LZNModel
from .arguments import RunArguments
from .checkpoints import JSONLinesTracker, load_checkpoint, prepare_output_dir, save_checkpoint
from .models import PartwiseEMA, freeze_part, model_parts
from .steps import EndlessBatches, MetricAverager, NonFiniteGuard, make_scheduler, seed_micro_batch


logger = logging.getLogger(__name__)

# Of the prepared model, a batch and the generator of all noise: the loss, and what is to be logged (None is left out).
ComputeLoss = Callable[[nn.Module, Mapping[str, Tensor], torch.Generator], tuple[Tensor, Mapping[str, Tensor | None]]]


class TrainingLoop:
    """Trains a model with Adam, a learning rate and a moving average for each of its parts; interruptible at every checkpoint.

    Attributes:
        plain ([`LZNModel`]): the model without the wrapper of several processes.
        model: with it; what `compute_loss` gets.
        ema ([`PartwiseEMA`]): the moving averages; `with loop.ema.scope():` the model has them.
        step (`int`): optimizer steps done.

    Args:
        accelerator: prepares model, optimizer and loader.
        model: to train, on any device.
        loader: as [`make_train_loader`] makes it.
        run: length, optimisation, logging and checkpoints.
        learning_rates: of each part of the model, see [`model_parts`].
        compute_loss: see `ComputeLoss`.
        freeze_after: parts that stop to learn after so many steps; None is never.
        end_step: called at the end of each step with whether it changed the weights: not if a loss or gradient was not finite.
        extra_state: more objects with `state_dict()` and `load_state_dict()` that belong into a checkpoint.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: LZNModel,
        loader: DataLoader,
        run: RunArguments,
        learning_rates: Mapping[str, float],
        compute_loss: ComputeLoss,
        *,
        freeze_after: Mapping[str, int | None] | None = None,
        end_step: Callable[[bool], None] | None = None,
        extra_state: Mapping[str, Any] | None = None,
    ):
        self.accelerator, self.run = accelerator, run
        self.compute_loss, self.end_step = compute_loss, end_step
        self.freeze_after = {part: step for part, step in (freeze_after or {}).items() if step is not None}
        groups = (
            {"name": name, "params": parameters, "lr": learning_rates[name]}
            for name, parameters in model_parts(model).items()
        )
        optimizer = torch.optim.Adam(groups, fused=True)
        self.scheduler = make_scheduler(optimizer, run)
        self.model, self.optimizer, loader = accelerator.prepare(model, optimizer, loader)
        self.plain = accelerator.unwrap_model(self.model)
        self.ema = PartwiseEMA(model_parts(self.plain), run.ema_decay)
        self.guard = NonFiniteGuard(run.max_nonfinite_steps)
        self.averages = MetricAverager(run.total_batch_size)
        self.generator = torch.Generator(device=accelerator.device)
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
        if accelerator.scaler is not None:
            self.stateful["scaler"] = accelerator.scaler

    def take_step(self) -> None:
        """One step of the optimizer, over all of its micro-batches."""
        run, accelerator = self.run, self.accelerator
        for part in [part for part, step in self.freeze_after.items() if self.step >= step]:
            self.model = freeze_part(accelerator, self.model, self.optimizer, part)
            del self.freeze_after[part]
        for micro_batch in range(run.gradient_accumulation_steps):
            batch = next(self.batches)
            seed_micro_batch(self.generator, run.seed, self.step, micro_batch, accelerator.process_index)
            with accelerator.accumulate(self.model):
                loss, metrics = self.compute_loss(self.model, batch, self.generator)
                accelerator.backward(loss)
                self.guard.watch(loss)
                self.averages.add(loss=loss, **metrics)
                if accelerator.sync_gradients:
                    self._update()
                self.optimizer.zero_grad()
        self.step += 1

    def _update(self) -> None:
        grad_norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.run.max_grad_norm)
        step_is_finite = self.guard.step_is_finite(self.accelerator, grad_norm)
        if step_is_finite:
            self.optimizer.step()
            self.scheduler.step()
            self.ema.step()
        self.averages.end_step(keep=step_is_finite)
        if self.end_step is not None:
            self.end_step(step_is_finite)

    def fit(
        self,
        tracker: JSONLinesTracker,
        settings: dict[str, dict[str, Any]],
        *,
        name: str,
        checkpoint: Path | None = None,
        shown: Mapping[str, str] | None = None,
        evaluate: Callable[[int], Mapping[str, float]] | None = None,
    ) -> Path:
        """Trains to the last step.

        Args:
            tracker: the file of metrics; a tracker of the accelerator.
            settings: as of [`resolve_settings`], for the checkpoints.
            name: of the run, for other trackers.
            checkpoint: where to go on from.
            shown: metrics beside the progress bar: their names in the log by their names there.
            evaluate: called with the step, every `run.eval_steps` steps but the last, when the model has its averaged weights. What
                it returns is logged.

        Returns:
            The folder of the run.

        Raises:
            RuntimeError: if the loss is not finite too often, see [`NonFiniteGuard`].
        """
        run, accelerator = self.run, self.accelerator
        output_dir = prepare_output_dir(accelerator, run)
        if checkpoint is not None:
            self.step = load_checkpoint(checkpoint, self.plain, self.stateful)
        if accelerator.is_main_process:
            tracker.rewind(self.step)
        accelerator.init_trackers(name)
        logger.info(f"Steps {self.step} to {run.max_train_steps}, {run.total_batch_size} images each.")
        progress = tqdm(
            initial=self.step, total=run.max_train_steps, disable=not accelerator.is_main_process, desc="train"
        )
        shown = {"loss": "loss"} | dict(shown or {}) | {"images/s": "images_per_second"}
        self.plain.train()
        self.averages.restart_clock()
        while self.step < run.max_train_steps:
            self.take_step()
            progress.update()
            is_last = self.step == run.max_train_steps
            if is_last or self.step % run.logging_steps == 0:
                metrics = self.averages.compute(accelerator)
                progress.set_postfix({short: f"{metrics[key]:.4g}" for short, key in shown.items() if key in metrics})
                rates = {f"{group['name']}_learning_rate": group["lr"] for group in self.optimizer.param_groups}
                accelerator.log({**metrics, **rates, "nonfinite_steps": self.guard.total}, step=self.step)
            if run.checkpointing_steps and self.step % run.checkpointing_steps == 0:
                total_limit = run.checkpoints_total_limit
                save_checkpoint(accelerator, output_dir, self.step, self.plain, self.stateful, settings, total_limit)
            if evaluate is not None and run.eval_steps and self.step % run.eval_steps == 0 and not is_last:
                with self.ema.scope():
                    accelerator.log(dict(evaluate(self.step)), step=self.step)
                self.averages.restart_clock()
        progress.close()
        return output_dir

    def close(self) -> None:
        """Ends the run of all processes. The averaged weights are still in `ema` and `plain` afterwards, but do not train on."""
        # The wrapper goes before the process group does: as the group's last owner it would wait, holding Python's lock, for a thread
        # of gloo that may need that lock (https://github.com/pytorch/pytorch/issues/56297).
        self.model = None
        self.accelerator.free_memory()
        self.accelerator.end_training()


__all__ = ["ComputeLoss", "TrainingLoop"]
