# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Latent Zoning Network models: generation, embedding and classification in one latent space."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .anchors_lzn import LabelAnchors, ReferenceAnchors, rename_anchors
from .checks_lzn import check_choice, check_tensor
from .configuration_lzn import LZNConfig
from .generation_lzn import ImageGeneration
from .latent_zones import compute_latents
from .layers_ncsnpp import ResidualBlock
from .loading_lzn import WholeWeights
from .losses_lzn import LZNOutput, joint_losses, reconstruction_loss, view_losses
from .model_checks_lzn import check_draws, check_images, check_labels, check_views
from .networks_backbone import BackboneEncoder, HiddenState
from .networks_lzn import build_decoder, build_encoder, build_type_encoders, evaluation_mode
from .networks_ncsnpp import NCSNPP_LAYERS
from .networks_resnet import RESNET_LAYERS, Bottleneck
from .saving_lzn import ReadableWeights
from .types_lzn import DataTypes, all_inputs
from .zones_lzn import given_noise, place_anchors, place_images, score_labels


EMBEDDING_KINDS = ("embeddings", "features", "anchors")  # of `get_image_features`


class LZNPreTrainedModel(WholeWeights, ReadableWeights, PreTrainedModel):
    """Configuration class, weight initialisation and loading of all Latent Zoning Network models."""

    config: LZNConfig
    config_class = LZNConfig
    base_model_prefix = "lzn"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    # Blocks are run as one piece: they add what they get to what they make of it.
    _no_split_modules = ["ResidualBlock", "Bottleneck"]
    # The feature maps after each block of the image encoder, or what a backbone of transformers calls its hidden states.
    _can_record_outputs = {
        "hidden_states": [
            *(OutputRecorder(block, layer_name="encoder") for block in (ResidualBlock, Bottleneck)),
            OutputRecorder(HiddenState, layer_name="encoder", capture_initial_hidden_state=False),
        ]
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Not super(): it would overwrite the initialisation of the layers with normal(0, 0.02). Only functions of nn.init here:
        # transformers makes them skip what a checkpoint has filled.
        if isinstance(module, (*NCSNPP_LAYERS, *RESNET_LAYERS, LabelAnchors, ReferenceAnchors)):
            module.reset_parameters()


class LZNModel(DataTypes, ImageGeneration, LZNPreTrainedModel):
    """Image encoder, image decoder and label anchors that share one latent space (arXiv 2509.15591).

    Images are `(B, C, H, W)` in [-1, 1]; labels are int64 `(B,)`; in the image flow `t = 0` is noise and `t = 1` the image.
    """

    def __init__(self, config: LZNConfig):
        super().__init__(config)
        self.encoder = build_encoder(config)
        self.decoder = build_decoder(config)
        if self.decoder is not None and config.decoder_time_embedding == "fourier":
            # In half precision the phases of the Fourier features of the time are noise.
            self._keep_in_fp32_modules_strict = {"time_embedding"}
        num_labels = config.num_labels if config.encoder_type is not None else 0
        num_reference_anchors = config.num_reference_anchors
        latent_dim = config.latent_dim
        self.label_anchors = LabelAnchors(num_labels, latent_dim, config.label_anchor_std) if num_labels else None
        self.reference_anchors = ReferenceAnchors(num_reference_anchors, latent_dim) if num_reference_anchors else None
        self.type_encoders = build_type_encoders(config)
        counts = (config.num_type_reference_anchors or {}).items()
        self.reference_samples = nn.ModuleDict({k: ReferenceAnchors(n, latent_dim) for k, n in counts})
        self.register_load_state_dict_pre_hook(rename_anchors)
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        second_views: Tensor | None = None,
        latents: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        data_types: Mapping[str, Mapping[str, Tensor]] | None = None,
        return_loss: bool | None = None,
        noise: Tensor | None = None,
        sample_noise: Tensor | None = None,
        timesteps: Tensor | None = None,
        generator: torch.Generator | None = None,
        decoder_anchors: Tensor | None = None,
        pool_group: Any = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> LZNOutput | tuple:
        """Embeds images; with labels, second views or `return_loss=True` also computes the training losses.

        The losses are those of joint training: the image anchors, gathered with gradient over all processes, are the pool. The
        decoder, given an image's latent and `x_t = t x + (1 - t) e`, predicts `x - e`. The latents are aligned with the label anchors,
        which in training have the label frequencies of the global batch as weights.

        With second views the loss is that of representation learning instead, see [`view_losses`]: the latents of the images are
        aligned with the anchors of the second views.

        Args:
            pixel_values (`Tensor` of shape `(B, C, H, W)`): images in [-1, 1].
            labels (`Tensor` of shape `(B,)`, *optional*): int64 labels.
            second_views (`Tensor` of shape `(B, C, H, W)`, *optional*): another random view of each image, without labels.
            latents (`Tensor` of shape `(B, D)`, *optional*): the latents of the images, where they are known: the images are not encoded,
                and the loss is that of reconstruction alone.
            input_ids, attention_mask (`Tensor` of shape `(B, L)`, *optional*): a text of each image, for a model with `text_config`. The
                latents of the images are aligned with its zone, too.
            data_types (`Mapping`, *optional*): likewise, the inputs of the encoders of other data types, by name.
            return_loss (`bool`, *optional*): whether to compute the losses. Defaults to whether labels or other data types are given;
                with second views the loss is always computed.
            noise (`Tensor` of shape `(B, D)`, *optional*): prior noise of the latents.
            sample_noise (`Tensor` of shape `(B, C, H, W)`, *optional*): the noise e of the image flow.
            timesteps (`Tensor` of shape `(B,)`, *optional*): the times t of the image flow in [0, 1].
            generator (`torch.Generator`, *optional*): draws the three above where they are not given: with one state on all processes,
                for the batch of all, of which each takes its rows.
            decoder_anchors (`Tensor` of shape `(B, D)`, *optional*): beside `latents`, for a model with a `decoder_data_type`, the anchors of
                the samples of that type.
            pool_group (`ProcessGroup`, *optional*): the processes whose images share a pool, all by default.
            output_hidden_states (`bool`, *optional*): whether to return the feature maps after each block of the encoder, too.
            return_dict (`bool`, *optional*): whether to return an [`LZNOutput`] (default) or a tuple.

        Raises:
            ValueError: for images or labels of a wrong shape or range, labels or latents beside second views, a batch of one image in
                the whole pool, for a loss of a model that has neither decoder nor labels, and without a loss for a model without encoder.
        """
        self._check_images(pixel_values)
        if second_views is not None:
            check_views(pixel_values, second_views, labels)
            self._check_images(second_views, "second_views")
        draws = {"latents": latents, "noise": noise, "sample_noise": sample_noise, "timesteps": timesteps}
        check_draws(pixel_values, self.config.latent_dim, finite=not self.training, **draws)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        losses: dict[str, Any] = {}
        features = anchors = hidden = reconstruct = None
        given = all_inputs(data_types, input_ids, attention_mask, fits=latents is None and second_views is None)
        if self.decoder is not None:
            reconstruct = partial(
                reconstruction_loss,
                self.predict_velocity,
                pixel_values,
                labels=labels,
                sample_noise=sample_noise,
                timesteps=timesteps,
                generator=generator,
                condition_dropout=self.config.condition_dropout if self.training else 0.0,
            )
        if decoder_anchors is not None and latents is None:
            raise ValueError(
                "`decoder_anchors` are given beside `latents` alone: without these, the model encodes the samples itself."
            )
        if latents is not None:
            if second_views is not None or reconstruct is None:
                raise ValueError(
                    "`latents` are for the loss of an image decoder alone, got "
                    f"{'a model without one' if reconstruct is None else '`second_views`, too'}."
                )
            loss = reconstruct(latents, decoder_anchors=decoder_anchors)
            losses = {"loss": loss, "reconstruction_loss": loss}
        elif second_views is not None:
            views = torch.cat([pixel_values, second_views])
            features, anchors, hidden = self._encode(views, check=False, hidden_states=output_hidden_states)
            features, (anchors, targets), hidden = features.chunk(2)[0], anchors.chunk(2), hidden.chunk(2)[0]
            losses = view_losses(self.config, anchors, targets, noise, generator, pool_group)
        else:
            if return_loss is None:
                return_loss = labels is not None or bool(given)
            if self.encoder is not None or not return_loss:  # without encoder and loss, there is nothing to compute
                features, anchors, hidden = self._encode(pixel_values, check=False, hidden_states=output_hidden_states)
            types = self.encode_types(given, pixel_values.shape[0])
            losses = {"type_anchors": {name: one[0] for name, one in types.items()}} if types else {}
            if return_loss:
                if self.config.num_labels:
                    check_labels(labels, pixel_values.shape[0], self.config.num_labels)
                losses |= joint_losses(self, anchors, labels, reconstruct, noise, generator, pool_group, types)
        embeddings = anchors if self.config.embedding_kind == "anchors" else features
        return LZNOutput(
            embeddings=embeddings,
            pooler_output=embeddings,
            features=features,
            anchors=anchors,
            last_hidden_state=hidden,
            **losses,
        )

    def get_image_features(self, pixel_values: Tensor, kind: str = "embeddings") -> Tensor:
        """Embeds images, each by itself.

        Embeddings are the better of what an encoder computes: the features before the head of a ResNet or a backbone, and the anchors
        of an NCSN++ encoder, which sum up all of its feature maps where the features are a mean of the last one.

        Args:
            pixel_values (`Tensor` of shape `(B, C, H, W)`): images in [-1, 1].
            kind (`str`, *optional*, defaults to `"embeddings"`): or `"features"`, before the head, or `"anchors"`, after it.

        Returns:
            `Tensor` of shape `(B, F)`: the embeddings.

        Raises:
            ValueError: as `forward`, and for another kind.
        """
        check_choice(EMBEDDING_KINDS, kind=kind)
        features, anchors, _ = self._encode(pixel_values)
        kind = self.config.embedding_kind if kind == "embeddings" else kind
        return anchors if kind == "anchors" else features

    def get_image_anchors(self, pixel_values: Tensor) -> Tensor:
        """Encodes images `(B, C, H, W)` in [-1, 1] as anchors `(B, D)`. Raises as `forward`."""
        return self._encode(pixel_values)[1]

    def get_image_latents(
        self,
        pixel_values: Tensor,
        noise: Tensor | None = None,
        pool: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Computes latents of images, each placed among {its own anchor} + `pool`.

        Args:
            pixel_values (`Tensor` of shape `(B, C, H, W)`): images in [-1, 1].
            noise (`Tensor` of shape `(B, D)`, *optional*): prior noise; drawn if not given. Zeros give the middle of the zones.
            pool (`Tensor` of shape `(N, D)`, *optional*): anchors of other images. Defaults to the reference anchors of the model; a
                model without any places the images among each other.
            generator (`torch.Generator`, *optional*): draws the noise.

        Returns:
            `Tensor` of shape `(B, D)`: the latents.

        Raises:
            ValueError: for images of a wrong shape or range, and for a single image without pool and reference anchors.
        """
        anchors = self.get_image_anchors(pixel_values)
        noise = given_noise(noise, anchors, generator, finite=not self.training)
        if pool is not None:
            check_tensor("pool", pool, ("N", anchors.shape[1]), finite=not self.training)
        if pool is None and self.reference_anchors is not None:
            pool = self.reference_anchors()
        if pool is None and anchors.shape[0] == 1:
            raise ValueError(
                "one image alone has no latent zone to be placed in: pass `pool`, or call `model.set_reference_anchors(anchors)` "
                "with anchors of training images once and save the model."
            )
        return place_anchors(self.config, anchors, noise, pool, include_own=pool is not None)

    def get_label_latents(
        self, labels: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Computes latents in the zones of labels.

        Args:
            labels (`Tensor` of shape `(B,)`): int64 labels.
            noise (`Tensor` of shape `(B, D)`, *optional*): prior noise; drawn if not given.
            generator (`torch.Generator`, *optional*): draws the noise.

        Returns:
            `Tensor` of shape `(B, D)`: the latents.

        Raises:
            ValueError: if the model has no labels, or a label is out of range.
        """
        label_anchors = self.require_label_anchors()
        check_labels(labels, None, label_anchors.shape[0])
        anchors = label_anchors[labels]
        noise = given_noise(noise, anchors, generator, finite=not self.training)
        solver, num_steps = self.config.alignment_solver, self.config.alignment_num_steps
        return compute_latents(anchors, noise, label_anchors, solver=solver, num_steps=num_steps)

    def classify_latents(self, latents: Tensor) -> Tensor:
        """Classifies latents `(B, D)`: the log-probabilities `(B, num_labels)` of the label zones that they lie in.

        Raises:
            ValueError: if the model has no labels, or the shape does not fit.
        """
        label_anchors = self.require_label_anchors()
        check_tensor("latents", latents, ("B", label_anchors.shape[1]), finite=not self.training)
        return score_labels(self.config, latents, label_anchors)

    def classify_images(self, pixel_values: Tensor) -> Tensor:
        """Classifies images `(B, C, H, W)` in [-1, 1]: log-probabilities `(B, num_labels)`, each row a function of its image alone.

        Each image is placed among {its own anchor} + reference anchors, with noise 0, in the middle of its zone. With
        `config.num_prediction_draws = K` the probabilities are averaged over K draws of noise, the same for every image. They are
        read at `config.prediction_time`.

        Raises:
            ValueError: if the model has no labels or no reference anchors, and for images of a wrong shape or range.
        """
        return self.classify_anchors(self.get_image_anchors(pixel_values))

    def classify_anchors(self, anchors: Tensor) -> Tensor:
        """Classifies images by their anchors `(B, D)`; returns and raises as `classify_images`."""
        label_anchors = self.require_label_anchors()
        check_tensor("anchors", anchors, ("B", label_anchors.shape[1]), finite=False)
        if self.reference_anchors is None:
            raise ValueError(
                "classifying an image by itself needs reference anchors and this model has none: call "
                "`model.set_reference_anchors(model.get_image_anchors(training_images))` once and save the model."
            )
        latents = place_images(self.config, anchors, self.reference_anchors())
        return score_labels(self.config, latents, label_anchors, self.config.prediction_time)

    def set_reference_anchors(self, anchors: Tensor) -> None:
        """Stores anchors of training images, among which single images are placed. They are saved with the weights.

        Args:
            anchors (`Tensor` of shape `(N, D)`): the reference anchors.

        Raises:
            ValueError: if the shape does not fit or a value is not finite.
        """
        check_tensor("anchors", anchors, ("N", self.config.latent_dim))
        self.reference_anchors = ReferenceAnchors(*anchors.shape).train(self.training)
        self.reference_anchors.weight = anchors.detach().to(self.device, torch.float32, copy=True)
        self.config.num_reference_anchors = anchors.shape[0]

    def settle_config(self) -> None:
        """Makes the configuration say what this model holds, before both are saved: other models may have been built from the same object.

        Raises:
            ValueError: if the configuration was given another number of labels than the model has.
        """
        references, samples = self.reference_anchors, self.reference_samples
        self.config.num_reference_anchors = 0 if references is None else len(references.weight)
        self.config.num_type_reference_anchors = {
            name: cast(Tensor, one.weight).shape[0] for name, one in samples.items()
        } or None
        counts = [len(self.label_anchors.weight)] if self.label_anchors is not None else []
        counts += [self.decoder.num_labels] if self.decoder is not None else []
        for count in counts:
            if count not in (0, self.config.num_labels):  # sharded weights may have no rows here
                raise ValueError(
                    f"`config.num_labels` must stay {count}, the labels that this model was built with, got {self.config.num_labels}: "
                    "load it with `num_labels` or `id2label` and `ignore_mismatched_sizes=True` to give it others."
                )

    def _encode(
        self, pixel_values: Tensor, *, check: bool = True, hidden_states: Any = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Checks images and encodes them: features `(B, F)`, anchors `(B, D)` and the last feature map.

        `hidden_states`: whether the maps between are wanted, which only a backbone of transformers needs to know.
        """
        if self.encoder is None:
            raise ValueError(
                "this model has no image encoder (config.encoder_type is None): it generates, but its images have neither embeddings "
                "nor anchors nor latents."
            )
        if check:
            self._check_images(pixel_values)
        if hidden_states and isinstance(self.encoder, BackboneEncoder):
            return self.encoder(pixel_values, output_hidden_states=True)
        return self.encoder(pixel_values)

    def _check_images(self, images: Tensor, name: str = "pixel_values", *, look: bool = True) -> None:
        """Raises a `ValueError` for images that the model does not take; `look`: also for their values, but not while training."""
        # While training, looking at values would make every step wait for the device.
        check_images(self.config, images, name, look=look and not self.training and not torch.compiler.is_compiling())

    def require_label_anchors(self) -> Tensor:
        """Returns the anchors `(C, D)` of all labels; raises a `ValueError` if the model has none."""
        if self.label_anchors is None:
            raise ValueError(
                "this model has no image encoder (config.encoder_type is None): it generates images of labels, but labels have no latent "
                "zones, so none can be predicted."
                if self.config.num_labels
                else "this model has no labels (config.num_labels is 0): labels can be neither given nor predicted."
            )
        return self.label_anchors(None)  # an adapter around the module needs an argument


__all__ = ["EMBEDDING_KINDS", "LZNModel", "LZNOutput", "LZNPreTrainedModel", "evaluation_mode"]
