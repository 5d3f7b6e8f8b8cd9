# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Draw a saved model of images and texts: images of captions that training did not see, and the latent zones of these captions.

    python examples/make_text_pictures.py --model_name_or_path outputs/digits-captions --dataset_name digits --captions digits

Writes `text_prompts.png`, a row of images for each caption, and `text_zones.png`: the zones of one caption of each label, with the latents
of validation images in them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lzn_hf import LZNPipeline
from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.data.images import load_image_data
from lzn_hf.modeling_lzn import evaluation_mode
from lzn_hf.train_text_image import captions_file
from lzn_hf.training.arguments import require_at_least
from lzn_hf.training.captions import read_captions, tokenize
from lzn_hf.training.command_line import parse_command_line, run_as_script
from lzn_hf.visualization.grids import image_grid
from lzn_hf.visualization.zones import plot_zones
from lzn_hf.zones_lzn import place_images


@dataclass
class TextPicturesArguments:
    """What to draw, and where to write."""

    _argument_group_name = "pictures"

    model_name_or_path: str = field(metadata={"help": "Folder or hub id of a saved pipeline with texts."})
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Images in the zones, those of the validation split: digits, fashion-mnist or a hub id."},
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the images, if they lie in one."})
    captions: str = field(default="digits", metadata={"help": "As of train_text_image.py."})
    output_dir: str = field(default="docs/images", metadata={"help": "Folder of the pictures."})
    columns: int = field(default=10, metadata={"help": "Images of each caption."})
    max_images: int = field(default=500, metadata={"help": "Validation images in the zones."})
    seed: int = field(default=0, metadata={"help": "Draws latents and noise."})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "columns", "max_images")


def main(argv: Sequence[str] | None = None) -> Path:
    """Draws by the command line `argv` (None: that of the process). Returns the folder of the pictures."""
    (args,) = parse_command_line([TextPicturesArguments], argv, __doc__)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    pipe: Any = LZNPipeline.from_pretrained(args.model_name_or_path)
    pipe.set_progress_bar_config(disable=True)
    data = load_image_data(args.dataset_name, args.data_dir)
    captions = read_captions(captions_file(args.captions), data.label_names or [])
    texts = [some[0] for some in captions.held_out or captions.by_label]
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)

    # 1. Images of the captions.
    generator = torch.Generator().manual_seed(args.seed)
    images = pipe(prompt=texts, num_images_per_prompt=args.columns, generator=generator).images
    image_grid(images, args.columns, row_labels=texts).save(folder / "text_prompts.png")

    # 2. Images of the data in the zones of the captions.
    model = pipe.model
    batch = next(image_batches(data.validation, args.max_images, limit=args.max_images, seed=args.seed))
    with evaluation_mode(model):
        anchors = model.get_image_anchors(to_pixel_values(batch["pixel_values"]))
        latents = place_images(model.config, anchors, model.reference_anchors())[:, 0]
        text_anchors = model.get_text_anchors(**tokenize(pipe.tokenizer, texts))
    solver = {"solver": model.config.alignment_solver, "num_steps": model.config.alignment_num_steps}
    words = [text.split() for text in texts]  # names without the words that all begin with, as long ones would be cut
    same = next((i for i, some in enumerate(zip(*words, strict=False)) if len(set(some)) > 1), 0)
    names = [" ".join(some[same:]) for some in words]
    title = "Latent zones of captions" + (f": {' '.join(words[0][:same])} ..." if same else "")
    figure = plot_zones(latents, batch["labels"], text_anchors, names, title=title, **solver)
    figure.savefig(folder / "text_zones.png")
    logging.info(f"text_prompts.png and text_zones.png are in {folder}")
    return folder


if __name__ == "__main__":
    run_as_script(main)
