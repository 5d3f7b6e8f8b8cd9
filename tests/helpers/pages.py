# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The Python and shell blocks of a page, and how they run: one after the other, in one folder and one namespace, in small.

A page runs in a process of its own, a fork, so that nothing that it registers, prints or changes reaches another test. Its commands are
forks of that process, which import nothing again, or with `launch=True` processes as users start them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from . import ROOT
from .training import forget_accelerators


TIMEOUT = 280  # seconds of a page whose commands are forks, and of a command that is launched
STEPS = re.compile(r"(--max_train_steps |--checkpointing_steps |/checkpoint-)(\d+)")
LINKED = ("benchmarks", "examples", "metrics", "src", "tests", "utils")


@dataclass(frozen=True)
class Block:
    """A block of a page: its language, text, and the number of its first line."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command: the words of a launcher such as accelerate, the script, module or program, and its arguments."""

    launcher: tuple[str, ...]
    program: str
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """`train_joint` of `examples/train_joint.py` and of `lzn_hf.train_joint`; `lzn generate` of the command `lzn`."""
        if self.program == "lzn_cli":
            return " ".join(("lzn", *self.arguments[: 1 + (self.arguments[0] in ("export", "train"))]))
        return Path(self.program).stem if self.program.endswith(".py") else self.program.rpartition(".")[2]

    @property
    def runs_python(self) -> bool:
        return self.program.endswith(".py") or self.launcher[-1:] == ("-m",)

    def with_more(self, *arguments: str) -> Command:
        return Command(self.launcher, self.program, (*self.arguments, *arguments))

    def in_one_process(self) -> Command:
        """The same without its launcher."""
        return Command(() if self.program.endswith(".py") else self.launcher[-1:], self.program, self.arguments)


def blocks_of(page: str, languages: tuple[str, ...] | None = ("py", "sh")) -> list[Block]:
    """The blocks of a page in these languages (`None`: in all), in order; also those in lists, which are indented."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, flags=re.MULTILINE | re.DOTALL)
    return [
        Block(one[2], textwrap.dedent(one[3]), text.count("\n", 0, one.start(3)) + 1)
        for one in found
        if languages is None or one[2] in languages
    ]


def lines_of(block: Block) -> list[str]:
    """The commands of a shell block, without comments and without what `&&` and `||` join to them."""
    lines = [re.split(r" (?:\|\||&&) ", line)[0] for line in block.text.replace("\\\n", " ").splitlines()]
    return [joined for line in lines if (joined := shlex.join(shlex.split(line, comments=True)))]


def command_of(line: str) -> Command:
    """Takes a command apart, by the parsers of the launchers."""
    words = shlex.split(line)
    if words[0] == "srun":
        words = words[1:]
    if words[:2] == ["accelerate", "launch"]:
        parsed = launch_command_parser().parse_args(words[2:])
    elif words[0] == "torchrun":
        parsed = get_args_parser().parse_args(words[1:])
    elif words[0] == "python":
        at = 2 if words[1] == "-m" else 1
        return Command(tuple(words[:at]), words[at], tuple(words[at + 1 :]))
    elif words[0] == "lzn":
        return Command(("python", "-m"), "lzn_cli", tuple(words[1:]))
    else:
        return Command((), words[0], tuple(words[1:]))
    arguments = parsed.training_script_args
    return Command(tuple(words[: len(words) - len(arguments) - 1]), parsed.training_script, tuple(arguments))


def shrink(command: Command, small: str) -> Command:
    """The command in small: a 75th of the steps, and these flags as well. Overrides of a config are joined."""
    text = STEPS.sub(lambda steps: f"{steps[1]}{max(1, int(steps[2]) // 75)}", shlex.join(command.arguments))
    words, more = shlex.split(text), shlex.split(small)
    if "--max_train_steps" in words and "--max_train_steps" in more:
        del more[(at := more.index("--max_train_steps")) : at + 2]
    if "--config_overrides" in words and "--config_overrides" in more:
        at = more.index("--config_overrides")
        end = next((i for i in range(at + 1, len(more)) if more[i].startswith("--")), len(more))
        here = words.index("--config_overrides") + 1
        here += next((i for i, word in enumerate(words[here:]) if word.startswith("--")), len(words) - here)
        words[here:here] = more[at + 1 : end]  # the last of two wins
        del more[at:end]
    return Command(command.launcher, command.program, (*words, *more))


def run_here(command: Command, parse_only: bool = False) -> None:
    """Runs a script in a fork of this process. With `parse_only`, up to the point where its parser has accepted all arguments."""

    def main() -> None:
        torch.set_num_threads(1)
        sys.argv = [command.program, *command.arguments]
        if parse_only:
            stop_when_parsed()
        if command.program.endswith(".py"):
            sys.path.insert(0, str(Path(command.program).resolve().parent))
            runpy.run_path(command.program, run_name="__main__")
        else:
            runpy.run_module(command.program, run_name="__main__", alter_sys=True)

    forget_accelerators()
    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    process.join(TIMEOUT)
    if process.exitcode != 0:
        process.kill()
        raise RuntimeError(f"ended with {process.exitcode}")


def stop_when_parsed() -> None:
    """Ends this process as soon as an `ArgumentParser` has parsed the whole command line: with 0 if it knows all of it, or else with 2."""
    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(parser, args=None, namespace=None):
        _, unknown = parse(parser, args, namespace)
        print("unknown arguments:", *unknown, flush=True)
        os._exit(2 if unknown else 0)

    argparse.ArgumentParser.parse_known_args = parse_and_stop


def run_launched(command: Command) -> None:
    """Runs a command as users do."""
    words = [*command.launcher, command.program, *command.arguments]
    if words[0] in ("accelerate", "torchrun"):
        module = {"accelerate": "accelerate.commands.accelerate_cli", "torchrun": "torch.distributed.run"}[words[0]]
        words = ["python", "-m", module, *words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *words[1:]], env=environment, check=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL
    )


def run_page(
    page: str,
    folder: Path,
    run_line: Callable[[str], None],
    prepare: Callable[[str], None],
    timeout: float = TIMEOUT,
) -> None:
    """Runs the blocks of a page in `folder`. Before each, `prepare` gets its text, and makes what it reads.

    Args:
        page (`str`): the page, relative to the repository.
        folder (`Path`): an empty folder.
        run_line (`Callable`): what runs a line of a shell block.
        prepare (`Callable`): what makes the files and folders that a text names.
        timeout (`float`, *optional*): seconds for the page.

    Raises:
        AssertionError: if a block fails, with its line and all that was printed.
    """
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    log = folder.with_suffix(".log")

    def main() -> None:
        sys.stdout = sys.stderr = file = log.open("w", buffering=1)  # those of this process are pytest's
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        os.chdir(folder)
        begin = sum(os.times()[:4])
        torch.set_num_threads(1)
        names: dict[str, object] = {"__name__": "__main__"}
        for block in blocks_of(page):
            print(f"---- {page}:{block.line}, after {sum(os.times()[:4]) - begin:.1f} s", flush=True)
            try:
                if block.language == "py":
                    prepare(block.text)
                    exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
                for line in lines_of(block) if block.language == "sh" else ():
                    print(f"$ {line}    # after {sum(os.times()[:4]) - begin:.1f} s", flush=True)
                    prepare(line)
                    run_line(line)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
    printed = log.read_text()
    assert process.exitcode == 0, printed[-6000:]


def named_paths(text: str, paths: Mapping[str, Callable[[Path], object]]) -> Iterator[str]:
    """Which of the paths a text reads: it names them otherwise than as an `--output_dir`."""
    read = re.sub(r"--output_dir \S+", "", text)
    for path in paths:
        if re.search(rf"(?<![\w/-]){re.escape(path)}(?![\w-])", read):
            yield path
