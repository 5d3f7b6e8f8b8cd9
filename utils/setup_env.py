# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Makes the virtual environment `.venv` that `make demo` and `make test` run in, or reuses it if nothing has changed.

    python3 utils/setup_env.py [--torch cpu|default]

Standard library only, because nothing is installed yet when it runs. Annotations stay plain, so that a Python that is
too old for lzn_hf still gets as far as the message that says so.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 10)
EXTRAS = "test,upstream,quality"  # `test` holds `demo`: one environment serves every command
INPUTS = ("setup.cfg", "pyproject.toml", "constraints.txt", "utils/setup_env.py")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
# Lies inside the environment: says what it was made from, and whether making it came to its end.
STAMP = "lzn_hf_stamp.json"


def check_python(version):
    """Stops with an explanation if `version`, a `(major, minor, ...)` tuple, is older than `OLDEST_PYTHON`."""
    if tuple(version[:2]) < OLDEST_PYTHON:
        raise SystemExit(
            "lzn_hf needs Python {}.{} or newer, and `{}` is Python {}.{}. Name a newer one: make <command> "
            "PYTHON=python3.12".format(*OLDEST_PYTHON, sys.executable, *version[:2])
        )


def has_nvidia_gpu() -> bool:
    """Returns whether `nvidia-smi` is there, works, and lists a GPU."""
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return False
    answer = subprocess.run([nvidia_smi, "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return answer.returncode == 0 and "GPU 0" in answer.stdout


def torch_build(system: str, has_gpu: bool) -> str:
    """Returns the build of torch to install on a `platform.system()`: "cpu", or "default" for PyPI's plain wheel.

    The plain wheel is a CUDA build of several gigabytes on Linux, and a CPU (or Metal) build elsewhere.
    """
    return "cpu" if system == "Linux" and not has_gpu else "default"


def torch_requirement(constraints: str, build: str) -> str:
    """Returns the exact requirement, such as "torch==2.13.0+cpu", for the pin in the text of constraints.txt."""
    pin = re.search(r"^torch==[\w.]+", constraints, flags=re.MULTILINE)
    if pin is None:
        raise SystemExit("constraints.txt does not pin torch: a line such as `torch==2.13.0` is missing.")
    return pin.group() + ("+cpu" if build == "cpu" else "")


def pip_python(python: Path) -> str:
    """Returns the version, such as "3.11", of the Python that runs the environment's pip; "" without a working pip."""
    if not python.exists():
        return ""
    answer = subprocess.run(
        [str(python), "-m", "pip", "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    version = re.search(r"\(python ([\d.]+)\)", answer.stdout)
    return version.group(1) if version else ""


def next_action(stamp, wanted: dict, exists: bool, usable: bool) -> str:
    """Returns what to do about the environment: "reuse", "update" or "create" it.

    A folder without a stamp is somebody's own: it is installed into, or left alone, but never deleted.

    Args:
        stamp: Stamp found in the environment, `None` without one.
        wanted: Stamp that a fresh environment would get.
        exists: Whether the environment's folder is there.
        usable: Whether a pip of the wanted Python version runs in it.
    """
    if not exists:
        return "create"
    if stamp is None:
        if usable:
            return "update"
        raise SystemExit(
            "The folder {} was not made by this command and has no pip for Python {}. Move it away, then run this "
            "command again.".format(wanted["path"], wanted["python"])
        )
    # Scripts inside an environment name its path; a half-finished installation can look complete to pip.
    if not usable or any(stamp.get(key) != wanted[key] for key in ("state", "path", "python", "torch")):
        return "create"
    return "reuse" if stamp == wanted else "update"


def write_stamp(env: Path, stamp: dict) -> None:
    """Writes the stamp into `env` in one step, so that it is never half there."""
    scratch = env / (STAMP + ".new")
    scratch.write_text(json.dumps(stamp, indent=1))
    os.replace(scratch, env / STAMP)


def run(*command) -> None:
    """Runs `command` in the repository and shows its output; stops if it fails."""
    code = subprocess.run([str(part) for part in command], cwd=ROOT).returncode
    if code:
        raise SystemExit("Set-up stopped: `{}` failed (exit status {}).".format(" ".join(map(str, command)), code))


def install_torch(python: Path, requirement: str) -> None:
    """Installs torch alone, without its dependencies: "torch==2.13.0+cpu" as a CPU build or not at all."""
    install = [str(python), "-m", "pip", "install", "--no-deps", requirement]
    if not requirement.endswith("+cpu"):
        return run(*install)
    # PyPI has no "+cpu" versions, but a mirror or wheel folder set up in pip's configuration may.
    print(f"Looking for {requirement} in the package sources that pip is set up with", flush=True)
    first = subprocess.run(install, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if first.returncode == 0:
        return None
    print(f"Not there. Installing it from {CPU_WHEELS}", flush=True)
    if subprocess.run([*install, "--index-url", CPU_WHEELS]).returncode:
        raise SystemExit(
            f"\n{first.stdout}\n{requirement} was found neither in pip's package sources (above) nor at {CPU_WHEELS}. This machine "
            "has no working NVIDIA GPU, so the CUDA build of several gigabytes is not installed unasked. You can\n"
            f"  - let pip reach {CPU_WHEELS}, or put the wheel into a folder and set PIP_FIND_LINKS to it; or\n"
            "  - take PyPI's default build all the same: make <command> TORCH=default"
        )
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes or reuses the environment of lzn_hf.")
    parser.add_argument(
        "--torch", choices=("cpu", "default"), help="build of torch; default: cpu without an NVIDIA GPU"
    )
    args = parser.parse_args()
    check_python(sys.version_info)
    started = time.monotonic()

    env = ROOT / ".venv"
    python = env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = json.loads((env / STAMP).read_text()) if (env / STAMP).exists() else None
    # The build is chosen once: a cluster's login node without a GPU does not undo what its GPU node installed.
    build = args.torch or (stamp or {}).get("torch") or torch_build(platform.system(), has_nvidia_gpu())
    wanted = {
        "state": "ready",
        "path": str(env),
        "python": "{}.{}".format(*sys.version_info[:2]),
        "torch": build,
        "inputs": hashlib.sha256(b"\0".join((ROOT / name).read_bytes() for name in INPUTS)).hexdigest(),
    }
    action = next_action(stamp, wanted, env.exists(), pip_python(python) == wanted["python"])
    if action == "reuse":
        return

    installing = {**wanted, "state": "installing"}
    if action == "create":
        print(f"Making the virtual environment {env}", flush=True)
        if env.exists():
            shutil.rmtree(env)
        env.mkdir()
        write_stamp(env, installing)
        # An activated environment may be the one to replace: make it with the Python beneath.
        run(getattr(sys, "_base_executable", sys.executable), "-m", "venv", env)
    elif stamp is not None:
        write_stamp(env, installing)
    requirement = torch_requirement((ROOT / "constraints.txt").read_text(), build)
    install_torch(python, requirement)
    # Naming torch again keeps pip from ever replacing it by another build.
    run(python, "-m", "pip", "install", "-c", "constraints.txt", requirement, "-e", f".[{EXTRAS}]")
    write_stamp(env, wanted)
    print(f"The environment {env} is ready ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
