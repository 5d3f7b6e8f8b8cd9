# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""One saved folder serves everything: LZNPipeline, DiffusionPipeline, the auto classes and pipelines of transformers."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    PipelineQuantizationConfig,
    UniPCMultistepScheduler,
)
from helpers.pipelines import NAMES, generate, make_pipeline
from PIL import Image
from transformers import AutoModel, QuantoConfig

import lzn_hf
from lzn_hf import LZNForImageClassification, LZNModel, LZNPipeline
from lzn_hf.pipeline_folder_lzn import _load_variant
from lzn_hf.sampling_lzn import default_scheduler


FILES = {
    "README.md",
    "config.json",
    "model.safetensors",
    "model_index.json",
    "preprocessor_config.json",
    "scheduler_config.json",
}


@pytest.fixture(scope="module")
def pipe() -> LZNPipeline:
    return make_pipeline()


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "model"
    pipe.save_pretrained(path)
    return path


@pytest.fixture
def images() -> list[Image.Image]:
    return [Image.fromarray(np.random.randint(0, 256, (8, 8), dtype=np.uint8)) for _ in range(5)]


def assert_same(images, expected):
    """Weights of a file lie elsewhere in memory than those of a fresh model, and some processors' matrix products round by that."""
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


def test_files(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "LZNPipeline"
    assert index["model"] == ["lzn_hf", "LZNModel"] and index["image_processor"] == ["lzn_hf", "LZNImageProcessor"]
    assert index["scheduler"] == ["diffusers", "UniPCMultistepScheduler"]
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LZNModel"]


def test_reload(pipe, folder, images):
    for loader in (LZNPipeline, DiffusionPipeline):
        loaded = loader.from_pretrained(folder)
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded) is LZNPipeline
        assert_same(generate(loaded, "one"), generate(pipe, "one"))
        assert loaded.classify(images) == pipe.classify(images)


def test_saving_again_writes_the_same(folder, tmp_path):
    LZNPipeline.from_pretrained(folder).save_pretrained(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
        assert str(folder).encode() not in (tmp_path / name).read_bytes()


def test_a_card_is_kept(pipe, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_save_directory_must_not_be_a_file(pipe, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(ValueError, match="`save_directory` must be a folder, got the file"):
        pipe.save_pretrained(path)
    assert path.read_text() == ""


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_missing_file(folder, tmp_path, name):
    for path in folder.iterdir():
        if path.name != name:
            shutil.copy(path, tmp_path / path.name)
    with pytest.raises(FileNotFoundError, match=f"lacks {re.escape(name)}. Save the whole pipeline"):
        LZNPipeline.from_pretrained(tmp_path)


def test_components_can_be_passed(pipe, folder, tmp_path):
    loaded = LZNPipeline.from_pretrained(folder, scheduler=FlowMatchEulerDiscreteScheduler(), model=pipe.model)
    assert type(loaded.scheduler) is FlowMatchEulerDiscreteScheduler and loaded.model is pipe.model
    for name in ("model_index.json", "preprocessor_config.json"):
        shutil.copy(folder / name, tmp_path / name)
    loaded = LZNPipeline.from_pretrained(tmp_path, scheduler=default_scheduler(), model=pipe.model)
    assert loaded.image_processor.to_dict() == pipe.image_processor.to_dict()


def test_passed_scheduler_is_checked(folder):
    with pytest.raises(ValueError, match="use_flow_sigmas=True"):
        LZNPipeline.from_pretrained(folder, scheduler=UniPCMultistepScheduler())


def test_folder_of_the_model_alone(pipe, tmp_path):
    pipe.model.save_pretrained(tmp_path)
    with pytest.raises(
        FileNotFoundError, match="lacks model_index.json, scheduler_config.json, preprocessor_config.json"
    ):
        LZNPipeline.from_pretrained(tmp_path)
    loaded = LZNPipeline.from_model(LZNModel.from_pretrained(tmp_path))
    loaded.set_progress_bar_config(disable=True)
    assert_same(generate(loaded, "one"), generate(pipe, "one"))


def test_from_pipe_and_components(pipe):
    other = LZNPipeline.from_pipe(pipe)
    assert other.model is pipe.model and set(other.components) == {
        "model",
        "scheduler",
        "image_processor",
        "tokenizer",
    }
    assert torch.equal(generate(other, "one"), generate(pipe, "one"))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float64, 1e-5)])
def test_dtype(pipe, folder, images, dtype, tolerance):
    loaded = LZNPipeline.from_pretrained(folder, dtype=dtype)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.dtype == dtype
    assert (generate(loaded, "one") - generate(pipe, "one")).abs().max() < tolerance
    assert loaded.embed(images).dtype == torch.float32 and len(loaded.classify(images)) == 5
    assert loaded.reconstruct(images, num_inference_steps=2, output_type="pt").images.dtype == torch.float32
    assert loaded.to(torch.float32).dtype == torch.float32


def test_offloaded_model(pipe, images):
    """What `enable_sequential_cpu_offload` does: weights are on the meta device and come for each call."""
    from accelerate import cpu_offload

    offloaded = LZNPipeline.from_model(copy.deepcopy(pipe.model))
    offloaded.set_progress_bar_config(disable=True)
    cpu_offload(offloaded.model, execution_device="cpu")
    assert next(offloaded.model.decoder.parameters()).device.type == "meta"
    assert torch.equal(generate(offloaded, "one"), generate(pipe, "one"))
    assert offloaded.classify(images) == pipe.classify(images) and torch.equal(
        offloaded.embed(images), pipe.embed(images)
    )


def test_same_classifier_in_transformers(pipe, folder, images):
    classifier = LZNForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        logits = classifier(pipe.image_processor(images, return_tensors="pt").pixel_values).logits
    assert [row[0]["label"] for row in pipe.classify(images)] == [NAMES[i] for i in logits.argmax(-1).tolist()]


CLEAN_PROCESS = """
import json, sys
import torch
from PIL import Image
from diffusers import DiffusionPipeline
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
import lzn_hf

folder, picture = sys.argv[1:]
image = Image.open(picture)
pipe = DiffusionPipeline.from_pretrained(folder)
answers = {
    "classes": [type(x).__name__ for x in (
        AutoConfig.from_pretrained(folder), AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder),
        AutoModelForImageClassification.from_pretrained(folder), pipe,
    )],
    "generated": pipe(label="one", num_inference_steps=6, generator=torch.Generator().manual_seed(0), output_type="pt").images.tolist(),
    "classified": pipeline("image-classification", model=folder)(image.convert("RGB"), top_k=2),
    "features": pipeline("image-feature-extraction", model=folder)(image.convert("RGB")),
    "pooled": pipeline("image-feature-extraction", model=folder)(image.convert("RGB"), pool=True),
    "torchvision": "torchvision" in sys.modules,
}
print("ANSWERS" + json.dumps(answers))
"""


def test_everything_opens_the_folder_in_a_clean_process(pipe, folder, images, tmp_path):
    images[0].save(tmp_path / "image.png")
    env = {**os.environ, "PYTHONPATH": str(Path(lzn_hf.__file__).parents[1])}
    command = [sys.executable, "-c", CLEAN_PROCESS, str(folder), str(tmp_path / "image.png")]
    run = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    answers = json.loads(run.stdout.split("ANSWERS")[1])
    names = ["LZNConfig", "LZNModel", "LZNImageProcessor", "LZNForImageClassification", "LZNPipeline"]
    assert answers["classes"] == names and not answers["torchvision"]
    torch.testing.assert_close(torch.tensor(answers["generated"]), generate(pipe, "one"), atol=1e-5, rtol=0)
    (expected,) = pipe.classify(images[0], top_k=2)
    assert [entry["label"] for entry in answers["classified"]] == [entry["label"] for entry in expected]
    scores = [[entry["score"] for entry in entries] for entries in (answers["classified"], expected)]
    np.testing.assert_allclose(*scores, atol=1e-5)
    for features in ("features", "pooled"):
        torch.testing.assert_close(torch.tensor(answers[features]), pipe.embed(images[0]), atol=1e-5, rtol=1e-5)


def test_folder_of_a_model_without_latents(tmp_path):
    """A plain rectified flow: no encoder in the folder, and the pipeline generates as before."""
    pipe = make_pipeline(names=[], num_reference_anchors=0, encoder_type=None)
    pipe.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    loaded = LZNPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.model.encoder is None and loaded.model.label_anchors is None
    assert torch.equal(generate(loaded, num_images_per_label=3), generate(pipe, num_images_per_label=3))
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded.invert(images).noise, pipe.invert(images).noise)


def weights_of(model: LZNModel) -> torch.Tensor:
    """All weights and buffers in one row."""
    return torch.cat([weight.flatten() for weight in model.state_dict().values()])


SHARDED = {"max_shard_size": "20KB"}  # 17 files


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ({"variant": "ema"}, {"model.ema.safetensors"}),
        (SHARDED, {"model-00001-of-00017.safetensors", "model.safetensors.index.json"}),
        ({"variant": "ema", **SHARDED}, {"model.ema-00001-of-00017.safetensors", "model.safetensors.index.ema.json"}),
    ],
)
def test_variants_and_shards_open_again(pipe, images, tmp_path, arguments, files):
    pipe.save_pretrained(tmp_path, **arguments)
    found = {path.name for path in tmp_path.iterdir()}
    assert files <= found and "model.safetensors" not in found
    chosen = {name: value for name, value in arguments.items() if name == "variant"}
    loaded = LZNPipeline.from_pretrained(tmp_path, **chosen)
    assert torch.equal(weights_of(loaded.model), weights_of(pipe.model)) and loaded.classify(images) == pipe.classify(
        images
    )
    assert loaded.name_or_path == tmp_path
    assert torch.equal(weights_of(AutoModel.from_pretrained(tmp_path, **chosen)), weights_of(pipe.model))
    assert ('variant="ema"' in (tmp_path / "README.md").read_text()) == bool(chosen)


def test_variants_live_side_by_side(pipe, tmp_path):
    """Saving one leaves the files of the others alone, whole or in shards, and nothing old of its own."""
    expected = {}
    saves = [(None, {}), ("ema", SHARDED), ("raw", {}), (None, SHARDED), ("ema", {}), ("raw", SHARDED), (None, {})]
    for number, (variant, arguments) in enumerate(saves):
        changed = LZNPipeline.from_model(copy.deepcopy(pipe.model))
        with torch.no_grad():
            next(changed.model.parameters()).fill_(number)
        changed.save_pretrained(tmp_path, variant=variant, **arguments)
        expected[variant] = weights_of(changed.model)
        for name, weights in expected.items():
            assert torch.equal(weights_of(LZNPipeline.from_pretrained(tmp_path, variant=name).model), weights), name
    whole, shards = (
        {"model.safetensors", "model.ema.safetensors"},
        {f"model.raw-{i:05}-of-00017.safetensors" for i in range(1, 18)},
    )
    expected_files = FILES | whole | shards | {"model.safetensors.index.raw.json"}
    assert {path.name for path in tmp_path.iterdir()} == expected_files


def test_components_of_a_variant(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, variant="ema")
    with pytest.raises(FileNotFoundError, match=r"lacks model.safetensors. It has the variants ema: pass one as"):
        LZNPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`variant` must be one of .*, which has ema, got 'fp16'"):
        LZNPipeline.from_pretrained(tmp_path, variant="fp16")
    scheduler = FlowMatchEulerDiscreteScheduler()
    loaded = LZNPipeline.from_pretrained(
        tmp_path, variant="ema", scheduler=scheduler, dtype=torch.float64, device_map="cpu"
    )
    assert loaded.scheduler is scheduler and loaded.dtype == torch.float64 and loaded.hf_device_map == "cpu"
    assert _load_variant(tmp_path, "ema", {"device_map": "meta"}).device.type == "meta"
    for name in ("dtype", "torch_dtype"):
        loaded = LZNPipeline.from_pretrained(tmp_path, variant="ema", model=None, **{name: {"model": torch.bfloat16}})
        assert loaded.dtype == torch.bfloat16
    for variant in ("ema", "fp16", None):  # the weights are those of the model
        assert LZNPipeline.from_pretrained(tmp_path, variant=variant, model=pipe.model).model is pipe.model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"use_safetensors": False},
            "`use_safetensors` must be True, got False: .* nothing is ever pickled or unpickled",
        ),
        ({"variant": "e.ma"}, "`variant` must be of letters, digits, '_' and '-', such as 'fp16', got 'e.ma'"),
        ({"variant": "ema", "device_map": "balanced"}, "`device_map` must not be 'balanced' with a `variant`"),
        (
            {
                "variant": "ema",
                "quantization_config": PipelineQuantizationConfig(quant_mapping={"model": QuantoConfig()}),
            },
            "`quantization_config` must not be .* with a `variant`",
        ),
    ],
)
def test_what_is_not_loaded(pipe, tmp_path, arguments, message):
    pipe.save_pretrained(tmp_path)
    pipe.save_pretrained(tmp_path, variant="ema")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match=message):
        LZNPipeline.from_pretrained(tmp_path, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"safe_serialization": False},
            "`safe_serialization` must be True, got False: .* nothing is ever pickled or unpickled",
        ),
        ({"use_flashpack": True}, "`use_flashpack` must be False, got True"),
        ({"variant": "a/b"}, "`variant` must be of letters, digits, '_' and '-', such as 'fp16', got 'a/b'"),
        ({"variant": 16}, "`variant` must be of letters, digits, '_' and '-', such as 'fp16', got 16"),
        ({"privat": True}, "`kwargs` may hold repo_id, commit_message, private, token, create_pr, got privat"),
    ],
)
def test_what_is_not_saved(pipe, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe.save_pretrained(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_what_is_not_pushed(pipe):
    for arguments, message in (
        ({"safe_serialization": False}, "`safe_serialization` must be True"),
        ({"variant": ""}, "`variant` must"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe.push_to_hub("me/model", **arguments)
    with pytest.raises(ValueError, match="`use_safetensors` must be True"):
        LZNPipeline.download("me/model", use_safetensors=False)


class OtherEuler(FlowMatchEulerDiscreteScheduler):
    pass


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DDIMScheduler(), "`_class_name` must be one of"),
        (OtherEuler(), "`_class_name` must be one of"),
        (default_scheduler().from_config(default_scheduler().config, solver_p=default_scheduler()), "JSON"),
    ],
)
def test_a_scheduler_that_could_not_be_loaded_is_not_saved(pipe, scheduler, message, tmp_path):
    other = LZNPipeline(**pipe.components)
    other.scheduler = scheduler
    with pytest.raises(ValueError, match=message):
        other.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=message):
        other.push_to_hub("someone/new")
