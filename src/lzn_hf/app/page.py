# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The page of one model, and its server.

It runs without internet: the fonts are those of the browser, and gradio sends nothing about its use.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from ..pipeline_lzn import LZNPipeline
from .controls import HERE, Controls
from .studio import Studio


def build_app(
    model: str | os.PathLike | LZNPipeline,
    images: str | os.PathLike | None = None,
    *,
    max_images: int = 16,
    max_steps: int = 100,
    max_reference_images: int = 2000,
    max_at_once: int = 2,
    max_waiting: int = 64,
) -> gr.Blocks:
    """Builds the page of a model. [`launch_app`] serves it.

    Args:
        model (`str`, `os.PathLike` or [`LZNPipeline`]): folder or Hub id of a saved pipeline, or a loaded one.
        images (`str` or `os.PathLike`, *optional*): folder of images, in which pictures like that of a user are looked for.
        max_images (`int`, *optional*, defaults to 16): pictures that a user may ask for at once.
        max_steps (`int`, *optional*, defaults to 100): steps of the image flow that a user may ask for.
        max_reference_images (`int`, *optional*, defaults to 2000): images of the folder that are compared, evenly spaced over it.
        max_at_once (`int`, *optional*, defaults to 2): requests of each kind that are computed at the same time. Others wait.
        max_waiting (`int`, *optional*, defaults to 64): requests that may wait. Others are told that the queue is full.

    Returns:
        `gradio.Blocks`: the page, with what the model can do and nothing else.

    Raises:
        ValueError: as [`Studio`], and for a model folder that [`LZNPipeline`] refuses.
    """
    if not isinstance(model, LZNPipeline):
        name = "/".join(Path(model).resolve().parts[-2:]) if os.path.isdir(model) else os.fspath(model)
        model = LZNPipeline.from_pretrained(os.fspath(model))
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        model.set_progress_bar_config(disable=True)
    else:
        name = type(model.model).__name__
    limits = {"max_images": max_images, "max_steps": max_steps, "max_reference_images": max_reference_images}
    page = Controls(Studio(model, images, **limits), name)
    page.blocks.queue(default_concurrency_limit=max_at_once, max_size=max_waiting)
    return page.blocks


def launch_app(
    app: gr.Blocks,
    *,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    max_upload_mb: int = 20,
    block: bool = True,
) -> str:
    """Serves a page of [`build_app`] in the look that it was made for.

    Args:
        app (`gradio.Blocks`): the page.
        host (`str`, *optional*): the address to listen on; default: this machine alone, or what `GRADIO_SERVER_NAME` says.
        port (`int`, *optional*): the port; default: the first free one from 7860 on.
        share (`bool`, *optional*, defaults to `False`): whether to open a public link over gradio's servers.
        max_upload_mb (`int`, *optional*, defaults to 20): the largest file that a user may send.
        block (`bool`, *optional*, defaults to `True`): whether to return only when the server ends.

    Returns:
        `str`: the address of the page on this machine.
    """
    _, address, _ = app.launch(
        server_name=host,
        server_port=port,
        share=share,
        max_file_size=f"{max_upload_mb}mb",
        prevent_thread_lock=True,
        ssr_mode=False,
        footer_links=["api", "settings"],
        theme=_theme(),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
    )
    if block:
        app.block_thread()
    return address


def _theme() -> gr.themes.Base:
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", radius_size="lg", **fonts)


__all__ = ["build_app", "launch_app"]
