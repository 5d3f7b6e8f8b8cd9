# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Exports a saved model to ONNX: what embeds, what classifies and what generates, each with a free batch size.

    embed.onnx      pixel_values (B, C, H, W) in [-1, 1]          -> embeddings (B, F)
    classify.onnx   pixel_values                                  -> log_probs (B, num_labels); reference anchors inside
    latents.onnx    labels (B,), noise (B, D)                     -> latents (B, D) in the zones of the labels, for the decoder
    decoder.onnx    sample (B, C, H, W), t (B,), latents (B, D), labels (B,), as far as the model takes them -> velocity (B, C, H, W)

Each file is run by onnxruntime on random inputs of three batch sizes and compared with the model.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import LZNModel


EXAMPLES = """
examples:
  lzn export onnx outputs/demo/model                              # writes outputs/demo/model/onnx
  lzn export onnx outputs/demo/model --output_dir served --parts embed classify

A file runs without PyTorch:
  import onnxruntime
  session = onnxruntime.InferenceSession("onnx/classify.onnx")
  log_probs = session.run(None, {"pixel_values": pixel_values})[0]            # float32, in [-1, 1], of the model's size
"""
BATCH_SIZES = (3, 1, 5)  # the first is traced
TOLERANCE = 1e-4  # of the largest difference, absolute or relative to values above 1
PARTS = {
    "embed": "embeddings",
    "classify": "log_probs",
    "latents": "latents",
    "decoder": "velocity",
}  # with the names of their outputs


class Part(nn.Module):
    """One method of a model as a module."""

    def __init__(self, model: LZNModel, part: str) -> None:
        super().__init__()
        self.model, self.part = model, part

    def forward(
        self,
        pixel_values: Any = None,
        sample: Any = None,
        t: Any = None,
        latents: Any = None,
        labels: Any = None,
        noise: Any = None,
        decoder_anchors: Any = None,
    ) -> Tensor:
        """Computes the output of the part.

        Args:
            pixel_values, sample, t, latents, labels, noise, decoder_anchors (`Tensor`, *optional*): the inputs of the part, see [`make_inputs`].
        """
        if self.part == "embed":
            return self.model.get_image_features(pixel_values)
        if self.part == "classify":
            return self.model.classify_images(pixel_values)
        if self.part == "latents":
            return self.model.get_label_latents(labels, noise)
        return self.model.predict_velocity(sample, t, latents, labels, decoder_anchors=decoder_anchors)


def available_parts(model: LZNModel) -> list[str]:
    """The parts that a model has."""
    parts = [] if model.encoder is None else ["embed"]
    references = model.reference_anchors
    if model.label_anchors is not None and references is not None and references.weight.any():
        parts.append("classify")
    if model.label_anchors is not None and model.decoder is not None:
        parts.append("latents")
    return parts + ([] if model.decoder is None else ["decoder"])


def make_inputs(model: LZNModel, part: str, batch_size: int) -> dict[str, Tensor]:
    """Random inputs of a part by name."""
    config: Any = model.config
    images = 2 * torch.rand(batch_size, config.num_channels, config.image_size, config.image_size) - 1
    if part in ("embed", "classify"):
        return {"pixel_values": images}
    if part == "latents":
        labels = torch.randint(config.num_labels, (batch_size,))
        return {"labels": labels, "noise": torch.randn(batch_size, config.latent_dim)}
    inputs = {"sample": images, "t": torch.rand(batch_size)}
    if model.encoder is not None:
        inputs["latents"] = torch.randn(batch_size, config.latent_dim)
    if config.num_labels:
        inputs["labels"] = torch.randint(config.num_labels, (batch_size,))
    if config.decoder_data_type is not None:
        inputs["decoder_anchors"] = torch.randn(batch_size, config.latent_dim)
    return inputs


def export_part(model: LZNModel, part: str, path: Path) -> None:
    """Writes one part of a model in evaluation mode as an ONNX file, weights inside."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it regrets that torchvision is not installed
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    inputs = make_inputs(model, part, BATCH_SIZES[0])
    shapes = {name: {0: torch.export.Dim("batch", min=1)} for name in inputs}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program: Any = torch.onnx.export(
            Part(model, part),
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=[PARTS[part]],
            verbose=False,
            external_data=False,
        )
    program.save(path)


def differences(model: LZNModel, part: str, path: Path) -> Iterator[float]:
    """The largest difference between onnxruntime and the model for each batch size, relative to values above 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch_size in BATCH_SIZES:
        inputs = make_inputs(model, part, batch_size)
        with torch.no_grad():
            expected = Part(model, part)(**inputs)
        found = torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])
        yield ((found - expected).abs() / expected.abs().clamp(min=1)).max().item()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model_name_or_path", help="saved folder or repository of the Hub")
    parser.add_argument("--output_dir", type=Path, help="where the files go; default: onnx in the folder of the model")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), help="default: all that the model has")
    args = parser.parse_args(arguments)
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        parser.error(f"{error.name} is not installed: pip install 'lzn_hf[onnx]'")
    folder = Path(args.model_name_or_path)
    if args.output_dir is None and not folder.is_dir():
        parser.error(f"{folder} is no folder: name an --output_dir for what comes from the Hub")
    try:
        model = LZNModel.from_pretrained(args.model_name_or_path, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        parser.error(str(error))
    parts = available_parts(model)
    for part in args.parts or ():
        if part not in parts:
            parser.error(f"this model has no part {part!r}: it lacks {LACKS[part]}. It has {', '.join(parts)}.")
    output_dir = args.output_dir or folder / "onnx"
    output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for part in args.parts or parts:
        path = output_dir / f"{part}.onnx"
        export_part(model, part, path)
        largest = max(differences(model, part, path))
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, largest difference from PyTorch {largest:.1e}")
        if not largest <= TOLERANCE:
            path.unlink()
            sys.exit(f"{part}: differs by more than {TOLERANCE:g}; the file was removed.")


LACKS = {
    "embed": "an image encoder",
    "classify": "labels with an image encoder, or reference anchors that are set (`model.set_reference_anchors`)",
    "latents": "labels with an image encoder, or an image decoder",
    "decoder": "an image decoder",
}


if __name__ == "__main__":
    main()
