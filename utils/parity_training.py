# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Parity checks of training iterations, with all random draws given. (Part of check_published_parity.py.)

From a checkpoint with its optimizer, learning rates and moving averages: iteration `train` and, if the file has them, `train1`
and `train2` with losses, gradients before clipping and the Adam step; and the moving averages after all of them (`ema3`).

The published latents are rounded: they are off by some 1e-4 (golden README), which goes into every number after them. How far
that carries is measured: the same iterations run again, from noise that moves the latents by as much. A number may be off by
its own tolerance, or by SPREAD times what these runs differ by.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from convert_original_checkpoint import published_weights
from parity_models import NOISE_FACTOR, REVERSE_LATENTS, Outputs, latent_flow
from parity_report import Check, GoldenFile
from published_format import published_entries, to_ours, to_published
from torch import Tensor

from lzn_hf import LZNModel
from lzn_hf.distributed_lzn import log_label_frequencies
from lzn_hf.latent_zones import alignment_loss, compute_latents, trace_assignments
from lzn_hf.training.models import PartwiseEMA, model_parts


LOSS = 1e-4  # relative
GRADIENT_NORM = 1e-3  # relative; also of a step of Adam, in units of the learning rate
SPREAD = 3
NUM_PROBES = 4
FLOAT32_EPS = 1.2e-7
# Published gradients are rounded, too, by this share of the largest norm. That is all that there is of some: the loss does not depend on a
# bias that moves all anchors alike, in front of a normalisation, or of an attention key. Adam, which divides a gradient by its
# size, turns its relative error into as large a one of a step, and rounding alone into steps of the learning rate.
ROUNDED_GRADIENT = 2e-5
PREFIX = "model.module."
PARTS = ("encoder", "decoder", "label_anchor")


class Replay:
    """A published training run from its checkpoint on: model, Adam, learning rates and moving averages."""

    def __init__(self, outputs: Outputs, dtype: torch.dtype = torch.float32) -> None:
        self.outputs, self.config = outputs, outputs.config
        checkpoint, published = outputs.checkpoint, outputs.file.header["config"]
        self.model: LZNModel = outputs.model("raw").to(dtype).train()
        self.published = published
        self.iteration: int = checkpoint["iteration"]
        parts = model_parts(self.model)
        groups = [
            {"params": parameters, "lr": group["lr"]}
            for parameters, group in zip(parts.values(), checkpoint["optimizer"]["param_groups"], strict=True)
        ]
        self.optimizer = torch.optim.Adam(groups)
        self.names = {parameter: name for name, parameter in self.model.named_parameters()}
        self._load_moments(checkpoint["optimizer"]["state"])
        self.scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer, **published["lr_scheduler"]["params"])
        self.scheduler.load_state_dict(checkpoint["lr_scheduler"])
        for group, saved in zip(self.optimizer.param_groups, checkpoint["optimizer"]["param_groups"], strict=True):
            group |= {name: value for name, value in saved.items() if name != "params"}
        self.ema = self._moving_averages(checkpoint, parts)

    def _load_moments(self, state: Mapping[int, Mapping[str, Any]]) -> None:
        """Adam's moments, which the checkpoint has by a running index over all parameters in their published order."""
        entries = published_entries(self.config)
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors: dict[str, dict[str, Tensor]] = {}
            for index, entry in enumerate(entries):
                if index in state:
                    tensors.setdefault(entry.part, {})[entry.key] = state[index][moment]
            ours = to_ours(self.config, tensors)
            for parameter, name in self.names.items():
                self.optimizer.state[parameter][moment] = ours[name].to(parameter.dtype, copy=True)
        steps = {float(value["step"]) for value in state.values()}
        for parameter in self.names:
            (step,) = steps
            self.optimizer.state[parameter]["step"] = torch.tensor(step)

    def _moving_averages(self, checkpoint: Mapping[str, Any], parts: Mapping[str, list]) -> PartwiseEMA:
        """The moving averages of lzn_hf, set to those of the checkpoint."""
        ema = PartwiseEMA(parts, decay=0.0)
        if "encoder_ema" not in checkpoint:
            return ema  # of the raw weights, and compared with nothing
        averages = to_ours(self.config, published_weights(checkpoint, self.config, "ema"))
        for (name, parameters), part in zip(parts.items(), PARTS, strict=True):
            saved = checkpoint[f"{part}_ema"]
            ema.averages[name].decay = saved["decay"]
            if saved["num_updates"] is None:  # no warm-up
                ema.averages[name].min_decay = saved["decay"]
            else:
                ema.averages[name].optimization_step = saved["num_updates"]
            ema.averages[name].shadow_params = [averages[self.names[p]].to(p.dtype, copy=True) for p in parameters]
        return ema

    def by_published_name(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by our name to tensors by part, prefix and key, as the golden files name them."""
        published = to_published(self.config, tensors)
        return {f"{part}.{PREFIX}{key}": value for part, keys in published.items() for key, value in keys.items()}

    def run(self, prefix: str, noise: Tensor) -> dict[str, Tensor]:
        """One iteration with the inputs of that prefix, the prior moved by `noise`: its numbers by their golden names."""
        is_contrastive = self.config.decoder_type is None
        limits = {part: self.published["training"].get(f"num_{part}_iterations", torch.inf) for part in PARTS}
        enabled = {f"metric/{part}_enabled": torch.tensor(float(self.iteration < limits[part])) for part in PARTS}
        loss, numbers = (_contrastive_losses if is_contrastive else _generation_losses)(self, prefix, noise)
        self.optimizer.zero_grad()
        loss.backward()
        gradients = self.by_published_name({name: parameter.grad.clone() for parameter, name in self.names.items()})
        before = self.by_published_name({name: parameter.detach().clone() for parameter, name in self.names.items()})
        rates = [group["lr"] for group in self.optimizer.param_groups]
        norm = torch.nn.utils.clip_grad_norm_(list(self.names), self.published["training"]["gradient_clipping"])
        self.optimizer.step()
        self.scheduler.step()
        self.ema.step()
        self.iteration += 1
        after = self.by_published_name({name: parameter.detach() for parameter, name in self.names.items()})
        numbers |= {
            **enabled,
            "metric/loss/total": loss,
            "metric/gradient_norm": norm,
            "metric/lr": torch.tensor(rates, dtype=torch.float64),
            "metric/is_finite": torch.isfinite(norm).double(),
            "metric/grad_scale": torch.tensor(1.0),  # nothing is scaled in full precision
            **{f"grad/{key}": value for key, value in gradients.items()},
            **{f"new_param/{key}": value.clone() for key, value in after.items()},
            "grad_norms": self._norms(prefix, gradients),
            "param_delta_norms": self._norms(prefix, {key: after[key] - before[key] for key in after}),
        }
        return {f"{prefix}/{name}": value.detach().double() for name, value in numbers.items()}

    def _norms(self, prefix: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """Norms in the golden order; NaN for what is not trained."""
        keys = self.outputs.file.entries.get(f"{prefix}/grad_norms", {}).get("keys", ())
        return torch.tensor([tensors[key].norm().item() if key in tensors else torch.nan for key in keys])

    def averages(self) -> dict[str, Tensor]:
        """The moving averages, whose lists leave out what is not trained, by their golden names."""
        averages = {
            self.names[parameter]: shadow
            for part, parameters in self.ema.parts.items()
            for parameter, shadow in zip(parameters, self.ema.averages[part].shadow_params, strict=True)
        }
        published, numbers = to_published(self.config, averages), {}
        for part, shadows in published.items():
            prefix = "ema3" if len(published) == 1 else f"ema3/{part}"
            values = [value.double().clone() for value in shadows.values()]
            numbers |= {f"{prefix}/shadow/{i}": value for i, value in enumerate(values)}
            numbers[f"{prefix}/norms"] = torch.stack([value.norm() for value in values])
            numbers[f"{prefix}/sums"] = torch.stack([value.sum() for value in values])
        return numbers


def _generation_losses(replay: Replay, prefix: str, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of lzn_hf itself, [`LZNModel.forward`], and the numbers on the way to it."""
    file, config = replay.outputs.file, replay.config
    given = {name: file.input(f"{prefix}/in/{name}") for name in ("data", "label", "prior", "t", "x0")}
    labels = given["label"] if config.num_labels else None
    data, x0, t = (given[name].to(replay.model.dtype) for name in ("data", "x0", "t"))
    output = replay.model(data, labels, return_loss=True, noise=given["prior"] + noise, sample_noise=x0, timesteps=t)
    xt = t.view(-1, 1, 1, 1) * data + (1 - t.view(-1, 1, 1, 1)) * x0
    with torch.no_grad():
        velocity = replay.model.predict_velocity(xt, t, output.latents, labels)
    numbers = {
        "xt": xt,
        "anchor": output.anchors,
        "latent": output.latents,
        "velocity": velocity,
        "x1_hat": x0 + velocity,
        "recon_per_sample": (data - x0 - velocity).square().mean((1, 2, 3)),
        "metric/loss/l2/recon": output.reconstruction_loss,
    }
    if labels is not None:
        numbers |= {
            "class_weights": log_label_frequencies(labels, config.num_labels).exp(),
            "label_prob": output.label_log_probs.exp(),
            "metric/loss/label/label": output.alignment_loss,
        }
    return output.loss, numbers


def _contrastive_losses(replay: Replay, prefix: str, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents of the first view's anchors, aligned with the second view's."""
    file, config = replay.outputs.file, replay.config
    where = f"{prefix}/" if f"{prefix}/in/data" in file.entries else ""  # the first iteration has those of the outputs
    data, prior = (file.input(f"{where}in/{name}") for name in ("data", "prior"))
    scale = replay.published["training"]["prior_data_scale"]
    sources, targets = (replay.model.get_image_anchors(view.to(replay.model.dtype)) for view in data.unbind(1))
    latents = compute_latents(sources, scale * prior + noise, **latent_flow(config))
    solver = {"solver": config.alignment_solver, "num_steps": config.alignment_num_steps}
    points, log_probs = trace_assignments(latents, targets, torch.arange(len(targets)), **solver)
    losses = {name: alignment_loss(log_probs, config.step_cutoff, name) for name in ("prob", "log_prob")}
    nearest = targets[torch.cdist(points, targets).argmin(-1)]
    numbers = {
        "metric/loss/prob": losses["prob"],
        "metric/loss/cross_entropy": losses["log_prob"],
        "metric/assignment_acc": log_probs[-1].exp().mean(),
        "metric/ode_error": ((points - nearest).norm(dim=-1) / nearest.norm(dim=-1)).mean(),
    }
    return config.alignment_weight * losses[config.alignment_reduction], numbers


def check_training(file: GoldenFile) -> list[Check]:
    """All training iterations of a file, and the moving averages after them."""
    iterations = sorted({match[0] for name in file.entries if (match := re.match(r"train\d*", name))})
    if not iterations:
        return []
    outputs = Outputs(file)
    latent = "train/latent" if "train/latent" in file.entries else "latent"
    shape = file.tensors[latent].shape

    def run(noise: float, seed: int) -> dict[str, Tensor]:
        replay, generator = Replay(outputs), torch.Generator().manual_seed(seed)
        numbers: dict[str, Tensor] = {}
        for prefix in iterations:
            numbers |= replay.run(prefix, noise * torch.randn(shape, generator=generator))
        return numbers | replay.averages()

    ours = run(0.0, 0)
    rounding = _rounding_of_latents(outputs, ours)
    probes = [run(rounding, seed) for seed in range(1, NUM_PROBES + 1)]
    exact = Replay(outputs, torch.float64).run(iterations[0], torch.zeros(shape))
    limits = _Limits(outputs, iterations, ours, exact)
    for name, value in ours.items():
        if name not in file.entries:
            continue
        spread = torch.stack([(probe[name] - value).abs() for probe in probes]).amax(0).nan_to_num()
        golden = file.tensors[name].double()
        each = name.rpartition("/")[2] in ("grad_norms", "param_delta_norms", "norms", "sums")
        limit = torch.maximum(limits.of(name), SPREAD * (spread if each else spread.amax()))
        if each:  # one number a parameter, each with its limit: the largest share of it
            same = (value == golden) | (value.isnan() & golden.isnan()) | (value.isnan() & (golden == 0))
            error = torch.where(same, 0.0, (value - golden).abs() / limit).nan_to_num(nan=torch.inf)
            outputs.checks.append(Check(file.name, name, limits.group(name), error.max().item(), 1.0))
        else:
            outputs.compare(name, value, limits.group(name), limit.item())
    return outputs.checks


def _rounding_of_latents(outputs: Outputs, ours: Mapping[str, Tensor]) -> float:
    """Root mean square difference of the published float32 latents of the first iteration from ours."""
    file = outputs.file
    if "train/latent" in file.entries:
        return (ours["train/latent"] - file.tensors["train/latent"]).square().mean().sqrt().item()
    prior = outputs.file.header["config"]["training"]["prior_data_scale"] * file.input("in/prior")
    latents = compute_latents(file.tensors["encoder/head_view0"], prior, **latent_flow(outputs.config))
    return (latents - file.tensors["latent"]).square().mean().sqrt().item()


class _Limits:
    """How far each number may be off if rounded latents change nothing, and the row of the table that it is in."""

    def __init__(
        self, outputs: Outputs, iterations: list[str], ours: Mapping[str, Tensor], exact: Mapping[str, Tensor]
    ) -> None:
        self.outputs, self.file = outputs, outputs.file
        prefix = f"{iterations[0]}/grad/"
        norms = {name.removeprefix(prefix): v.norm().item() for name, v in exact.items() if name.startswith(prefix)}
        self.rounding = ROUNDED_GRADIENT * max(norms.values())
        # of the gradient of a parameter, and of a step of Adam: two steps that should be equal are at most opposite
        self.relative = {
            key: min(2.0, max(GRADIENT_NORM, self.rounding / max(norm, 1e-300))) for key, norm in norms.items()
        }
        self.sizes = {name.removeprefix(prefix): v.numel() for name, v in exact.items() if name.startswith(prefix)}
        rates = {prefix: ours[f"{prefix}/metric/lr"].tolist() for prefix in iterations}
        # The sum of the learning rates up to each iteration, by part; the averages come after the last one.
        self.rates: dict[str, dict[str, float]] = {}
        total = [0.0] * len(rates[iterations[0]])
        for prefix in iterations:
            total = [a + b for a, b in zip(total, rates[prefix], strict=True)]
            self.rates[prefix] = dict(zip(PARTS, total, strict=True))
        self.rates["ema3"] = self.rates[iterations[-1]]

    def step(self, prefix: str, key: str) -> float:
        """How far an element of a parameter may be off after Adam."""
        return self.relative[key] * self.rates[prefix][key.partition(".")[0]]

    def group(self, name: str) -> str:
        prefix, kind, *_ = f"{name}//".split("/")
        if prefix == "ema3":
            return "averages after the iterations"
        kinds = {
            "metric": "losses and state of an iteration",
            "grad": "gradients",
            "grad_norms": "gradient norms, in shares of their limit",
            "new_param": "parameters after Adam",
            "param_delta_norms": "steps of Adam, in shares of their limit",
        }
        return kinds.get(kind, "iteration")

    def of(self, name: str) -> Tensor:
        file, scale = self.file, self.file.scale(name)
        prefix, rest = name.partition("/")[::2]
        keys = [f"{part}.{PREFIX}{key}" for part, keys in self._published().items() for key in keys]
        if prefix == "ema3":
            part = next((part for part in PARTS if rest.startswith(f"{part}/")), PARTS[0])
            keys = [key for key in keys if key.startswith(f"{part}.")]
            values = file.tensors[name].double().abs() * FLOAT32_EPS
            if rest.endswith(("norms", "sums")):
                power = 1.0 if rest.endswith("sums") else 0.5
                steps = [self.step(prefix, key) * self.sizes[key] ** power for key in keys]
                return values + torch.tensor(steps, dtype=torch.float64)
            return values.amax() + self.step(prefix, keys[int(rest.rpartition("/")[2])])
        if rest in ("grad_norms", "param_delta_norms"):
            keys, norms = file.entries[name]["keys"], file.tensors[name].double().nan_to_num()
            if rest == "grad_norms":
                return (GRADIENT_NORM * norms).clamp(min=self.rounding)
            return torch.tensor(
                [self.step(prefix, key) * self.sizes[key] ** 0.5 if key in self.sizes else 0.0 for key in keys]
            )
        kind, _, key = rest.partition("/")
        if kind == "grad":
            return torch.tensor(max(GRADIENT_NORM * scale, self.rounding))
        if kind == "new_param":
            return torch.tensor(self.step(prefix, key) + FLOAT32_EPS * scale)
        if kind == "metric":
            relative = {"gradient_norm": GRADIENT_NORM, "lr": 1e-12, "ode_error": LOSS / max(scale, 1e-30)}
            exact = key.endswith(("_enabled", "is_finite", "grad_scale"))
            return torch.tensor(0.0 if exact else relative.get(key, LOSS) * scale)
        like = {"anchor": "encoder/anchor", "latent": "latent_from_data"}.get(rest, "decoder/velocity")
        limit = {"class_weights": 1e-6, "label_prob": REVERSE_LATENTS, "recon_per_sample": LOSS * scale}
        return torch.tensor(limit.get(rest, NOISE_FACTOR * (file.noise(like) or 0.0)))

    def _published(self) -> dict[str, list[str]]:
        published: dict[str, list[str]] = {}
        for entry in published_entries(self.outputs.config):
            if entry.trainable:
                published.setdefault(entry.part, []).append(entry.key)
        return published
