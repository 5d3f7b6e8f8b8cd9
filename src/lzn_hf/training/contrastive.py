# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Two baselines of representation learning: the losses of SimCLR and momentum contrast, on the anchors of two views."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed_lzn import gather_with_gradient


def simclr_loss(anchors: Tensor, targets: Tensor, temperature: float = 0.5, group: Any = None) -> Tensor:
    """Computes NT-Xent (Chen et al., arXiv 2002.05709), with pytorch-metric-learning:

        loss = mean_i -log exp(cos(z_i, z_i') / T) / sum_{j != i} exp(cos(z_i, z_j) / T)

    over the anchors z of both views of all images of the processes; z_i' is the anchor of the other view.

    Args:
        anchors (`Tensor` of shape `(B, D)`): anchors of one view.
        targets (`Tensor` of shape `(B, D)`): anchors of the other view.
        temperature (`float`, *optional*, defaults to 0.5): T.
        group (`ProcessGroup`, *optional*): the processes to take images from, all by default.

    Returns:
        `Tensor`: the loss, a scalar.

    Raises:
        ValueError: if the temperature is not positive.
        ImportError: without pytorch-metric-learning.
    """
    _check_temperature(temperature)
    from pytorch_metric_learning.losses import SupConLoss
    from pytorch_metric_learning.reducers import MeanReducer

    pool = gather_with_gradient(torch.stack([anchors, targets], dim=1), group).float()
    images = torch.arange(len(pool), device=pool.device)
    # With one positive per anchor it is NT-Xent. The library's `NTXentLoss` compares pairs with pairs: B^3 instead of B^2.
    return SupConLoss(temperature, reducer=MeanReducer())(pool.flatten(0, 1), images.repeat_interleave(2))


def clip_loss(anchors: Tensor, type_anchors: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    """Computes the loss of CLIP (Radford et al., arXiv 2103.00020), where equal samples of the other data type are one:

        loss = (mean_i -log p(u_i | i) + mean_i -log p(i | u_i)) / 2,    p ~ exp(cos(a_i, b_u) / T),

    over the images i of all processes and the different samples u, of which u_i belongs to image i. Of a sample with several images,
    each has its share of p.

    Args:
        anchors (`Tensor` of shape `(B, D)`): anchors of images.
        type_anchors (`Tensor` of shape `(B, D)`): anchors of the samples that belong to them.
        inputs (`Mapping[str, Tensor]`): the samples, which tells which are equal.
        temperature (`float`): T.

    Returns:
        `Tensor`: the loss, a scalar.
    """
    _check_temperature(temperature)
    rows = torch.cat([value.flatten(1).double() for value in inputs.values()], dim=1)
    images, texts = gather_with_gradient(anchors).float(), gather_with_gradient(type_anchors).float()
    _, sample, counts = torch.unique(gather_with_gradient(rows), dim=0, return_inverse=True, return_counts=True)
    unique = texts.new_zeros(len(counts), texts.shape[1]).index_add(0, sample, texts)
    logits = F.normalize(images, dim=1) @ F.normalize(unique, dim=1).T / temperature
    of_samples = logits.log_softmax(0).gather(1, sample[:, None])
    return (F.cross_entropy(logits, sample) - of_samples.mean()) / 2


class MomentumContrast:
    """MoCo v2 (He et al., arXiv 1911.05722; Chen et al., arXiv 2003.04297), with a momentum encoder and a queue of its anchors:

        loss = mean_i -log exp(q_i.k_i / T) / (exp(q_i.k_i / T) + sum_{k in queue} exp(q_i.k / T))

    where q (queries) are the encoder's anchors of one view and k (keys) the momentum encoder's of the other, all normalized. The
    networks must encode each image independently (no batch norm), so batches are not shuffled. The queue takes the keys of all
    processes.

    Args:
        encoder (`nn.Module`): the trained encoder. It is copied.
        latent_dim (`int`): D.
        queue_size (`int`, *optional*, defaults to 4096): number of negatives, the keys of earlier steps.
        momentum (`float`, *optional*, defaults to 0.99): m in `momentum encoder = m momentum encoder + (1 - m) encoder`, after
            each step.
        temperature (`float`, *optional*, defaults to 0.2): T.
        generator (`torch.Generator`, *optional*): draws the initial queue.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: int,
        *,
        queue_size: int = 4096,
        momentum: float = 0.99,
        temperature: float = 0.2,
        generator: torch.Generator | None = None,
    ):
        _check_temperature(temperature)
        if queue_size < 1:
            raise ValueError(f"`queue_size` must be at least 1, got {queue_size}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be at least 0 and below 1, got {momentum}.")
        self.encoder, self.momentum, self.temperature = encoder, momentum, temperature
        self.momentum_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.queue = F.normalize(torch.randn(queue_size, latent_dim, generator=generator), dim=1)
        self.position = 0
        self._keys: list[Tensor] = []

    def loss(self, anchors: Tensor, second_views: Tensor) -> Tensor:
        """Computes the loss of anchors `(B, D)` of one view and the other view `(B, C, H, W)` of the same images."""
        with torch.no_grad():
            if self.queue.device != anchors.device:
                self.queue = self.queue.to(anchors.device)
                self.momentum_encoder.to(anchors.device)
            keys = F.normalize(self.momentum_encoder(second_views)[1].float(), dim=1)
            self._keys.append(gather_with_gradient(keys))
        queries = F.normalize(anchors.float(), dim=1)
        positive = (queries * keys).sum(1, keepdim=True)
        logits = torch.cat([positive, queries @ self.queue.T], dim=1) / self.temperature
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))

    @torch.no_grad()
    def end_step(self, applied: bool) -> None:
        """Updates the momentum encoder, and replaces the oldest keys of the queue by those of the step.

        Drops the keys of a step that was not applied to the weights: they may be NaN.
        """
        step_keys, self._keys = self._keys, []
        if not applied:
            return
        for average, parameter in zip(self.momentum_encoder.parameters(), self.encoder.parameters(), strict=True):
            average.lerp_(parameter, 1 - self.momentum)
        keys = torch.cat(step_keys)[-len(self.queue) :]
        rows = (self.position + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[rows] = keys
        self.position = (self.position + len(keys)) % len(self.queue)

    def state_dict(self) -> dict[str, Any]:
        return {"encoder": self.momentum_encoder.state_dict(), "queue": self.queue, "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.momentum_encoder.load_state_dict(state["encoder"])
        self.queue, self.position = state["queue"].clone(), state["position"]


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
