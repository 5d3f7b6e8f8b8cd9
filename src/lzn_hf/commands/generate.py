# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`lzn generate`, `lzn reconstruct` and `lzn interpolate`: images of labels, texts, latents or other images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..card_lzn import label_names
from ..checks_lzn import check_at_least, printable
from ..training.mistakes import UsageError
from ..visualization.grids import comparison_grid, trajectory_strip
from .files import (
    FOLDER,
    PICTURES,
    TENSORS,
    check_out,
    find_images,
    image_source,
    is_folder,
    terminal_picture,
    write_pictures,
    write_tensors,
)
from .models import open_pipeline


def generate(
    model: str,
    *,
    labels: Sequence[str] = (),
    all_labels: bool = False,
    prompts: Sequence[str] = (),
    latents: str | None = None,
    num: int = 16,
    out: str = "generated.png",
    seed: int = 0,
    steps: int = 20,
    solver: str | None = None,
    guide: str | None = None,
    guidance: float = 1.0,
    trajectory: str | None = None,
    columns: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    show: bool = False,
) -> None:
    """Generates images.

    Args:
        model (`str`): folder or hub id of a saved model.
        labels (`Sequence[str]`, *optional*): names or numbers of labels; `num` images of each.
        all_labels (`bool`, *optional*, defaults to `False`): all labels of the model.
        prompts (`Sequence[str]`, *optional*): texts, for a model that has texts; `num` images of each.
        latents (`str`, *optional*): safetensors with `latents` and, optionally, `noise`, as `lzn reconstruct` writes them; one image of each.
        num (`int`, *optional*, defaults to 16): images of each label or text, or in all.
        out (`str`, *optional*, defaults to `"generated.png"`): a picture of all, a folder of single ones, or safetensors with `images` in
            [0, 1].
        seed (`int`, *optional*, defaults to 0): decides all noise.
        steps, solver, guide, guidance, batch_size: `num_inference_steps`, `solver`, `guide`, `guidance_scale` and `batch_size` of
            [`LZNPipeline.__call__`].
        trajectory (`str`, *optional*): a picture of the way from noise to the first images, a row each.
        columns (`int`, *optional*): images in a row of the picture.
        device (`str`, *optional*, defaults to `"auto"`): see [`find_device`].
        show (`bool`, *optional*, defaults to `False`): whether to draw the picture in the terminal.

    Raises:
        ValueError: as [`LZNPipeline.__call__`].
    """
    check_at_least(1, num=num)
    path = check_out(out, (*PICTURES, FOLDER, *TENSORS))
    strip = None if trajectory is None else check_out(trajectory, PICTURES, "--trajectory")
    if sum(map(bool, (labels, all_labels, prompts, latents))) > 1:
        raise UsageError("give one of --label, --all-labels, --prompt and --latents.")
    pipe = open_pipeline(model, device, "generating")
    names = label_names(pipe.model.config)
    if all_labels and not names:
        raise ValueError(f"`--all-labels`: the model {model!r} has no labels.")
    chosen = names if all_labels else list(labels)
    options: dict[str, Any] = {"num_inference_steps": steps, "solver": solver, "batch_size": batch_size}
    options |= {"guide": guide, "guidance_scale": guidance, "return_trajectory": strip is not None}
    given = chosen or list(prompts)
    if chosen:
        options["label"] = [_label(label, names) for label in chosen]
    elif prompts:
        options["prompt"] = list(prompts)
    elif latents is not None:
        options |= _read_latents(latents)
    else:
        options["batch_size"] = min(batch_size, num)
    if latents is None:
        options["num_images_per_label"] = num
    output = pipe(generator=torch.Generator().manual_seed(seed), output_type=_output_type(path), **options)

    if columns is None and len(given) > 1:
        columns = num
    row_labels = given if given and columns == num else None
    texts = [text for text in given for _ in range(num)] or ["image"] * len(output.images)
    _finish(path, output.images, texts, columns=columns, row_labels=row_labels, show=show)
    if strip is not None:
        picture = trajectory_strip(output.trajectory[:, :8].clamp(-1, 1), output.times)
        strip.parent.mkdir(parents=True, exist_ok=True)
        picture.save(strip)
        print(f"from noise to images: {strip}")


def reconstruct(
    model: str,
    images: Sequence[str],
    *,
    out: str = "reconstructions.png",
    seed: int = 0,
    steps: int = 20,
    solver: str = "heun",
    columns: int = 10,
    batch_size: int = 64,
    device: str = "auto",
    show: bool = False,
) -> None:
    """Takes images to their latents and noise, and from there back to images.

    Args:
        model (`str`): folder or hub id of a saved model.
        images (`Sequence[str]`): see [`find_images`].
        out (`str`, *optional*, defaults to `"reconstructions.png"`): a picture of the images above their reconstructions, a folder of single
            reconstructions, or safetensors with `latents`, `noise` and `images`.
        seed (`int`, *optional*, defaults to 0): decides the places of the images in their zones.
        steps, solver, batch_size: `num_inference_steps`, `solver` and `batch_size` of [`LZNPipeline.reconstruct`].
        columns (`int`, *optional*, defaults to 10): images in a row of the picture.
        device (`str`, *optional*, defaults to `"auto"`): see [`find_device`].
        show (`bool`, *optional*, defaults to `False`): whether to draw the picture in the terminal.

    Raises:
        ValueError: as [`LZNPipeline.reconstruct`], and for words that name no images.
    """
    path = check_out(out, (*PICTURES, FOLDER, *TENSORS))
    files = find_images(images)
    pipe = open_pipeline(model, device, "reconstructing")
    flow: dict[str, Any] = {"num_inference_steps": steps, "solver": solver, "batch_size": batch_size}
    pixel_values = pipe.image_processor([image_source(file) for file in files], return_tensors="pt")
    inversion = pipe.invert(pixel_values, generator=torch.Generator().manual_seed(seed), **flow)
    output = pipe(latents=inversion.latents, sample_noise=inversion.noise, output_type=_output_type(path), **flow)

    again = output.images
    if not is_folder(path) and path.suffix.lower() not in TENSORS:
        originals = pipe.image_processor.postprocess(pixel_values["pixel_values"])
        picture = comparison_grid({"original": originals, "again": again}, min(columns, len(again)))
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        _say(path, len(again), picture if show else None)
    else:
        tensors = {"latents": inversion.latents, "noise": inversion.noise}
        texts = [Path(file.name).stem for file in files]
        _finish(path, again, texts, columns=columns, show=show, files=[str(file) for file in files], **tensors)


def interpolate(
    model: str,
    first: str,
    second: str,
    *,
    num: int = 8,
    out: str = "interpolation.png",
    seed: int = 0,
    steps: int = 20,
    solver: str = "heun",
    batch_size: int = 64,
    device: str = "auto",
    show: bool = False,
) -> None:
    """Interpolates between two images along great circles of their latents and noise.

    Args:
        model (`str`): folder or hub id of a saved model.
        first, second (`str`): the images, see [`find_images`].
        num (`int`, *optional*, defaults to 8): images, the first and the last of which are reconstructions of the two.
        out (`str`, *optional*, defaults to `"interpolation.png"`): a picture of all in a row, an animation (`.gif`), a folder of single ones,
            or safetensors with `images` in [0, 1].
        seed (`int`, *optional*, defaults to 0): decides the places of the two images in their zones.
        steps, solver, batch_size: `num_inference_steps`, `solver` and `batch_size` of [`LZNPipeline.interpolate`].
        device (`str`, *optional*, defaults to `"auto"`): see [`find_device`].
        show (`bool`, *optional*, defaults to `False`): whether to draw the picture in the terminal.

    Raises:
        ValueError: as [`LZNPipeline.interpolate`], and for words that do not name one image each.
    """
    path = check_out(out, (*PICTURES, FOLDER, *TENSORS))
    ends = [find_images([word]) for word in (first, second)]
    for word, files in zip((first, second), ends, strict=True):
        if len(files) != 1:
            raise ValueError(f"{word!r} must be one image, but is {len(files):,}.")
    pipe = open_pipeline(model, device, "interpolating")
    flow: dict[str, Any] = {"num_inference_steps": steps, "solver": solver, "batch_size": batch_size}
    sources = [image_source(files[0]) for files in ends]
    generator = torch.Generator().manual_seed(seed)
    output_type = _output_type(path)
    output = pipe.interpolate(*sources, num_steps=num, generator=generator, output_type=output_type, **flow)
    _finish(path, output.images, ["step"] * num, columns=num, show=show)


def _label(label: str, names: Sequence[str]) -> str | int:
    """A name of a label as it is; a number that is no name is an id."""
    return int(label) if label not in names and label.isdecimal() else label


def _read_latents(path: str) -> dict[str, Any]:
    """Reads `latents` and `noise` from safetensors."""
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except Exception as error:
        raise ValueError(f"`--latents` {path!r} cannot be read as safetensors: {printable(repr(error))}") from error
    if "latents" not in tensors:
        raise ValueError(f"`--latents` {path!r} has no tensor `latents`, but {', '.join(map(repr, tensors))}.")
    found = {"latents": tensors["latents"]}
    return found | ({"sample_noise": tensors["noise"]} if "noise" in tensors else {})


def _file_names(texts: Sequence[str]) -> list[str]:
    """Names of files, each text with a number of its own."""
    counts: dict[str, int] = {}
    names = []
    for text in texts:
        name = re.sub(r"[^\w.-]+", "-", text).strip("-.") or "image"
        counts[name] = counts.get(name, -1) + 1
        names.append(f"{name}-{counts[name]:03d}")
    return names


def _output_type(path: Path) -> str:
    return "pt" if path.suffix.lower() in TENSORS and not is_folder(path) else "pil"


def _finish(
    path: Path,
    images: Any,
    texts: Sequence[str],
    *,
    columns: int | None = None,
    row_labels: Sequence[str] | None = None,
    show: bool = False,
    files: Sequence[str] = (),
    **tensors: torch.Tensor | None,
) -> None:
    """Writes images, tensors or PIL images by [`_output_type`], as the path says, and says so."""
    picture = None
    if torch.is_tensor(images):
        write_tensors(path, {"images": images.cpu(), **tensors}, **({"files": files} if files else {}))
    else:
        picture = write_pictures(path, images, _file_names(texts), columns=columns, row_labels=row_labels)
    _say(path, len(images), picture if show else None)


def _say(path: Path, count: int, picture: Image.Image | None) -> None:
    if picture is not None:
        print(terminal_picture(picture))
    print(f"{count:,} image{'s' * (count != 1)}: {path}")


__all__ = ["generate", "interpolate", "reconstruct"]
