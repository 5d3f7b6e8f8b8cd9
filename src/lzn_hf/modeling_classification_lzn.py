# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A Latent Zoning Network as a classifier, for training with the `Trainer` of transformers and for its pipelines."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from .configuration_lzn import LZNConfig
from .distributed_lzn import gather_with_gradient
from .losses_lzn import label_losses
from .model_checks_lzn import check_labels
from .modeling_lzn import LZNModel, LZNPreTrainedModel
from .zones_lzn import draw_latents, score_labels


# Reference anchors that a classifier has room for if its configuration says none.
NUM_REFERENCE_ANCHORS = 1024


class LZNForImageClassification(LZNPreTrainedModel):
    """[`LZNModel`] as a classifier: the logits are log-probabilities over the label zones, a function of each image alone.

    In training images are placed among each other, as in joint training, and the loss is the alignment loss. The anchors of the last
    images become the reference anchors among which each image is placed in evaluation, as batch norm keeps its statistics. A decoder is
    kept as it is: it does not require gradients.
    """

    def __init__(self, config: LZNConfig):
        if config.num_labels and config.encoder_type is not None and not config.num_reference_anchors:
            config = copy.deepcopy(config)  # the caller's may be that of another model, too
            config.num_reference_anchors = NUM_REFERENCE_ANCHORS
        super().__init__(config)
        self.lzn = LZNModel(config)
        self.post_init()
        self.train()

    def train(self, mode: bool = True) -> LZNForImageClassification:
        """Sets training or evaluation mode; the decoder stays frozen."""
        if self.lzn.decoder is not None:
            self.lzn.decoder.requires_grad_(False)  # here, as from_pretrained() has all parameters require gradients
        return super().train(mode)

    def get_image_anchors(self, pixel_values: Tensor) -> Tensor:
        """As [`LZNModel.get_image_anchors`]."""
        return self.lzn.get_image_anchors(pixel_values)

    def set_reference_anchors(self, anchors: Tensor) -> None:
        """As [`LZNModel.set_reference_anchors`]."""
        self.lzn.set_reference_anchors(anchors)

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutputWithNoAttention | tuple:
        """Classifies images `(B, C, H, W)` in [-1, 1].

        Args:
            pixel_values (`Tensor` of shape `(B, C, H, W)`): images.
            labels (`Tensor` of shape `(B,)`, *optional*): int64 labels; with them there is a loss: in evaluation their mean negative
                log-likelihood, in training the alignment loss.
            output_hidden_states (`bool`, *optional*): whether to return the feature maps after each block of the encoder, too.
            return_dict (`bool`, *optional*): whether to return an `ImageClassifierOutputWithNoAttention` (default) or a tuple.

        Raises:
            ValueError: as [`LZNModel.classify_images`], and for labels of a wrong type, shape or range.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if output_hidden_states is None:  # a None that is passed on counts as given
            output_hidden_states = self.config.output_hidden_states
        label_anchors = self.lzn.require_label_anchors()
        outputs = self.lzn(pixel_values, output_hidden_states=output_hidden_states, return_dict=True)
        if labels is not None:
            check_labels(labels, pixel_values.shape[0], label_anchors.shape[0])
        loss = None
        if self.training:
            latents = self._place_in_batch(outputs.anchors)
            logits = score_labels(self.config, latents, label_anchors, self.config.prediction_time)
            if labels is not None:
                drawn = latents.transpose(0, 1).flatten(0, 1)
                loss = label_losses(self.config, drawn, label_anchors, labels, weighted=True)["alignment_loss"]
        else:
            logits = self.lzn.classify_anchors(outputs.anchors)
            loss = None if labels is None else F.nll_loss(logits, labels)
        hidden_states = outputs.hidden_states
        output = ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=hidden_states)
        return output if return_dict else output.to_tuple()

    def _place_in_batch(self, anchors: Tensor) -> Tensor:
        """Draws latents `(B, K, D)` of the images of a training step, one for each noise scale, and stores their anchors `(B, D)`."""
        references: Any = self.lzn.reference_anchors
        pool = gather_with_gradient(anchors)
        if pool.shape[0] == 1:  # the last batch of an epoch may be one image, which is alone in the prior
            pool = torch.cat([pool, references()])
        references(pool)
        return draw_latents(self.config, anchors, pool).unflatten(0, (-1, anchors.shape[0])).transpose(0, 1)


__all__ = ["LZNForImageClassification"]
