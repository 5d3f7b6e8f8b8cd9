# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Train a model that generates, reconstructs and embeds images without labels: a Latent Zoning Network (arXiv 2509.15591).

    accelerate launch -m lzn_hf.train_unconditional                                     # digits, minutes on a CPU
    accelerate launch -m lzn_hf.train_unconditional --baseline rectified_flow           # the same decoder without latents
    accelerate launch -m lzn_hf.train_unconditional --preset afhq-cat --dry_run         # the published settings: print, do not train
    accelerate launch -m lzn_hf.train_unconditional --data_dir my_images --image_size 64 --output_dir outputs/mine

The decoder learns the rectified flow from noise to images, given the latents of the images in training and prior noise at sampling.
Folders need no labels. `docs/your_own_data.md` explains data folders, `docs/training.md` processes, resuming and fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from lzn_hf import LZNModel
from lzn_hf.losses_lzn import joint_losses
from lzn_hf.training.arguments import COMMON_ARGUMENTS, flag, learning_rates, require_at_least
from lzn_hf.training.baselines import check_parts, remove_part, validation_loss
from lzn_hf.training.command_line import run_as_script
from lzn_hf.training.final_folder import save_final_folder
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.parsing import PRESETS_DIR, parse_arguments
from lzn_hf.training.pools import PooledLoss, Reconstruct
from lzn_hf.training.setup import TrainingSetup, set_up_training
from lzn_hf.training.validation import generate_samples
from lzn_hf.visualization.grids import image_grid


@dataclass
class UnconditionalArguments:
    """Settings of training without labels alone."""

    _argument_group_name = "unconditional training"

    baseline: Literal["none", "rectified_flow"] = flag(
        "none", "`rectified_flow`: train the decoder alone, without latents, for comparison."
    )
    encoder_learning_rate: float = flag(1e-3, "Adam's learning rate for the image encoder.")
    decoder_learning_rate: float = flag(2e-3, "... for the image decoder.")
    num_reference_anchors: int = flag(
        2048, "Training images (drawn by seed) whose anchors the model keeps for inference."
    )
    num_samples: int = flag(40, "Images of a sample grid.")
    num_inference_steps: int = flag(20, "Steps of the sampler for the sample grids.")

    def __post_init__(self) -> None:
        require_at_least(self, 1, "num_reference_anchors", "num_samples", "num_inference_steps")
        require_at_least(self, 0, "encoder_learning_rate", "decoder_learning_rate")


ARGUMENTS = COMMON_ARGUMENTS | {"unconditional": UnconditionalArguments}


def main(argv: Sequence[str] | None = None) -> Path | None:
    """Trains by the command line `argv` (`None`: that of the process). Returns the model folder, `None` for a dry run."""
    # 1. Settings, data, model: everything is checked before anything is written.
    model_args, data_args, run, unconditional = parse_arguments(
        ARGUMENTS, PRESETS_DIR / "unconditional", argv, description=__doc__
    )
    remove_part(model_args, unconditional.baseline)
    setup = set_up_training(
        "train_unconditional",
        model_args,
        data_args,
        run,
        unconditional=unconditional,
        use_labels=False,
        check=partial(check_parts, baseline=unconditional.baseline),
    )
    if setup is None:
        return None

    # 2. Train. On the way, and at the end, the averaged weights draw samples and are validated.
    def draw(path: Path) -> None:
        save_samples(setup.model, path, unconditional, run.seed)

    evaluate = partial(validation_loss, setup)
    pooled_loss = None
    if unconditional.baseline == "none":
        weight = setup.model.config.reconstruction_weight
        images, loss = setup.draw_images, partial(pool_loss, setup)
        pooled_loss = PooledLoss(images, loss, reconstruction_weight=weight)
    compute_loss = partial(unconditional_loss, setup)
    loop = TrainingLoop(setup, learning_rates(unconditional), compute_loss, pooled_loss=pooled_loss)
    if run.dry_run:
        loop.time_steps()
        return None
    loop.fit(evaluate=evaluate, draw=draw, shown={"latent std": "latent_std"})

    # 3. The final folder: averaged weights, reference anchors, samples.
    num_anchors = unconditional.num_reference_anchors
    return save_final_folder(loop, evaluate=evaluate, draw=draw, num_reference_anchors=num_anchors)


def unconditional_loss(
    setup: TrainingSetup, model: nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator
) -> tuple[Tensor, Mapping[str, Tensor | None]]:
    """Computes the loss of a batch by the prepared model, and the metrics to log."""
    pixel_values = setup.draw_images(batch, generator, **setup.process_share)
    output = model(pixel_values, return_loss=True, generator=generator, pool_group=setup.pool_group)
    return output.loss, step_metrics(output.latents)


def pool_loss(
    setup: TrainingSetup,
    anchors: Tensor,
    labels: Tensor | None,
    generator: torch.Generator,
    reconstruct: Reconstruct,
) -> tuple[Tensor, Mapping[str, Tensor | None]]:
    """Computes the loss of a pool of several micro-batches, as [`unconditional_loss`] does for one.

    Args:
        setup ([`TrainingSetup`]): the run.
        anchors (`Tensor` of shape `(1, N, D)`): anchors of the images of the pool.
        labels (`Tensor` of shape `(N,)`, *optional*): their labels, which it does not use.
        generator (`torch.Generator`): draws the noise.
        reconstruct (`Callable`): the reconstruction loss of latents, see [`PooledLoss`].
    """
    losses = joint_losses(setup.model, anchors[0], None, reconstruct, generator=generator, group=setup.pool_group)
    return losses["loss"], step_metrics(losses["latents"])


def step_metrics(latents: Tensor | None) -> dict[str, Tensor | None]:
    """Returns statistics of the latents, if there are any: mean 0 and std 1 is ideal."""
    return {} if latents is None else {"latent_mean": latents.mean(), "latent_std": latents.std()}


def save_samples(model: LZNModel, path: Path, arguments: UnconditionalArguments, seed: int) -> None:
    """Saves a grid of generated images."""
    count, steps = arguments.num_samples, arguments.num_inference_steps
    images = generate_samples(model, seed, num_images_per_label=count, num_inference_steps=steps)
    image_grid(images, min(10, count)).save(path)


if __name__ == "__main__":
    run_as_script(main)
