# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Hooks of MkDocs for `make docs`: the pages of `docs/` are written for GitHub, and these make a site of them.

- Links out of `docs/` lead to pages of the site that show the file, so that the site is complete without a network.
- `<!-- site: LINE -->`, which GitHub does not show, is replaced by LINE: the API reference and figures that need JavaScript.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = "repository/"  # the pages of files outside of docs/
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")
SITE_ONLY = re.compile(r"<!-- site: (.*?)\s*-->", flags=re.DOTALL)
FENCE = re.compile(r"^ *```.*?^ *```$", flags=re.MULTILINE | re.DOTALL)
LANGUAGES = {
    ".cfg": "ini",
    ".json": "json",
    ".py": "py",
    ".sh": "sh",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
}


def uri_of(path: str) -> str:
    """The place in the site of a path of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return ELSEWHERE + path + ("" if path.endswith(".md") else ".md")


def path_of(uri: str) -> str:
    """The path in the repository of a page of the site."""
    if not uri.startswith(ELSEWHERE):
        return f"docs/{uri}"
    path = uri.removeprefix(ELSEWHERE)
    return path if (ROOT / path).is_file() else path.removesuffix(".md")


def targets(path: str, text: str) -> Iterator[str]:
    """The paths of the repository that a page links to."""
    for link in LINK.findall(FENCE.sub("", text)):
        if "://" not in link:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
            if (ROOT / target).exists():
                yield target


def relink(text: str, path: str) -> str:
    """The links of the page at `path`, turned into those of the site."""

    def turn(link: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[1]))
        if "://" in link[1] or not (ROOT / target).exists():
            return link[1]
        return posixpath.relpath(uri_of(target), posixpath.dirname(uri_of(path)) or ".")

    fences = FENCE.findall(text)
    parts = [LINK.sub(turn, part) for part in FENCE.split(text)]
    return "".join(part + fence for part, fence in zip(parts, [*fences, ""], strict=True))


def show(path: str) -> str:
    """The Markdown of the page that shows a file or folder of the repository."""
    place = ROOT / path
    if path.endswith(".md"):
        return place.read_text(encoding="utf-8")
    if place.is_dir():
        names = sorted(one.name for one in place.iterdir() if not one.name.startswith((".", "__")))
        return f"# {path}\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
    return f"# {path}\n\n````{LANGUAGES.get(place.suffix, 'text')}\n{place.read_text(encoding='utf-8')}````\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each file outside of `docs/` that a page links to, and for those that these link to by Markdown."""
    to_read = [path_of(file.src_uri) for file in files.documentation_pages()]
    to_read += ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"]
    seen = set(to_read)
    while to_read:
        path = to_read.pop()
        if not path.startswith("docs/"):
            files.append(File.generated(config, uri_of(path), content=show(path)))
        if path.endswith(".md"):
            new = set(targets(path, show(path))) - seen
            new = {one for one in new if not one.startswith("docs/")}
            seen |= new
            to_read += sorted(new)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns the links of a page, and shows what is for the site alone."""
    return SITE_ONLY.sub(r"\1", relink(markdown, path_of(page.file.src_uri)))
