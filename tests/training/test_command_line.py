# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The command lines of all scripts: help, unknown flags, numbers that are not finite, and errors of one line."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from typing import get_type_hints

import pytest
import torch
from helpers import ROOT

from lzn_hf.training import command_line
from lzn_hf.training.arguments import flag
from lzn_hf.training.command_line import parse_command_line, require_finite, run_as_script
from lzn_hf.training.parsing import PRESETS_DIR, parse_arguments


TRAINING = ("lzn_hf.train_joint", "lzn_hf.train_representation", "lzn_hf.train_unconditional")
OF_DATA = (
    *TRAINING,
    "train_metric_features",
    "lzn_hf.commands.evaluate_generation",
    "lzn_hf.commands.evaluate_representation",
    "make_editing_pictures",
)
SCRIPTS = (*OF_DATA, "compare_generation", "compare_representations", "lzn_hf.commands.demo")
# Flags of accelerate and torchrun.
LAUNCHERS = {"num_processes", "num_machines", "multi_gpu", "nproc_per_node", "use_fsdp", "fsdp_version"}
LAUNCHERS |= {"fsdp_cpu_ram_efficient_loading", "fsdp_reshard_after_forward"}


def help_of(script: str, capsys) -> str:
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(script).main(["--help"])
    return capsys.readouterr().out


def flags_of(script: str, capsys) -> list[str]:
    """The flags that `--help` shows, in order."""
    lines = re.findall(r"^  (--\w+.*)", help_of(script, capsys), re.MULTILINE)
    return [name for line in lines for name in re.findall(r"(?<!\S)--([\w-]+)", re.split(r"  +", line)[0])]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_the_docstring_and_every_flag_once(script, capsys):
    printed = help_of(script, capsys)
    assert importlib.import_module(script).__doc__.strip() in printed
    flags = flags_of(script, capsys)
    assert len(flags) == len(set(flags)) >= 3 and not any("-" in name for name in flags)
    entries = re.split(r"^  (?=--)", printed[printed.index("options:") :], flags=re.MULTILINE)
    assert all(entry.count("(default:") <= 1 for entry in entries)
    assert printed.count("\n\n") > printed.count("options:")  # sections


def test_a_switch_has_no_value_in_the_help_and_both_spellings_in_one_place(capsys):
    printed = help_of("lzn_hf.train_representation", capsys)
    assert re.search(r"^  --use_labels, --no_use_labels\n", printed, re.MULTILINE)
    assert re.search(r"^  --random_flip +Flip", printed, re.MULTILINE)
    assert "(default: 0.5 1.0)" not in printed and "(default: 0.6 1.0)" in printed  # of the preset digits


@pytest.mark.parametrize("script", TRAINING)
def test_help_lists_the_presets_and_has_the_defaults_of_the_chosen_one(script, capsys):
    kind = script.removeprefix("lzn_hf.train_")
    names = sorted(path.stem for path in (PRESETS_DIR / kind).glob("*.json"))
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(script).main(["--preset", "cifar10", "--help"])
    printed = re.sub(r"\s+", "", capsys.readouterr().out)  # lines break at hyphens, too
    assert f"Oneof{','.join(names)},orthepath" in printed
    assert "(default:uoft-cs/cifar10)" in printed and "cifar10)" in printed[printed.index("--output_dir") :]


@dataclass
class Toys:
    """Arguments."""

    rate: float = flag(0.5, "A rate.")
    rates: list[float] = flag([0.5, 1.0], "Rates.")
    use_labels: bool = flag(True, "A switch.")
    data_dir: str | None = flag(None, "A folder.")


def parse(*argv: str) -> Toys:
    return parse_command_line([Toys], argv)[0]


def test_both_spellings_work():
    assert parse("--data-dir", "x") == parse("--data_dir=x") == Toys(data_dir="x")
    assert parse("--no_use_labels") == parse("--use_labels", "false") == Toys(use_labels=False)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data_dri", "x"], "^unknown flag --data_dri; did you mean --data_dir[?]$"),
        (["--Data-dri=x"], "^unknown flag --Data-dri; did you mean --data_dir[?]$"),
        (["--zzz"], "^unknown flag --zzz; see --help$"),
        (["--rate", "0.5", "x"], "^unexpected argument 'x': every value follows its --flag$"),
        (["--rate", "x"], "^argument --rate: invalid float value: 'x'$"),
        (["--rate"], "^argument --rate: expected one argument$"),
        (["--rate", "nan"], "^`rate` must be a finite number, but is nan"),
        (["--rate=-inf"], "^`rate` must be a finite number, but is -inf"),
        (["--rates", "1", "inf"], r"^`rates\[1\]` must be a finite number, but is inf"),
    ],
)
def test_mistakes_are_value_errors(argv, message):
    with pytest.raises(ValueError, match=message):
        parse(*argv)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_suggests_flags(script):
    argv = ["--output_dri", "x"]
    argv += ["--model_name_or_path", "x"] if "evaluate" in script or script.startswith("make") else []
    with pytest.raises(
        ValueError, match="unknown flag --output_dri; did you mean --output_dir( or --overwrite_output_dir)?[?]"
    ):
        importlib.import_module(script).main(argv)


@pytest.mark.parametrize("script", TRAINING)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_no_flag_takes_a_number_that_is_not_finite(script, value):
    module = importlib.import_module(script)
    names = [
        (f.name, "list" in str(hint))
        for arguments in module.ARGUMENTS.values()
        for f in fields(arguments)
        if f.init and "float" in str(hint := get_type_hints(arguments)[f.name])
    ]
    assert {"validation_fraction", "max_grad_norm", "ema_decay", "encoder_learning_rate"} <= {
        name for name, _ in names
    }
    presets = PRESETS_DIR / script.removeprefix("lzn_hf.train_")
    for name, is_list in names:
        with pytest.raises(ValueError, match=rf"`{name}(\[1\])?` must be a finite number, but is {value}"):
            parse_arguments(module.ARGUMENTS, presets, [f"--{name}", *["0.5"] * is_list, value])


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "[0.5,NaN]", '{"a":NaN}'])
def test_no_field_of_the_config_takes_a_number_that_is_not_finite(value):
    module, presets = importlib.import_module("lzn_hf.train_joint"), PRESETS_DIR / "joint"
    with pytest.raises(ValueError, match=r"`encoder_dropout.*` must be a finite number, but is -?(nan|inf)"):
        parse_arguments(module.ARGUMENTS, presets, ["--config_overrides", f"encoder_dropout={value}"])
    require_finite({"a": 1, "b": [0.5], "c": "nan", "d": {"e": 1e300}})


# Errors


def fail_in_torch() -> None:
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=-1.0)


def fail(error: Exception):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("`a` must be 1,\n  but is 2"), "error: `a` must be 1, but is 2\n"),
        (FileNotFoundError("no such folder"), "error: no such folder\n"),
    ],
)
def test_mistakes_end_a_script_with_one_line(capsys, error, line):
    with pytest.raises(SystemExit) as stop:
        run_as_script(fail(error))
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("main", [fail(TypeError("a bug")), fail(RuntimeError("a bug")), fail_in_torch])
def test_bugs_keep_their_traceback(capsys, main):
    with pytest.raises((TypeError, RuntimeError, ValueError)):
        run_as_script(main)
    assert capsys.readouterr().err == ""


def test_another_process_leaves_the_error_to_the_main_one_but_not_for_ever(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    waited = []
    monkeypatch.setattr(command_line.time, "sleep", waited.append)
    with pytest.raises(SystemExit):
        run_as_script(fail(ValueError("too few images here")))
    assert waited == [command_line.SECONDS_FOR_MAIN_PROCESS] and waited[0] > 5
    assert capsys.readouterr().err == "error: process 1: too few images here\n"


@pytest.mark.parametrize(("error", "code"), [("ValueError", 2), ("TypeError", 1)])
def test_an_error_ends_connected_processes_with_its_code(tmp_path, error, code):
    """The threads that connect them crash many an interpreter that shuts down."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "from lzn_hf.training.command_line import run_as_script\n"
        "def main():\n"
        "    dist.init_process_group('gloo')\n"
        "    dist.all_reduce(torch.ones(3))\n"
        f"    raise {error}('`a` must be 1')\n"
        "run_as_script(main)\n"
    )
    done = run("-m", "torch.distributed.run", "--nproc_per_node", "2", script)
    assert f"exitcode  : {code} " in done.stderr and "`a` must be 1" in done.stderr
    assert "SIGABRT" not in done.stderr and "SIGSEGV" not in done.stderr


def run(*command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=240)


def test_a_script_prints_one_line(tmp_path):
    done = run(str(ROOT / "examples" / "train_joint.py"), "--learning_rte", "0.1")
    expected = "error: unknown flag --learning_rte; did you mean "
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.startswith(expected) and done.stderr.count("\n") == 1 and "--encoder_learning_rate" in done.stderr
    )


def test_accelerate_launch_adds_nothing_when_it_is_quiet(tmp_path):
    script = str(ROOT / "examples" / "train_joint.py")
    done = run("-m", "accelerate.commands.launch", "--quiet", "--num_processes", "1", script, "--data_dir", "no/such")
    lines = done.stderr.splitlines()
    assert done.returncode != 0 and lines[-1] == "error: `data_dir` does not exist: 'no/such'"
    assert "Traceback" not in done.stderr


def test_of_two_processes_one_prints(tmp_path):
    script = str(ROOT / "examples" / "train_unconditional.py")
    done = run("-m", "torch.distributed.run", "--nproc_per_node", "2", script, "--max_train_steps", "0")
    assert done.returncode != 0
    assert re.findall(r"^error: .*", done.stderr, re.MULTILINE) == [
        "error: `max_train_steps` must be at least 1, but is 0."
    ]


# Messages


def messages(folder: str) -> list[str]:
    """The texts in the `raise` statements and assignments of the modules of a folder."""
    found = []
    for path in (ROOT / "src" / "lzn_hf" / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Raise, ast.Assign)):
                found.append(
                    "".join(
                        one.value
                        for one in ast.walk(node)
                        if isinstance(one, ast.Constant) and isinstance(one.value, str)
                    )
                )
    return found


@pytest.mark.parametrize(("folder", "scripts"), [("data", OF_DATA), ("training", TRAINING)])
def test_messages_name_flags_that_every_script_has_and_no_python(folder, scripts, capsys):
    known = set.intersection(*(set(flags_of(script, capsys)) for script in scripts)) | LAUNCHERS
    texts = messages(folder)
    assert len(texts) > 20
    for text in texts:
        assert set(re.findall(r"(?<![\w-])--([a-z]\w+)", text)) <= known, text
        assert not re.search(r"`\w+=(True|False|None|[\d\"'])", text), text
