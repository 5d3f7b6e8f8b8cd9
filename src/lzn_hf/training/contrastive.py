# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The two losses that representation learning is compared with: SimCLR and momentum contrast, on the anchors of two views."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed_lzn import gather_with_gradient


def simclr_loss(anchors: Tensor, targets: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent (Chen et al., arXiv 2002.05709), as of pytorch-metric-learning:

        loss = mean_i -log exp(cos(z_i, z_i') / T) / sum_{j != i} exp(cos(z_i, z_j) / T)

    over the anchors z of both views of all images of all processes; z_i' is the other view of the image of z_i.

    Args:
        anchors (`Tensor` of shape `(B, D)`): those of one view.
        targets (`Tensor` of shape `(B, D)`): those of the other view.
        temperature (`float`): T.

    Raises:
        ValueError: if the temperature is not positive.
        ImportError: without pytorch-metric-learning.
    """
    _check_temperature(temperature)
    from pytorch_metric_learning.losses import SupConLoss
    from pytorch_metric_learning.reducers import MeanReducer

    pool = gather_with_gradient(torch.stack([anchors, targets], dim=1)).float()
    images = torch.arange(len(pool), device=pool.device)
    # With one other view it is NT-Xent. The library's class of that name compares all pairs with all pairs: B^3 instead of B^2.
    return SupConLoss(temperature, reducer=MeanReducer())(pool.flatten(0, 1), images.repeat_interleave(2))


class MomentumContrast:
    """MoCo v2 (He et al., arXiv 1911.05722; Chen et al., arXiv 2003.04297), with a momentum encoder and a queue of its anchors:

        loss = mean_i -log exp(q_i.k_i / T) / (exp(q_i.k_i / T) + sum_{k in queue} exp(q_i.k / T))

    where q are the anchors of one view by the encoder, k those of the other view by the momentum encoder, all of length 1. Its
    networks must encode each image by itself (no batch norm), so batches are not shuffled. The keys of all processes enter the queue.

    Args:
        encoder: what is trained; copied.
        latent_dim: D.
        queue_size: anchors of earlier steps to tell apart from; a multiple of the global batch.
        momentum: m of `momentum encoder = m momentum encoder + (1 - m) encoder` after each step.
        temperature: T.
        generator: draws the first queue.

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
        """The loss of anchors `(B, D)` of one view, and the other view `(B, C, H, W)` of the same images."""
        with torch.no_grad():
            if self.queue.device != anchors.device:
                self.queue = self.queue.to(anchors.device)
                self.momentum_encoder.to(anchors.device)
            keys = F.normalize(self.momentum_encoder(second_views)[1].float(), dim=1)
            self._keys.append(gather_with_gradient(keys))
        queries = F.normalize(anchors.float(), dim=1)
        own = (queries * keys).sum(1, keepdim=True)
        logits = torch.cat([own, queries @ self.queue.T], dim=1) / self.temperature
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))

    @torch.no_grad()
    def end_step(self, keep: bool) -> None:
        """Moves the momentum encoder, and lets the keys of the step take the place of the oldest ones of the queue.

        Does nothing with those of a step that was skipped (`keep` false): they may be NaN.
        """
        keys, self._keys = self._keys, []
        if not keep:
            return
        for average, parameter in zip(self.momentum_encoder.parameters(), self.encoder.parameters(), strict=True):
            average.lerp_(parameter, 1 - self.momentum)
        keys = torch.cat(keys)[-len(self.queue) :]
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


__all__ = ["MomentumContrast", "simclr_loss"]
