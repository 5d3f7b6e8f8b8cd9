# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Parity checks of generative models: outputs, gradients, traces, latents, labels and samples. (Part of
check_published_parity.py.)

[`check_generation`] adds the checks of one `*_outputs` file of a golden folder. Sizes, settings and step counts come from the
file and the checkpoint that it names. [`parity_report`] has the default tolerances.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from parity_report import MIN_RELATIVE_NOISE, NOISE_FACTOR, GoldenFile, max_difference, unnormalized
from torch import Tensor, nn

from lzn_hf import LZNConfig, LZNModel, LZNPipeline
from lzn_hf.commands.published_checkpoint import convert, load_checkpoint
from lzn_hf.commands.published_config import config_from_published
from lzn_hf.commands.published_format import numbered_modules
from lzn_hf.distributed_lzn import log_label_frequencies
from lzn_hf.latent_zones import compute_latents, trace_assignments
from lzn_hf.layers_ncsnpp import GroupNormSiLU
from lzn_hf.rk45_lzn import integrate_rk45, rk45_step
from lzn_hf.sampling_lzn import integrate_velocity


PUBLISHED_T_MIN = 1e-3  # where the published samplers start
FORWARD_LATENTS = 3e-3  # rounding of the published Euler flow in float32 towards the noise, for anchors of unit scale
REVERSE_LATENTS = 1e-4  # ... and towards the anchors
RK45 = 5e-3
EULER = 1e-4  # at least


def unsupported_variant(published: Mapping[str, Any]) -> str:
    """Returns the variant of a published config that lzn_hf does not support; empty if it supports all of it."""
    for part in ("encoder", "decoder"):
        model = published.get(part, {}).get("params", {}).get("config", {}).get("model", {})
        if model.get("resblock_type") == "ddpm":
            return "ddpm blocks"
        if "residual" in (model.get("progressive"), model.get("progressive_input")):
            return "residual pyramids"
        if model.get("scale_by_sigma") and model.get("embedding_type") == "positional":
            return "division by a table of sigmas"
    if sum(weight != 0 for weight in published.get("training", {}).get("loss_weight", {}).values()) > 1:
        return "sum of both alignment losses"
    return "selective-kernel ResNet" if published.get("encoder", {}).get("params", {}).get("sk_ratio") else ""


def latent_flow(config: LZNConfig) -> dict[str, Any]:
    return {"solver": config.latent_solver, "num_steps": config.latent_num_steps}


def label_flow(config: LZNConfig) -> dict[str, Any]:
    return {"solver": config.alignment_solver, "num_steps": config.alignment_num_steps}


class Outputs:
    """One file of outputs with the config and the checkpoint that it names."""

    def __init__(self, file: GoldenFile) -> None:
        self.file = file
        self.config: LZNConfig = config_from_published(file.header["config"])
        self.checkpoint = load_checkpoint(file.folder / file.header["checkpoint"])

    def model(self, weights: str) -> LZNModel:
        return convert(self.checkpoint, self.config, weights)


def check_generation(file: GoldenFile) -> None:
    """Checks an NCSN++ encoder and decoder, with labels or without, in all but the training iterations of its file."""
    outputs = Outputs(file)
    raw = _Generation(outputs, "raw")
    raw.check_networks()
    raw.check_gradients()
    raw.check_traces()
    if outputs.config.num_labels:
        raw.check_labels()
    raw.check_euler()
    raw.check_rk45()
    raw.check_float64()
    if any(name.startswith("ema/") for name in file.entries):
        averages = _Generation(outputs, "ema")
        averages.check_networks()
        averages.check_euler()


class _Generation:
    """The checks of one set of weights: those as trained, or the moving averages, whose outputs are in `ema/`."""

    def __init__(self, outputs: Outputs, weights: str) -> None:
        self.file, self.config, self.model = outputs.file, outputs.config, outputs.model(weights)
        self.prefix = "ema/" if weights == "ema" else ""
        labels = self.file.input("in/label")
        self.labels = labels if self.config.num_labels else None
        self.latents = self.file.tensors[f"{self.prefix}latent_from_data"]

    @torch.no_grad()
    def check_networks(self) -> None:
        file, model, prefix = self.file, self.model, self.prefix
        encoder, latents, decoder = ["averages"] * 3 if prefix else ["encoder", "latents", "decoder"]
        xt, t = file.input("in/xt"), file.input("in/t")
        anchors = model.get_image_anchors(file.input("in/images"))
        file.compare(f"{prefix}encoder/anchor", anchors, encoder, like="encoder/anchor")
        # The pool is the batch. (The pipeline never does that: it has reference anchors.)
        placed = compute_latents(anchors, file.input("in/prior"), **latent_flow(self.config))
        file.compare(f"{prefix}latent_from_data", placed, latents, like="latent_from_data")
        velocity = model.predict_velocity(xt, t, self.latents, self.labels)
        file.compare(f"{prefix}decoder/velocity", velocity, decoder, like="decoder/velocity")
        if not prefix:
            velocity = model.predict_velocity(xt, 0.5, file.input("in/fixed_latent"), self.labels)
            file.compare("decoder/velocity_fixed_latent", velocity, decoder, like="decoder/velocity")
        elif self.labels is not None:
            file.compare("ema/label/anchor", model.require_label_anchors(), "averages", 0.0)
            predicted = model.classify_latents(self.latents).argmax(-1)
            file.compare("ema/label/pred", predicted, "label predictions", 0.0)

    def check_gradients(self) -> None:
        file = self.file
        images, latents, xt = (
            file.input(f"in/{name}").clone().requires_grad_() for name in ("images", "fixed_latent", "xt")
        )
        anchors = self.model.get_image_anchors(images)
        (grad,) = torch.autograd.grad((anchors * file.input("encoder/cotangent")).sum(), images)
        file.compare("encoder/grad_images", grad, "encoder gradient")
        velocity = self.model.predict_velocity(xt, file.input("in/t").clamp(0.05, 0.9), latents, self.labels)
        grads = torch.autograd.grad((velocity * file.input("decoder/cotangent")).sum(), (latents, xt))
        for name, grad in zip(("latent", "xt"), grads, strict=True):
            file.compare(f"decoder/grad_{name}", grad, "decoder gradient")

    @torch.no_grad()
    def check_traces(self) -> None:
        """Compares norm, mean and first elements of each published layer's output, relative to its root mean square."""
        file, tensors = self.file, self.file.tensors
        runs = {
            "encoder": lambda: self.model.get_image_anchors(tensors["in/images"]),
            "decoder": lambda: self.model.predict_velocity(
                tensors["in/xt"], tensors["in/t"], self.latents, self.labels
            ),
        }
        for part, run in runs.items():
            name = f"{part}/module_trace"
            if name not in file.entries:
                continue
            traced = _layer_outputs(numbered_modules(getattr(self.model, part)), run)
            errors = []
            for row, value in zip(tensors[name].double(), traced, strict=True):
                flat = value.double().flatten()
                ours = torch.cat([flat.norm()[None], flat.mean()[None], flat[: len(row) - 2]])
                rms = row[0] / flat.numel() ** 0.5
                difference = (ours - row).abs() / rms.clamp_min(1e-30)
                difference[0] /= flat.numel() ** 0.5  # of the norm
                errors.append(difference.max())
            tolerance = NOISE_FACTOR * max(file.relative_noise(), MIN_RELATIVE_NOISE)
            file.check(name, f"{part} layers", torch.stack(errors).max().item(), tolerance)

    @torch.no_grad()
    def check_float64(self) -> None:
        """Comes last: it turns the model into float64."""
        file, model = self.file, self.model.double()
        images, xt, t = (file.tensors[f"in/{name}"].double() for name in ("images", "xt", "t"))
        file.compare_float64("f64/encoder/anchor", model.encoder(images)[1], "encoder, float64")
        velocity = model.decoder(xt, t, self.latents.double(), self.labels)
        file.compare_float64("f64/decoder/velocity", velocity, "decoder, float64")

    @torch.no_grad()
    def check_labels(self) -> None:
        file, model, anchors = self.file, self.model, self.model.require_label_anchors()
        file.compare("in/onehot", nn.functional.one_hot(self.labels, self.config.num_labels), "labels", 0.0)
        file.compare("label/anchor", anchors, "labels", 0.0)
        latents = model.get_label_latents(file.input("label/in_label"), file.input("label/in_prior"))
        scale = max(1.0, file.scale("label/anchor"))
        file.compare("label/latent", latents, "label flow, forward", FORWARD_LATENTS * scale)
        log_weights = log_label_frequencies(self.labels, self.config.num_labels)
        file.compare("label/class_weights", log_weights.exp(), "labels", 1e-6)
        for name in ("from_data", "from_data_w", "from_label"):
            start = file.tensors["label/latent" if name == "from_label" else "latent_from_data"]
            weights = log_weights if name.endswith("_w") else None
            final, log_probs = trace_assignments(start, anchors, log_weights=weights, **label_flow(self.config))
            group, pdfs = "label flow, reverse", f"label/{name}/pdfs"
            file.compare(f"label/{name}/final_point", final, group, REVERSE_LATENTS * scale)
            if weights is None:
                ours = unnormalized(log_probs, torch.ones(len(anchors)))
                file.compare(pdfs, ours, group, REVERSE_LATENTS)
                # The published prediction is the anchor nearest to the final point; ours is the most probable one.
                predicted = model.classify_latents(start).argmax(-1)
                file.compare(f"label/{name}/pred", predicted, "label predictions", 0.0)
            elif (
                pdfs in file.entries
            ):  # the golden maximum is over absent labels, too: compare what does not depend on it
                golden = file.tensors[pdfs] / file.tensors[pdfs].sum(-1, keepdim=True)
                file.check(pdfs, group, max_difference(log_probs.exp(), golden), REVERSE_LATENTS)
            file.compare(f"label/{name}/pred", torch.cdist(final, anchors).argmin(-1), "label predictions", 0.0)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Returns the velocity for the latents and labels of the first images."""
        labels = None if self.labels is None else self.labels[: len(x)]
        return self.model.predict_velocity(x, t, self.latents[: len(x)], labels)

    @torch.no_grad()
    def check_euler(self) -> None:
        """Checks Euler sampling, forward and inverse."""
        file, prefix = self.file, self.prefix
        for name in [name for name in file.entries if re.fullmatch(rf"{prefix}sampler/euler\d+", name)]:
            x0, num_steps = file.input("sampler/x0"), int(re.search(r"\d+$", name)[0])
            images, latents = file.tensors["in/images"][: len(x0)], self.latents[: len(x0)]
            noise = file.noise(name) or file.noise(name.removeprefix(prefix)) or 0.0
            tolerance = max(NOISE_FACTOR * noise, EULER)
            times = torch.linspace(PUBLISHED_T_MIN, 1, num_steps + 1, dtype=torch.float64).tolist()
            path = self._euler_path(x0, times)
            file.compare(name, path[-1], "Euler sampler", tolerance)
            first = torch.stack([(x - (1 - t) * x0) / t for x, t in zip(path, times[1:], strict=True)])[:, :2]
            file.compare(f"{name}_all_first2", first, "Euler sampler", tolerance / times[1])
            as_bytes = ((path[-1] + 1) / 2 * 255).clamp(0, 255).round()
            file.compare(f"{name}_uint8", as_bytes, "Euler sampler, levels of 255", 1.0)
            if f"{name}_pred_label" in file.entries:  # the labels of the zones
                predicted = integrate_velocity(
                    lambda x, t, latents=latents: self.model.predict_velocity(x, t, latents), x0, times, "euler"
                )
                file.compare(f"{name}_pred_label", predicted, "Euler sampler", tolerance)
            if prefix:
                continue
            back = times[::-1]
            path = self._euler_path(images, back)
            file.compare(f"{name}_inverse", path[-1], "Euler sampler, inverse", tolerance)
            first = torch.stack([(x - t * images) / (1 - t) for x, t in zip(path, back[1:], strict=True)])[:, :2]
            file.compare(f"{name}_inverse_all_first2", first, "Euler sampler, inverse", tolerance / (1 - back[1]))
            self._check_pipeline(name if self.labels is None else f"{name}_pred_label", num_steps, tolerance)

    def _euler_path(self, x: Tensor, times: list[float]) -> list[Tensor]:
        path = []
        for step in pairwise(times):
            x = integrate_velocity(self.velocity, x, step, "euler")
            path.append(x)
        return path

    def _check_pipeline(self, name: str, num_steps: int, tolerance: float) -> None:
        """Compares a golden sample with that of LZNPipeline, which takes its labels from the zones."""
        if name not in self.file.entries:
            return
        pipe = LZNPipeline.from_model(self.model)
        pipe.set_progress_bar_config(disable=True)
        x0 = self.file.input("sampler/x0")
        settings = {"solver": "euler", "t_min": PUBLISHED_T_MIN, "num_inference_steps": num_steps, "output_type": "pt"}
        images = pipe(latents=self.latents[: len(x0)], sample_noise=x0, **settings).images
        expected = ((self.file.tensors[name] + 1) / 2).clamp(0, 1)
        self.file.check(f"{name} by LZNPipeline", "Euler sampler", max_difference(images, expected), tolerance)

    @torch.no_grad()
    def check_rk45(self) -> None:
        """Checks published RK45, which has one error and one step size for a whole batch in float64: one sample of ours.

        Errors of the size of rounding decide where it steps, so an adaptive run is only as good as its sensitivity. Over the
        times at which the published run stepped there is no such freedom.
        """
        file, t_min = self.file, PUBLISHED_T_MIN
        if "sampler/rk45" not in file.entries:
            return
        x0 = file.input("sampler/x0")
        images = file.tensors["in/images"][: len(x0)]

        def in_float32(x: Tensor, t: Tensor) -> Tensor:
            return self.velocity(x.float(), t.float()).double()

        def as_published(x: Tensor, is_inverse: bool) -> Tensor:  # an inverse is extrapolated to t = 0
            return (x - t_min * images) / (1 - t_min) if is_inverse else x

        def adaptive(x: Tensor, is_inverse: bool) -> Tensor:
            ends = (1.0, t_min) if is_inverse else (t_min, 1.0)
            x, _ = integrate_rk45(lambda x, t, _: in_float32(x[0], t.expand(len(x0)))[None], x.double()[None], *ends)
            return as_published(x[0], is_inverse)

        def stepwise(x: Tensor, times: list[float], is_inverse: bool) -> Tensor:
            x = x.double()
            t = torch.tensor(times, dtype=torch.float64).unsqueeze(1).expand(-1, len(x))
            slope = in_float32(x, t[0])
            for start, end in pairwise(t):
                x, slopes = rk45_step(in_float32, x, slope, start, end - start)
                slope = slopes[-1]
            return as_published(x, is_inverse)

        starts = {"rk45": x0, "rk45_inverse": images, "rk45_reconstruction": file.tensors.get("sampler/rk45_inverse")}
        for kind, start in starts.items():
            name, is_inverse = f"sampler/{kind}", kind == "rk45_inverse"
            if name not in file.entries:
                continue
            result = adaptive(start, is_inverse)
            sensitivity = file.noise(name)
            if sensitivity is None:  # no note: ours, measured in the same way
                noise = 1e-6 * torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
                sensitivity = max_difference(adaptive(start + noise, is_inverse), result)
            file.compare(name, result, "RK45 sampler, adaptive", max(RK45, NOISE_FACTOR * sensitivity))
            if times := file.entries[name].get("times"):
                result = stepwise(start, times, is_inverse)
                file.compare(name, result, "RK45 sampler at the published steps", RK45)


def _layer_outputs(layers: list[nn.Module], run: Callable[[], Any]) -> list[Tensor]:
    """Returns the output of each layer in a run: of a residual block before its attention, of a norm before its activation."""
    outputs: dict[nn.Module, Tensor] = {}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> None:
        # The published layer is the norm alone.
        outputs[layer] = nn.GroupNorm.forward(layer, *inputs) if isinstance(layer, GroupNormSiLU) else result

    hooks = []
    for layer in layers:
        if (attention := getattr(layer, "attention", None)) is None:
            hooks.append(layer.register_forward_hook(record))
        else:
            hooks.append(
                attention.register_forward_pre_hook(
                    lambda _, args, layer=layer: outputs.__setitem__(layer, args[0].clone())
                )
            )
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return [outputs[layer] for layer in layers]
