# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The end of a training run: the averaged model in a folder that all libraries open, with its card and settings."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..evaluation.cards import PICTURES, RELIABILITY_PICTURE, SAMPLES_PICTURE, make_model_card
from ..evaluation.results import write_json
from ..evaluation.sharing import save_components
from ..evaluation.uploads import export_and_upload
from .arguments import RunArguments
from .checkpoints import list_checkpoints
from .durable import sync, sync_folder, temporary_folder
from .loop import Draw, Evaluate, TrainingLoop
from .pictures import draw_pictures
from .settings import SETTINGS_FILE
from .space import NoSpaceError, tensor_bytes, write_with_room
from .validation import calibrate


logger = logging.getLogger(__name__)

DrawReliability = Callable[[Sequence[dict[str, float]], Path], None]
WriteFiles = Callable[[Path], None]  # the files of the final folder, into an empty one

SECONDS_BETWEEN_TRIES = 30.0  # to save the model while there is no room for it anywhere


def save_final_folder(
    loop: TrainingLoop,
    *,
    evaluate: Evaluate,
    num_reference_anchors: int,
    draw: Draw | None = None,
    draw_reliability: DrawReliability | None = None,
    finish: Evaluate | None = None,
) -> Path:
    """Evaluates and saves the averaged model, uploads it if asked to, and ends the run. All processes must call it.

    Args:
        loop (`TrainingLoop`): the loop, after its last step.
        evaluate (`Callable`): returns the final metrics, of the model with averaged weights and without reference anchors.
        num_reference_anchors (`int`): number of training images whose anchors the model keeps, if it has an encoder; 0: none.
        draw (`Callable`, *optional*): saves a picture of samples to the path that it is given. A picture that cannot be drawn is a
            warning, see [`draw_pictures`].
        draw_reliability (`Callable`, *optional*): with it, a model with labels, reference anchors and validation images gets the time at
            which scores are read, see [`calibrate`]; it saves a picture of their [`reliability`] to the path that it is given.
        finish (`Callable`, *optional*): gives the model, with averaged weights and reference anchors, what else it needs, and returns more
            metrics.

    Returns:
        `Path`: the folder. Files of an earlier run in it are replaced only when all new ones are complete.

    Raises:
        NoSpaceError: if there is no room, and the model is in a folder for temporary files or in a checkpoint, which the message names.
        OSError: if the upload fails; the folder is complete then, and the message says how to upload it later.
        RuntimeError: if weights are not finite.
        SystemExit: after a signal to stop, see [`TrainingLoop.stoppable`].
    """
    setup = loop.setup
    with loop.stoppable():
        loop.require_finite_weights()
        with loop.averaged_model() as model:
            metrics = dict(evaluate())
            loop.stop_if_asked()  # the last time: from here on, a run that is asked to stop comes to its end
            if model.encoder is not None and num_reference_anchors:
                model.set_reference_anchors(setup.encode_train_anchors(num_reference_anchors))
            if finish is not None:
                metrics |= finish()
            bins = None
            classifies = model.label_anchors is not None and model.reference_anchors is not None
            if draw_reliability is not None and classifies and setup.data.validation is not None:
                # Every process fits to all images, so that all have the same time.
                scores, bins = calibrate(model, setup.validation_batches(), loop.run.seed)
                metrics |= scores

            draws = {} if draw is None else {SAMPLES_PICTURE: draw}
            if bins is not None and draw_reliability is not None:
                draws[RELIABILITY_PICTURE] = partial(draw_reliability, bins)

            def write(folder: Path) -> None:
                _write_model(loop, folder, metrics, draws)

            if setup.accelerator.is_main_process:
                _save_for_sure(loop, write, metrics)
    output_dir, is_main_process = Path(loop.run.output_dir), setup.accelerator.is_main_process
    if is_main_process:
        logger.info(f"Saved the model to {output_dir}: {metrics}")
    loop.close()  # before the upload, for which no process should wait
    if setup.hub_model_id is not None and is_main_process:
        _upload(output_dir, setup.hub_model_id, loop.run)
    return output_dir


def _save_for_sure(loop: TrainingLoop, write: WriteFiles, metrics: dict[str, float]) -> None:
    """Saves the files and the last line of metrics in the folder of the run. Without room it saves the files elsewhere, or waits."""
    output_dir = Path(loop.run.output_dir)

    def replace_files() -> None:
        with temporary_folder(output_dir, "final") as folder:
            write(folder)
            sync_folder(folder)
            written = {path.name for path in folder.iterdir()}
            loop.accelerator.log(metrics, step=loop.step)
            for path in folder.iterdir():
                os.replace(path, output_dir / path.name)
            for name in PICTURES.difference(written):
                (output_dir / name).unlink(missing_ok=True)  # of an earlier run
            sync(output_dir)

    size = tensor_bytes(loop.setup.model.state_dict())
    while True:
        checkpoints = list_checkpoints(output_dir)
        try:
            return write_with_room(replace_files, output_dir, size, list(checkpoints.values()))
        except NoSpaceError as error:
            if loop.step in checkpoints:
                raise NoSpaceError(
                    f"{error}, and it holds the weights of the last step. Make room, then: {loop.resume_command()}"
                ) from error
            elsewhere = _save_elsewhere(write, size)
            if elsewhere is not None:
                raise NoSpaceError(f"{error}. The model is saved in {elsewhere} instead: move its files.") from error
            if loop.signals.received:
                raise
            logger.warning(
                f"{error}. Nor is there room in {tempfile.gettempdir()} (TMPDIR). The model is kept in memory, and saving is tried again "
                f"every {SECONDS_BETWEEN_TRIES:.0f} s: make room."
            )
        loop.signals.wait(SECONDS_BETWEEN_TRIES)


def _save_elsewhere(write: WriteFiles, size: int) -> Path | None:
    """Saves the files in a new folder for temporary files. Returns it, or `None` if they do not fit there either."""
    folder = None

    def write_folder() -> Path:
        nonlocal folder
        folder = Path(tempfile.mkdtemp(prefix="lzn-"))
        write(folder)
        sync_folder(folder)
        return folder

    try:
        return write_with_room(write_folder, Path(tempfile.gettempdir()), size, [])
    except NoSpaceError:
        if folder is not None:
            shutil.rmtree(folder)
        return None


def _upload(folder: Path, hub_model_id: str, run: RunArguments) -> None:
    try:
        url = export_and_upload(folder, hub_model_id, license=run.license)
    except Exception as error:  # whatever it is, the user needs to know that no training is lost
        command = ["lzn", "export", "hub", str(folder), "--push_to_hub", hub_model_id]
        command += ["--private"] * run.private
        raise OSError(
            f"the upload to {hub_model_id} failed: {error}. The model is complete in {folder}; upload it later by `{shlex.join(command)}`."
        ) from error
    logger.info(f"Uploaded the model to {url}")


def _write_model(loop: TrainingLoop, folder: Path, metrics: dict[str, float], draws: Mapping[str, Draw]) -> None:
    setup, model = loop.setup, loop.setup.model
    model.save_pretrained(folder)
    save_components(model, folder, setup.tokenizer)
    pictures = draw_pictures(setup, folder, draws, last_line={"step": loop.step, **metrics})
    card = make_model_card(
        model.config,
        model_id=loop.run.output_dir,
        dataset=setup.data.name,
        metrics=metrics,
        settings=setup.settings,
        parameters=model.num_parameters(),
        pictures=pictures,
        hub_dataset=setup.data_args.hub_dataset,
        license=loop.run.license,
        texts=setup.example_texts,
    )
    card.save(folder / "README.md")
    write_json(folder / SETTINGS_FILE, setup.settings)
