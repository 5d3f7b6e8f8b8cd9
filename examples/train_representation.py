# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Learn features of images without labels: a Latent Zoning Network of two random views (arXiv 2509.15591).

    accelerate launch examples/train_representation.py                                # digits, minutes on a CPU
    accelerate launch examples/train_representation.py --preset fashion-mnist --data_dir fashion-mnist
    accelerate launch examples/train_representation.py --preset imagenet --dry_run    # the published settings: print, do not train
    accelerate launch examples/train_representation.py --data_dir my_images --image_size 64 --encoder_name_or_path facebook/dinov2-small
    accelerate launch examples/train_representation.py --method simclr                # what to compare with, all else being equal

The latents of one view are made to lie in the latent zones of the other views of the same images. Labels, where there are any, only
measure the features. `examples/evaluate_representation.py` measures them thoroughly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from lzn_hf import LZNImageProcessor, LZNModel
from lzn_hf.data.batches import image_batches
from lzn_hf.data.images import ImageData
from lzn_hf.data.views import ViewSettings, random_views
from lzn_hf.evaluation.probes import collect_features, knn_accuracy
from lzn_hf.training.arguments import DataArguments, ModelArguments, RunArguments, parse_arguments, require_at_least
from lzn_hf.training.contrastive import MomentumContrast, simclr_loss
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.models import model_parts
from lzn_hf.training.setup import save_final_folder, set_up_training
from lzn_hf.training.steps import encode_anchors


EVAL_BATCH_SIZE = 256
NUM_NEIGHBOURS = 20  # that vote


@dataclass
class RepresentationArguments:
    """What is particular to representation learning."""

    _argument_group_name = "representation learning"

    method: Literal["lzn", "simclr", "moco"] = field(
        default="lzn", metadata={"help": "The loss: latent zones, or one of two to compare with."}
    )
    encoder_learning_rate: float = field(default=1e-3, metadata={"help": "Adam's learning rate."})
    temperature: float = field(default=0.2, metadata={"help": "Of `simclr` and `moco`."})
    queue_size: int = field(default=4096, metadata={"help": "Of `moco`: anchors of earlier steps to tell apart from."})
    key_momentum: float = field(default=0.99, metadata={"help": "Of `moco`: momentum of the encoder of the keys."})
    num_reference_anchors: int = field(
        default=2048, metadata={"help": "Training images (drawn by seed) whose anchors the model keeps for inference."}
    )
    use_labels: bool = field(
        default=True,
        metadata={"help": "Measure the features by the labels of the images, which training never sees."},
    )
    num_neighbours_from: int = field(
        default=10000, metadata={"help": "Training images among which nearest neighbours are looked for, to measure."}
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "queue_size", "num_reference_anchors", "num_neighbours_from")
        require_at_least(self, 0, "encoder_learning_rate")
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {self.temperature}.")
        if not 0 <= self.key_momentum < 1:
            raise ValueError(f"`key_momentum` must be at least 0 and below 1, got {self.key_momentum}.")


@dataclass
class ViewArguments:
    """How the two views of an image are drawn."""

    _argument_group_name = "views"

    crop_scale: list[float] = field(
        default_factory=lambda: [0.2, 1.0], metadata={"help": "Bounds of the share of the area that a crop keeps."}
    )
    crop_ratio: list[float] = field(
        default_factory=lambda: [3 / 4, 4 / 3], metadata={"help": "Bounds of the width of a crop over its height."}
    )
    flip: float = field(default=0.5, metadata={"help": "Probability of a mirror image."})
    jitter: float = field(default=0.8, metadata={"help": "Probability of a change of the next four."})
    brightness: float = field(default=0.4, metadata={"help": "Strength of the change of brightness."})
    contrast: float = field(default=0.4, metadata={"help": "... of contrast."})
    saturation: float = field(default=0.4, metadata={"help": "... of saturation."})
    hue: float = field(default=0.1, metadata={"help": "... of hue, up to 0.5."})
    grayscale: float = field(default=0.2, metadata={"help": "Probability that colours are lost."})
    blur: float = field(default=0.5, metadata={"help": "Probability of a blur."})
    blur_sigma: list[float] = field(
        default_factory=lambda: [0.1, 2.0], metadata={"help": "Bounds of its standard deviation in pixels."}
    )

    def __post_init__(self) -> None:
        self.settings()  # raises a ValueError for what is out of range

    def settings(self) -> ViewSettings:
        return ViewSettings(**dataclasses.asdict(self))


# By their section in a preset.
ARGUMENTS = {
    "model": ModelArguments,
    "data": DataArguments,
    "training": RunArguments,
    "representation": RepresentationArguments,
    "views": ViewArguments,
}


def main(argv: Sequence[str] | None = None) -> Path | None:
    """Trains by the command line `argv` (None: the process's own). Returns the model folder, None for a dry run."""
    # 1. Settings, data, model: everything is checked before anything is written.
    presets_dir = Path(__file__).resolve().parent / "presets" / "representation"
    model_args, data_args, run, own, view_args = parse_arguments(ARGUMENTS, presets_dir, argv, description=__doc__)
    if data_args.random_flip or data_args.max_shift:
        raise ValueError(
            "`random_flip` and `max_shift` are not for views, which `--flip` and `--crop_scale` decide: leave them out."
        )
    setup = set_up_training(
        model_args,
        data_args,
        run,
        representation=own,
        views=view_args,
        use_labels=own.use_labels,
        model_labels=False,
        check=check_model,
    )
    if setup is None:
        return None
    accelerator, data, views = setup.accelerator, setup.data, view_args.settings()

    # 2. Train.
    contrast = None
    if own.method == "moco":
        contrast = MomentumContrast(
            setup.model.encoder,
            setup.model.config.latent_dim,
            queue_size=own.queue_size,
            momentum=own.key_momentum,
            temperature=own.temperature,
            generator=torch.Generator().manual_seed(run.seed),
        )

    def compute_loss(model, batch, generator):
        images = batch["pixel_values"]
        first, second = (random_views(images, views, size=data.image_size, generator=generator) for _ in range(2))
        if own.method == "lzn":
            output = model(first, second_views=second, generator=generator)
            return output.loss, {
                "latent_std": output.latents.std(),
                "own_view_share": output.view_log_probs[-1].exp().mean(),
                "anchor_spread": output.anchors.detach().var(0).sum().sqrt(),
            }
        if own.method == "moco":
            anchors = model(first).anchors
            return contrast.loss(anchors, second), {}
        anchors, targets = model(torch.cat([first, second])).anchors.chunk(2)
        similarity = F.cosine_similarity(anchors.detach(), targets.detach()).mean()
        return simclr_loss(anchors, targets, own.temperature), {"similarity": similarity}

    rates = dict.fromkeys(model_parts(setup.model), own.encoder_learning_rate)
    loop = TrainingLoop(
        accelerator,
        setup.model,
        setup.loader,
        run,
        rates,
        compute_loss,
        end_step=None if contrast is None else contrast.end_step,
        extra_state={} if contrast is None else {"contrast": contrast},
    )
    output_dir = loop.fit(
        setup.tracker,
        setup.settings,
        name="train_representation",
        checkpoint=setup.checkpoint,
        shown={"own view": "own_view_share", "similarity": "similarity"},
        evaluate=lambda step: evaluate(accelerator, loop.plain, data, data_args, own, run),
    )

    # 3. The final folder: averaged weights, reference anchors.
    def write(folder: Path) -> None:
        config = loop.plain.config
        size, half = config.image_size, [0.5] * config.num_channels
        loop.plain.save_pretrained(folder)
        processor = LZNImageProcessor(size={"height": size, "width": size}, image_mean=half, image_std=half)
        processor.save_pretrained(folder)

    with loop.ema.scope():
        metrics = evaluate(accelerator, loop.plain, data, data_args, own, run)
        batches = image_batches(data.train, EVAL_BATCH_SIZE, limit=own.num_reference_anchors, seed=run.seed)
        loop.plain.set_reference_anchors(encode_anchors(loop.plain, batches))
        save_final_folder(setup, loop, output_dir, metrics, write, data_args.hub_dataset)
    loop.close()
    return output_dir


def check_model(model: LZNModel) -> None:
    """Raises a ValueError for a model that is more than an image encoder, or less."""
    if model.encoder is None or model.decoder is not None:
        raise ValueError(
            "train_representation.py trains an image encoder alone, but `encoder_type` and `decoder_type` of the model are "
            f"{model.config.encoder_type!r} and {model.config.decoder_type!r}. For a new model, pass `--config_overrides decoder_type=null`."
        )


def evaluate(
    accelerator: Accelerator,
    model: LZNModel,
    data: ImageData,
    data_args: DataArguments,
    own: RepresentationArguments,
    run: RunArguments,
) -> dict[str, float]:
    """Accuracy of nearest neighbours on the validation images; empty without labels or validation images."""
    if data.validation is None or not own.use_labels:
        return {}
    # On every process alike: what costs time is training.
    train = image_batches(data.train, EVAL_BATCH_SIZE, limit=own.num_neighbours_from, seed=run.seed)
    held_out = image_batches(data.validation, EVAL_BATCH_SIZE, limit=data_args.max_eval_samples, seed=run.seed)
    features, labels = collect_features(model, train)
    k = min(NUM_NEIGHBOURS, len(features))
    return {"validation_knn_accuracy": knn_accuracy(features, labels, *collect_features(model, held_out), k)}


if __name__ == "__main__":
    main()
