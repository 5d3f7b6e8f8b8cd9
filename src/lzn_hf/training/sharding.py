# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Weights, gradients, optimizer and moving averages that are sharded over the processes by FSDP2, as a config of accelerate asks for it.

PyTorch's `fully_shard` makes each parameter a DTensor, of which a process holds the rows of a part of the first dimension. A block of the
model gathers its parameters when it is called, and its gradients are scattered. Three things are different from DistributedDataParallel:

- Label anchors stay whole on every process: their values are needed outside of the forward pass of the model. Their gradient is averaged
  in [`average_whole_gradients`].
- What calls methods of the model by themselves (validation, samples, the final folder) gets a whole model of averaged weights.
- A checkpoint has a file of each process, with its rows ([`own_rows`]). They are joined when it is read ([`join_rows`]), so that a run
  goes on with any number of processes, sharded or not. PyTorch's distributed checkpoints would do the same, but a pickle is part of them:
  reading one may run any code.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import compare_versions, convert_outputs_to_fp32
from torch import Tensor, nn

from ..modeling_lzn import LZNModel


try:
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
    from torch.distributed.tensor import DTensor, distribute_tensor
except ImportError:  # a build of PyTorch without processes
    DTensor = ()  # type: ignore[assignment,misc]  # of which nothing is an instance

MIN_VERSIONS = {
    "torch": "2.7",
    "accelerate": "1.15",
}  # the first to leave parameters out, and to see that in norms of gradients
ROWS = "rows of this process"  # the only key of the dictionary that stands for a sharded tensor in a file


def allow_sharding(accelerator: Accelerator) -> None:
    """Checks what the config of accelerate says on FSDP. On a CPU, where accelerate silently leaves it out, turns it on.

    Raises:
        ValueError: if the config asks for what sharded training cannot do here.
    """
    state = accelerator.state
    if (
        state.distributed_type == DistributedType.MULTI_CPU
        and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    ):
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        # The other state, of which accelerate makes this one anew, has its own.
        state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    if state.distributed_type != DistributedType.FSDP:
        return
    plugin = state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ValueError(f"`fsdp_version` in the config of accelerate must be 2, got {plugin.fsdp_version}.")
    refused = {
        "fsdp_offload_params": (isinstance(plugin.cpu_offload, CPUOffloadPolicy), "leave it out"),
        "fsdp_cpu_ram_efficient_loading": (plugin.cpu_ram_efficient_loading, "write `false`"),
        "fsdp_activation_checkpointing": (
            plugin.activation_checkpointing,
            "write `false`, and pass `--gradient_checkpointing`",
        ),
        "fsdp_ignored_modules": (plugin.ignored_modules, "leave it out"),
        "fsdp_auto_wrap_policy: SIZE_BASED_WRAP": (plugin.min_num_params, "leave it out, the model knows its blocks"),
        "fsdp_transformer_layer_cls_to_wrap": (
            plugin.transformer_cls_names_to_wrap,
            "leave it out, the model knows its blocks",
        ),
        "parallelism_config": (accelerator.parallelism_config, "leave it out"),
        "mixed_precision: fp16": (accelerator.mixed_precision == "fp16", "write `bf16` or `no`"),
    }
    for name, (is_set, remedy) in refused.items():
        if is_set:
            raise ValueError(f"`{name}` in the config of accelerate is not supported with sharded weights: {remedy}.")
    for package, version in MIN_VERSIONS.items():
        if compare_versions(package, "<", version):
            raise ValueError(
                f"Sharded weights (FSDP2) need {package} {version} or later: train by DDP, or update {package}."
            )


def shard_model(accelerator: Accelerator, model: LZNModel) -> None:
    """Shards a model in place: each of its blocks by itself, the rest together, label anchors not at all.

    Its parameters are other objects afterwards. Networks run in the precision of the accelerator; what is gathered and scattered is float32.

    Args:
        accelerator (`Accelerator`): the processes, checked by [`allow_sharding`].
        model (`LZNModel`): the model, the same on all processes.
    """
    model.to(device=accelerator.device, memory_format=torch.contiguous_format)  # type: ignore[call-arg]  # needed by FSDP2
    options = {
        "mesh": dist.init_device_mesh(accelerator.device.type, (accelerator.num_processes,)),
        "reshard_after_forward": accelerator.state.fsdp_plugin.reshard_after_forward,
    }
    for module in model.modules():
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, **options)
    whole = set() if model.label_anchors is None else set(model.label_anchors.parameters())
    fully_shard(model, **options, ignored_params=whole)
    if accelerator.mixed_precision == "bf16":  # as accelerate does it for models that are not sharded
        autocast = torch.autocast(accelerator.device.type, dtype=torch.bfloat16)
        model.forward = convert_outputs_to_fp32(autocast(model.forward))


def local(tensor: Tensor) -> Tensor:
    """Returns the rows that this process holds of a sharded tensor, and any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Returns a sharded tensor with the rows of all processes, which all must call, and any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def average_whole_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Averages the gradients of the parameters of a sharded model that stay whole. All processes must call it."""
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


@torch.no_grad()
def copy_buffers(source: LZNModel, target: LZNModel) -> None:
    """Copies the buffers of a sharded model into a whole one, on all processes those of process 0. All must call it."""
    for buffer, own in zip(target.buffers(), source.buffers(), strict=True):
        buffer.copy_(own)
        dist.broadcast(buffer, 0)


def own_rows(state: Any) -> Any:
    """Replaces the sharded tensors of nested dictionaries, lists and tuples by what this process holds of them."""
    if isinstance(state, DTensor):
        return {ROWS: state.to_local().clone()}  # a view would be saved with all that it is a view of
    if isinstance(state, Mapping):
        return {name: own_rows(value) for name, value in state.items()}
    return type(state)(map(own_rows, state)) if isinstance(state, list | tuple) else state


def join_rows(states: Sequence[Any], target: Any = None) -> Any:
    """Joins what [`own_rows`] made of a state on all processes.

    Args:
        states (`Sequence`): the states, in the order of the processes.
        target (*optional*): nested as the state, with the tensor instead of which each one of the state will be used, or one tensor for a
            whole dictionary. Where it is of the same shape, the result is sharded in the same way, and has the same memory format.
    """
    first = states[0]
    if isinstance(first, Mapping) and ROWS in first:
        first = torch.cat([state[ROWS] for state in states])
    elif isinstance(first, Mapping):
        targets = target if isinstance(target, Mapping) else dict.fromkeys(first, target)
        return {name: join_rows([state[name] for state in states], targets.get(name)) for name in first}
    elif isinstance(first, list | tuple):
        items = target if isinstance(target, list | tuple) else [None] * len(first)
        return type(first)(map(join_rows, zip(*states, strict=True), items))
    if isinstance(first, Tensor) and isinstance(target, Tensor) and first.shape == target.shape:
        # In the memory format of the target: the fused Adam takes it for granted that moments have that of their parameter.
        if not isinstance(target, DTensor):
            return torch.empty_like(target, dtype=first.dtype, device=first.device).copy_(first)
        # Each process takes its rows of what it has read itself.
        rows = first.contiguous().to(target.device)
        return distribute_tensor(rows, target.device_mesh, target.placements, src_data_rank=None)
    return first.clone() if isinstance(first, Tensor) else first
