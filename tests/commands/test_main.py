# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The command `lzn` as a whole: start, help, exit codes, what it gives to scripts, and the commands of its page."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.commands import DIGITS, lzn, write_images
from helpers.pipelines import make_pipeline
from helpers.texts import make_text_pipeline
from helpers.training import forget_accelerators, write_image_folder

from lzn_cli.main import EXTRAS, app


# Trained, measured, pushed or served for longer than a test may take: their flags are looked up instead.
SCRIPTS = {
    "train joint": "train_joint.py",
    "train unconditional": "train_unconditional.py",
    "train representation": "train_representation.py",
    "train text": "train_text_image.py",
    "demo": "commands/demo.py",
    "convert": "commands/convert_original_checkpoint.py",
    "export onnx": "commands/export_onnx.py",
    "export hub": "commands/export_to_hub.py",
    "evaluate": "commands/evaluate_generation.py",
    "app": "app/command.py",
}
COMMANDS = "generate classify embed reconstruct interpolate evaluate convert info data curves app demo train export"


def run(*words: str, **settings: str) -> tuple[int, str, str]:
    """Runs `lzn WORDS` in a process of its own. Its exit code, output and errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **settings}
    command = [sys.executable, "-m", "lzn_cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


# ---------------------------------------------------------------- start and help


def test_help_and_completion_import_no_large_library():
    code = "import sys; from lzn_cli.main import main\ntry: main(sys.argv[1:])\nfinally: print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "80"}
    for words in (["--help"], ["generate", "--help"], ["train"], ["--show-completion", "bash"]):
        done = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
        loaded = set(done.stdout.splitlines()[-1].split())
        assert "typer" in loaded and not loaded & {"lzn_hf", "numpy", "torch", "transformers", "rich"}, words


def test_help_takes_less_than_a_third_of_a_second_of_processor_time():
    """The least of three: whatever else the machine does only adds to it."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("--help")[0] == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.3


def test_completion_knows_commands_and_options():
    settings = {"_LZN_COMPLETE": "complete_bash", "COMP_CWORD": "1", "COMP_WORDS": "lzn re"}
    assert run(**settings)[1].split() == ["reconstruct"]
    settings |= {"COMP_CWORD": "3", "COMP_WORDS": "lzn generate m --gui"}
    assert run(**settings)[1].split() == ["--guidance", "--guide"]


def test_help_lists_every_command_with_examples(capsys):
    assert lzn("--help") == 0
    printed = capsys.readouterr().out
    listed = re.findall(r"^  (\w+)  ", printed[printed.index("Commands:") :], re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS.split())
    assert "..." not in printed[printed.index("Commands:") :]  # no summary is cut
    for name in listed:
        if name not in ("train", "export", "convert", "demo", "app"):  # these show the help of their scripts
            assert lzn(name, "--help") == 0
            assert f"\n  lzn {name} " in capsys.readouterr().out, name


@pytest.mark.parametrize(("command", "file"), SCRIPTS.items())
def test_help_of_a_script_is_its_own_under_the_name_of_the_command(command, file, capsys):
    if command == "app":
        pytest.importorskip("gradio", reason="it is in the extra `app`")
    words = [*command.split(), *(["model", "--what", "generation", "--"] if command == "evaluate" else [])]
    assert lzn(*words, "--help") == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: lzn {command}")
    assert all(f"--{flag}" in printed for flag in flags_of(file))


def flags_of(file: str) -> list[str]:
    text = (ROOT / "src" / "lzn_hf" / file).read_text()
    return re.findall(r'add_argument\(\s*"--(\w+)"', text) or re.findall(
        r"^    (\w+): .* = f(?:lag|ield)\(", text, re.M
    )


# ---------------------------------------------------------------- exit codes


def test_exit_codes_of_a_process(tmp_path):
    code, output, errors = run("info", str(tmp_path / "no model"))
    assert (code, output) == (1, "") and errors.startswith("error: `MODEL` ") and errors.count("\n") == 1
    code, output, errors = run("generate", "--num", "many", "model")
    assert (code, output) == (2, "") and "Invalid value for '--num'" in errors and "Traceback" not in errors


def test_an_interrupted_command_ends_with_130(monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("lzn_hf.commands.describe.info", interrupt)
    assert lzn("info", "model") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path):
    def fail(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr("lzn_hf.commands.describe.info", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        lzn("info", tmp_path)


@pytest.mark.parametrize("module", EXTRAS)
def test_an_extra_that_is_missing_is_named(module, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise ModuleNotFoundError(f"No module named '{module}'", name=f"{module}.part")

    monkeypatch.setattr("lzn_hf.commands.describe.info", fail)
    if importlib.util.find_spec(module) is not None:  # it is there, so something else is wrong: a bug
        with pytest.raises(ModuleNotFoundError):
            lzn("info", "model")
    monkeypatch.setitem(sys.modules, module, None)
    assert lzn("info", "model") == 1
    extra = EXTRAS[module]
    assert capsys.readouterr().err == f"error: {module} is not installed: pip install 'lzn_hf[{extra}]'\n"
    assert re.search(rf"^{extra} =$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)


def test_flags_of_training_reach_the_script_and_its_mistakes_are_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = list(sys.argv)
    assert lzn("train", "joint", "--learning_rte", "0.1") == 2
    assert capsys.readouterr().err.startswith("error: unknown flag --learning_rte; did you mean ")
    assert lzn("train", "unconditional", "--data-dir", "no/such") == 1
    assert capsys.readouterr().err == "error: `data_dir` does not exist: 'no/such'\n"
    assert sys.argv == arguments and not list(tmp_path.iterdir())


def test_lzn_train_leaves_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    forget_accelerators()
    write_image_folder(tmp_path / "images")
    flags = f"--preset {ROOT / 'tests/helpers/toy_preset.json'} --data_dir images --total_batch_size 8"
    assert lzn("train", "joint", *flags.split(), "--max_train_steps", 2, "--output_dir", "out") in (0, None)
    assert lzn("info", "out") == 0
    assert "3: cat, dog, eel" in capsys.readouterr().out
    forget_accelerators()


# ---------------------------------------------------------------- the page of the documentation


def commands_of_the_page() -> list[str]:
    text = (ROOT / "docs" / "command_line.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("lzn ")]


def script_of(words: list[str]) -> str | None:
    return SCRIPTS.get(" ".join(words[1:3])) or SCRIPTS.get(words[1])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with everything that the page names."""
    place = tmp_path_factory.mktemp("place")
    make_pipeline(names=DIGITS).save_pretrained(place / "outputs" / "demo" / "model")
    make_pipeline(names=DIGITS).save_pretrained(place / "outputs" / "weaker")
    make_text_pipeline().save_pretrained(place / "outputs" / "digits-captions")
    for name in ("demo/model", "mine"):
        (place / "outputs" / name).mkdir(parents=True, exist_ok=True)
        (place / "outputs" / name / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    write_image_folder(place / "my_images")
    three, eight, *_ = write_images(place / "photos")
    three.rename(place / "three.png")
    eight.rename(place / "eight.png")
    return place


@pytest.mark.parametrize("command", commands_of_the_page())
def test_the_commands_of_the_page(command, place, monkeypatch, capsys):
    words = shlex.split(command, comments=True)
    script = script_of(words)
    if script is not None:
        from test_docs import flags_of as flags_in

        flags = {word[2:] for word in words if word.startswith("--")} - {"help", "what"}
        assert flags <= flags_in(ROOT / "src" / "lzn_hf" / script), words
        return
    monkeypatch.chdir(place)
    forget_accelerators()
    if "--num" in words:  # enough to see it work
        words[words.index("--num") + 1] = "3"
    assert lzn(*words[1:]) == 0
    printed = capsys.readouterr().out
    if "--out" in words:
        assert (
            Path(words[words.index("--out") + 1]).exists() and words[words.index("--out") + 1].rstrip("/") in printed
        )


def test_the_page_has_every_command():
    named = {shlex.split(line, comments=True)[1] for line in commands_of_the_page()}
    assert named >= set(COMMANDS.split())
    assert {command.name or command.callback.__name__ for command in app.registered_commands} <= set(COMMANDS.split())
