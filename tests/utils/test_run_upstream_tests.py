# Copyright 2026 The lzn_hf authors. Apache-2.0.
from __future__ import annotations

import importlib.metadata
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import run_upstream_tests as upstream
from helpers import ROOT
from run_upstream_tests import Case


SUITE = """
import unittest
import pytest

class Common(unittest.TestCase):
    def test_passes(self): pass
    def test_fails(self): self.assertEqual("first line", "second\\nline")
    def test_skips(self): self.skipTest("needs a GPU")
    def test_fails_in_a_subtest(self):
        for i in range(3):
            with self.subTest(i=i):
                self.assertNotEqual(i, 1)
    def test_skips_in_subtests(self):
        for i in range(2):
            with self.subTest(i=i):
                self.skipTest("no such output")

class TestPlain:
    @pytest.mark.parametrize("x", [1, 2])
    def test_number(self, x): assert x == 1
    @pytest.fixture
    def broken(self): raise RuntimeError("no pipeline")
    def test_setup(self, broken): pass
"""


def test_results_are_those_of_pytest(tmp_path):
    (tmp_path / "some_suite.py").write_text(SUITE)
    (tmp_path / "broken_suite.py").write_text("import no_such_module")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        ".",
        "--junitxml=report.xml",
        "some_suite.py",
    ]
    command += ["broken_suite.py", "--continue-on-collection-errors"]
    assert subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE).returncode == 1
    *cases, broken = sorted(
        upstream.read_report(tmp_path / "report.xml", {"some_suite": "some", "broken_suite": "broken"}),
        key=lambda case: case.suite == "broken",
    )
    assert broken == Case("broken", "broken_suite::import", "failed", "collection failure")
    assert {case.suite for case in cases} == {"some"}
    assert {case.name: case.outcome for case in cases} == {
        "Common::test_passes": "passed",
        "Common::test_fails": "failed",
        "Common::test_skips": "skipped",
        "Common::test_fails_in_a_subtest": "failed",
        "Common::test_skips_in_subtests": "skipped",
        "TestPlain::test_number[1]": "passed",
        "TestPlain::test_number[2]": "failed",
        "TestPlain::test_setup": "failed",
    }
    messages = {case.name: case.message for case in cases}
    assert messages["Common::test_passes"] == ""
    assert messages["Common::test_skips"] == "needs a GPU"
    assert messages["Common::test_skips_in_subtests"] == "no such output"  # once
    assert messages["Common::test_fails"].startswith("AssertionError: 'first line' != ")
    assert "no pipeline" in messages["TestPlain::test_setup"]


CASES = [
    Case("models", "ModelTest::test_save", "passed"),
    Case("models", "ModelTest::test_gpu", "skipped", "needs a GPU"),
    Case("models", "ModelTest::test_output_0", "failed", "not a tuple"),
    Case("models", "ModelTest::test_output_1", "failed", "not a tuple"),
]
REASONS = {"ModelTest::test_output_*": "outputs are tensors"}


def test_green_if_every_failure_has_a_reason():
    assert upstream.find_errors(["models"], CASES, REASONS) == []


@pytest.mark.parametrize(
    ("titles", "cases", "reasons", "errors"),
    [
        (["models"], CASES, {}, [f"ModelTest::test_output_{i} failed: not a tuple" for i in (0, 1)]),
        (["models"], CASES, {"ModelTest::test_output_0": "x"}, ["ModelTest::test_output_1 failed: not a tuple"]),
        (
            ["models"],
            CASES,
            {**REASONS, "ModelTest::test_save": "x"},
            ["ModelTest::test_save passed, but reasons.json says why it fails"],
        ),
        (
            ["models"],
            CASES,
            {**REASONS, "ModelTest::test_gpu": "x"},
            ["ModelTest::test_gpu skipped, but reasons.json says why it fails"],
        ),
        (
            ["models"],
            CASES,
            {**REASONS, "ModelTest::test_gone": "x"},
            ["ModelTest::test_gone of reasons.json matches no test"],
        ),
        (["models"], CASES[1:], REASONS, ["no test of the suite 'models' passed"]),
        (["models", "pipeline"], CASES, REASONS, ["no test of the suite 'pipeline' passed"]),
    ],
    ids=["new", "another new", "passes now", "skipped now", "no such test", "none passed", "nothing collected"],
)
def test_red(titles, cases, reasons, errors):
    assert upstream.find_errors(titles, cases, reasons) == errors


def test_table():
    cases = [
        *CASES,
        Case("models", "ModelTest::test_new", "failed", "broken"),
        Case("images", "ImageTest::test_call", "passed"),
    ]
    assert upstream.render(cases, REASONS, {"pipeline": "no tests"}).splitlines() == [
        "suite                     passed  failed  not applicable",
        "models                         1       1               3",
        "images                         1       0               0",
        "pipeline                not available: no tests",
        "",
        "models: not applicable",
        "    2  fails: outputs are tensors",
        "    1  needs a GPU",
    ]


def make_sdist(path: Path, files: dict[str, str], links: dict[str, str] | None = None) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{path.name.removesuffix('.tar.gz')}/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(f"{path.name.removesuffix('.tar.gz')}/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)


def test_only_files_in_the_folder_of_tests_are_extracted(tmp_path):
    files = {
        "setup.py": "1",
        "src/tests/test_a.py": "2",
        "tests/test_b.py": "3",
        "tests/deep/c.py": "4",
        "tests/../../../x": "5",
    }
    make_sdist(tmp_path / "some-1.0.tar.gz", files, {"tests/link.py": "/etc/hostname"})
    upstream.extract_tests(tmp_path / "some-1.0.tar.gz", tmp_path / "out" / "some_tests")
    (tmp_path / "some-1.0.tar.gz").unlink()
    found = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    prefix = "out/some_tests/"
    assert found == {f"{prefix}__init__.py": "", f"{prefix}test_b.py": "3", f"{prefix}deep/c.py": "4"}


@pytest.fixture
def packages(tmp_path, monkeypatch) -> Path:
    """A folder that is pip's only source of packages."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "packages"))
    (tmp_path / "packages").mkdir()
    return tmp_path / "packages"


def test_the_tests_of_the_installed_version_are_downloaded_once(packages, tmp_path):
    version = importlib.metadata.version("transformers")
    for v in (version, "99.0"):
        setup = f"from setuptools import setup\nsetup(name='transformers', version='{v}', py_modules=[])\n"
        make_sdist(packages / f"transformers-{v}.tar.gz", {"setup.py": setup, "tests/test_a.py": v})
    folder = upstream.fetch_tests("transformers", tmp_path / "cache")
    assert folder == tmp_path / "cache" / f"transformers-{version}"
    assert (folder / "transformers_tests" / "test_a.py").read_text() == version
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # and nothing else is left
    (packages / f"transformers-{version}.tar.gz").unlink()
    assert upstream.fetch_tests("transformers", tmp_path / "cache") == folder


def test_an_index_that_does_not_answer_is_an_error_unless_allowed(packages, tmp_path, capsys):
    for flags, code in ([], 2), (["--allow_offline"], 0):
        with pytest.raises(SystemExit) as stop:
            upstream.main(["--cache_dir", str(tmp_path / "cache"), *flags])
        assert stop.value.code == code
        assert "pip cannot get the source distribution of transformers" in capsys.readouterr().out
        assert not list((tmp_path / "cache").iterdir())


def test_plain_pytest_collects_no_suite():
    env = {name: value for name, value in os.environ.items() if name != "LZN_HF_UPSTREAM"}
    suite = upstream.SUITES_DIR / upstream.SUITES[0].file
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", str(upstream.SUITES_DIR), str(suite)]
    answer = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert answer.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, answer.stdout + answer.stderr


def test_every_reason_is_of_a_suite_and_documented():
    reasons = json.loads((upstream.SUITES_DIR / "reasons.json").read_text())
    assert list(reasons) == [suite.title for suite in upstream.SUITES]
    page = (ROOT / "docs" / "upstream_suites.md").read_text()
    for listed in reasons.values():
        for reason in listed.values():
            assert reason in page
    for suite in upstream.SUITES:
        assert f"`tests/upstream/{suite.file}`" in page and (upstream.SUITES_DIR / suite.file).is_file()
