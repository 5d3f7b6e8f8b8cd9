# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The flags of the training scripts: one dataclass for each section of a preset. [`parse_arguments`] reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..card_lzn import check_license
from ..checks_lzn import near_matches


MAX_PROCESS_TIMEOUT = 7 * 24 * 3600  # seconds


def flag(default: Any, help: str) -> Any:
    """Declares a dataclass field that becomes a flag, with its default value and its `--help` text."""
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


def require_at_least(arguments: Any, minimum: float, *names: str) -> None:
    """Raises a `ValueError` unless each of the named attributes is `None` or at least `minimum`."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not value >= minimum:
            raise ValueError(f"`{name}` must be at least {minimum}, but is {value}.")


def argument_values(arguments: Any) -> dict[str, Any]:
    """Returns the values of the flags of an argument dataclass, by name."""
    return {f.name: getattr(arguments, f.name) for f in fields(arguments) if f.init}


def close_matches(name: str, known: Sequence[str], quote: str = "") -> str:
    """Returns the known names that are closest to a misspelt one, joined by "or"; empty if none is close."""
    return " or ".join(f"{quote}{match}{quote}" for match in near_matches(name, known, cutoff=0.7))


def near_names(name: str, known: Sequence[str]) -> str:
    """Returns `" Did you mean ...?"` with the closest matches among the known names, or an empty string."""
    matches = close_matches(name, known, quote="`")
    return f" Did you mean {matches}?" if matches else ""


@dataclass
class PresetArguments:
    """Where the defaults come from."""

    _argument_group_name = "preset"

    preset: str = flag("digits", "Name of a preset, or the path of a JSON file; flags override its values.")


@dataclass
class ModelArguments:
    """Which network to train."""

    _argument_group_name = "model"

    model_name_or_path: str | None = flag(
        None,
        "Fine-tune this saved folder or hub id instead of starting from random weights. Images are converted to its size and "
        "channels. Labels are matched by name: new ones are initialized, and all other weights are kept.",
    )
    encoder_name_or_path: str | None = flag(
        None,
        "Folder or hub id of an image model of transformers (ResNet, ConvNeXt, ViT, DINOv2, ...) to use as the image "
        "encoder, with its weights if it has any and a new projection head.",
    )
    config_overrides: list[str] = flag(
        [],
        "Fields of LZNConfig as name=value, for example `latent_dim=64 encoder_channel_multipliers=[1,2]`; values are JSON. "
        "They override the preset's model section.",
    )
    # Not a flag: the preset's model section with the overrides applied.
    config: dict[str, Any] = field(default_factory=dict, init=False)


@dataclass
class DataArguments:
    """Which images to train on."""

    _argument_group_name = "data"

    dataset_name: str | None = flag(
        None,
        "`digits` (ships with scikit-learn; the default without data_dir and preset), `fashion-mnist` with data_dir, or a dataset "
        "id on the Hub. It replaces the data of the preset.",
    )
    data_dir: str | None = flag(
        None,
        "Folder: images in one subfolder per label (or a zip of it), parquet files, output of `save_to_disk`, or IDX files. "
        "It replaces the data of the preset; IDX files given to a preset for Fashion-MNIST are taken for that.",
    )
    dataset_config_name: str | None = flag(None, "Configuration of a Hub dataset.")
    image_column: str | None = flag(None, "Column of the images; default: found by type.")
    label_column: str | None = flag(
        None,
        "Column of the labels, or `folder` for the names of class folders beside a table; default: the only candidate.",
    )
    train_split: str = flag("train", "Split to train on.")
    validation_split: str | None = flag(
        None, "Split to validate on; default: validation or test, or else a fraction of the training split."
    )
    validation_fraction: float = flag(
        0.1, "Fraction of the training split to hold out if there is no validation split."
    )
    image_size: int | None = flag(
        None, "Resize and crop images to this height and width in pixels; default: original size."
    )
    num_channels: int | None = flag(None, "1 (grayscale) or 3 (color); default: that of the first image.")
    skip_bad_images: bool = flag(
        False, "Leave out images that cannot be read, counted and named, instead of stopping."
    )
    streaming: bool = flag(
        False, "Read images as they come instead of storing the dataset, each process those of other files."
    )
    shuffle_buffer_size: int = flag(
        5000,
        "Images of a block within which a stream is shuffled, after its files were; each process holds one block, undecoded. For files "
        "sorted by label, it must exceed the images of one label.",
    )
    data_seed: int = flag(0, "Seed of the validation split and of the order of a stream, independent of `seed`.")
    num_workers: int = flag(
        0, "Workers of each process, which decode images of streams and of datasets too large for memory."
    )
    random_flip: bool = flag(False, "Flip training images horizontally at random.")
    max_shift: int = flag(0, "Translate training images at random by up to this many pixels.")
    max_eval_samples: int | None = flag(None, "Validate on this many images; default: all.")
    # Not a flag: what the preset says about its own data (see `PRESET_FACTS`), for a dry run without it.
    facts: dict[str, Any] = field(default_factory=dict, init=False)
    # Columns that are taken for the labels of data that has none, the first that is there.
    caption_columns: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        require_at_least(self, 0, "num_workers", "max_shift", "data_seed")
        require_at_least(self, 1, "max_eval_samples", "shuffle_buffer_size")
        if self.dataset_name is None and self.data_dir is None:
            self.dataset_name = "digits"

    @property
    def hub_dataset(self) -> str | None:
        """Id of the dataset on the Hub; `None` for data from elsewhere."""
        return None if self.data_dir is not None or self.dataset_name == "digits" else self.dataset_name


@dataclass
class RunArguments:
    """What every training script needs: length, optimization, logging, checkpoints and the output folder."""

    _argument_group_name = "training"

    output_dir: str = flag(
        "outputs/train",
        "Folder for checkpoints, metrics, samples and the final model. For data that is not the preset's, it is named after the data.",
    )
    overwrite_output_dir: bool = flag(
        False, "Start over in a folder with files: its checkpoints, metrics and samples are deleted."
    )
    seed: int = flag(0, "On a CPU, runs with the same seed, settings and number of processes are bit-identical.")
    total_batch_size: int = flag(
        256,
        "Images per optimizer step, over all processes and accumulation steps. An anchor pool is one micro-batch gathered "
        "over the processes: total_batch_size / gradient_accumulation_steps images.",
    )
    gradient_accumulation_steps: int = flag(
        1,
        "Micro-batches per step. More of them save memory but shrink the anchor pools, unless pool_batch_size keeps these.",
    )
    pool_batch_size: int | None = flag(
        None,
        "Images that share an anchor pool; default: those of a micro-batch. With more, the micro-batches of a pool are encoded twice, "
        "which gives the gradient of one large batch in the memory of a micro-batch.",
    )
    pool_group_size: int | None = flag(
        None,
        "Processes that share an anchor pool, so that pools stay small however many there are; a divisor of their number. Default: all.",
    )
    max_train_steps: int = flag(
        1200,
        "Optimizer steps to train. A resumed run may end at its checkpoint's step; see `lr_scheduler` for other values.",
    )
    warmup_steps: int = flag(0, "Steps of linear learning-rate warm-up from 1/warmup_steps.")
    lr_scheduler: Literal["constant", "cosine"] = flag(
        "constant",
        "Learning rate after the warm-up: constant, or half a cosine down to zero at the last step, which a resumed run cannot move.",
    )
    max_grad_norm: float = flag(1.0, "Clip the gradient norm over all parts of the model to this.")
    ema_decay: float = flag(
        0.999, "Decay of the moving average of the weights; step n uses min(ema_decay, (1 + n) / (10 + n))."
    )
    mixed_precision: Literal["no", "fp16", "bf16"] | None = flag(
        None,
        "Precision of the networks, fp16 on a GPU only; default: accelerate's configuration. Latent zones stay in float32.",
    )
    gradient_checkpointing: bool = flag(
        False, "Recompute activations in the backward pass: much less memory, about a third more time."
    )
    logging_steps: int = flag(10, "Steps between two lines of metrics.")
    eval_steps: int | None = flag(
        None, "Steps between two evaluations (validation metric, sample grid); default: only at the end."
    )
    checkpointing_steps: int | None = flag(
        None, "Steps between two checkpoints; default: only by `checkpointing_minutes`."
    )
    checkpointing_minutes: float = flag(
        10.0,
        "Save a checkpoint when the last one is this many minutes old, also between `checkpointing_steps`; 0: never.",
    )
    checkpoints_total_limit: int = flag(2, "Keep at most this many checkpoints; the oldest are deleted first.")
    resume_from_checkpoint: str | None = flag(
        None, "`latest`, or the folder of a checkpoint: continue it as if the run had never stopped."
    )
    max_nonfinite_steps: int = flag(
        10, "Stop after this many steps in a row were skipped for a non-finite loss or gradient."
    )
    process_timeout: float = flag(
        1800,
        "Seconds that a process waits for the others, until it ends the run and says which ones do not answer. More than the main "
        "process takes for what it does alone, such as the conversion of data.",
    )
    report_to: list[str] = flag(
        [],
        "Trackers in addition to metrics.jsonl, which is always written, as accelerate has them: `tensorboard wandb trackio`, among others; "
        "`all` that are installed, or `none`.",
    )
    push_to_hub: bool = flag(
        False,
        "Upload the final model to the Hugging Face Hub, with the code that opens it without lzn_hf. Permission to write is checked "
        "before training.",
    )
    hub_model_id: str | None = flag(None, "Repository to upload to, as user/name; default: the name of output_dir.")
    private: bool = flag(False, "Only you may see the repository, if it is made.")
    license: str | None = flag(
        None, "Licence of the weights for the model card, as the Hub names it: mit, apache-2.0, ...; default: none."
    )
    dry_run: bool = flag(
        False,
        "Print the resolved settings, model sizes, steps and a summary of the data, take three steps, print how long the run will take "
        "and how much memory, then exit; nothing is written. Presets of published datasets do not need the data for this, but then no "
        "step is taken.",
    )

    def __post_init__(self) -> None:
        require_at_least(
            self, 1, "total_batch_size", "gradient_accumulation_steps", "max_train_steps", "logging_steps"
        )
        require_at_least(
            self, 1, "eval_steps", "checkpointing_steps", "checkpoints_total_limit", "max_nonfinite_steps"
        )
        require_at_least(self, 1, "pool_batch_size", "pool_group_size")
        require_at_least(self, 0, "warmup_steps", "seed", "checkpointing_minutes")
        if isinstance(self.report_to, str):  # in a preset
            self.report_to = [self.report_to]
        if not self.max_grad_norm > 0:
            raise ValueError(f"`max_grad_norm` must be above 0, but is {self.max_grad_norm}.")
        if not 0 < self.process_timeout <= MAX_PROCESS_TIMEOUT:
            raise ValueError(
                f"`process_timeout` must be above 0 and at most {MAX_PROCESS_TIMEOUT} seconds, but is {self.process_timeout}."
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be at least 0 and below 1, but is {self.ema_decay}.")
        for name, is_given in (("hub_model_id", self.hub_model_id is not None), ("private", self.private)):
            if is_given and not self.push_to_hub:
                raise ValueError(f"`{name}` is given, but nothing is uploaded without `--push_to_hub`.")
        check_license(self.license)


# By their section in a preset. Each script adds its own.
COMMON_ARGUMENTS = {"model": ModelArguments, "data": DataArguments, "training": RunArguments}


def learning_rates(arguments: Any) -> dict[str, float]:
    """Returns the values of the attributes `{part}_learning_rate`, by part of the model."""
    suffix = "_learning_rate"
    return {name.removesuffix(suffix): value for name, value in vars(arguments).items() if name.endswith(suffix)}
