# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Makes the models that people start from: trained, measured, with cards and code, ready to be pushed to the Hub.

    python utils/make_models.py                                                      # those whose data the libraries bring
    python utils/make_models.py --fashion_mnist DIR --emoji DIR --license apache-2.0 # all of them
    python utils/make_models.py --models digits                                      # one of them

Each model goes through its training script with a preset, the measures of its images and features on held-out images, which go into its
card, and the export. What is there already is not done again, and a run that was stopped goes on.

  outputs/models/runs/NAME       what training wrote
  outputs/models/features/NAME   the classifier whose features measure its images
  outputs/models/NAME            the folder to push: `lzn export hub outputs/models/NAME --push_to_hub me/NAME --license ...`
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lzn_hf.training.checkpoints import list_checkpoints
from lzn_hf.training.command_line import StrictParser, run_as_script


EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@dataclass(frozen=True)
class Recipe:
    """How a model is made.

    Args:
        script (`str`): module of `lzn_hf` that trains it.
        preset (`str`): its preset.
        data (`str`): `"digits"`, or the flag of this script that names the folder of the images.
        dataset_name (`str`, *optional*): what the scripts call images in that folder.
        image_size (`int`, *optional*): size of the images of the preset, where those of the folder have others.
    """

    script: str
    preset: str
    data: str = "digits"
    dataset_name: str | None = None
    image_size: int | None = None

    def data_flags(self, folder: str | None) -> list[str]:
        """The flags by which every script finds the images."""
        if folder is None:
            return ["--dataset_name", self.data]
        size = [] if self.image_size is None else ["--image_size", str(self.image_size)]
        return [*(["--dataset_name", self.dataset_name] if self.dataset_name else []), *size, "--data_dir", folder]


RECIPES = {
    "digits": Recipe("train_joint", "digits"),
    "digits-captions": Recipe("train_text_image", "digits-captions"),
    "fashion-mnist": Recipe("train_joint", "fashion-mnist", "fashion_mnist", "fashion-mnist"),
    "emoji": Recipe("train_joint", "images-32", "emoji", image_size=32),
}


def make_parser() -> argparse.ArgumentParser:
    parser = StrictParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--models", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="which; default: all"
    )
    parser.add_argument("--fashion_mnist", metavar="DIR", help="folder of the files of Fashion-MNIST")
    parser.add_argument("--emoji", metavar="DIR", help="folder that make_emoji_images.py wrote")
    parser.add_argument("--output_dir", metavar="DIR", default="outputs/models", help="where all goes")
    parser.add_argument("--license", metavar="ID", help="licence of the weights, as the Hub names it, for the cards")
    parser.add_argument(
        "--max_train_steps", type=int, metavar="N", help="steps of every training; default: the preset's"
    )
    parser.add_argument(
        "--num_samples", type=int, default=2000, metavar="N", help="generated images that are measured"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Makes the models by the command line `argv` (None: that of the process). Returns their folders."""
    args = make_parser().parse_args(argv)
    root, made = Path(args.output_dir), []
    for name in args.models:
        recipe, folder = RECIPES[name], None
        if recipe.data != "digits":
            folder = getattr(args, recipe.data)
            if folder is None:
                print(f"{name} is left out: its images are not here. Pass --{recipe.data} DIR.")
                continue
        made.append(make_model(name, recipe, recipe.data_flags(folder), root, args))
    for path in made:
        print(f"{path}: lzn export hub {path} --push_to_hub YOU/lzn-{path.name}")
    return made


def make_model(name: str, recipe: Recipe, data: list[str], root: Path, args: argparse.Namespace) -> Path:
    """Trains, measures and exports one model, or what of that is missing. Returns its folder."""
    run, features, folder = root / "runs" / name, root / "features" / recipe.data, root / name
    if folder.is_dir():
        print(f"{name} is there already: {folder}")
        return folder
    steps = [] if args.max_train_steps is None else ["--max_train_steps", str(args.max_train_steps)]
    seed = ["--seed", str(args.seed)]
    if not (run / "model.safetensors").is_file():
        go_on = ["--resume_from_checkpoint", "latest"] if list_checkpoints(run) else []
        in_preset = [] if recipe.data == "digits" else data[-2:]
        run_module(
            recipe.script, "--preset", recipe.preset, *in_preset, "--output_dir", str(run), *steps, *seed, *go_on
        )
    if not features.is_dir():
        run_command(str(EXAMPLES / "train_metric_features.py"), *data, "--output_dir", str(features), *steps, *seed)
    measured = ["--model_name_or_path", str(run), *data, *seed]
    generation = ["--feature_extractor", str(features), "--num_samples", str(args.num_samples), "--update_model_card"]
    run_module("commands.evaluate_generation", *measured, *generation, "--output_dir", str(run))
    run_module("commands.evaluate_representation", *measured)
    licence = [] if args.license is None else ["--license", args.license]
    run_module("commands.export_to_hub", str(run), "--output_dir", str(folder), *licence)
    return folder


def run_module(module: str, *arguments: str) -> None:
    run_command("-m", f"lzn_hf.{module}", *arguments)


def run_command(*arguments: str) -> None:
    """Runs Python with these arguments; its output is shown. Ends this script where it fails."""
    print("$ python", *arguments, flush=True)
    code = subprocess.run([sys.executable, *arguments]).returncode
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    run_as_script(main)
