# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Pools of several micro-batches: the gradient of one large batch in the memory of a small one (arXiv 2101.06983).

A loss L of a pool depends on the weights w through the anchors a_k = f(x_k; w) of its micro-batches k, and on those of the decoder
through the reconstruction losses R_k of its micro-batches, given their latents z_k. So

    dL/dw = sum_k (da_k/dw)^T dL/da_k,      dL/da_k = the gradient of L(a, R_1(z_1(a)), ..., R_m(z_m(a))),

and each sum can be taken one micro-batch after the other:

    1. all a_k, without a graph;
    2. L and dL/da, where R_k, dR_k/dz_k and the gradient of the decoder are taken for one k at a time;
    3. each a_k again, with a graph, and (da_k/dw)^T dL/da_k.

Nothing is approximated. Images are encoded twice, and views drawn up to three times. Batch norm that is trained takes the statistics of a
micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..distributed_lzn import PartGenerator


Batch = Mapping[str, Tensor]
Reconstruct = Callable[..., Tensor]


@dataclass(frozen=True)
class PooledLoss:
    """A loss that is a function of the anchors of its images, and of the reconstruction loss if the model has a decoder.

    Args:
        images (`Callable`): `(batch, generator, process_index=i, num_processes=n)` -> pixel values `(V B, C, H, W)`, V views of each image,
            drawn as by process i of n.
        loss (`Callable`): `(anchors, labels, generator, reconstruct)` -> the mean loss of the images and metrics to log; with anchors
            `(V, N, D)`, labels `(N,)` or `None`, and the function from latents `(N, D)`, with `decoder_anchors` `(N, D)` of a model that
            takes them, to the mean reconstruction loss.
        num_views (`int`, *optional*, defaults to 1): V.
        reconstruction_weight (`float`, *optional*, defaults to 1.0): the factor that `loss` gives to the reconstruction loss.
        decoder_labels (`bool`, *optional*, defaults to `True`): whether the decoder is given labels, where images have them.
    """

    images: Callable[..., Tensor]
    loss: Callable[[Tensor, Tensor | None, torch.Generator, Reconstruct], tuple[Tensor, Mapping[str, Tensor | None]]]
    num_views: int = 1
    reconstruction_weight: float = 1.0
    decoder_labels: bool = True


def backward_pool(
    accelerator: Accelerator,
    model: nn.Module,
    batches: Sequence[Batch],
    generator: PartGenerator,
    pooled: PooledLoss,
    seed_dropout: Callable[[int, int], None],
) -> tuple[Tensor, Mapping[str, Tensor | None]]:
    """Adds the gradient of the loss of a pool, divided by the number of pools of the step. All processes must call it.

    Args:
        accelerator (`Accelerator`): the processes. Its `gradient_accumulation_steps` count the micro-batches of all pools of a step.
        model (`nn.Module`): the prepared model.
        batches (`Sequence`): the micro-batches of this process.
        generator (`PartGenerator`): draws views, noise and times, as for one batch of all images of the pool, whatever their micro-batch.
        pooled ([`PooledLoss`]): the loss.
        seed_dropout (`Callable`): `(micro_batch, stage)`: seeds what layers draw. Stage 0 is the encoder, 1 the decoder.

    Returns:
        `tuple`: the mean loss of the images of this process, and the metrics.
    """
    count, index, world = len(batches), accelerator.process_index, accelerator.num_processes
    # Micro-batch k of process r holds the images after those of the micro-batches before it and of the processes before it.
    generator.num_parts = count * world
    own_parts = tuple(micro_batch * world + index for micro_batch in range(count))
    start = generator.get_state()
    scaler = accelerator.scaler
    factor = (1.0 if scaler is None else scaler.get_scale()) / accelerator.gradient_accumulation_steps

    def images(micro_batch: int) -> Tensor:
        part = own_parts[micro_batch]
        generator.set_state(start)
        generator.parts = (part,)
        share = {"process_index": part, "num_processes": generator.num_parts}
        return pooled.images(batches[micro_batch], generator, **share)

    def encode(micro_batch: int) -> Tensor:
        pixel_values = images(micro_batch)
        seed_dropout(micro_batch, 0)
        return model(pixel_values).anchors.unflatten(0, (pooled.num_views, -1))

    def reconstruct(latents: Tensor, decoder_anchors: Tensor | None = None) -> Tensor:
        state, weight = generator.get_state(), pooled.reconstruction_weight
        leaf = latents.detach().requires_grad_()
        total = latents.new_zeros(())
        conditions: Sequence = [None] * count if decoder_anchors is None else decoder_anchors.chunk(count)
        for micro_batch, (batch, rows, given) in enumerate(zip(batches, leaf.chunk(count), conditions, strict=True)):
            pixel_values = images(micro_batch)
            generator.set_state(state)
            seed_dropout(micro_batch, 1)
            labels = batch.get("labels") if pooled.decoder_labels else None
            loss = model(pixel_values, labels=labels, latents=rows, decoder_anchors=given, generator=generator).loss
            accelerator.backward(weight * loss)
            total += loss.detach()
        generator.parts = own_parts
        gradient = leaf.grad if leaf.grad is not None and weight else torch.zeros_like(leaf)
        gradient = gradient / (factor * count * (weight or 1.0))
        # The mean loss, and its gradient as computed.
        return total / count + ((latents - latents.detach()) * gradient).sum()

    with torch.no_grad(), _kept_statistics(model):
        anchors = torch.cat([encode(micro_batch) for micro_batch in range(count)], dim=1)
    anchors.requires_grad_()
    generator.parts = own_parts
    labels = torch.cat([batch["labels"] for batch in batches]) if "labels" in batches[0] else None
    with accelerator.no_sync(model):
        loss, metrics = pooled.loss(anchors, labels, generator, reconstruct)
        accelerator.backward(count * loss)
    gradients = (anchors.grad / factor).chunk(count, dim=1)
    for micro_batch, gradient in enumerate(gradients):
        with accelerator.accumulate(model):
            surrogate = (encode(micro_batch) * gradient).sum()
            if accelerator.sync_gradients and world > 1 and not accelerator.is_fsdp2:
                # The last backward exchanges all gradients, for which DistributedDataParallel wants all parameters to take part in it.
                surrogate = surrogate + 0 * sum(p.sum() for p in model.parameters() if p.requires_grad)
            accelerator.backward(surrogate)
    return loss.detach(), metrics


@contextmanager
def _kept_statistics(model: nn.Module) -> Iterator[None]:
    """Inside this context, batch norm normalises as ever, but does not update its running statistics."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    norms = [module for module in norms if module.training]
    for module in norms:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in norms:
            module.track_running_stats = True
