# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""An extension of griffe, which reads the docstrings for the API reference of `make docs`.

Ours are in the style of Hugging Face, ``name (`type` of shape `(B, D)`, *optional*): what it is.``, with Markdown in the place of a
type. No parser of griffe reads that. Here each section becomes Markdown as a whole.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from griffe import Extension, Object


TITLES = {
    "Args": "Arguments",
    "Attributes": "Attributes",
    "Raises": "Raises",
    "Returns": "Returns",
    "Yields": "Yields",
}
SECTION = re.compile(rf"^({'|'.join(TITLES)}):\n((?:[ \t]+.*(?:\n|$)|\n)+)", flags=re.MULTILINE)
ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?=:| \()", flags=re.MULTILINE)
LINK = re.compile(r"\[(`[\w.]+`)\](?!\()")  # [`name`] is a link in the docs of transformers alone


def to_markdown(docstring: str) -> str:
    """A docstring with its sections as Markdown: a heading in bold, and a list of what they name."""

    def rewrite(section: re.Match) -> str:
        name, body = section[1], inspect.cleandoc(section[2])
        if name not in ("Returns", "Yields"):
            body = ENTRY.sub(lambda entry: "- " + ", ".join(f"**`{one}`**" for one in entry[1].split(", ")), body)
        return f"**{TITLES[name]}**\n\n{body}\n\n"

    return LINK.sub(r"\1", SECTION.sub(rewrite, docstring))


class HuggingFaceStyle(Extension):
    """Rewrites each docstring once it was read."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
