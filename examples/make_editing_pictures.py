# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Draw reconstructions, interpolations and variations of images by a saved model:

    python examples/make_editing_pictures.py --model_name_or_path outputs/demo/model --output_dir docs/images

writes there
    editing_reconstruct.png    held-out images, their reconstructions, and ten times the difference
    editing_interpolate.png    from one image to another, one row per pair
    editing_vary_noise.png     the latent of an image with more and more new noise
    editing_vary_latent.png    the noise of an image with a latent that moves away (not for a model without latents)
    editing_trajectory.png     samples along the flow from noise to images
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor

from lzn_hf import LZNPipeline
from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.training.arguments import DataArguments, require_at_least
from lzn_hf.training.batches import load_data
from lzn_hf.training.command_line import parse_command_line, run_as_script
from lzn_hf.visualization.grids import comparison_grid, image_grid, trajectory_strip


STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
CELL = 48  # pixels of an image, at least


@dataclass
class PictureArguments:
    """What to draw, and where to write."""

    _argument_group_name = "pictures"

    model_name_or_path: str = field(metadata={"help": "Folder or hub id of a saved pipeline."})
    output_dir: str = field(default="docs/images", metadata={"help": "Folder for the pictures."})
    num_images: int = field(
        default=10, metadata={"help": "Images, at least 2, of different labels as far as possible."}
    )
    num_steps: int = field(default=11, metadata={"help": "Images of an interpolation."})
    solver: Literal["euler", "heun", "rk45"] = field(default="heun", metadata={"help": "Solver of the image flow."})
    num_inference_steps: int = field(default=50, metadata={"help": "Steps of the solver; rk45 chooses them itself."})
    seed: int = field(default=0, metadata={"help": "Decides images and noise."})

    def __post_init__(self) -> None:
        require_at_least(self, 2, "num_images", "num_steps")
        require_at_least(self, 1, "num_inference_steps")
        require_at_least(self, 0, "seed")


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Draws by the command line `argv` (None: that of the process). Returns the files."""
    args, data_args = parse_command_line([PictureArguments, DataArguments], argv, __doc__)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    pipe = LZNPipeline.from_pretrained(args.model_name_or_path)
    pipe.set_progress_bar_config(disable=True)
    images = choose_images(pipe, args, data_args)
    pictures = make_pictures(pipe, images, args)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        picture.save(output_dir / name)
        logging.info(f"{output_dir / name}: {picture.width} x {picture.height} pixels")
    return [output_dir / name for name in pictures]


def choose_images(pipe: LZNPipeline, args: PictureArguments, data_args: DataArguments) -> Tensor:
    """Held-out images `(N, C, H, W)` in [-1, 1], drawn by the seed, with the labels in turn if there are any."""
    data_args.image_size, data_args.num_channels = pipe.model.config.image_size, pipe.model.config.num_channels
    data = load_data(PartialState(), data_args, require_labels=False)
    dataset = data.train if data.validation is None else data.validation
    batch = next(image_batches(dataset, 100 * args.num_images, limit=100 * args.num_images, seed=args.seed))
    rows = torch.arange(len(batch["pixel_values"]))
    if "labels" in batch:
        labels = batch["labels"]
        turns = torch.stack(
            [(labels[:row] == labels[row]).sum() for row in rows]
        )  # number of earlier images with its label
        rows = (turns * len(data.label_names) + labels).argsort()
    rows = rows[: args.num_images]
    if len(rows) < args.num_images:
        raise ValueError(f"`num_images` is {args.num_images}, but there are only {len(rows)} images.")
    return to_pixel_values(batch["pixel_values"][rows])


def make_pictures(pipe: LZNPipeline, images: Tensor, args: PictureArguments) -> dict[str, Image.Image]:
    """The pictures by file name. The noise of an image is the same in all pictures."""
    options = {"solver": args.solver, "num_inference_steps": args.num_inference_steps, "output_type": "pt"}

    def generators(count: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(args.seed + i) for i in range(count)]

    def signed(output) -> Tensor:
        return output.images.cpu() * 2 - 1

    # 1. To latent and noise, and back.
    count, pixel_values = len(images), {"pixel_values": images}
    again = signed(pipe.reconstruct(pixel_values, generator=generators(count), **options))
    rows = {
        "image": images,
        "reconstruction": again,
        "difference x 10": ((again - images).abs() * 10 - 1).clamp(-1, 1),
    }
    pictures = {"editing_reconstruct.png": comparison_grid(rows, count, min_cell_size=CELL)}

    # 2. From each image to the next.
    ways = [
        signed(
            pipe.interpolate(
                {"pixel_values": images[i : i + 1]},
                {"pixel_values": images[i + 1 : i + 2]},
                num_steps=args.num_steps,
                generator=generators(count)[i : i + 2],
                **options,
            )
        )
        for i in range(0, count - 1, 2)
    ]
    weights = [f"{i / (args.num_steps - 1):.2g}" for i in range(args.num_steps)]
    pictures["editing_interpolate.png"] = image_grid(
        torch.cat(ways), args.num_steps, column_labels=weights, min_cell_size=CELL
    )

    # 3. Away from each image: other noise, or another latent.
    has_latents = pipe.model.encoder is not None
    for keep, name in (("latent", "editing_vary_noise.png"), ("noise", "editing_vary_latent.png")):
        if keep == "latent" or has_latents:
            columns = [
                signed(pipe.vary(pixel_values, strength, keep=keep, generator=generators(count), **options))
                for strength in STRENGTHS
            ]
            cells = torch.stack([images, *columns], dim=1).flatten(0, 1)
            texts = ["image", *(f"{strength:g}" for strength in STRENGTHS)]
            pictures[name] = image_grid(cells, len(texts), column_labels=texts, min_cell_size=CELL)

    # 4. Out of noise, by the scheduler that was saved with the model.
    num_labels = pipe.model.config.num_labels
    chosen = {"label": [i % num_labels for i in range(count)]} if num_labels else {"num_images_per_label": count}
    output = pipe(**chosen, return_trajectory=True, num_inference_steps=20, generator=generators(count))
    pictures["editing_trajectory.png"] = trajectory_strip(output.trajectory, output.times, min_cell_size=CELL)
    return pictures


if __name__ == "__main__":
    run_as_script(main)
