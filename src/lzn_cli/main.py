# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The command `lzn`: its subcommands, its errors of one line, and its exit codes.

0: done. 1: something is wrong with the files or the model. 2: something is wrong with the command line. 130: interrupted.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Annotated

from typer import Argument, BadParameter, Context, Option, Typer

from .images import Model, add_commands


SETTINGS = {"help_option_names": ["-h", "--help"]}
# Flags that the command does not know belong to the script behind it.
SCRIPT = {"allow_extra_args": True, "ignore_unknown_options": True}
# What a module that is missing is installed by.
EXTRAS = {
    **dict.fromkeys(("accelerate", "datasets", "matplotlib", "pyarrow", "tensorboard"), "train"),
    **dict.fromkeys(("evaluate", "scipy", "sklearn"), "eval"),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx"),
    "pytorch_metric_learning": "baselines",
    "gradio": "app",
}

HELP = """Latent Zoning Networks: one model that generates, classifies and embeds images.

\b
lzn demo --quick                                       a first model and its images, in a minute
lzn train joint --data_dir my_images --image_size 32   a model of your own images
lzn info outputs/demo/model                            what a model is and can do
lzn generate outputs/demo/model --label 7              images of a label
lzn classify outputs/demo/model photo.png              the label of an image

`lzn COMMAND --help` has examples of each command.
"""

app = Typer(
    name="lzn",
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help comes in a third of the time
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
)
train = Typer(
    name="train",
    help="Train a model on your images.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=SETTINGS,
)
export = Typer(
    name="export",
    help="Take a model to ONNX or the Hub.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=SETTINGS,
)

add_commands(app)


def run_script(module: str, name: str, argv: Sequence[str]) -> None:
    """Runs the `main` of a script of lzn_hf with flags of its own, under the name `lzn NAME`."""
    started_as, sys.argv = sys.argv, [f"lzn {name}", *argv]
    try:
        importlib.import_module(f"lzn_hf.{module}").main(list(argv))
    finally:
        sys.argv = started_as


def add_script(group: Typer, module: str, command: str, text: str) -> None:
    """Adds a command `lzn GROUP COMMAND` that gives all of its flags to a script, `--help` among them."""
    name = f"{group.info.name} {command}"

    def run(context: Context) -> None:
        run_script(module, name, context.args)

    run.__doc__ = text
    group.command(command, add_help_option=False, context_settings=SCRIPT)(run)


add_script(train, "train_joint", "joint", "Images with labels.")
add_script(train, "train_unconditional", "unconditional", "Images without labels, to generate.")
add_script(train, "train_representation", "representation", "Images without labels, to embed.")
add_script(train, "train_text_image", "text", "Images with captions.")
add_script(export, "commands.export_onnx", "onnx", "ONNX files, which run without PyTorch.")
add_script(
    export,
    "commands.export_to_hub",
    "hub",
    "The folder that is shared, and its upload.",
)
app.add_typer(train)
app.add_typer(export)


@app.command(context_settings=SCRIPT)
def evaluate(
    context: Context,
    model: Model,
    what: Annotated[
        str | None,
        Option(help="generation (its images) or representation (its embeddings); default: what the model is for."),
    ] = None,
) -> None:
    """Measure a model.

    Its images against real ones, or its embeddings. Further flags are those of the evaluation.

    \b
    lzn evaluate outputs/demo/model --dataset_name digits --num_samples 1000
    lzn evaluate outputs/demo/model --dataset_name digits --samplers unipc:10 heun:20 rk45
    lzn evaluate outputs/mine --what representation --data_dir my_images
    lzn evaluate outputs/mine --what generation -- --help        (all flags)
    """
    kinds = ("generation", "representation")
    if what is None:
        from lzn_hf.commands.models import open_config

        what = kinds[open_config(model).decoder_type is None]
    if what not in kinds:
        raise BadParameter(f"{what!r} is not {' or '.join(kinds)}.", param_hint="--what")
    flags = [] if "--help" in context.args else ["--model_name_or_path", model]
    run_script(f"commands.evaluate_{what}", "evaluate MODEL", [*flags, *context.args])


@app.command(add_help_option=False, context_settings=SCRIPT)
def convert(context: Context) -> None:
    """Convert a published checkpoint."""
    run_script("commands.convert_original_checkpoint", "convert", context.args)


@app.command()
def info(model: Model, json: Annotated[bool, Option("--json", help="Print JSON.")] = False) -> None:
    """Say what a model is and can do.

    \b
    lzn info outputs/demo/model
    lzn info outputs/demo/model --json
    """
    from lzn_hf.commands.describe import info

    info(model, as_json=json)


@app.command(context_settings=SCRIPT)
def data(
    context: Context,
    source: Annotated[str, Argument(metavar="DATA", help="Folder, zip archive, digits, or Hub id of a dataset.")],
    out: Annotated[str | None, Option("--out", "-o", metavar="FILE", help="The same as a JSON file.")] = None,
) -> None:
    """Say what training would find.

    What it would use and leave out, and why. Further flags are those of training about data.

    \b
    lzn data digits
    lzn data my_images --image_size 32
    lzn data my_images.zip --image_size 32 --validation_fraction 0.2 --out summary.json
    """
    from lzn_hf.commands.describe import data

    data(source, context.args, out=out)


@app.command()
def curves(
    runs: Annotated[list[str], Argument(metavar="RUNS...", help="Folders of training runs, or their metrics.jsonl.")],
    out: Annotated[
        str, Option("--out", "-o", metavar="FILE", help="Picture: .png, .svg, .pdf and so on.")
    ] = "curves.png",
    smoothing: Annotated[
        int | None, Option(min=1, help="Logged lines that a point of a curve is the mean of; default: by its length.")
    ] = None,
) -> None:
    """Draw the curves of training runs.

    Losses, accuracies and all else that runs log, several runs over one another, also of a run that goes on.

    \b
    lzn curves outputs/demo/model
    lzn curves outputs/demo/model outputs/mine --out compared.svg
    """
    from lzn_hf.commands.describe import curves

    curves(runs, out=out, smoothing=smoothing)


@app.command("app", add_help_option=False, context_settings=SCRIPT)
def page(context: Context) -> None:
    """Open a page to play with a model."""
    run_script("app.command", "app", context.args)


@app.command(add_help_option=False, context_settings=SCRIPT)
def demo(context: Context) -> None:
    """Train on digits and generate some."""
    run_script("commands.demo", "demo", context.args)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command line, by default that of the process. A mistake is one line `error: ...` on stderr; a bug keeps its traceback."""
    try:
        app(args=None if argv is None else list(argv), prog_name="lzn")
    except BrokenPipeError:  # of `lzn ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS or importlib.util.find_spec(package) is not None:
            raise
        print(f"error: {package} is not installed: pip install 'lzn_hf[{EXTRAS[package]}]'", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        from lzn_hf.training.mistakes import UsageError, is_mistake, one_line

        if not is_mistake(error):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
