# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The command that converts published checkpoints makes folders of this package, which a new process can use.

Where the environment variable LZN_GOLDEN_DIR names a folder of golden data, the checkpoints in it are converted, too, and must
reproduce what the published code computes with them.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.published_layouts import CASES, PUBLISHED_DIR, needs_golden
from helpers.tiny_checkpoints import write
from safetensors.torch import load_file, save_file

import lzn_hf
from lzn_hf import LZNConfig, LZNPipeline
from lzn_hf.commands import convert_original_checkpoint as converter


def test_a_folder_has_exactly_these_files(converted):
    """And is as readable as any new folder."""
    flat = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    for case, folder in converted.items():
        pipeline = set() if case == "case_study_2" else {"model_index.json", "scheduler_config.json"}
        assert {path.name for path in folder.iterdir()} == flat | pipeline
        assert {path.name for path in folder.parent.iterdir()} == {"trainer.pt", "published.json", "out"}
        (folder.parent / "new").mkdir()
        assert folder.stat().st_mode == (folder.parent / "new").stat().st_mode
        assert LZNConfig.from_pretrained(folder).latent_solver == (
            "euler" if case == "case_study_2" else "dpmsolver++"
        )


def test_the_model_card_says_where_from_and_how_to_use(converted):
    cards = {case: (folder / "README.md").read_text() for case, folder in converted.items()}
    for card in cards.values():
        assert "| `published.json` | `trainer.pt` | 1234 | ema (moving averages) |" in card
        assert "set_reference_anchors(" in card and "{" not in card
    assert 'pipe(label="airplane"' in cards["case_study_3"] and "pipe.classify(" in cards["case_study_3"]
    assert "classify" not in cards["case_study_1_afhqcat"] and "pipe.reconstruct(" in cards["case_study_1_afhqcat"]
    assert "AutoModel.from_pretrained(" in cards["case_study_2"] and "40 x 40" in cards["case_study_2"]


def test_the_snippets_of_a_card_run_as_printed(converted, tmp_path, monkeypatch):
    """With images for the placeholders."""
    images = torch.rand(4, 3, 16, 16)
    for case, folder in converted.items():
        snippets = (folder / "README.md").read_text().split("```py\n")[1:]
        code = "\n".join(snippet.split("```")[0] for snippet in snippets)
        copied = tmp_path / case
        subprocess.run(["cp", "-r", str(folder), str(copied)], check=True)
        scope = {"images": images, "batches_of_training_images": [images, images]}
        exec(code.replace("path/to/this/folder", str(copied)), scope)
        assert scope["embeddings"].shape[0] == 4
        if case != "case_study_2":
            assert LZNPipeline.from_pretrained(copied).model.config.num_reference_anchors == 8


def test_the_log_names_what_is_dropped_once(tiny, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        converter.main(write(tmp_path, tiny["case_study_3"]))
    for line in (
        "optimizer: optimizer state is not carried over",
        "lr_scheduler: the state of the learning rate schedule is not carried over",
        "grad_scalar: the state of the gradient scaler is not carried over",
        "decoder: the buffer `sigmas` is not carried over, as nothing reads it",
        "encoder, decoder, label_anchor: the weights as trained are not carried over, but the moving averages",
    ):
        assert caplog.messages.count(line) == 1
    caplog.clear()
    with caplog.at_level(logging.INFO):
        converter.convert(tiny["case_study_3"]["checkpoint"], tiny["case_study_3"]["model"].config, "raw")
    averages = "encoder_ema, decoder_ema, label_anchor_ema: the moving averages are not carried over, but the weights as trained"
    assert averages in caplog.messages


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        converter.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for word in (
        *CASES,
        "set_reference_anchors",
        "examples:",
        "optimizer",
        "ema",
        "raw",
        "LZNPipeline.from_pretrained",
    ):
        assert word in text


USE = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel
from lzn_hf import LZNPipeline

torch.manual_seed(0)
for folder, inputs, answers in json.loads(sys.argv[1]):
    given, got = load_file(inputs), {}
    with torch.no_grad():
        if "sample_noise" in given:
            pipe = LZNPipeline.from_pretrained(folder)
            pipe.set_progress_bar_config(disable=True)
            model, images = pipe.model, {"pixel_values": given["images"]}
            euler = {"solver": "euler", "t_min": 1e-3, "num_inference_steps": 10, "output_type": "pt"}
            got["generated"] = pipe(latents=given["latents"], sample_noise=given["sample_noise"], **euler).images
            got["embeddings"] = pipe.embed(images)
            got["anchors"] = model.get_image_anchors(given["images"])
            got["image_latents"] = model.get_image_latents(given["images"], noise=given["noise"])  # in this batch
            model.set_reference_anchors(got["anchors"])
            rk45 = {"solver": "rk45", "t_min": 1e-3, "output_type": "pt"}
            one = {"pixel_values": given["images"][:1]}
            got["reconstructed"] = pipe.reconstruct(one, **rk45).images
            if model.config.num_labels:
                ranking = pipe.classify(images, top_k=model.config.num_labels)
                got["scores"] = torch.tensor([[guess["score"] for guess in row] for row in ranking])
                got["log_probs"] = model.classify_latents(given["latents"])
                got["of_a_label"] = pipe(label=1, num_images_per_label=2, **euler).images
        else:
            model = AutoModel.from_pretrained(folder).eval()
            output = model(given["images"])
            got["embeddings"], got["anchors"] = output.embeddings, output.anchors
            processor = AutoImageProcessor.from_pretrained(folder)
            got["pixel_values"] = processor(given["images"][0] / 2 + 0.5, return_tensors="pt").pixel_values
    save_file({name: tensor.contiguous() for name, tensor in got.items()}, answers)
"""


def use(tmp_path: Path, jobs: dict[str, tuple[Path, dict[str, torch.Tensor]]]) -> dict[str, dict[str, torch.Tensor]]:
    """What a new process gets out of each folder with the given inputs."""
    arguments = []
    for name, (folder, inputs) in jobs.items():
        save_file({key: tensor.contiguous() for key, tensor in inputs.items()}, tmp_path / f"{name}_inputs")
        arguments.append([str(folder), str(tmp_path / f"{name}_inputs"), str(tmp_path / f"{name}_answers")])
    command = [sys.executable, "-c", USE, json.dumps(arguments)]
    env = {**os.environ, "PYTHONPATH": str(Path(lzn_hf.__file__).parents[1])}
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return {name: load_file(tmp_path / f"{name}_answers") for name in jobs}


def test_a_new_process_opens_the_folder_and_computes_the_same(tiny, converted, tmp_path):
    jobs = {}
    for case, folder in converted.items():
        size = tiny[case]["model"].config.image_size
        inputs = {"images": torch.rand(3, 3, size, size) * 2 - 1}
        if case != "case_study_2":
            inputs |= {"latents": torch.randn(3, 6), "noise": torch.randn(3, 6)}
            inputs["sample_noise"] = torch.randn(3, 3, size, size)
        jobs[case] = (folder, inputs)
    for case, got in use(tmp_path, jobs).items():
        model, inputs = converter.convert(tiny[case]["checkpoint"], tiny[case]["model"].config), jobs[case][1]
        with torch.no_grad():
            features, anchors, _ = model.encoder(inputs["images"])
            torch.testing.assert_close(got["embeddings"], features if case == "case_study_2" else anchors)
            torch.testing.assert_close(got["anchors"], anchors)
            if case == "case_study_2":
                torch.testing.assert_close(got["pixel_values"], inputs["images"][:1], rtol=0, atol=1e-5)
                continue
            latents = model.get_image_latents(inputs["images"], noise=inputs["noise"])
            torch.testing.assert_close(got["image_latents"], latents)
            assert all(tensor.isfinite().all() for tensor in got.values())
            if case == "case_study_3":
                torch.testing.assert_close(got["log_probs"], model.classify_latents(inputs["latents"]))


@needs_golden
def test_converted_golden_checkpoints_reproduce_the_published_numbers(tmp_path):
    golden, jobs, expected = Path(PUBLISHED_DIR), {}, {}
    for name in ("cs1_tiny", "cs2_tiny", "cs3_tiny"):
        numbers = load_file(golden / f"{name}_outputs.safetensors")
        for weights, prefix in (("ema", "ema/"), ("raw", "")):
            published = json.loads((golden / f"{name}.config.json").read_text())
            inputs = {"images": numbers["in/data"][:, 0] if name == "cs2_tiny" else numbers["in/images"]}
            published["image_size"] = inputs["images"].shape[-1]  # of the ResNet, which has none
            (tmp_path / "published.json").write_text(json.dumps(published))
            folder = tmp_path / f"{name}_{weights}"
            flags = {"checkpoint": golden / f"{name}.pt", "config": tmp_path / "published.json", "output_dir": folder}
            flags["weights"] = weights
            converter.main([word for flag, value in flags.items() for word in (f"--{flag}", str(value))])
            if name != "cs2_tiny":
                latents = numbers[f"{prefix}latent_from_data"][:4]
                inputs |= {"latents": latents, "noise": numbers["in/prior"], "sample_noise": numbers["sampler/x0"]}
            jobs[folder.name], expected[folder.name] = (folder, inputs), (prefix, numbers)

    for name, got in use(tmp_path, jobs).items():
        prefix, numbers = expected[name]
        if name.startswith("cs2"):
            torch.testing.assert_close(got["embeddings"], numbers[f"{prefix}encoder/no_head_view0"], rtol=0, atol=1e-5)
            torch.testing.assert_close(got["anchors"], numbers[f"{prefix}encoder/head_view0"], rtol=0, atol=6e-5)
            continue
        torch.testing.assert_close(got["anchors"], numbers[f"{prefix}encoder/anchor"], rtol=0, atol=2e-5)
        latents = numbers[f"{prefix}latent_from_data"]  # with the float32 noise of the published flow
        torch.testing.assert_close(got["image_latents"], latents, rtol=0, atol=3e-3)
        if name.startswith("cs1") or name == "cs3_tiny_raw":
            key = "sampler/euler10_pred_label" if name.startswith("cs3") else f"{prefix}sampler/euler10"
            images = (numbers[key] / 2 + 0.5).clamp(0, 1)
            torch.testing.assert_close(got["generated"], images, rtol=0, atol=3e-4)
        if name.startswith("cs3"):
            labels = numbers["ema/label/pred" if prefix else "label/from_data/pred"]
            assert torch.equal(got["log_probs"].argmax(-1), labels[:4])
            torch.testing.assert_close(got["scores"].sum(1), torch.ones(8))
            assert got["of_a_label"].shape == (2, 3, 32, 32)
        image = jobs[name][1]["images"][:1] / 2 + 0.5
        assert (got["reconstructed"] - image).abs().max() < 0.05  # published: 0.005 and 0.044, of another run
        assert torch.equal(got["embeddings"], got["anchors"])
