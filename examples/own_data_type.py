# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A data type of your own beside images: here the row sums of digits, eight numbers of ink from the top to the bottom.

    python examples/own_data_type.py --output_dir outputs/row-sums

A data type is an encoder that gives anchors. Write it as a model of transformers, register it with `AutoConfig` and `AutoModel`, and name it
in `LZNConfig.data_types`: it is trained, saved and loaded with the rest of the model. The script trains images and row sums in one latent
space, generates images for the row sums of digits that it never saw, and prints how near their row sums come. Then it does the reverse:
which of the row sums belongs to an image? `docs/your_own_data_type.md` explains each part.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lzn_hf import LZNConfig, LZNModel, LZNPipeline
from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.data.images import load_image_data
from lzn_hf.evaluation.results import write_json
from lzn_hf.modeling_lzn import evaluation_mode
from lzn_hf.training.arguments import require_at_least
from lzn_hf.training.command_line import parse_command_line, run_as_script


class RowSumsConfig(PreTrainedConfig):
    """The configuration of the encoder: how many numbers it takes, and its width, which must be called `hidden_size`."""

    model_type = "row_sums"
    num_values: int = 8
    hidden_size: int = 128


class RowSumsModel(PreTrainedModel):
    """The encoder: numbers `(B, num_values)` to features `(B, hidden_size)`. The projection to the anchor is added by [`LZNModel`]."""

    config_class = RowSumsConfig

    def __init__(self, config: RowSumsConfig):
        super().__init__(config)
        self.layers = nn.Sequential(
            nn.Linear(config.num_values, config.hidden_size),
            nn.SiLU(),
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.SiLU(),
        )
        self.post_init()

    def forward(self, values: Tensor) -> BaseModelOutputWithPooling:
        """Encodes numbers; the argument is what `LZNModel` takes them as."""
        return BaseModelOutputWithPooling(pooler_output=self.layers(values))


AutoConfig.register("row_sums", RowSumsConfig, exist_ok=True)
AutoModel.register(RowSumsConfig, RowSumsModel, exist_ok=True)


@dataclass
class RowSumsArguments:
    """How long to train, and where to write."""

    _argument_group_name = "row sums"

    output_dir: str = field(default="outputs/row-sums", metadata={"help": "Folder of the model and its numbers."})
    max_train_steps: int = field(default=1200, metadata={"help": "Optimizer steps."})
    batch_size: int = field(default=128, metadata={"help": "Images of a step."})
    seed: int = field(default=0, metadata={"help": "Decides everything random."})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "max_train_steps")
        require_at_least(self, 2, "batch_size")


def make_model() -> LZNModel:
    """Builds a small model of digits and row sums."""
    small = {"channel_multipliers": [1, 2], "num_res_blocks": 1, "attention_resolutions": []}
    networks = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in small.items()}
    config = LZNConfig(
        image_size=8,
        num_channels=1,
        latent_dim=64,
        encoder_base_channels=16,
        decoder_base_channels=32,
        encoder_tap_channels=4,
        encoder_tap_hidden_dim=32,
        decoder_dropout=0.0,
        alignment_end=0.2,
        alignment_noise_scales=[1.0, 0.3],
        alignment_reduction="mean_log_prob",
        data_types={"row_sums": {"model_type": "row_sums"}},
        **networks,
    )
    return LZNModel(config)


def row_sums(pixel_values: Tensor) -> Tensor:
    """Returns the mean ink `(B, 8)` of each row of images `(B, 1, 8, 8)` in [-1, 1]."""
    return pixel_values.mean((1, 3))


def train(model: LZNModel, images: Tensor, args: RowSumsArguments) -> None:
    """Trains the model on images `(N, 1, 8, 8)` and their row sums."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.max_train_steps)
    generator = torch.Generator().manual_seed(args.seed)
    model.train()
    for _ in tqdm(range(args.max_train_steps)):
        batch = images[torch.randperm(len(images), generator=generator)[: args.batch_size]]
        # The row sums of an image belong to it: its latent is trained to lie in their zone.
        loss = model(batch, data_types={"row_sums": {"values": row_sums(batch)}}).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    # Single images and single samples are placed among these.
    with evaluation_mode(model):
        model.set_reference_anchors(model.get_image_anchors(images))
        model.set_type_reference_anchors("row_sums", model.get_type_anchors("row_sums", values=row_sums(images)))


def measure(model: LZNModel, images: Tensor, seed: int) -> dict[str, float]:
    """Measures both directions on images that training did not see.

    Returns:
        `dict[str, float]`: root mean square error of the row sums of generated images, `requested`, beside that to those of `another` image;
            and the share of images whose own row sums are the most probable of all, `retrieved`, and among the first five.
    """
    wanted, generator = row_sums(images), torch.Generator().manual_seed(seed)
    with evaluation_mode(model):
        latents = model.get_type_latents("row_sums", values=wanted, generator=generator)
        pipe = LZNPipeline.from_model(model)
        pipe.set_progress_bar_config(disable=True)
        made = 2 * pipe(latents=latents, generator=generator, output_type="pt").images - 1
        candidates = model.get_type_anchors("row_sums", values=wanted)
        log_probs = model.compare_images(model.get_image_anchors(images), candidates)
    own = torch.arange(len(images))
    ranks = (log_probs >= log_probs[own, own][:, None]).sum(1) - 1  # equal scores count as better
    return {
        "requested": (row_sums(made) - wanted).square().mean().sqrt().item(),
        "another": (row_sums(made) - wanted.roll(1, 0)).square().mean().sqrt().item(),
        "retrieved": (ranks == 0).float().mean().item(),
        "among_5": (ranks < 5).float().mean().item(),
    }


def main(argv: Sequence[str] | None = None) -> Path:
    """Trains, measures and saves by the command line `argv` (`None`: that of the process). Returns the folder."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    (args,) = parse_command_line([RowSumsArguments], argv, __doc__)
    torch.manual_seed(args.seed)
    data = load_image_data("digits")
    splits = [data.train, data.validation]
    training, held_out = (
        torch.cat([to_pixel_values(batch["pixel_values"]) for batch in image_batches(split, 512)]) for split in splits
    )
    model = make_model()
    train(model, training, args)
    folder = Path(args.output_dir)
    LZNPipeline.from_model(model).save_pretrained(folder)
    # As everybody opens it who has imported this file.
    model = AutoModel.from_pretrained(folder)
    results = measure(model, held_out, args.seed)
    write_json(folder / "row_sums.json", results)
    print(
        f"Row sums of generated images, root mean square error: {results['requested']:.3f} to those that were asked for,"
    )
    print(f"  {results['another']:.3f} to those of another image. {len(held_out)} images that training did not see.")
    print(
        f"The row sums of an image among those of all: first in {results['retrieved']:.0%}, in the first five in {results['among_5']:.0%}."
    )
    return folder


if __name__ == "__main__":
    run_as_script(main)
