# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Features of images for `evaluation.metrics`. Each extractor has a name to report beside the metrics.

    extractor = load_feature_extractor("outputs/metric_features")  # by examples/train_metric_features.py
    value = frechet_distance(extractor.features(real), extractor.features(generated))
    print(f"Fréchet distance on {extractor.name}: {value:.2f}")

Images are `(N, C, H, W)` in [-1, 1]; results are float32 on the CPU. The features of an image do not depend on the other
images of a call.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, PreTrainedModel

from .inputs import check_images


BATCH_SIZE = 128
SPATIAL_CHANNELS = 7  # channels of a feature map for sFID (arXiv 2103.03841)
INTERPOLATION = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}  # names in torch by Pillow's numbers


class FeatureExtractor:
    """The extractor `"pixels"`, without a network, and the base of the others.

    Attributes:
        name (`str`): to report beside every value that is computed from its features.
    """

    name = "pixels"

    def features(self, pixel_values: Tensor) -> Tensor:
        """Features `(N, F)` of images `(N, C, H, W)` in [-1, 1]; a ValueError for anything else."""
        return cast(Tensor, self._in_batches(self._features, pixel_values))

    def spatial_features(self, pixel_values: Tensor) -> Tensor | None:
        """Features `(N, F')` that keep their position in the image, or None if there are none."""
        return self._in_batches(self._spatial_features, pixel_values)

    def log_probs(self, pixel_values: Tensor) -> Tensor | None:
        """Log-probabilities `(N, C)` of labels, or None without a classifier."""
        return self._in_batches(self._log_probs, pixel_values)

    @torch.no_grad()
    def _in_batches(self, function: Callable[[Tensor], Tensor | None], pixel_values: Tensor) -> Tensor | None:
        check_images("pixel_values", pixel_values)
        results = []
        for batch in pixel_values.split(BATCH_SIZE):
            result = function(batch.float())
            if result is None:
                return None
            results.append(result.float().cpu())
        return torch.cat(results)

    def _features(self, batch: Tensor) -> Tensor:
        return batch.flatten(1)

    def _spatial_features(self, batch: Tensor) -> Tensor | None:
        return None

    def _log_probs(self, batch: Tensor) -> Tensor | None:
        return None


class InceptionFeatureExtractor(FeatureExtractor):
    """The Inception network of FID, sFID, KID and Inception score in the literature, from the package torch-fidelity.

    Features are its 2,048 pooled ones, log-probabilities come from its 1,008 logits without bias, and spatial features are
    the first seven channels (7 x 17 x 17) of the first branch of the fourth 17 x 17 block.

    Args:
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): device of the network.

    Raises:
        ValueError: if torch-fidelity cannot be imported.
        OSError: if its weights are neither in the cache of torch.hub nor can be downloaded.
    """

    name = "Inception v3 (2015-12-05, torch-fidelity)"

    def __init__(self, device: str | torch.device = "cpu"):
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
        except (ImportError, RuntimeError) as error:  # a torchvision of another build raises a RuntimeError
            raise ValueError(
                "the feature extractor 'inception' needs torch-fidelity and a torchvision that fits your torch "
                f"(pip install torch-fidelity torchvision), but: {error}"
            ) from error
        path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[1]
        if not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=path.stem.rsplit("-", 1)[1])
            except (OSError, RuntimeError) as error:  # no connection; or not the file that its hash promises
                raise OSError(
                    f"the weights of the feature extractor 'inception' cannot be downloaded ({error}). Get "
                    f"{URL_INCEPTION_V3} on another machine and put it at {path}."
                ) from error
        # torch-fidelity unpickles the file without any limit; a file that passes here holds nothing but tensors.
        torch.load(path, weights_only=True)
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
        self._network = network.to(device).eval()
        self._device = device

    def _forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        images = ((batch + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)  # what this network is defined for
        return self._network(_to_channels(images, 3).to(self._device))

    def _features(self, batch: Tensor) -> Tensor:
        return self._forward(batch)[0]

    def _spatial_features(self, batch: Tensor) -> Tensor:
        maps: list[Tensor] = []
        hook = self._network.Mixed_6d.branch1x1.register_forward_hook(lambda *call: maps.append(call[2]))
        try:
            self._forward(batch)
        finally:
            hook.remove()
        return maps[0][:, :SPATIAL_CHANNELS].flatten(1)

    def _log_probs(self, batch: Tensor) -> Tensor:
        return self._forward(batch)[1].log_softmax(1)


class TransformersFeatureExtractor(FeatureExtractor):
    """An image model of transformers from a folder or the Hub, with safetensors weights and an image processor.

    Features are its pooled output; without one, the mean of the last feature map, or the first (class) token. Spatial
    features are the first seven channels of the middle feature map, if there are feature maps. Log-probabilities need a
    saved architecture with an image classification head.

    Args:
        name_or_path (`str` or `Path`): folder or hub id of the model.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): device of the network.

    Raises:
        OSError: if there is no such model, image processor, or safetensors file.
        ValueError: if it is no image model, or weights are missing.
    """

    def __init__(self, name_or_path: str | Path, device: str | torch.device = "cpu"):
        try:
            config = AutoConfig.from_pretrained(name_or_path)
        except OSError as error:  # transformers asks the Hub for whatever is no folder
            raise OSError(
                "`name_or_path` must be 'pixels', 'inception', or the folder or hub id of an image model, but there is none at "
                f"{str(name_or_path)!r}: {error}"
            ) from error
        self._classifies = any(name.endswith("ForImageClassification") for name in config.architectures or ())
        auto_class = AutoModelForImageClassification if self._classifies else AutoModel
        self._processor = AutoImageProcessor.from_pretrained(name_or_path)
        model, loading = auto_class.from_pretrained(
            name_or_path,
            use_safetensors=True,  # never pickled weights
            output_hidden_states=True,  # in the config: not all models know the argument
            output_loading_info=True,
        )
        if model.main_input_name != "pixel_values":
            raise ValueError(
                f"`name_or_path` {name_or_path} must be an image model, but {type(model).__name__} takes "
                f"{model.main_input_name!r}."
            )
        if loading["missing_keys"]:
            raise ValueError(
                f"`name_or_path` {name_or_path} has no weights for {', '.join(sorted(loading['missing_keys'])[:3])}, so "
                f"the features of {type(model).__name__} would be random."
            )
        self._model: PreTrainedModel = model.to(device).eval()
        self._num_channels = getattr(config, "num_channels", 3)
        # A folder of examples/train_metric_features.py has a name of its own, which says more than a path.
        where = Path(name_or_path).resolve().name if Path(name_or_path).is_dir() else name_or_path
        self.name = getattr(config, "feature_extractor_name", None) or f"{type(model).__name__} {where}"

    def _prepared(self, batch: Tensor) -> Tensor:
        return process_images(batch.to(self._model.device), self._processor, self._num_channels)

    def _features(self, batch: Tensor) -> Tensor:
        output = self._model.base_model(pixel_values=self._prepared(batch))
        if getattr(output, "pooler_output", None) is not None:
            return output.pooler_output.flatten(1)
        last = output.last_hidden_state
        return last.mean((2, 3)) if last.ndim == 4 else last[:, 0]

    def _spatial_features(self, batch: Tensor) -> Tensor | None:
        output = self._model.base_model(pixel_values=self._prepared(batch))
        maps = [x for x in getattr(output, "hidden_states", None) or () if x.ndim == 4]
        return maps[len(maps) // 2][:, :SPATIAL_CHANNELS].flatten(1) if maps else None

    def _log_probs(self, batch: Tensor) -> Tensor | None:
        if not self._classifies:
            return None
        return self._model(pixel_values=self._prepared(batch)).logits.log_softmax(1)


def load_feature_extractor(name_or_path: str | Path, device: str | torch.device = "cpu") -> FeatureExtractor:
    """Loads the network that computes the features.

    Args:
        name_or_path (`str` or `Path`): `"pixels"` (no network), `"inception"` ([`InceptionFeatureExtractor`]), or folder
            or hub id of an image model of transformers ([`TransformersFeatureExtractor`]), such as one trained by
            `examples/train_metric_features.py`.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): device of the network.

    Raises:
        ValueError, OSError: as the classes above.
    """
    if str(name_or_path) == "pixels":
        return FeatureExtractor()
    if str(name_or_path) == "inception":
        return InceptionFeatureExtractor(device)
    return TransformersFeatureExtractor(name_or_path, device)


def process_images(images: Tensor, processor: Any, num_channels: int = 3) -> Tensor:
    """Applies an image processor of transformers as tensor operations: resize, crop, normalise.

    Args:
        images (`Tensor` of shape `(B, C, H, W)`): in [-1, 1], C = 1 or `num_channels`.
        processor (`BaseImageProcessor`): its attributes are used.
        num_channels (`int`, *optional*, defaults to 3): channels of the network's input; grey images are repeated.

    Returns:
        `Tensor` of shape `(B, num_channels, H', W')`: the processor's output for the same images as PIL images, up to its
        rounding to grey levels.

    Raises:
        ValueError: if the images have colours but the network takes grey ones, or for an operation of the processor that
            is not supported.
    """
    x = (_to_channels(images, num_channels) + 1) * 127.5
    if processor.do_resize:
        size, crop = _resized_size(processor, *x.shape[-2:])
        mode = INTERPOLATION.get(int(processor.resample))
        if mode is None:
            raise ValueError(
                f"the image processor's `resample` must be one of {INTERPOLATION}, got {processor.resample}."
            )
        if size != tuple(x.shape[-2:]):
            x = F.interpolate(x, size, mode=mode, antialias=mode != "nearest-exact").clamp(0, 255)
        x = _center_crop(x, crop)
    # Without a `crop_size`, as in [`LZNImageProcessor`], the crop is that of `size`: nothing is left to cut from square images.
    if getattr(processor, "do_center_crop", False) and processor.crop_size is not None:
        x = _center_crop(x, (processor.crop_size.height, processor.crop_size.width))
    if processor.do_rescale:
        x = x * processor.rescale_factor
    if processor.do_normalize:
        mean, std = (x.new_tensor(values).view(-1, 1, 1) for values in (processor.image_mean, processor.image_std))
        x = (x - mean) / std
    return x


def _to_channels(images: Tensor, num_channels: int) -> Tensor:
    if images.shape[1] == num_channels:
        return images
    if images.shape[1] != 1:
        raise ValueError(
            f"`pixel_values` must have {num_channels} channels (or 1) for this network, got {images.shape[1]}."
        )
    return images.expand(-1, num_channels, -1, -1)


def _resized_size(processor: Any, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Height and width to resize to, and to crop to afterwards."""
    size = processor.size
    if size.height and size.width:
        return (size.height, size.width), None
    if not size.shortest_edge or size.longest_edge:
        raise ValueError(f"the image processor's `size` must be height and width, or shortest_edge, got {size}.")
    edge, crop = size.shortest_edge, None
    if getattr(processor, "crop_pct", None):  # ConvNeXt's: small images are the middle of larger ones
        if edge >= 384:
            return (edge, edge), None
        edge, crop = int(edge / processor.crop_pct), (edge, edge)
    short = min(height, width)
    return (int(edge * height / short), int(edge * width / short)), crop


def _center_crop(x: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None:
        return x
    (height, width), (rows, columns) = x.shape[-2:], size
    if rows > height or columns > width:
        raise ValueError(f"the image processor crops {rows} x {columns} pixels out of images of {height} x {width}.")
    top, left = (height - rows) // 2, (width - columns) // 2
    return x[..., top : top + rows, left : left + columns]


__all__ = [
    "FeatureExtractor",
    "InceptionFeatureExtractor",
    "TransformersFeatureExtractor",
    "load_feature_extractor",
    "process_images",
]
