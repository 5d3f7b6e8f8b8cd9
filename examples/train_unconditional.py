# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Train a model that generates, reconstructs and embeds images without labels: a Latent Zoning Network (arXiv 2509.15591).

    accelerate launch examples/train_unconditional.py                                     # digits, minutes on a CPU
    accelerate launch examples/train_unconditional.py --baseline rectified_flow           # the same decoder without latents
    accelerate launch examples/train_unconditional.py --preset afhq-cat --data_dir afhq/cat --dry_run  # the published settings
    accelerate launch examples/train_unconditional.py --data_dir my_images --image_size 64 --output_dir outputs/mine

The decoder learns the rectified flow from noise to images, given the latents of the images in training and prior noise at sampling.
Folders need no labels. `examples/README.md` explains data folders, several processes, resuming and fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from lzn_hf import LZNModel, LZNPipeline
from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.data.images import ImageData
from lzn_hf.losses_lzn import draw_noise, reconstruction_loss
from lzn_hf.modeling_lzn import evaluation_mode
from lzn_hf.training.arguments import (
    DataArguments,
    ModelArguments,
    RunArguments,
    parse_arguments,
    parse_overrides,
    require_at_least,
)
from lzn_hf.training.checkpoints import SAMPLES_DIR
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.models import model_parts
from lzn_hf.training.setup import save_final_folder, set_up_training
from lzn_hf.training.steps import encode_anchors
from lzn_hf.visualization.grids import image_grid


EVAL_BATCH_SIZE = 256


@dataclass
class UnconditionalArguments:
    """What is particular to training without labels."""

    _argument_group_name = "unconditional training"

    baseline: Literal["none", "rectified_flow"] = field(
        default="none",
        metadata={"help": "`rectified_flow`: train the decoder alone, without latents, as what to compare with."},
    )
    encoder_learning_rate: float = field(
        default=1e-3, metadata={"help": "Adam's learning rate for the image encoder."}
    )
    decoder_learning_rate: float = field(default=2e-3, metadata={"help": "... for the image decoder."})
    num_reference_anchors: int = field(
        default=2048, metadata={"help": "Training images (drawn by seed) whose anchors the model keeps for inference."}
    )
    num_samples: int = field(default=40, metadata={"help": "Images of a sample grid."})
    num_inference_steps: int = field(default=20, metadata={"help": "Steps of the sampler for the sample grids."})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "num_reference_anchors", "num_samples", "num_inference_steps")
        require_at_least(self, 0, "encoder_learning_rate", "decoder_learning_rate")


# By their section in a preset.
ARGUMENTS = {
    "model": ModelArguments,
    "data": DataArguments,
    "training": RunArguments,
    "unconditional": UnconditionalArguments,
}


def main(argv: Sequence[str] | None = None) -> Path | None:
    """Trains by the command line `argv` (None: the process's own). Returns the model folder, None for a dry run."""
    # 1. Settings, data, model: everything is checked before anything is written.
    presets_dir = Path(__file__).resolve().parent / "presets" / "unconditional"
    model_args, data_args, run, own = parse_arguments(ARGUMENTS, presets_dir, argv, description=__doc__)
    if own.baseline == "rectified_flow":
        if model_args.encoder_name_or_path is not None:
            raise ValueError(
                "`encoder_name_or_path` names an image encoder, and `--baseline rectified_flow` has none."
            )
        wanted = parse_overrides(model_args.config_overrides).get("encoder_type")
        if wanted is not None:
            raise ValueError(
                f"`config_overrides` ask for `encoder_type={wanted}`, and `--baseline rectified_flow` has no encoder."
            )
        if model_args.model_name_or_path is None:
            model_args.config["encoder_type"] = None
    setup = set_up_training(
        model_args, data_args, run, unconditional=own, use_labels=False, check=lambda model: check_model(model, own)
    )
    if setup is None:
        return None
    accelerator, data = setup.accelerator, setup.data

    # 2. Train.
    def compute_loss(model, batch, generator):
        pixel_values = to_pixel_values(
            batch["pixel_values"], flip=data_args.random_flip, shift=data_args.max_shift, generator=generator
        )
        output = model(pixel_values, return_loss=True, generator=generator)
        latents = output.latents
        metrics = {} if latents is None else {"latent_mean": latents.mean(), "latent_std": latents.std()}
        return output.loss, metrics

    def evaluate_and_draw(step: int) -> dict[str, float]:
        if accelerator.is_main_process:
            save_samples(loop.plain, Path(run.output_dir) / SAMPLES_DIR / f"step-{step:06d}.png", own, run.seed)
        return evaluate(accelerator, loop.plain, data, data_args, run)

    rates = {name: getattr(own, f"{name}_learning_rate") for name in model_parts(setup.model)}
    loop = TrainingLoop(accelerator, setup.model, setup.loader, run, rates, compute_loss)
    output_dir = loop.fit(
        setup.tracker,
        setup.settings,
        name="train_unconditional",
        checkpoint=setup.checkpoint,
        shown={"latent std": "latent_std"},
        evaluate=evaluate_and_draw,
    )

    # 3. The final folder: averaged weights, reference anchors, samples.
    def write(folder: Path) -> None:
        LZNPipeline.from_model(loop.plain).save_pretrained(folder)
        save_samples(loop.plain, folder / "samples.png", own, run.seed)

    with loop.ema.scope():
        metrics = evaluate(accelerator, loop.plain, data, data_args, run)
        if loop.plain.encoder is not None:
            batches = image_batches(data.train, EVAL_BATCH_SIZE, limit=own.num_reference_anchors, seed=run.seed)
            loop.plain.set_reference_anchors(encode_anchors(loop.plain, batches))
        save_final_folder(setup, loop, output_dir, metrics, write, data_args.hub_dataset)
    loop.close()
    return output_dir


def check_model(model: LZNModel, own: UnconditionalArguments) -> None:
    """Raises a ValueError for a model without decoder, or with or without encoder against what `--baseline` says."""
    if model.decoder is None:
        raise ValueError("train_unconditional.py trains an image decoder, but `decoder_type` of the model is None.")
    wanted = own.baseline == "none"
    if (model.encoder is not None) != wanted:
        raise ValueError(
            f"`baseline` {own.baseline} needs a model {'with' if wanted else 'without'} image encoder, but `encoder_type` of the model "
            f"is {model.config.encoder_type!r}."
        )


@torch.no_grad()
def evaluate(
    accelerator: Accelerator, model: LZNModel, data: ImageData, data_args: DataArguments, run: RunArguments
) -> dict[str, float]:
    """The training loss on the validation images, always with the same noise and times; empty without any images.

    The images of a batch are placed among each other, as in training.
    """
    if data.validation is None:
        return {}
    generator = torch.Generator(device=accelerator.device)
    total = torch.zeros(2, dtype=torch.float64)
    with evaluation_mode(model):
        # Every process looks at all images: the pools are those of one process, whatever the number of processes.
        for number, batch in enumerate(
            image_batches(data.validation, EVAL_BATCH_SIZE, limit=data_args.max_eval_samples, seed=run.seed)
        ):
            if len(batch["pixel_values"]) == 1:  # the last one alone has no pool
                continue
            pixel_values = to_pixel_values(batch["pixel_values"].to(accelerator.device))
            generator.manual_seed(number)
            loss = local_loss(model, pixel_values, generator)
            total += torch.tensor([loss * len(pixel_values), len(pixel_values)], dtype=torch.float64)
    return {"validation_loss": (total[0] / total[1]).item()} if total[1] else {}


def local_loss(model: LZNModel, pixel_values: Tensor, generator: torch.Generator) -> float:
    """The mean squared error of the velocity, with the images themselves as the pool. The model has no reference anchors."""
    latents = None if model.encoder is None else model.get_image_latents(pixel_values, generator=generator)
    noise = draw_noise(pixel_values, generator)
    return reconstruction_loss(
        model.predict_velocity, pixel_values, latents, sample_noise=noise, generator=generator
    ).item()


def save_samples(model: LZNModel, path: Path, own: UnconditionalArguments, seed: int) -> None:
    """Draws a grid of generated images, always from the same noise."""
    pipe = LZNPipeline.from_model(model)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        num_images_per_label=own.num_samples,
        num_inference_steps=own.num_inference_steps,
        generator=torch.Generator().manual_seed(seed),
    ).images
    path.parent.mkdir(exist_ok=True)
    image_grid(images, min(10, own.num_samples)).save(path)


if __name__ == "__main__":
    main()
