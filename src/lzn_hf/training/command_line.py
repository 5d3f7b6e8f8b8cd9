# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The command line of every script: flags from dataclasses, a help text that shows each flag once, errors of one line."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import sys
import time
import traceback
from argparse import (
    SUPPRESS,
    Action,
    ArgumentDefaultsHelpFormatter,
    ArgumentParser,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch.distributed as dist
from transformers import HfArgumentParser

from .arguments import close_matches
from .mistakes import UsageError, is_mistake, one_line
from .processes import explain_lost_processes


EXIT_CODE = 2  # as argparse has it
# Another process than the main one waits this long for the main process to report the same error.
SECONDS_FOR_MAIN_PROCESS = 10.0


class StrictParser(ArgumentParser):
    """An `ArgumentParser` for which every mistake is a `ValueError`. It suggests flags for one that does not exist."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as `ArgumentParser` does, and refuses unknown flags and numbers that are not finite."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            name = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
            if not name.startswith("-"):
                self.error(f"unexpected argument {name!r}: every value follows its --flag")
            spelling = f"--{name.lstrip('-').replace('-', '_')}"
            flags = [action.option_strings[0] for action in self._actions if action.option_strings]
            matches = close_matches(spelling, flags)
            self.error(f"unknown flag {name}{f'; did you mean {matches}?' if matches else '; see --help'}")
        require_finite(vars(namespace))
        return namespace, unknown


class CommandLineParser(StrictParser, HfArgumentParser):
    """Parses a command line into argument dataclasses.

    `--data-dir` works like `--data_dir`, and `--no_use_labels` is the opposite of `--use_labels`; `--help` shows both spellings of
    such a switch in one place and any other flag once.

    Args:
        dataclass_types (`Sequence[type]`): the argument dataclasses. Each is a section of `--help`.
        description (`str`, *optional*): beginning of `--help`, shown as it is written.
    """

    def __init__(self, dataclass_types: Sequence[type], description: str | None = None):
        super().__init__(
            dataclass_types,  # type: ignore[arg-type]  # mypy does not take classes for its protocol
            usage="%(prog)s [flags]",
            description=description,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )

    @staticmethod
    def _parse_dataclass_field(parser: Any, field: dataclasses.Field) -> None:
        before = len(parser._actions)
        HfArgumentParser._parse_dataclass_field(parser, field)
        shown, *negated = parser._actions[before:]
        # The parser still knows the other spellings: it looks them up in a dictionary of its own.
        shown.option_strings = [shown.option_strings[0], *(action.option_strings[0] for action in negated)]
        for action in negated:
            action.help = SUPPRESS

    def flags_given(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """Returns the values of the flags that are on the command line, by name, without defaults."""
        words = [word for word in (sys.argv[1:] if argv is None else argv) if word not in ("-h", "--help")]
        absent = object()
        flags = [action.dest for action in self._actions]
        namespace, _ = self.parse_known_args(words, Namespace(**dict.fromkeys(flags, absent)))
        return {name: value for name, value in vars(namespace).items() if value is not absent}

    def describe_flag(self, name: str, help: str) -> None:
        """Replaces the help text of a flag."""
        next(action for action in self._actions if action.dest == name).help = help


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description, shows defaults that are not empty, and switches without a value."""

    def _format_action_invocation(self, action: Action) -> str:
        is_switch = action.nargs == "?" and action.const is True
        return ", ".join(action.option_strings) if is_switch else super()._format_action_invocation(action)

    def _get_help_string(self, action: Action) -> str | None:
        if action.default in (None, [], False, SUPPRESS):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


def parse_command_line(
    dataclass_types: Sequence[type], argv: Sequence[str] | None = None, description: str | None = None
) -> tuple[Any, ...]:
    """Parses a command line into argument dataclasses.

    Args:
        dataclass_types (`Sequence[type]`): the argument dataclasses.
        argv (`Sequence[str]`, *optional*): command line without the program name, by default that of the process.
        description (`str`, *optional*): beginning of `--help`.

    Returns:
        `tuple`: an instance of each dataclass, in their order.

    Raises:
        ValueError: for an unknown flag or a value that is not allowed.
    """
    return CommandLineParser(dataclass_types, description).parse_args_into_dataclasses(argv, look_for_args_file=False)


def require_finite(values: Mapping[str, Any]) -> None:
    """Raises a `ValueError` if a value, or a number in a list or dictionary, is infinite or not a number."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"`{name}` must be a finite number, but is {value}.")
        if isinstance(value, Mapping):
            require_finite({f"{name}.{key}": inner for key, inner in value.items()})
        if isinstance(value, list | tuple):
            require_finite({f"{name}[{index}]": inner for index, inner in enumerate(value)})


def run_as_script(main: Callable[[], object]) -> None:
    """Calls the `main` of a script. A mistake of the user is one line `error: ...` on stderr, with exit code 2.

    Mistakes are `OSError`s, and `ValueError`s of this package, the script or the Hugging Face libraries. Anything else is a bug and keeps
    its traceback; that of a process that waits in vain for others is explained, see [`explain_lost_processes`]. Of several processes the
    main one reports the error; another does so only if the main one does not end.

    Args:
        main (`Callable`): the function to call.
    """
    try:
        with explain_lost_processes():
            main()
    except Exception as error:
        if is_mistake(error, inspect.getfile(main)):
            code = EXIT_CODE
            rank = os.environ.get("RANK", "0")
            if rank != "0":
                time.sleep(
                    SECONDS_FOR_MAIN_PROCESS
                )  # the launcher ends this process as soon as the main one has ended
            print(f"error: {'' if rank == '0' else f'process {rank}: '}{one_line(error)}", file=sys.stderr)
        elif dist.is_initialized():
            code = 1
            traceback.print_exc()
        else:
            raise
        if dist.is_initialized():
            # The threads of an open process group may crash an interpreter that shuts down, which hides message and code.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)
