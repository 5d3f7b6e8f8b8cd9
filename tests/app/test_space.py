# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The example of a Space runs as it is, and says what the Hub needs to know."""

from __future__ import annotations

import runpy

import pytest
import yaml
from helpers import ROOT
from helpers.pipelines import make_pipeline
from packaging.requirements import Requirement


SPACE = ROOT / "examples" / "space"


def front_matter() -> dict:
    return yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])


def test_the_space_builds_the_page_of_its_model(tmp_path, monkeypatch):
    gr = pytest.importorskip("gradio", reason='gradio is not installed (pip install "lzn_hf[app]")')
    make_pipeline().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LZN_MODEL", raising=False)
    monkeypatch.delenv("LZN_IMAGES", raising=False)
    app = runpy.run_path(str(SPACE / front_matter()["app_file"]))["app"]
    assert isinstance(app, gr.Blocks) and app.title.endswith("/model · Latent Zoning Network")


def test_the_front_matter_fits_the_package():
    matter = front_matter()
    assert matter["sdk"] == "gradio" and (SPACE / matter["app_file"]).is_file()
    assert f"gradio=={matter['sdk_version']}\n" in (ROOT / "constraints.txt").read_text()
    # What the Hub allows: https://huggingface.co/docs/hub/spaces-config-reference
    assert (
        len(matter["short_description"]) <= 60
        and matter["colorFrom"] in HUB_COLOURS
        and matter["colorTo"] in HUB_COLOURS
    )
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    (requirement,) = [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]
    assert requirement.name == "lzn_hf" and requirement.extras == {"app"}


HUB_COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
