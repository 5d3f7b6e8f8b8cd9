# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Checkpoints and the folder of a training run. A file or folder with its final name is always complete.

output_dir/metrics.jsonl                     one JSON object a line
output_dir/samples/step-000100.png           sample grids
output_dir/checkpoint-100/                   model weights as trained (not averaged) with their config.json,
    training_state.pt, training_settings.json    optimizer, averages, position in the data; the settings
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from ..evaluation.results import write_json
from .arguments import RunArguments
from .metrics import METRICS_FILE
from .settings import SETTINGS_FILE, Settings, check_last_step, settings_differences


logger = logging.getLogger(__name__)

SAMPLES_DIR = "samples"
STATE_FILE = "training_state.pt"
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


def list_checkpoints(output_dir: Path) -> dict[int, Path]:
    """Returns the checkpoints in a run's folder by their step, in ascending order."""
    found = {
        int(m[1]): path for path in output_dir.glob("checkpoint-*") if (m := CHECKPOINT_NAME.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def find_checkpoint(run: RunArguments) -> Path | None:
    """Finds the checkpoint to resume from, before anything is written.

    Returns:
        `Path`: the checkpoint, or `None` to start from step 0.

    Raises:
        ValueError: if the folder has files of another run, or the requested checkpoint does not exist.
    """
    output_dir, resume = Path(run.output_dir), run.resume_from_checkpoint
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"`output_dir` {output_dir} is a file: name a folder.")
    if resume is not None and run.overwrite_output_dir:
        raise ValueError("`resume_from_checkpoint` keeps what `overwrite_output_dir` deletes: give one of the two.")
    checkpoints = list_checkpoints(output_dir)
    if resume == "latest":
        if not checkpoints:
            logger.info(f"No checkpoint in {output_dir} to resume from: starting from step 0.")
        return next(reversed(checkpoints.values()), None)
    if resume is not None:
        folder = Path(resume)
        if not (folder / STATE_FILE).is_file():
            inside = [path.name for path in list_checkpoints(folder).values()]
            hint = f" It holds {', '.join(inside)}: name one of them." if inside else ""
            raise ValueError(f"`resume_from_checkpoint` {folder} is no checkpoint: it has no {STATE_FILE}.{hint}")
        match = CHECKPOINT_NAME.fullmatch(folder.name)
        later = [path.name for step, path in checkpoints.items() if match and step > int(match[1])]
        if later:
            raise ValueError(
                f"`output_dir` {output_dir} holds {', '.join(later)}, later than {folder.name} to resume from: delete "
                "them or continue in another `output_dir`."
            )
        return folder
    if not run.overwrite_output_dir and output_dir.exists() and any(output_dir.iterdir()):
        raise ValueError(
            f"`output_dir` {output_dir} is not empty. Pass `--resume_from_checkpoint latest` to continue its run, "
            "`--overwrite_output_dir` to start anew in it, or another `--output_dir`."
        )
    return None


def prepare_output_dir(accelerator: Accelerator, run: RunArguments) -> Path:
    """Creates the folder and deletes what an interrupted or overwritten run left there. Call it when all is checked."""
    output_dir = Path(run.output_dir)
    accelerator.wait_for_everyone()  # every process has looked at the folder as it was
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        stale = list(output_dir.glob(".*.tmp"))
        if run.overwrite_output_dir:
            stale += [*list_checkpoints(output_dir).values(), output_dir / SAMPLES_DIR, output_dir / METRICS_FILE]
        for path in stale:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return output_dir


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Creates a folder `.{name}.tmp` in `parent` and deletes it afterwards, unless it was renamed."""
    folder = parent / f".{name}.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def save_checkpoint(
    accelerator: Accelerator,
    output_dir: Path,
    step: int,
    model: PreTrainedModel,
    stateful: dict[str, Any],
    settings: Settings,
    total_limit: int | None = None,
) -> None:
    """Writes `checkpoint-{step}` and deletes the oldest ones beyond `total_limit`. All processes must call it.

    Args:
        accelerator (`Accelerator`): its main process writes.
        output_dir (`Path`): folder of the run.
        step (`int`): number of optimizer steps done.
        model (`PreTrainedModel`): the unwrapped model.
        stateful (`dict`): objects with `state_dict()` by name. Their states must be the same on all processes.
        settings (`dict`): as of [`resolve_settings`].
        total_limit (`int`, *optional*): number of checkpoints to keep, by default all.
    """
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder = output_dir / f"checkpoint-{step}"
        with temporary_folder(output_dir, folder.name) as temporary:
            model.save_pretrained(temporary)
            states = {name: value.state_dict() for name, value in stateful.items()}
            torch.save({"step": step, **states}, temporary / STATE_FILE)
            write_json(temporary / SETTINGS_FILE, settings)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        old = list(list_checkpoints(output_dir).values())[: -total_limit if total_limit else 0]
        for path in old:
            shutil.rmtree(path)
        logger.info(f"Saved {folder}" + (f", deleted {', '.join(path.name for path in old)}" if old else ""))
    accelerator.wait_for_everyone()


def check_resume(folder: Path, run: RunArguments, settings: Settings, defaults: Settings | None = None) -> None:
    """Checks that a run with these settings continues the run of a checkpoint.

    Args:
        folder (`Path`): the checkpoint.
        run (`RunArguments`): the arguments of the run.
        settings (`dict`): the settings of the run, as of [`resolve_settings`].
        defaults (`dict`, *optional*): values of settings that did not exist when the checkpoint was written.

    Raises:
        ValueError: if the checkpoint is of a run with other settings or images, all of which it lists.
    """
    saved = json.loads((folder / SETTINGS_FILE).read_text())
    differences = settings_differences(saved, settings, defaults)
    if differences:
        raise ValueError(
            f"`resume_from_checkpoint` {folder} is of a run with other settings or images: {'; '.join(differences)}."
        )
    check_last_step(
        saved, run, torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True, mmap=True)["step"]
    )


def load_checkpoint(folder: Path, model: PreTrainedModel, stateful: dict[str, Any]) -> int:
    """Restores what [`save_checkpoint`] wrote.

    Args:
        folder (`Path`): the checkpoint.
        model (`PreTrainedModel`): the unwrapped model. Its weights are overwritten.
        stateful (`dict`): objects with `load_state_dict()`, by the names they were saved with.

    Returns:
        `int`: the number of optimizer steps done.
    """
    # Not from the file itself: it has the Hub's names for the weights of transformers' backbones.
    model.load_state_dict(type(model).from_pretrained(folder, dtype=torch.float32).state_dict())
    state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    for name, value in stateful.items():
        value.load_state_dict(state[name])
    return state["step"]
