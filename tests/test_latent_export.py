# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The latent flow in ONNX: its functions have the values of PyTorch's, and so has the flow where anchors nearly coincide."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn

from lzn_hf import latent_export
from lzn_hf.latent_zones import compute_latents, trace_assignments


class Flows(nn.Module):
    """Latents among reference anchors, and their trace among label anchors, with isolated pairs in both pools."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        references, labels = torch.randn(30, 20), torch.randn(5, 20)
        references[1] = references[0]
        references[3] = references[2] + 2e-3 * torch.randn(20)
        references[28:] = 0  # not set
        labels[4] = labels[3] + 1e-3 * torch.randn(20)
        self.register_buffer("references", references)
        self.register_buffer("labels", labels)

    def forward(self, anchors, noise):
        log_weights = torch.where(self.references.any(1), 0.0, -math.inf)
        latents = compute_latents(
            anchors, noise, self.references, log_weights=log_weights, include_own=True, num_steps=3
        )
        points, log_probs = trace_assignments(latents, self.labels, num_steps=3)
        return latents, points, log_probs


def draw_rows(flows: Flows, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Anchors beside one reference anchor, at two that are one, and at one of a pair; then anywhere."""
    anchors, noise = torch.randn(batch, 20), torch.randn(batch, 20)
    near = torch.stack([flows.references[5] + 1e-3 * torch.randn(20), flows.references[0], flows.references[2]])
    anchors[:3] = near[:batch]
    noise[-1] = 0
    return anchors, noise


@pytest.mark.slow
def test_the_default_solver_in_onnx_keeps_pairs_apart(tmp_path):
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed: it comes with the extra `onnx`"
    )
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: it comes with the extra `onnx`")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    flows = Flows().eval()
    rows, batch = draw_rows(flows, 4), torch.export.Dim("batch", min=1)
    shapes = ({0: batch}, {0: batch})
    with torch.no_grad():
        program = torch.onnx.export(flows, rows, dynamic_shapes=shapes, dynamo=True, verbose=False)
    program.save(tmp_path / "flows.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "flows.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 3, 8):
        anchors, noise = draw_rows(flows, batch)
        found = session.run(None, {"anchors": anchors.numpy(), "noise": noise.numpy()})
        for one, other in zip(found, flows(anchors, noise), strict=True):
            torch.testing.assert_close(torch.from_numpy(one), other, rtol=1e-6, atol=1e-6)


def assert_equal_in_onnx(monkeypatch, function, *inputs, rtol=0.0, atol=0.0):
    """Compares a function of `latent_export` with itself in ONNX's form."""
    expected = function(*inputs)
    with monkeypatch.context() as patch:
        patch.setattr(latent_export, "is_exporting_onnx", lambda: True)
        torch.testing.assert_close(function(*inputs), expected, rtol=rtol, atol=atol, equal_nan=True)


def test_functions_for_onnx_have_the_values_of_pytorch(monkeypatch):
    x = torch.linspace(-12, 12, 997, dtype=torch.float64)
    assert_equal_in_onnx(monkeypatch, latent_export.log_ndtr, x, rtol=1e-11, atol=1e-15)
    assert_equal_in_onnx(monkeypatch, latent_export.ndtr, x, rtol=0, atol=1e-11)
    tail = torch.logspace(-12, math.log10(0.5), 500, dtype=torch.float64)
    assert_equal_in_onnx(monkeypatch, latent_export.ndtri, torch.cat([tail, 1 - tail]), rtol=0, atol=1e-9)
    for function in (latent_export.sinh, latent_export.cosh, latent_export.asinh):
        assert_equal_in_onnx(monkeypatch, function, x.abs(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dim", [0, 1])
def test_median_for_onnx_leaves_out_what_is_absent(monkeypatch, dim):
    torch.manual_seed(0)
    x = torch.randn(6, 8)
    x[0, :3], x[1], x[2, 1:], x[3, 0] = math.nan, math.nan, math.nan, math.inf
    assert_equal_in_onnx(monkeypatch, latent_export.nanmedian, x, dim)


def test_distances_for_onnx_are_as_exact_as_those_of_pytorch(monkeypatch):
    torch.manual_seed(0)
    a, b = torch.randn(5, 37, dtype=torch.float64), torch.randn(7, 37, dtype=torch.float64)
    b[0], b[1] = a[0], a[1] + 1e-9
    assert_equal_in_onnx(monkeypatch, latent_export.euclidean_distances, a, b, rtol=1e-14)


def test_zeros_for_onnx_are_those_of_halving(monkeypatch):
    values = torch.tensor([-200.0, -1e-3, 0.0, 0.7, 300.0], dtype=torch.float64)
    low, high = torch.full_like(values, -7), torch.full_like(values, 9)
    find_zero = latent_export.find_zero
    assert_equal_in_onnx(monkeypatch, find_zero, lambda y: y**3 + y - values, low, high, rtol=0, atol=1e-7)
