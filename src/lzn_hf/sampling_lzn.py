# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The image flow between noise (t = 0) and images (t = 1): schedulers of diffusers for the way to images, and the solvers of
`flow_lzn.py`, which go both ways."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch

# From the modules that define them: to type checkers, the names in `diffusers` are placeholders.
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from .checks_lzn import check_choice
from .files_lzn import check_names
from .flow_lzn import FLOW_SOLVERS, OnStep, VelocityFn, check_steps, integrate_flow, integrate_velocity


# Supported schedulers of diffusers; they integrate from noise to images.
FlowScheduler = (
    UniPCMultistepScheduler
    | DPMSolverMultistepScheduler
    | FlowMatchEulerDiscreteScheduler
    | FlowMatchHeunDiscreteScheduler
)
# The settings, as far as a scheduler has them, that make it a deterministic solver of the flow from sigma = 1 to 0.
FLOW_SETTINGS = {
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "final_sigmas_type": "zero",
    "algorithm_type": "dpmsolver++",
    "stochastic_sampling": False,
    "invert_sigmas": False,
    "use_dynamic_shifting": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
}
# The largest number in the settings of a scheduler; diffusers makes tables of `num_train_timesteps` rows.
MAX_SETTING = 100_000
# The types of a setting by that of its default, and what diffusers writes beside settings.
KINDS: dict[type, Any] = {bool: bool, int: int, float: (int, float), str: str, list: list}
DIFFUSERS_FIELDS = ("_class_name", "_diffusers_version", "_name_or_path", "_use_default_values")

# Numbers in all velocities of a flow together, which a table keeps: 16 MB. Beyond, a network takes far longer than its scheduler.
MAX_KEPT = 2**22


@dataclass(frozen=True)
class ImageFlow:
    """How the image flow `d x / dt = velocity(x, t)` is integrated between noise and images.

    Args:
        solver (`str` or `SchedulerMixin`): `"euler"`, `"heun"` or `"rk45"`, or a scheduler that [`check_scheduler`] accepts.
        num_inference_steps (`int`): number of steps; ignored by `"rk45"`.
        t_min (`float`, *optional*, defaults to 0): the time that is taken for the noise, in [0, 1); 0 with a scheduler.

    Raises:
        ValueError: for arguments out of range.
    """

    solver: str | FlowScheduler
    num_inference_steps: int
    t_min: float = 0.0

    def __post_init__(self) -> None:
        check_steps(self.num_inference_steps, self.t_min)
        if self.solver is None or isinstance(self.solver, str):
            check_choice(FLOW_SOLVERS, solver=self.solver)
            return
        check_scheduler(self.solver)
        if self.t_min > 0:
            choice = ", ".join(map(repr, FLOW_SOLVERS))
            raise ValueError(
                f"`t_min` must be 0 without a `solver` ({choice}), as schedulers start there, got {self.t_min!r}."
            )

    @property
    def num_evaluations(self) -> float:
        """Velocity evaluations of one integration; infinite for `"rk45"`, whose number is not known before."""
        if self.solver == "rk45":
            return math.inf
        if isinstance(self.solver, FlowMatchHeunDiscreteScheduler):
            return 2 * self.num_inference_steps - 1
        return self.num_inference_steps * (2 if self.solver == "heun" else 1)

    def to_images(self, velocity_fn: VelocityFn, noise: Tensor, on_step: OnStep | None = None) -> Tensor:
        """Integrates from noise `(B, C, H, W)` at t = `t_min` to images at t = 1; `"rk45"` calls `on_step` at the start only."""
        if isinstance(self.solver, str):
            return self._integrate(velocity_fn, noise, self.t_min, 1.0, on_step)
        return self._run_scheduler(velocity_fn, noise, on_step)

    def to_noise(self, velocity_fn: VelocityFn, images: Tensor) -> Tensor:
        """Integrates from images x1 `(B, C, H, W)` to x at t = `t_min`; returns the noise `(x - t_min x1) / (1 - t_min)`."""
        sample = self._integrate(velocity_fn, images, 1.0, self.t_min)
        return (sample - self.t_min * images) / (1 - self.t_min)

    def _integrate(
        self, velocity_fn: VelocityFn, sample: Tensor, t_start: float, t_end: float, on_step: OnStep | None = None
    ) -> Tensor:
        if not isinstance(self.solver, str):
            name = type(self.solver).__name__
            raise ValueError(f"`solver` must be {' or '.join(FLOW_SOLVERS)} to go from images to noise, got {name}.")
        return integrate_flow(velocity_fn, sample, self.solver, self.num_inference_steps, t_start, t_end, on_step)

    def _run_scheduler(self, velocity_fn: VelocityFn, sample: Tensor, on_step: OnStep | None) -> Tensor:
        # diffusers counts the other way: its sigma is 1 - t, and its model output d sample / d sigma is minus our velocity.
        scheduler: Any = self.solver
        first = 0
        if is_tabulated(scheduler) and sample.numel() * self.num_inference_steps <= MAX_KEPT:
            sample, first = self._run_table(scheduler, velocity_fn, sample, on_step)
        if first == self.num_inference_steps:
            return sample
        scheduler = fresh_scheduler(scheduler, self.num_inference_steps, sample.device)
        scheduler.set_begin_index(first)
        times = (1 - scheduler.sigmas).tolist()  # not from the timesteps, which some schedulers round to integers
        check_times(times)
        if on_step is not None and first == 0:
            on_step(times[0], sample)
        for i, timestep in list(enumerate(scheduler.timesteps))[first:]:
            sample = scheduler.step(-velocity_fn(sample, times[i]), timestep, sample, return_dict=False)[0]
            # Heun first guesses the end of a step and evaluates the velocity there: that time comes twice.
            is_end = times[i + 1] not in times[i + 2 : i + 3]
            if on_step is not None and is_end and (changed := on_step(times[i + 1], sample)) is not None:
                sample = changed
                # What a multistep scheduler remembers belongs to the old samples. The corrector of UniPC would even bring them back.
                for name, fresh in (("lower_order_nums", 0), ("last_sample", None)):
                    if hasattr(scheduler, name):
                        setattr(scheduler, name, fresh)
        return sample

    def _run_table(
        self, scheduler: Any, velocity_fn: VelocityFn, sample: Tensor, on_step: OnStep | None
    ) -> tuple[Tensor, int]:
        """Integrates by [`scheduler_table`] to the end, or to the first step whose samples `on_step` changes; returns the steps taken."""
        kind: Any = type(scheduler)
        times, table = scheduler_table(kind, scheduler.to_json_string(), self.num_inference_steps)
        check_times(times)
        terms = [sample]
        if on_step is not None:
            on_step(times[0], sample)
        for i, weights in enumerate(table.to(sample).unbind()):
            terms.append(velocity_fn(sample, times[i]).to(sample.dtype))
            sample = torch.tensordot(weights[: i + 2], torch.stack(terms), 1)
            if on_step is not None and (changed := on_step(times[i + 1], sample)) is not None:
                return changed, i + 1
        return sample, len(table)


def check_times(times: list[float]) -> None:
    """Raises a `ValueError` for times of a scheduler that are NaN or infinite, as some settings make them."""
    if not all(map(math.isfinite, times)):
        raise ValueError(f"the settings of the scheduler may not fit the image flow: its times are {times}.")


def fresh_scheduler(scheduler: Any, num_steps: int, device: torch.device | str) -> Any:
    """Returns a copy, for threads share a scheduler, at the start of a flow. Its `from_config` would lose `set_shift`."""
    scheduler = copy.deepcopy(scheduler)
    if isinstance(scheduler, (UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler)):
        # Uniform; the default grid of FlowMatchEuler ends in a step that is nearly empty.
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps), device=device)
    else:
        scheduler.set_timesteps(num_steps, device=device)
    return scheduler


def is_tabulated(scheduler: Any) -> bool:
    """Whether [`scheduler_table`] holds for a scheduler: a multistep one, linear in samples and velocities, that its config decides."""
    if type(scheduler) not in (UniPCMultistepScheduler, DPMSolverMultistepScheduler):
        return False
    return not scheduler.config.thresholding and getattr(scheduler, "solver_p", None) is None


@functools.lru_cache(maxsize=32)
def scheduler_table(kind: type, config: str, num_steps: int) -> tuple[list[float], Tensor]:
    """Tabulates a multistep scheduler: its samples are sums of the noise and the velocities so far, with weights of the grid alone.

    A step of such a scheduler is dozens of operations on numbers, which take as long as a small network, and wait for a GPU.

    Args:
        kind (`type`): the class of the scheduler.
        config (`str`): its `to_json_string()`.
        num_steps (`int`): number of steps S.

    Returns:
        `tuple(list[float], Tensor)`: the S + 1 times, and the weights `(S, S + 1)`, in float64, of the noise and the S velocities in the
        sample after each step.
    """
    scheduler: Any = fresh_scheduler(kind.from_config(json.loads(config)), num_steps, "cpu")  # type: ignore[attr-defined]
    scheduler.set_begin_index(0)
    noise, *velocities = torch.eye(num_steps + 1, dtype=torch.float64)[:, None, None]
    sample, rows = noise, []
    for velocity, timestep in zip(velocities, scheduler.timesteps, strict=True):
        sample = scheduler.step(-velocity, timestep, sample, return_dict=False)[0]
        rows.append(sample.flatten())
    return (1 - scheduler.sigmas).tolist(), torch.stack(rows)


def default_scheduler() -> UniPCMultistepScheduler:
    """Builds a third-order UniPC on the flow, the most accurate scheduler of diffusers at equal cost.

    Root mean square error per pixel in [-1, 1] against a fine integration of the exact flow to the 1,797 digits of
    scikit-learn (8x8) blurred by noise of standard deviation 0.2, for 10, 20 and 40 velocity evaluations
    (`benchmarks/sampling.py`):

    | scheduler | 10 | 20 | 40 |
    |---|---|---|---|
    | UniPC, order 3 | 0.055 | 0.004 | 0.0005 |
    | UniPC, order 2 | 0.057 | 0.026 | 0.002 |
    | DPM-Solver++, order 3 | 0.093 | 0.036 | 0.017 |
    | FlowMatchHeun (9, 19, 39) | 0.127 | 0.065 | 0.044 |
    | FlowMatchEuler | 0.140 | 0.101 | 0.076 |
    """
    return UniPCMultistepScheduler(solver_order=3, prediction_type="flow_prediction", use_flow_sigmas=True)


def check_scheduler(scheduler: SchedulerMixin) -> None:
    """Raises a `ValueError` unless a scheduler is a supported one, with the settings of a deterministic solver of the flow."""
    if not isinstance(scheduler, FlowScheduler):
        names = ", ".join(supported.__name__ for supported in get_args(FlowScheduler))
        raise ValueError(f"`scheduler` must be a flow-matching one ({names}), got {type(scheduler).__name__}.")
    settings = {name: value for name, value in FLOW_SETTINGS.items() if name in scheduler.config}
    wrong = {name: scheduler.config[name] for name, value in settings.items() if scheduler.config[name] != value}
    if wrong:
        right = ", ".join(f"{name}={settings[name]!r}" for name in wrong)
        raise ValueError(f"`scheduler` must be set to solve the image flow ({right}), got {wrong}.")


def check_scheduler_fields(fields: Mapping[str, Any]) -> None:
    """Checks the content of a scheduler_config.json before diffusers reads it.

    Args:
        fields (`Mapping[str, Any]`): the content.

    Raises:
        ValueError: for another scheduler, and for settings of a wrong name, type or range, or with which it does not solve the flow.
    """
    classes = {supported.__name__: supported for supported in get_args(FlowScheduler)}
    check_choice(tuple(classes), _class_name=fields.get("_class_name"))
    scheduler = classes[fields["_class_name"]]
    parameters = dict(inspect.signature(scheduler.__init__).parameters)
    check_names(fields, {*parameters, *DIFFUSERS_FIELDS}, scheduler)
    settings = {name: value for name, value in fields.items() if name in parameters}
    for name, value in settings.items():
        default, choices = parameters[name].default, get_args(parameters[name].annotation)
        if choices and isinstance(default, str):
            check_choice(choices, **{name: value})
        kind = KINDS.get(type(default), object)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, KINDS[float])):
            raise ValueError(f"`{name}` must be a {type(default).__name__} such as {default!r}, got {value!r}.")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, (int, float)) and abs(number) > MAX_SETTING and not math.isinf(number):
                raise ValueError(f"`{name}` must be at most {MAX_SETTING:,}, got {value!r}.")
    try:
        built = scheduler(**settings)
        check_scheduler(built)
        # Every solver is exact on a flow of constant velocity.
        noise, velocity = torch.linspace(-1, 1, 4).view(1, 1, 2, 2), torch.linspace(-1, 0.5, 4).view(1, 1, 2, 2)
        error = (ImageFlow(built, 6).to_images(lambda x, t: velocity, noise) - noise - velocity).abs().max().item()
    except Exception as failure:  # whatever settings that nobody tried make a scheduler stumble on
        raise ValueError(
            f"the settings of the {scheduler.__name__} do not work: {failure!s} ({type(failure).__name__})"
        ) from failure
    if not error < 0.01:
        raise ValueError(
            f"the settings of the {scheduler.__name__} do not solve the image flow: at constant velocity the error must be below 0.01, got "
            f"{error:.3g}."
        )


def mix_noise(noise: Tensor, new_noise: Tensor, strength: float) -> Tensor:
    """Rotates noise towards new noise: `sqrt(1 - w²) noise + w new_noise` with w = `strength` in [0, 1].

    For independent N(0, I) both, the result is N(0, I) at a correlation of sqrt(1 - w²) with `noise`. On a straight line
    between the two, the variance would be (1 - w)² + w², which is 1/2 in the middle.
    """
    return math.sqrt(1 - strength**2) * noise + strength * new_noise


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Interpolates from a (`weight` 0) to b (1) along a great circle; each tensor is one vector.

    Between two draws of Gaussian noise this keeps the norm of noise. A straight line would pass too close to the origin.
    """
    cosine = torch.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).item()
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < 1e-6:  # the same or the opposite direction: no great circle
        return torch.lerp(a, b, weight)
    return math.sin((1 - weight) * angle) / math.sin(angle) * a + math.sin(weight * angle) / math.sin(angle) * b


__all__ = [
    "DIFFUSERS_FIELDS",
    "FLOW_SOLVERS",
    "FlowScheduler",
    "ImageFlow",
    "OnStep",
    "VelocityFn",
    "check_scheduler",
    "check_scheduler_fields",
    "default_scheduler",
    "integrate_velocity",
    "mix_noise",
    "slerp",
]
