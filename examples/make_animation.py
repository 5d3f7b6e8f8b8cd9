# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Animate a saved model: noise becomes images, one of each label side by side:

    python examples/make_animation.py --model_name_or_path outputs/demo/model --output docs/images/noise_to_image.webp

The bar below the images is the time of the flow. If the file is too large for its limit, every other step of the flow is left out, as
often as needed.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from lzn_hf import LZNPipeline
from lzn_hf.training.arguments import require_at_least
from lzn_hf.training.command_line import parse_command_line, run_as_script
from lzn_hf.visualization.grids import image_grid


SUFFIXES = (".gif", ".webp")
MAX_LABELS = 10  # by default
LEAST_FRAMES = 6  # with fewer, nothing seems to move
BAR = 4  # pixels


@dataclass
class AnimationArguments:
    """What to animate, and where to write."""

    _argument_group_name = "animation"

    model_name_or_path: str = field(metadata={"help": "Folder or hub id of a saved pipeline."})
    output: str = field(default="docs/images/noise_to_image.webp", metadata={"help": "File to write, .gif or .webp."})
    labels: list[str] | None = field(
        default=None, metadata={"help": f"Names of labels, in their order; default: the first {MAX_LABELS}."}
    )
    num_images: int = field(default=8, metadata={"help": "Images of a model without labels."})
    num_inference_steps: int = field(
        default=30, metadata={"help": "Steps of the flow: one frame each, and the noise."}
    )
    cell_size: int = field(
        default=64, metadata={"help": "Smaller images are enlarged to this many pixels, or a little more."}
    )
    milliseconds: int = field(default=80, metadata={"help": "Time of a frame."})
    hold: int = field(default=2000, metadata={"help": "Time of the last frame, in milliseconds."})
    max_kilobytes: int = field(default=300, metadata={"help": "Limit of the file, in thousands of bytes."})
    seed: int = field(default=0, metadata={"help": "Decides latents and noise."})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "num_images", "cell_size", "max_kilobytes")
        require_at_least(self, 20, "milliseconds", "hold")  # browsers slow down what is faster
        require_at_least(self, LEAST_FRAMES, "num_inference_steps")
        require_at_least(self, 0, "seed")
        if Path(self.output).suffix not in SUFFIXES:
            raise ValueError(f"`output` must end in {' or '.join(SUFFIXES)}, got {self.output!r}.")


def main(argv: Sequence[str] | None = None) -> Path:
    """Animates by the command line `argv` (None: that of the process). Returns the file."""
    (args,) = parse_command_line([AnimationArguments], argv, __doc__)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    pipe = LZNPipeline.from_pretrained(args.model_name_or_path)
    pipe.set_progress_bar_config(disable=True)
    frames = draw_frames(pipe, args)
    content, shown = encode_within(frames, args)
    path = Path(args.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    width, height = frames[0].size
    logging.info(f"{path}: {shown} frames of {width} x {height} pixels, {len(content) / 1000:.0f} kB")
    return path


def draw_frames(pipe: LZNPipeline, args: AnimationArguments) -> list[Image.Image]:
    """The images of all labels at each step of the flow, with the names of the labels and a bar for the time."""
    names = list(dict(pipe.model.config.id2label).values()) if pipe.model.config.num_labels else []
    names = (args.labels or names[:MAX_LABELS]) if names else []
    what: dict[str, Any] = {"label": names} if names else {"num_images_per_label": args.num_images}
    generator = torch.Generator().manual_seed(args.seed)
    steps = args.num_inference_steps
    output: Any = pipe(**what, generator=generator, num_inference_steps=steps, return_trajectory=True)
    frames = []
    for images, time in zip(output.trajectory, output.times, strict=True):
        row = image_grid(images, len(images), column_labels=names or None, min_cell_size=args.cell_size)
        frame = Image.new(row.mode, (row.width, row.height + 2 * BAR), "white")
        frame.paste(row)
        bar = (BAR // 2, row.height, BAR // 2 + round((row.width - BAR) * float(time)), row.height + BAR - 1)
        ImageDraw.Draw(frame).rectangle(bar, fill="black")
        frames.append(frame)
    return frames


def encode_within(frames: Sequence[Image.Image], args: AnimationArguments) -> tuple[bytes, int]:
    """The bytes of the animation within the limit, and how many of the frames it has: the first, the last, and evenly some between."""
    step = 1
    while True:
        shown = [*frames[:-1:step], frames[-1]]
        content = encode(shown, Path(args.output).suffix, args.milliseconds * step, args.hold)
        if len(content) <= 1000 * args.max_kilobytes:
            return content, len(shown)
        step *= 2
        if len(frames) / step < LEAST_FRAMES:
            raise ValueError(
                f"`max_kilobytes` {args.max_kilobytes} is too little: {len(shown)} frames take {len(content) / 1000:.0f} kB. Raise it, or pass "
                "fewer `--labels`, a smaller `--cell_size`, or an `--output` that ends in .webp."
            )


def encode(frames: Sequence[Image.Image], suffix: str, milliseconds: int, hold: int) -> bytes:
    """The bytes of an animation that goes on and on.

    Args:
        frames (list of PIL images): its frames.
        suffix (`str`): ".gif" or ".webp".
        milliseconds, hold (`int`): the time of a frame, and that of the last one.
    """
    buffer, first = io.BytesIO(), frames[0]
    durations = [milliseconds] * (len(frames) - 1) + [hold]
    more: dict[str, Any] = {"quality": 60, "method": 6} if suffix == ".webp" else {"optimize": True}
    first.save(buffer, suffix[1:].upper(), save_all=True, append_images=frames[1:], duration=durations, loop=0, **more)
    return buffer.getvalue()


if __name__ == "__main__":
    run_as_script(main)
