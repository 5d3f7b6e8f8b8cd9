# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Checkpoints and the folder of a training run. A file or folder with its final name is always complete.

output_dir/metrics.jsonl                     one JSON object a line
output_dir/samples/step-000100.png           sample grids
output_dir/checkpoint-100/
    config.json, model.safetensors, ...      the averaged model: a folder that opens as the final one does
    training_state.pt                        weights as trained, optimizer, averages, position in the data
    training_state-1.pt, ...                 of sharded weights, the rows of the other processes
    training_settings.json, metrics.jsonl    the settings; all lines until this step
    checkpoint.json                          the step, and size and checksum of each file
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from ..evaluation.results import write_json
from ..evaluation.sharing import save_components
from ..modeling_lzn import LZNModel
from .arguments import RunArguments
from .durable import find_damage, read_manifest, sync, sync_folder, temporary_folder, write_manifest
from .folder_lock import LOCK_FILE, FolderLock, check_unlocked
from .metrics import METRICS_FILE
from .processes import on_all_processes, on_main_process
from .settings import SETTINGS_FILE, Settings, check_last_step, settings_differences
from .sharding import join_rows, own_rows
from .space import full_device_as_os_error, tensor_bytes, write_with_room


logger = logging.getLogger(__name__)

SAMPLES_DIR = "samples"
STATE_FILE = "training_state.pt"
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
SAMPLE_NAME = re.compile(r"step-(\d+)\.png")


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
        ValueError: if the folder has files of another run or one that is going on, the requested checkpoint does not exist or is
            damaged, or `latest` would start anew over a finished model.
    """
    output_dir, resume = Path(run.output_dir), run.resume_from_checkpoint
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"`output_dir` {output_dir} is a file: name a folder.")
    if resume is not None and run.overwrite_output_dir:
        raise ValueError("`resume_from_checkpoint` keeps what `overwrite_output_dir` deletes: give one of the two.")
    check_unlocked(output_dir)
    if resume == "latest":
        checkpoint = latest_checkpoint(output_dir)
        if checkpoint is None and any(output_dir.glob("*.safetensors")):
            raise ValueError(
                f"`resume_from_checkpoint` latest: `output_dir` {output_dir} has no checkpoint, but a finished model, which a run from step 0 "
                f"would replace. Start from it by `--model_name_or_path {output_dir}` in another `--output_dir`, or pass "
                "`--overwrite_output_dir` instead."
            )
        if checkpoint is None:
            logger.info(f"No checkpoint in {output_dir} to resume from: starting from step 0.")
        return checkpoint
    if resume is not None:
        return named_checkpoint(Path(resume), output_dir)
    is_used = output_dir.exists() and any(path.name != LOCK_FILE for path in output_dir.iterdir())
    if is_used and not run.overwrite_output_dir:
        resumes = "" if any(output_dir.glob("*.safetensors")) and not list_checkpoints(output_dir) else (
            "`--resume_from_checkpoint latest` to continue its run, "
        )  # fmt: skip
        raise ValueError(
            f"`output_dir` {output_dir} is not empty. Pass {resumes}`--overwrite_output_dir` to start anew in it, or another `--output_dir`."
        )
    return None


def latest_checkpoint(output_dir: Path) -> Path | None:
    """Returns the last checkpoint of a run that is whole, with a warning of each later one, or `None` if there are none at all.

    Raises:
        ValueError: if all checkpoints are damaged.
    """
    damages: list[str] = []
    for path in reversed(list_checkpoints(output_dir).values()):
        damage = find_damage(path)
        if damage is None:
            for text in damages:
                logger.warning(f"{text}. Resuming from {path}.")
            return path
        damages.append(f"{path} is damaged: {damage}")
    if damages:
        raise ValueError(
            f"`resume_from_checkpoint` latest: no checkpoint in {output_dir} is whole. {'. '.join(damages)}. Delete them, or pass "
            "`--overwrite_output_dir`, to start from step 0."
        )
    return None


def named_checkpoint(folder: Path, output_dir: Path) -> Path:
    """Returns a checkpoint that the user names.

    Raises:
        ValueError: if it is none, is damaged, or the run's folder has later ones.
    """
    if not (folder / STATE_FILE).is_file():
        inside = [path.name for path in list_checkpoints(folder).values()]
        hint = f" It holds {', '.join(inside)}: name one of them." if inside else ""
        raise ValueError(f"`resume_from_checkpoint` {folder} is no checkpoint: it has no {STATE_FILE}.{hint}")
    if damage := find_damage(folder):
        raise ValueError(f"`resume_from_checkpoint` {folder} is damaged: {damage}. `latest` takes the last whole one.")
    own_step = read_manifest(folder)["step"]
    later = [path.name for step, path in list_checkpoints(output_dir).items() if step > own_step]
    if later:
        raise ValueError(
            f"`output_dir` {output_dir} holds {', '.join(later)}, later than {folder.name} to resume from: delete "
            "them or continue in another `output_dir`."
        )
    return folder


def prepare_output_dir(
    accelerator: Accelerator, run: RunArguments, lock: FolderLock, checkpoint: Path | None = None
) -> Path:
    """Creates and locks the folder, and puts it in the state of a checkpoint. Call it on all processes, when all is checked.

    What an interrupted or overwritten run left there is deleted; of a resumed run, also the pictures of later steps, which it draws
    again. Damaged checkpoints are renamed.

    Args:
        accelerator (`Accelerator`): its main process does it.
        run (`RunArguments`): the arguments of the run.
        lock (`FolderLock`): the lock to hold during the run.
        checkpoint (`Path`, *optional*): the checkpoint to resume from.

    Returns:
        `Path`: the folder.

    Raises:
        OSError, ValueError: as [`FolderLock.acquire`].
    """
    output_dir = Path(run.output_dir)

    def prepare() -> None:
        lock.acquire()
        step = 0 if checkpoint is None else read_manifest(checkpoint)["step"]
        stale = list(output_dir.glob(".*.tmp"))
        if run.overwrite_output_dir:
            stale += [*list_checkpoints(output_dir).values(), output_dir / SAMPLES_DIR, output_dir / METRICS_FILE]
        for path in (output_dir / SAMPLES_DIR).glob("step-*.png"):
            if (match := SAMPLE_NAME.fullmatch(path.name)) and int(match[1]) > step:
                stale.append(path)
        for path in stale:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for later, path in list_checkpoints(output_dir).items():
            if later > step:  # a damaged one, or `latest` would have chosen it
                aside = path.with_name(f"{path.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)

    on_main_process(accelerator, prepare)
    return output_dir


def save_checkpoint(
    accelerator: Accelerator,
    output_dir: Path,
    step: int,
    averaged_model: Callable[[], AbstractContextManager[LZNModel]],
    stateful: Mapping[str, Any],
    settings: Settings,
    total_limit: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Path:
    """Writes `checkpoint-{step}` and deletes the oldest ones beyond `total_limit`. All processes must call it.

    Args:
        accelerator (`Accelerator`): its main process writes; each process, if weights are sharded.
        output_dir (`Path`): folder of the run. If weights are sharded, all processes must see the same.
        step (`int`): number of optimizer steps done.
        averaged_model (`Callable`): a context of the model with averaged weights, such as [`TrainingLoop.averaged_model`].
        stateful (`Mapping`): all objects to save, by name: the unwrapped `model`, `ema`, `optimizer`, ... But for sharded tensors, their states
            must be the same on all processes.
        settings (`dict`): as of [`resolve_settings`].
        total_limit (`int`, *optional*): number of checkpoints to keep, by default all.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): the tokenizer of a model with a text encoder.

    Returns:
        `Path`: the checkpoint.

    Raises:
        NoSpaceError: if it does not fit, even without all older ones but the last. Raised on all processes.
        ValueError: if weights are sharded and processes write to different folders.
    """
    folder = output_dir / f"checkpoint-{step}"
    states = {name: value.state_dict() for name, value in stateful.items()}  # on all processes: some gather
    pieces = accelerator.num_processes if accelerator.is_fsdp2 else 1

    def write_model(model: LZNModel, temporary: Path) -> None:
        with full_device_as_os_error():
            model.save_pretrained(temporary)
            save_components(model, temporary, tokenizer)

    def write_state(temporary: Path) -> None:
        index = accelerator.process_index
        if index < pieces:
            if not temporary.is_dir():
                raise ValueError(
                    f"`output_dir` {output_dir} must be one folder for all nodes, for sharded weights, but process {index} has another."
                )
            # A file of Python, whose errors have a number.
            with full_device_as_os_error(), (temporary / state_file(index)).open("wb") as file:
                torch.save({"step": step, "pieces": pieces, **own_rows(states)}, file)

    def finish(temporary: Path) -> None:
        with full_device_as_os_error():
            write_json(temporary / SETTINGS_FILE, settings)
            if (output_dir / METRICS_FILE).exists():
                shutil.copyfile(output_dir / METRICS_FILE, temporary / METRICS_FILE)
            write_manifest(temporary, step=step)
            sync_folder(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
        sync(output_dir)

    def write() -> None:
        with ExitStack() as stack:
            new = temporary_folder(output_dir, folder.name)
            temporary = on_main_process(accelerator, partial(stack.enter_context, new))
            with averaged_model() as model:
                on_main_process(accelerator, partial(write_model, model, temporary))
            on_all_processes(accelerator, partial(write_state, temporary))
            on_main_process(accelerator, partial(finish, temporary))

    def rotate() -> None:
        old = list(list_checkpoints(output_dir).values())[: -total_limit if total_limit else 0]
        for path in old:
            shutil.rmtree(path)
        logger.info(f"Saved {folder}" + (f", deleted {', '.join(path.name for path in old)}" if old else ""))

    older = on_main_process(
        accelerator, lambda: [one for one in list_checkpoints(output_dir).values() if one != folder]
    )
    needed = tensor_bytes(states) + tensor_bytes(states["model"])
    write_with_room(
        write, folder, needed, older, delete=lambda path: on_main_process(accelerator, partial(shutil.rmtree, path))
    )
    on_main_process(accelerator, rotate)
    return folder


def state_file(process_index: int) -> str:
    """Returns the name of a process's file with the state of the training."""
    return STATE_FILE if process_index == 0 else STATE_FILE.replace(".", f"-{process_index}.")


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
    check_last_step(saved, run, read_manifest(folder)["step"])


def load_checkpoint(folder: Path, stateful: Mapping[str, Any]) -> int:
    """Restores what [`save_checkpoint`] wrote, on any number of processes, sharded or not. [`find_checkpoint`] has found it whole.

    Args:
        folder (`Path`): the checkpoint.
        stateful (`Mapping`): the objects with `load_state_dict()`, by the names they were saved with. The weights of the `model` are
            overwritten.

    Returns:
        `int`: the number of optimizer steps done.
    """
    states = [torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)]
    # Each process reads all rows but keeps its own: they are not read before they are used.
    for index in range(1, states[0].get("pieces", 1)):
        states.append(torch.load(folder / state_file(index), map_location="cpu", weights_only=True, mmap=True))
    parameters = [one for group in stateful["optimizer"].param_groups for one in group["params"]]
    targets = {name: stateful[name].state_dict() for name in ("model", "ema")}
    targets["optimizer"] = {"state": dict(enumerate(parameters))}
    for name, value in stateful.items():
        value.load_state_dict(join_rows([state[name] for state in states], targets.get(name)))
    return states[0]["step"]
