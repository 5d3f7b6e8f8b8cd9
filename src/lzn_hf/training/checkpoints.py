# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Files of a training run: its folder, its metrics, its checkpoints. Whatever has its final name is complete.

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
from accelerate.tracking import GeneralTracker
from accelerate.utils import broadcast_object_list
from huggingface_hub import create_repo, upload_folder
from transformers import PreTrainedModel

from ..evaluation.results import write_json
from .arguments import SETTINGS_FILE, RunArguments, settings_differences


logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
SAMPLES_DIR = "samples"
STATE_FILE = "training_state.pt"
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


class JSONLinesTracker(GeneralTracker):
    """An accelerate tracker that appends each set of metrics as one JSON line, `{"step": 10, "loss": 1.5, ...}`.

    Args:
        path: The file. Its folder must exist when the first metrics come.
    """

    name = "jsonlines"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    @property
    def tracker(self) -> Path:
        return self.path

    def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def rewind(self, step: int) -> None:
        """Drops the lines after `step`, which a resumed run writes again, and a last line that was cut off."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except json.JSONDecodeError:
                break
        self.path.write_text("".join(kept))


def list_checkpoints(output_dir: Path) -> dict[int, Path]:
    """The checkpoints in a run's folder by their step, in ascending order."""
    found = {
        int(m[1]): path for path in output_dir.glob("checkpoint-*") if (m := CHECKPOINT_NAME.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def find_checkpoint(run: RunArguments) -> Path | None:
    """Looks at the folder of a run before anything is written.

    Returns:
        The checkpoint to resume from, or None to start from step 0.

    Raises:
        ValueError: if the folder has files that the run would mix with, or the checkpoint asked for is not there.
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
    """Makes the folder and deletes what an interrupted or overwritten run left there. Call it when all is checked."""
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
    """A new folder `.{name}.tmp` in `parent`, gone afterwards unless it was renamed."""
    folder = parent / f".{name}.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def files_of(output_dir: Path) -> Iterator[Path]:
    """A temporary folder whose files, if all goes well, are moved into `output_dir` and replace earlier ones."""
    with temporary_folder(output_dir, "final") as folder:
        yield folder
        for path in folder.iterdir():
            os.replace(path, output_dir / path.name)


def save_checkpoint(
    accelerator: Accelerator,
    output_dir: Path,
    step: int,
    model: PreTrainedModel,
    stateful: dict[str, Any],
    settings: dict[str, dict[str, Any]],
    total_limit: int | None = None,
) -> None:
    """Writes `checkpoint-{step}` and deletes the oldest ones beyond `total_limit`. All processes must call it.

    Args:
        accelerator: Its main process writes.
        output_dir: Folder of the run.
        step: Optimizer steps done.
        model: The plain model.
        stateful: Objects with `state_dict()` by name. Their states must be the same on all processes.
        settings: As of `resolve_settings`.
        total_limit: Checkpoints to keep; None keeps all.
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


def check_resume(folder: Path, settings: dict[str, dict[str, Any]]) -> None:
    """Raises a ValueError that lists the differences if a checkpoint is of a run with other settings."""
    differences = settings_differences(json.loads((folder / SETTINGS_FILE).read_text()), settings)
    if differences:
        lines = "\n  ".join(differences)
        raise ValueError(f"`resume_from_checkpoint` {folder} is of a run with other settings:\n  {lines}")


def load_checkpoint(folder: Path, model: PreTrainedModel, stateful: dict[str, Any]) -> int:
    """Restores what [`save_checkpoint`] wrote.

    Args:
        folder: The checkpoint.
        model: The plain model; its weights are overwritten.
        stateful: Objects with `load_state_dict()`, under the names they were saved with.

    Returns:
        The number of optimizer steps done.
    """
    # Not from the file itself: there, backbones of transformers have the names that the Hub knows.
    model.load_state_dict(type(model).from_pretrained(folder, dtype=torch.float32).state_dict())
    state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    for name, value in stateful.items():
        value.load_state_dict(state[name])
    return state["step"]


def create_hub_repo(accelerator: Accelerator, run: RunArguments) -> str:
    """Makes the repository to upload to, at the start of a run, so that a missing login shows then. Returns its id."""
    repo_id = run.hub_model_id or Path(run.output_dir).name
    ids = [create_repo(repo_id, exist_ok=True).repo_id if accelerator.is_main_process else None]
    return broadcast_object_list(ids)[0]


def upload_model(output_dir: Path, repo_id: str) -> str:
    """Uploads the final folder without checkpoints and logs. Returns the address of the commit."""
    ignored = ["checkpoint-*", "logs/*", f"{SAMPLES_DIR}/*", ".*"]
    return upload_folder(repo_id=repo_id, folder_path=output_dir, ignore_patterns=ignored).commit_url
