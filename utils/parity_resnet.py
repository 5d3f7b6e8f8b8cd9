# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Parity checks of ResNet encoders, trained by alignment or filled by a rule. (Part of check_published_parity.py.)

Each function adds the checks of one `*_outputs` file of a golden folder. [`parity_report`] has the default tolerances.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from parity_models import FORWARD_LATENTS, REVERSE_LATENTS, Outputs, latent_flow
from parity_report import GoldenFile, unnormalized
from torch import Tensor

from lzn_hf import LZNConfig, LZNModel
from lzn_hf.commands.published_format import to_ours, to_published
from lzn_hf.latent_zones import compute_latents, trace_assignments


@torch.no_grad()
def check_contrastive(file: GoldenFile) -> None:
    """Checks all but the training iterations of a file of the contrastive trainer."""
    outputs = Outputs(file)
    model, flow = outputs.model("raw"), latent_flow(outputs.config)
    views, prior = file.input("in/data").unbind(1), file.input("in/prior")
    for i, view in enumerate(views):
        features, anchors, _ = model.encoder(view)
        file.compare(f"encoder/head_view{i}", anchors, "encoder", like="encoder/head_view0")
        file.compare(f"encoder/no_head_view{i}", features, "encoder")
    hidden = model.encoder._stem(views[0][:2])
    file.compare("encoder/net0_first2", hidden, "encoder layers")
    for i, stage in enumerate(model.encoder.stages, start=1):
        for block in stage:
            hidden = block(hidden)
        file.compare(f"encoder/net{i}_first2", hidden, "encoder layers")

    anchors, targets = (file.tensors[f"encoder/head_view{i}"] for i in range(2))
    tolerance = FORWARD_LATENTS * max(1.0, file.scale("encoder/head_view0"))
    scale = file.header["config"]["training"]["prior_data_scale"]
    for name, noise in (("latent", scale * prior), ("latent_unscaled", prior), ("latent_center", 0 * prior)):
        file.compare(name, compute_latents(anchors, noise, **flow), "latents", tolerance)
    final, log_probs = trace_assignments(file.tensors["latent"], targets, **flow)
    file.compare("assignment/final_point", final, "alignment", REVERSE_LATENTS * file.scale("encoder/head_view1"))
    pdfs = unnormalized(log_probs, torch.ones(len(targets)))
    file.compare("assignment/pdfs", pdfs, "alignment", REVERSE_LATENTS)
    own = log_probs.diagonal(dim1=1, dim2=2).exp()
    file.compare("assignment/own_prob", own, "alignment", REVERSE_LATENTS)

    if "encoder_ema" in outputs.checkpoint:
        features, anchors, _ = outputs.model("ema").encoder(views[0])
        file.compare("ema/encoder/head_view0", anchors, "averages", like="encoder/head_view0")
        file.compare("ema/encoder/no_head_view0", features, "averages")
    exact = model.double().encoder(views[0].double())[1]
    file.compare_float64("f64/encoder/head_view0", exact, "encoder, float64")


def check_filled_resnet(file: GoldenFile) -> None:
    """Checks a ResNet whose weights are not stored, but follow from their names by the hash rule in the header."""
    header = file.header
    config = LZNConfig(
        encoder_type="resnet",
        decoder_type=None,
        encoder_depths=header["layers"],
        encoder_widths=[header["width_multiplier"] * 64 * 2**i for i in range(len(header["layers"]))],
        encoder_head_layers=header["head_num_layers"],
        latent_dim=header["head_out_dim"],
    )
    rule = header["fill_rule"]
    weights = {key: hash_filled(rule["salt"], key, shape, rule["std"]) for key, shape in header["state_dict"]}
    for name in file.entries:
        if name.startswith("fill_check/"):
            values = weights[name.removeprefix("fill_check/")].flatten()
            file.compare(name, values[: file.tensors[name].numel()], "weights of the rule", 0.0)
    model = LZNModel(config).eval()
    model.load_state_dict(to_ours(config, {"encoder": weights}))
    count = sum(parameter.numel() for parameter in model.parameters())
    file.check("num_params in the header", "sizes", abs(count - header["num_params"]))

    images = file.input("in/images")
    with torch.no_grad():
        features, anchors, _ = model.encoder(images)
    file.compare("encoder/head", anchors, "encoder")
    file.compare("encoder/no_head", features, "encoder")
    # Gradients in float64: a ReLU at rounding distance from its kink turns a float32 gradient norm by 1e-3.
    exact = model.double().encoder(images.double())[1]
    file.compare_float64("f64/encoder/head", exact, "encoder, float64")
    if "in/cotangent" in file.entries:
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad((exact * file.input("in/cotangent")).sum(), parameters)
        published = to_published(config, dict(zip(names, gradients, strict=True)))["encoder"]
        ours = torch.stack([published[key].norm() for key in file.entries["grad_norms"]["keys"]])
        error = ((ours - file.tensors["grad_norms"]) / file.tensors["grad_norms"]).abs().max().item()
        file.check("grad_norms", "gradient norms, relative", error, 1e-3)


def hash_filled(salt: str, key: str, shape: list[int], std: float) -> Tensor:
    """Returns the float32 weights of one name by the rule in the header (a splitmix64 of name and index)."""
    n = int(np.prod(shape))
    z = np.arange(n, dtype=np.uint64) + np.uint64(zlib.crc32(f"{salt}:{key}".encode()) << 32)
    z += np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    values = (2 * (z >> np.uint64(40)).astype(np.float64) * 2.0**-24 - 1) * std * 3**0.5
    if len(shape) == 1 and key.endswith(".weight"):
        values += 1
    return torch.from_numpy(values.astype(np.float32)).view(shape)
