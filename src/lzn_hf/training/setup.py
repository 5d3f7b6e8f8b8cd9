# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The start of a training run: processes, data and model. Everything is checked before anything is written."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from ..card_lzn import EXAMPLE_TEXTS
from ..data.batches import image_batches, to_pixel_values
from ..data.images import ImageData, StreamedImageDataset
from ..evaluation.uploads import prepare_repository
from ..modeling_lzn import LZNModel
from .arguments import DataArguments, ModelArguments, RunArguments
from .batches import load_data, make_train_loader, micro_batch_size, micro_batches_of_a_pool
from .checkpoints import check_resume, find_checkpoint
from .dry_run import dry_run_report
from .metrics import METRICS_FILE, JSONLinesTracker
from .models import TYPE_FIELDS, build_model, model_parts, with_saved_image_shape
from .processes import make_pool_group, on_main_process, start_accelerator
from .settings import Settings, default_settings, resolve_settings
from .streams import StreamBatches
from .validation import encode_anchors


logger = logging.getLogger(__name__)

EVAL_BATCH_SIZE = 256
MIN_PASSES = 2  # over the training images; a run of fewer is warned about


@dataclass
class TrainingSetup:
    """What a training run consists of when all of its settings are checked and before any step.

    Args:
        name (`str`): name of the run, for trackers.
        run (`RunArguments`): length, optimization, logging and checkpoints.
        data_args (`DataArguments`): where the data is from.
        accelerator (`Accelerator`): with `tracker` among its trackers.
        tracker (`JSONLinesTracker`): the metrics file.
        data (`ImageData`): training and validation images.
        model (`LZNModel`): the model, never wrapped. Preparation moves it to its device in place.
        loader (`DataLoader` or [`StreamBatches`]): training batches, from [`make_train_loader`].
        settings (`dict`): as of [`resolve_settings`].
        checkpoint (`Path`, *optional*): the checkpoint to resume from.
        hub_model_id (`str`, *optional*): the repository to upload the final folder to.
        pool_group (`ProcessGroup`, *optional*): the processes whose images share a pool; `None` for all.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): the tokenizer of a model with a text encoder.
        example_texts (sequence of `str`, *optional*): texts for the card of such a model, see [`usage`].
    """

    name: str
    run: RunArguments
    data_args: DataArguments
    accelerator: Accelerator
    tracker: JSONLinesTracker
    data: ImageData
    model: LZNModel
    loader: DataLoader | StreamBatches
    settings: Settings = field(default_factory=dict)
    checkpoint: Path | None = None
    hub_model_id: str | None = None
    pool_group: Any = None
    tokenizer: PreTrainedTokenizerBase | None = None
    example_texts: Sequence[str] = EXAMPLE_TEXTS

    @property
    def process_share(self) -> dict[str, int]:
        """The arguments by which a function takes the part of this process out of what all processes do."""
        return {"process_index": self.accelerator.process_index, "num_processes": self.accelerator.num_processes}

    def draw_images(self, batch: Mapping[str, Tensor], generator: torch.Generator, **process_share: int) -> Tensor:
        """Draws the pixel values of a batch, with random flips and shifts if they are asked for.

        Args:
            batch (`Mapping[str, Tensor]`): with the `pixel_values` of B `uint8` images.
            generator (`torch.Generator`): draws flips and shifts.
            process_share (`int`): the part of the images of all processes, see [`TrainingSetup.process_share`].

        Returns:
            `Tensor` of shape `(B, C, H, W)`: float32 in [-1, 1].
        """
        flip, shift = self.data_args.random_flip, self.data_args.max_shift
        return to_pixel_values(batch["pixel_values"], flip=flip, shift=shift, generator=generator, **process_share)

    def train_batches(self, limit: int) -> Iterator[dict[str, Tensor]]:
        """Yields batches of `limit` training images drawn by the seed, the same on all processes."""
        return image_batches(self.data.train, EVAL_BATCH_SIZE, limit=limit, seed=self.run.seed)

    def validation_batches(self, split_over_processes: bool = False) -> Iterator[dict[str, Tensor]]:
        """Yields batches of the validation images, if there are any: all of them, or the part of this process."""
        if self.data.validation is None:
            return iter(())
        part = self.process_share if split_over_processes else {}
        limit = self.data_args.max_eval_samples
        return image_batches(self.data.validation, EVAL_BATCH_SIZE, limit=limit, seed=self.run.seed, **part)

    def encode_train_anchors(self, limit: int) -> Tensor:
        """Returns the anchors `(limit, D)` of training images drawn by the seed, the same on all processes."""
        return encode_anchors(self.model, self.train_batches(limit))


def set_up_training(
    name: str,
    model_args: ModelArguments,
    data_args: DataArguments,
    run: RunArguments,
    *,
    use_labels: bool = True,
    model_labels: bool = True,
    check: Callable[[LZNModel], None],
    extend: Callable[[Sequence[str]], Mapping[str, Any]] | None = None,
    **sections: Any,
) -> TrainingSetup | None:
    """Starts the processes, opens the data and builds the model.

    Args:
        name (`str`): name of the run, for trackers.
        model_args (`ModelArguments`): which model.
        data_args (`DataArguments`): which images.
        run (`RunArguments`): length, optimization, logging and checkpoints.
        use_labels (`bool`, *optional*, defaults to `True`): whether to read labels.
        model_labels (`bool`, *optional*, defaults to `True`): whether the model gets the labels of the data, which must then have some.
        check (`Callable`): raises a `ValueError` for a model that the script cannot train.
        extend (`Callable`, *optional*): gives more fields of the configuration, from the labels of the data.
        sections: the script's own argument dataclasses, by the name of their section.

    Returns:
        `TrainingSetup`: what to train. For a dry run, of which settings, sizes and data have been printed, it is what to time, or `None`
            if only the facts of a preset are known of the data.

    Raises:
        ValueError: for settings that do not fit each other or the data. Nothing is written.
    """
    data_args = with_saved_image_shape(data_args, model_args.model_name_or_path)
    transformers.utils.logging.disable_progress_bar()  # that of saving weights would break the training's own
    tracker = JSONLinesTracker(Path(run.output_dir) / METRICS_FILE)
    accelerator = start_accelerator(run, trackers=[tracker])
    checkpoint = None if run.dry_run else on_main_process(accelerator, partial(find_checkpoint, run))
    batch_size = micro_batch_size(run, accelerator.num_processes)
    micro_batches_of_a_pool(run, accelerator.num_processes)  # raises a ValueError for sizes that do not fit
    facts: Mapping[str, Any] = data_args.facts if run.dry_run else {}
    if facts:
        data = None
        image_size = data_args.image_size or facts["image_size"]
        num_channels = data_args.num_channels or facts["num_channels"]
        label_names = facts.get("label_names", ()) if use_labels else ()
    else:
        data = load_data(accelerator, data_args, use_labels, require_labels=model_labels)
        image_size, num_channels, label_names = data.image_size, data.num_channels, data.label_names or ()
    set_seed(run.seed)
    overrides = dict(model_args.config)
    if extend is not None:
        overrides |= extend(label_names)
    elif given := [field for field in TYPE_FIELDS if overrides.get(field) is not None]:
        raise ValueError(
            f"`config_overrides` has {', '.join(given)}, which {name} does not train: use train_text_image."
        )
    else:  # a saved model goes on without what this script does not train, and so does its decoder
        overrides |= dict.fromkeys(TYPE_FIELDS)
    model = build_model(
        overrides,
        image_size=image_size,
        num_channels=num_channels,
        label_names=label_names if model_labels else (),
        pretrained=model_args.model_name_or_path,
        encoder=model_args.encoder_name_or_path,
    )
    check(model)
    # The fastest memory format for convolutions; the weights are the same.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # transformers' wrapper hides the signature
    if run.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    settings = resolve_settings(
        model.config, None if data is None else data.summary, data=data_args, training=run, **sections
    )
    if data is None:
        accelerator.print(
            dry_run_report(settings, model_parts(model), run, accelerator.num_processes, facts.get("train_images"))
        )
        accelerator.print(
            "The data was not looked at: its sizes and labels are those that the preset gives. Without it, no steps were timed."
        )
        return None
    if isinstance(data.train, StreamedImageDataset):  # these decide who reads what
        settings["stream"] = {"processes": accelerator.num_processes, "files": data.train.num_files}
    loader = make_train_loader(data.train, batch_size, accelerator.num_processes, data_args.num_workers)
    train_images = len(data.train) if isinstance(data.train, Sized) else None
    if run.dry_run:
        accelerator.print(dry_run_report(settings, model_parts(model), run, accelerator.num_processes, train_images))
        accelerator.print(data.summary)
    else:
        logger.info(data.summary)
    if train_images is not None:
        _warn_of_few_passes(run, train_images)
    if checkpoint:
        defaults = default_settings(data=data_args, training=run, **sections)
        check_resume(checkpoint, run, settings, defaults)
    hub_model_id = create_hub_repo(accelerator, run) if run.push_to_hub and not run.dry_run else None
    return TrainingSetup(
        name,
        run,
        data_args,
        accelerator,
        tracker,
        data,
        model,
        loader,
        settings,
        checkpoint,
        hub_model_id,
        pool_group=make_pool_group(run, accelerator.num_processes),
    )


def _warn_of_few_passes(run: RunArguments, train_images: int) -> None:
    seen, wanted = run.max_train_steps * run.total_batch_size, MIN_PASSES * train_images
    if seen < wanted:
        logger.warning(
            f"The run ends after {seen / train_images:.2g} passes over the {train_images:,} training images: {run.max_train_steps:,} steps "
            f"of {run.total_batch_size:,} images. Few models learn much from seeing each image less than {MIN_PASSES} times: pass "
            f"`--max_train_steps {math.ceil(wanted / run.total_batch_size)}` or more."
        )


def create_hub_repo(accelerator: Accelerator, run: RunArguments) -> str:
    """Creates the repository to upload to, early, so that a missing login or permission shows before training. Returns its id."""
    repo_id = run.hub_model_id or Path(run.output_dir).name
    ids = [prepare_repository(repo_id, run.private or None) if accelerator.is_main_process else None]
    return broadcast_object_list(ids)[0]
