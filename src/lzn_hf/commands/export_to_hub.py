# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Completes a saved model for others: with the code that opens it where lzn_hf is not installed, and pushes it to the Hub.

    lzn export hub outputs/digits --output_dir shared/digits                  # write the folder, to look at it first
    lzn export hub outputs/digits --push_to_hub me/lzn-digits --license mit   # upload it
    lzn export hub outputs/digits --push_to_hub me/lzn-digits --private       # a new repository that only you see

FOLDER is what a training script, `save_pretrained` or `convert_original_checkpoint.py` wrote. Of a run, checkpoints, logs and metrics are
left out. With --push_to_hub and without --output_dir, FOLDER stays as it is; with neither, the files are added to FOLDER itself.

What is written:
  config.json, model.safetensors, ...   as saved; config.json names the classes that the auto classes of transformers load
  *.py                                  the code that `trust_remote_code=True` runs, from this copy of lzn_hf
  README.md                             the model card: yours, completed, or a new one
  samples.png, examples/*.png           generated images, unless the folder has them (never images of your data)
  .eval_results/*.yaml                  the results of the card, if the data has an id on the Hub (--dataset_id)
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
import transformers
from PIL import Image

from ..card_lzn import label_names
from ..evaluation.sharing import export_folder
from ..evaluation.uploads import export_and_upload, prepare_repository, upload
from ..training.command_line import StrictParser, run_as_script
from ..visualization.grids import image_grid


logger = logging.getLogger("export_to_hub")

COLUMNS, ROWS = 4, 10  # of a grid of samples: at most so many labels, one row each


def make_parser() -> argparse.ArgumentParser:
    parser = StrictParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", metavar="FOLDER", help="the saved model")
    parser.add_argument("--output_dir", metavar="DIR", help="write the complete folder here: new or empty, or FOLDER")
    parser.add_argument(
        "--push_to_hub", metavar="REPO", help="upload it to this repository, user/name, made if needed"
    )
    parser.add_argument("--private", action="store_true", help="only you may see a repository that is made")
    parser.add_argument(
        "--license",
        metavar="ID",
        help="licence of the weights, as the Hub names it: mit, apache-2.0, cc-by-4.0, ... Without it the card keeps its own, or has none",
    )
    parser.add_argument(
        "--dataset_id", metavar="ID", help="id on the Hub of the data that the model was trained and measured on"
    )
    return parser


def draw_samples(pipe: Any) -> Image.Image:
    """A grid of samples: a row for each of the first labels."""
    names = label_names(pipe.model.config)[:ROWS]
    labels = list(range(len(names))) or None
    count = COLUMNS if names else COLUMNS * COLUMNS
    images = pipe(label=labels, num_images_per_label=count, generator=torch.Generator().manual_seed(0)).images
    return image_grid(images, COLUMNS, row_labels=names or None)


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    for name in ("httpx", "httpx2"):  # one line for each request
        logging.getLogger(name).setLevel(logging.WARNING)
    if args.private and not args.push_to_hub:
        raise ValueError("`--private` is for the repository of `--push_to_hub`, which is not given.")
    repo_id = prepare_repository(args.push_to_hub, args.private or None) if args.push_to_hub else None
    options = {"license": args.license, "dataset_id": args.dataset_id, "draw_samples": draw_samples}
    if repo_id is not None and args.output_dir is None:
        logger.info("Uploaded %s to %s", args.folder, export_and_upload(args.folder, repo_id, **options))
        return
    folder = export_folder(args.folder, args.output_dir or args.folder, model_id=repo_id, **options)
    logger.info("Wrote %s", folder)
    if repo_id is not None:
        logger.info("Uploaded %s to %s", folder, upload(folder, repo_id))


if __name__ == "__main__":
    run_as_script(main)
