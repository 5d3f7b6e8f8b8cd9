# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Parity checks of latent flows, moving averages and single layers. (Part of check_published_parity.py.)

Each function adds the checks of one file of a golden folder, which says what sets, solvers, steps and layers there are, and
their sizes.

In a golden folder time runs from 0 at the anchor to 1 at the noise. It is `tau` here, to tell it from `t = 1 - tau`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from parity_report import (
    FLOAT32_EPS,
    NOISE_FACTOR,
    GoldenFile,
    log_weights,
    max_difference,
    unnormalized,
)
from torch import Tensor, nn

from lzn_hf.latent_schedules import DPM_EPS, EULER_EPS, published_schedule
from lzn_hf.latent_zones import compute_latents, trace_assignments
from lzn_hf.layers_ncsnpp import (
    AttentionBlock,
    FourierEmbedding,
    InputSkip,
    ResidualBlock,
    downsample,
    group_norm,
    timestep_embedding,
    upsample,
)
from lzn_hf.layers_scaled import ScaledLinear
from lzn_hf.networks_resnet import Bottleneck, ProjectionHead
from lzn_hf.training.models import PartwiseEMA


FLOW_RUN = re.compile(r"(?P<set>.+)/(?P<dtype>f32|f64)/(?P<flow>(euler|dpm)/(fwd|fwd_subset|rev|rev_w)\d+|velocity)/")
FLOW_INPUTS = ("anchors", "prior", "cotangent", "subset_idx", "rev_init", "rev_target", "rev_weights", "rev_cotangent")
FLOW_SOLVERS = {"euler": "euler", "dpm": "dpmsolver++"}
# Hyper-parameters of the solvers in lzn_hf.latent_zones. A golden flow with others is another flow.
FLOW_HYPER = {
    "euler": {"eps": EULER_EPS},
    "dpm": {
        "algorithm_type": "dpmsolver++",
        "method": "multistep",
        "solver_type": "dpmsolver",
        "skip_type": "time_uniform",
        "order": 3,
        "lower_order_final": True,
        "denoise": False,
        "thresholding": False,
        "eps_start": DPM_EPS,
        "eps_end": DPM_EPS,
    },
}
STEP_CUTOFF = 0.2  # the loss of a reverse flow starts at step int(0.2 * steps)

FIR_KERNEL = [1.0, 3.0, 3.0, 1.0]  # of layers whose description names no other
# Layers of variants that lzn_hf does not support, by the beginning of their names.
UNSUPPORTED_LAYERS = {
    "ddpm": "ddpm blocks",
    "downsample_": "resampling by a strided convolution (ddpm blocks, residual pyramids)",
    "upsample_": "resampling by a strided convolution (ddpm blocks, residual pyramids)",
    "resnet_bottleneck_sk": "selective-kernel ResNet",
}


# --- Latent flows ----------------------------------------------------------------------------------------------------------


def check_latent_flow(file: GoldenFile) -> None:
    """Checks all flows and velocities: float64 to 1e-9 of the largest magnitude, float32 closer than the published float32.

    A float32 run starts from inputs rounded to float32. Its error and that of the published run are both taken against the
    float64 golden, and the published error is the tolerance, except for what no float32 run can avoid: the effect of rounding
    inputs and result. (Without a float64 twin: 10 times the largest relative noise note in the run.)
    """
    for solver, hyper in FLOW_HYPER.items():
        given = {key: file.header[f"{solver}_hyper"].get(key) for key in hyper}
        file.check(f"{solver}_hyper in the header", "flow hyper-parameters", given != hyper)
    for prefix in dict.fromkeys(match[0] for name in file.entries if (match := FLOW_RUN.match(name))):
        set_name, dtype, flow = FLOW_RUN.match(prefix).group("set", "dtype", "flow")
        exact = {name: file.input(f"{set_name}/{name}") for name in FLOW_INPUTS}
        quantities = [name.removeprefix(prefix) for name in file.entries if name.startswith(prefix)]
        group = f"flow {dtype} {flow.rstrip('0123456789')}"
        in_float64 = _run_flow(file, flow, exact, quantities)
        if dtype == "f64":
            for quantity, result in in_float64.items():
                file.compare_float64(prefix + quantity, result, group)
            continue
        rounded = _cast(exact, torch.float32)
        closest = _run_flow(file, flow, _cast(rounded, torch.float64), quantities)
        for quantity, result in _run_flow(file, flow, rounded, quantities).items():
            name = prefix + quantity
            twin = file.tensors.get(name.replace("/f32/", "/f64/"))
            if twin is None:
                noise = max((file.noise(prefix + other) or 0) / file.scale(prefix + other) for other in quantities)
                file.compare(name, result, group, NOISE_FACTOR * noise * file.scale(name))
                continue
            error, published_error = max_difference(result, twin), max_difference(file.tensors[name], twin)
            unavoidable = max_difference(closest[quantity], in_float64[quantity]) + FLOAT32_EPS * file.scale(name)
            if published_error < error <= unavoidable:
                file.check(name, "flow f32, as close as rounded inputs allow", error, unavoidable)
            else:
                file.check(name, group, error, published_error)


def _cast(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def _run_flow(file: GoldenFile, flow: str, inputs: dict[str, Tensor], quantities: list[str]) -> dict[str, Tensor]:
    """Runs a flow from inputs in float32 or float64. Returns the quantities that are asked for and have a check."""
    if flow == "velocity":
        taus = next(
            _listed_numbers(entry["doc"]) for name, entry in file.entries.items() if name.endswith("/velocity/v")
        )
        results = _velocities(inputs, taus)
    else:
        solver, kind, steps = re.fullmatch(r"(\w+)/(\w+?)(\d+)", flow).groups()
        run = _reverse_flow if kind.startswith("rev") else _forward_flow
        results = run(inputs, solver, kind, int(steps), "traj" in quantities)
    return {quantity: results[quantity].detach() for quantity in quantities if quantity in results}


def _forward_flow(
    inputs: dict[str, Tensor], solver: str, kind: str, steps: int, with_trajectory: bool
) -> dict[str, Tensor]:
    """Goes from anchors to latents."""
    anchors = inputs["anchors"].clone().requires_grad_()
    rows = inputs["subset_idx"] if kind == "fwd_subset" else torch.arange(len(anchors))
    noise = inputs["prior"][rows]
    out = compute_latents(anchors[rows], noise, anchors, solver=FLOW_SOLVERS[solver], num_steps=steps)
    (grad,) = torch.autograd.grad((out * inputs["cotangent"][rows]).sum(), anchors)
    results = {"out": out, "grad": grad}
    if with_trajectory:
        anchors = inputs["anchors"].double()

        def expected_anchor(step: int, tau: float, x: Tensor) -> Tensor:
            return _posterior(anchors, rows, (x - (1 - tau) * anchors[rows]) / tau, tau) @ anchors

        eps = {"euler": EULER_EPS, "dpm": DPM_EPS}[solver]
        start = eps * noise.double() + (1 - eps) * anchors[rows]
        results["traj"] = _trajectory(solver, steps, False, start, expected_anchor)
    return results


def _reverse_flow(
    inputs: dict[str, Tensor], solver: str, kind: str, steps: int, with_trajectory: bool
) -> dict[str, Tensor]:
    """Goes from latents towards anchors."""
    anchors, init = inputs["anchors"].clone().requires_grad_(), inputs["rev_init"].clone().requires_grad_()
    weights = inputs["rev_weights"] if kind == "rev_w" else torch.ones_like(inputs["rev_weights"])
    final, log_probs = trace_assignments(
        init, anchors, log_weights=log_weights(weights), solver=FLOW_SOLVERS[solver], num_steps=steps
    )
    late = log_probs[int(STEP_CUTOFF * steps) :, torch.arange(len(init)), inputs["rev_target"]]
    # summed in float64: the sum is no part of the flow
    loss = (final.double() * inputs["rev_cotangent"].double()).sum() + late.double().amax(0).mean()
    grad_anchors, grad_init = torch.autograd.grad(loss, (anchors, init))
    probs = log_probs.detach().exp()
    pdfs = unnormalized(log_probs, weights)
    results = {"final": final, "pdfs": pdfs, "pdfs_norm": probs, "loss": loss}
    results |= {"grad_anchors": grad_anchors, "grad_init": grad_init}
    if with_trajectory:
        expected = probs.double() @ inputs["anchors"].double()
        start = inputs["rev_init"].double()
        results["traj"] = _trajectory(solver, steps, True, start, lambda step, tau, x: expected[step])
    return results


def _velocities(inputs: dict[str, Tensor], taus: list[float]) -> dict[str, Tensor]:
    """Returns `v = (x - E[a]) / tau` and the pdfs at `x = (1 - tau) a + tau z`, with the own anchor a and noise z of a row."""
    anchors, rows, noise = inputs["anchors"].double(), inputs["rev_target"], inputs["rev_init"].double()
    results = {}
    for name, weights in (("v", torch.ones_like(inputs["rev_weights"])), ("v_w", inputs["rev_weights"])):
        probs = torch.stack([_posterior(anchors, rows, noise, tau, log_weights(weights)) for tau in taus])
        shift = (probs[..., None] * (anchors[rows, None] - anchors)).sum(2)  # a - E[a], without cancellation
        results[name] = noise - anchors[rows] + shift / torch.tensor(taus, dtype=shift.dtype)[:, None, None]
        if name == "v":
            results["pdf"] = unnormalized(probs.log(), weights)
    return results


def _posterior(anchors: Tensor, rows: Tensor, noise: Tensor, tau: float, log_weights: Tensor | None = None) -> Tensor:
    """Returns `p(anchor i | x)` `(B, N)` in float64 at `x = (1 - tau) anchors[rows] + tau noise`, by `compute_latents` alone.

    One Euler step from s down to 0 gives the latent `z - s (E[a] - a_b)`. Two changes leave its logits as they are. Scaled
    anchors let the step start at any s, as if at `(1 - tau) / tau`. And N more coordinates read off the probabilities: anchor
    i has 1 / s in coordinate i, where the noise is 1/2, but -1/2 in a row's own. Then `p_i = z_i - latent_i + [i is own]`.
    """
    s = (1 - EULER_EPS) / EULER_EPS
    own = F.one_hot(rows, len(anchors)).double()
    pool = torch.cat([anchors * ((1 - tau) / tau / s), torch.eye(len(anchors)).double() / s], dim=1)
    noise = torch.cat([noise, 0.5 - own], dim=1)
    latents = compute_latents(pool[rows], noise, pool, log_weights=log_weights, solver="euler", num_steps=1)
    return (noise - latents)[:, -len(anchors) :] + own


def _trajectory(
    solver: str, steps: int, decode: bool, x: Tensor, expected_anchor: Callable[[int, float, Tensor], Tensor]
) -> Tensor:
    """Returns the points `x = tau y` `(steps + 1, B, D)` where a solver evaluates the expected anchor, and the last one."""
    s, weights = published_schedule(FLOW_SOLVERS[solver], steps, decode=decode, like=x)
    taus = (1 / (1 + s)).flatten().tolist()
    points, expected, y = [x], [], x / taus[0]
    for k, tau in enumerate(taus[1:]):
        expected = [expected_anchor(k, taus[k], points[-1]), *expected[:2]]
        y = y + sum(weight * value for weight, value in zip(weights[k], expected, strict=False))
        points.append(tau * y if tau else expected[0])  # at the anchor itself, y is infinite
    return torch.stack(points)


def _listed_numbers(text: str) -> list[float]:
    """Returns the first bracketed list of numbers in a text; empty if there is none."""
    listed = re.search(r"\[([-+.\de, ]+)\]", text)
    return [float(number) for number in listed[1].split(",")] if listed else []


# --- Moving averages and layers --------------------------------------------------------------------------------------------


def check_ema(file: GoldenFile) -> None:
    """Checks [`PartwiseEMA`] over given sequences of parameters, with and without warm-up, and resumed."""
    frozen = re.search(r"tensors? ([\d, and]*\d) ha(?:s|ve) requires_grad=False", file.header["what"])
    frozen = {int(index) for index in re.findall(r"\d+", frozen[1])} if frozen else set()
    for case in file.header["cases"]:
        name = case["name"]
        given = file.inputs_under(f"{name}/param/")
        count = sum(key.startswith("0/") for key in given)
        parameters = [nn.Parameter(given[f"0/{i}"].clone(), requires_grad=i not in frozen) for i in range(count)]
        ema = PartwiseEMA({"model": parameters}, decay=case["decay"])
        state = {} if case["use_num_updates"] else {"min_decay": case["decay"]}
        ema.load_state_dict({"model": state | {"optimization_step": case["num_updates_at_start"] or 0}})
        average = ema.averages["model"]
        for update in range(1, case["updates"] + 1):
            for i, parameter in enumerate(parameters):
                parameter.data.copy_(given[f"{update}/{i}"])
            ema.step()
            trained = [shadow for i, shadow in enumerate(average.shadow_params) if i not in frozen]
            for i, shadow in enumerate(trained):
                shadow_name = f"{name}/shadow/{update}/{i}"
                file.compare(shadow_name, shadow, "EMA shadows", 1e-6 * file.scale(shadow_name))
            decay_error = abs(average.cur_decay_value - file.header["effective_decay"][name][update - 1])
            file.check(f"decay of {name} in update {update}", "EMA decays", decay_error, 1e-12)
        final = file.header["final_num_updates"][name]
        if final is not None:
            file.check(f"updates of {name}", "EMA counts", abs(average.optimization_step - final))


def check_blocks(file: GoldenFile) -> None:
    """Checks single layers in float32, each within 10 times its rounding noise.

    The noise is the note in the index. Without one it is the difference between our own layer in float32 and in float64, and
    at least a rounding of the largest output.
    """
    for name, text in file.header["blocks"].items():
        if variant := next((v for start, v in UNSUPPORTED_LAYERS.items() if name.startswith(start)), None):
            file.mark_unsupported(variant, f"{name}/")
            continue
        inputs = list(file.inputs_under(f"{name}/in/").values())
        parameters = file.inputs_under(f"{name}/param/")
        out = f"{name}/out"
        layer = _layer(name, text, parameters, inputs[0], file.entries[out]["shape"])
        if layer is None:
            continue  # an unknown layer: its output stays uncovered
        noise = file.noise(out)
        with torch.no_grad():
            result = layer(*inputs)
            if noise is None:
                noise = max_difference(result, layer(*(value.double() for value in inputs)))
        tolerance = NOISE_FACTOR * max(noise, FLOAT32_EPS * file.scale(out))
        file.compare(out, result, f"layers {name.split('_')[0]}", tolerance)


def _layer(
    name: str, text: str, parameters: dict[str, Tensor], x: Tensor, out_shape: list[int]
) -> Callable[..., Tensor] | None:
    """Returns our layer with the published parameters, called like the published one; `None` for an unknown name.

    The name says the kind of layer, the tensors its sizes, and the description the taps of a filter.
    """
    parts = name.split("_")
    kernel = _listed_numbers(text) or FIR_KERNEL
    if parts[0] in ("fir", "naive") and parts[1] in ("down", "up"):
        resample = downsample if parts[1] == "down" else upsample
        return lambda x: resample(x, kernel if parts[0] == "fir" else None)
    if name.startswith("timestep_embedding"):
        return lambda t: timestep_embedding(t, out_shape[1])

    def forward(layer: nn.Module, *inputs: Tensor) -> Tensor:
        return layer(*inputs)

    values = {key: value.T if key.endswith("W") and value.ndim == 2 else value for key, value in parameters.items()}
    skip_rescale = "plain" not in parts and "no_rescale" not in name
    if parts[0] == "fourier":
        layer = FourierEmbedding(len(values["W"]), scale=1.0)
    elif parts[0] == "groupnorm":
        layer = group_norm(x.shape[1])
    elif parts[0] == "nin":
        layer = ScaledLinear(*parameters["W"].shape)

        def forward(layer: nn.Module, x: Tensor) -> Tensor:
            return layer(x.movedim(1, -1)).movedim(-1, 1)
    elif parts[0] == "attn":
        layer = AttentionBlock(x.shape[1], skip_rescale)
        for kind in ("W", "b"):  # query, key and value are one layer, in the place of the first
            values[f"NIN_0.{kind}"] = torch.cat(
                [values[f"NIN_0.{kind}"], values.pop(f"NIN_1.{kind}"), values.pop(f"NIN_2.{kind}")]
            )
    elif parts[0] == "combine":
        out_channels, in_channels = values["Conv_0.weight"].shape[:2]
        layer = InputSkip(in_channels, out_channels, mode=parts[1])
    elif parts[0] == "biggan":
        out_channels, in_channels = values["Conv_0.weight"].shape[:2]
        layer = ResidualBlock(
            in_channels,
            out_channels,
            embedding_dim=values["Dense_0.weight"].shape[1] if "Dense_0.weight" in values else 0,
            resample=next((part for part in parts if part in ("up", "down")), None),
            fir_kernel=kernel if "fir" in parts else None,
            skip_rescale=skip_rescale,
        ).eval()

        def forward(layer: nn.Module, x: Tensor, *embedding: Tensor) -> Tensor:
            return layer(x, *(F.silu(vector) for vector in embedding))  # ours takes it activated, once for all blocks
    elif name.startswith("resnet_bottleneck"):
        layer = Bottleneck(x.shape[1], len(values["net.0.weight"]), stride=math.ceil(x.shape[2] / out_shape[2]))
    elif name.startswith("resnet_head"):
        layer = ProjectionHead(x.shape[1], out_shape[1], num_layers=len(values) // 3)
    else:
        return None
    layer.load_state_dict(dict(zip(layer.state_dict(), values.values(), strict=True)))
    return lambda *inputs: forward(layer.to(inputs[0].dtype), *inputs)
