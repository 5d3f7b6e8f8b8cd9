# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Samples of a pipeline by any solver, each of which depends on the seed and its number alone.

Sample i is drawn by its own generator, seeded by the seed and i, as is its label. So samples do not depend on the batch
size or the number of processes (up to rounding), and all samplers start from the same noise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor, nn

from ..modeling_lzn import LZNModel
from ..pipeline_lzn import LZNPipeline
from ..sampling_lzn import default_scheduler


SCHEDULERS: dict[str, Callable[[], Any]] = {
    "unipc": default_scheduler,
    "dpmsolver++": lambda: DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
}
GUIDANCE_SCALE = re.compile(r"\d+(\.\d+)?")
SOLVERS = ("euler", "heun", "rk45")  # of the pipeline itself; they integrate in both directions


@dataclass(frozen=True)
class Sampler:
    """A solver of the image flow with its number of steps, and how it is guided.

    Args:
        name (`str`): text such as `"unipc:20"`, `"heun:10@1.5"` or `"rk45"`, see [`Sampler.parse`].
        family (`str`): `"unipc"`, `"dpmsolver++"`, `"euler"`, `"heun"` (two evaluations per step) or `"rk45"`.
        num_inference_steps (`int`): steps; not used by `"rk45"`, which chooses them.
        guidance_scale (`float`, *optional*, defaults to 1.0): see [`LZNPipeline.__call__`].
    """

    name: str
    family: str
    num_inference_steps: int
    guidance_scale: float = 1.0

    @classmethod
    def parse(cls, text: str, families: Sequence[str] = (*SCHEDULERS, *SOLVERS)) -> Sampler:
        """Reads `"FAMILY:STEPS"` or `"rk45"`, and `"@SCALE"` after it for guidance; a ValueError for anything else."""
        solver, at, scale = text.partition("@")
        family, colon, steps = solver.partition(":")
        adaptive = family == "rk45" and not colon
        has_steps = family != "rk45" and steps.isdecimal() and int(steps) >= 1
        if family not in families or not (adaptive or has_steps) or (at and not GUIDANCE_SCALE.fullmatch(scale)):
            known = " or ".join(name if name == "rk45" else f"{name}:STEPS" for name in families)
            raise ValueError(
                f"a sampler must be {known} with STEPS of at least 1, and @SCALE after it for guidance, got {text!r}."
            )
        return cls(text, family, 1 if adaptive else int(steps), float(scale or 1))

    def pipeline(self, pipe: LZNPipeline) -> LZNPipeline:
        """A pipeline with the scheduler of this sampler around the same model; `pipe` itself where it needs none."""
        if self.family not in SCHEDULERS:
            return pipe
        scheduler = SCHEDULERS[self.family]()
        other = LZNPipeline(model=pipe.model, scheduler=scheduler, image_processor=pipe.image_processor)
        other.set_progress_bar_config(disable=True)
        return other

    @property
    def options(self) -> dict[str, Any]:
        """Arguments for the calls of [`Sampler.pipeline`]."""
        solver = None if self.family in SCHEDULERS else self.family
        options = {"solver": solver, "num_inference_steps": self.num_inference_steps}
        return options if self.guidance_scale == 1 else {**options, "guidance_scale": self.guidance_scale}


def sample_generator(seed: int, index: int) -> torch.Generator:
    """The generator of one sample, on the CPU: the same noise on every device."""
    return torch.Generator().manual_seed(_random_numbers(seed, index)[0])


def sample_label(seed: int, index: int, num_labels: int) -> int:
    """The label of one sample. A draw: exactly equal counts would be closer to the data than real images are.

    Args:
        seed, index, num_labels (`int`): the seed, the number of the sample and the number of labels.
    """
    return _random_numbers(seed, index)[1] % num_labels


def _random_numbers(seed: int, index: int) -> list[int]:
    return np.random.SeedSequence([seed, index]).generate_state(2, np.uint64).tolist()


def generated_batches(
    pipe: LZNPipeline,
    sampler: Sampler,
    indices: Sequence[int],
    seed: int,
    batch_size: int,
    *,
    guide: LZNModel | None = None,
    progress: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Batches of samples, rounded to grey levels as saved images are.

    Args:
        pipe ([`LZNPipeline`]): its model and image processor.
        sampler ([`Sampler`]): integrates the image flow.
        indices (sequence of `int`): numbers of the samples.
        seed (`int`): decides noise and label of each sample, together with its number.
        batch_size (`int`): images per batch.
        guide ([`LZNModel`], *optional*): see [`LZNPipeline.__call__`].
        progress (`bool`, *optional*, defaults to `False`): whether to show a progress bar.

    Yields:
        `dict`: `pixel_values` `(B, C, H, W)`, `uint8`, and `labels` `(B,)` of a model with labels.
    """
    from tqdm.auto import tqdm

    pipe, num_labels = sampler.pipeline(pipe), pipe.model.config.num_labels
    with tqdm(total=len(indices), desc=sampler.name, unit="img", disable=not progress) as bar:
        for start in range(0, len(indices), batch_size):
            chunk = indices[start : start + batch_size]
            labels = [sample_label(seed, index, num_labels) for index in chunk] if num_labels else None
            output: Any = pipe(
                label=labels,
                num_images_per_label=1 if num_labels else len(chunk),
                generator=[sample_generator(seed, index) for index in chunk],
                batch_size=batch_size,
                output_type="pt",
                guide=guide,
                **sampler.options,
            )
            batch = {"pixel_values": (output.images * 255).round().to(torch.uint8).cpu()}
            yield batch if labels is None else {**batch, "labels": torch.tensor(labels)}
            bar.update(len(chunk))


@contextmanager
def counted_evaluations(*models: LZNModel) -> Iterator[list[int]]:
    """Inside, the list gets the number of images of each call of a decoder."""
    counts: list[int] = []
    hooks = [
        cast(nn.Module, model.decoder).register_forward_hook(  # of a pipeline or a guide: it has one
            lambda module, inputs, output: counts.append(len(output))
        )
        for model in models
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


__all__ = [
    "SOLVERS",
    "Sampler",
    "counted_evaluations",
    "generated_batches",
    "sample_generator",
    "sample_label",
]
