# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Learn features of images without labels: a Latent Zoning Network of two random views (arXiv 2509.15591).

    accelerate launch -m lzn_hf.train_representation                                # digits, minutes on a CPU
    accelerate launch -m lzn_hf.train_representation --preset fashion-mnist --data_dir fashion-mnist
    accelerate launch -m lzn_hf.train_representation --preset imagenet --dry_run    # the published settings: print, do not train
    accelerate launch -m lzn_hf.train_representation --data_dir my_images --image_size 64 --encoder_name_or_path facebook/dinov2-small
    accelerate launch -m lzn_hf.train_representation --method simclr                # a baseline, all else being equal

Each latent of one view is trained to lie in the latent zone of the other view of its image. Labels, if there are any, are only used
to measure the features. `lzn evaluate` measures them thoroughly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from accelerate import DistributedType, PartialState
from torch import Tensor

from lzn_hf import LZNModel
from lzn_hf.data.views import ViewSettings, random_views
from lzn_hf.evaluation.probes import collect_features, knn_accuracy
from lzn_hf.losses_lzn import view_losses
from lzn_hf.training.arguments import COMMON_ARGUMENTS, flag, learning_rates, require_at_least
from lzn_hf.training.command_line import run_as_script
from lzn_hf.training.contrastive import MomentumContrast, simclr_loss
from lzn_hf.training.final_folder import save_final_folder
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.parsing import PRESETS_DIR, parse_arguments
from lzn_hf.training.pools import PooledLoss
from lzn_hf.training.setup import TrainingSetup, set_up_training


NUM_NEIGHBOURS = 20  # k of the kNN vote


@dataclass
class RepresentationArguments:
    """Settings of representation learning alone."""

    _argument_group_name = "representation learning"

    method: Literal["lzn", "simclr", "moco"] = flag("lzn", "The loss: latent zones, or one of two baselines.")
    encoder_learning_rate: float = flag(1e-3, "Adam's learning rate.")
    temperature: float = flag(0.2, "Temperature of `simclr` and `moco`.")
    queue_size: int = flag(4096, "Number of negatives of `moco`: anchors of earlier steps.")
    key_momentum: float = flag(0.99, "Momentum of the key encoder of `moco`.")
    num_reference_anchors: int = flag(
        2048, "Training images (drawn by seed) whose anchors the model keeps for inference."
    )
    use_labels: bool = flag(
        True, "Measure the features with the labels of the images, if there are any; training never uses them."
    )
    num_neighbours_from: int = flag(
        10000, "kNN bank size: training images searched for nearest neighbours in evaluations."
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "queue_size", "num_reference_anchors", "num_neighbours_from")
        require_at_least(self, 0, "encoder_learning_rate")
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be positive, but is {self.temperature}.")
        if not 0 <= self.key_momentum < 1:
            raise ValueError(f"`key_momentum` must be at least 0 and below 1, but is {self.key_momentum}.")


@dataclass
class ViewArguments:
    """How the two views of an image are drawn."""

    _argument_group_name = "views"

    crop_scale: list[float] = flag([0.2, 1.0], "Bounds of the area of a crop as a fraction of the image's.")
    crop_ratio: list[float] = flag([3 / 4, 4 / 3], "Bounds of the aspect ratio (width / height) of a crop.")
    flip: float = flag(0.5, "Probability of a horizontal flip.")
    jitter: float = flag(0.8, "Probability of color jitter, by the next four strengths.")
    brightness: float = flag(0.4, "Strength of the change of brightness.")
    contrast: float = flag(0.4, "... of contrast.")
    saturation: float = flag(0.4, "... of saturation.")
    hue: float = flag(0.1, "... of hue, up to 0.5.")
    grayscale: float = flag(0.2, "Probability of conversion to grayscale.")
    blur: float = flag(0.5, "Probability of a Gaussian blur.")
    blur_sigma: list[float] = flag([0.1, 2.0], "Bounds of the blur's standard deviation in pixels.")

    def __post_init__(self) -> None:
        self.settings()  # raises a ValueError for values out of range

    def settings(self) -> ViewSettings:
        return ViewSettings(**asdict(self))


ARGUMENTS = COMMON_ARGUMENTS | {"representation": RepresentationArguments, "views": ViewArguments}


def main(argv: Sequence[str] | None = None) -> Path | None:
    """Trains by the command line `argv` (`None`: that of the process). Returns the model folder, `None` for a dry run."""
    # 1. Settings, data, model: everything is checked before anything is written.
    parsed = parse_arguments(ARGUMENTS, PRESETS_DIR / "representation", argv, description=__doc__)
    model_args, data_args, run, representation, view_args = parsed
    if data_args.random_flip or data_args.max_shift:
        raise ValueError(
            "`random_flip` and `max_shift` are not for views, which `--flip` and `--crop_scale` decide: leave them out."
        )
    setup = set_up_training(
        "train_representation",
        model_args,
        data_args,
        run,
        representation=representation,
        views=view_args,
        use_labels=representation.use_labels,
        model_labels=False,
        check=partial(check_model, method=representation.method),
    )
    if setup is None:
        return None

    # 2. The loss of two views of each image, by the prepared model; validation, by the unwrapped one with averaged weights.
    method, views, moco = representation.method, view_args.settings(), None
    if method == "moco":
        moco = MomentumContrast(
            setup.model.encoder,
            setup.model.config.latent_dim,
            queue_size=representation.queue_size,
            momentum=representation.key_momentum,
            temperature=representation.temperature,
            generator=torch.Generator().manual_seed(run.seed),
        )

    def two_views(batch, generator, **process_share) -> Tensor:
        draw = {"size": setup.data.image_size, "generator": generator, **process_share}
        return torch.cat([random_views(batch["pixel_values"], views, **draw) for _ in range(2)])

    def compute_loss(model, batch, generator):
        pixel_values = two_views(batch, generator, **setup.process_share)
        first, second = pixel_values.chunk(2)
        if method == "lzn":
            output = model(first, second_views=second, generator=generator, pool_group=setup.pool_group)
            return output.loss, step_metrics(output.anchors, output.latents, output.view_log_probs)
        if method == "moco":
            return moco.loss(model(first).anchors, second), {}
        return contrastive_loss(model(pixel_values).anchors.unflatten(0, (2, -1)))

    def contrastive_loss(anchors):
        loss = simclr_loss(*anchors, representation.temperature, setup.pool_group)
        return loss, {"similarity": F.cosine_similarity(*anchors.detach(), dim=-1).mean()}

    def pool_loss(anchors, labels, generator, reconstruct):
        if method == "simclr":
            return contrastive_loss(anchors)
        losses = view_losses(setup.model.config, *anchors, generator=generator, group=setup.pool_group)
        return losses["loss"], step_metrics(anchors[0], losses["latents"], losses["view_log_probs"])

    evaluate = partial(validation_accuracy, setup, representation)

    # 3. Train, and save the averaged weights with reference anchors.
    if moco is None:
        loop_options: dict[str, Any] = {"pooled_loss": PooledLoss(two_views, pool_loss, num_views=2)}
    else:
        loop_options = {"on_step_end": moco.end_step, "extra_state": {"contrast": moco}}
    loop = TrainingLoop(setup, learning_rates(representation), compute_loss, **loop_options)
    if run.dry_run:
        loop.time_steps()
        return None
    loop.fit(evaluate=evaluate, shown={"own view": "own_view_share", "similarity": "similarity"})
    return save_final_folder(loop, evaluate=evaluate, num_reference_anchors=representation.num_reference_anchors)


def step_metrics(anchors: Tensor, latents: Tensor, log_probs: Tensor) -> dict[str, Tensor]:
    """Returns statistics of anchors `(B, D)` and latents `(B, D)` of views, and how sure the other view `(S, B)` is of its own."""
    return {
        "latent_std": latents.std(),
        "own_view_share": log_probs[-1].exp().mean(),
        "anchor_spread": anchors.detach().var(0).sum().sqrt(),
    }


def check_model(model: LZNModel, method: str) -> None:
    """Raises a `ValueError` for a model that is not an image encoder alone, or that the method cannot train as it is sharded."""
    if model.encoder is None or model.decoder is not None:
        raise ValueError(
            "train_representation.py trains an image encoder alone, but `encoder_type` and `decoder_type` of the model are "
            f"{model.config.encoder_type!r} and {model.config.decoder_type!r}. For a new model, pass `--config_overrides decoder_type=null`."
        )
    if method == "moco" and PartialState().distributed_type == DistributedType.FSDP:
        raise ValueError(
            "`method` moco cannot train with sharded weights (FSDP2), as it keeps a second encoder: train without `fsdp_config`."
        )


def validation_accuracy(setup: TrainingSetup, representation: RepresentationArguments) -> dict[str, float]:
    """Computes the kNN accuracy on the validation images; empty without labels or validation images."""
    if setup.data.validation is None or setup.data.label_names is None:
        return {}
    # Repeated on all processes: it takes little time beside training.
    features, labels = collect_features(setup.model, setup.train_batches(representation.num_neighbours_from))
    held_out = collect_features(setup.model, setup.validation_batches())
    return {"validation_knn_accuracy": knn_accuracy(features, labels, *held_out, min(NUM_NEIGHBOURS, len(features)))}


if __name__ == "__main__":
    run_as_script(main)
