# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`make docs`: the site builds without a warning, its links lead somewhere, and it needs nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from helpers import ROOT


pytest.importorskip("mkdocs", reason="mkdocs is not installed: it comes with the extra `docs`")


class Page(HTMLParser):
    """The links, resources and anchors of a page, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag in ("img", "script", "iframe", "source") and values.get("src"):
            self.resources.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.resources.append(values["href"])

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Page]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in sorted(folder.rglob("*.html"))}


def test_every_link_leads_somewhere(site):
    for path, page in site.items():
        if path.name == "404.html":  # its links are those of a server
            continue
        for link in [*page.links, *page.resources]:
            parts = urlsplit(link)
            if parts.scheme not in ("http", "https", "mailto"):
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                assert target.is_file(), f"{path.name}: {link}"
                if parts.fragment and target.suffix == ".html":
                    assert unquote(parts.fragment) in site[target].anchors, f"{path.name}: {link}"


def test_nothing_comes_from_elsewhere(site):
    for path, page in site.items():
        if path.name != "404.html":
            assert not [one for one in page.resources if urlsplit(one).netloc], path
    for path in next(iter(site)).parent.rglob("*.css"):
        assert not re.findall(r"@import|url\(['\"]?https?:", path.read_text(encoding="utf-8")), path


def test_the_reference_shows_the_docstrings(site):
    (page,) = (page for path, page in site.items() if path.name == "api.html")
    names = ["LZNPipeline", "LZNModel", "LZNConfig", "LZNForImageClassification", "LZNImageProcessor", "LZNProcessor"]
    for name in [*names, "LZNPipeline.__call__", "LZNModel.predict_velocity"]:
        assert any(anchor.startswith("lzn_hf.") and anchor.endswith(f".{name}") for anchor in page.anchors), name
    text = " ".join(page.text.split())
    assert "noise (Tensor of shape (B, D)): prior noise of each row." in text
    assert "guidance_scale (float" in text and "ValueError: if a shape does not fit" in text
    assert ":::" not in text and "Args:" not in text


def test_figures_that_move_are_in_their_page(site):
    (page,) = (page for path, page in site.items() if path.name == "how_zones_work.html")
    assert "figures/zones.html" in page.resources
    assert not any("<!-- site:" in path.read_text(encoding="utf-8") for path in site)


def test_every_page_of_docs_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f": {path.name}\n" not in text] == []
