# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The commands that make images, or look at them."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option, Typer


Model = Annotated[str, Argument(metavar="MODEL", help="Folder or Hub id of a saved model.")]
Images = Annotated[
    list[str], Argument(metavar="IMAGES...", help="Files, folders, zip archives, or patterns like 'a/*.png'.")
]
Seed = Annotated[int, Option(help="Decides everything random: the same seed gives the same images.")]
Steps = Annotated[int, Option(min=1, help="Steps from noise to image: more take longer and come closer.")]
Batch = Annotated[int, Option(min=1, help="Images computed at once.")]
Device = Annotated[str, Option(help="auto, cpu, cuda, cuda:1, ...")]
Show = Annotated[bool, Option("--show", help="Draw the picture in the terminal, too.")]
EditSolver = Annotated[str, Option(help="heun, euler or rk45.")]


def generate(
    model: Model,
    label: Annotated[
        list[str] | None, Option("--label", "-l", help="Name or number of a label; may be given several times.")
    ] = None,
    all_labels: Annotated[bool, Option("--all-labels", help="All labels of the model.")] = False,
    prompt: Annotated[
        list[str] | None, Option("--prompt", "-p", help="Text, for models with texts; may be given several times.")
    ] = None,
    latents: Annotated[
        str | None, Option(metavar="FILE", help="Latents of `lzn reconstruct ... --out FILE.safetensors`.")
    ] = None,
    num: Annotated[int, Option("--num", "-n", min=1, help="Images of each label or prompt.")] = 16,
    out: Annotated[
        str, Option("--out", "-o", metavar="PATH", help="Picture of all, folder of single ones, or .safetensors.")
    ] = "generated.png",
    seed: Seed = 0,
    steps: Steps = 20,
    solver: Annotated[str | None, Option(help="euler, heun or rk45; default: the model's scheduler.")] = None,
    guidance: Annotated[float, Option(help="Above 1: away from the guide, clearer and less varied images.")] = 1.0,
    guide: Annotated[
        str | None,
        Option(metavar="MODEL", help="A weaker model as the guide; default: the model without its condition."),
    ] = None,
    trajectory: Annotated[
        str | None, Option(metavar="FILE", help="Picture of the way from noise to the first images.")
    ] = None,
    columns: Annotated[int | None, Option(min=1, help="Images in a row of the picture.")] = None,
    batch: Batch = 64,
    device: Device = "auto",
    show: Show = False,
) -> None:
    """Generate images of labels or texts.

    \b
    lzn generate outputs/demo/model --label 7 --num 16 --out sevens.png
    lzn generate outputs/demo/model --all-labels --num 10 --out grid.png --show
    lzn generate outputs/demo/model -l 3 -l 8 --num 100 --out folder/
    lzn generate outputs/demo/model --label 7 --trajectory noise_to_seven.png --steps 50
    lzn generate outputs/captions --prompt "a picture of a three" --seed 4
    lzn generate outputs/demo/model --label 2 --guide outputs/weaker --guidance 2
    """
    from lzn_hf.commands.generate import generate

    generate(
        model,
        labels=label or (),
        all_labels=all_labels,
        prompts=prompt or (),
        latents=latents,
        num=num,
        out=out,
        seed=seed,
        steps=steps,
        solver=solver,
        guide=guide,
        guidance=guidance,
        trajectory=trajectory,
        columns=columns,
        batch_size=batch,
        device=device,
        show=show,
    )


def classify(
    model: Model,
    images: Images,
    text: Annotated[
        list[str] | None,
        Option("--text", "-t", help="Candidate texts instead of labels, for models with texts; several times."),
    ] = None,
    top: Annotated[int, Option("--top", "-k", min=1, help="Labels of each image.")] = 5,
    out: Annotated[
        str | None,
        Option("--out", "-o", metavar="FILE", help=".csv, .json, .jsonl or .safetensors; default: print."),
    ] = None,
    batch: Batch = 64,
    device: Device = "auto",
) -> None:
    """Say what images show: labels, with probabilities.

    \b
    lzn classify outputs/demo/model photo.png
    lzn classify outputs/demo/model folder/ --top 1 --out labels.csv
    lzn classify outputs/demo/model 'folder/*.png' archive.zip --out labels.jsonl
    lzn classify outputs/captions photo.png --text "a three" --text "an eight"
    """
    from lzn_hf.commands.recognise import classify

    classify(model, images, texts=text or (), top=top, out=out, batch_size=batch, device=device)


def embed(
    model: Model,
    images: Images,
    out: Annotated[
        str, Option("--out", "-o", metavar="FILE", help=".safetensors, .csv, .json or .jsonl.")
    ] = "embeddings.safetensors",
    kind: Annotated[str, Option(help="embeddings, features (before the head) or anchors (after it).")] = "embeddings",
    batch: Batch = 64,
    device: Device = "auto",
) -> None:
    """Turn images into vectors.

    \b
    lzn embed outputs/demo/model folder/ --out embeddings.safetensors
    lzn embed outputs/demo/model 'folder/*.png' --out embeddings.csv
    """
    from lzn_hf.commands.recognise import embed

    embed(model, images, out=out, kind=kind, batch_size=batch, device=device)


def reconstruct(
    model: Model,
    images: Images,
    out: Annotated[
        str,
        Option(
            "--out", "-o", metavar="PATH", help="Picture with the originals, folder, or .safetensors with latents."
        ),
    ] = "reconstructions.png",
    seed: Seed = 0,
    steps: Steps = 20,
    solver: EditSolver = "heun",
    columns: Annotated[int, Option(min=1, help="Images in a row of the picture.")] = 10,
    batch: Batch = 64,
    device: Device = "auto",
    show: Show = False,
) -> None:
    """Take images to their latents, and back.

    \b
    lzn reconstruct outputs/demo/model folder/ --out again.png
    lzn reconstruct outputs/demo/model photo.png --out latents.safetensors
    lzn generate outputs/demo/model --latents latents.safetensors --solver heun --out again.png
    """
    from lzn_hf.commands.generate import reconstruct

    reconstruct(
        model,
        images,
        out=out,
        seed=seed,
        steps=steps,
        solver=solver,
        columns=columns,
        batch_size=batch,
        device=device,
        show=show,
    )


def interpolate(
    model: Model,
    first: Annotated[str, Argument(metavar="IMAGE", help="The image to start from.")],
    second: Annotated[str, Argument(metavar="IMAGE", help="The image to end at.")],
    num: Annotated[int, Option("--num", "-n", min=2, help="Images, with both ends.")] = 8,
    out: Annotated[
        str, Option("--out", "-o", metavar="PATH", help="Picture, animation (.gif), folder, or .safetensors.")
    ] = "interpolation.png",
    seed: Seed = 0,
    steps: Steps = 20,
    solver: EditSolver = "heun",
    batch: Batch = 64,
    device: Device = "auto",
    show: Show = False,
) -> None:
    """Go from one image to another.

    \b
    lzn interpolate outputs/demo/model three.png eight.png --num 10
    lzn interpolate outputs/demo/model three.png eight.png --num 30 --out morph.gif
    """
    from lzn_hf.commands.generate import interpolate

    interpolate(
        model,
        first,
        second,
        num=num,
        out=out,
        seed=seed,
        steps=steps,
        solver=solver,
        batch_size=batch,
        device=device,
        show=show,
    )


def add_commands(app: Typer) -> None:
    """Adds the commands of this module."""
    for command in (generate, classify, embed, reconstruct, interpolate):
        app.command()(command)
