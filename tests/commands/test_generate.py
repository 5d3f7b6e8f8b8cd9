# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`lzn generate`, `lzn reconstruct` and `lzn interpolate` make what the pipeline makes, in every form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import DIGITS, lzn, saved_fixture, write_images  # noqa: F401
from helpers.pipelines import make_pipeline, seeded
from helpers.texts import make_text_pipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from lzn_hf import LZNPipeline
from lzn_hf.commands.files import terminal_picture
from lzn_hf.visualization.grids import comparison_grid, image_grid, trajectory_strip


STEPS = ("--steps", 3)


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pipe(saved) -> LZNPipeline:
    pipe = LZNPipeline.from_pretrained(saved)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def images(tmp_path) -> list[str]:
    return [str(path.relative_to(tmp_path)) for path in write_images(tmp_path / "photos", 3)]


def same_picture(path: str, expected: Image.Image) -> bool:
    with Image.open(path) as picture:
        return picture.mode == expected.mode and np.array_equal(np.asarray(picture), np.asarray(expected))


def test_a_grid_of_one_label(saved, pipe, capsys):
    assert lzn("generate", saved, "--label", 7, "--num", 5, "--out", "new/grid.png", *STEPS) == 0
    assert capsys.readouterr().out == "5 images: new/grid.png\n"
    expected = pipe(label="7", num_images_per_label=5, num_inference_steps=3, generator=seeded(0)).images
    assert same_picture("new/grid.png", image_grid(expected, 3))


def test_a_row_for_each_label(saved, pipe):
    assert lzn("generate", saved, "-l", 3, "-l", 8, "-n", 2, "--seed", 4, *STEPS) == 0
    options = {"num_images_per_label": 2, "num_inference_steps": 3, "generator": seeded(4)}
    expected = image_grid(pipe(label=["3", "8"], **options).images, 2, row_labels=["3", "8"])
    assert same_picture("generated.png", expected)
    assert lzn("generate", saved, "--all-labels", "-n", 1, *STEPS) == 0
    options |= {"num_images_per_label": 1, "generator": seeded(0)}
    assert same_picture("generated.png", image_grid(pipe(label=DIGITS, **options).images, 1, row_labels=DIGITS))


def test_a_folder_of_single_images(saved, pipe):
    assert lzn("generate", saved, "-l", 3, "-l", 8, "-n", 2, "-o", "folder/", *STEPS) == 0
    names = ["3-000.png", "3-001.png", "8-000.png", "8-001.png"]
    expected = pipe(label=["3", "8"], num_images_per_label=2, num_inference_steps=3, generator=seeded(0)).images
    for name, image in zip(names, expected, strict=True):
        assert same_picture(f"folder/{name}", image)


def test_tensors_without_a_label_by_any_solver(saved, pipe):
    words = ["--solver", "heun", "--batch", 2, "--out", "images.safetensors"]
    assert lzn("generate", saved, "-n", 3, *STEPS, *words) == 0
    options = {"solver": "heun", "num_inference_steps": 3, "output_type": "pt", "generator": seeded(0)}
    expected = pipe(num_images_per_label=3, batch_size=2, **options).images
    assert torch.equal(load_file("images.safetensors")["images"], expected)


def test_guidance_and_the_way_from_noise(saved, pipe, tmp_path):
    guide = make_pipeline(names=DIGITS)
    with torch.no_grad():
        for parameter in guide.model.parameters():
            parameter.mul_(0.9)
    guide.save_pretrained(tmp_path / "guide")
    words = ["--guide", "guide", "--guidance", 1.5, "--trajectory", "strip.png"]
    assert lzn("generate", saved, "-l", 1, "-n", 2, *STEPS, *words) == 0
    options = {"guide": guide, "guidance_scale": 1.5, "return_trajectory": True, "generator": seeded(0)}
    output = pipe(label="1", num_images_per_label=2, num_inference_steps=3, **options)
    assert same_picture("generated.png", image_grid(output.images, 2))
    assert same_picture("strip.png", trajectory_strip(output.trajectory.clamp(-1, 1), output.times))


def test_prompts(tmp_path):
    pipe = make_text_pipeline()
    pipe.save_pretrained(tmp_path / "texts")
    assert lzn("generate", "texts", "-p", "a boot", "-p", "a bag", "-n", 2, *STEPS) == 0
    texts = ["a boot", "a bag"]
    expected = pipe(prompt=texts, num_images_per_label=2, num_inference_steps=3, generator=seeded(0)).images
    assert same_picture("generated.png", image_grid(expected, 2, row_labels=texts))


def test_names_of_labels_that_are_no_names_of_files(tmp_path):
    make_pipeline(names=["a/b", "ü: c", "7"]).save_pretrained(tmp_path / "model")
    assert lzn("generate", "model", "--label", 1, "--label", 7, "--label", "a/b", "-n", 1, "-o", "out", *STEPS) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "7-000.png",
        "a-b-000.png",
        "ü-c-000.png",
    ] or (sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1-000.png", "7-000.png", "a-b-000.png"])


def test_reconstructions_below_their_images(saved, pipe, images):
    assert lzn("reconstruct", saved, "photos", *STEPS, "--seed", 2) == 0
    again = pipe.reconstruct(images, num_inference_steps=3, generator=seeded(2)).images
    originals = [Image.open(path) for path in images]
    assert same_picture("reconstructions.png", comparison_grid({"original": originals, "again": again}, 3))
    assert lzn("reconstruct", saved, "photos", *STEPS, "--seed", 2, "-o", "again") == 0
    for number, image in enumerate(again):
        assert same_picture(f"again/{number}-000.png", image)


def test_latents_of_images_give_the_images_back(saved, pipe, images):
    assert lzn("reconstruct", saved, *images, *STEPS, "-o", "latents.safetensors") == 0
    tensors = load_file("latents.safetensors")
    inversion = pipe.invert(images, num_inference_steps=3, generator=seeded(0))
    assert torch.equal(tensors["latents"], inversion.latents) and torch.equal(tensors["noise"], inversion.noise)
    with safe_open("latents.safetensors", "pt") as file:
        assert json.loads(file.metadata()["files"]) == images
    words = ["--latents", "latents.safetensors", "--solver", "heun", "-o", "images.safetensors"]
    assert lzn("generate", saved, *words, *STEPS) == 0
    assert torch.equal(load_file("images.safetensors")["images"], tensors["images"])


def test_interpolation_as_picture_and_animation(saved, pipe, images):
    first, second = images[:2]
    assert lzn("interpolate", saved, first, second, "-n", 4, *STEPS) == 0
    expected = pipe.interpolate(first, second, num_steps=4, num_inference_steps=3, generator=seeded(0)).images
    assert same_picture("interpolation.png", image_grid(expected, 4))
    assert lzn("interpolate", saved, first, second, "-n", 4, *STEPS, "-o", "morph.gif") == 0
    with Image.open("morph.gif") as animation:
        assert animation.n_frames == 4 and animation.info["loop"] == 0 and min(animation.size) >= 128


def test_show_draws_the_picture_in_the_terminal(saved, capsys):
    assert lzn("generate", saved, "-l", 7, "-n", 2, *STEPS, "--show") == 0
    *picture, last = capsys.readouterr().out.splitlines()
    with Image.open("generated.png") as grid:
        assert "\n".join(picture) == terminal_picture(grid)
    assert last == "2 images: generated.png"


def test_a_terminal_picture_has_two_pixels_in_a_character():
    picture = Image.new("RGB", (2, 2), "red")
    picture.putpixel((1, 1), (0, 0, 255))
    red, blue = "255;0;0", "0;0;255"
    assert terminal_picture(picture) == (f"\x1b[38;2;{red}m\x1b[48;2;{red}m▀\x1b[38;2;{red}m\x1b[48;2;{blue}m▀\x1b[0m")
    assert terminal_picture(Image.new("L", (200, 100)), width=50).count("\n") == 11


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("generate MODEL --label eleven", 1, "eleven"),
        ("generate MODEL --label 1 --prompt x", 2, "give one of --label, --all-labels, --prompt and --latents."),
        ("generate MODEL --out grid.xyz", 2, "`--out` must be .png, .jpg,"),
        ("generate MODEL --out photos/0.png/", 2, "is a file, not a folder"),
        ("generate MODEL --latents photos/0.png", 1, "cannot be read as safetensors"),
        ("generate MODEL --prompt seven", 1, "text"),
        ("generate MODEL --solver newton", 1, "`solver` must be"),
        ("interpolate MODEL photos photos/0.png", 1, "'photos' must be one image, but is 3."),
    ],
)
def test_mistakes_are_one_line(saved, images, capsys, words, code, message):
    assert lzn(*[saved if word == "MODEL" else word for word in words.split()]) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and message in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    "words", ["generate", "generate MODEL --num 0", "generate MODEL --stpes 3", "paint", "train all"]
)
def test_a_command_line_that_cannot_be_read_is_exit_code_2(capsys, words):
    assert lzn(*words.split()) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["results.v1/", "seven.png/"])
def test_a_folder_may_have_a_dot_in_its_name(saved, images, folder):
    assert lzn("generate", saved, "--label", 7, "--steps", 1, "--num", 2, "--out", folder) == 0
    assert len(list(Path(folder).glob("*.png"))) == 2
    assert lzn("reconstruct", saved, "photos/0.png", "--steps", 1, "--out", folder) == 0


def test_a_mistake_names_the_flag_that_has_it(saved, capsys):
    assert lzn("generate", saved, "--label", 7, "--trajectory", "strip.txt") == 2
    assert "`--trajectory` must be .png" in capsys.readouterr().err
