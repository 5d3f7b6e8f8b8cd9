# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Exported parts give what the model gives, for batches of every size; a part that a model lacks is an error."""

from __future__ import annotations

import pytest
import torch
from helpers.models import TINY_RESNET, perturbed, tiny_config
from helpers.texts import TEXTS

from lzn_hf import LZNModel
from lzn_hf.commands import export_onnx


PUBLISHED = {"latent_solver": "dpmsolver++", "alignment_solver": "euler"}
FEW_STEPS = {"latent_num_steps": 3, "alignment_num_steps": 3}
# What the published models of 256 pixels have.
LARGE = {f"{part}_fir_kernel": [1, 3, 3, 1] for part in ("encoder", "decoder")}
LARGE |= {"encoder_input_skip": "sum", "decoder_input_skip": "sum", "decoder_output_skip": True}
LARGE |= {"decoder_time_embedding": "fourier", "decoder_scale_by_sigma": True, "num_labels": 0}
VIT = {
    "model_type": "vit",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
BACKBONE = {
    "encoder_type": "transformers",
    "encoder_head_layers": 1,
    "decoder_type": None,
    "num_labels": 0,
    "latent_dim": 64,
}


def save_model(folder, num_references=12, **changes) -> None:
    torch.manual_seed(0)
    model = perturbed(LZNModel(tiny_config(**{**FEW_STEPS, **changes})))
    if num_references and model.encoder is not None:
        anchors = torch.randn(num_references, model.config.latent_dim)
        anchors[1] = anchors[0] + 1e-3  # nearly the same
        model.set_reference_anchors(anchors)
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (PUBLISHED, ["embed", "classify", "latents", "decoder"]),
        (LARGE, ["embed", "decoder"]),
        (
            {**BACKBONE, "encoder_backbone": {**VIT, "patch_size": 4, "image_size": 8, "input_size": [12, 16]}},
            ["embed"],
        ),
        ({**TINY_RESNET, "encoder_small_images": True, "decoder_type": None, "num_labels": 0}, ["embed"]),
        ({"encoder_type": None}, ["decoder"]),
        pytest.param(
            {**TEXTS, "num_labels": 0, "decoder_data_type": "text"}, ["embed", "decoder"], marks=pytest.mark.slow
        ),
        pytest.param(
            {"prediction_time": 0.6, "num_prediction_draws": 2},
            ["embed", "classify", "latents", "decoder"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_part_is_exported_and_compared(tmp_path, capsys, changes, parts):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: it comes with the extra `onnx`")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: it comes with the extra `onnx`")
    save_model(tmp_path, **changes)
    export_onnx.main([str(tmp_path)])
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == sorted(f"{part}.onnx" for part in parts)
    lines = [line for line in capsys.readouterr().out.splitlines() if "largest difference" in line]
    assert len(lines) == len(parts) and all(float(line.split()[-1]) < 1e-5 for line in lines), lines


def test_a_comparison_sees_other_weights(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: it comes with the extra `onnx`")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: it comes with the extra `onnx`")
    save_model(tmp_path, encoder_type=None)
    model = LZNModel.from_pretrained(tmp_path)
    export_onnx.export_part(model, "decoder", tmp_path / "decoder.onnx")
    assert max(export_onnx.differences(model, "decoder", tmp_path / "decoder.onnx")) < 1e-5
    perturbed(model)
    assert max(export_onnx.differences(model, "decoder", tmp_path / "decoder.onnx")) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--parts", "classify"],
            "no part 'classify': it lacks labels with an image encoder, or reference anchors that are set",
        ),
        (["--parts", "everything"], "invalid choice"),
    ],
)
@pytest.mark.parametrize("num_reference_anchors", [0, 4])  # with room for four, none is set
def test_bad_arguments(tmp_path, capsys, arguments, message, num_reference_anchors):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: it comes with the extra `onnx`")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: it comes with the extra `onnx`")
    save_model(tmp_path, num_references=0, num_reference_anchors=num_reference_anchors)
    with pytest.raises(SystemExit):
        export_onnx.main([str(tmp_path), *arguments])
    assert message in capsys.readouterr().err and not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("part", ["embed", "classify", "decoder"])
def test_torch_export_keeps_the_batch_open(tmp_path, part):
    save_model(tmp_path)
    model = LZNModel.from_pretrained(tmp_path)
    module, inputs = export_onnx.Part(model, part), export_onnx.make_inputs(model, part, 3)
    shapes = {name: {0: torch.export.Dim("batch", min=2)} for name in inputs}
    with torch.no_grad():
        program = torch.export.export(module, (), kwargs=inputs, dynamic_shapes=shapes)
        for batch_size in (3, 2, 7):
            other = export_onnx.make_inputs(model, part, batch_size)
            torch.testing.assert_close(program.module()(**other), module(**other), rtol=1e-5, atol=1e-5)
