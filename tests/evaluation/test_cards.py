# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A card says what its model is and does: no more, no less; and its snippets run."""

from __future__ import annotations

import re

import pytest
import torch
from helpers.models import tiny_config
from huggingface_hub import ModelCard

from lzn_hf import LZNModel
from lzn_hf.evaluation.cards import PICTURES, make_model_card
from lzn_hf.evaluation.shared_cards import complete_card, linked_files
from lzn_hf.evaluation.sharing import save_components
from lzn_hf.training.arguments import DataArguments, RunArguments
from lzn_hf.training.settings import resolve_settings


LABELS = {"num_labels": 2, "id2label": {0: "cat", 1: "dog"}}
KINDS = {
    "joint": {**LABELS, "num_reference_anchors": 9},
    "classifier": {**LABELS, "decoder_type": None},
    "flow of labels": {**LABELS, "encoder_type": None},
    "unconditional": {"num_labels": 0, "num_reference_anchors": 9},
    "rectified flow": {"num_labels": 0, "encoder_type": None},
    "representation": {"num_labels": 0, "decoder_type": None, "num_reference_anchors": 9},
    "joint without anchors": LABELS,
}
ENCODERS = {"joint", "unconditional", "representation", "classifier", "joint without anchors"}
GENERATORS = set(KINDS) - {"representation", "classifier"}
# What a card of each kind says, of all of this.
SAYS = {
    "pipe.classify": {"joint"},
    "pipe.embed": ENCODERS & GENERATORS,
    "pipe.reconstruct": {"joint", "unconditional", "rectified flow"},
    "LZNPipeline": GENERATORS,
    'label="cat"': {"joint", "flow of labels", "joint without anchors"},
    'pipeline("image-classification"': {"joint"},
    'pipeline("image-feature-extraction"': ENCODERS,
    "AutoModel.from_pretrained": ENCODERS,
    "6 latent dimensions": ENCODERS,
    "classifies images": {"joint", "joint without anchors"},
    "without labels": {"unconditional", "representation"},
    "as a baseline": {"rectified flow", "flow of labels", "classifier"},
    "none says that no label fits": {"joint"},
    "Generated images may resemble": GENERATORS,
    "no reference anchors": {"joint without anchors"},
}
TASKS = {
    "joint": "image-classification",
    "unconditional": "image-feature-extraction",
    "rectified flow": "unconditional-image-generation",
    "representation": "image-feature-extraction",
    "classifier": "image-feature-extraction",
    "flow of labels": "unconditional-image-generation",
    "joint without anchors": "image-feature-extraction",
}


def make_card(config, tmp_path, **changes) -> ModelCard:
    options = {
        "model_id": "me/lzn-toys",
        "dataset": "toys",
        "metrics": {"validation_accuracy": 0.98765},
        "settings": resolve_settings(config, data=DataArguments(max_shift=3), training=RunArguments(seed=77)),
        "parameters": 1234,
        "hub_dataset": "me/toys",
    }
    make_model_card(config, **(options | changes)).save(tmp_path / "README.md")
    return ModelCard.load(tmp_path / "README.md")


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_says_what_its_kind_of_model_does(kind, tmp_path):
    card = make_card(tiny_config(**KINDS[kind]), tmp_path)
    for text, kinds in SAYS.items():
        assert (text in card.text) == (kind in kinds), text
    assert card.data.pipeline_tag == TASKS[kind]
    generates = "image-generation" in card.data.tags
    embeds = "image-feature-extraction" in card.data.tags
    assert generates == (kind in GENERATORS) and embeds == (kind in ENCODERS)
    assert "latent-zoning-network" in card.data.tags
    for text in ("trained on toys", "Grey images of 8 x 8 pixels", "1,234\nparameters"):
        assert text in card.text, text
    assert "{" not in re.sub(r"```.*?```", "", card.text, flags=re.DOTALL)  # nothing left to fill in
    for snippet in re.findall(r"```py\n(.*?)```", card.text, re.DOTALL):
        compile(snippet, kind, "exec")
        assert "me/lzn-toys" in snippet


@pytest.mark.parametrize("pictures", [(), ("samples.png",), ("curves.png", "zones.png"), sorted(PICTURES)])
def test_a_card_shows_the_pictures_beside_it_and_no_others(pictures, tmp_path):
    card = make_card(tiny_config(num_reference_anchors=9, prediction_time=0.3), tmp_path, pictures=pictures)
    assert sorted(linked_files(card)) == sorted(pictures)
    heading = {name: card.text[: card.text.index(f"]({name})")].count("\n## ") for name in pictures}
    # With the description, the results and the training, in this order.
    assert all(heading[name] == {"reliability.png": 1, "curves.png": 4}.get(name, 0) for name in pictures)
    assert ("Accuracy against score" in card.text) == ("reliability.png" in pictures)


@pytest.mark.parametrize("kind", KINDS)
def test_the_snippets_of_a_card_run(kind, tmp_path, monkeypatch):
    """Those of a shared folder, too, whatever the first label is called."""
    names = {0: 'the "first" \\ one\'s', 1: "dog"}
    changes = KINDS[kind] | ({"id2label": names} if "id2label" in KINDS[kind] else {})
    torch.manual_seed(0)
    model = LZNModel(tiny_config(**{**changes, "num_reference_anchors": 0}))
    if changes.get("num_reference_anchors"):
        model.set_reference_anchors(torch.randn(9, 6))
    (tmp_path / "shared").mkdir()
    model.save_pretrained(tmp_path / "shared")
    save_components(model, tmp_path / "shared")
    monkeypatch.chdir(tmp_path)
    card = make_card(model.config, tmp_path, model_id="shared")
    card = complete_card(card, model.config, model_id="shared")
    snippets = re.findall(r"```py\n(.*?)```", card.text, re.DOTALL)
    assert len(snippets) == 1 + (kind in ENCODERS) + (kind in GENERATORS)
    scope: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, kind, "exec"), scope)
    assert len(scope["images"]) == (4 if kind in GENERATORS else 1)
    if kind in ENCODERS:
        assert scope["embeddings"].shape == (
            len(scope["images"]),
            model.get_image_features(scope["inputs"]["pixel_values"]).shape[1],
        )
    if kind == "joint":
        assert torch.allclose(scope["probabilities"].sum(1), torch.ones(4)) and len(scope["predictions"]) == 4


def test_the_metadata_are_valid_for_the_hub(tmp_path):
    card = make_card(tiny_config(**KINDS["joint"]), tmp_path)
    assert (card.data.library_name, card.data.license, card.data.model_name) == ("transformers", None, "lzn-toys")
    assert card.data.datasets == ["me/toys"]
    [result] = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.9877, "toys")
    assert "- validation accuracy: 0.9877" in card.text
    assert "license" not in card.data.to_dict()  # nobody chose one
    chosen = make_card(tiny_config(**KINDS["joint"]), tmp_path, license="cc-by-nc-sa-4.0")
    assert chosen.data.license == "cc-by-nc-sa-4.0"


@pytest.mark.parametrize("license", ["Apache-2.0", "MIT", "apache 2.0", "", "mit\ntags: []"])
def test_a_licence_must_be_one_that_the_hub_can_know(license, tmp_path):
    with pytest.raises(ValueError, match="`license` must be an identifier of the Hub in lower case"):
        make_card(tiny_config(), tmp_path, license=license)


def test_settings_that_are_set_are_listed(tmp_path):
    card = make_card(tiny_config(), tmp_path)
    assert "| max_shift | `3` |" in card.text and "| seed | `77` |" in card.text
    assert "validation_split" not in card.text  # not set
    assert "logging_steps" not in card.text  # of no importance
    views = make_card(
        tiny_config(), tmp_path, settings={"representation": {"method": "moco"}, "views": {"flip": 0.25}}
    )
    assert '| method | `"moco"` |' in views.text and "| flip | `0.25` |" in views.text


def test_what_there_is_not_is_not_claimed(tmp_path):
    card = make_card(tiny_config(num_channels=3), tmp_path, metrics={}, hub_dataset=None)
    assert card.data.eval_results is None and card.data.datasets is None
    assert "There was no validation data." in card.text and "Colour images" in card.text
    assert "holds anchors of" not in card.text and "training images, among" not in card.text
    assert "anchors of 9 training images" in make_card(tiny_config(num_reference_anchors=9), tmp_path).text


def test_the_time_of_scores_is_told_with_their_picture(tmp_path):
    card = make_card(tiny_config(prediction_time=0.25), tmp_path, pictures=["reliability.png"])
    assert "at time t = 0.250" in card.text and "![Reliability](reliability.png)" in card.text
    assert card.text.index("Reliability") < card.text.index("## How to use")
    assert "reliability.png" not in make_card(tiny_config(), tmp_path).text
