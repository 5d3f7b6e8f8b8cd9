# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Pictures as the page shows them: enlarged without blur, in strips, and the map of the zones as a drawing."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

from PIL import Image

from ..visualization.zones import EDGE
from .zone_map import ZoneMap


MIN_SIZE = 128  # pixels of a picture on the page
NAME_RADIUS = 1.09  # where names stand beside the map, in radii of the disk
LETTER = 0.066  # width of their letters, likewise


def enlarge(image: Image.Image) -> Image.Image:
    """Enlarges a small picture to at least 128 pixels by repeating its pixels."""
    factor = -(-MIN_SIZE // min(image.size))
    return (
        image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST) if factor > 1 else image
    )


def data_url(image: Image.Image) -> str:
    """Returns a picture as a URL that holds it, as PNG."""
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def strip(images: Sequence[Image.Image], captions: Sequence[str], what: str, columns: int = 4) -> str:
    """Draws pictures in rows, each with its caption.

    Args:
        images, captions (lists of one length): the pictures.
        what (`str`): what they are, for people who do not see them.
        columns (`int`, *optional*, defaults to 4): pictures in a row, at most four of them on a telephone.

    Returns:
        `str`: HTML. A picture is a link that saves it.
    """
    figures = []
    for number, (image, caption) in enumerate(zip(images, captions, strict=True), start=1):
        text, url = escape(caption, quote=True), data_url(enlarge(image))
        name = escape(f"{what} {number}", quote=True)
        figures.append(
            f'<figure><a href="{url}" download="{name}.png" title="Save {name}"><img src="{url}" alt="{name}: {text}"></a>'
            f"<figcaption>{text}</figcaption></figure>"
        )
    columns = min(columns, len(images))
    style = f"--columns: {columns}; --narrow: {min(columns, 4)}"
    label = escape(what, quote=True)
    return f'<div class="lzn-strip" style="{style}" role="group" aria-label="{label}">{"".join(figures)}</div>'


def evenly(items: Sequence, number: int) -> list:
    """Returns at most `number` items, evenly spaced, both ends among them."""
    if len(items) <= number:
        return list(items)
    return [items[round(i * (len(items) - 1) / (number - 1))] for i in range(number)]


def draw_map(
    zone_map: ZoneMap,
    dots: Sequence[tuple[float, float]] = (),
    middle: tuple[float, float] | None = None,
    title: str = "Map of the latent zones",
) -> str:
    """Draws the map of the zones as SVG, in the colours of the theme.

    Args:
        zone_map ([`ZoneMap`]): the map.
        dots (list of pairs, *optional*): places of latents on it.
        middle (pair, *optional*): the place of one more, drawn larger.
        title (`str`, *optional*): what is to be seen, for people who do not see it.
    """
    places = zone_map.name_places()
    names = [
        f'<text x="{NAME_RADIUS * x:.3f}" y="{-NAME_RADIUS * y:.3f}" text-anchor="{_side(x)}" fill="{colour}">{escape(name)}</text>'
        for name, x, y, colour in places
    ]
    marks = [f'<circle class="dot" cx="{x:.4f}" cy="{-y:.4f}" r="0.018"/>' for x, y in dots]
    if middle is not None:
        marks.append(f'<circle class="middle" cx="{middle[0]:.4f}" cy="{-middle[1]:.4f}" r="0.04"/>')
    half = max(NAME_RADIUS * abs(x) + LETTER * len(name) / (1 + (_side(x) == "middle")) for name, x, *_ in places)
    half = max(half, NAME_RADIUS + LETTER)
    return (
        f'<svg class="lzn-zones" viewBox="{-half:.2f} -1.2 {2 * half:.2f} 2.4" role="img" aria-label="{escape(title, quote=True)}">'
        f'<image href="{data_url(zone_map.background())}" x="{-EDGE}" y="{-EDGE}" width="{2 * EDGE}" height="{2 * EDGE}"/>'
        f'<circle class="disk" r="1"/>{"".join(names)}<g class="marks">{"".join(marks)}</g></svg>'
    )


def _side(x: float) -> str:
    """Which end of a name stands at its place, so that it lies outside of the disk."""
    return "start" if x > 0.3 else "end" if x < -0.3 else "middle"


__all__ = ["data_url", "draw_map", "enlarge", "evenly", "strip"]
