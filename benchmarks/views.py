# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Two random views of each image, and their share of a training step of a small encoder, on one core.

    python benchmarks/views.py
    python benchmarks/views.py --channels 3 --image_size 32
    python benchmarks/views.py --device cuda --channels 3 --image_size 224 --batch 256

Views have the published strengths (`IMAGENET_VIEWS`): every operation takes part. The step is forward and backward of a
ResNet of 1.2 million parameters on both views, without latent zones and optimiser: a real step takes
longer. The baseline makes the views one image at a time, as a dataset with per-image transforms does.
On the CPU, times are processor time of this process, with one thread.
"""

from __future__ import annotations

import argparse
import time

import torch
from common import benchmark_parser, median_times, parse, print_rows, row, write_results
from torch import Tensor

from lzn_hf.data.views import (
    IMAGENET_VIEWS,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    crop,
    draw_parameters,
    gaussian_blur,
    random_views,
)
from lzn_hf.networks_resnet import ResNetEncoder


QUICK = {"batch": 64, "repeats": 2}


def two_views(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return torch.cat([random_views(images, IMAGENET_VIEWS, size=size, generator=generator) for _ in range(2)])


def main() -> None:
    parser = benchmark_parser(__doc__, "views")
    parser.add_argument("--image_size", type=int, default=28, help="side of images and views in pixels (28)")
    parser.add_argument("--channels", type=int, default=1, choices=(1, 3), help="channels (1)")
    parser.add_argument("--batch", type=int, default=256, help="images a step, each in two views (256)")
    parser.add_argument("--device", default="cpu", help="where images, views and encoder are (cpu)")
    args = parse(parser, QUICK)
    torch.set_num_threads(1)
    shape = (args.batch, args.channels, args.image_size, args.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=args.device)
    generator = torch.Generator()
    encoder = ResNetEncoder(
        in_channels=args.channels, latent_dim=64, depths=(2, 2, 2), widths=(32, 64, 128), head_layers=2
    ).to(args.device)
    views = two_views(images, args.image_size, generator)
    few = images[: max(args.batch // 8, 1)]  # for what is slower by about that

    def step() -> None:
        encoder(views)[1].square().mean().backward()

    def one_at_a_time() -> None:
        for image in few:
            two_views(image[None], args.image_size, generator)

    seconds = median_times(
        {
            "views": lambda: two_views(images, args.image_size, generator),
            "step": step,
            "one at a time": one_at_a_time,
            **operations(images, args),
        },
        args.repeats,
        clock=time.process_time if args.device == "cpu" else time.perf_counter,
    )
    rate, baseline = args.batch / seconds["views"], len(few) / seconds["one at a time"]
    share = 100 * seconds["views"] / seconds["step"]
    millions = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    encoded = f"encoder of {millions:.1f} M parameters, two views forward and backward"
    rows = [
        row("images, each in two views", rate, "images/s", baseline=baseline),
        row(encoded, args.batch / seconds["step"], "images/s"),
        row("views, compared to the encoder's time", share, "%", target="<= 10"),
    ]
    rows += [
        row(f"{name}, one view", 1e6 * seconds[name] / args.batch, "us an image", detail=True)
        for name in operations(images, args)
    ]
    print_rows(rows)
    write_results(args.output, vars(args), rows)


def operations(images: Tensor, args: argparse.Namespace) -> dict:
    """The parts of a view, on their own."""
    size, pixels = args.image_size, images.float()
    drawn, _ = draw_parameters(IMAGENET_VIEWS, args.batch, size, size, torch.Generator().manual_seed(args.seed))
    drawn = drawn._replace(**{name: values.to(args.device) for name, values in drawn._asdict().items()})
    functions = {
        "parameters": lambda: draw_parameters(IMAGENET_VIEWS, args.batch, size, size, torch.Generator()),
        "crop": lambda: crop(pixels, *drawn[:5], size=size),
        "brightness": lambda: adjust_brightness(pixels, drawn.brightness),
        "contrast": lambda: adjust_contrast(pixels, drawn.contrast),
        "blur": lambda: gaussian_blur(pixels, drawn.sigma),
    }
    if args.channels == 3:
        functions["saturation"] = lambda: adjust_saturation(pixels, drawn.saturation)
        functions["hue"] = lambda: adjust_hue(pixels, drawn.hue)
    return functions


if __name__ == "__main__":
    main()
