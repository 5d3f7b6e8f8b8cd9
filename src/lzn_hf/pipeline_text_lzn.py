# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Texts and images by their latent zones: the text of an image, and the images of a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks_lzn import check_at_least, check_result
from .pipeline_generation_lzn import Images
from .pipeline_inversion_lzn import InversionPipeline
from .processing_lzn import tokenize_texts


class TextPipeline(InversionPipeline):
    """The part of [`LZNPipeline`] that compares images with texts, of a model that has texts."""

    def caption(
        self, images: Images, candidates: Sequence[str], top_k: int = 5, batch_size: int = 64
    ) -> list[list[dict[str, str | float]]]:
        """Finds the texts that fit images best: those in whose latent zones the images lie, where the candidates share the prior.

        Args:
            images (`Images`): see [`LZNPipeline`].
            candidates (list of `str`): the texts to choose from. One that is too long is cut, with a warning.
            top_k (`int`, *optional*, defaults to 5): texts of each image, at most as many as there are candidates.
            batch_size (`int`, *optional*, defaults to 64): images or texts encoded at once.

        Returns:
            `list[list[dict]]`: for each image, also for a single one, `{"text": candidate, "score": probability}` in falling order. Those
            of an image depend on it and on the candidates alone.

        Raises:
            ValueError: if the model has no texts or no reference anchors, the pipeline no tokenizer, for bad images and candidates.
        """
        check_at_least(1, top_k=top_k, batch_size=batch_size)
        tokens = tokenize_texts(self.tokenizer, self.model.config, "candidates", candidates)
        names = [candidates] if isinstance(candidates, str) else candidates
        pixel_values = self._pixel_values(images)
        with self._inference():
            texts = self._text_anchors(tokens, batch_size)
            log_probs = self.model.compare_images(self._image_anchors(pixel_values, batch_size), texts)
        check_result("scores", log_probs)
        scores, indices = log_probs.float().exp().topk(min(top_k, len(names)))
        return [
            [{"text": names[i], "score": score} for score, i in zip(*row, strict=True)]
            for row in zip(scores.tolist(), indices.tolist(), strict=True)
        ]

    def find_images(
        self, texts: str | Sequence[str], images: Images, top_k: int = 5, batch_size: int = 64
    ) -> list[list[dict[str, int | float]]]:
        """Finds the images that fit texts best: those that are most probably in the zone of a text among the reference anchors of texts.

        Args:
            texts (`str` or list of them): what to look for. One that is too long is cut, with a warning.
            images (`Images`): the images to choose from, see [`LZNPipeline`].
            top_k (`int`, *optional*, defaults to 5): images of each text, at most as many as there are.
            batch_size (`int`, *optional*, defaults to 64): images or texts encoded at once.

        Returns:
            `list[list[dict]]`: for each text, also for a single one, `{"index": place of the image, "score": probability}` in falling
            order. The scores of a text sum to 1 over all images; their ratios depend on the text and on two images alone.

        Raises:
            ValueError: if the model has no texts or lacks reference anchors, the pipeline no tokenizer, for bad images and texts.
        """
        check_at_least(1, top_k=top_k, batch_size=batch_size)
        tokens = tokenize_texts(self.tokenizer, self.model.config, "texts", texts)
        pixel_values = self._pixel_values(images)
        with self._inference():
            anchors = self._image_anchors(pixel_values, batch_size)
            log_probs = self.model.match_images("text", anchors, self._text_anchors(tokens, batch_size))
        check_result("scores", log_probs)
        log_scores, indices = log_probs.t().log_softmax(1).topk(min(top_k, len(anchors)))
        return [
            [{"index": i, "score": score} for score, i in zip(*row, strict=True)]
            for row in zip(log_scores.float().exp().tolist(), indices.tolist(), strict=True)
        ]

    def _image_anchors(self, pixel_values: Tensor, batch_size: int) -> Tensor:
        """Encodes images `(B, C, H, W)` as anchors `(B, D)`."""
        return torch.cat([self.model.get_image_anchors(chunk) for chunk in pixel_values.split(int(batch_size))])


__all__ = ["TextPipeline"]
