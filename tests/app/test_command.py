# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The command hands its flags on, and says in one line what is wrong."""

from __future__ import annotations

import inspect
import sys

import pytest
from helpers.pipelines import make_pipeline

import lzn_cli.main
from lzn_hf.app.command import main, make_parser


def test_each_flag_is_a_parameter_with_the_same_default():
    pytest.importorskip("gradio", reason='gradio is not installed (pip install "lzn_hf[app]")')
    from lzn_hf.app.page import build_app, launch_app

    flags = vars(make_parser().parse_args(["folder"]))
    known = {**inspect.signature(build_app).parameters, **inspect.signature(launch_app).parameters}
    assert flags.pop("model") == "folder"
    assert {name: known[name].default for name in flags} == flags
    assert set(known) - set(flags) == {"model", "app", "block"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing/here"], "nothing/here"),
        (["{model}", "--images", "{model}/nothing"], "nothing"),
        (["{model}", "--max_images", "0"], "`max_images` must be a whole number of at least 1, got 0"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path, capsys):
    pytest.importorskip("gradio", reason='gradio is not installed (pip install "lzn_hf[app]")')
    make_pipeline().save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as end:
        main([argument.format(model=tmp_path) for argument in arguments])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 1 and line.startswith("error: ") and message in line


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)  # an import of it fails
    monkeypatch.delitem(sys.modules, "lzn_hf.app.page", raising=False)
    with pytest.raises(SystemExit) as end:
        main(["folder"])
    message = "error: the page needs gradio, which is not installed: pip install 'lzn_hf[app]'"
    assert end.value.code == 1 and capsys.readouterr().err.strip() == message


def test_the_help_shows_an_example(capsys):
    with pytest.raises(SystemExit):
        lzn_cli.main.main(["app", "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: lzn app ") and "Example: lzn app outputs/demo/model" in text and "--share" in text
