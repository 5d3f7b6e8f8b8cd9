# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Source distribution and wheel, and a new environment that has nothing but the wheel and the dependencies."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.message import Message
from pathlib import Path

import pytest
from helpers import ROOT


SOURCES = ("setup.py", "setup.cfg", "pyproject.toml", "LICENSE", "README.md")
LARGEST_WHEEL = 2**20
PICTURE = r"!\[[^]]*\]\((?!https?://)"
LINK = r"\[[^]]*\]\((?!https?://)"


def make_tree(folder: Path) -> Path:
    """A copy of what a build reads, as a clone has it."""
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignored)
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    return folder


def build(kind: str, tree: Path, output: Path) -> Path:
    """Builds as pip does, by the backend that pyproject.toml names, without its isolation."""
    code = f"import sys, setuptools.build_meta as backend; backend.build_{kind}(sys.argv[1])"
    answer = subprocess.run([sys.executable, "-c", code, output], cwd=tree, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (built,) = output.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return built


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    return build("sdist", make_tree(folder / "tree"), folder)


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """The wheel that pip makes of the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return build("wheel", tree, folder)


def test_wheel_holds_the_package_with_its_data_and_licence_and_nothing_else(wheel):
    package = ROOT / "src" / "lzn_hf"
    modules = [path for name in ("lzn_hf", "lzn_cli") for path in (ROOT / "src" / name).rglob("*.py")]
    data = [
        path
        for pattern in ("presets/*/*.json", "captions/*.json", "app/*.js", "app/*.css")
        for path in package.glob(pattern)
    ]
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (*modules, *data)}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == sources | {"lzn_hf/py.typed"}
    assert {"lzn_hf/train_joint.py", "lzn_hf/presets/joint/digits.json", "lzn_hf/captions/digits.json"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size <= LARGEST_WHEEL


def test_description_is_the_readme(wheel):
    metadata = metadata_of(wheel)
    assert metadata["Description-Content-Type"].startswith("text/markdown")
    assert metadata.get_payload(decode=True).decode().strip() == (ROOT / "README.md").read_text().strip()
    assert metadata.get_all("Project-URL") == ["Paper, https://arxiv.org/abs/2509.15591"]


def test_a_repository_makes_the_links_of_the_description_absolute(tmp_path):
    tree = make_tree(tmp_path / "tree")
    settings, line = (tree / "setup.cfg").read_text(), "project_urls =\n"
    assert settings.count(line) == 1
    repository = "https://example.org/someone/lzn_hf"
    (tree / "setup.cfg").write_text(settings.replace(line, f"{line}    Repository = {repository}/\n"))
    text = metadata_of(build("wheel", tree, tmp_path)).get_payload(decode=True).decode()
    readme = (ROOT / "README.md").read_text()
    assert len(re.findall(LINK, readme)) > 10 and not re.findall(LINK, text)
    assert text.count(f"]({repository}/raw/main/docs/images/") == len(re.findall(PICTURE, readme))
    assert f"]({repository}/blob/main/docs/quick_tour.md)" in text


# ---------------------------------------------------------------- the wheel alone


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of a new environment: the wheel, and the dependencies of this environment without its lzn_hf."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    # A path in a .pth file is taken as it is: the .pth files there, such as that of an editable install, are not read.
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(paths)))
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    answer = subprocess.run(install, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return python


def run(folder: Path, *command: str | Path) -> str:
    """Standard output of a command in a folder outside the clone."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.slow
def test_the_wheel_trains_without_a_clone(python, tmp_path):
    assert str(python.parents[1]) in run(tmp_path, python, "-c", "import lzn_hf; print(lzn_hf.__file__)")
    launch = [python, "-m", "accelerate.commands.launch", "-m", "lzn_hf.train_joint"]
    lzn = python.with_name("lzn")
    for start, folder in ((launch, "launched"), ([lzn, "train", "joint"], "by lzn")):
        run(tmp_path, *start, "--preset", "digits", "--max_train_steps", "2", "--output_dir", folder)
        names = {path.name for path in (tmp_path / folder).iterdir()}
        assert {"model.safetensors", "samples.png", "README.md"} <= names
    run(tmp_path, lzn, "generate", "by lzn", "--label", "7", "--num", "2", "--steps", "2", "--out", "sevens.png")
    assert (tmp_path / "sevens.png").stat().st_size > 100
