# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The training loop. A script adds the loss of a batch and what to evaluate on the way."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..distributed_lzn import PartGenerator
from ..evaluation.results import write_json
from ..modeling_lzn import LZNModel
from .batches import endless_batches, micro_batches_of_a_pool, seed_draws, seed_dropout
from .checkpoints import SAMPLES_DIR, list_checkpoints, load_checkpoint, prepare_output_dir, save_checkpoint
from .dry_run import TIMED_STEPS, peak_memory, timing_report
from .durable import sync
from .folder_lock import FolderLock
from .metrics import METRICS_FILE, LatentWatch, MetricAverager
from .models import PartwiseEMA, freeze_part, model_parts
from .optimization import NonFiniteGuard, make_scheduler, non_finite_names
from .pools import PooledLoss, backward_pool
from .processes import on_main_process
from .settings import DATA_SUMMARY_FILE
from .setup import TrainingSetup
from .sharding import average_whole_gradients, copy_buffers, local, shard_model, whole
from .signals import StopRequested, StopSignals, resume_command
from .space import NoSpaceError, check_space, is_out_of_space, no_space, tensor_bytes


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
        prepared_model (`nn.Module`): `setup.model`, wrapped if there are several processes, or sharded.
        ema (`PartwiseEMA`): the moving averages. Inside `with loop.averaged_model():` the model has the averaged weights.
        step (`int`): number of optimizer steps done.
        saved_step (`int`, *optional*): that of the last checkpoint.

    Args:
        setup (`TrainingSetup`): model, data, settings and accelerator.
        learning_rates (`Mapping[str, float]`): the learning rate of each part of the model, see [`model_parts`].
        compute_loss (`ComputeLoss`): computes the loss of a batch and the metrics to log.
        pooled_loss (`PooledLoss`, *optional*): the same loss, for pools of several micro-batches.
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
        pooled_loss: PooledLoss | None = None,
        freeze_after: Mapping[str, int | None] | None = None,
        on_step_end: Callable[[bool], None] | None = None,
        extra_state: Mapping[str, Any] | None = None,
    ):
        self.setup, self.run, self.accelerator = setup, setup.run, setup.accelerator
        self.compute_loss, self.pooled_loss, self.on_step_end = compute_loss, pooled_loss, on_step_end
        self.micro_batches = micro_batches_of_a_pool(self.run, self.accelerator.num_processes)
        self.freeze_after = {part: step for part, step in (freeze_after or {}).items() if step is not None}
        if pooled_loss is None and (self.run.pool_batch_size or self.run.pool_group_size):
            raise ValueError(
                "`pool_batch_size` and `pool_group_size` are for losses that compare the images of a pool, got a baseline that does not."
            )
        self._whole_model: LZNModel | None = None
        if self.accelerator.is_fsdp2:
            self._whole_model = deepcopy(setup.model)  # stays on the CPU but for [`averaged_model`]
            shard_model(self.accelerator, setup.model)
        parts = model_parts(setup.model)
        groups = [{"name": name, "params": params, "lr": learning_rates[name]} for name, params in parts.items()]
        optimizer = torch.optim.Adam(groups, fused=True)
        self.scheduler = make_scheduler(optimizer, self.run)
        loader = self.accelerator.prepare(setup.loader)
        if self._whole_model is None:
            self.prepared_model, self.optimizer = self.accelerator.prepare(setup.model, optimizer)
        else:
            self.prepared_model, self.optimizer = setup.model, self.accelerator.prepare_optimizer(optimizer)
        self.ema = PartwiseEMA(parts, self.run.ema_decay)
        self.guard = NonFiniteGuard(self.run.max_nonfinite_steps)
        self.averages = MetricAverager(self.run.total_batch_size)
        self.latent_watch = LatentWatch(setup.model.config.latent_num_steps)
        self.generator = PartGenerator(device=self.accelerator.device)
        batches = endless_batches(loader)
        self.batches = iter(batches)
        self.step, self.saved_step = 0, cast(int | None, None)
        self.signals, self.lock = StopSignals(), FolderLock(Path(self.run.output_dir))
        self._checkpoint_is_due, self._stop_signal, self._saved_at = False, 0, time.monotonic()
        self.stateful = {
            "model": setup.model,
            "ema": self.ema,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "batches": batches,
            "guard": self.guard,
            "metrics": self.averages,
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
        for first in range(0, run.gradient_accumulation_steps, self.micro_batches):
            batches = [next(self.batches) for _ in range(self.micro_batches)]
            seed_draws(self.generator, run.seed, self.step, first // self.micro_batches)
            loss, metrics = self._backward(batches, first)
            self.guard.watch(loss)
            self.averages.add(loss=loss, **metrics)
            if accelerator.sync_gradients:
                self._update()
            self.optimizer.zero_grad()
        self.step += 1

    def _backward(
        self, batches: Sequence[Mapping[str, Tensor]], first: int
    ) -> tuple[Tensor, Mapping[str, Tensor | None]]:
        """Adds the gradient of a pool of micro-batches, of which the first is number `first` of the step."""
        model, accelerator = self.prepared_model, self.accelerator

        def seed(micro_batch: int, stage: int) -> None:
            seed_dropout(self.run.seed, self.step, first + micro_batch, accelerator.process_index, stage)

        if len(batches) > 1:
            pooled = cast(PooledLoss, self.pooled_loss)
            return backward_pool(accelerator, model, batches, self.generator, pooled, seed)
        seed(0, 0)
        with accelerator.accumulate(model):
            loss, metrics = self.compute_loss(model, batches[0], self.generator)
            accelerator.backward(loss)
        return loss, metrics

    def _update(self) -> None:
        parameters = list(self.prepared_model.parameters())
        if self.accelerator.is_fsdp2:
            average_whole_gradients(parameters)
        grad_norm = whole(self.accelerator.clip_grad_norm_(parameters, self.run.max_grad_norm))
        minutes = self.run.checkpointing_minutes
        # The clock of the main process decides for all.
        is_late = minutes and self.accelerator.is_main_process and time.monotonic() - self._saved_at >= 60 * minutes
        requests = (self.signals.received, int(is_late))
        applied = self.guard.step_is_finite(self.accelerator, grad_norm, requests)
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
            NoSpaceError: if the device of the folder is full or too small.
            RuntimeError: after too many non-finite steps in a row, see [`NonFiniteGuard`], or if weights that are to be saved are not
                finite.
            SystemExit: after a signal to stop, see [`stoppable`].
        """
        run, accelerator = self.run, self.accelerator
        with self.stoppable():
            output_dir = self._start(Path(run.output_dir))
            logger.info(f"Steps {self.step} to {run.max_train_steps}, {run.total_batch_size} images each.")
            progress = tqdm(
                initial=self.step,
                total=run.max_train_steps,
                disable=not accelerator.is_main_process,
                bar_format="{bar} {n_fmt}/{total_fmt}, {remaining} left{postfix}",  # leaves 40 of 80 columns to the metrics
            )
            shown = {"loss": "loss"} | dict(shown or {})
            self.setup.model.train()
            self.averages.restart_clock()
            while self.step < run.max_train_steps:
                self.take_step()
                progress.update()
                is_last = self.step == run.max_train_steps
                if is_last or self.step % run.logging_steps == 0:
                    metrics = self.averages.compute(accelerator)
                    self.latent_watch.watch(metrics, self.step)
                    progress.set_postfix(
                        {short: f"{metrics[key]:.3g}" for short, key in shown.items() if key in metrics}
                    )
                    rates = {f"{group['name']}_learning_rate": group["lr"] for group in self.optimizer.param_groups}
                    accelerator.log({**metrics, **rates, "nonfinite_steps": self.guard.total}, step=self.step)
                # Before the checkpoint: a run that resumes from it would lack the evaluation for good.
                if evaluate is not None and run.eval_steps and self.step % run.eval_steps == 0 and not is_last:
                    self._evaluate(evaluate, draw, output_dir / SAMPLES_DIR / f"step-{self.step:06d}.png")
                self._save_or_stop()
            progress.close()

    def _start(self, output_dir: Path) -> Path:
        setup, run, accelerator = self.setup, self.run, self.accelerator
        prepare_output_dir(accelerator, run, self.lock, setup.checkpoint)
        if setup.checkpoint is not None:
            self.step = self.saved_step = load_checkpoint(setup.checkpoint, self.stateful)

        def start_files() -> None:
            steps, by_steps = run.max_train_steps - self.step, run.checkpointing_steps
            checkpoints = max(steps // by_steps if by_steps else 0, int(run.checkpointing_minutes > 0)) if steps else 0
            kept = run.checkpoints_total_limit + 1 - len(list_checkpoints(output_dir))
            check_space(output_dir, tensor_bytes(setup.model.state_dict()), checkpoints, max(kept, 1))
            write_json(output_dir / DATA_SUMMARY_FILE, setup.data.summary.to_dict())
            setup.tracker.rewind(None if setup.checkpoint is None else setup.checkpoint / METRICS_FILE)

        on_main_process(accelerator, start_files)
        # Some trackers take nothing but numbers and text, and wandb would write to the current folder.
        config = {
            f"{section}.{name}": value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for section, values in setup.settings.items()
            for name, value in values.items()
        }
        accelerator.init_trackers(setup.name, config=config, init_kwargs={"wandb": {"dir": str(output_dir)}})
        self._saved_at = time.monotonic()
        return output_dir

    def _evaluate(self, evaluate: Evaluate, draw: Draw | None, picture: Path) -> None:
        with self.averaged_model():
            if draw is not None and self.accelerator.is_main_process:
                picture.parent.mkdir(exist_ok=True)
                draw(picture)
                sync(picture)
            self.accelerator.log(dict(evaluate()), step=self.step)
        self.averages.restart_clock()

    @contextmanager
    def averaged_model(self) -> Iterator[LZNModel]:
        """Inside this context, `setup.model` has the averaged weights, which it yields. All processes must call it.

        It is the model in training, which gets its own weights back, bit-identical; or another one, if that one is sharded.
        """
        setup, trained, averaged = self.setup, self.setup.model, self._whole_model
        if averaged is None:
            with self.ema.scope():
                yield trained
            return
        averaged.to(self.accelerator.device)
        self.ema.copy_whole_to(model_parts(averaged))
        copy_buffers(trained, averaged)
        setup.model = averaged
        try:
            yield averaged
        finally:
            setup.model = trained
            averaged.cpu()

    def _save_or_stop(self) -> None:
        """At the end of a step: saves a checkpoint if one is due, and stops if asked to. All processes decide alike."""
        stop, is_late = self.guard.requests
        every = self.run.checkpointing_steps
        is_planned = every is not None and every > 0 and self.step % every == 0
        self._checkpoint_is_due |= is_planned or bool(is_late)
        self._stop_signal = self._stop_signal or stop
        if self.guard.in_a_row:
            return  # both wait for a step that is applied: while steps are skipped, what is to be saved may be spoilt already
        if self._stop_signal:
            raise StopRequested(self._stop_signal)
        if self._checkpoint_is_due:
            self.save_checkpoint()

    def save_checkpoint(self) -> None:
        """Saves a checkpoint. All processes must call it.

        Raises:
            NoSpaceError: if it does not fit, see [`save_checkpoint`].
            RuntimeError: if weights are not finite.
        """
        self.require_finite_weights()
        settings, output_dir = self.setup.settings, Path(self.run.output_dir)
        limit = self.run.checkpoints_total_limit
        state, tokenizer = self.stateful, self.setup.tokenizer
        model = self.averaged_model
        save_checkpoint(self.accelerator, output_dir, self.step, model, state, settings, limit, tokenizer)
        self._checkpoint_is_due, self.saved_step, self._saved_at = False, self.step, time.monotonic()
        self.averages.restart_clock()

    def require_finite_weights(self) -> None:
        """Raises a `RuntimeError` if the weights, as trained or averaged, are not finite: such ones never recover."""
        names = non_finite_names((name, local(value)) for name, value in self.setup.model.named_parameters())
        with self.averaged_model() as averaged:
            names += [f"the average of {name}" for name in non_finite_names(averaged.named_parameters())]
        names = list(dict.fromkeys(gather_object(names)))  # a process may hold some of the weights alone
        if names:
            raise RuntimeError(
                f"The weights are not finite after step {self.step} ({', '.join(names[:3])}{', ...' if names[3:] else ''}), so they are "
                f"not saved. {self.last_checkpoint_text()} Usual causes: learning rates too high or `--warmup_steps` too few."
            )

    def last_checkpoint(self) -> Path | None:
        """Returns the last checkpoint in the folder of the run, if there is one."""
        return next(reversed(list_checkpoints(Path(self.run.output_dir)).values()), None)

    def last_checkpoint_text(self) -> str:
        """Returns a sentence that names the last checkpoint."""
        last = self.last_checkpoint()
        return "There is no checkpoint yet." if last is None else f"The last good checkpoint is {last}."

    def resume_command(self) -> str:
        """Returns the command that continues this run."""
        resume = "latest" if self.last_checkpoint() else self.run.resume_from_checkpoint or "latest"
        precision = self.accelerator.mixed_precision
        by_launcher = {"mixed_precision": precision} if self.run.mixed_precision is None and precision != "no" else {}
        return resume_command(resume, **by_launcher)

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Inside this context, a stop signal to any process ends the run on all of them in good order.

        The current step is finished, a checkpoint saved, and the command that resumes is printed. Then the processes exit, with 128 + the
        number of the signal, see [`StopRequested`].
        """
        try:
            with self.signals:
                try:
                    yield
                except StopRequested:
                    if self.saved_step != self.step and not self.guard.in_a_row:
                        self.save_checkpoint()
                    raise
        except StopRequested as stop:
            stopped = f"Stopped by {stop} at step {self.step}. {self.last_checkpoint_text()}"
            # One text, which other processes of the same terminal do not write into.
            self.accelerator.print(f"{stopped} Resume by:\n{self.resume_command()}\n", end="", flush=True)
            self.close()
            sys.exit(stop.exit_code)
        except BaseException as error:
            self.lock.release()
            if isinstance(error, NoSpaceError) or not is_out_of_space(error):
                raise
            path = Path(getattr(error, "filename", None) or self.run.output_dir)
            raise no_space(path, None, self.last_checkpoint()) from error

    def stop_if_asked(self) -> None:
        """Stops within [`stoppable`] if a process has received a signal. All processes must call it."""
        received = torch.tensor([self.signals.received], device=self.accelerator.device)
        number = max(self._stop_signal, int(self.accelerator.gather(received).max()))
        if number:
            raise StopRequested(number)

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
        self.batches = iter(())  # the reading of a stream ends
        self.lock.release()
        self.accelerator.free_memory()
        self.accelerator.end_training()
