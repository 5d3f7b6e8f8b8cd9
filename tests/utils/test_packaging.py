# Copyright 2026 The lzn_hf authors. Apache-2.0.
from __future__ import annotations

import ast
import configparser
import importlib.metadata
import importlib.util
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


# A CPU build of torch has no CUDA packages; torch's own metadata pins them for the other.
CUDA_PACKAGES = ("nvidia-", "cuda-", "triton")
# Their wheels need a CUDA build of torch: on any other, having them installed breaks `import transformers`.
FORBIDDEN = {"torchvision", "timm"}
# Import names of everything that only an extra brings.
EXTRAS_ONLY = {
    "accelerate",
    "datasets",
    "evaluate",
    "fontTools",
    "gradio",
    "matplotlib",
    "pandas",
    "parameterized",
    "peft",
    "pyarrow",
    "pytest",
    "scipy",
    "sklearn",
    "tensorboard",
}
PUBLIC_NAMES = "LZNConfig, LZNForImageClassification, LZNImageProcessor, LZNModel, LZNPipeline, latent_zones"


@pytest.fixture(scope="module")
def setup_env() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "utils" / "setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def direct_requirements(setup_cfg: configparser.RawConfigParser) -> list[Requirement]:
    """What setup.cfg asks for, core and extras, without the extras' references to one another."""
    blocks = [setup_cfg["options"]["install_requires"], *setup_cfg["options.extras_require"].values()]
    lines = [line for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != "lzn_hf"]


def pinned_versions(python: str) -> dict[str, str]:
    """Package to version of constraints.txt for one version of Python on this platform."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                name = canonicalize_name(requirement.name)
                (specifier,) = requirement.specifier
                assert specifier.operator == "==", line
                assert name not in pins, f"{name} is pinned twice for Python {python}"
                pins[name] = specifier.version
    return pins


def run_python(code: str) -> str:
    """Standard output of `code` in a fresh interpreter that can import lzn_hf, installed or not."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


# ---------------------------------------------------------------- the package


def test_import_is_light(setup_cfg):
    """Importing lzn_hf adds no dependency of an extra to those that transformers and diffusers import themselves."""
    output = run_python(
        f"""
import sys
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_backends import PilBackend
before = set(sys.modules)
import lzn_hf
from lzn_hf import {PUBLIC_NAMES}
print(lzn_hf.__version__, *sorted({EXTRAS_ONLY!r} & (set(sys.modules) - before)))
"""
    )
    version, *added = output.split()
    assert not added, f"importing lzn_hf also imports {added}"
    assert version == setup_cfg["metadata"]["version"]


def test_import_needs_no_extra():
    """With every dependency of the extras out of sight, as after `pip install lzn_hf`, all public names and commands are there."""
    run_python(
        f"""
import sys
from importlib.machinery import PathFinder

class CoreOnly(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {EXTRAS_ONLY!r} else super().find_spec(name, path, target)

sys.meta_path = [CoreOnly if finder is PathFinder else finder for finder in sys.meta_path]
from lzn_hf import {PUBLIC_NAMES}
from lzn_cli.main import main
from lzn_hf.commands import describe, generate, recognise
"""
    )


# ---------------------------------------------------------------- dependencies


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_constraints_pin_every_direct_dependency(setup_cfg, python):
    pins = pinned_versions(python)
    for requirement in direct_requirements(setup_cfg):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt does not pin {requirement.name} for Python {python}"
        assert requirement.specifier.contains(version), f"constraints.txt has {version} for {requirement}"


def test_constraints_are_complete(setup_cfg):
    """Everything that the dependencies depend on in this environment is pinned too."""
    pins = pinned_versions("{}.{}".format(*sys.version_info[:2]))
    waiting, seen = direct_requirements(setup_cfg), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name.startswith(CUDA_PACKAGES):
            continue
        assert name in pins, f"constraints.txt does not pin {name}"
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                needs = map(Requirement, importlib.metadata.requires(name) or ())
                waiting += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]


def test_constraints_leave_cuda_to_torch():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert not line.startswith(CUDA_PACKAGES), line


def test_nothing_depends_on_torchvision_or_timm(setup_cfg):
    assert not FORBIDDEN & {requirement.name.lower() for requirement in direct_requirements(setup_cfg)}
    for python in ("3.10", "3.13"):
        assert not FORBIDDEN & set(pinned_versions(python))
    for path in ROOT.glob("examples/**/requirements*.txt"):
        assert not FORBIDDEN & set(re.findall(r"^[\w-]+", path.read_text().lower(), flags=re.MULTILINE)), path
    scripts = [
        path
        for folder in ("benchmarks", "examples", "metrics", "src", "tests", "utils")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert scripts
    for path in scripts:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not FORBIDDEN & {name.partition(".")[0] for name in names}, path


# ---------------------------------------------------------------- utils/setup_env.py


@pytest.mark.parametrize(
    ("system", "has_gpu", "requirement"),
    [
        ("Linux", False, "torch==2.13.0+cpu"),
        ("Linux", True, "torch==2.13.0"),
        ("Darwin", False, "torch==2.13.0"),
        ("Windows", False, "torch==2.13.0"),
        ("Windows", True, "torch==2.13.0"),
    ],
)
def test_torch_requirement(setup_env, system, has_gpu, requirement):
    constraints = "tokenizers==0.23.3\ntorch==2.13.0\n"
    assert setup_env.torch_requirement(constraints, setup_env.torch_build(system, has_gpu)) == requirement


def test_torch_requirement_needs_a_pin(setup_env):
    with pytest.raises(SystemExit, match="does not pin torch"):
        setup_env.torch_requirement("torchmetrics==1.9.0\n", "cpu")


@pytest.mark.parametrize("version", [(3, 9, 18), (2, 7, 18)])
def test_old_python_is_named(setup_env, version):
    with pytest.raises(SystemExit, match=r"needs Python 3\.10 or newer.*PYTHON="):
        setup_env.check_python(version)
    setup_env.check_python((3, 10, 0))


def make_script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("script", "has_gpu"),
    [
        (None, False),
        ("echo 'driver is not running'; exit 9", False),
        ("echo 'GPU 0: NVIDIA H100'", True),
        ("true", False),
    ],
    ids=["absent", "broken", "one GPU", "no GPU"],
)
def test_has_nvidia_gpu(setup_env, tmp_path, monkeypatch, script, has_gpu):
    if script is not None:
        make_script(tmp_path / "nvidia-smi", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup_env.has_nvidia_gpu() is has_gpu


@pytest.mark.parametrize("works", ["configured sources", "cpu wheels", "nothing"])
def test_cpu_torch_never_becomes_a_cuda_build(setup_env, tmp_path, works):
    """The stand-in for the environment's Python records each pip command and fails as the sources would."""
    outcome = {
        "configured sources": "true",
        "cpu wheels": 'case "$*" in *index-url*) true;; *) false;; esac',
        "nothing": "false",
    }
    python = make_script(tmp_path / "python", f'echo "$@" >> "{tmp_path}/calls"\n{outcome[works]}')
    if works == "nothing":
        with pytest.raises(SystemExit, match="TORCH=default"):
            setup_env.install_torch(python, "torch==2.13.0+cpu")
    else:
        setup_env.install_torch(python, "torch==2.13.0+cpu")
    plain = "-m pip install --no-deps torch==2.13.0+cpu"
    wheels = f"{plain} --index-url https://download.pytorch.org/whl/cpu"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ([plain] if works == "configured sources" else [plain, wheels])


WANTED = {"state": "ready", "path": "/here/.venv", "python": "3.11", "torch": "cpu", "inputs": "abc"}


@pytest.mark.parametrize(
    ("change", "action"),
    [
        ({}, "reuse"),
        ({"inputs": "older"}, "update"),
        ({"state": "installing"}, "create"),
        ({"path": "/elsewhere/.venv"}, "create"),
        ({"python": "3.10"}, "create"),
        ({"torch": "default"}, "create"),
    ],
    ids=["unchanged", "dependencies changed", "interrupted", "moved", "other Python", "other torch"],
)
def test_environment_is_reused_only_if_whole_and_current(setup_env, change, action):
    assert setup_env.next_action({**WANTED, **change}, WANTED, exists=True, usable=True) == action


def test_environment_that_is_absent_or_broken_is_created(setup_env):
    assert setup_env.next_action(None, WANTED, exists=False, usable=False) == "create"
    assert setup_env.next_action(WANTED, WANTED, exists=True, usable=False) == "create"


def test_environment_of_somebody_else_is_never_deleted(setup_env):
    assert setup_env.next_action(None, WANTED, exists=True, usable=True) == "update"
    with pytest.raises(SystemExit, match="was not made by this command"):
        setup_env.next_action(None, WANTED, exists=True, usable=False)


def test_stamp_is_replaced_in_one_step(setup_env, tmp_path):
    for state in ("installing", "ready"):
        setup_env.write_stamp(tmp_path, {"state": state})
        assert [path.name for path in tmp_path.iterdir()] == [setup_env.STAMP]
        assert state in (tmp_path / setup_env.STAMP).read_text()


def test_pip_python_finds_the_version_or_nothing(setup_env, tmp_path):
    assert setup_env.pip_python(Path(sys.executable)) == "{}.{}".format(*sys.version_info[:2])
    assert setup_env.pip_python(tmp_path / "absent") == ""
    assert setup_env.pip_python(make_script(tmp_path / "python", "exit 1")) == ""
