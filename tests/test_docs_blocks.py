# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Every Python and shell block of the documentation runs, page by page, as printed but small.

`make test` runs commands in one process each, without the launcher, whose own parser reads its flags; `make test-slow` launches them as
printed (`pytest -m slow tests/test_docs_blocks.py`). Commands that cannot run here are in `NOT_RUN`, each with its reason.
"""

from __future__ import annotations

import re
from functools import partial

import pytest
from helpers import ROOT
from helpers.page_files import prepare
from helpers.pages import Command, blocks_of, command_of, lines_of, run_here, run_launched, run_page, shrink


PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
RUN = [page for page in PAGES if blocks_of(page)]

TRAINING = "--max_train_steps 2 --total_batch_size 16 --max_eval_samples 20 --num_reference_anchors 20 --num_inference_steps 2"
# Flags that make a script small.
SMALL = {
    "train_joint": f"{TRAINING} --samples_per_label 1",
    "train_unconditional": f"{TRAINING} --num_samples 4",
    "train_representation": "--max_train_steps 2 --total_batch_size 16 --max_eval_samples 20 --num_reference_anchors 20",
    "train_text_image": f"{TRAINING} --samples_per_caption 1",
    "train_metric_features": "--max_train_steps 2 --batch_size 16",
    "evaluate_generation": "--num_samples 8 --num_reconstructions 2 --max_eval_samples 20 --samplers unipc:2 rk45",
    "evaluate_representation": "--max_train_samples 100 --max_eval_samples 40 --fine_tune_steps 2 --map_samples 40",
    "make_editing_pictures": "--num_images 2 --num_steps 3 --num_inference_steps 2",
    "own_data_type": "--max_train_steps 2 --batch_size 16",
    "compare_guidance": "--num_samples 8 --max_eval_samples 20",
    "compare_joint": "--seeds 0 --max_train_steps 2 --total_batch_size 16 --num_samples 8 --samplers euler:1 --max_probe_samples 100 --feature_extractor pixels",
    "compare_generation": "--seeds 0 --max_train_steps 1 --num_samples 8 --samplers euler:1 euler:2 --num_reconstructions 2 "
    "--reconstruction_samplers euler:1",
    "compare_representations": "--seeds 0 --methods lzn random --max_train_steps 1 --max_train_samples 100",
    "compare_text_image": "--seeds 0 --max_train_steps 2 --num_images 1",
    "measure_interpolation": "--num_pairs 2 --num_steps 5 --num_inference_steps 2",
}
SMALL |= {
    "lzn train joint": SMALL["train_joint"],
    "lzn train unconditional": SMALL["train_unconditional"],
    "lzn train representation": SMALL["train_representation"],
    "lzn train text": SMALL["train_text_image"],
    "lzn evaluate": "--num_samples 8 --num_reconstructions 2 --max_eval_samples 20 --samplers unipc:2",
}
# What pages import that may be missing: it comes with the extra `test`.
IMPORTS = {"docs/app.md": "gradio", "docs/fine_tuning_peft.md": "peft"}
# The same for presets whose networks take seconds a step.
SMALL_NETWORK = "--total_batch_size 8 --config_overrides encoder_base_channels=8 decoder_base_channels=8"
SMALL_PRESETS = {
    "fashion-mnist": SMALL_NETWORK,
    "images-32": SMALL_NETWORK,
    "images-64": SMALL_NETWORK,
    "afhq-cat": "--max_train_steps 1 --num_samples 1 --num_inference_steps 1 --num_reference_anchors 2 "
    + SMALL_NETWORK.replace("size 8", "size 2"),
}
# Presets whose data is on the Hub: their settings and networks alone, by `--dry_run`.
PUBLISHED = re.compile(r"--preset (cifar10|imagenet|celeba-hq|lsun-bedroom)\b(?!.* --d(ata_dir|ry_run))")
# Programs that never run here, and why. Of scripts, the parser reads the arguments.
NOT_RUN = {
    "apt-get": "asks a package index",
    "pip": "asks a package index",
    "make": "makes an environment, and runs this suite or minutes of work; test_docs.py looks into the Makefile for the command",
    "pytest": "runs this suite",
    "lzn app": "serves a page until it is stopped; tests/app uses it",
    "lzn convert": "needs a checkpoint of the authors; test_convert_original_checkpoint.py converts tiny ones",
    "lzn demo": "trains for minutes; test_demo.py runs it in small",
    "lzn export hub": "uploads to the Hub; test_export_to_hub.py and test_push_to_hub.py upload to a Hub on this machine",
    "run_upstream_tests": "asks a package index for the sources of transformers and diffusers",
    "convert_original_checkpoint": "needs a checkpoint of the authors; test_convert_original_checkpoint.py converts tiny ones",
    "export_to_hub": "uploads to the Hub; test_export_to_hub.py and test_push_to_hub.py upload to a Hub on this machine",
    "make_models": "trains for minutes; test_make_models.py runs it in small",
    "make_emoji_images": "needs the font and the list of two packages; test_make_emoji_images.py makes tiny ones",
    "networks": "takes minutes; test_benchmarks.py runs it in small",
    "render_table": "rewrites docs/benchmarks.md; test_benchmarks.py does so with a copy",
}
# Programs that `make test` leaves to `make test-slow`: they start several processes, or take a minute, or run the same modules as other
# pages. The parser reads the arguments.
SLOW = [
    "compare_generation",
    "compare_guidance",
    "compare_joint",
    "compare_representations",
    "compare_text_image",
    "export_onnx",
    "lzn export onnx",
]
SLOW += ["check_published_parity"]
SLOW += [f"lzn train {kind}" for kind in ("joint", "unconditional", "representation", "text")]
# The same for lines of a page: the experiments of docs/guidance.md, and images of 256 pixels.
SLOW_LINES = re.compile(r"outputs/(fashion|digits-plain)|--preset afhq-cat")
# Configs of accelerate for machines that are not here: their scripts run without them. test_accelerate_files.py reads the configs.
OTHER_MACHINES = re.compile(r"--config_file \S+(8_gpus|two_nodes)\.yaml ")


def in_small(line: str) -> Command:
    """A command of a page, small. Its folder may be that of an earlier command of the page, to which it is an alternative."""
    command = command_of(PUBLISHED.sub(r"\g<0> --dry_run", line))
    small = SMALL.get(command.name, "")
    if command.name in ("train_joint", "train_unconditional"):
        preset = re.search(r"--preset (\S+)", line)
        small += " " + SMALL_PRESETS.get(preset[1] if preset else "digits", "")
    if command.name == "lzn evaluate" and "representation" in line:
        small = SMALL["evaluate_representation"]
    command = shrink(command, small)
    trains = re.match(r"(lzn train |train_(?!metric))", command.name) and not re.search("--(dry_run|help)", line)
    return (
        command.with_more("--overwrite_output_dir") if trains and "--resume_from_checkpoint" not in line else command
    )


def lines_of_earlier_pages(page: str) -> set[Command]:
    """What the pages before this one run: the same command need not run again."""
    earlier = RUN[: RUN.index(page)]
    lines = (line for one in earlier for block in blocks_of(one, ("sh",)) for line in lines_of(block))
    return {in_small(line).in_one_process() for line in lines}


def run_small(line: str, done: set[Command]) -> None:
    command = in_small(line).in_one_process()
    if command in done:
        print("(has run before)")
        return
    done.add(command)
    if command.program.endswith(".py") or command.name not in NOT_RUN:
        assert command.runs_python, f"{command.name} does not run, and has no reason"
        run_here(command, parse_only=command.name in (*NOT_RUN, *SLOW) or bool(SLOW_LINES.search(line)))


def run_slowly(line: str) -> None:
    command = in_small(line)
    if command.name in NOT_RUN:
        return
    if OTHER_MACHINES.search(line) or line.startswith("srun"):
        run_here(command.in_one_process())
    else:
        run_launched(command)


@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run(page, tmp_path):
    if page in IMPORTS:
        pytest.importorskip(IMPORTS[page], reason=f"{IMPORTS[page]} is not installed: it comes with the extra `test`")
    folder = tmp_path / "folder"
    folder.mkdir()
    run_page(page, folder, partial(run_small, done=lines_of_earlier_pages(page)), prepare)


@pytest.mark.slow
@pytest.mark.parametrize("page", [*RUN, "examples/README.md"])
def test_the_blocks_of_a_page_run_as_users_start_them(page, tmp_path):
    """With accelerate, torchrun and new processes."""
    folder = tmp_path / "folder"
    folder.mkdir()
    run_page(page, folder, run_slowly, prepare, timeout=3000)


def test_reasons_are_of_programs_that_pages_name():
    lines = (
        line for page in [*RUN, "examples/README.md"] for block in blocks_of(page, ("sh",)) for line in lines_of(block)
    )
    assert {*NOT_RUN, *SLOW} <= {command_of(line).name for line in lines}


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    """Programs are `py` or `sh`, which run; a block without a language is what a program prints or reads."""
    languages = {block.language for block in blocks_of(page, None)}
    assert languages <= {"py", "sh", "bibtex", ""}
    text = (ROOT / page).read_text(encoding="utf-8")
    assert 2 * len(blocks_of(page, None)) == len(re.findall(r"^ *```", text, flags=re.MULTILINE))
    assert not [
        block for block in blocks_of(page, ("",)) if re.match(r"(\$ |import |from |python |accelerate )", block.text)
    ]
