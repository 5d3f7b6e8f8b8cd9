# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`benchmarks/`: each script runs and writes its results; timing, rows and the tables of docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.pipelines import make_pipeline
from safetensors.torch import save_file


BENCHMARKS = ROOT / "benchmarks"
# Sizes that take seconds.
TINY = {
    "latent_zones": "--rows 6 --anchors 8 --large_rows 4 --large_anchors 9 --latent_dim 3 --steps 2 --repeats 1",
    "pool_size": "--rows 4 --anchors 8 9 --latent_dim 3 --steps 2 --repeats 1",
    "solvers": "--rows 6 --max_anchors 10 --reference 8",
    "networks": "--decoders cifar10 --cifar10_batch 1 --base_channels 16 --repeats 1",
    "sampling": "--images 4 --evaluations 2 4 --tolerances 0.1 --reference_steps 8 --steps 2 --batch_sizes 2 --repeats 1",
    "training_step": "--preset digits --batch 4 --repeats 1",
    "scaling": "--preset digits --batch 4 --repeats 1",
    "data_loading": "--images 32 --batch 8 --batches 2 --image_size 8 --repeats 1",
    "streaming": "--files 2 --images 8 --image_size 16 --batch 4 --batches 3 --repeats 1",
    "metrics": "--samples 60 --features 8 --plain_samples 40 --labels 5 --repeats 1",
    "pools": "--pool 16 --micro_batch 8 --config_overrides encoder_base_channels=16 decoder_base_channels=16",
    "imports": "--names LZNImageProcessor --repeats 1",
    "gpu": "--device cpu --eager --preset digits --batch 4 --rows 4 --anchors 8 --latent_dim 3 --product 32 --steps 2 --minutes 0 --repeats 1",
    "views": "--channels 3 --image_size 32 --batch 8 --repeats 1",
}


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("common")


@pytest.fixture
def render_table(common):
    return importlib.import_module("render_table")


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------------------------------- scripts


def test_every_script_has_tiny_sizes_a_title_and_its_turn_in_make_bench(render_table):
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")} - {"common", "render_table"}
    makefile = (BENCHMARKS.parent / "Makefile").read_text()
    listed = re.search(r"^BENCHMARKS := (.*)$", makefile, flags=re.MULTILINE)[1].split()
    assert set(TINY) == scripts and scripts <= set(render_table.BENCHMARKS)
    assert set(listed) == scripts - {"gpu"}  # it needs one


# These take most of a minute.
SLOW = ("latent_zones", "metrics", "pools", "training_step")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TINY])
def test_script_writes_results_that_can_be_rendered(tmp_path: Path, render_table, name: str):
    output = tmp_path / f"{name}.json"
    printed = run(f"{name}.py", *TINY[name].split(), "--output", str(output))
    report = json.loads(output.read_text())
    assert set(report) == {"machine", "versions", "threads", "seed", "settings", "results"}
    assert report["threads"] == 1 and report["seed"] == 0 and report["settings"]["repeats"] == 1
    assert {"processor", "cores", "memory_gib", "system", "gpu"} == set(report["machine"])
    assert report["versions"]["torch"] == version("torch")
    assert any(result["ratio"] is not None for result in report["results"])
    for result in report["results"]:
        assert {"name", "value", "unit", "baseline", "ratio"} <= set(result)
        assert math.isfinite(result["value"]) and result["name"] in printed
        if result["ratio"] is not None:
            assert 0 < result["ratio"] < math.inf
    tables = render_table.render_report(output)
    for result in report["results"]:
        assert (f"| {result['name']} " in tables) != result.get("detail", False)


@pytest.mark.slow
def test_gpu_script_trains_and_evaluates(tmp_path: Path):
    output = tmp_path / "gpu.json"
    sizes = f"{TINY['gpu']} --train_preset digits --max_train_steps 2 --feature_steps 2 --samples 20"
    run("gpu.py", *sizes.split(), "--output", str(output))
    names = [result["name"] for result in json.loads(output.read_text())["results"]]
    title = "digits, 2 training steps of 128 in bf16"
    assert [name for name in names if name.startswith(title)] == [
        f"{title}: accuracy",
        f"{title}: Fréchet distance, real training images as baseline",
        f"{title}: class consistency",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("arguments", "message"), [("", "No GPU"), ("--device cpu", "--data_dir must be the folder of fashion-mnist")]
)
def test_gpu_script_ends_with_one_line_before_it_measures(arguments, message):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (
        done.returncode == 1 and done.stdout == "" and done.stderr.startswith(message) and done.stderr.count("\n") == 1
    )


def test_errors_of_a_decoder_fall_with_the_evaluations(common):
    sampling = importlib.import_module("sampling")
    args = argparse.Namespace(evaluations=[4, 32], tolerances=[1e-4], reference_steps=250)
    noise = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        rows = sampling.error_rows(*sampling.decoder_flow(make_pipeline(), 3), noise, args)
    errors = {(row["name"], row.get("column")): row["value"] for row in rows}
    solvers = [name for name, column in errors if column == "4 evaluations"]
    assert len(solvers) == 7
    for name in solvers:
        assert errors[name, "32 evaluations"] < 0.5 * errors[name, "4 evaluations"]
    assert errors["FlowMatchEuler", "4 evaluations"] == pytest.approx(
        errors['solver="euler"', "4 evaluations"], rel=1e-3
    )
    assert rows[-1]["name"].startswith('solver="rk45"') and rows[-1]["value"] < 0.02


# ---------------------------------------------------------------- common


def test_quick_changes_defaults_and_the_place_of_the_results_only(common):
    def parse(*argv: str):
        arguments = {
            "batch": (8, "images"),
            "sizes": ([1, 2], "sides"),
            "model": (None, "folder"),
            "fast": (False, "f"),
        }
        return common.parse("networks", "doc", arguments, {"batch": 2, "repeats": 1}, argv=argv)

    full, quick = parse(), parse("--quick")
    assert (full.batch, full.repeats, full.output) == (8, 5, common.ROOT / "benchmarks/results/networks.json")
    assert (quick.batch, quick.repeats, quick.output) == (2, 1, common.ROOT / "outputs/bench/networks.json")
    given = parse("--quick", "--batch", "3", "--output", "x.json")
    assert (given.batch, given.repeats, given.output) == (3, 1, Path("x.json"))
    several = parse("--sizes", "4", "5", "6", "--model", "m", "--fast")
    assert (several.sizes, several.model, several.fast) == ([4, 5, 6], "m", True)
    with pytest.raises(SystemExit):
        parse("--repeats", "0")
    # the command that a reader has to type for the same run
    assert full.command == "python benchmarks/networks.py"
    assert given.command == "python benchmarks/networks.py --quick --batch 3"
    assert several.command == "python benchmarks/networks.py --sizes 4 5 6 --model m --fast"


def test_median_times_are_interleaved_and_leave_the_warm_up_out(common):
    calls, now = [], [0.0]
    durations = {"a": iter([100.0, 1.0, 9.0, 2.0]), "b": iter([100.0, 4.0, 4.0, 8.0])}

    def function(name: str):
        def call() -> None:
            calls.append(name)
            now[0] += next(durations[name])

        return call

    times = common.median_times({name: function(name) for name in "ab"}, 3, clock=lambda: now[0])
    assert times == {"a": 2.0, "b": 4.0}
    assert "".join(calls) == "abababab"


def test_peak_memory_is_that_of_the_fresh_process(tmp_path: Path):
    """A parent process that has had 200 MiB, as on Linux `ru_maxrss` would hand on, and a child that takes 64 MiB."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from common import peak_memory, row, run_benchmark\n"
        "large = bytearray(b'x') * (200 * 2**20) if '--memory_of' not in sys.argv else None\n"
        "def measure(args):\n"
        "    return [row('peak', peak_memory(args, 'child', mebibytes=64), 'B')]\n"
        "def memory(args, case):\n"
        "    assert (case, args.names, args.seed) == ('child', ['a', 'b'], 3)\n"
        "    return lambda: bytearray(b'x') * (args.mebibytes * 2**20)\n"
        "arguments = {'mebibytes': (1, 'size'), 'names': (['c'], 'names')}\n"
        "run_benchmark(__file__, None, measure, arguments, quick={'mebibytes': 2}, memory=memory)\n"
    )
    command = [sys.executable, str(script), "--quick", "--names", "a", "b", "--seed", "3"]
    subprocess.run([*command, "--output", str(tmp_path / "x.json")], check=True)
    report = json.loads((tmp_path / "x.json").read_text())
    assert 60 * 2**20 < report["results"][0]["value"] < 80 * 2**20
    assert report["settings"]["command"] == "python benchmarks/script.py --seed 3 --quick --names a b"


def test_a_child_that_fails_says_why(common, monkeypatch, tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit('no such form')")
    monkeypatch.setattr(sys, "argv", [str(script)])
    with pytest.raises(RuntimeError, match="no such form"):
        common.peak_memory(argparse.Namespace(), "x")


def test_ratio_says_how_many_times_better(common):
    assert common.row("time", 2.0, "s", baseline=6.0)["ratio"] == 3.0
    assert common.row("rate", 6.0, "images/s", baseline=2.0)["ratio"] == 3.0
    assert common.row("alone", 2.0, "s")["ratio"] is None


# ---------------------------------------------------------------- tables


def write_report(common, path: Path) -> None:
    rows = [
        common.row("forward", 0.25, "s", baseline=0.5),
        common.row("a | b", 12345.0, "images/s"),
        common.row("hidden", 1.0, "s", detail=True),
        common.row("UniPC", 0.5, "rms", column="10 evaluations"),
        common.row("UniPC", 0.25, "rms", column="20 evaluations"),
        common.row("Euler", 0.75, "rms", column="20 evaluations"),
    ]
    command = f"python benchmarks/{path.stem.partition('_')[0]}.py --repeats 2"
    common.write_results(path, {"seed": 3, "command": command, "output": path}, rows)


def test_tables_show_what_was_written(common, render_table, tmp_path: Path):
    write_report(common, tmp_path / "networks_small.json")
    lines = render_table.render_folder(tmp_path).splitlines()
    assert lines[0].startswith("## ") and lines[0].endswith(f" torch {version('torch')}")
    assert lines[1:] == [
        "",
        "### Networks",
        "",
        f"`python benchmarks/networks.py --repeats 2` ({torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)})",
        "",
        "|  | 10 evaluations | 20 evaluations |",
        "|---|---|---|",
        "| UniPC (rms) | 0.5 | 0.25 |",
        "| Euler (rms) |  | 0.75 |",
        "",
        "|  | lzn_hf | baseline: plain form | better by |",
        "|---|---|---|---|",
        "| forward | 0.25 s | 0.5 | 2x |",
        "| a \\| b | 12,345 images/s |  |  |",
    ]


def test_a_section_is_one_machine(common, render_table, tmp_path: Path):
    for name in ("latent_zones", "networks", "views"):
        write_report(common, tmp_path / f"{name}.json")
    other = json.loads((tmp_path / "networks.json").read_text())
    other["machine"] |= {"processor": "Other", "gpu": "Large"}
    (tmp_path / "networks.json").write_text(json.dumps(other))
    headings = [line for line in render_table.render_folder(tmp_path).splitlines() if line.startswith("#")]
    machine = headings[0]
    titles = ["### Latent zones", "### Random views"]
    assert [machine, *titles] == headings[:3] and "Other" not in machine
    assert headings[3].startswith("## Other, ") and ", Large, " in headings[3] and headings[4:] == ["### Networks"]


def test_only_what_is_between_the_markers_is_replaced(common, tmp_path: Path):
    results, page = tmp_path / "results", tmp_path / "page.md"
    write_report(common, results / "networks.json")
    before, after = (
        "# Title\n\nTables stand after a line <!-- benchmarks -->\n\n",
        "\n## Cite\n\nno newline at the end",
    )
    page.write_text(f"{before}<!-- benchmarks -->\nold numbers\n<!-- /benchmarks -->\n{after}")
    for _ in range(2):  # the second time changes nothing
        run("render_table.py", "--results", str(results), "--page", str(page))
        text = page.read_text()
        assert text.startswith(f"{before}<!-- benchmarks -->\n\n## ")
        assert text.endswith(f"| a \\| b | 12,345 images/s |  |  |\n\n<!-- /benchmarks -->\n{after}")
        assert "old numbers" not in text


def test_the_page_has_the_tables_of_the_committed_results(render_table):
    page = (ROOT / "docs/benchmarks.md").read_text()
    tables = render_table.render_folder(BENCHMARKS / "results")
    assert render_table.replace_between_markers(page, tables) == page


@pytest.mark.parametrize("text", ["", "<!-- benchmarks -->\n", "<!-- /benchmarks -->\n<!-- benchmarks -->\n"])
def test_a_page_without_markers_is_refused(render_table, text: str):
    with pytest.raises(ValueError, match="must have a line"):
        render_table.replace_between_markers(text, "table")


def test_results_of_no_benchmark_or_of_another_form_are_refused(render_table, tmp_path: Path):
    with pytest.raises(ValueError, match="has no results"):
        render_table.render_folder(tmp_path)
    (tmp_path / "networks.json").write_text("{}")
    with pytest.raises(ValueError, match='has no list "results"'):
        render_table.render_folder(tmp_path)
    (tmp_path / "networks.json").rename(tmp_path / "other.json")
    with pytest.raises(ValueError, match="named after no benchmark"):
        render_table.render_folder(tmp_path)


def test_solvers_measure_the_anchors_of_a_file(tmp_path):
    anchors = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    save_file({"anchors": anchors}, tmp_path / "mine.safetensors")
    output = tmp_path / "solvers.json"
    run(
        "solvers.py",
        "--anchors",
        str(tmp_path / "mine.safetensors"),
        *TINY["solvers"].split(),
        "--output",
        str(output),
    )
    names = [result["name"] for result in json.loads(output.read_text())["results"]]
    assert names and all(name.startswith("mine: 12 anchors, 3 dimensions") for name in names)


# ---------------------------------------------------------------- several processes


def test_arithmetic_of_a_step_by_hand(common):
    scaling = importlib.import_module("scaling")
    sizes = {
        "parameters": 2**20,
        "largest block": 2**18,
        "outside of blocks": 2**18,
        "latent_dim": 128,
        "evaluations": 5,
    }
    results = {name: value for name, (value, _) in scaling.per_gpu(sizes, 256, 4).items()}
    assert list(results.values()) == [
        1024,
        3 / 4 * 0.5,  # 1,024 x 128 floats are half a MiB
        7 / 8 * 8 * 256 * 128 * 4 / 2**20,
        2 * 3 / 4 * 4,  # 2^20 floats are 4 MiB
        3 * 3 / 4 * 4,
        5 * 4,
        5 * 4 / 4 + 3,  # the rest and two blocks of 1 MiB each
        2.0,  # 256 x 1,024 doubles
        6 * 2 * 256 * 1024 * 128 * 5 / 1e9,
        6 * 2 * 256 * 2048 * 128 * 5 / 1e9,
    ]


def test_the_page_has_the_tables_of_the_results(render_table):
    page = (ROOT / "docs" / "distributed.md").read_text().splitlines()
    report = render_table.render_report(BENCHMARKS / "results" / "scaling.json").splitlines()
    lines = [line for line in report if line.startswith("|")]
    assert len(lines) > 15 and set(lines) <= set(page)
