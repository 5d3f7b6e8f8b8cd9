# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Train a small image classifier as feature extractor for the metrics of generated images, where the Inception network is
not available or does not fit the data: a ResNet of transformers, saved as a folder.

    python examples/train_metric_features.py --dataset_name digits
    python examples/train_metric_features.py --dataset_name fashion-mnist --data_dir DIR --random_flip

`lzn_hf.evaluation.features.load_feature_extractor` opens the folder; so do `AutoModelForImageClassification` and
`pipeline("image-classification")`. Distances on its features are comparable only with each other: report its name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from huggingface_hub import ModelCard, ModelCardData
from tqdm.auto import tqdm
from transformers import ResNetConfig, ResNetForImageClassification
from transformers.models.vit import ViTImageProcessorPil

from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.evaluation.cards import evaluation_results
from lzn_hf.evaluation.features import process_images
from lzn_hf.evaluation.results import write_json
from lzn_hf.modeling_lzn import evaluation_mode
from lzn_hf.training.arguments import DataArguments, argument_values, require_at_least
from lzn_hf.training.batches import endless_batches, load_data, make_train_loader
from lzn_hf.training.command_line import parse_command_line, run_as_script
from lzn_hf.training.processes import check_num_processes


logger = logging.getLogger(__name__)

NUM_CHANNELS = 3  # of the network, which takes grey images repeated
EVAL_BATCH_SIZE = 256

CARD = """---
{metadata}
---

# {name}

A small residual network (`ResNetForImageClassification`, {parameters:,} parameters) trained on {dataset} by
`examples/train_metric_features.py` of lzn_hf. Its {features} features serve to compare generated images with real ones;
distances on them are comparable only with distances on the features of the same network.

Accuracy on {held_out:,} held-out images: {accuracy:.4f}.

```py
from lzn_hf.evaluation.features import load_feature_extractor

extractor = load_feature_extractor("path/of/this/folder")
features = extractor.features(pixel_values)  # (N, C, H, W) in [-1, 1] -> (N, {features})
```

How it was trained: `training_settings.json`.
"""


@dataclass
class FeatureArguments:
    """The network and its training."""

    _argument_group_name = "features"

    output_dir: str = field(
        default="outputs/metric_features", metadata={"help": "Folder to write: a new one, or an empty one."}
    )
    hidden_sizes: list[int] = field(
        default_factory=lambda: [32, 64, 128],
        metadata={"help": "Channels of the stages; those of the last are the features."},
    )
    depth: int = field(default=1, metadata={"help": "Residual blocks per stage."})
    input_size: int | None = field(
        default=None,
        metadata={
            "help": "Height and width that images are resized to; default: twice their size, from 32 to 224, as the "
            "first layers reduce them to a quarter."
        },
    )
    seed: int = field(default=0, metadata={"help": "Decides the initial weights and the order of images."})
    batch_size: int = field(default=128, metadata={"help": "Images per step."})
    max_train_steps: int = field(default=1200, metadata={"help": "Optimizer steps."})
    learning_rate: float = field(
        default=3e-3, metadata={"help": "Highest learning rate of AdamW in the one-cycle schedule."}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW."})
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Fraction of a label that is spread over all labels."}
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "depth", "batch_size", "max_train_steps")
        require_at_least(self, 32, "input_size")
        require_at_least(self, 0, "seed", "learning_rate", "weight_decay", "label_smoothing")
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise ValueError(f"`hidden_sizes` must be one or more numbers of channels, but is {self.hidden_sizes}.")
        if self.label_smoothing > 1:
            raise ValueError(f"`label_smoothing` must be at most 1, but is {self.label_smoothing}.")


def main(argv: Sequence[str] | None = None) -> Path:
    """Trains by the command line `argv` (None: that of the process). Returns the folder."""
    # 1. Settings and data: check everything before anything is written.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    data_args, args = parse_command_line([DataArguments, FeatureArguments], argv, __doc__)
    output_dir = Path(args.output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"`output_dir` {output_dir} must be a new or empty folder.")
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=args.seed),
    )
    check_num_processes(accelerator.num_processes)
    if accelerator.num_processes > 1:
        raise ValueError(f"this network is trained by one process, but there are {accelerator.num_processes}.")
    data = load_data(accelerator, data_args)
    if data.validation is None:
        raise ValueError("`validation_fraction` must be above 0: a feature extractor needs a held-out accuracy.")
    loader = make_train_loader(data.train, args.batch_size, 1, data_args.num_workers)

    # 2. The network and its image processor.
    set_seed(args.seed)
    side = args.input_size or min(max(32, 2 * data.image_size), 224)
    processor = ViTImageProcessorPil(
        size={"height": side, "width": side},
        image_mean=[0.5] * NUM_CHANNELS,
        image_std=[0.5] * NUM_CHANNELS,
        do_convert_rgb=True,
    )
    config = ResNetConfig(
        num_channels=NUM_CHANNELS,
        embedding_size=args.hidden_sizes[0],
        hidden_sizes=args.hidden_sizes,
        depths=[args.depth] * len(args.hidden_sizes),
        layer_type="basic",
        id2label=dict(enumerate(data.label_names)),
        label2id={name: number for number, name in enumerate(data.label_names)},
    )
    model = ResNetForImageClassification(config).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate, weight_decay=args.weight_decay, fused=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, args.max_train_steps)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=args.label_smoothing)

    # 3. The loop.
    generator = torch.Generator(device=accelerator.device).manual_seed(args.seed)
    batches = iter(endless_batches(loader))
    progress = tqdm(range(args.max_train_steps), desc="train")
    model.train()
    for step in progress:
        batch = next(batches)
        images = to_pixel_values(
            batch["pixel_values"], flip=data_args.random_flip, shift=data_args.max_shift, generator=generator
        )
        logits = model(process_images(images, processor, NUM_CHANNELS)).logits
        loss = criterion(logits, batch["labels"])
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.4g}")

    # 4. The folder.
    accuracy, held_out = measure_accuracy(model, processor, data.validation, data_args.max_eval_samples)
    config.feature_extractor_name = f"small ResNet classifier, {data.name}, accuracy {accuracy:.3f}"
    settings = {"data": argument_values(data_args), "features": {**argument_values(args), "input_size": side}}
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    write_json(output_dir / "training_settings.json", {**settings, "held_out_accuracy": accuracy})
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["feature-extractor", "lzn"],
        datasets=[data_args.hub_dataset] if data_args.hub_dataset else None,
        model_name=config.feature_extractor_name,
        eval_results=evaluation_results(
            "image-classification",
            data.name,
            [("accuracy", None, round(accuracy, 4))],
            hub_dataset=data_args.hub_dataset,
        ),
    )
    card = CARD.format(
        metadata=metadata.to_yaml(),
        name=config.feature_extractor_name,
        parameters=model.num_parameters(),
        dataset=data.name,
        features=args.hidden_sizes[-1],
        held_out=held_out,
        accuracy=accuracy,
    )
    ModelCard(card).save(output_dir / "README.md")
    logger.info(f"Saved {config.feature_extractor_name} to {output_dir}")
    return output_dir


def measure_accuracy(
    model: ResNetForImageClassification, processor: ViTImageProcessorPil, validation, limit: int | None
) -> tuple[float, int]:
    """Accuracy on held-out images, and their number."""
    correct = total = 0
    with evaluation_mode(model):
        for batch in image_batches(validation, EVAL_BATCH_SIZE, limit=limit):
            images = to_pixel_values(batch["pixel_values"].to(model.device))
            logits = model(process_images(images, processor, NUM_CHANNELS)).logits
            correct += (logits.argmax(1).cpu() == batch["labels"]).sum().item()
            total += len(images)
    return correct / total, total


if __name__ == "__main__":
    run_as_script(main)
