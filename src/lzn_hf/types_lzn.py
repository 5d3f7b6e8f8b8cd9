# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Data types beside images and labels in the latent space of a model: text, and any other that has an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .anchors_lzn import ReferenceAnchors
from .checks_lzn import check_tensor
from .distributed_lzn import gather_with_gradient, process_index
from .networks_types import longest_text
from .zones_lzn import align_latents, draw_noise, place_anchors, place_images, score_labels


# An anchor closer than this fraction of the mean distance is of the same sample, encoded again in another batch or in half precision, or
# of one that means the same.
SAME_SAMPLE = 5e-2
Inputs = Mapping[str, Tensor]  # of the encoder of a data type, by name; (B, ...) each


class DataTypes:
    """The part of [`LZNModel`] that encodes data types, places them, and compares images with them.

    The data types are `"text"`, where the configuration has a `text_config`, and the names of its `data_types`.
    """

    if TYPE_CHECKING:  # what it needs of the model
        config: Any
        device: torch.device
        training: bool
        type_encoders: nn.ModuleDict
        reference_samples: nn.ModuleDict
        get_image_anchors: Any
        reference_anchors: Any

    def get_type_features(self, data_type: str, **inputs: Tensor) -> Tensor:
        """Returns the features `(B, F)` of samples of a data type, before the head of its encoder. Raises as `get_type_anchors`."""
        return self._encode_type(data_type, inputs)[0]

    def get_type_anchors(self, data_type: str, **inputs: Tensor) -> Tensor:
        """Encodes samples of a data type, each by itself.

        Args:
            data_type (`str`): its name.
            inputs: the inputs of its encoder, `(B, ...)` each.

        Returns:
            `Tensor` of shape `(B, D)`: the anchors.

        Raises:
            ValueError: if the model has no such data type, or an input is missing.
        """
        return self._encode_type(data_type, inputs)[1]

    def get_type_latents(
        self,
        data_type: str,
        noise: Tensor | None = None,
        pool: Tensor | None = None,
        generator: torch.Generator | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """Computes latents in the zones of samples of a data type, each placed among {its own anchor} + `pool`.

        A sample that is in the pool already is placed in its zone there: counted twice, it would have twice the zone.

        Args:
            data_type (`str`): its name.
            noise (`Tensor` of shape `(B, D)`, *optional*): prior noise; drawn if not given. Zeros give the middle of the zones.
            pool (`Tensor` of shape `(N, D)`, *optional*): anchors of other samples. Defaults to the reference anchors of the data type.
            generator (`torch.Generator`, *optional*): draws the noise.
            inputs: the inputs of its encoder, `(B, ...)` each.

        Returns:
            `Tensor` of shape `(B, D)`: the latents.

        Raises:
            ValueError: as `get_type_anchors`, and without `pool` and reference anchors.
        """
        anchors = self.get_type_anchors(data_type, **inputs)
        return self.place_type_anchors(data_type, anchors, noise, pool, generator)

    def place_type_anchors(
        self,
        data_type: str,
        anchors: Tensor,
        noise: Tensor | None = None,
        pool: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Computes latents in the zones of samples whose anchors are known, as `get_type_latents` does.

        Args:
            data_type (`str`): the name of the data type.
            anchors (`Tensor` of shape `(B, D)`): the anchors of the samples.
            noise, pool, generator (*optional*): see `get_type_latents`.

        Returns:
            `Tensor` of shape `(B, D)`: the latents.

        Raises:
            ValueError: if the model has no such data type, and without `pool` and reference anchors.
        """
        noise = draw_noise(anchors, generator) if noise is None else noise
        pool = self.require_type_reference_anchors(data_type) if pool is None else pool
        nearest, index = _relative_distances(anchors, pool).min(1)
        known = nearest <= SAME_SAMPLE
        latents = noise.new_zeros(noise.shape, dtype=torch.promote_types(noise.dtype, anchors.dtype))
        for rows, is_own in ((known, False), (~known, True)):
            if rows.any():
                own = anchors[rows] if is_own else pool[index[rows]].to(anchors)
                # By the solver of labels: as these, the anchors of a data type are what latents of images are aligned with.
                placed = place_anchors(self.config, own, noise[rows], pool, include_own=is_own, of_labels=True)
                latents[rows] = placed.to(latents)
        return latents

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Returns the features `(B, F)` of texts, before the head of their encoder. Raises as `get_type_anchors`."""
        return self.get_type_features("text", **text_inputs(input_ids, attention_mask))

    def get_text_anchors(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encodes texts, tokens `(B, L)`, as anchors `(B, D)`. Raises as `get_type_anchors`."""
        return self.get_type_anchors("text", **text_inputs(input_ids, attention_mask))

    def get_text_latents(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        noise: Tensor | None = None,
        pool: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Computes latents in the zones of texts.

        Args:
            input_ids, attention_mask (`Tensor` of shape `(B, L)`): the tokens of the texts.
            noise, pool, generator (*optional*): see `get_type_latents`.

        Returns:
            `Tensor` of shape `(B, D)`: the latents.

        Raises:
            ValueError: as `get_type_latents`.
        """
        inputs = text_inputs(input_ids, attention_mask)
        return self.get_type_latents("text", noise=noise, pool=pool, generator=generator, **inputs)

    def set_type_reference_anchors(self, data_type: str, anchors: Tensor) -> None:
        """Stores anchors of training samples of a data type, among which single samples are placed. They are saved with the weights.

        Args:
            data_type (`str`): its name.
            anchors (`Tensor` of shape `(N, D)`): the reference anchors.

        Raises:
            ValueError: if the model has no such data type, the shape does not fit or a value is not finite.
        """
        self._require_type(data_type)
        check_tensor("anchors", anchors, ("N", self.config.latent_dim))
        stored = ReferenceAnchors(*anchors.shape).train(self.training)
        stored.weight = anchors.detach().to(self.device, torch.float32, copy=True)
        self.reference_samples[data_type] = stored
        self.config.num_type_reference_anchors = {
            **(self.config.num_type_reference_anchors or {}),
            data_type: anchors.shape[0],
        }

    def require_type_reference_anchors(self, data_type: str) -> Tensor:
        """Returns the reference anchors `(N, D)` of a data type; raises a `ValueError` if the model has none."""
        self._require_type(data_type)
        if data_type not in self.reference_samples:
            raise ValueError(
                f"placing a sample of {data_type!r} by itself needs reference anchors, and this model has none: call "
                f"`model.set_type_reference_anchors({data_type!r}, anchors)` with anchors of training samples once and save the model."
            )
        return self.reference_samples[data_type]()

    def compare_images(self, image_anchors: Tensor, type_anchors: Tensor, pool: Tensor | None = None) -> Tensor:
        """Computes how probable it is that images belong to samples of another data type, by the zones of these.

        Args:
            image_anchors (`Tensor` of shape `(B, D)`): anchors of images, which are placed among the reference anchors of images.
            type_anchors (`Tensor` of shape `(N, D)`): anchors of candidates, which share the prior.
            pool (`Tensor` of shape `(M, D)`, *optional*): anchors of more candidates, whose probabilities are not wanted.

        Returns:
            `Tensor` of shape `(B, N)`: the log-probabilities, which sum to 1 over each row, and `pool`.

        Raises:
            ValueError: if the model has no reference anchors of images.
        """
        latents = self._place_images(image_anchors)
        candidates = type_anchors if pool is None else torch.cat([type_anchors, pool])
        scores = score_labels(self.config, latents, candidates, self.config.prediction_time)
        return scores[:, : type_anchors.shape[0]]

    def match_images(self, data_type: str, image_anchors: Tensor, type_anchors: Tensor) -> Tensor:
        """Computes how probable it is that images belong to samples of another data type, each of these by itself.

        The zone of a sample is the one that it has among the reference anchors of its data type, without those of the same sample.

        Args:
            data_type (`str`): its name.
            image_anchors (`Tensor` of shape `(B, D)`): anchors of images, which are placed among the reference anchors of images.
            type_anchors (`Tensor` of shape `(N, D)`): anchors of the samples.

        Returns:
            `Tensor` of shape `(B, N)`: the log-probabilities, each a function of one image and one sample.

        Raises:
            ValueError: if the model has no such data type, or no reference anchors of it or of images.
        """
        references = self.require_type_reference_anchors(data_type)
        latents = self._place_images(image_anchors)
        others = _relative_distances(type_anchors, references) > SAME_SAMPLE
        columns = [
            score_labels(
                self.config, latents, torch.cat([anchor[None], references[kept]]), self.config.prediction_time
            )
            for anchor, kept in zip(type_anchors, others, strict=True)
        ]
        return torch.stack([column[:, 0] for column in columns], dim=1)

    def _place_images(self, anchors: Tensor) -> Tensor:
        if self.reference_anchors is None:
            raise ValueError(
                "comparing an image by itself needs reference anchors and this model has none: call "
                "`model.set_reference_anchors(model.get_image_anchors(training_images))` once and save the model."
            )
        return place_images(self.config, anchors, self.reference_anchors())

    def encode_types(self, data_types: Mapping[str, Inputs], size: int) -> dict[str, tuple[Tensor, Inputs]]:
        """Returns the anchors `(B, D)` and the inputs of samples by data type, one sample for each of `size` images.

        Raises:
            ValueError: as `get_type_anchors`, and for another number of samples.
        """
        for data_type, inputs in data_types.items():
            for name, value in inputs.items():
                if value.shape[0] != size:
                    raise ValueError(
                        f"`{name}` of {data_type!r} must have a row for each of the {size} images, got shape {tuple(value.shape)}."
                    )
        return {name: (self.get_type_anchors(name, **inputs), inputs) for name, inputs in data_types.items()}

    def _encode_type(self, data_type: str, inputs: Inputs) -> tuple[Tensor, Tensor]:
        encoder = self._require_type(data_type)
        if data_type == "text":
            # Values are not looked at while training: it would make every step wait for the device.
            look = not self.training and not torch.compiler.is_compiling()
            _check_tokens(inputs.get("input_ids"), self.config.text_config, look=look)
        return encoder(**inputs)

    def _require_type(self, data_type: str) -> nn.Module:
        if data_type not in self.type_encoders:
            known = ", ".join(map(repr, self.type_encoders)) or "none beside images and labels"
            raise ValueError(f"this model has no data type {data_type!r}: it has {known}.")
        return self.type_encoders[data_type]


def type_losses(
    config: Any, latents: Tensor, anchors: Tensor, inputs: Inputs, *, weighted: bool, group: Any = None
) -> dict[str, Tensor]:
    """Computes the alignment loss of latents of images with the anchors of the samples that belong to them.

    With the U different samples of all processes, of which sample u occurs c_u times among N, the pool is {a_u} with the weights
    c_u / N: images with the same caption share its zone, which in training has as much of the prior as there are such images.

    Args:
        config ([`LZNConfig`]): settings of the alignment flow and of its loss.
        latents (`Tensor` of shape `(K B, D)`): latents of images, as of [`draw_latents`].
        anchors (`Tensor` of shape `(B, D)`): anchors of the samples of the images. Those of equal samples are averaged.
        inputs (`Mapping[str, Tensor]`): the samples, which tells which are equal. All processes must have the same shapes.
        weighted (`bool`): whether the frequencies of the samples weight them, for training only, as in [`label_losses`].
        group (`ProcessGroup`, *optional*): the processes whose images share a pool, all by default.

    Returns:
        `dict[str, Tensor]`: `alignment_loss`, and `log_probs` `(S, K B)` of the samples at every alignment step.
    """
    size = anchors.shape[0]
    rows = torch.cat([value.flatten(1).double() for value in inputs.values()], dim=1)
    pool, rows = gather_with_gradient(anchors, group), gather_with_gradient(rows, group)
    _, sample, counts = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    sums = pool.new_zeros(counts.shape[0], pool.shape[1]).index_add(0, sample, pool)
    start = process_index(group) * size
    targets = sample[start : start + size].repeat(latents.shape[0] // size)
    log_weights = (counts / rows.shape[0]).log().to(pool) if weighted else None
    loss, log_probs = align_latents(config, latents, sums / counts[:, None], targets, log_weights)
    return {"alignment_loss": loss, "log_probs": log_probs}


def _relative_distances(anchors: Tensor, pool: Tensor) -> Tensor:
    """The distances `(B, N)` of anchors `(B, D)` from a pool `(N, D)`, by the mean of each row."""
    distances = torch.cdist(anchors, pool.to(anchors), compute_mode="donot_use_mm_for_euclid_dist")
    return distances / distances.mean(1, keepdim=True)


def _check_tokens(input_ids: Tensor | None, config: Any, *, look: bool) -> None:
    """Raises a `ValueError` unless tokens are those of texts that the encoder of a `text_config` can read."""
    wanted = "`input_ids` must be a tensor of tokens (texts, length), of an integer type"
    if not isinstance(input_ids, Tensor):
        raise ValueError(f"{wanted}, got {type(input_ids).__name__}.")
    if input_ids.ndim != 2 or 0 in input_ids.shape or input_ids.is_floating_point():
        raise ValueError(f"{wanted}, got {input_ids.dtype} of shape {tuple(input_ids.shape)}.")
    longest = longest_text(config)
    if longest is not None and input_ids.shape[1] > longest:
        raise ValueError(
            f"`input_ids` must be at most {longest} tokens long (by config.text_config.max_position_embeddings), got {input_ids.shape[1]}: "
            f"pass truncation=True, max_length={longest} to the tokenizer."
        )
    size = getattr(config, "vocab_size", None)
    if look and size is not None and ((input_ids < 0) | (input_ids >= size)).any():
        raise ValueError(
            f"`input_ids` must be in 0..{size - 1} (config.text_config.vocab_size), got {input_ids.min()}..{input_ids.max()}: the tokenizer "
            "is not the one that the model was trained with."
        )


def text_inputs(input_ids: Tensor, attention_mask: Tensor | None) -> dict[str, Tensor]:
    """Returns the inputs of the encoder of texts."""
    return {"input_ids": input_ids} | ({} if attention_mask is None else {"attention_mask": attention_mask})


def all_inputs(
    data_types: Mapping[str, Inputs] | None, input_ids: Tensor | None, attention_mask: Tensor | None, *, fits: bool
) -> dict[str, Inputs]:
    """Returns the inputs of all data types, with those of texts; a `ValueError` for any in a loss that they do not fit in."""
    given = dict(data_types or {}) | ({} if input_ids is None else {"text": text_inputs(input_ids, attention_mask)})
    if given and not fits:
        raise ValueError(
            f"`latents` and `second_views` must be None with texts and other data types, got {', '.join(given)}, too."
        )
    return given


__all__ = ["DataTypes", "all_inputs", "text_inputs", "type_losses"]
