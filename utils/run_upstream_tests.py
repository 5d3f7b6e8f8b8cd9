# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Runs the common tests of the installed transformers and diffusers on our classes, as `make test-upstream`.

    python utils/run_upstream_tests.py [--workers 2] [--allow_offline] [--diffusers_tests FOLDER]

These tests are mixins in the source distributions of the two libraries, which pip downloads once and `--cache_dir` keeps. The
suites in tests/upstream apply them. A failure that tests/upstream/reasons.json does not list with a reason is an error, and
so is a listed one that no longer fails. See docs/upstream_suites.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath


ROOT = Path(__file__).resolve().parent.parent
SUITES_DIR = ROOT / "tests" / "upstream"


@dataclass(frozen=True)
class Suite:
    """Tests of one file in tests/upstream.

    Args:
        title (`str`): its name in the table.
        file (`str`): the file.
        package (`str`): whose tests it applies.
        needs (`str`): the file of these tests that must be there.
    """

    title: str
    file: str
    package: str
    needs: str


SUITES = (
    Suite("models, configuration", "modeling_suite.py", "transformers", "test_modeling_common.py"),
    Suite("image processor", "image_processing_suite.py", "transformers", "test_image_processing_common.py"),
    Suite("pipeline", "pipeline_suite.py", "diffusers", "pipelines/testing_utils/common.py"),
)


@dataclass(frozen=True)
class Case:
    """The result of one test.

    Args:
        suite (`str`): the title of its suite.
        name (`str`): `Class::test`.
        outcome (`str`): `"passed"`, `"failed"` or `"skipped"`.
        message (`str`): why it failed or was skipped.
    """

    suite: str
    name: str
    outcome: str
    message: str = ""


class NotAvailableError(Exception):
    """Says that pip cannot get the source distribution of a package, and why."""


def fetch_tests(package: str, cache_dir: Path) -> Path:
    """Downloads the tests in the source distribution of the installed version of a package, unless they are there.

    Args:
        package (`str`): name of the package.
        cache_dir (`Path`): where downloads are kept, by version.

    Returns:
        `Path`: a folder in which the tests are the Python package `{package}_tests`.

    Raises:
        NotAvailableError: if pip cannot get it.
    """
    version = importlib.metadata.version(package)
    folder = cache_dir / f"{package}-{version}"
    if folder.exists():
        return folder
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
        # By pip, because it knows the index, proxy and certificates of this machine. It looks at the metadata and builds nothing.
        options = ["--no-deps", "--no-build-isolation", "--no-binary", package, "--retries", "1", "--dest", scratch]
        download = [sys.executable, "-m", "pip", "download", *options, f"{package}=={version}"]
        answer = subprocess.run(download, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if answer.returncode:
            raise NotAvailableError(f"pip cannot get the source distribution of {package} {version}:\n{answer.stdout}")
        (archive,) = Path(scratch).glob("*.tar.gz")
        extract_tests(archive, Path(scratch, "tests", f"{package}_tests"))
        os.replace(Path(scratch, "tests"), folder)  # in one step: a folder that is there is whole
    return folder


def extract_tests(archive: Path, target: Path) -> None:
    """Extracts the folder `tests` of a source distribution as a Python package.

    Args:
        archive (`Path`): a `.tar.gz` file whose members are in one folder.
        target (`Path`): what becomes of the folder `tests`.
    """
    target.mkdir(parents=True)
    (target / "__init__.py").touch()
    with tarfile.open(archive) as tar:
        for member in tar:
            _, *parts = PurePosixPath(member.name).parts
            if member.isfile() and parts[:1] == ["tests"] and ".." not in parts:
                path = target.joinpath(*parts[1:])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tar.extractfile(member).read())


def run_suites(suites: Iterable[Suite], folders: Iterable[Path], workers: int, output_dir: Path) -> list[Case]:
    """Runs suites by pytest, in a process of its own.

    Args:
        suites (`Iterable[Suite]`): the suites.
        folders (`Iterable[Path]`): where their mixins are, see [`fetch_tests`].
        workers (`int`): number of test processes.
        output_dir (`Path`): folder for the output of pytest.

    Returns:
        `list[Case]`: the results of all tests.

    Raises:
        SystemExit: if pytest could not run them.
    """
    report, log = output_dir / "report.xml", output_dir / "log.txt"
    files = [str(SUITES_DIR / suite.file) for suite in suites]
    # The mixins have markers of their own, which --strict-markers refuses.
    options = ["-o", "addopts=--import-mode=importlib", "-W", "ignore::pytest.PytestUnknownMarkWarning", "--tb=short"]
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), *options, f"--junitxml={report}", *files]
    env = {**os.environ, "LZN_HF_UPSTREAM": os.pathsep.join(str(folder.resolve()) for folder in folders)}
    with log.open("w") as file:
        code = subprocess.run(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT).returncode
    if code not in (0, 1):  # all passed, some failed
        raise SystemExit(f"{log.read_text()[-5000:]}\npytest could not run the suites (exit status {code}), see {log}")
    return read_report(report, {Path(suite.file).stem: suite.title for suite in suites})


def read_report(report: Path, titles: Mapping[str, str]) -> list[Case]:
    """Reads the results in a JUnit report of pytest. A test fails if one of its subtests does, a module if it cannot be imported.

    Args:
        report (`Path`): the report.
        titles (`Mapping[str, str]`): titles of suites by the names of their modules.
    """
    cases = []
    for test in ET.parse(report).iter("testcase"):
        names = [*test.get("classname", "").split("."), test.get("name", "")]
        if len(names) > 2:
            *_, module, cls, name = names
        else:
            module = cls = names[-1].rpartition(".")[2]
            name = "import"
        messages: dict[str, list[str]] = {"failed": [], "skipped": []}
        for child in test:
            if child.tag in ("failure", "error", "skipped"):
                outcome = "skipped" if child.tag == "skipped" else "failed"
                messages[outcome].append(child.get("message", "").partition("\n")[0])
        outcome = next((outcome for outcome in messages if messages[outcome]), "passed")
        message = "; ".join(dict.fromkeys(messages.get(outcome, [])))
        cases.append(Case(titles[module], f"{cls}::{name}", outcome, message))
    return cases


def find_reason(case: Case, reasons: Mapping[str, str]) -> str | None:
    """Returns the listed reason for the failure of a test, `None` without one. `reasons` are by patterns of names."""
    return next((reason for pattern, reason in reasons.items() if fnmatchcase(case.name, pattern)), None)


def find_errors(titles: Iterable[str], cases: list[Case], reasons: Mapping[str, str]) -> list[str]:
    """Says what is wrong with results.

    Args:
        titles (`Iterable[str]`): the titles of the suites that were run.
        cases (`list[Case]`): the results of all tests.
        reasons (`Mapping[str, str]`): why tests fail that cannot pass, by patterns of their names.

    Returns:
        `list[str]`: failures without a reason, reasons without a failure, and suites of which no test passes.
    """
    errors = [
        f"{case.name} failed: {case.message}"
        for case in cases
        if case.outcome == "failed" and find_reason(case, reasons) is None
    ]
    for pattern in reasons:
        matched = [case for case in cases if fnmatchcase(case.name, pattern)]
        errors += [
            f"{case.name} {case.outcome}, but reasons.json says why it fails"
            for case in matched
            if case.outcome != "failed"
        ]
        if not matched:
            errors.append(f"{pattern} of reasons.json matches no test")
    passed = {case.suite for case in cases if case.outcome == "passed"}
    errors += [f"no test of the suite {title!r} passed" for title in titles if title not in passed]
    return errors


def render(cases: list[Case], reasons: Mapping[str, str], unavailable: Mapping[str, str]) -> str:
    """Renders a table of the suites, and the reasons of the tests that are not applicable.

    Args:
        cases (`list[Case]`): the results of all tests.
        reasons (`Mapping[str, str]`): as in [`find_errors`].
        unavailable (`Mapping[str, str]`): why suites were not run, by their titles.
    """
    rows, details = [], []
    for suite in dict.fromkeys(case.suite for case in cases):
        counts, why = Counter(), Counter()
        for case in (case for case in cases if case.suite == suite):
            reason = find_reason(case, reasons) if case.outcome == "failed" else None
            is_applicable = case.outcome != "skipped" and reason is None
            counts[case.outcome if is_applicable else "skipped"] += 1
            if not is_applicable:
                why[f"fails: {reason}" if reason else case.message] += 1
        rows.append(f"{suite:24}{counts['passed']:8}{counts['failed']:8}{counts['skipped']:16}")
        details += [f"\n{suite}: not applicable"] if why else []
        details += [f"{count:5}  {reason}" for reason, count in why.most_common()]
    header = f"{'suite':24}{'passed':>8}{'failed':>8}{'not applicable':>16}"
    missing = [f"{suite:24}not available: {reason}" for suite, reason in unavailable.items()]
    return "\n".join([header, *rows, *missing, *details])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Runs the common tests of transformers and diffusers on our classes.")
    parser.add_argument("--workers", type=int, default=2, help="test processes")
    parser.add_argument(
        "--cache_dir", type=Path, default=ROOT / "outputs" / "upstream", help="keeps downloads and log"
    )
    parser.add_argument("--diffusers_tests", type=Path, help="folder `tests` of a checkout of diffusers")
    parser.add_argument("--allow_offline", action="store_true", help="succeed where the package index does not answer")
    args = parser.parse_args(arguments)

    folders: dict[str, Path] = {}
    try:
        for package in dict.fromkeys(suite.package for suite in SUITES):
            folders[package] = fetch_tests(package, args.cache_dir)
    except NotAvailableError as error:
        print(error)
        raise SystemExit(0 if args.allow_offline else 2) from error
    if args.diffusers_tests is not None:
        folders["diffusers"] = args.cache_dir / "diffusers-checkout"
        folders["diffusers"].mkdir(exist_ok=True)
        link = folders["diffusers"] / "diffusers_tests"
        link.unlink(missing_ok=True)
        link.symlink_to(args.diffusers_tests.resolve(), target_is_directory=True)
    is_there = {suite: (folders[suite.package] / f"{suite.package}_tests" / suite.needs).exists() for suite in SUITES}
    unavailable = {
        suite.title: f"the source distribution of {folders[suite.package].name} has no tests/{suite.needs}"
        for suite in SUITES
        if not is_there[suite]
    }
    reasons = json.loads((SUITES_DIR / "reasons.json").read_text())
    suites = [suite for suite in SUITES if is_there[suite]]
    cases = run_suites(suites, folders.values(), args.workers, args.cache_dir)
    reasons = {pattern: why for suite in suites for pattern, why in reasons[suite.title].items()}
    print(render(cases, reasons, unavailable))
    errors = find_errors((suite.title for suite in suites), cases, reasons)
    if errors:
        print("\nwrong", *errors, sep="\n")
    passed = sum(case.outcome == "passed" for case in cases)
    failed = sum(case.outcome == "failed" and find_reason(case, reasons) is None for case in cases)
    print(f"\n{passed} passed, {failed} failed, {len(cases) - passed - failed} skipped")
    raise SystemExit(bool(errors))


if __name__ == "__main__":
    main()
