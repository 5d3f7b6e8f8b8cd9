# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Weights sharded over two real processes (gloo) by FSDP2: the same run as with whole ones, and files that both can read."""

from __future__ import annotations

import os

import pytest
import torch
from accelerate import Accelerator, DistributedType, PartialState
from helpers.many_processes import (  # noqa: F401 (train is a fixture)
    FSDP2,
    MIDDLE,
    POOL,
    SCRIPTS,
    assert_equal,
    largest_difference,
    run_script,
    start_over_from_the_middle,
    train_fixture,
)
from helpers.training import run_on, tiny_model
from torch import nn
from torch.distributed.tensor import DTensor

from lzn_hf.training.checkpoints import state_file
from lzn_hf.training.models import PartwiseEMA, model_parts
from lzn_hf.training.sharding import allow_sharding, copy_buffers, join_rows, local, own_rows, shard_model, whole


RESUME = ["--resume_from_checkpoint", "latest"]


def sharded_model(accelerator: Accelerator) -> nn.Module:
    os.environ.update(FSDP2)
    allow_sharding(accelerator)
    torch.manual_seed(0)
    model = tiny_model()
    shard_model(accelerator, model)
    return model


# --- Whole runs ------------------------------------------------------------------------------------------------------------


def test_sharded_processes_train_as_one(tmp_path, train):
    """With clipped gradients, a part that is frozen on the way, moving averages, validation, samples and the final folder."""
    flags = "--decoder_train_steps 15 --eval_steps 7 --max_grad_norm 0.5".split()
    one = train("joint", 1, tmp_path / "one", *flags)
    two = train("joint", 2, tmp_path / "two", *flags, "--gradient_checkpointing", sharded=True)
    assert_equal(two, one)
    # One process goes on where two had been, each with its file.
    assert (tmp_path / "two" / MIDDLE / state_file(1)).exists()
    start_over_from_the_middle(tmp_path / "two", tmp_path / "again")
    assert_equal(train("joint", 1, tmp_path / "again", *flags, *RESUME), one)


@pytest.mark.parametrize("name", ["joint", pytest.param("unconditional", marks=pytest.mark.slow)])
def test_a_pool_of_micro_batches_on_sharded_processes(tmp_path, train, name):
    whole = train(name, 1, tmp_path / "whole")
    flags = f"{POOL} --gradient_accumulation_steps 2".split()
    assert_equal(train(name, 2, tmp_path / "parts", *flags, sharded=True), whole)


@pytest.mark.slow
def test_a_sharded_run_that_resumes_is_the_undisturbed_one(tmp_path, train):
    """To the bit; and it may have begun with whole weights."""
    undisturbed = train("representation", 2, tmp_path / "two", sharded=True)
    start_over_from_the_middle(tmp_path / "two", tmp_path / "resumed")
    resumed = train("representation", 2, tmp_path / "resumed", *RESUME, sharded=True)
    assert resumed.losses == undisturbed.losses
    assert largest_difference(resumed.weights, undisturbed.weights) == 0
    assert largest_difference(resumed.averages, undisturbed.averages) == 0
    whole = train("representation", 1, tmp_path / "one")
    start_over_from_the_middle(tmp_path / "one", tmp_path / "from_one")
    assert_equal(train("representation", 2, tmp_path / "from_one", *RESUME, sharded=True), whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accumulated", "simclr", "classifier", "rectified_flow"])
def test_all_losses_on_sharded_processes(tmp_path, train, name):
    if name == "simclr":
        pytest.importorskip("pytorch_metric_learning", reason="simclr_loss is that of pytorch-metric-learning")
    double = name != "classifier"  # which asks for float32
    # The default solver decides whether two anchors are a pair apart: there, 1e-14 can decide.
    flags = "--config_overrides latent_solver=euler alignment_solver=euler".split() if name == "accumulated" else []
    whole, sharded = (train(name, 2, tmp_path / str(way), *flags, double=double, sharded=way) for way in (False, True))
    assert_equal(sharded, whole)


@pytest.mark.slow
def test_bfloat16_is_that_of_whole_weights(tmp_path, train):
    flags = ["--mixed_precision", "bf16"]
    whole, sharded = (
        train("joint", 2, tmp_path / str(sharded), *flags, double=False, sharded=sharded) for sharded in (False, True)
    )
    # Later on, convolutions in another memory format have rounded differently. Without autocast the first loss is off by 1e-4.
    assert sharded.losses[:3] == pytest.approx(whole.losses[:3], rel=0, abs=1e-5)
    assert sharded.losses[:10] == pytest.approx(whole.losses[:10], rel=0, abs=5e-3)
    assert {value.dtype for value in sharded.weights.values()} == {torch.float32}


def test_momentum_contrast_is_refused_before_anything_is_written(tmp_path, train):
    with pytest.raises(Exception, match="`method` moco cannot train with sharded weights"):
        train("moco", 2, tmp_path / "run", sharded=True)
    assert not (tmp_path / "run").exists()


# --- The parts -------------------------------------------------------------------------------------------------------------


def parts_of_a_sharded_model(accelerator: Accelerator) -> dict:
    model = sharded_model(accelerator)
    parts = model_parts(model)
    ema = PartwiseEMA(parts, decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    ema.step()
    averaged, target = tiny_model(), tiny_model()
    ema.copy_whole_to(model_parts(averaged))
    state = own_rows({"model": model.state_dict(), "ema": ema.state_dict()})
    states = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(states, state)
    joined = join_rows(states)
    target.load_state_dict(joined["model"])
    placed = join_rows(states, {"model": model.state_dict(), "ema": ema.state_dict()})
    pairs = [(value, placed["model"][name]) for name, value in model.state_dict().items()]
    for name, average in ema.averages.items():
        pairs += zip(average.shadow_params, placed["ema"][name]["shadow_params"], strict=True)
    return {
        "sharded": {name: isinstance(value, DTensor) for name, value in model.named_parameters()},
        "rows": {name: len(local(value)) for name, value in model.named_parameters()},
        "sizes": {name: len(value) for name, value in model.named_parameters()},
        "whole": {name: whole(value).detach() for name, value in model.named_parameters()},
        "joined": dict(target.named_parameters()),
        "averaged": dict(averaged.named_parameters()),
        "placed_as_before": all(
            isinstance(a, DTensor) == isinstance(b, DTensor) and torch.equal(local(a), local(b)) for a, b in pairs
        ),
    }


def test_rows_are_shared_out_and_joined(tmp_path):
    results = run_on(2, parts_of_a_sharded_model, tmp_path)
    torch.manual_seed(0)
    plain = dict(tiny_model().named_parameters())
    for result in results:
        assert {name for name, is_sharded in result["sharded"].items() if not is_sharded} == {"label_anchors.weight"}
        for name, value in plain.items():
            torch.testing.assert_close(result["whole"][name], value + 1)
            torch.testing.assert_close(result["joined"][name], value + 1, check_device=False)
            # The first update moves by 1 - min(0.5, 2 / 11) from the old weights to the new ones.
            torch.testing.assert_close(result["averaged"][name].detach(), value + 9 / 11)
        assert result["placed_as_before"]
    rows = [result["rows"] for result in results]
    for name, size in results[0]["sizes"].items():
        is_sharded = results[0]["sharded"][name]
        assert sum(one[name] for one in rows) == (size if is_sharded else 2 * size)
    assert any(0 in one.values() for one in rows)  # a layer of one channel leaves a process without


def buffers_after_copy(accelerator: Accelerator) -> list[torch.Tensor]:
    source, target = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    source.running_mean.fill_(1.0 + accelerator.process_index)
    copy_buffers(source, target)
    return [target.running_mean, target.num_batches_tracked]


def test_statistics_of_the_main_process_count(tmp_path):
    """As with DistributedDataParallel, which sends them to the others."""
    for mean, _ in run_on(2, buffers_after_copy, tmp_path):
        assert torch.equal(mean, torch.ones(2))


REFUSED = {
    "must be 2, got 1": {"FSDP_VERSION": "1", "FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD"},
    "`fsdp_offload_params`": {"FSDP_OFFLOAD_PARAMS": "true"},
    "`fsdp_cpu_ram_efficient_loading`": {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
    "`fsdp_activation_checkpointing`": {"FSDP_ACTIVATION_CHECKPOINTING": "true"},
    "`fsdp_ignored_modules`": {"FSDP_IGNORED_MODULES": "decoder"},
    "SIZE_BASED_WRAP": {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP", "FSDP_MIN_NUM_PARAMS": "100"},
    "`fsdp_transformer_layer_cls_to_wrap`": {
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "ResidualBlock",
    },
    "fp16": {"fp16": "yes"},
}


def messages_of_refusals(accelerator: Accelerator) -> list[str]:
    messages = []
    for settings in [*REFUSED.values(), {}]:
        PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.MULTI_CPU
        accelerator.state._mixed_precision = "fp16" if settings.get("fp16") else "no"
        environment = dict(os.environ)
        os.environ.update({**FSDP2, **settings})
        try:
            allow_sharding(accelerator)
            messages.append("none")
        except ValueError as error:
            messages.append(str(error))
        os.environ.clear()
        os.environ.update(environment)
    return messages


def test_settings_that_cannot_shard_are_refused(tmp_path):
    """One config after the other, on the same processes; the last one is good."""
    for messages in run_on(2, messages_of_refusals, tmp_path):
        for name, message in zip(REFUSED, messages, strict=False):
            assert name in message and "config of accelerate" in message, message
        assert messages[-1] == "none"
