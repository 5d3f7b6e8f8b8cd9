# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The description for a package index: README.md with links that work outside the repository. All other metadata is in setup.cfg.

Links become absolute by the line `Repository = https://...` of `project_urls` in setup.cfg. Without it they stay as they are.
"""

import re
from configparser import RawConfigParser
from pathlib import Path

from setuptools import setup


ROOT = Path(__file__).resolve().parent


def absolute_links(markdown: str, repository: str) -> str:
    """Makes the relative links and pictures of the README absolute, by the form that GitHub, GitLab and the Hub share."""

    def absolute(link: re.Match) -> str:
        view = "raw" if link["picture"] else "blob"
        return f"{link['picture']}[{link['text']}]({repository}/{view}/main/{link['target']})"

    return re.sub(r"(?P<picture>!?)\[(?P<text>[^]]*)\]\((?!https?://|#)(?P<target>[^)]+)\)", absolute, markdown)


def description() -> str:
    """Returns README.md as a package index shows it."""
    config = RawConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    urls = dict(line.split(" = ", 1) for line in config["metadata"]["project_urls"].strip().splitlines())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return absolute_links(readme, urls["Repository"].rstrip("/")) if "Repository" in urls else readme


setup(long_description=description())
