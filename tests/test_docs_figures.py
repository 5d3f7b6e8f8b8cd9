# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The figure of docs/how_zones_work.md computes what `latent_zones` computes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
import torch
from helpers import ROOT

from lzn_hf import latent_zones


@pytest.mark.parametrize("closest", [1.0, 0.05])
def test_the_flow_of_the_figure_is_that_of_the_package(closest):
    """Latents of a grid, anchors of the figure and two that nearly coincide: the same zones but next to borders, and the same points."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: it runs the JavaScript of the figure")
    page = (ROOT / "docs" / "figures" / "zones.html").read_text(encoding="utf-8")
    (flow,) = re.findall(r'<script id="flow">(.*?)</script>', page, flags=re.DOTALL)
    anchors = torch.tensor([[1.2, 0.9], [-1.3, 0.7], [0.1, -1.4], [1.6, -0.8], [-1.3, 0.7 - closest]]).double()
    ticks = torch.linspace(-2.5, 2.5, 21, dtype=torch.float64)
    latents = torch.cartesian_prod(ticks, ticks)
    given = json.dumps([latents.tolist(), anchors.tolist()])
    code = f"{flow}\nconst [latents, anchors] = {given};"
    code += "\nconsole.log(JSON.stringify(latents.map((z) => [96, 24].map((steps) => trace(z, anchors, steps)))));"
    done = subprocess.run([node, "-"], input=code, capture_output=True, text=True, check=True)
    traces = json.loads(done.stdout)

    _, log_probs = latent_zones.trace_assignments(latents, anchors, solver="adams", num_steps=400)
    zones = log_probs[-1].argmax(1)
    fine = torch.tensor([fine["zone"] for fine, _ in traces])
    coarse = torch.tensor([coarse["zone"] for _, coarse in traces])
    assert (fine == zones).float().mean() > 0.99  # the others lie on a border
    assert (coarse == zones).float().mean() > 0.96
    assert set(zones.tolist()) == set(range(5))
    ends = torch.tensor([fine["points"][-1]["x"] for fine, _ in traces])
    noise = 1 - traces[0][0]["points"][-1]["t"]  # what is left of it at the end
    arrived = fine == zones
    assert (ends - anchors[zones].float())[arrived].norm(dim=1).max() < 5 * noise < 0.3

    # On the way, at t = 0.5: equation (1) by Euler's method on a fine grid.
    z = latents[::37]
    s = torch.linspace(0, 1, 4001, dtype=torch.float64)
    y = z.clone()
    for step in range(4000):
        p = (s[step] * y @ anchors.T - s[step] ** 2 * anchors.square().sum(1) / 2).softmax(1)
        y = y + (s[step + 1] - s[step]) * p @ anchors
    for number, end in zip(range(0, len(latents), 37), y / 2, strict=True):
        path = traces[number][0]["points"]
        after = next(i for i, point in enumerate(path) if point["t"] >= 0.5)
        a, b = path[after - 1], path[after]
        u = (0.5 - a["t"]) / (b["t"] - a["t"])
        middle = torch.tensor(a["x"]) * (1 - u) + torch.tensor(b["x"]) * u
        torch.testing.assert_close(middle, end.float(), rtol=0, atol=0.02)
