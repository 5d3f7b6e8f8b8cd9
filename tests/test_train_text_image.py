# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""examples/train_text_image.py from captions to the final folder."""

from __future__ import annotations

import json
import re

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from helpers.training import TINY, forget_accelerators, weights, write_image_folder
from huggingface_hub import ModelCard
from PIL import Image as Picture
from transformers import AutoModel, AutoTokenizer

from lzn_hf import train_joint, train_text_image
from lzn_hf.card_lzn import EXAMPLE_TEXTS
from lzn_hf.data.images import load_image_data
from lzn_hf.evaluation.shared_cards import tried_texts
from lzn_hf.evaluation.sharing import export_folder


TEXT = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 8,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# Solvers without decisions that another order of sums takes otherwise.
SOLVERS = {"latent_solver": "euler", "alignment_solver": "euler"}
MODEL = {**TINY, **SOLVERS, "encoder_dropout": 0.0, "decoder_dropout": 0.0}
MODEL |= {"text_config": TEXT, "decoder_data_type": "text"}
CAPTIONS = {"templates": ["a {}", "one {} here"], "held_out_templates": ["see the {}"]}


@pytest.fixture
def run(tmp_path):
    """Runs the script on a folder of images; returns the folder that it writes."""
    data = write_image_folder(tmp_path / "images")
    preset, captions = tmp_path / "toys.json", tmp_path / "captions.json"
    preset.write_text(json.dumps({"model": MODEL}))
    captions.write_text(json.dumps(CAPTIONS))

    def run(name: str, flags: str = ""):
        forget_accelerators()
        argv = f"--preset {preset} --data_dir {data} --captions {captions} --output_dir {tmp_path / name} --max_train_steps 3"
        argv += f" --total_batch_size 8 --max_text_length 6 --samples_per_caption 1 --num_inference_steps 1 {flags}"
        return train_text_image.main(argv.split())

    return run


def test_a_run_leaves_a_folder_that_knows_texts(run, tmp_path):
    folder = run("model", "--eval_steps 2 --num_text_anchors 3")
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.num_labels == 0 and model.config.text_config.vocab_size == len(tokenizer)
    assert model.require_type_reference_anchors("text").shape == (3, TINY["latent_dim"])
    assert 0 < model.config.prediction_time <= 1
    tokens = tokenizer(["a thing"], return_tensors="pt", padding="max_length", truncation=True)
    latents = model.get_text_latents(
        tokens["input_ids"], tokens["attention_mask"], noise=torch.zeros(1, TINY["latent_dim"])
    )
    assert torch.isfinite(latents).all()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert "validation_accuracy" in lines[-1] and (folder / "samples.png").is_file()
    assert (folder / "samples" / "step-000002.png").is_file()


def test_the_card_tries_captions_of_the_labels_and_so_does_a_shared_folder(run, tmp_path):
    folder = run("model")
    texts = tried_texts(ModelCard.load(folder / "README.md"))
    assert len(texts) == 2 and all(re.fullmatch("see the .+", text) for text in texts) and texts[0] != texts[1]
    card = ModelCard.load(export_folder(folder, tmp_path / "shared") / "README.md")
    assert f"tokenizer({json.dumps(texts)}, padding=True" in card.text
    assert [example["candidate_labels"] for example in card.data.widget] == [", ".join(texts)] * 4
    for by_hand in ("['by', 'hand']", "[1, 2]", '["one"]', "[]"):
        assert tried_texts(ModelCard(f"---\n---\npipe.caption(images, {by_hand})")) == EXAMPLE_TEXTS
    assert tried_texts(None) == EXAMPLE_TEXTS


def test_a_run_is_resumed_to_the_bit_and_pools_of_micro_batches_are_whole(run):
    whole = run("whole", "--checkpointing_steps 2")
    stopped = run("stopped", "--max_train_steps 2 --checkpointing_steps 2")
    resumed = run("stopped", "--resume_from_checkpoint latest --checkpointing_steps 2")
    assert stopped == resumed
    a, b = weights(whole), weights(resumed)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    parts = run("parts", "--gradient_accumulation_steps 2 --pool_batch_size 8")
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
        for folder in (whole, parts)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_labelled_model_learns_texts(run, tmp_path):
    forget_accelerators()
    data, preset = tmp_path / "images", tmp_path / "labelled.json"
    without_texts = {name: value for name, value in MODEL.items() if name not in ("text_config", "decoder_data_type")}
    preset.write_text(json.dumps({"model": without_texts}))
    argv = f"--preset {preset} --data_dir {data} --output_dir {tmp_path / 'labelled'} --max_train_steps 1 --total_batch_size 8"
    labelled = train_joint.main([*argv.split(), "--samples_per_label", "1", "--num_inference_steps", "1"])
    tuned = run("tuned", f"--model_name_or_path {labelled} --encoder_learning_rate 0 --max_train_steps 1")
    before, after = weights(labelled), weights(tuned)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("encoder."))
    assert any(name.startswith("type_encoders.text.") for name in after) and "label_anchors" not in after
    assert AutoModel.from_pretrained(tuned).config.decoder_data_type == "text"
    again = run("again", f"--model_name_or_path {tuned} --max_train_steps 1")
    assert AutoTokenizer.from_pretrained(again).get_vocab() == AutoTokenizer.from_pretrained(tuned).get_vocab()


def test_a_model_of_texts_learns_labels(run, tmp_path):
    """It goes on without texts, which would not be trained, and its decoder without their anchors."""
    folder = run("texts")
    forget_accelerators()
    argv = f"--model_name_or_path {folder} --data_dir {tmp_path / 'images'} --output_dir {tmp_path / 'labelled'} --max_train_steps 1"
    argv += " --total_batch_size 8 --samples_per_label 1 --num_inference_steps 1"
    model = AutoModel.from_pretrained(train_joint.main(argv.split()))
    assert model.config.decoder_data_type is None and model.config.num_labels == 3
    assert model.config.text_config is None and not any(
        "type_encoders" in name for name in weights(tmp_path / "labelled")
    )
    with pytest.raises(ValueError, match="has text_config, which train_joint does not train"):
        train_joint.main(
            [*argv.split(), "--overwrite_output_dir", "--config_overrides", f"text_config={json.dumps(TEXT)}"]
        )
    known = weights(folder)["decoder.condition_embedding.linear1.weight"][:, : model.config.latent_dim]
    now = model.decoder.condition_embedding.linear1.weight[:, : model.config.latent_dim]
    assert (known - now).abs().max() < 0.1 and known.std() > 0


def test_captions_of_a_column_strings_and_lists(tmp_path):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (12, 8, 8), dtype=torch.uint8, generator=generator).numpy()
    rows = {
        "image": [Picture.fromarray(one) for one in pixels],
        "caption": [[f"a thing {i % 4}", f"thing {i % 4} again"] for i in range(12)],
    }
    features = Features({"image": Image(), "caption": List(Value("string"))})
    folder = tmp_path / "data"
    folder.mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    data = load_image_data(data_dir=folder, label_column="caption", validation_fraction=0.25)
    assert data.label_names[0] == "a thing 0\nthing 0 again" and len(data.label_names) == 4
    forget_accelerators()
    preset = tmp_path / "toys.json"
    preset.write_text(json.dumps({"model": MODEL}))
    argv = f"--preset {preset} --data_dir {folder} --caption_column caption --output_dir {tmp_path / 'model'} --max_train_steps 1"
    argv += " --total_batch_size 4 --samples_per_caption 1 --num_inference_steps 1 --validation_fraction 0.25"
    folder = train_text_image.main(argv.split())
    assert {"thing", "again", "3"} <= set(AutoTokenizer.from_pretrained(folder).get_vocab())
    assert tried_texts(ModelCard.load(folder / "README.md")) == list(EXAMPLE_TEXTS)  # not those of the data


def test_a_model_without_texts_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="`text_config` must have the `model_type`"):
        run("refused", "--config_overrides text_config=null")
    assert not (tmp_path / "refused").exists()


SHORT = "--max_train_steps 1 --total_batch_size 4 --samples_per_caption 1 --num_inference_steps 1 --dry_run"


def write_captioned(folder, column):
    """Images with a metadata.jsonl, as tutorials of text to image have them."""
    folder.mkdir()
    rows = []
    for i in range(12):
        Picture.new("L", (8, 8), 20 * i).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", column: f"a thing {i % 4}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.mark.parametrize("column", ["text", "caption"])
def test_a_folder_with_captions_needs_no_flags(column, tmp_path, caplog):
    """The captions of the preset describe its own data, the digits."""
    data = write_captioned(tmp_path / "data", column)
    forget_accelerators()
    options = "--config_overrides decoder_channel_multipliers=[1] encoder_channel_multipliers=[1]"
    with caplog.at_level("INFO"):
        train_text_image.main(f"--data_dir {data} {SHORT} --validation_fraction 0.25 {options}".split())
    assert f"The captions are those of the column {column!r}" in caplog.text


def test_class_folders_are_captions_without_flags(tmp_path):
    argv = ["--data_dir", str(write_image_folder(tmp_path / "images"))]
    parsed = train_text_image.parse_arguments(
        train_text_image.ARGUMENTS,
        train_text_image.PRESETS_DIR / "text-image",
        argv,
        default_preset="digits-captions",
    )
    assert parsed[-1].captions == "none"
    own = tmp_path / "own.json"  # a preset without data: its captions are for the data of the command line
    own.write_text(json.dumps({"text": {"captions": "mine.json"}}))
    parsed = train_text_image.parse_arguments(
        train_text_image.ARGUMENTS, train_text_image.PRESETS_DIR / "text-image", [*argv, "--preset", str(own)]
    )
    assert parsed[-1].captions == "mine.json"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "the data has no captions: name their column by `--caption_column`"),
        ("--caption_column note --captions digits", "`captions` must be none with a `caption_column`"),
    ],
)
def test_where_captions_are_missing_or_double_is_named(flags, message, tmp_path):
    data = write_captioned(tmp_path / "data", "note")
    forget_accelerators()
    with pytest.raises(ValueError, match=message):
        train_text_image.main(f"--data_dir {data} {SHORT} {flags}".split())
