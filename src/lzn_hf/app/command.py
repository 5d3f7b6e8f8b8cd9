# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`lzn app MODEL`: opens the page of a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def make_parser() -> argparse.ArgumentParser:
    """Builds the parser of the command."""
    parser = argparse.ArgumentParser(
        description="Opens a page in which to play with a model: a map of its latent zones, generation, classification, editing.",
        epilog="Example: lzn app outputs/demo/model --images photos --port 7860",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a saved model")
    parser.add_argument("--images", metavar="DIR", help="folder of images, to look for similar ones in")
    parser.add_argument("--host", help="address to listen on, 0.0.0.0 for other machines; default: this machine alone")
    parser.add_argument("--port", type=int, help="port; default: the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="open a public link for a week, over gradio's servers")
    parser.add_argument("--max_images", type=int, default=16, help="pictures that a user may ask for at once")
    parser.add_argument("--max_steps", type=int, default=100, help="steps of the image flow that a user may ask for")
    parser.add_argument(
        "--max_reference_images", type=int, default=2000, help="images of the folder that are compared"
    )
    parser.add_argument("--max_at_once", type=int, default=2, help="requests that are computed at the same time")
    parser.add_argument("--max_waiting", type=int, default=64, help="requests that may wait for their turn")
    parser.add_argument("--max_upload_mb", type=int, default=20, help="the largest file that a user may send, in MB")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Serves the page until it is interrupted.

    Args:
        argv (list of `str`, *optional*): the arguments; default: those of the process.
    """
    parser = make_parser()
    options = vars(parser.parse_args(argv))
    serving = {name: options.pop(name) for name in ("host", "port", "share", "max_upload_mb")}
    try:
        from .page import build_app, launch_app
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        parser.exit(1, "error: the page needs gradio, which is not installed: pip install 'lzn_hf[app]'\n")
    try:
        app = build_app(options.pop("model"), **options)
        launch_app(app, **serving)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")


__all__ = ["main", "make_parser"]
