# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Damage to a saved folder, and what comes of loading and using it: in a process of its own, whose time and memory are measured."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import re
import resource
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification

from lzn_hf import LZNPipeline


JSON_FILES = ("config.json", "scheduler_config.json", "preprocessor_config.json", "model_index.json")
WEIGHTS = "model.safetensors"
FILES = (*JSON_FILES, WEIGHTS, "README.md")
SECONDS, MEGABYTES = 5, 500
# Fields that users set as they like: a valid value may well give another output. Of the other two files: none, and all that fit the model.
SETTINGS = re.compile(
    r"alignment_.*|latent_(num_steps|solver|noise_scale)|prediction_time|num_prediction_draws|step_cutoff|label_anchor_std"
    r"|(encoder|decoder)_(skip_rescale|fir_kernel)|id2label|label2id|dtype"
    r"|solver_.*|flow_shift|lower_order_final|disable_corrector|predict_x0|thresholding|dynamic_.*|sample_max_value|steps_offset"
    r"|num_train_timesteps|timestep_spacing|do_.*|resample|rescale_factor|image_(mean|std)"
)


class Mutation(NamedTuple):
    """What is done to which file; `place` and `value` say where and with what."""

    kind: str
    file: str
    place: Any = None
    value: Any = None


class Outcome(NamedTuple):
    """What came of a folder, in a word, and the details."""

    word: str
    details: str


def json_places(fields: Any, before: tuple = ()) -> list[tuple]:
    """The paths to all values in nested JSON, those of long objects only in part."""
    if not isinstance(fields, (dict, list)):
        return []
    items = list(fields.items() if isinstance(fields, dict) else enumerate(fields))
    nested = [one for key, value in items[:60] for one in json_places(value, (*before, key))]
    return [(*before, key) for key, _ in items] + nested


def mutate(folder: Path, mutation: Mutation) -> None:
    """Damages a folder in place."""
    kind, name, place, value = mutation
    path = folder / name
    if kind in ("delete", "value", "rename", "add"):
        fields = json.loads(path.read_text())
        inner = fields
        for key in place[:-1]:
            inner = inner[key]
        if kind in ("delete", "rename"):
            old = inner.pop(place[-1])
            if kind == "rename":
                inner[value] = old
        else:
            inner[place[-1]] = value
        path.write_text(json.dumps(fields))
    elif kind == "write":
        path.write_bytes(value)
    elif kind == "truncate":
        path.write_bytes(path.read_bytes()[: int(place * path.stat().st_size)])
    elif kind == "flip":
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1 << value
        path.write_bytes(content)
    elif kind == "flip header":
        content = bytearray(path.read_bytes())
        content[int(place * (8 + int.from_bytes(content[:8], "little")))] ^= 1 << value
        path.write_bytes(content)
    elif kind == "tensor":
        _mutate_tensor(path, place, value)
    elif kind == "remove":
        path.unlink()
    elif kind == "directory":
        path.unlink()
        path.mkdir()
    elif kind == "swap":
        other = folder / value
        path.rename(folder / "third")
        other.rename(path)
        (folder / "third").rename(other)
    else:
        raise ValueError(f"`kind` is {kind!r}.")


def _mutate_tensor(path: Path, place: float, change: str) -> None:
    weights = load_file(path)
    name = sorted(weights)[int(place * len(weights))]
    tensor = weights[name].clone()
    changes = {
        "missing": {},
        "renamed": {name + "_": tensor},
        "more": {name: tensor, name + "_": tensor.clone()},
        "nan": {name: tensor * math.nan},
        "infinite": {name: tensor + math.inf},
        "integers": {name: tensor.to(torch.int32)},
        "complex": {name: tensor + 0j},
        "bool": {name: tensor > 0},
        "half": {name: tensor.half()},
        "huge": {name: torch.full_like(tensor, 3e38)},
        "flat": {name: tensor.flatten()},
        "more rows": {name: torch.cat([tensor, tensor])},
        "empty": {name: tensor[:0]},
        "scalar": {name: tensor.sum()},
    }
    del weights[name]
    weights.update({key: value.contiguous() for key, value in changes[change].items()})
    save_file(weights, path, metadata={"format": "pt"})


def use(folder: Path) -> torch.Tensor:
    """All numbers that a pipeline of a folder gives: an image, scores and an embedding."""
    pipe = LZNPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    image = pipe(label=3, num_inference_steps=4, generator=generator, output_type="pt").images
    picture = torch.linspace(0, 1, image.numel()).view(image.shape)
    ids = pipe.model.config.label2id
    rows = sorted((ids[row["label"]], row["score"]) for row in pipe.classify(picture, top_k=100)[0])
    scores = torch.tensor([score for _, score in rows])
    return torch.cat([image.flatten(), scores, pipe.embed(picture).flatten()])


def use_auto_classes(folder: Path) -> torch.Tensor:
    """All numbers that the auto classes of transformers give: log-probabilities and pixel values."""
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    picture = torch.linspace(0, 1, 64).view(1, 8, 8)
    pixel_values = processor(picture, return_tensors="pt").pixel_values
    with torch.no_grad():
        return torch.cat([model(pixel_values).logits.flatten(), pixel_values.flatten()])


WAYS_IN = {"pipeline": use, "auto classes": use_auto_classes}


def measure(saved: Path, mutation: Mutation, way_in: str, expected: torch.Tensor) -> Outcome:
    """Loads and uses a damaged copy of a folder in a fork of this process, and judges what comes of it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "copy"
        shutil.copytree(saved, folder)
        mutate(folder, mutation)
        # A lock that the thread behind progress bars holds when this process forks would stay locked in the other one.
        tqdm.monitor_interval = 0
        if tqdm.monitor is not None:
            tqdm.monitor.exit()
            tqdm.monitor = None
        receiver, sender = multiprocessing.Pipe(duplex=False)
        pid = os.fork()
        if pid == 0:
            try:
                sender.send(_run(folder, WAYS_IN[way_in]))
            finally:
                os._exit(0)
        sender.close()
        answer = None
        if receiver.poll(20 * SECONDS):  # of a machine that others use, too
            with contextlib.suppress(EOFError):
                answer = receiver.recv()
        os.kill(pid, signal.SIGKILL)  # or it has ended
        os.waitpid(pid, 0)
        if answer is None:
            return Outcome("over limits", "no answer: killed, or crashed")
        kind, result, seconds, megabytes = answer
        if seconds > SECONDS or megabytes > MEGABYTES:
            return Outcome("over limits", f"{seconds:.1f} s, {megabytes:.0f} MB")
        if kind == "error":
            is_named, text = result
            return Outcome("clean error" if is_named else "obscure error", text)
        result = torch.tensor(result)
        if not result.isfinite().all():
            return Outcome("wrong or NaN accepted", "NaN")
        if result.shape == expected.shape and torch.allclose(result, expected, rtol=0, atol=1e-6):
            return Outcome("same output", "")
        is_setting = _is_setting(saved, folder, mutation)
        return Outcome("another setting" if is_setting else "wrong or NaN accepted", "finite, but different")


def _is_setting(saved: Path, folder: Path, mutation: Mutation) -> bool:
    """Whether a mutation left a valid folder with other settings, or weights of another precision."""
    if mutation.file == WEIGHTS:
        return mutation.kind == "tensor" and mutation.value == "half"
    if mutation.file not in JSON_FILES:
        return False
    before, after = (json.loads((place / mutation.file).read_text()) for place in (saved, folder))
    # A field that is not there has its default.
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    return all(SETTINGS.fullmatch(name) for name in changed & before.keys())


def _run(folder: Path, way_in: Any) -> tuple:
    """The result or the error of using a folder, seconds of this process, and megabytes that it grew by."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    before = resource.getrusage(resource.RUSAGE_SELF)
    limit = 2**33 + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # the machine stays usable
    try:
        kind, result = (
            "output",
            way_in(folder).tolist(),
        )  # not a tensor, which would be sent as a file of a process that is gone
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        named = any(name in str(error) for name in (str(folder), *JSON_FILES, WEIGHTS))
        # What is asked of a loaded model names the argument or the field of its configuration.
        named |= re.search(r"`\w+`|config\.\w+|NaN or infinite", str(error)) is not None
        kind, result = "error", (isinstance(error, (ValueError, OSError, StrictDataclassError)) and named, text[:400])
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return kind, result, seconds, (after.ru_maxrss - before.ru_maxrss) / 1024
