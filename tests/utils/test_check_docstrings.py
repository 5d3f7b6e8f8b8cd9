# Copyright 2026 The lzn_hf authors. Apache-2.0.
from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import check_docstrings
import pytest


def found(tmp_path: Path, code: str) -> list[str]:
    path = tmp_path / "src" / "lzn_hf" / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text(textwrap.dedent(code))
    return [line.partition("src/lzn_hf/module.py:")[2] for line in check_docstrings.violations(tmp_path)]


def test_docstrings_that_agree_pass(tmp_path):
    code = '''
        def two(a, b):
            """Takes two parameters."""

        def three(a, b, *rest, c=None, **options):
            """Takes more.

            Args:
                a, b (`Tensor` of shape `(B, D)`, *optional*): two: of
                    them, over two lines.

                rest (`tuple`): more.
                c (`int`, *optional*, defaults to `(1, 2)`):
                    on the next line.
                **options: the rest.

            Returns:
                nothing: at all.
            """

        def _private(a, b, c):
            """Documents nothing."""

        @dataclass
        class Result(ModelOutput):
            """A result.

            Args:
                loss (`Tensor`): what is to shrink.
            """

            kind: ClassVar[str] = "result"
            loss: Tensor
            config: dict = field(default_factory=dict, init=False)

        @dataclass
        class Settings:
            """Fields explain themselves."""

            first: int = 0

        class Network(nn.Module):
            """A network.

            Args:
                width (`int`): of it.
            """

            def __init__(self, width):
                pass

            def forward(self, x, y):
                """Two parameters beside self."""

            @staticmethod
            def build(a, b):
                """Two parameters."""

            def _step(self, a, b, c, d, e):
                """Private."""
    '''
    assert found(tmp_path, code) == []


@pytest.mark.parametrize(
    ("signature", "entries", "message"),
    [
        ("a, b", ["a (`int`): one."], "`f` does not document its parameter `b`."),
        ("a", ["a, b (`int`): two."], "`f` documents `b`, which is not a parameter."),
        ("a", ["a (`int`): one.", "See b."], "`f` documents `See b.`, which is not a parameter."),
        ("a, *, c=0", ["a (`int`): one."], "`f` does not document its parameter `c`."),
        ("a, **options", ["a (`int`): one."], "`f` does not document its parameter `options`."),
    ],
)
def test_difference_is_named(tmp_path, signature, entries, message):
    text = "\n        ".join(entries)
    code = f'\ndef f({signature}):\n    """Does it.\n\n    Args:\n        {text}\n    """\n'
    assert found(tmp_path, code) == [f"2: {message}"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ('def f(a, b, c, d, e):\n    """Does it."""\n', "1: `f` has no `Args:` for `a`, `b`, `c`, `d`, `e`."),
        ("def f(a, b, c, d, e):\n    pass\n", "1: `f` has no `Args:` for `a`, `b`, `c`, `d`, `e`."),
        (
            'class C:\n    def f(self, a, b, c, d, e):\n        """Does it."""\n',
            "2: `C.f` has no `Args:` for `a`, `b`, `c`, `d`, `e`.",
        ),
        (
            "class C:\n    def __call__(self, a, b, c, d, e):\n        pass\n",
            "2: `C.__call__` has no `Args:` for `a`, `b`, `c`, `d`, `e`.",
        ),
        (
            "class C:\n    def __init__(self, a, b, c, d, e):\n        pass\n",
            "1: `C.__init__` has no `Args:` for `a`, `b`, `c`, `d`, `e`.",
        ),
        ("@dataclass\nclass C(BaseOutput):\n    loss: Tensor\n", "2: `C` has no `Args:` for `loss`."),
        (
            '@dataclass(frozen=True)\nclass C:\n    """It.\n\n    Args:\n        b: two.\n    """\n\n    a: int\n    b: int\n',
            "2: `C` does not document its parameter `a`.",
        ),
        (
            'class C(NamedTuple):\n    """It.\n\n    Args:\n        a, b: two.\n    """\n\n    a: int\n',
            "1: `C` documents `b`, which is not a parameter.",
        ),
    ],
)
def test_missing_section_or_field_is_named(tmp_path, code, message):
    assert found(tmp_path, code) == [message]


def test_command_fails_on_a_difference_only(tmp_path):
    script = tmp_path / "utils" / "check_docstrings.py"
    script.parent.mkdir()
    script.write_text(Path(check_docstrings.__file__).read_text())
    source = tmp_path / "src" / "lzn_hf" / "data" / "module.py"
    source.parent.mkdir(parents=True)
    for parameters, code, output in [
        ("a, b", 0, "Docstrings and signatures name the same parameters."),
        ("a, b, c, d, e", 1, "src/lzn_hf/data/module.py:1: "),
    ]:
        source.write_text(f"def f({parameters}):\n    pass\n")
        answer = subprocess.run([sys.executable, script], capture_output=True, text=True)
        assert (answer.returncode, answer.stderr) == (code, "")
        assert answer.stdout.startswith(output)
