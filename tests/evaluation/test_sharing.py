# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A folder to share is complete, whatever kind of model was saved, and however. (tests/commands/test_export_to_hub.py opens it.)"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from helpers.models import TINY_RESNET, tiny_config
from helpers.pipelines import make_pipeline
from helpers.texts import make_text_pipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoProcessor

from lzn_hf import LZNForImageClassification, LZNImageProcessor, LZNModel, LZNPipeline, LZNProcessor
from lzn_hf.evaluation.sharing import auto_map, code_files, export_folder


def names(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


CODE = {path.name for path in code_files()}
MODEL = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
PIPELINE = {"model_index.json", "scheduler_config.json"}
EXAMPLES = {f"examples/{number}.png" for number in range(4)}


def test_a_model_alone_becomes_a_pipeline(tmp_path):
    pipe = make_pipeline(names=["cat", "dog"])
    pipe.model.save_pretrained(tmp_path / "model")
    folder = export_folder(tmp_path / "model", tmp_path / "shared", draw_samples=lambda pipe: Image.new("L", (5, 5)))
    examples = {"examples/0.png", "examples/1.png"}
    assert names(folder) == MODEL | PIPELINE | CODE | examples | {"samples.png"}
    opened = LZNPipeline.from_pretrained(folder)
    assert opened.image_processor.to_dict()["size"] == {"height": 8, "width": 8}
    assert all(torch.equal(a, b) for a, b in zip(opened.model.parameters(), pipe.model.parameters(), strict=True))


def test_an_encoder_alone_has_no_generated_images(tmp_path):
    model = LZNModel(tiny_config(num_labels=0, decoder_type=None, **TINY_RESNET))
    model.save_pretrained(tmp_path / "model")
    folder = export_folder(tmp_path / "model", tmp_path / "shared")
    assert names(folder) == MODEL | CODE
    assert AutoImageProcessor.from_pretrained(folder).to_dict()["size"] == {"height": 8, "width": 8}
    assert "AutoModelForImageClassification" not in json.loads((folder / "config.json").read_text())["auto_map"]


def test_a_rectified_flow_shows_what_it_generates(tmp_path):
    pipe = make_pipeline(names=[], encoder_type=None, num_reference_anchors=0)
    pipe.save_pretrained(tmp_path / "flow")
    folder = export_folder(tmp_path / "flow", tmp_path / "shared")
    assert names(folder) == MODEL | PIPELINE | CODE | EXAMPLES
    card = (folder / "README.md").read_text()
    assert "url: examples/0.png" in card and "src:" not in card


def test_all_auto_classes_are_named(tmp_path):
    pipe = make_pipeline()
    pipe.save_pretrained(tmp_path / "joint")
    pipe.model.config.auto_map = {
        "AutoModel": "someone/else--modeling.Model"
    }  # as of a model that was opened as remote code
    pipe.model.save_pretrained(tmp_path / "joint")
    folder = export_folder(tmp_path / "joint", tmp_path / "shared")
    config = json.loads((folder / "config.json").read_text())
    assert (
        config["auto_map"]
        == auto_map(pipe.model.config)
        == {
            "AutoConfig": "configuration_lzn.LZNConfig",
            "AutoModel": "modeling_lzn.LZNModel",
            "AutoModelForImageClassification": "modeling_classification_lzn.LZNForImageClassification",
            "AutoImageProcessor": "image_processing_lzn.LZNImageProcessor",
        }
    )
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["auto_map"]["AutoImageProcessor"][0] == "image_processing_lzn.LZNImageProcessor"


@pytest.mark.parametrize("has_index", [True, False])
def test_texts_come_with_their_tokenizer_and_auto_classes(tmp_path, has_index):
    """Also of a model and a tokenizer that were saved by themselves."""
    pipe = make_text_pipeline()
    if has_index:
        pipe.save_pretrained(tmp_path / "texts")
    else:
        pipe.model.save_pretrained(tmp_path / "texts")
        pipe.tokenizer.save_pretrained(tmp_path / "texts")
    folder = export_folder(tmp_path / "texts", tmp_path / "shared")
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "processor_config.json"}
    assert names(folder) == MODEL | PIPELINE | CODE | EXAMPLES | tokenizer
    assert {"processing_lzn.py", "modeling_zero_shot_lzn.py", "types_lzn.py", "networks_types.py"} <= CODE
    classes = json.loads((folder / "config.json").read_text())["auto_map"]
    assert classes["AutoProcessor"] == "processing_lzn.LZNProcessor"
    zero_shot = "modeling_zero_shot_lzn.LZNForZeroShotImageClassification"
    assert classes["AutoModelForZeroShotImageClassification"] == zero_shot
    assert json.loads((folder / "processor_config.json").read_text())["auto_map"] == {
        "AutoProcessor": classes["AutoProcessor"]
    }
    opened = LZNPipeline.from_pretrained(folder)
    assert opened.tokenizer.get_vocab() == pipe.tokenizer.get_vocab()
    assert type(AutoProcessor.from_pretrained(folder)) is LZNProcessor


def test_weights_are_copied_as_they_are(tmp_path):
    pipe = make_pipeline()
    pipe.save_pretrained(tmp_path / "joint", max_shard_size="100KB")
    pipe.save_pretrained(tmp_path / "joint", variant="ema")
    save_file({"step": torch.zeros(1)}, tmp_path / "joint" / "optimizer.safetensors")  # not ours
    folder = export_folder(tmp_path / "joint", tmp_path / "shared")
    weights = {name for name in names(tmp_path / "joint") if name.startswith("model.") or "-of-" in name}
    assert len(weights) > 4 and weights == {n for n in names(folder) if n.startswith("model") and "safetensors" in n}
    for name in weights:
        assert (folder / name).read_bytes() == (tmp_path / "joint" / name).read_bytes()


def test_pictures_of_the_card_come_along_and_other_files_do_not(tmp_path):
    make_pipeline().save_pretrained(tmp_path / "joint")
    with (tmp_path / "joint" / "README.md").open("a") as card:
        card.write("\n![Map](maps/embeddings.png) [log](https://log.example/x.txt)\n")
    for name in ("maps/embeddings.png", "maps/other.png", "metrics.jsonl", ".env"):
        (tmp_path / "joint" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "joint" / name).touch()
    folder = export_folder(tmp_path / "joint", tmp_path / "shared")
    assert names(folder) == MODEL | PIPELINE | CODE | EXAMPLES | {"maps/embeddings.png"}


def test_examples_of_ones_own_are_kept(tmp_path):
    make_pipeline().save_pretrained(tmp_path / "joint")
    card = (tmp_path / "joint" / "README.md").read_text()
    (tmp_path / "joint" / "README.md").write_text(card.replace("---\n", "---\nwidget:\n- src: mine.png\n", 1))
    (tmp_path / "joint" / "mine.png").write_bytes(b"mine")
    folder = export_folder(tmp_path / "joint", tmp_path / "shared")
    assert names(folder) == MODEL | PIPELINE | CODE | {"mine.png"}
    assert "src: mine.png" in (folder / "README.md").read_text()


def test_a_saved_classifier_is_the_same_model(tmp_path):
    make_pipeline().model.save_pretrained(tmp_path / "model")
    LZNForImageClassification.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "classifier")
    LZNImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.4], image_std=[0.5]).save_pretrained(
        tmp_path / "classifier"
    )
    folder = export_folder(tmp_path / "classifier", tmp_path / "shared")
    pipe = LZNPipeline.from_pretrained(folder)
    assert pipe.image_processor.image_mean == (0.4,)
    image = Image.linear_gradient("L").resize((8, 8))
    classifier = LZNForImageClassification.from_pretrained(folder).eval()
    logits = classifier(**pipe.image_processor(image, return_tensors="pt")).logits[0]
    assert (
        max(pipe.classify(image)[0], key=lambda row: row["score"])["label"]
        == pipe.model.config.id2label[int(logits.argmax())]
    )


def test_a_failure_leaves_the_folders_as_they_were(tmp_path):
    make_pipeline().save_pretrained(tmp_path / "joint")
    before = {name: (tmp_path / "joint" / name).read_bytes() for name in names(tmp_path / "joint")}

    def draw(pipe):
        raise OSError("disk full")

    for target in ("joint", "shared"):
        with pytest.raises(OSError, match="disk full"):
            export_folder(tmp_path / "joint", tmp_path / target, draw_samples=draw)
    assert {name: (tmp_path / "joint" / name).read_bytes() for name in names(tmp_path / "joint")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["joint"]


def missing(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({name: weights[name] for name in list(weights)[1:]}, folder / "model.safetensors", {"format": "pt"})


def unexpected(folder):
    weights = load_file(folder / "model.safetensors") | {"encoder.stranger": torch.zeros(1)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def only_a_variant(folder):
    (folder / "model.safetensors").rename(folder / "model.half.safetensors")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def other_model(folder):
    (folder / "config.json").write_text('{"model_type": "vit"}')


def inside(folder):
    (folder / "config.json").rename(folder / "x")
    shutil.copytree(folder, folder / "final")
    (folder / "x").rename(folder / "final" / "config.json")


def adapters(folder):
    (folder / "adapter_config.json").touch()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, r"the weights of .* lack \w+\.\S+: the folder is incomplete"),
        (unexpected, r"the weights of .* have encoder.stranger, which the model has not"),
        (only_a_variant, r"lacks model.safetensors. It has only the variants half: save one without `variant`"),
        (no_weights, r"lacks model.safetensors. It has only README.md"),
        (other_model, r"has a model of type 'vit'"),
        (inside, r"has no config.json of a model. Saved models are in final"),
        (adapters, r"adapters of PEFT alone"),
    ],
)
def test_what_is_no_whole_model_is_refused(damage, message, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "joint")
    damage(tmp_path / "joint")
    with pytest.raises(ValueError, match=message):
        export_folder(tmp_path / "joint", tmp_path / "shared")
    assert [path.name for path in tmp_path.iterdir()] == ["joint"]
