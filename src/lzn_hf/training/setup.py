# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""How the training scripts in `examples/` begin and end: everything is checked before anything is written, and one folder is left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from ..data.images import ImageData
from ..evaluation.cards import make_model_card
from ..evaluation.results import write_json
from ..modeling_lzn import LZNModel
from .arguments import SETTINGS_FILE, DataArguments, ModelArguments, RunArguments, describe_run, resolve_settings
from .checkpoints import (
    METRICS_FILE,
    JSONLinesTracker,
    check_resume,
    create_hub_repo,
    files_of,
    find_checkpoint,
    upload_model,
)
from .loop import TrainingLoop
from .models import build_model, model_parts
from .steps import load_data, make_train_loader, micro_batch_size, start_accelerator


logger = logging.getLogger(__name__)

DATA_SUMMARY_FILE = "data_summary.json"


@dataclass
class TrainingSetup:
    """What a training script has at hand when all of its settings are checked and before anything is trained."""

    accelerator: Accelerator
    tracker: JSONLinesTracker
    checkpoint: Path | None
    data: ImageData
    model: LZNModel
    loader: DataLoader
    settings: dict[str, dict[str, Any]]
    model_id: str


def set_up_training(
    model_args: ModelArguments,
    data_args: DataArguments,
    run: RunArguments,
    *,
    use_labels: bool = True,
    model_labels: bool = True,
    check: Callable[[LZNModel], None],
    **sections: Any,
) -> TrainingSetup | None:
    """Starts the processes, opens the data and builds the model.

    Args:
        model_args, data_args, run: settings that all scripts have.
        use_labels: whether the data has to have labels.
        model_labels: whether the model is one for these labels.
        check: raises a ValueError for a model that the script cannot train.
        sections: the script's own settings, by the name of their section.

    Returns:
        What to train; `None` for a dry run, which has been printed.

    Raises:
        ValueError: for settings that do not fit each other or the data; nothing is written.
    """
    transformers.utils.logging.disable_progress_bar()  # of writing weights, in the middle of the bar of the training
    tracker = JSONLinesTracker(Path(run.output_dir) / METRICS_FILE)
    accelerator = start_accelerator(run, trackers=[tracker])
    checkpoint = None if run.dry_run else find_checkpoint(run)
    data = load_data(accelerator, data_args, use_labels)
    set_seed(run.seed)
    model = build_model(
        model_args.config,
        image_size=data.image_size,
        num_channels=data.num_channels,
        label_names=(data.label_names or ()) if model_labels else (),
        pretrained=model_args.model_name_or_path,
        encoder=model_args.encoder_name_or_path,
    )
    check(model)
    # Where convolutions are fastest; the weights are the same.
    model.to(memory_format=torch.channels_last)
    if run.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    settings = resolve_settings(model.config, data=data_args, training=run, **sections)
    batch_size = micro_batch_size(run, accelerator.num_processes)
    loader = make_train_loader(data.train, batch_size, accelerator.num_processes, data_args.num_workers)
    if run.dry_run:
        accelerator.print(describe_run(settings, model_parts(model), data, run, accelerator.num_processes))
        accelerator.print(data.summary)
        return None
    if checkpoint:
        check_resume(checkpoint, settings)
    model_id = create_hub_repo(accelerator, run) if run.push_to_hub else run.output_dir
    logger.info(data.summary)
    return TrainingSetup(accelerator, tracker, checkpoint, data, model, loader, settings, model_id)


def save_final_folder(
    setup: TrainingSetup,
    loop: TrainingLoop,
    output_dir: Path,
    metrics: Mapping[str, float],
    write: Callable[[Path], None],
    hub_dataset: str | None = None,
) -> None:
    """Logs the final metrics and leaves the model in its folder, with a model card and all settings. All processes must call it.

    Args:
        setup, loop, output_dir: those of the run; the loop's model has the weights to save.
        metrics: results of the model.
        write: saves the model and pictures into the folder that it is given.
        hub_dataset: id of the dataset on the Hub, where it is there.
    """
    setup.accelerator.log(dict(metrics), step=loop.step)
    if not setup.accelerator.is_main_process:
        return
    card = make_model_card(
        loop.plain.config,
        model_id=setup.model_id,
        dataset=setup.data.name,
        metrics=metrics,
        settings=setup.settings,
        parameters=loop.plain.num_parameters(),
        hub_dataset=hub_dataset,
    )
    with files_of(output_dir) as folder:
        write(folder)
        card.save(folder / "README.md")
        write_json(folder / SETTINGS_FILE, setup.settings)
        write_json(folder / DATA_SUMMARY_FILE, setup.data.summary.to_dict())
    logger.info(f"Saved the model to {output_dir}: {dict(metrics)}")
    if loop.run.push_to_hub:
        logger.info(f"Uploaded the model to {upload_model(output_dir, setup.model_id)}")


__all__ = ["TrainingSetup", "save_final_folder", "set_up_training"]
