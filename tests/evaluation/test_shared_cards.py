# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A card that is completed keeps what people wrote, and says where the model is now."""

from __future__ import annotations

import huggingface_hub
import pytest
import yaml
from helpers.models import tiny_config
from huggingface_hub import ModelCard

from lzn_hf.evaluation.cards import evaluation_results, make_model_card
from lzn_hf.evaluation.shared_cards import complete_card, eval_result_files, linked_files


CONFIG = tiny_config(num_reference_anchors=9)
ABOUT = {"dataset": "toys", "metrics": {"validation_accuracy": 0.75}, "settings": {}, "parameters": 5}


def training_card(**changes) -> ModelCard:
    return make_model_card(CONFIG, **{"model_id": "outputs/train", **ABOUT, **changes})


def test_what_people_wrote_stays():
    card = training_card(license="mit")
    card.data["language"] = ["en"]
    card.data.tags = ["mine"]
    text = "## Intended use and limits\n\nFor my thesis.\n\n## Notes\n\nSee outputs/train and `other/train`.\n"
    text = card.text.split("## Intended use")[0] + text
    card = ModelCard(f"---\n{card.data.to_yaml()}\n---\n\n{text}")
    done = complete_card(card, CONFIG, model_id="me/pipe")
    assert "For my thesis." in done.text and "See outputs/train and `other/train`." in done.text
    assert done.text.count("## Intended use and limits") == 1
    assert (done.data.license, done.data["language"], done.data.tags[0]) == ("mit", ["en"], "mine")
    assert card.data.license == "mit" and card.data.model_name == "train"  # the card itself is as it was
    assert complete_card(card, CONFIG, model_id="me/pipe", license="other").data.license == "other"


def test_code_loads_from_the_new_place_and_from_nowhere_else():
    card = training_card()
    foreign = (
        '\n```py\nAutoModel.from_pretrained("facebook/dinov2-small")\npipe.save_pretrained("outputs/train")\n```\n'
    )
    card = ModelCard(card.content + foreign)
    done = complete_card(card, CONFIG, model_id="me/pipe")
    assert 'LZNPipeline.from_pretrained("me/pipe")' in done.text
    assert 'pipeline("image-classification", model="me/pipe")' in done.text
    assert 'from_pretrained("outputs/train")' not in done.text
    assert 'from_pretrained("facebook/dinov2-small")' in done.text and 'save_pretrained("outputs/train")' in done.text
    assert done.text.strip().startswith("# pipe\n")
    moved = complete_card(done, CONFIG, model_id="you/other")
    assert "me/pipe" not in moved.text and moved.text.count("you/other") == done.text.count("me/pipe")


def test_completing_twice_changes_nothing():
    once = complete_card(training_card(), CONFIG, model_id="me/pipe", samples="samples.png", widget=[{"src": "a.png"}])
    twice = complete_card(once, CONFIG, model_id="me/pipe", samples="samples.png")
    assert twice.content == once.content
    assert once.text.count("![Samples]") == 1


def test_a_new_card_has_all_sections_in_order():
    card = complete_card(None, CONFIG, model_id="me/pipe", samples="grid.png")
    headings = [line for line in card.text.splitlines() if line.startswith("#")]
    wanted = ["# pipe", "## Samples", "## How to use", "## Without lzn_hf", "## Intended use and limits"]
    assert headings == wanted
    assert card.data.pipeline_tag == "image-classification" and card.data.library_name == "transformers"
    assert card.data.license is None and "license" not in card.data.to_dict()


def test_results_on_data_of_the_hub_are_files_that_the_hub_reads():
    card = training_card(hub_dataset="me/toys")
    more = evaluation_results("image-feature-extraction", "toys", [("accuracy", "linear probe", 0.9)], split="test")
    card.data.eval_results = [*card.data.eval_results, *more]
    (name, text), *others = eval_result_files(card).items()
    assert name == ".eval_results/me--toys.yaml" and not others
    (entry,) = huggingface_hub.parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("me/toys", "accuracy", 0.75)
    # Told what the data of the others is called on the Hub, they are there, too.
    done = complete_card(card, CONFIG, model_id="me/pipe", dataset_id="you/toys")
    files = eval_result_files(done)
    assert list(files) == [".eval_results/me--toys.yaml", ".eval_results/you--toys.yaml"]
    (entry,) = huggingface_hub.parse_eval_result_entries(yaml.safe_load(files[".eval_results/you--toys.yaml"]))
    assert entry.value == 0.9 and entry.notes == "linear probe, test split, measured by lzn_hf"
    assert {result.dataset_type for result in done.data.eval_results} == {"me/toys", "you/toys"}
    assert done.data.datasets == ["me/toys"]


def test_results_on_data_of_ones_own_stay_in_the_card():
    card = training_card()
    assert len(card.data.eval_results) == 1 and eval_result_files(card) == {}
    done = complete_card(card, CONFIG, model_id="me/pipe", dataset_id="me/toys")
    assert done.data.datasets == ["me/toys"] and list(eval_result_files(done)) == [".eval_results/me--toys.yaml"]


@pytest.mark.parametrize("path", ["https://a.b/c.png", "/etc/passwd", "../secret.png", "a/../../b.png", "#top"])
def test_links_out_of_the_folder_are_no_files_of_it(path):
    card = ModelCard(
        f"---\nwidget:\n- src: {path!r}\n- output:\n    url: maps/2.png\n---\n![x]({path}) ![y](map.png) [z](map.png)"
    )
    assert list(linked_files(card)) == ["map.png", "maps/2.png"]
