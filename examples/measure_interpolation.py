# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Measure where interpolations between images jump: at the borders of latent zones.

    python examples/measure_interpolation.py --model_name_or_path outputs/demo/model --output_dir outputs/interpolation

Pairs of held-out images of different labels are interpolated in many small steps. The label zone of each latent on the way is looked up, and
the change from each image to the next is measured. Beside it the noise alone is interpolated, with the latent of the first image, and the
latent alone. Writes
    interpolation.json    the share of the whole change that falls into the steps that cross a border, and how many steps these are
    interpolation.png     the pair in the middle of the order by that share: images on the way, and the change of each step
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from matplotlib.figure import Figure
from torch import Tensor

from lzn_hf import LZNPipeline
from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.evaluation.results import write_json
from lzn_hf.sampling_lzn import slerp
from lzn_hf.training.arguments import DataArguments, require_at_least
from lzn_hf.training.batches import load_data
from lzn_hf.training.command_line import parse_command_line, run_as_script


@dataclass
class InterpolationArguments:
    """What to measure, and where to write."""

    _argument_group_name = "interpolation"

    model_name_or_path: str = field(metadata={"help": "Folder or hub id of a saved pipeline with labels."})
    output_dir: str = field(default="outputs/interpolation", metadata={"help": "Folder for the results."})
    num_pairs: int = field(default=40, metadata={"help": "Pairs of images."})
    num_steps: int = field(default=65, metadata={"help": "Images of an interpolation, both ends included."})
    num_inference_steps: int = field(default=20, metadata={"help": "Steps of Heun's method."})
    seed: int = field(default=0, metadata={"help": "Decides images and noise."})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "num_pairs", "num_inference_steps")
        require_at_least(self, 3, "num_steps")
        require_at_least(self, 0, "seed")


@dataclass
class Way:
    """An interpolation: images `(S, C, H, W)`, the label zone `(S,)` of each latent, the change `(S - 1,)` of each step."""

    images: Tensor
    zones: Tensor
    changes: Tensor

    @property
    def crossings(self) -> Tensor:
        return self.zones[1:] != self.zones[:-1]

    @property
    def share(self) -> float:
        """The share of the change that falls into the steps that cross a border."""
        return (self.changes[self.crossings].sum() / self.changes.sum()).item()


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures by the command line `argv` (None: that of the process). Returns what it writes."""
    args, data_args = parse_command_line([InterpolationArguments, DataArguments], argv, __doc__)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    pipe = LZNPipeline.from_pretrained(args.model_name_or_path)
    pipe.set_progress_bar_config(disable=True)
    firsts, seconds = choose_pairs(pipe, args, data_args)
    ends = [invert(pipe, images, args) for images in (firsts, seconds)]
    ways: dict[str, list[Way]] = {"both": [], "latent": [], "noise": []}
    for pair in range(args.num_pairs):
        latents, noise = ([end[part][pair] for end in ends] for part in (0, 1))
        ways["both"].append(walk(pipe, latents, noise, args))
        ways["latent"].append(walk(pipe, latents, [noise[0]] * 2, args))
        ways["noise"].append(walk(pipe, [latents[0]] * 2, noise, args))
    results = {"settings": dataclasses.asdict(args)} | {name: summarise(of) for name, of in ways.items()}
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "interpolation.json", results)
    order = sorted((way for way in ways["both"] if way.crossings.any()), key=lambda way: way.share)
    if order:
        plot_way(order[len(order) // 2], list(pipe.model.config.id2label.values())).savefig(
            folder / "interpolation.png"
        )
    for name, row in results.items():
        if name != "settings":
            logging.info(
                f"{name}: {row['crossings']:.1f} of {args.num_steps - 1} steps cross a border and have {row['share_of_change']:.1%} of the change"
            )
    return results


def choose_pairs(pipe: LZNPipeline, args: InterpolationArguments, data_args: DataArguments) -> tuple[Tensor, Tensor]:
    """Held-out images in [-1, 1], drawn by the seed: the first and the second of each pair, of different labels."""
    config = pipe.model.config
    if not config.num_labels or pipe.model.encoder is None:
        raise ValueError(f"`model_name_or_path` {args.model_name_or_path!r} must have labels and an image encoder.")
    data_args.image_size, data_args.num_channels = config.image_size, config.num_channels
    data = load_data(PartialState(), data_args, require_labels=True)
    dataset = data.train if data.validation is None else data.validation
    batch = next(image_batches(dataset, 10 * args.num_pairs, limit=10 * args.num_pairs, seed=args.seed))
    rows, others = list(range(len(batch["labels"]))), []
    while len(others) < 2 * args.num_pairs and rows:
        first = rows.pop(0)
        second = next((row for row in rows if batch["labels"][row] != batch["labels"][first]), None)
        if second is not None:
            rows.remove(second)
            others += [first, second]
    if len(others) < 2 * args.num_pairs:
        raise ValueError(f"`num_pairs` is {args.num_pairs}, but there are only {len(others) // 2} pairs of images.")
    images = to_pixel_values(batch["pixel_values"][others])
    return images[::2], images[1::2]


def invert(pipe: LZNPipeline, images: Tensor, args: InterpolationArguments) -> tuple[Tensor, Tensor]:
    """The latents and the noise of images."""
    generators = [torch.Generator().manual_seed(args.seed + row) for row in range(len(images))]
    found = pipe.invert(
        {"pixel_values": images},
        solver="heun",
        num_inference_steps=args.num_inference_steps,
        generator=generators,
    )
    return found.latents, found.noise


def walk(pipe: LZNPipeline, latents: list[Tensor], noise: list[Tensor], args: InterpolationArguments) -> Way:
    """Goes along great circles from one pair of latent and noise to another."""
    weights = torch.linspace(0, 1, args.num_steps).tolist()
    on_the_way = [
        torch.stack([slerp(first, second, weight) for weight in weights]) for first, second in (latents, noise)
    ]
    images = pipe(
        latents=on_the_way[0],
        sample_noise=on_the_way[1],
        solver="heun",
        num_inference_steps=args.num_inference_steps,
        output_type="pt",
    ).images
    with torch.no_grad():
        zones = pipe.model.classify_latents(on_the_way[0]).argmax(1)
    return Way(images.cpu(), zones.cpu(), images.diff(dim=0).square().flatten(1).mean(1).sqrt().cpu())


def summarise(ways: Sequence[Way]) -> dict[str, float | None]:
    """Means over all pairs. The change of a step is the root mean square over pixels in [0, 1]."""
    crossings = torch.stack([way.crossings for way in ways])
    changes = torch.stack([way.changes for way in ways])
    return {
        "crossings": crossings.sum(1).float().mean().item(),
        "share_of_change": torch.tensor([way.share for way in ways]).mean().item(),
        "change_of_crossing": changes[crossings].mean().item() if crossings.any() else None,
        "change_of_others": changes[~crossings].mean().item(),
        "largest_step_crosses": crossings.gather(1, changes.argmax(1, keepdim=True)).float().mean().item(),
    }


def plot_way(way: Way, names: Sequence[str]) -> Figure:
    """Images on the way with the zone that each lies in, above the change of each step, with the borders as lines."""
    figure = Figure(figsize=(9, 3.4), dpi=120, layout="constrained")
    shown = torch.linspace(0, len(way.images) - 1, 17).round().long()
    panels = figure.subplot_mosaic(
        [[f"{i}" for i in range(len(shown))], ["change"] * len(shown)], height_ratios=[1, 3]
    )
    for i, row in enumerate(shown.tolist()):
        axes = panels[f"{i}"]
        axes.imshow(way.images[row].permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set_title(names[way.zones[row]], fontsize=9)
        axes.axis("off")
    axes = panels["change"]
    axes.plot(torch.arange(len(way.changes)).numpy() + 0.5, way.changes.numpy(), color="#3f90da")
    for number, step in enumerate(way.crossings.nonzero().flatten().tolist()):
        axes.axvline(
            step + 0.5, color="#bd1f01", linestyle=":", label="the latent crosses a border" if number == 0 else None
        )
    axes.set(xlim=(-2, len(way.images) + 1), ylim=(0, None), xlabel="step", ylabel="change of the image")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    run_as_script(main)
