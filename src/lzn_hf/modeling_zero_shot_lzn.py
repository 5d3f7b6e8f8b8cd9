# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A Latent Zoning Network that finds the text of an image among any texts, for the zero-shot pipeline of transformers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

from .configuration_lzn import LZNConfig
from .modeling_lzn import LZNModel, LZNPreTrainedModel


@dataclass
class LZNZeroShotOutput(ModelOutput):
    """Output of [`LZNForZeroShotImageClassification`] for B images and N texts.

    Args:
        logits_per_image (`Tensor` of shape `(B, N)`): log-probabilities of the zones of the texts, for each image.
        logits_per_text (`Tensor` of shape `(N, B)`): the same, by text.
        image_embeds (`Tensor` of shape `(B, D)`): the anchors of the images.
        text_embeds (`Tensor` of shape `(N, D)`): the anchors of the texts. Anchors of images and texts lie in different places: their
            zones are what is compared.
    """

    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None


class LZNForZeroShotImageClassification(LZNPreTrainedModel):
    """[`LZNModel`] as a classifier by texts: the logits are log-probabilities over the zones of the given texts, which share the prior.

    Those of an image are a function of this image and the texts alone.
    """

    input_modalities = ["image", "text"]

    def __init__(self, config: LZNConfig):
        super().__init__(config)
        if config.text_config is None:
            raise ValueError(
                "`config` must have a `text_config`: this model has no texts, so it cannot compare images with them."
            )
        self.lzn = LZNModel(config)
        self.post_init()

    def get_image_anchors(self, pixel_values: Tensor) -> Tensor:
        """As [`LZNModel.get_image_anchors`]."""
        return self.lzn.get_image_anchors(pixel_values)

    def get_text_anchors(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """As [`LZNModel.get_text_anchors`]."""
        return self.lzn.get_text_anchors(input_ids, attention_mask)

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> LZNZeroShotOutput | tuple:
        """Compares images `(B, C, H, W)` in [-1, 1] with texts, at `config.prediction_time`.

        Args:
            pixel_values (`Tensor` of shape `(B, C, H, W)`): images.
            input_ids, attention_mask (`Tensor` of shape `(N, L)`): texts, of which the image's is one.
            token_type_ids (`Tensor` of shape `(N, L)`, *optional*): zeros, as some tokenizers return them for single texts.
            return_dict (`bool`, *optional*): whether to return an [`LZNZeroShotOutput`] (default) or a tuple.

        Raises:
            ValueError: for images or tokens of a wrong shape or range, pairs of texts, and a model without reference anchors.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if token_type_ids is not None and token_type_ids.any():
            raise ValueError("`token_type_ids` must be zeros, as each text is one, got those of pairs of texts.")
        images = self.lzn.get_image_anchors(pixel_values)
        texts = self.lzn.get_text_anchors(input_ids, attention_mask)
        logits = self.lzn.compare_images(images, texts)
        output = LZNZeroShotOutput(
            logits_per_image=logits, logits_per_text=logits.t(), image_embeds=images, text_embeds=texts
        )
        return output if return_dict else output.to_tuple()


__all__ = ["LZNForZeroShotImageClassification", "LZNZeroShotOutput"]
