# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Two real processes (gloo): together they must do what one does on the joined batch, and agree with each other."""

from __future__ import annotations

import json
import re
import shutil
import weakref
from functools import partial

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from helpers import ROOT
from helpers.training import (
    TINY,
    forget_accelerators,
    launch,
    run_on,
    tiny_model,
    toy_images,
    write_image_folder,
)
from safetensors.torch import load_file
from torch import Tensor, nn

from lzn_hf import train_joint, train_representation, train_unconditional
from lzn_hf.data.batches import image_batches
from lzn_hf.training.batches import EndlessBatches, make_train_loader
from lzn_hf.training.contrastive import MomentumContrast, simclr_loss
from lzn_hf.training.metrics import MetricAverager
from lzn_hf.training.models import PartwiseEMA, freeze_part, model_parts
from lzn_hf.training.optimization import NonFiniteGuard
from lzn_hf.training.validation import calibrate, encode_anchors, measure_accuracy, reference_anchors


EXAMPLES = ROOT / "examples"


def same(a: dict[str, Tensor], b: dict[str, Tensor], prefix: str = "") -> bool:
    return all(torch.equal(a[name], b[name]) for name in a if name.startswith(prefix))


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor], rtol: float) -> None:
    """Every tensor differs by at most `rtol` of its largest value."""
    assert a.keys() == b.keys()
    for name in a:
        error = (a[name] - b[name]).abs().max() / b[name].abs().max().clamp_min(1e-3)
        assert error <= rtol, f"{name}: {error:.1e}"


def joined_batch() -> dict[str, Tensor]:
    """8 images whose labels are unevenly spread over two halves, with all noise given."""
    generator = torch.Generator().manual_seed(5)
    draw = {"generator": generator, "dtype": torch.float64}
    return {
        "pixel_values": torch.rand(8, 1, 8, 8, **draw) * 2 - 1,
        "labels": torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]),
        "noise": torch.randn(8, 6, **draw),
        "sample_noise": torch.randn(8, 1, 8, 8, **draw),
        "timesteps": torch.rand(8, **draw),
    }


def share_of_batch(accelerator) -> dict[str, Tensor]:
    size = 8 // accelerator.num_processes
    rows = slice(accelerator.process_index * size, (accelerator.process_index + 1) * size)
    return {name: value[rows] for name, value in joined_batch().items()}


def double_model() -> nn.Module:
    torch.manual_seed(0)
    model = tiny_model(decoder_dropout=0.0, encoder_dropout=0.0).double()
    for parameter in model.parameters():  # fresh output layers are almost zero: make every path count
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def gradients(accelerator) -> dict[str, Tensor]:
    model = accelerator.prepare(double_model())
    accelerator.backward(model(**share_of_batch(accelerator)).loss)
    return {name: parameter.grad for name, parameter in accelerator.unwrap_model(model).named_parameters()}


def test_two_processes_have_the_gradient_of_one_on_the_joined_batch(tmp_path):
    [expected] = run_on(1, gradients, tmp_path)
    results = run_on(2, gradients, tmp_path)
    assert same(*results)
    assert max(value.abs().max() for value in expected.values()) > 0.1
    assert_close(results[0], expected, rtol=1e-6)


def view_gradients(accelerator, method: str) -> dict[str, Tensor]:
    """Of half of 8 pairs of views, or all: gradients, for MoCo those of the second step with the queue after it."""
    torch.manual_seed(0)
    plain = tiny_model(labels=(), decoder_type=None, encoder_dropout=0.0, latent_noise_scale=0.45)
    plain.config.alignment_reduction = "log_prob"
    for parameter in plain.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    draws = torch.Generator().manual_seed(5)
    contrast = MomentumContrast(plain.encoder, 6, queue_size=12, momentum=0.5, generator=draws)
    first, second = torch.rand(2, 8, 1, 8, 8, generator=draws) * 2 - 1
    noise = torch.randn(8, 6, generator=draws)
    size = 8 // accelerator.num_processes
    rows = slice(accelerator.process_index * size, (accelerator.process_index + 1) * size)
    first, second, noise = first[rows], second[rows], noise[rows]
    model = accelerator.prepare(plain)
    state = {}
    if method == "lzn":
        accelerator.backward(model(first, second_views=second, noise=noise).loss)
    elif method == "simclr":
        accelerator.backward(simclr_loss(*model(torch.cat([first, second])).anchors.chunk(2)))
    else:
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
        for step in range(2):
            accelerator.backward(contrast.loss(model(first).anchors, second))
            state |= {f"gradient {step} {name}": p.grad.clone() for name, p in plain.named_parameters()}
            optimizer.step()
            optimizer.zero_grad()
            contrast.end_step(True)
        return state | {"queue": contrast.queue, "position": torch.tensor([float(contrast.position)])}
    return {name: parameter.grad for name, parameter in plain.named_parameters()}


@pytest.mark.parametrize("method", ["lzn", "simclr", "moco"])
def test_two_processes_compare_views_as_one(tmp_path, method):
    """Of the anchors of each, in float32: the target of row b of process 1 is row 4 + b of all."""
    if method == "simclr":
        pytest.importorskip("pytorch_metric_learning", reason="simclr_loss is that of pytorch-metric-learning")
    function = partial(view_gradients, method=method)
    [expected] = run_on(1, function, tmp_path)
    results = run_on(2, function, tmp_path)
    assert same(*results)
    assert max(value.abs().max() for value in expected.values()) > 0.01
    joined = [torch.cat([value.flatten() for value in values.values()]) for values in (results[0], expected)]
    assert (joined[0] - joined[1]).norm() <= 1e-5 * joined[1].norm()
    if method == "moco":  # 16 keys into 12 places; the order is that of one process
        assert expected["position"] == 4
        assert_close({"queue": results[0]["queue"]}, {"queue": expected["queue"]}, rtol=1e-5)


def train_with_trouble(accelerator) -> list[dict[str, dict[str, Tensor]]]:
    """Weights and averages after each of five steps: step 2 has a NaN on the last process, step 4 a frozen decoder."""
    model = double_model()
    optimizer = torch.optim.Adam({"params": parameters, "lr": 1e-2} for parameters in model_parts(model).values())
    model, optimizer = accelerator.prepare(model, optimizer)
    plain = accelerator.unwrap_model(model)
    ema = PartwiseEMA(model_parts(plain), decay=0.5)
    guard, history = NonFiniteGuard(3), []
    for step in (1, 2, 3, 4, 5):
        if step == 4:
            model = freeze_part(accelerator, model, optimizer, "decoder")
            assert len(accelerator._models) == 1 and accelerator._optimizers == [optimizer]
        loss = model(**share_of_batch(accelerator)).loss
        if step == 2 and accelerator.is_last_process:
            loss = loss * float("nan")
        accelerator.backward(loss)
        guard.watch(loss)
        if guard.step_is_finite(accelerator, accelerator.clip_grad_norm_(model.parameters(), 1.0)):
            optimizer.step()
            ema.step()
        optimizer.zero_grad()
        weights = {name: value.clone() for name, value in plain.state_dict().items()}
        with ema.scope():
            averages = {name: value.clone() for name, value in plain.state_dict().items()}
        history.append({"weights": weights, "averages": averages})
    assert (guard.total, guard.in_a_row) == (1, 0)
    return history


def test_two_processes_skip_freeze_and_train_as_one(tmp_path):
    [expected] = run_on(1, train_with_trouble, tmp_path)
    results = run_on(2, train_with_trouble, tmp_path)
    for steps in zip(expected, *results, strict=True):
        for kind in ("weights", "averages"):
            assert same(steps[1][kind], steps[2][kind])
            assert_close(steps[1][kind], steps[0][kind], rtol=1e-4)  # Adam enlarges rounding where gradients are tiny
    for kind in ("weights", "averages"):
        step1, step2, step3, step4, step5 = (step[kind] for step in results[0])
        assert same(step1, step2) and not same(step2, step3, "decoder.")
        assert same(step3, step5, "decoder.")
        for part in ("encoder.", "label_anchors"):
            assert not any(
                torch.equal(step4[name], step5[name]) for name in step4 if name.startswith(part) and "bias" not in name
            )


def three_bad_steps(accelerator) -> str:
    guard = NonFiniteGuard(3)
    good, bad = torch.tensor(1.0), torch.tensor(float("inf"))
    for _ in range(3):
        guard.watch(bad if accelerator.is_main_process else good)
        try:
            assert not guard.step_is_finite(accelerator, good)
        except RuntimeError as error:
            return str(error)
    return "not stopped"


def test_all_processes_stop_together(tmp_path):
    assert all("3 steps in a row" in message for message in run_on(2, three_bad_steps, tmp_path))


def test_two_processes_read_the_batches_of_one(tmp_path):
    """11 images, pools of 4: two batches an epoch, three images left out."""

    def read(accelerator) -> list[list[int]]:
        count = accelerator.num_processes
        loader = accelerator.prepare(make_train_loader(toy_images(11, num_labels=11), 4 // count, count))
        batches = EndlessBatches(loader)
        iterator = iter(batches)
        read = [next(iterator)["labels"].tolist() for _ in range(7)]
        resumed = EndlessBatches(loader)
        resumed.load_state_dict({"epoch": 1, "batch": 1})
        iterator = iter(resumed)
        assert [next(iterator)["labels"].tolist() for _ in range(4)] == read[3:]
        return read

    [whole] = run_on(1, read, tmp_path)
    first, second = run_on(2, read, tmp_path)
    assert [a + b for a, b in zip(first, second, strict=True)] == whole
    assert all(len(set(whole[2 * epoch] + whole[2 * epoch + 1])) == 8 for epoch in range(3))


def evaluate(accelerator) -> list[float]:
    torch.manual_seed(0)
    model, data, metrics = tiny_model(), toy_images(23), MetricAverager(images_per_step=1)
    with reference_anchors(model, encode_anchors(model, image_batches(data, 5, limit=8))):
        shares = {"process_index": accelerator.process_index, "num_processes": accelerator.num_processes}
        accuracy = measure_accuracy(accelerator, model, image_batches(data, 7, **shares), model.classify_images)
        calibrate(model, image_batches(data, 7), seed=0)  # each process by itself, with all images
    metrics.add(loss=torch.tensor(2.0 * accelerator.process_index))
    metrics.end_step(applied=True)
    return [accuracy, metrics.compute(accelerator)["loss"], model.config.prediction_time]


def test_metrics_and_accuracy_are_those_of_all_processes(tmp_path):
    [one] = run_on(1, evaluate, tmp_path)
    assert run_on(2, evaluate, tmp_path) == 2 * [[one[0], 1.0, one[2]]]


def train_watched(script, argv: list[str]) -> None:
    """Trains, and fails if a wrapper of the model is alive when the process group goes: a deadlock, once in a while."""
    wrappers = []

    class Watched(nn.parallel.DistributedDataParallel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            wrappers.append(weakref.ref(self))

    end_training = Accelerator.end_training

    def watched_end_training(accelerator: Accelerator) -> None:
        assert wrappers and all(wrapper() is None for wrapper in wrappers)
        end_training(accelerator)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.parallel, "DistributedDataParallel", Watched)
        patch.setattr(Accelerator, "end_training", watched_end_training)
        script.main(argv)


def test_the_script_on_two_processes(tmp_path):
    data = write_image_folder(tmp_path / "images")
    preset = ROOT / "tests/helpers/toy_preset.json"
    flags = (
        f"--preset {preset} --data_dir {data} --total_batch_size 8 --num_reference_anchors 9 --logging_steps 1".split()
    )
    flags += "--checkpointing_steps 2 --decoder_train_steps 3 --eval_steps 3".split()

    # Five steps as users start them, ...
    command = ["torch.distributed.run", "--nproc_per_node", "2", EXAMPLES / "train_joint.py", *flags]
    stderr = launch(*command, "--max_train_steps", "5", "--output_dir", tmp_path / "whole")
    for line in ("process 1 of 2", "process 2 of 2", "The decoder and its moving average are frozen"):
        assert stderr.count(line) == 1, line
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {"README.md", "model.safetensors", "checkpoint-2", "checkpoint-4"} < names
    assert not any(name.startswith(".") for name in names)

    # ... and in two parts: the same to the bit.
    for steps in ("2", "5"):
        parts = [*flags, "--max_train_steps", steps, "--output_dir", str(tmp_path / "parts")]
        forget_accelerators()
        resume = [*parts, "--resume_from_checkpoint", "latest"]
        debug_launcher(train_watched, (train_joint, resume), num_processes=2)
    assert same(*(load_file(tmp_path / run / "model.safetensors") for run in ("whole", "parts")))
    losses = []
    for run in ("whole", "parts"):
        lines = [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        losses.append({line["step"]: line["loss"] for line in lines if "loss" in line})
    assert losses[0] == losses[1] and len(losses[0]) == 5


def test_two_processes_time_their_steps_together(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_image_folder(tmp_path / "images")
    before = sorted(tmp_path.rglob("*"))
    flags = f"--preset {ROOT / 'tests/helpers/toy_preset.json'} --data_dir images --total_batch_size 8 --dry_run"
    forget_accelerators()
    debug_launcher(train_watched, (train_joint, flags.split()), num_processes=2)
    printed = capfd.readouterr().out
    # `debug_launcher` starts each process as the first one of a machine, and once per machine it is printed. Their lines may run together.
    for text in (
        r"2 process\(es\) x 4 images",
        "2 steps after one to warm up",
        r"\d+\.\d\d GiB of memory at the peak of a process",
    ):
        found = re.findall(text, printed)
        assert len(found) == 2, text
    assert found[0] == found[1]  # of the process that took more
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        (train_joint, "--baseline classifier"),
        (train_joint, "--baseline rectified_flow"),
        (train_unconditional, "--num_samples 2 --num_inference_steps 1"),
        (train_representation, "--config_overrides decoder_type=null --method lzn"),
        (train_representation, "--config_overrides decoder_type=null --method moco --queue_size 20"),
    ],
    ids=["classifier", "rectified_flow", "unconditional", "lzn", "moco"],
)
def test_the_other_scripts_on_two_processes_resume_to_the_bit(tmp_path, script, flags):
    """All processes must agree for that: each has its own momentum encoder and queue, and the first one's are saved."""
    data = write_image_folder(tmp_path / "images")
    preset = tmp_path / "toys.json"
    preset.write_text(json.dumps({"model": TINY}))
    flags = f"--preset {preset} --data_dir {data} --total_batch_size 8 --num_reference_anchors 9 {flags}".split()
    # The line of step 3 is the mean of steps before and after the checkpoint, over both processes.
    flags += "--logging_steps 3 --checkpointing_steps 2 --eval_steps 2".split()
    flags += "--max_train_steps 4 --resume_from_checkpoint latest".split()
    for run in ("whole", "parts"):
        forget_accelerators()
        debug_launcher(train_watched, (script, [*flags, "--output_dir", str(tmp_path / run)]), num_processes=2)
        if run == "whole":
            shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "parts" / "checkpoint-2")
    assert same(*(load_file(tmp_path / run / "model.safetensors") for run in ("whole", "parts")))
    scores = []
    for run in ("whole", "parts"):
        lines = [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        scores.append([{**line, "images_per_second": None} for line in lines if line["step"] > 2])
    assert scores[0] == scores[1] and len(scores[0]) == 3
