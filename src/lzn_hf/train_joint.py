# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Train one model that generates, classifies and embeds images: a joint Latent Zoning Network (arXiv 2509.15591).

    accelerate launch -m lzn_hf.train_joint                             # digits, minutes on a CPU
    accelerate launch -m lzn_hf.train_joint --preset cifar10 --dry_run  # the published settings: print, do not train
    accelerate launch -m lzn_hf.train_joint --data_dir my_images --image_size 32 --output_dir outputs/mine
    accelerate launch -m lzn_hf.train_joint --model_name_or_path outputs/mine --data_dir others --output_dir tuned
    accelerate launch -m lzn_hf.train_joint --baseline classifier       # the same encoder as a plain classifier, to compare with

`docs/your_own_data.md` explains data folders, `docs/training.md` several processes, resuming and fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lzn_hf import LZNModel, LZNOutput
from lzn_hf.evaluation.joint import linear_log_probs
from lzn_hf.losses_lzn import joint_losses
from lzn_hf.training.arguments import COMMON_ARGUMENTS, flag, learning_rates, require_at_least
from lzn_hf.training.baselines import Baseline, check_parts, classifier_loss, remove_part, validation_loss
from lzn_hf.training.command_line import run_as_script
from lzn_hf.training.final_folder import save_final_folder
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.parsing import PRESETS_DIR, parse_arguments
from lzn_hf.training.pools import PooledLoss, Reconstruct
from lzn_hf.training.setup import TrainingSetup, set_up_training
from lzn_hf.training.validation import generate_samples, measure_accuracy, reference_anchors
from lzn_hf.visualization.figures import draw_figure
from lzn_hf.visualization.grids import image_grid
from lzn_hf.visualization.reliability import plot_reliability


MAX_LABELS_SHOWN = 20  # rows of a sample grid
# Metrics beside the progress bar, under names so short that it fits in 80 columns.
SHOWN = {
    "recon": "reconstruction_loss",
    "align": "alignment_loss",
    "own": "own_label_share",
    "accuracy": "train_accuracy",
}


@dataclass
class JointArguments:
    """Settings of joint training alone."""

    _argument_group_name = "joint training"

    baseline: Literal["none", "rectified_flow", "classifier"] = flag(
        "none",
        "A specialist for comparison: `rectified_flow`, the decoder alone, given labels but no latents; or `classifier`, the "
        "encoder alone, with a linear layer on its anchors.",
    )
    encoder_learning_rate: float = flag(1e-3, "Adam's learning rate for the image encoder.")
    decoder_learning_rate: float = flag(2e-3, "... for the image decoder.")
    label_anchors_learning_rate: float = flag(1e-2, "... for the label anchors.")
    decoder_train_steps: int | None = flag(
        None, "Freeze the decoder and its average after this many steps; default: never."
    )
    num_reference_anchors: int = flag(
        2048, "Training images (drawn by seed) whose anchors the model keeps for inference."
    )
    samples_per_label: int = flag(10, "Columns of the sample grids.")
    num_inference_steps: int = flag(20, "Steps of the sampler for the sample grids.")

    def __post_init__(self) -> None:
        require_at_least(self, 1, "decoder_train_steps", "num_reference_anchors")
        require_at_least(self, 1, "samples_per_label", "num_inference_steps")
        require_at_least(self, 0, "encoder_learning_rate", "decoder_learning_rate", "label_anchors_learning_rate")


ARGUMENTS = COMMON_ARGUMENTS | {"joint": JointArguments}


def main(argv: Sequence[str] | None = None) -> Path | None:
    """Trains by the command line `argv` (`None`: that of the process). Returns the model folder, `None` for a dry run."""
    # 1. Settings, data, model: everything is checked before anything is written.
    model_args, data_args, run, joint = parse_arguments(ARGUMENTS, PRESETS_DIR / "joint", argv, description=__doc__)
    baseline = joint.baseline
    if baseline == "rectified_flow" and (joint.decoder_train_steps or run.max_train_steps) < run.max_train_steps:
        raise ValueError(
            f"`decoder_train_steps` {joint.decoder_train_steps} would leave nothing to train by `--baseline rectified_flow`: pass "
            f"`--max_train_steps {joint.decoder_train_steps}`."
        )
    remove_part(model_args, baseline)
    check = partial(check_parts, baseline=baseline)
    setup = set_up_training("train_joint", model_args, data_args, run, joint=joint, check=check)
    if setup is None:
        return None

    # 2. Train. On the way, and at the end, the averaged weights draw samples and are validated.
    def draw(path: Path) -> None:
        save_samples(setup.model, path, joint, run.seed)

    has_decoder = setup.model.decoder is not None
    outputs: dict[str, Any] = {"evaluate": partial(validate, setup, joint), "draw": draw if has_decoder else None}
    compute_loss = partial(joint_loss, setup, baseline=baseline)
    options: dict[str, Any] = {"freeze_after": {"decoder": joint.decoder_train_steps} if has_decoder else {}}
    if baseline == "none":
        weight = setup.model.config.reconstruction_weight
        images, loss = setup.draw_images, partial(pool_loss, setup)
        options["pooled_loss"] = PooledLoss(images, loss, reconstruction_weight=weight)
    loop = TrainingLoop(setup, learning_rates(joint), compute_loss, **options)
    if run.dry_run:
        loop.time_steps()
        return None
    loop.fit(**outputs, shown=SHOWN)

    # 3. The final folder: averaged weights, reference anchors, samples. A linear classifier has no zones to place images in.
    num_anchors = 0 if baseline == "classifier" else joint.num_reference_anchors
    return save_final_folder(
        loop, **outputs, num_reference_anchors=num_anchors, draw_reliability=partial(save_reliability, setup)
    )


def save_reliability(setup: TrainingSetup, bins: Sequence[Mapping[str, float]], path: Path) -> None:
    """Saves a picture of how often the model is right for how sure it is."""
    draw_figure(plot_reliability(bins, title=f"validation images of {setup.data.name}")).save(path)


def validate(setup: TrainingSetup, joint: JointArguments) -> dict[str, float]:
    """Computes the accuracy on the validation images, or the loss of a model that cannot classify; empty without images."""
    if setup.data.validation is None:
        return {}
    if joint.baseline == "rectified_flow":
        return validation_loss(setup)
    batches = setup.validation_batches(split_over_processes=True)
    if joint.baseline == "classifier":
        accuracy = measure_accuracy(setup.accelerator, setup.model, batches, partial(linear_log_probs, setup.model))
    else:
        with reference_anchors(setup.model, setup.encode_train_anchors(joint.num_reference_anchors)):
            accuracy = measure_accuracy(setup.accelerator, setup.model, batches, setup.model.classify_images)
    return {"validation_accuracy": accuracy}


def joint_loss(
    setup: TrainingSetup,
    model: nn.Module,
    batch: Mapping[str, Tensor],
    generator: torch.Generator,
    baseline: Baseline = "none",
) -> tuple[Tensor, Mapping[str, Tensor | None]]:
    """Computes the loss of a batch by the prepared model, and the metrics to log.

    Args:
        setup ([`TrainingSetup`]): the run.
        model (`nn.Module`): the model as accelerate has prepared it.
        batch (`Mapping[str, Tensor]`): `pixel_values`, uint8 `(B, C, H, W)`, and `labels` `(B,)`.
        generator (`torch.Generator`): draws flips, shifts, noise and times.
        baseline (`str`, *optional*, defaults to `"none"`): the specialist that is trained, if any.
    """
    pixel_values = setup.draw_images(batch, generator, **setup.process_share)
    if baseline == "classifier":
        return classifier_loss(model(pixel_values).anchors, setup.model.require_label_anchors(), batch["labels"])
    output = model(pixel_values, labels=batch["labels"], generator=generator, pool_group=setup.pool_group)
    if baseline == "rectified_flow":
        return output.loss, {}
    return output.loss, step_metrics(setup.model, output, batch["labels"])


def pool_loss(
    setup: TrainingSetup,
    anchors: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    reconstruct: Reconstruct,
) -> tuple[Tensor, Mapping[str, Tensor | None]]:
    """Computes the loss of a pool of several micro-batches, as [`joint_loss`] does for one.

    Args:
        setup ([`TrainingSetup`]): the run.
        anchors (`Tensor` of shape `(1, N, D)`): anchors of the images of the pool.
        labels (`Tensor` of shape `(N,)`): their labels.
        generator (`torch.Generator`): draws the noise.
        reconstruct (`Callable`): the reconstruction loss of latents, see [`PooledLoss`].
    """
    model, group = setup.model, setup.pool_group
    decoder_loss = None if model.decoder is None else reconstruct
    output = LZNOutput(**joint_losses(model, anchors[0], labels, decoder_loss, generator=generator, group=group))
    return output["loss"], step_metrics(model, output, labels)


def step_metrics(model: LZNModel, output: LZNOutput, labels: Tensor) -> dict[str, Tensor | None]:
    """Returns the terms of the loss, and statistics of the latents: mean 0, std 1 and in the zones of their labels is ideal."""
    latents = output["latents"]
    with torch.no_grad():
        assigned = model.classify_latents(latents.detach()).argmax(-1)
    return {
        "reconstruction_loss": output.reconstruction_loss,
        "alignment_loss": output.alignment_loss,
        "latent_mean": latents.mean(),
        "latent_std": latents.std(),
        "own_label_share": (assigned == labels).float().mean(),
    }


def save_samples(model: LZNModel, path: Path, joint: JointArguments, seed: int) -> None:
    """Saves a grid with one row of generated images per label."""
    labels = list(range(model.config.num_labels))[:MAX_LABELS_SHOWN]
    columns, steps = joint.samples_per_label, joint.num_inference_steps
    images = generate_samples(model, seed, label=labels, num_images_per_label=columns, num_inference_steps=steps)
    image_grid(images, columns, row_labels=[model.config.id2label[label] for label in labels]).save(path)


if __name__ == "__main__":
    run_as_script(main)
