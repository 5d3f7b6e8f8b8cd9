# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The evaluation script on a tiny model, in one process and in two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.pipelines import make_pipeline
from helpers.training import forget_accelerators, launch, write_image_folder
from PIL import Image

from lzn_hf.commands import evaluate_generation


SCRIPT = ROOT / "examples" / "evaluate_generation.py"


@pytest.fixture(autouse=True)
def fresh_state():
    forget_accelerators()
    yield
    forget_accelerators()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("evaluated") / "joint"
    make_pipeline(names=["cat", "dog", "eel"]).save_pretrained(path)
    return path


def test_two_processes_measure_what_one_does(folder, tmp_path, capsys):
    """Started as users start them; 7 samples and 5 reconstructions are not evenly divided."""
    images = write_image_folder(tmp_path / "images")
    flags = ["--model_name_or_path", folder, "--data_dir", images, "--num_samples", 7, "--batch_size", 3]
    flags += ["--samplers", "euler:1", "euler:4", "unipc:2", "--reconstruction_samplers", "heun:2"]
    flags += ["--num_reconstructions", 5, "--seed", 4]
    flags = list(map(str, flags))
    launch("torch.distributed.run", "--nproc_per_node", "2", SCRIPT, *flags, "--output_dir", tmp_path / "two")
    results = evaluate_generation.main([*flags, "--output_dir", str(tmp_path / "one")])
    printed = capsys.readouterr().out
    for name in ("one", "two"):
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["evaluation.json", "quality.png"]
        assert np.asarray(Image.open(tmp_path / name / "quality.png")).std() > 10
    one, two = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two"))
    assert one == results and list(one["samplers"]) == ["euler:1", "euler:4", "unipc:2"]
    assert one["reference"] == {"split": "validation", "images": 9} and one["real_images"]["images"] == 7
    for section in ("samplers", "reconstruction"):
        for name in one[section]:
            assert two[section].pop(name) == pytest.approx(one[section][name], rel=1e-3, abs=1e-3), name
    assert two.pop("real_images") == one.pop("real_images")  # the same images in the same order
    assert {**one, "samplers": {}, "reconstruction": {}} == two
    for text in ("euler:4", "real (train)", "features: pixels", "frechet_distance", "psnr", "class_consistency"):
        assert text in printed, text


def test_a_plot_needs_several_numbers_of_steps(tmp_path):
    numbers, path = {"evaluations": 10.0, "frechet_distance": 3.0}, tmp_path / "quality.png"
    results = {"samplers": {"unipc:10": numbers, "euler:10": numbers}, "real_images": None}
    results["settings"] = {"feature_extractor": "pixels", "num_samples": 7}
    results["reference"] = {"split": "validation", "images": 9}
    path.write_text("of an earlier run")
    evaluate_generation.write_plot(results, path)
    assert not path.exists()
    results["samplers"]["unipc:20"] = {"evaluations": 20.0, "frechet_distance": 1.0}
    evaluate_generation.write_plot(results, path)
    without = path.read_bytes()
    results["real_images"] = {"frechet_distance": 0.5}
    evaluate_generation.write_plot(results, path)
    assert path.read_bytes() != without


def test_update_of_a_card_needs_a_card(tmp_path, folder):
    with pytest.raises(ValueError, match="`update_model_card` needs a README.md in the folder"):
        evaluate_generation.main(["--model_name_or_path", str(tmp_path), "--update_model_card"])
