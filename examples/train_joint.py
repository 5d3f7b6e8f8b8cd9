# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Train one model that generates, classifies and embeds images: a joint Latent Zoning Network (arXiv 2509.15591).

    accelerate launch examples/train_joint.py                             # digits, minutes on a CPU
    accelerate launch examples/train_joint.py --preset cifar10 --dry_run  # the published settings: print, do not train
    accelerate launch examples/train_joint.py --data_dir my_images --image_size 32 --output_dir outputs/mine
    accelerate launch examples/train_joint.py --model_name_or_path outputs/mine --data_dir others --output_dir tuned

`examples/README.md` explains data folders, several processes, resuming and fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from lzn_hf import LZNModel, LZNOutput, LZNPipeline
from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.data.images import ImageData
from lzn_hf.training.arguments import DataArguments, ModelArguments, RunArguments, parse_arguments, require_at_least
from lzn_hf.training.checkpoints import SAMPLES_DIR
from lzn_hf.training.loop import TrainingLoop
from lzn_hf.training.models import model_parts
from lzn_hf.training.setup import save_final_folder, set_up_training
from lzn_hf.training.steps import encode_anchors, measure_accuracy, reference_anchors
from lzn_hf.visualization.grids import image_grid


EVAL_BATCH_SIZE = 256
MAX_LABELS_SHOWN = 20  # rows of a sample grid
# Metrics beside the progress bar, under shorter names.
SHOWN = {"reconstruction": "reconstruction_loss", "alignment": "alignment_loss", "own_label": "own_label_share"}


@dataclass
class JointArguments:
    """What is particular to joint training."""

    _argument_group_name = "joint training"

    encoder_learning_rate: float = field(
        default=1e-3, metadata={"help": "Adam's learning rate for the image encoder."}
    )
    decoder_learning_rate: float = field(default=2e-3, metadata={"help": "... for the image decoder."})
    label_anchors_learning_rate: float = field(default=1e-2, metadata={"help": "... for the label anchors."})
    decoder_train_steps: int | None = field(
        default=None, metadata={"help": "Freeze the decoder and its average after this many steps; default: never."}
    )
    num_reference_anchors: int = field(
        default=2048, metadata={"help": "Training images (drawn by seed) whose anchors the model keeps for inference."}
    )
    samples_per_label: int = field(default=10, metadata={"help": "Columns of the sample grids."})
    num_inference_steps: int = field(default=20, metadata={"help": "Steps of the sampler for the sample grids."})

    def __post_init__(self) -> None:
        require_at_least(
            self, 1, "decoder_train_steps", "num_reference_anchors", "samples_per_label", "num_inference_steps"
        )
        require_at_least(self, 0, "encoder_learning_rate", "decoder_learning_rate", "label_anchors_learning_rate")


# By their section in a preset.
ARGUMENTS = {"model": ModelArguments, "data": DataArguments, "training": RunArguments, "joint": JointArguments}


def main(argv: Sequence[str] | None = None) -> Path | None:
    """Trains by the command line `argv` (None: the process's own). Returns the model folder, None for a dry run."""
    # 1. Settings, data, model: everything is checked before anything is written.
    presets_dir = Path(__file__).resolve().parent / "presets" / "joint"
    model_args, data_args, run, joint = parse_arguments(ARGUMENTS, presets_dir, argv, description=__doc__)
    setup = set_up_training(model_args, data_args, run, joint=joint, check=check_model)
    if setup is None:
        return None
    accelerator, data = setup.accelerator, setup.data

    # 2. Train.
    def compute_loss(model, batch, generator):
        return joint_loss(model, loop.plain, batch, generator, data_args)

    def evaluate_and_draw(step: int) -> dict[str, float]:
        with reference_anchors(loop.plain, anchors_of_training_images(loop.plain, data, run, joint)):
            if accelerator.is_main_process:
                save_samples(loop.plain, Path(run.output_dir) / SAMPLES_DIR / f"step-{step:06d}.png", joint, run.seed)
            return evaluate(accelerator, loop.plain, data, data_args, run)

    rates = {name: getattr(joint, f"{name}_learning_rate") for name in model_parts(setup.model)}
    loop = TrainingLoop(
        accelerator,
        setup.model,
        setup.loader,
        run,
        rates,
        compute_loss,
        freeze_after={"decoder": joint.decoder_train_steps},
    )
    output_dir = loop.fit(
        setup.tracker,
        setup.settings,
        name="train_joint",
        checkpoint=setup.checkpoint,
        shown=SHOWN,
        evaluate=evaluate_and_draw,
    )

    # 3. The final folder: averaged weights, reference anchors, samples.
    def write(folder: Path) -> None:
        LZNPipeline.from_model(loop.plain).save_pretrained(folder)
        save_samples(loop.plain, folder / "samples.png", joint, run.seed)

    with loop.ema.scope():
        loop.plain.set_reference_anchors(anchors_of_training_images(loop.plain, data, run, joint))
        metrics = evaluate(accelerator, loop.plain, data, data_args, run)
        save_final_folder(setup, loop, output_dir, metrics, write, data_args.hub_dataset)
    loop.close()
    return output_dir


def check_model(model: LZNModel) -> None:
    """Raises a ValueError for a model that has no image decoder or no image encoder."""
    for part in ("encoder", "decoder"):
        if getattr(model, part) is None:
            raise ValueError(
                f"train_joint.py trains an image encoder and an image decoder, but `{part}_type` of the model is None."
            )


def joint_loss(
    model: torch.nn.Module,
    plain: LZNModel,
    batch: Mapping[str, Tensor],
    generator: torch.Generator,
    data_args: DataArguments,
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """The loss of a batch and what to log, by a model that may be wrapped; `plain` is the same without the wrapper."""
    pixel_values = to_pixel_values(
        batch["pixel_values"], flip=data_args.random_flip, shift=data_args.max_shift, generator=generator
    )
    output = model(pixel_values, labels=batch["labels"], generator=generator)
    return output.loss, step_metrics(plain, output, batch["labels"])


def step_metrics(model: LZNModel, output: LZNOutput, labels: Tensor) -> dict[str, Tensor | None]:
    """The parts of the loss; and the latents, which should have mean 0, std 1 and lie in their labels' zones."""
    with torch.no_grad():
        assigned = model.classify_latents(output.latents.detach()).argmax(-1)
    return {
        "reconstruction_loss": output.reconstruction_loss,
        "alignment_loss": output.alignment_loss,
        "latent_mean": output.latents.mean(),
        "latent_std": output.latents.std(),
        "own_label_share": (assigned == labels).float().mean(),
    }


def anchors_of_training_images(model: LZNModel, data: ImageData, run: RunArguments, joint: JointArguments) -> Tensor:
    """Anchors `(N, D)` of training images drawn by the seed, the same on every process."""
    batches = image_batches(data.train, EVAL_BATCH_SIZE, limit=joint.num_reference_anchors, seed=run.seed)
    return encode_anchors(model, batches)


def evaluate(
    accelerator: Accelerator, model: LZNModel, data: ImageData, data_args: DataArguments, run: RunArguments
) -> dict[str, float]:
    """Accuracy on the validation images; empty without any. The model must have reference anchors."""
    if data.validation is None:
        return {}
    batches = image_batches(
        data.validation,
        EVAL_BATCH_SIZE,
        limit=data_args.max_eval_samples,
        seed=run.seed,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    return {"validation_accuracy": measure_accuracy(accelerator, model, batches)}


def save_samples(model: LZNModel, path: Path, joint: JointArguments, seed: int) -> None:
    """Draws a grid with a row of generated images for each label, always from the same noise."""
    pipe = LZNPipeline.from_model(model)
    pipe.set_progress_bar_config(disable=True)
    labels = list(range(model.config.num_labels))[:MAX_LABELS_SHOWN]
    images = pipe(
        label=labels,
        num_images_per_label=joint.samples_per_label,
        num_inference_steps=joint.num_inference_steps,
        generator=torch.Generator().manual_seed(seed),
    ).images
    path.parent.mkdir(exist_ok=True)
    names = [model.config.id2label[label] for label in labels]
    image_grid(images, joint.samples_per_label, row_labels=names).save(path)


if __name__ == "__main__":
    main()
