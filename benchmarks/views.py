# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Two random views of each image, compared with a training step of a small encoder, on one core.

    python benchmarks/views.py
    python benchmarks/views.py --channels 3 --image_size 32
    python benchmarks/views.py --device cuda --channels 3 --image_size 224 --batch 256

Views have the published strengths (`IMAGENET_VIEWS`), so every operation takes part. The step is forward and backward of a
ResNet of 1.2 million parameters on both views, without latent zones and optimizer: a real step takes longer. The baseline makes
the views one image at a time, as a dataset with per-image transforms does. On the CPU, times are processor time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from common import Row, median_times, row, run_benchmark
from torch import Tensor

from lzn_hf.data import views as v
from lzn_hf.networks_resnet import ResNetEncoder


ARGUMENTS = {
    "image_size": (28, "side of images and views in pixels"),
    "channels": (1, "channels", {"choices": (1, 3)}),
    "batch": (256, "images in a step, each in two views"),
    "device": ("cpu", "device of images, views and encoder"),
}


def operations(images: Tensor, args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Returns the parts of one view, each on its own."""
    size, pixels = args.image_size, images.float()
    draw = (v.IMAGENET_VIEWS, args.batch, size, size, torch.Generator().manual_seed(args.seed))
    drawn, _ = v.draw_parameters(*draw)
    drawn = drawn._replace(**{name: values.to(args.device) for name, values in drawn._asdict().items()})
    functions = {
        "parameters": lambda: v.draw_parameters(*draw),
        "crop": lambda: v.crop(pixels, *drawn[:5], size=size),
        "brightness": lambda: v.adjust_brightness(pixels, drawn.brightness),
        "contrast": lambda: v.adjust_contrast(pixels, drawn.contrast),
        "blur": lambda: v.gaussian_blur(pixels, drawn.sigma),
    }
    if args.channels == 3:
        functions["saturation"] = lambda: v.adjust_saturation(pixels, drawn.saturation)
        functions["hue"] = lambda: v.adjust_hue(pixels, drawn.hue)
    return functions


def measure(args: argparse.Namespace) -> list[Row]:
    shape = (args.batch, args.channels, args.image_size, args.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=args.device)
    generator = torch.Generator()
    few = images[: max(args.batch // 8, 1)]  # for the baseline, which is slower by more than that

    def two_views(images: Tensor) -> Tensor:
        options = {"size": args.image_size, "generator": generator}
        return torch.cat([v.random_views(images, v.IMAGENET_VIEWS, **options) for _ in range(2)])

    encoder = ResNetEncoder(
        in_channels=args.channels, latent_dim=64, depths=(2, 2, 2), widths=(32, 64, 128), head_layers=2
    ).to(args.device)
    views, parts = two_views(images), operations(images, args)
    functions = {
        "views": lambda: two_views(images),
        "step": lambda: encoder(views)[1].square().mean().backward(),
        "one at a time": lambda: [two_views(image[None]) for image in few],
    }
    seconds = median_times(functions | parts, args.repeats)
    rate, baseline = args.batch / seconds["views"], len(few) / seconds["one at a time"]
    millions = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    encoded = f"encoder of {millions:.1f} M parameters, two views forward and backward"
    return [
        row("images, each in two views", rate, "images/s", baseline=baseline),
        row(encoded, args.batch / seconds["step"], "images/s"),
        row("views, compared to the encoder's time", 100 * seconds["views"] / seconds["step"], "%"),
        *(row(f"{name}, one view", 1e6 * seconds[name] / args.batch, "us an image", detail=True) for name in parts),
    ]


if __name__ == "__main__":
    run_benchmark(__file__, __doc__, measure, ARGUMENTS, quick={"batch": 64, "repeats": 2}, threads=1)
