# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Parity checks of generative models: outputs, gradients, traces, latents, labels and samples. (Part of
check_published_parity.py.)

[`check_generation`] takes one `*_outputs` file of a golden folder and returns its checks. Sizes, settings and step counts are
read from the file and the checkpoint that it names.

Tolerances: outputs in float32 may differ by 10 times their noise note; what has no note of its own (a gradient, say) by the
largest relative note of a network output in the file, times 10, of its own size; float64 by 1e-9 of the largest magnitude.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from convert_original_checkpoint import convert, load_checkpoint
from parity_report import Check, GoldenFile
from published_format import config_from_published, numbered_modules
from torch import Tensor, nn

from lzn_hf import LZNConfig, LZNModel, LZNPipeline
from lzn_hf.distributed_lzn import log_label_frequencies
from lzn_hf.latent_zones import compute_latents, trace_assignments
from lzn_hf.layers_ncsnpp import GroupNormSiLU
from lzn_hf.rk45_lzn import integrate_rk45, rk45_step
from lzn_hf.sampling_lzn import integrate_velocity


PUBLISHED_T_MIN = 1e-3  # where the published samplers start
NOISE_FACTOR = 10
FLOAT64_TOLERANCE = 1e-9  # relative to the largest magnitude in the tensor
MIN_RELATIVE_NOISE = 1e-6  # of a float32 network, where there is no note at all
FORWARD_LATENTS = 3e-3  # rounding of the published Euler flow in float32 towards the noise, for anchors of unit scale
REVERSE_LATENTS = 1e-4  # ... and towards the anchors
RK45 = 5e-3
EULER = 1e-4  # at least


def unsupported_variant(published: Mapping[str, Any]) -> str:
    """The variant that a published config describes and lzn_hf does not have; empty if it has it."""
    for part in ("encoder", "decoder"):
        model = published.get(part, {}).get("params", {}).get("config", {}).get("model", {})
        if model.get("resblock_type") == "ddpm":
            return "ddpm blocks"
        if "residual" in (model.get("progressive"), model.get("progressive_input")):
            return "residual pyramids"
        if model.get("scale_by_sigma") and model.get("embedding_type") == "positional":
            return "division by a table of sigmas"
    return "selective-kernel ResNet" if published.get("encoder", {}).get("params", {}).get("sk_ratio") else ""


class Outputs:
    """One file of outputs, the models of its checkpoint, and how its tensors are compared."""

    def __init__(self, file: GoldenFile) -> None:
        self.file = file
        self.checks: list[Check] = []
        self.config: LZNConfig = config_from_published(file.header["config"])
        self.checkpoint = load_checkpoint(file.folder / file.header["checkpoint"])

    def model(self, weights: str) -> LZNModel:
        return convert(self.checkpoint, self.config, weights)

    def relative_noise(self) -> float:
        """The largest relative noise note of a network output in the file."""
        outputs = [name for name in self.file.entries if re.match(r"(encoder|decoder)/[^/]+$", name)]
        notes = [self.file.noise(name) / self.file.scale(name) for name in outputs if self.file.noise(name)]
        return max(notes, default=MIN_RELATIVE_NOISE)

    def compare(self, name: str, actual: Tensor, group: str, tolerance: float | None = None, like: str = "") -> None:
        """Adds the check of one tensor, if the file has it; `like` names another that has the noise note."""
        if name not in self.file.entries:
            return
        if tolerance is None:
            noise = self.file.noise(name) or (self.file.noise(like) if like in self.file.entries else None)
            tolerance = NOISE_FACTOR * (noise or self.relative_noise() * self.file.scale(name))
        self.checks.append(self.file.compare(name, actual.detach(), tolerance, group))

    def compare_exact(self, name: str, actual: Tensor, group: str) -> None:
        self.compare(
            name, actual, group, FLOAT64_TOLERANCE * self.file.scale(name) if name in self.file.entries else 0
        )


# --- Generation: an NCSN++ encoder and decoder, with labels or without ----------------------------------------------------


def check_generation(file: GoldenFile) -> list[Check]:
    """All but the training iterations of a file of the generation trainer."""
    outputs = Outputs(file)
    raw = outputs.model("raw")
    _check_networks(outputs, raw)
    _check_gradients(outputs, raw)
    _check_traces(outputs, raw)
    _check_float64(outputs)
    _check_labels(outputs, raw)
    _check_samplers(outputs, raw)
    _check_averages(outputs)
    return outputs.checks


def _labels(outputs: Outputs) -> Tensor | None:
    labels = outputs.file.input("in/label")
    return labels if outputs.config.num_labels else None


@torch.no_grad()
def _check_networks(outputs: Outputs, model: LZNModel) -> None:
    file, labels = outputs.file, _labels(outputs)
    images, xt = file.input("in/images"), file.input("in/xt")
    if "in/onehot" in file.entries:
        outputs.compare("in/onehot", nn.functional.one_hot(labels, outputs.config.num_labels), "labels", 0.0)
    anchors = model.get_image_anchors(images)
    outputs.compare("encoder/anchor", anchors, "encoder")
    # The pool is the batch, which the pipeline never does: it has reference anchors.
    latents = compute_latents(anchors, file.input("in/prior"), **latent_flow(outputs.config))
    outputs.compare("latent_from_data", latents, "latents")
    given = file.tensors["latent_from_data"]
    outputs.compare("decoder/velocity", model.predict_velocity(xt, file.input("in/t"), given, labels), "decoder")
    fixed = model.predict_velocity(xt, 0.5, file.input("in/fixed_latent"), labels)
    outputs.compare("decoder/velocity_fixed_latent", fixed, "decoder", like="decoder/velocity")


def _check_gradients(outputs: Outputs, model: LZNModel) -> None:
    file = outputs.file
    images = file.input("in/images").clone().requires_grad_()
    anchors = model.get_image_anchors(images)
    (grad,) = torch.autograd.grad((anchors * file.input("encoder/cotangent")).sum(), images)
    outputs.compare("encoder/grad_images", grad, "encoder gradient")
    latents, xt = (file.input(name).clone().requires_grad_() for name in ("in/fixed_latent", "in/xt"))
    velocity = model.predict_velocity(xt, file.input("in/t").clamp(0.05, 0.9), latents, _labels(outputs))
    grads = torch.autograd.grad((velocity * file.input("decoder/cotangent")).sum(), (latents, xt))
    for name, grad in zip(("latent", "xt"), grads, strict=True):
        outputs.compare(f"decoder/grad_{name}", grad, "decoder gradient")


@torch.no_grad()
def _check_traces(outputs: Outputs, model: LZNModel) -> None:
    """Norm, mean and first elements of the output of every published layer, in units of its root mean square."""
    file = outputs.file

    def decode() -> Tensor:
        latents = file.tensors["latent_from_data"]
        return model.predict_velocity(file.input("in/xt"), file.input("in/t"), latents, _labels(outputs))

    runs = {"encoder": lambda: model.get_image_anchors(file.input("in/images")), "decoder": decode}
    for part, run in runs.items():
        name = f"{part}/module_trace"
        if name not in file.entries:
            continue
        traced = _layer_outputs(numbered_modules(getattr(model, part)), run)
        golden = file.tensors[name].double()
        tolerance = NOISE_FACTOR * max(outputs.relative_noise(), MIN_RELATIVE_NOISE)
        rows = []
        for row, value in zip(golden, traced, strict=True):
            flat = value.double().flatten()
            rms = row[0] / flat.numel() ** 0.5
            ours = torch.cat([torch.stack([flat.norm() / flat.numel() ** 0.5, flat.mean()]), flat[: len(row) - 2]])
            theirs = torch.cat([rms[None], row[1:]])
            rows.append(((ours - theirs) / rms.clamp_min(1e-30)).abs())
        outputs.checks.append(Check(file.name, name, f"{part} layers", torch.stack(rows).max().item(), tolerance))


def _layer_outputs(layers: list[nn.Module], run: Callable[[], Any]) -> list[Tensor]:
    """The output of each layer in a run: of a residual block before its attention, of a norm before its activation."""
    outputs: dict[nn.Module, Tensor] = {}
    hooks = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> None:
        # The published layer is the norm alone.
        outputs[layer] = nn.GroupNorm.forward(layer, *inputs) if isinstance(layer, GroupNormSiLU) else result

    for layer in layers:
        attention = getattr(layer, "attention", None)
        if attention is None:
            hooks.append(layer.register_forward_hook(record))
        else:
            hook = attention.register_forward_pre_hook(
                lambda _, args, layer=layer: outputs.__setitem__(layer, args[0].clone())
            )
            hooks.append(hook)
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return [outputs[layer] for layer in layers]


@torch.no_grad()
def _check_float64(outputs: Outputs) -> None:
    file = outputs.file
    model = outputs.model("raw").double()
    if "f64/encoder/anchor" in file.entries:
        anchors = model.encoder(file.input("in/images").double())[1]
        outputs.compare_exact("f64/encoder/anchor", anchors, "encoder, float64")
    if "f64/decoder/velocity" in file.entries:
        latents = file.tensors["latent_from_data"].double()
        t, xt = file.input("in/t").double(), file.input("in/xt").double()
        velocity = model.decoder(xt, t, latents, _labels(outputs))
        outputs.compare_exact("f64/decoder/velocity", velocity, "decoder, float64")


def latent_flow(config: LZNConfig) -> dict[str, Any]:
    return {"solver": config.latent_solver, "num_steps": config.latent_num_steps}


def label_flow(config: LZNConfig) -> dict[str, Any]:
    return {"solver": config.alignment_solver, "num_steps": config.alignment_num_steps}


def unnormalised(log_probs: Tensor) -> Tensor:
    """The published `pdfs` (..., N) of equal weights: exp(l_i - max_j l_j), from log-probabilities l_i - const."""
    return (log_probs - log_probs.amax(-1, keepdim=True)).exp()


@torch.no_grad()
def _check_labels(outputs: Outputs, model: LZNModel) -> None:
    if not outputs.config.num_labels:
        return
    file, anchors = outputs.file, model.label_anchors
    outputs.compare("label/anchor", anchors, "labels", 0.0)
    latents = model.get_label_latents(file.input("label/in_label"), file.input("label/in_prior"))
    scale = max(1.0, file.scale("label/anchor"))
    outputs.compare("label/latent", latents, "label flow, forward", FORWARD_LATENTS * scale)
    log_weights = log_label_frequencies(_labels(outputs), outputs.config.num_labels)
    outputs.compare("label/class_weights", log_weights.exp(), "labels", 1e-6)
    starts = {"from_data": "latent_from_data", "from_data_w": "latent_from_data", "from_label": "label/latent"}
    for name, start in starts.items():
        weights = log_weights if name.endswith("_w") else None
        final, log_probs = trace_assignments(
            file.tensors[start], anchors, log_weights=weights, **label_flow(outputs.config)
        )
        outputs.compare(f"label/{name}/final_point", final, "label flow, reverse", REVERSE_LATENTS * scale)
        if weights is None:
            outputs.compare(f"label/{name}/pdfs", unnormalised(log_probs), "label flow, reverse", REVERSE_LATENTS)
        else:  # the golden maximum is over absent labels, too: compare what does not depend on it
            _compare_up_to_scale(outputs, f"label/{name}/pdfs", log_probs.exp())
        # The published prediction is the anchor nearest to the final point; ours is the most probable one at the end.
        outputs.compare(f"label/{name}/pred", torch.cdist(final, anchors).argmin(-1), "label predictions", 0.0)
        if weights is None:
            predicted = model.classify_latents(file.tensors[start]).argmax(-1)
            outputs.compare(f"label/{name}/pred", predicted, "label predictions", 0.0)


def _compare_up_to_scale(outputs: Outputs, name: str, probs: Tensor) -> None:
    """Compares unnormalised probabilities (S, B, N) after division by their sums."""
    if name in outputs.file.entries:
        golden = outputs.file.tensors[name]
        error = (probs - golden / golden.sum(-1, keepdim=True)).abs().max().item()
        outputs.checks.append(Check(outputs.file.name, name, "label flow, reverse", error, REVERSE_LATENTS))


@torch.no_grad()
def _check_samplers(outputs: Outputs, model: LZNModel, prefix: str = "") -> None:
    """Euler and RK45, both ways, from the latents and labels of the first images."""
    file = outputs.file
    if "sampler/x0" not in file.entries:
        return
    x0 = file.input("sampler/x0")
    latents = file.tensors[f"{prefix}latent_from_data"][: len(x0)]
    labels = _labels(outputs)
    labels = None if labels is None else labels[: len(x0)]
    images = file.input("in/images")[: len(x0)]

    def velocity(x: Tensor, t: float | Tensor) -> Tensor:
        return model.predict_velocity(x, t, latents, labels)

    def euler(x: Tensor, times: list[float]) -> list[Tensor]:
        path = []
        for step in pairwise(times):
            x = integrate_velocity(velocity, x, step, "euler")
            path.append(x)
        return path

    for name in [name for name in file.entries if re.fullmatch(rf"{prefix}sampler/euler\d+", name)]:
        num_steps = int(re.search(r"\d+$", name)[0])
        noise = file.noise(name) or (file.noise(name.removeprefix(prefix)) if prefix else None) or 0.0
        tolerance = max(NOISE_FACTOR * noise, EULER)
        times = torch.linspace(PUBLISHED_T_MIN, 1, num_steps + 1, dtype=torch.float64).tolist()
        path = euler(x0, times)
        outputs.compare(name, path[-1], "Euler sampler", tolerance)
        first = torch.stack([(x - (1 - t) * x0) / t for x, t in zip(path, times[1:], strict=True)])[:, :2]
        outputs.compare(f"{name}_all_first2", first, "Euler sampler", tolerance / times[1])
        as_bytes = ((path[-1] + 1) / 2 * 255).clamp(0, 255).round()
        outputs.compare(f"{name}_uint8", as_bytes, "Euler sampler, levels of 255", 1.0)
        if f"{name}_pred_label" in file.entries:
            predicted = integrate_velocity(
                lambda x, t: model.predict_velocity(x, t, latents), x0, times, "euler"
            )  # labels are those of the zones
            outputs.compare(f"{name}_pred_label", predicted, "Euler sampler", tolerance)
        if prefix:
            continue
        back = times[::-1]
        path = euler(images, back)
        outputs.compare(f"{name}_inverse", path[-1], "Euler sampler, inverse", tolerance)
        first = torch.stack([(x - t * images) / (1 - t) for x, t in zip(path, back[1:], strict=True)])[:, :2]
        outputs.compare(f"{name}_inverse_all_first2", first, "Euler sampler, inverse", tolerance / (1 - back[1]))
        _check_pipeline(outputs, model, name, num_steps, labels, tolerance)
    if not prefix and "sampler/rk45" in file.entries:
        _check_rk45(outputs, velocity, x0, images)


def _check_rk45(outputs: Outputs, velocity: Callable[[Tensor, Tensor], Tensor], x0: Tensor, images: Tensor) -> None:
    """Published RK45, which has one error and one step size for a whole batch, in float64: that is one sample of ours.

    Where to step is decided by errors of the size of rounding, so that the result of an adaptive run is only as good as its
    sensitivity. Over the times at which the published run stepped there is no such freedom.
    """
    file, t_min = outputs.file, PUBLISHED_T_MIN

    def in_float32(x: Tensor, t: Tensor) -> Tensor:
        return velocity(x.float(), t.float()).double()

    def adaptive(x: Tensor, ends: tuple[float, float]) -> Tensor:
        x, _ = integrate_rk45(lambda x, t, _: in_float32(x[0], t.expand(len(x0)))[None], x.double()[None], *ends)
        return x[0]

    def stepwise(x: Tensor, times: list[float]) -> Tensor:
        x = x.double()
        t = torch.tensor(times, dtype=torch.float64).unsqueeze(1).expand(-1, len(x))
        slope = in_float32(x, t[0])
        for start, end in pairwise(t):
            x, slopes = rk45_step(in_float32, x, slope, start, end - start)
            slope = slopes[-1]
        return x

    def as_published(x: Tensor, is_inverse: bool) -> Tensor:  # an inverse is extrapolated to t = 0
        return (x - t_min * images) / (1 - t_min) if is_inverse else x

    starts = {"rk45": x0, "rk45_inverse": images, "rk45_reconstruction": file.tensors["sampler/rk45_inverse"]}
    for kind, start in starts.items():
        name, is_inverse = f"sampler/{kind}", kind == "rk45_inverse"
        ends = (1.0, t_min) if is_inverse else (t_min, 1.0)
        result = as_published(adaptive(start, ends), is_inverse)
        sensitivity = file.noise(name)
        if sensitivity is None:  # no note: ours, measured in the same way
            noise = 1e-6 * torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
            moved = as_published(adaptive(start + noise, ends), is_inverse)
            sensitivity = (moved - result).abs().max().item()
        outputs.compare(name, result, "RK45 sampler, adaptive", max(RK45, NOISE_FACTOR * sensitivity))
        if "times" in file.entries[name]:
            result = as_published(stepwise(start, file.entries[name]["times"]), is_inverse)
            outputs.compare(name, result, "RK45 sampler at the published steps", RK45)


def _check_pipeline(
    outputs: Outputs, model: LZNModel, name: str, num_steps: int, labels: Tensor | None, tolerance: float
) -> None:
    """The same sample by LZNPipeline, whose labels are those of the zones."""
    golden = f"{name}_pred_label" if labels is not None else name
    if golden not in outputs.file.entries:
        return
    pipe = LZNPipeline.from_model(model)
    pipe.set_progress_bar_config(disable=True)
    x0 = outputs.file.input("sampler/x0")
    images = pipe(
        latents=outputs.file.tensors["latent_from_data"][: len(x0)],
        sample_noise=x0,
        solver="euler",
        t_min=PUBLISHED_T_MIN,
        num_inference_steps=num_steps,
        output_type="pt",
    ).images
    expected = ((outputs.file.tensors[golden] + 1) / 2).clamp(0, 1)
    error = (images - expected).abs().max().item()
    outputs.checks.append(Check(outputs.file.name, f"{golden} by LZNPipeline", "Euler sampler", error, tolerance))


@torch.no_grad()
def _check_averages(outputs: Outputs) -> None:
    """The `ema/...` twins of the outputs, from the moving averages."""
    file, labels = outputs.file, _labels(outputs)
    if not any(name.startswith("ema/") for name in file.entries):
        return
    model = outputs.model("ema")
    anchors = model.get_image_anchors(file.input("in/images"))
    outputs.compare("ema/encoder/anchor", anchors, "averages", like="encoder/anchor")
    latents = compute_latents(anchors, file.input("in/prior"), **latent_flow(outputs.config))
    outputs.compare("ema/latent_from_data", latents, "averages", like="latent_from_data")
    given = file.tensors["ema/latent_from_data"]
    velocity = model.predict_velocity(file.input("in/xt"), file.input("in/t"), given, labels)
    outputs.compare("ema/decoder/velocity", velocity, "averages", like="decoder/velocity")
    _check_samplers(outputs, model, prefix="ema/")
    if labels is not None:
        outputs.compare("ema/label/anchor", model.label_anchors, "averages", 0.0)
        predicted = model.classify_latents(given).argmax(-1)
        outputs.compare("ema/label/pred", predicted, "label predictions", 0.0)
