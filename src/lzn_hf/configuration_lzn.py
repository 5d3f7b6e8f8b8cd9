# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Configuration of Latent Zoning Network models."""

import contextlib
import logging
import math
import os
from collections.abc import Callable
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .files_lzn import check_config_fields, naming, read_object
from .labels_lzn import LabelNames, label_names_by_id
from .latent_zones import REDUCTIONS, SOLVERS
from .networks_types import make_type_config
from .sizes_lzn import check_totals


logger = logging.getLogger(__name__)

AT_LEAST_ONE = "image_size num_channels latent_dim latent_num_steps alignment_num_steps type_head_layers".split()
AT_LEAST_ONE += "encoder_tap_channels encoder_tap_hidden_dim encoder_tap_layers encoder_head_layers".split()
LABEL_FIELDS = ("id2label", "label2id", "num_labels")

# The largest value of each number, far above every network that was ever published: a damaged or hostile file is refused before anything
# is built. Of lists, the largest of their numbers.
MAXIMA = {
    "image_size": 4096,
    "num_channels": 64,
    "latent_dim": 65_536,
    "latent_num_steps": 1000,
    "alignment_num_steps": 1000,
    "alignment_noise_scales": 1e6,
    "num_reference_anchors": 1_000_000,
    "num_prediction_draws": 10_000,
    "num_labels": 100_000,
    "encoder_head_layers": 100,
    "type_head_layers": 100,
    "encoder_depths": 1000,
    "encoder_widths": 16_384,
    "encoder_tap_channels": 4096,
    "encoder_tap_hidden_dim": 65_536,
    "encoder_tap_layers": 100,
    "encoder_base_channels": 8192,
    "decoder_base_channels": 8192,
    "encoder_channel_multipliers": 64,
    "decoder_channel_multipliers": 64,
    "encoder_num_res_blocks": 100,
    "decoder_num_res_blocks": 100,
}
MAX_LENGTH = 100  # of a list of numbers


@strict
class LZNConfig(LabelNames, PreTrainedConfig):
    r"""
    Configuration of a [`LZNModel`]. The defaults are the published CIFAR-10 model, without labels.

    Args:
        image_size (`int`, *optional*, defaults to 32): height and width of the images, in pixels.
        num_channels (`int`, *optional*, defaults to 3): channels of the images; 1, 3 or 4 for the image processor.
        latent_dim (`int`, *optional*, defaults to 200): size of anchors and latents.
        encoder_type (`str`, *optional*, defaults to `"ncsnpp"`): `"ncsnpp"` (arguments from `encoder_base_channels` on), `"resnet"`
            (`encoder_depths`, `encoder_widths`, `encoder_head_layers`) or `"transformers"` (`encoder_backbone`, `encoder_head_layers`), see
            [`NCSNppEncoder`], [`ResNetEncoder`], [`BackboneEncoder`]; or `None`: a plain rectified flow, whose decoder takes the label, if
            there are labels, but no latents.
        decoder_type (`str`, *optional*, defaults to `"ncsnpp"`): `"ncsnpp"`, see [`NCSNppDecoder`], or `None` for a model that embeds
            (and classifies, if it has labels), but does not generate.
        encoder_depths, encoder_widths (`list[int]`, *optional*, defaults to those of a ResNet-50): blocks and bottleneck
            width of each stage of a ResNet encoder.
        encoder_small_images (`bool`, *optional*, defaults to `False`): whether a ResNet encoder starts at full resolution.
        encoder_backbone (`dict`, *optional*): configuration of an image model of transformers, with its `model_type`.
        encoder_head_layers (`int`, *optional*, defaults to 2): linear layers of the projection head of these two.
        encoder_base_channels, decoder_base_channels (`int`, *optional*, defaults to 128): channels at full resolution.
        encoder_channel_multipliers, decoder_channel_multipliers (`list[int]`, *optional*, defaults to `(1, 2, 2, 2)`):
            channels of each resolution level in units of the base channels; each level halves the resolution.
        encoder_num_res_blocks, decoder_num_res_blocks (`int`, *optional*, defaults to 4): residual blocks of each level.
        encoder_attention_resolutions, decoder_attention_resolutions (`list[int]`, *optional*, defaults to `(16,)`):
            resolutions with self-attention, among those of the levels; the middle always has it.
        encoder_dropout, decoder_dropout (`float`, *optional*, defaults to 0.15): dropout in the residual blocks, in [0, 1).
        encoder_skip_rescale, decoder_skip_rescale (`bool`, *optional*, defaults to `True`): whether sums of two branches are divided
            by the square root of two.
        encoder_fir_kernel, decoder_fir_kernel (`list[float]`, *optional*): taps of the low-pass filter of all resampling, an even
            number of them; default: nearest neighbour and 2x2 mean. Published at 256 pixels: `[1, 3, 3, 1]`.
        encoder_input_skip, decoder_input_skip (`str`, *optional*): `"sum"` or `"cat"`: how the image, resampled to each level, joins
            the feature map on the way down; default: not at all. Published at 256 pixels: `"sum"`.
        decoder_output_skip (`bool`, *optional*, defaults to `False`): whether the velocity is the sum of the outputs of all levels.
        decoder_time_embedding (`str`, *optional*, defaults to `"sinusoidal"`): `"sinusoidal"`, or `"fourier"`: random features
            of the logarithm of the time.
        decoder_fourier_scale (`float`, *optional*, defaults to 16.0): standard deviation of their frequencies.
        decoder_scale_by_sigma (`bool`, *optional*, defaults to `False`): whether the output is divided by 999 t; needs `"fourier"`.
        encoder_tap_resolutions (`list[int]`, *optional*): resolutions with latent taps; default: all.
        encoder_tap_channels (`int`, *optional*, defaults to 20): channels of each latent tap of the encoder.
        encoder_tap_hidden_dim (`int`, *optional*, defaults to 200): hidden units of each latent tap.
        encoder_tap_layers (`int`, *optional*, defaults to 2): linear layers of each latent tap.
        latent_solver (`str`, *optional*, defaults to `"adams"`): solver of the latents of images, see
            [`latent_zones.compute_latents`]. Published: `"dpmsolver++"` (joint and generative models), `"euler"` (representations).
        latent_num_steps (`int`, *optional*, defaults to 20): its evaluations of the expected anchor.
        latent_noise_scale (`float`, *optional*, defaults to 1.0): factor of the prior noise of latents that are aligned with second
            views. Published: 0.45.
        alignment_solver (`str`, *optional*, defaults to `"adams"`): solver of the flow of the label anchors, in both directions, see
            [`latent_zones.trace_assignments`]. Published: `"euler"`.
        alignment_num_steps (`int`, *optional*, defaults to 20): its evaluations. Published: 100.
        alignment_end (`float`, *optional*, defaults to 1.0): time at which the trace of the loss ends, in (0, 1]. 1 (published) is all the way,
            where the scale of anchors has no effect on an exact solver; less lets them repel each other until they are told apart by then.
        alignment_noise_scales (`list[float]`, *optional*, defaults to `(1.0,)`): the loss aligns, for each of these factors of the prior
            noise, one draw of an image's latent with its label. A first 1.0 is the latent that the decoder is given (published: no more).
            Draws repeat the flow, not the encoder. Small factors are the middle of the zones, where images are classified.
        step_cutoff (`float`, *optional*, defaults to 0.2): fraction of early alignment steps that the loss leaves out.
        alignment_reduction (`str`, *optional*, defaults to `"prob"`): `"prob"`, `"log_prob"` or `"mean_log_prob"`, see
            [`latent_zones.alignment_loss`].
        alignment_symmetric (`bool`, *optional*, defaults to `False`): whether second views are aligned with the first, too.
        reconstruction_weight, alignment_weight (`float`, *optional*, defaults to 1.0): weights of the two losses.
        condition_dropout (`float`, *optional*, defaults to 0.0): share of training images whose latent and label the decoder is not given, in
            [0, 1). It then also learns the velocity without them, for classifier-free guidance (arXiv 2207.12598). Published: none.
        label_anchor_std (`float`, *optional*, defaults to 1.0): standard deviation of fresh label anchors.
        num_reference_anchors (`int`, *optional*, defaults to 0): rows of the stored reference anchors; set by
            [`LZNModel.set_reference_anchors`].
        prediction_time (`float`, *optional*): the time in (0, 1] of the flow of the label anchors at which the scores of an image are read,
            a temperature: the later, the nearer to 0 and 1. Default: its end, where the zones are disjoint and every score is 0 or 1.
        text_config (`dict` or `PreTrainedConfig`, *optional*): configuration of a text model of transformers, with its `model_type`.
            Texts are then one more data type in the latent space, `"text"`.
        data_types (`dict[str, dict]`, *optional*): likewise, configurations of the encoders of other data types, by their names; of
            models that transformers knows or that are registered with its `AutoConfig` and `AutoModel`.
        type_head_layers (`int`, *optional*, defaults to 2): linear layers of the projection heads of these.
        decoder_data_type (`str`, *optional*): `"text"` or another of these, whose anchors the decoder is given beside the latents, as it is
            given labels. Default: none.
        num_type_reference_anchors (`dict[str, int]`, *optional*): rows of the stored reference anchors of data types; set by
            [`LZNModel.set_type_reference_anchors`].
        num_prediction_draws (`int`, *optional*, defaults to 0): classification of an image averages the zone probabilities over
            this many fixed draws of prior noise; 0 takes the middle of its zone instead (noise zero).
        id2label (`dict[int, str]`, *optional*): names of the labels. Instead of it, `label2id`, or `num_labels` for the names
            `LABEL_0`, ...; those that are given must agree. Ids may be strings, as in JSON. By default, the model has no labels.

    Raises:
        ValueError: if a value is out of its range (the library's `StrictDataclassError` for a wrong type).
    """

    model_type = "lzn"
    sub_configs = {"text_config": AutoConfig}

    image_size: int = 32
    num_channels: int = 3
    latent_dim: int = 200

    encoder_type: str | None = "ncsnpp"
    encoder_depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    encoder_widths: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    encoder_small_images: bool = False
    encoder_backbone: dict | None = None
    encoder_head_layers: int = 2

    encoder_base_channels: int = 128
    encoder_channel_multipliers: list[int] | tuple[int, ...] = (1, 2, 2, 2)
    encoder_num_res_blocks: int = 4
    encoder_attention_resolutions: list[int] | tuple[int, ...] = (16,)
    encoder_dropout: float | int = 0.15
    encoder_skip_rescale: bool = True
    encoder_fir_kernel: list[float | int] | tuple[float | int, ...] | None = None
    encoder_input_skip: str | None = None
    encoder_tap_resolutions: list[int] | tuple[int, ...] | None = None
    encoder_tap_channels: int = 20
    encoder_tap_hidden_dim: int = 200
    encoder_tap_layers: int = 2

    decoder_type: str | None = "ncsnpp"
    decoder_base_channels: int = 128
    decoder_channel_multipliers: list[int] | tuple[int, ...] = (1, 2, 2, 2)
    decoder_num_res_blocks: int = 4
    decoder_attention_resolutions: list[int] | tuple[int, ...] = (16,)
    decoder_dropout: float | int = 0.15
    decoder_skip_rescale: bool = True
    decoder_fir_kernel: list[float | int] | tuple[float | int, ...] | None = None
    decoder_input_skip: str | None = None
    decoder_output_skip: bool = False
    decoder_time_embedding: str = "sinusoidal"
    decoder_fourier_scale: float | int = 16.0
    decoder_scale_by_sigma: bool = False

    latent_solver: str = "adams"
    latent_num_steps: int = 20
    latent_noise_scale: float | int = 1.0
    alignment_solver: str = "adams"
    alignment_num_steps: int = 20
    alignment_end: float | int = 1.0
    alignment_noise_scales: list[float | int] | tuple[float | int, ...] = (1.0,)
    step_cutoff: float | int = 0.2
    alignment_reduction: str = "prob"
    alignment_symmetric: bool = False
    reconstruction_weight: float | int = 1.0
    alignment_weight: float | int = 1.0
    condition_dropout: float | int = 0.0
    label_anchor_std: float | int = 1.0
    num_reference_anchors: int = 0
    prediction_time: float | int | None = None
    num_prediction_draws: int = 0

    text_config: dict | PreTrainedConfig | None = None
    data_types: dict | None = None
    type_head_layers: int = 2
    decoder_data_type: str | None = None
    num_type_reference_anchors: dict | None = None

    def __post_init__(self, **kwargs):
        # transformers would give a model without these fields two labels, and does not compare the three.
        self.id2label = label_names_by_id(self.id2label, self.label2id, kwargs.pop("num_labels", None))
        if self.text_config is not None:
            self.text_config = make_type_config("text_config", self.text_config)
        super().__post_init__(**kwargs)
        # Lists as JSON has them, so that a saved and reloaded configuration is equal to the first one.
        for name, value in list(vars(self).items()):
            if isinstance(value, tuple):
                setattr(self, name, list(value))
        self._check()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        cache_dir: str | os.PathLike | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        **kwargs: Any,
    ) -> Any:
        """Loads the configuration of a saved model.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): folder or hub id.
            cache_dir, force_download, local_files_only, token, revision, kwargs (*optional*): see `PreTrainedConfig.from_pretrained`.

        Returns:
            [`LZNConfig`]: the configuration.

        Raises:
            OSError: if there is no config.json, or one that is no JSON.
            ValueError: for fields of a wrong name, type or range; begins with the file or its folder.
        """
        with naming(_config_file(pretrained_model_name_or_path, **kwargs)):
            return super().from_pretrained(
                pretrained_model_name_or_path, cache_dir, force_download, local_files_only, token, revision, **kwargs
            )

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        return read_object(json_file)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        name = kwargs.get("name_or_path")  # of AutoConfig, which reads files itself
        with contextlib.nullcontext() if name is None else naming(_config_file(name)):
            return cls._from_dict(config_dict, **kwargs)

    @classmethod
    def _from_dict(cls, config_dict: dict[str, Any], **kwargs):
        check_config_fields(cls, config_dict)
        # transformers would set the arguments of `from_pretrained` on the finished configuration, past all checks.
        changes = {name: kwargs.pop(name) for name in (*cls.__annotations__, "problem_type") if name in kwargs}
        labels = {name: kwargs.pop(name) for name in LABEL_FIELDS if name in kwargs}
        labels = {name: value for name, value in labels.items() if value is not None}
        saved = label_names_by_id(*map(config_dict.get, LABEL_FIELDS))
        if labels and labels != {"num_labels": len(saved)}:
            names = label_names_by_id(*map(labels.get, LABEL_FIELDS))
            if len(names) == len(saved) and names != saved and set(names.values()) & set(saved.values()):
                logger.warning(
                    f"The saved labels are {saved} and become {names}: weights stay with their ids, so this renames labels. "
                    "Fine-tuning with `model_name_or_path` matches labels by name."
                )
            config_dict = {name: value for name, value in config_dict.items() if name not in LABEL_FIELDS}
        else:
            labels = {}  # the number of labels alone, unchanged: they keep their names
        return super().from_dict({**config_dict, **changes, **labels}, **kwargs)

    @property
    def embedding_kind(self) -> str:
        """What the embedding of an image is, `"anchors"` or `"features"` (before the head), see `LZNModel.get_image_features`."""
        return "anchors" if self.encoder_type == "ncsnpp" else "features"

    @property
    def type_configs(self) -> dict[str, PreTrainedConfig]:
        """The configurations of the encoders of data types beside images and labels, by their names."""
        texts = self.text_config
        configs = {} if texts is None else {"text": make_type_config("text_config", texts)}
        given = (self.data_types or {}).items()
        return configs | {name: make_type_config(f"data_types[{name!r}]", fields) for name, fields in given}

    @property
    def decoder_latent_dim(self) -> int:
        """The width of the decoder's latents: 0 for a model without image encoder."""
        return 0 if self.encoder_type is None else self.latent_dim

    @property
    def decoder_condition_dim(self) -> int:
        """The width of what the decoder is given beside time and label: a latent, and an anchor if it has a `decoder_data_type`."""
        return self.decoder_latent_dim + (0 if self.decoder_data_type is None else self.latent_dim)

    def to_diff_dict(self) -> dict[str, Any]:
        # transformers leaves out `id2label` when it is its own default of two labels, which is not ours.
        return {**super().to_diff_dict(), "id2label": self.id2label, "label2id": self.label2id}

    def _check(self) -> None:
        def check(name: str, ok: bool, wanted: str) -> None:
            if not ok:
                raise ValueError(f"`{name}` must be {wanted}, got {getattr(self, name)!r}.")

        for name, maximum in MAXIMA.items():
            value = getattr(self, name)
            largest = max(value, default=0) if isinstance(value, list) else value
            check(name, largest is None or largest <= maximum, f"at most {maximum:,}")
        for name in type(self).__annotations__:
            value = getattr(self, name)
            numbers = value if isinstance(value, list) else [value]
            check(name, all(math.isfinite(one) for one in numbers if isinstance(one, float)), "finite")
        for name, value in vars(self).items():
            if isinstance(value, list) and len(value) > MAX_LENGTH and name in type(self).__annotations__:
                raise ValueError(f"`{name}` must be a list of at most {MAX_LENGTH} numbers, got {len(value)}.")
        for name in AT_LEAST_ONE:
            check(name, getattr(self, name) >= 1, "at least 1")
        encoder_types = ("ncsnpp", "resnet", "transformers", None)
        check("encoder_type", self.encoder_type in encoder_types, "'ncsnpp', 'resnet', 'transformers' or None")
        check("decoder_type", self.decoder_type in ("ncsnpp", None), "'ncsnpp' or None")
        has_backbone = self.encoder_type == "transformers"
        wanted = "a dict with a `model_type`" if has_backbone else "None unless `encoder_type` is 'transformers'"
        given = self.encoder_backbone is not None and "model_type" in self.encoder_backbone
        check("encoder_backbone", given if has_backbone else self.encoder_backbone is None, wanted)
        if self.encoder_type is None:
            check("decoder_type", self.decoder_type is not None, "'ncsnpp' where `encoder_type` is None")
        for part in ("encoder", "decoder"):
            if getattr(self, f"{part}_type") != "ncsnpp":
                continue
            for name in (f"{part}_base_channels", f"{part}_num_res_blocks"):
                check(name, getattr(self, name) >= 1, "at least 1")
            multipliers = getattr(self, f"{part}_channel_multipliers")
            check(
                f"{part}_channel_multipliers",
                len(multipliers) > 0 and min(multipliers) >= 1,
                "a list of factors of at least 1",
            )
            dropout = getattr(self, f"{part}_dropout")
            check(f"{part}_dropout", 0 <= dropout < 1, "in [0, 1)")
            coarsest = 2 ** (len(multipliers) - 1)
            check(
                "image_size",
                self.image_size % coarsest == 0,
                f"divisible by {coarsest} for the levels of `{part}_channel_multipliers`",
            )
            resolutions = [self.image_size // 2**level for level in range(len(multipliers))]
            for name in (f"{part}_attention_resolutions", "encoder_tap_resolutions"):
                value = getattr(self, name)
                if value is not None and name.startswith(part):
                    check(name, set(value) <= set(resolutions), f"a list of resolutions among {resolutions}")
        self._check_types(check)
        for name in ("latent_solver", "alignment_solver"):
            check(name, getattr(self, name) in SOLVERS, "'adams', 'euler' or 'dpmsolver++'")
        check("step_cutoff", 0 <= self.step_cutoff < 1, "in [0, 1)")
        check("condition_dropout", 0 <= self.condition_dropout < 1, "in [0, 1)")
        fits = self.encoder_type is not None or bool(self.id2label) or not self.condition_dropout
        check("condition_dropout", fits, "0 for a decoder without latents and labels")
        check("alignment_end", 0 < self.alignment_end <= 1, "in (0, 1]")
        check("prediction_time", self.prediction_time is None or 0 < self.prediction_time <= 1, "None or in (0, 1]")
        scales = self.alignment_noise_scales
        check("alignment_noise_scales", len(scales) > 0 and min(scales) >= 0, "a list of factors of at least 0")
        check("alignment_reduction", self.alignment_reduction in REDUCTIONS, f"one of {REDUCTIONS}")
        for name in ("reconstruction_weight", "alignment_weight", "num_reference_anchors", "num_prediction_draws"):
            check(name, getattr(self, name) >= 0, "at least 0")
        for name in ("label_anchor_std", "latent_noise_scale"):
            check(name, getattr(self, name) > 0, "positive")
        one_label = self.problem_type in (None, "single_label_classification")
        check("problem_type", one_label, "None or 'single_label_classification', as each image has one label")
        check_totals(self)

    def _check_types(self, check: Callable[[str, bool, str], None]) -> None:
        check("text_config", self.text_config is None or self.encoder_type is not None, "None without image encoder")
        names = list(self.data_types or ())
        named = all(isinstance(name, str) and name.isidentifier() and name != "text" for name in names)
        check("data_types", named, "a dict from names, which are identifiers and not 'text', to configurations")
        check("data_types", not names or self.encoder_type is not None, "None without image encoder")
        for name, fields in (self.data_types or {}).items():
            check("data_types", isinstance(fields, dict), f"a dict of dicts; {name!r} has none")
        of_decoder = self.decoder_data_type is None or self.decoder_data_type in self.type_configs
        check("decoder_data_type", of_decoder, f"None or one of {list(self.type_configs)}")
        counts = self.num_type_reference_anchors or {}
        known = set(counts) <= set(self.type_configs)
        check("num_type_reference_anchors", known, f"a dict of numbers for some of {list(self.type_configs)}")
        limit = MAXIMA["num_reference_anchors"]
        in_range = all(type(count) is int and 1 <= count <= limit for count in counts.values())
        check("num_type_reference_anchors", in_range, f"a dict of numbers from 1 to {limit:,}")


def _config_file(name: str | os.PathLike, subfolder: str = "", **kwargs: Any) -> str:
    """The config.json of a folder or repository, for messages; or the file itself, which transformers takes, too."""
    return os.fspath(name) if os.path.isfile(name) else os.path.join(name, subfolder or "", "config.json")


__all__ = ["LZNConfig"]
