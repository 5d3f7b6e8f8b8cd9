# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The loss of two views against loops over the published formulas, see helpers/latent_flow.py."""

from __future__ import annotations

import pytest
import torch
from helpers.latent_flow import loop_decode, loop_encode, randn
from torch import Tensor

from lzn_hf import LZNConfig
from lzn_hf.losses_lzn import view_losses


IMAGES, DIMENSIONS = 5, 3


def make_config(**changes) -> LZNConfig:
    options = {
        "latent_solver": "euler",
        "latent_num_steps": 6,
        "alignment_solver": "euler",
        "alignment_num_steps": 7,
        "step_cutoff": 0.3,
        "latent_noise_scale": 0.45,
        "alignment_reduction": "log_prob",
        "alignment_weight": 0.7,
    }
    return LZNConfig(latent_dim=DIMENSIONS, **(options | changes))


def views(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Anchors of two views, those of an image closer to each other than to the rest."""
    anchors = randn(IMAGES, DIMENSIONS, seed=seed)
    return anchors, anchors + 0.5 * randn(IMAGES, DIMENSIONS, seed=seed + 1)


def loop_loss(config: LZNConfig, anchors: Tensor, targets: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Row by row, step by step, in float64."""
    weights = [1.0] * len(anchors)
    latents, traces, bests = [], [], []
    for b in range(len(anchors)):
        scaled = config.latent_noise_scale * noise[b]
        latent = loop_encode(anchors[b], scaled, anchors, weights, config.latent_num_steps)
        trace = loop_decode(latent, targets, weights, config.alignment_num_steps, config.alignment_end)[1][:, b].log()
        late = trace[int(config.step_cutoff * config.alignment_num_steps) :]
        bests.append(
            {"prob": max(late).exp(), "log_prob": max(late), "mean_log_prob": sum(late) / len(late)}[
                config.alignment_reduction
            ]
        )
        latents.append(latent)
        traces.append(trace)
    loss = -sum(bests) / len(bests)
    return {
        "loss": config.alignment_weight * loss,
        "alignment_loss": loss,
        "latents": torch.stack(latents),
        "view_log_probs": torch.stack(traces, dim=1),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"latent_noise_scale": 1.0, "alignment_reduction": "prob"},
        {"latent_num_steps": 3, "alignment_num_steps": 5, "step_cutoff": 0.0, "alignment_weight": 1.0},
        {"alignment_end": 0.5, "alignment_reduction": "mean_log_prob"},
    ],
)
def test_losses_are_those_of_the_loops(changes):
    config, (anchors, targets), noise = make_config(**changes), views(), randn(IMAGES, DIMENSIONS, seed=2)
    losses, expected = view_losses(config, anchors, targets, noise), loop_loss(config, anchors, targets, noise)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-9, atol=1e-9, msg=lambda text: f"{name}: {text}")
    other = torch.roll(targets, 1, dims=0)  # of another image each
    assert view_losses(config, anchors, other, noise)["loss"] > losses["loss"] + 0.05


def test_the_symmetric_loss_is_the_mean_of_both_directions():
    (anchors, targets), noise = views(), randn(IMAGES, DIMENSIONS, seed=2)
    first, second = (loop_loss(make_config(), a, b, noise) for a, b in ((anchors, targets), (targets, anchors)))
    losses = view_losses(make_config(alignment_symmetric=True), anchors, targets, noise)
    torch.testing.assert_close(losses["loss"], (first["loss"] + second["loss"]) / 2, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(losses["latents"], first["latents"])
    assert (first["loss"] - second["loss"]).abs() > 1e-3


def test_gradients_are_those_of_the_loops_through_both_pools():
    config, noise = make_config(), randn(IMAGES, DIMENSIONS, seed=2)
    anchors, targets = (view.requires_grad_() for view in views())
    view_losses(config, anchors, targets, noise)["loss"].backward()
    given = {"anchors": anchors.detach(), "targets": targets.detach()}
    for name, gradient in (("anchors", anchors.grad), ("targets", targets.grad)):
        differences = torch.empty_like(gradient)
        for row in range(IMAGES):
            for column in range(DIMENSIONS):
                ends = []
                for step in (1e-5, -1e-5):
                    moved = given[name].clone()
                    moved[row, column] += step
                    ends.append(loop_loss(config, **(given | {name: moved}), noise=noise)["loss"])
                differences[row, column] = (ends[0] - ends[1]) / 2e-5
        assert (gradient.abs().amax(1) > 1e-3).all()
        torch.testing.assert_close(gradient, differences, rtol=1e-5, atol=1e-7)


def test_the_generator_draws_the_noise():
    config, (anchors, targets) = make_config(), (view.float() for view in views())
    given = torch.randn(IMAGES, DIMENSIONS, generator=torch.Generator().manual_seed(3))
    drawn = view_losses(config, anchors, targets, generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn["latents"], view_losses(config, anchors, targets, given)["latents"])
    assert not torch.equal(drawn["latents"], view_losses(config, anchors, targets)["latents"])


def test_one_image_is_no_pool():
    anchors, targets = views()
    with pytest.raises(ValueError, match="`pixel_values` must hold at least 2 images"):
        view_losses(make_config(), anchors[:1], targets[:1])
