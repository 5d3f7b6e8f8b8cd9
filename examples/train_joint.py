# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Train one model that generates, classifies and embeds images: a joint Latent Zoning Network (arXiv 2509.15591).

    accelerate launch examples/train_joint.py                             # digits, minutes on a CPU
    accelerate launch examples/train_joint.py --preset cifar10 --dry_run  # the published settings: print, do not train
    accelerate launch examples/train_joint.py --data_dir my_images --image_size 32 --output_dir outputs/mine
    accelerate launch examples/train_joint.py --model_name_or_path outputs/mine --data_dir others --output_dir tuned

`examples/README.md` explains data folders, several processes, resuming and fine-tuning.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import set_seed
from torch import Tensor
from tqdm.auto import tqdm

from lzn_hf import LZNModel, LZNOutput, LZNPipeline
from lzn_hf.checkpoints_lzn import (
    METRICS_FILE,
    SAMPLES_DIR,
    JSONLinesTracker,
    check_resume,
    create_hub_repo,
    files_of,
    find_checkpoint,
    load_checkpoint,
    prepare_output_dir,
    save_checkpoint,
    upload_model,
)
from lzn_hf.data_lzn import ImageData, to_pixel_values
from lzn_hf.model_card_lzn import make_model_card
from lzn_hf.plotting_lzn import image_grid
from lzn_hf.training_arguments_lzn import (
    SETTINGS_FILE,
    DataArguments,
    ModelArguments,
    RunArguments,
    describe_run,
    parse_arguments,
    require_at_least,
    resolve_settings,
    write_json,
)
from lzn_hf.training_lzn import (
    EndlessBatches,
    MetricAverager,
    NonFiniteGuard,
    encode_anchors,
    image_batches,
    load_data,
    make_scheduler,
    make_train_loader,
    measure_accuracy,
    micro_batch_size,
    reference_anchors,
    seed_micro_batch,
    start_accelerator,
)
from lzn_hf.training_models_lzn import PartwiseEMA, build_model, freeze_part, model_parts


logger = get_logger(__name__)

EVAL_BATCH_SIZE = 256
MAX_LABELS_SHOWN = 20  # rows of a sample grid
# Metrics beside the progress bar, under shorter names.
SHOWN = {"reconstruction": "reconstruction_loss", "alignment": "alignment_loss", "own_label": "own_label_share"}
SHOWN |= {"images/s": "images_per_second"}


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
    # 1. Settings, data, model: check everything before anything is written.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    presets_dir = Path(__file__).resolve().parent / "presets"
    model_args, data_args, run, joint = parse_arguments(ARGUMENTS, presets_dir, argv, description=__doc__)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line for each request to the Hub
    transformers.utils.logging.disable_progress_bar()  # of writing weights, in the middle of the bar of the training
    tracker = JSONLinesTracker(Path(run.output_dir) / METRICS_FILE)
    accelerator = start_accelerator(run, trackers=[tracker])
    checkpoint = None if run.dry_run else find_checkpoint(run)
    data = load_data(accelerator, data_args)
    set_seed(run.seed)
    model = build_model(
        model_args.config,
        image_size=data.image_size,
        num_channels=data.num_channels,
        label_names=data.label_names,
        pretrained=model_args.model_name_or_path,
    )
    if model.decoder is None:
        raise ValueError(
            "train_joint.py trains an image decoder beside the encoder, but `decoder_type` of the model is None."
        )
    # Where convolutions are fastest; the weights are the same.
    model.to(memory_format=torch.channels_last)
    settings = resolve_settings(model.config, data=data_args, training=run, joint=joint)
    batch_size = micro_batch_size(run, accelerator.num_processes)
    loader = make_train_loader(data.train, batch_size, accelerator.num_processes, data_args.num_workers)
    if run.dry_run:
        accelerator.print(describe_run(settings, model_parts(model), data, run, accelerator.num_processes))
        return None
    if checkpoint:
        check_resume(checkpoint, settings)
    model_id = create_hub_repo(accelerator, run) if run.push_to_hub else run.output_dir

    # 2. Optimisation: each part has its own learning rate and its own moving average.
    output_dir = prepare_output_dir(accelerator, run)
    groups = (
        {"name": name, "params": parameters, "lr": getattr(joint, f"{name}_learning_rate")}
        for name, parameters in model_parts(model).items()
    )
    optimizer = torch.optim.Adam(groups, fused=True)
    scheduler = make_scheduler(optimizer, run)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    plain = accelerator.unwrap_model(model)  # the same weights without the wrapper of several processes
    ema = PartwiseEMA(model_parts(plain), run.ema_decay)
    batches = EndlessBatches(loader)
    guard = NonFiniteGuard(run.max_nonfinite_steps)
    stateful = {"optimizer": optimizer, "scheduler": scheduler, "ema": ema, "batches": batches, "guard": guard}
    if accelerator.scaler is not None:
        stateful["scaler"] = accelerator.scaler
    step = load_checkpoint(checkpoint, plain, stateful) if checkpoint else 0
    if accelerator.is_main_process:
        tracker.rewind(step)
    accelerator.init_trackers("train_joint")

    # 3. The loop.
    logger.info(f"Steps {step} to {run.max_train_steps}, {run.total_batch_size} images each, {batch_size} at once.")
    progress = tqdm(initial=step, total=run.max_train_steps, disable=not accelerator.is_main_process, desc="train")
    generator = torch.Generator(device=accelerator.device)
    batch_iterator, averages = iter(batches), MetricAverager(run.total_batch_size)
    decoder_is_frozen = False
    plain.train()
    while step < run.max_train_steps:
        if not decoder_is_frozen and joint.decoder_train_steps is not None and step >= joint.decoder_train_steps:
            model = freeze_part(accelerator, model, optimizer, "decoder")
            decoder_is_frozen = True
        for micro_batch in range(run.gradient_accumulation_steps):
            batch = next(batch_iterator)
            seed_micro_batch(generator, run.seed, step, micro_batch, accelerator.process_index)
            with accelerator.accumulate(model):
                pixel_values = to_pixel_values(
                    batch["pixel_values"], flip=data_args.random_flip, shift=data_args.max_shift, generator=generator
                )
                output = model(pixel_values, labels=batch["labels"], generator=generator)
                accelerator.backward(output.loss)
                guard.watch(output.loss)
                averages.add(**step_metrics(plain, output, batch["labels"]))
                if accelerator.sync_gradients:
                    grad_norm = accelerator.clip_grad_norm_(model.parameters(), run.max_grad_norm)
                    step_is_finite = guard.step_is_finite(accelerator, grad_norm)
                    if step_is_finite:
                        optimizer.step()
                        scheduler.step()
                        ema.step()
                    averages.end_step(keep=step_is_finite)
                optimizer.zero_grad()
        step += 1
        progress.update()

        if step % run.logging_steps == 0 or step == run.max_train_steps:
            metrics = averages.compute(accelerator)
            progress.set_postfix({short: f"{metrics[name]:.4g}" for short, name in SHOWN.items() if name in metrics})
            rates = {f"{group['name']}_learning_rate": group["lr"] for group in optimizer.param_groups}
            accelerator.log({**metrics, **rates, "nonfinite_steps": guard.total}, step=step)
        if run.checkpointing_steps and step % run.checkpointing_steps == 0:
            save_checkpoint(accelerator, output_dir, step, plain, stateful, settings, run.checkpoints_total_limit)
        if run.eval_steps and step % run.eval_steps == 0 and step < run.max_train_steps:
            with ema.scope(), reference_anchors(plain, anchors_of_training_images(plain, data, run, joint)):
                accelerator.log(evaluate(accelerator, plain, data, data_args, run), step=step)
                if accelerator.is_main_process:
                    save_samples(plain, output_dir / SAMPLES_DIR / f"step-{step:06d}.png", joint, run.seed)
            averages.restart_clock()
    progress.close()

    # 4. The final folder: averaged weights, reference anchors, model card.
    with ema.scope():
        plain.set_reference_anchors(anchors_of_training_images(plain, data, run, joint))
        evaluation = evaluate(accelerator, plain, data, data_args, run)
        accelerator.log(evaluation, step=step)
        if accelerator.is_main_process:
            card = make_model_card(
                plain.config,
                model_id=model_id,
                dataset=data.name,
                metrics=evaluation,
                settings=settings,
                parameters=plain.num_parameters(),
                hub_dataset=data_args.hub_dataset,
            )
            with files_of(output_dir) as folder:
                LZNPipeline.from_model(plain).save_pretrained(folder)
                card.save(folder / "README.md")
                write_json(folder / SETTINGS_FILE, settings)
                save_samples(plain, folder / "samples.png", joint, run.seed)
            logger.info(f"Saved the model to {output_dir}: {evaluation}")
            if run.push_to_hub:
                logger.info(f"Uploaded the model to {upload_model(output_dir, model_id)}")
    # The wrapper goes before the process group does: as the group's last owner it would wait, holding Python's lock, for a thread
    # of gloo that may need that lock (https://github.com/pytorch/pytorch/issues/56297).
    del model
    accelerator.free_memory()
    accelerator.end_training()
    return output_dir


def step_metrics(model: LZNModel, output: LZNOutput, labels: Tensor) -> dict[str, Tensor | None]:
    """The loss and its parts; and the latents, which should have mean 0, std 1 and lie in their labels' zones."""
    with torch.no_grad():
        assigned = model.classify_latents(output.latents.detach()).argmax(-1)
    return {
        "loss": output.loss,
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
