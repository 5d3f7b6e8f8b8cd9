# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Parity checks of training iterations, with all random draws given. (Part of check_published_parity.py.)

A replay starts from a checkpoint with its optimizer, learning rates and moving averages: iteration `train` and, if the file has
them, `train1` and `train2`, with losses, gradients before clipping and the Adam step; and the averages after them (`ema3`).

The published latents are rounded: they are off by some 1e-4 (golden README), which carries into every number after them. How
far is measured: the same iterations run again, from noise that moves the latents by as much. A number may be off by its own
tolerance ([`_Limits`]), or by SPREAD times what these runs differ by.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from parity_models import REVERSE_LATENTS, Outputs, label_flow, latent_flow
from parity_report import FLOAT32_EPS, NOISE_FACTOR, GoldenFile
from torch import Tensor

from lzn_hf import LZNModel
from lzn_hf.commands.published_checkpoint import PARTS, PREFIX, published_weights
from lzn_hf.commands.published_format import published_entries, to_ours, to_published
from lzn_hf.distributed_lzn import log_label_frequencies
from lzn_hf.latent_zones import alignment_loss, compute_latents, trace_assignments
from lzn_hf.training.models import PartwiseEMA, model_parts


LOSS = 1e-4  # relative
GRADIENT_NORM = 1e-3  # relative; also of a step of Adam, in units of the learning rate
SPREAD = 3
NUM_PROBES = 4
# Published gradients are rounded, too, by this fraction of the largest norm. Some consist of nothing else: the loss does not
# depend on a bias that moves all anchors alike, in front of a normalization, or of an attention key. Adam divides a gradient by
# its size, so the step has the same relative error, and rounding alone becomes steps of the learning rate.
ROUNDED_GRADIENT = 2e-5
# Tensors with one number for each parameter, each with a limit of its own.
PER_PARAMETER = ("grad_norms", "param_delta_norms", "norms", "sums")


class Replay:
    """A published training run from its checkpoint on: model, Adam, learning rates and moving averages."""

    def __init__(self, outputs: Outputs, dtype: torch.dtype = torch.float32) -> None:
        self.file, self.config, checkpoint = outputs.file, outputs.config, outputs.checkpoint
        self.published: dict[str, Any] = outputs.file.header["config"]
        self.iteration: int = checkpoint["iteration"]
        self.model: LZNModel = outputs.model("raw").to(dtype).train()
        self.names = {parameter: name for name, parameter in self.model.named_parameters()}
        # by their published names: lzn_hf says `label_anchors`
        parts = dict(zip(PARTS, model_parts(self.model).values(), strict=False))
        saved_groups = checkpoint["optimizer"]["param_groups"]
        self.optimizer = torch.optim.Adam(
            [
                {"params": parameters, "lr": saved["lr"]}
                for parameters, saved in zip(parts.values(), saved_groups, strict=True)
            ]
        )
        self._load_moments(checkpoint["optimizer"]["state"])
        self.scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer, **self.published["lr_scheduler"]["params"])
        self.scheduler.load_state_dict(checkpoint["lr_scheduler"])
        for group, saved in zip(self.optimizer.param_groups, saved_groups, strict=True):
            group |= {name: value for name, value in saved.items() if name != "params"}
        self.ema = PartwiseEMA(parts, decay=0.0)
        if "encoder_ema" in checkpoint:
            averages = to_ours(self.config, published_weights(checkpoint, self.config, "ema"))
            for part, parameters in parts.items():
                saved, average = checkpoint[f"{part}_ema"], self.ema.averages[part]
                average.decay = saved["decay"]
                if saved["num_updates"] is None:  # no warm-up
                    average.min_decay = saved["decay"]
                else:
                    average.optimization_step = saved["num_updates"]
                average.shadow_params = [averages[self.names[p]].to(p.dtype, copy=True) for p in parameters]

    def _load_moments(self, state: Mapping[int, Mapping[str, Any]]) -> None:
        """Loads the moments, which the checkpoint has by a running index over all parameters in their published order."""
        entries = published_entries(self.config)
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors: dict[str, dict[str, Tensor]] = {}
            for index, entry in enumerate(entries):
                if index in state:
                    tensors.setdefault(entry.part, {})[entry.key] = state[index][moment]
            ours = to_ours(self.config, tensors)
            for parameter, name in self.names.items():
                if name in ours:  # a compact golden folder has the state of some parameters only
                    self.optimizer.state[parameter][moment] = ours[name].to(parameter.dtype, copy=True)
                    (step,) = {float(value["step"]) for value in state.values()}
                    self.optimizer.state[parameter]["step"] = torch.tensor(step)

    def run(self, prefix: str, noise: Tensor) -> dict[str, Tensor]:
        """Runs one iteration on the inputs of a prefix, the prior moved by `noise`. Returns its numbers by golden names."""
        is_contrastive = self.config.decoder_type is None
        limits = {part: self.published["training"].get(f"num_{part}_iterations", torch.inf) for part in PARTS}
        enabled = {f"metric/{part}_enabled": torch.tensor(float(self.iteration < limits[part])) for part in PARTS}
        loss, numbers = (self._contrastive_loss if is_contrastive else self._generation_loss)(prefix, noise)
        self.optimizer.zero_grad()
        loss.backward()
        gradients = self._by_published_name({name: parameter.grad.clone() for parameter, name in self.names.items()})
        before = self._by_published_name({name: parameter.detach().clone() for parameter, name in self.names.items()})
        rates = [group["lr"] for group in self.optimizer.param_groups]
        norm = torch.nn.utils.clip_grad_norm_(list(self.names), self.published["training"]["gradient_clipping"])
        self.optimizer.step()
        self.scheduler.step()
        self.ema.step()
        self.iteration += 1
        after = self._by_published_name({name: parameter.detach() for parameter, name in self.names.items()})
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

    def _generation_loss(self, prefix: str, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss of [`LZNModel.forward`] itself, and the numbers on the way to it."""
        given = {name: self.file.input(f"{prefix}/in/{name}") for name in ("data", "label", "prior", "t", "x0")}
        labels = given["label"] if self.config.num_labels else None
        data, x0, t = (given[name].to(self.model.dtype) for name in ("data", "x0", "t"))
        output = self.model(data, labels, return_loss=True, noise=given["prior"] + noise, sample_noise=x0, timesteps=t)
        xt = t.view(-1, 1, 1, 1) * data + (1 - t.view(-1, 1, 1, 1)) * x0
        with torch.no_grad():
            velocity = self.model.predict_velocity(xt, t, output.latents, labels)
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
                "class_weights": log_label_frequencies(labels, self.config.num_labels).exp(),
                "label_prob": output.label_log_probs.exp(),
                "metric/loss/label/label": output.alignment_loss,
            }
        return output.loss, numbers

    def _contrastive_loss(self, prefix: str, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Aligns latents of the first view's anchors with the second view's anchors."""
        where = f"{prefix}/" if f"{prefix}/in/data" in self.file.entries else ""  # `train` shares those of the outputs
        data, prior = (self.file.input(f"{where}in/{name}") for name in ("data", "prior"))
        scale = self.published["training"]["prior_data_scale"]
        sources, targets = (self.model.get_image_anchors(view.to(self.model.dtype)) for view in data.unbind(1))
        latents = compute_latents(sources, scale * prior + noise, **latent_flow(self.config))
        own = torch.arange(len(targets))
        points, log_probs = trace_assignments(latents, targets, own, **label_flow(self.config))
        losses = {name: alignment_loss(log_probs, self.config.step_cutoff, name) for name in ("prob", "log_prob")}
        nearest = targets[torch.cdist(points, targets).argmin(-1)]
        numbers = {
            "metric/loss/prob": losses["prob"],
            "metric/loss/cross_entropy": losses["log_prob"],
            "metric/assignment_acc": log_probs[-1].exp().mean(),
            "metric/ode_error": ((points - nearest).norm(dim=-1) / nearest.norm(dim=-1)).mean(),
        }
        return self.config.alignment_weight * losses[self.config.alignment_reduction], numbers

    def _by_published_name(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        published = to_published(self.config, tensors)
        return {f"{part}.{PREFIX}{key}": value for part, keys in published.items() for key, value in keys.items()}

    def _norms(self, prefix: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """Returns norms in the golden order; NaN for what is not trained."""
        keys = self.file.entries.get(f"{prefix}/grad_norms", {}).get("keys", ())
        return torch.tensor([tensors[key].norm().item() if key in tensors else torch.nan for key in keys])

    def averages(self) -> dict[str, Tensor]:
        """Returns the moving averages by golden names. Their lists leave out what is not trained."""
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


def check_training(file: GoldenFile) -> None:
    """Checks all training iterations of a file, and the moving averages after them."""
    iterations = sorted({match[0] for name in file.entries if (match := re.match(r"train\d*", name))})
    if not iterations:
        return
    outputs = Outputs(file)
    shape = file.tensors["train/latent" if "train/latent" in file.entries else "latent"].shape

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
        group, limit = limits.of(name)
        spread = torch.stack([(probe[name] - value).abs() for probe in probes]).amax(0).nan_to_num()
        if name.rpartition("/")[2] not in PER_PARAMETER:
            file.compare(name, value, group, max(limit.item(), SPREAD * spread.amax().item()))
            continue
        golden = file.tensors[name].double()
        same = (value == golden) | (value.isnan() & golden.isnan()) | (value.isnan() & (golden == 0))
        fraction = (value - golden).abs() / torch.maximum(limit, SPREAD * spread)
        file.check(name, group, torch.where(same, 0.0, fraction).nan_to_num(nan=torch.inf).max().item(), 1.0)


def _rounding_of_latents(outputs: Outputs, ours: Mapping[str, Tensor]) -> float:
    """Returns the root mean square difference of the published float32 latents of the first iteration from ours."""
    file = outputs.file
    if "train/latent" in file.entries:
        return (ours["train/latent"] - file.tensors["train/latent"]).square().mean().sqrt().item()
    prior = file.header["config"]["training"]["prior_data_scale"] * file.input("in/prior")
    latents = compute_latents(file.tensors["encoder/head_view0"], prior, **latent_flow(outputs.config))
    return (latents - file.tensors["latent"]).square().mean().sqrt().item()


class _Limits:
    """How far each number may be off if rounded latents change nothing, and its row of the table."""

    def __init__(
        self, outputs: Outputs, iterations: list[str], ours: Mapping[str, Tensor], exact: Mapping[str, Tensor]
    ) -> None:
        self.file = outputs.file
        self.trainable = [f"{e.part}.{PREFIX}{e.key}" for e in published_entries(outputs.config) if e.trainable]
        grads = {key: exact[f"{iterations[0]}/grad/{key}"] for key in self.trainable}
        self.sizes = {key: grad.numel() for key, grad in grads.items()}
        norms = {key: grad.norm().item() for key, grad in grads.items()}
        self.rounding = ROUNDED_GRADIENT * max(norms.values())
        # of a gradient, and of a step of Adam: two steps that should be equal are at most opposite
        self.relative = {
            key: min(2.0, max(GRADIENT_NORM, self.rounding / max(norm, 1e-300))) for key, norm in norms.items()
        }
        # Sum of the learning rates up to each iteration, by part. The averages come after the last one.
        totals = torch.stack([ours[f"{prefix}/metric/lr"] for prefix in iterations]).cumsum(0).tolist()
        self.rates = {
            prefix: dict(zip(PARTS, total, strict=False)) for prefix, total in zip(iterations, totals, strict=True)
        }
        self.rates["ema3"] = self.rates[iterations[-1]]

    def _step(self, prefix: str, key: str, power: float = 0.0) -> float:
        """Returns how far a parameter may be off after Adam: an element, or by powers 1/2 and 1 its norm and its sum."""
        if key not in self.sizes:
            return 0.0
        return self.relative[key] * self.rates[prefix][key.partition(".")[0]] * self.sizes[key] ** power

    def of(self, name: str) -> tuple[str, Tensor]:
        """Returns the row of the table and the limit, one number or one for each parameter."""
        scale, golden, prefix = self.file.scale(name), self.file.tensors[name].double(), name.partition("/")[0]
        kind, key = name.removeprefix(f"{prefix}/").partition("/")[::2]
        if prefix == "ema3":
            return "averages after the iterations", self._of_average(name, golden.abs() * FLOAT32_EPS)
        if kind == "metric":
            relative = {"gradient_norm": GRADIENT_NORM, "lr": 1e-12, "ode_error": LOSS / max(scale, 1e-30)}
            is_exact = key.endswith(("_enabled", "is_finite", "grad_scale"))
            limit = 0.0 if is_exact else relative.get(key, LOSS) * scale
            return "losses and state of an iteration", torch.tensor(limit)
        if kind == "grad":
            return "gradients", torch.tensor(max(GRADIENT_NORM * scale, self.rounding))
        if kind == "grad_norms":
            limit = (GRADIENT_NORM * golden.nan_to_num()).clamp(min=self.rounding)
            return "gradient norms, as fractions of their limit", limit
        if kind == "new_param":
            return "parameters after Adam", torch.tensor(self._step(prefix, key) + FLOAT32_EPS * scale)
        if kind == "param_delta_norms":
            steps = [self._step(prefix, key, 0.5) for key in self.file.entries[name]["keys"]]
            return "steps of Adam, as fractions of their limit", torch.tensor(steps, dtype=torch.float64)
        like = {"anchor": "encoder/anchor", "latent": "latent_from_data"}.get(kind, "decoder/velocity")
        limit = {"class_weights": 1e-6, "label_prob": REVERSE_LATENTS, "recon_per_sample": LOSS * scale}
        return "iteration", torch.tensor(limit.get(kind, NOISE_FACTOR * (self.file.noise(like) or 0.0)))

    def _of_average(self, name: str, rounding: Tensor) -> Tensor:
        part = next((part for part in PARTS if name.startswith(f"ema3/{part}/")), PARTS[0])
        keys = [key for key in self.trainable if key.startswith(f"{part}.")]
        kind = name.rpartition("/")[2]
        if kind in ("norms", "sums"):
            power = {"norms": 0.5, "sums": 1.0}[kind]
            return rounding + torch.tensor([self._step("ema3", key, power) for key in keys], dtype=torch.float64)
        return rounding.amax() + self._step("ema3", keys[int(kind)])
