# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The evaluation of saved models on the digits, in one process and in two, and its results in a model card."""

from __future__ import annotations

import json
import re

import pytest
from accelerate import PartialState, debug_launcher
from helpers.measured_models import encoder_only_fixture, joint_fixture  # noqa: F401
from helpers.training import forget_accelerators, tiny_model, toy_data
from huggingface_hub import EvalResult, ModelCard

from lzn_hf import LZNModel
from lzn_hf.data.batches import image_batches
from lzn_hf.data.images import ImageData, load_image_data
from lzn_hf.evaluation.probes import collect_features, knn_accuracy, linear_probe
from lzn_hf.evaluation.representation import evaluate_folder, update_model_card


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_image_data("digits")


def test_a_folder_is_measured_as_the_model_in_it(joint, digits):
    results = evaluate_folder(joint, digits, max_train_samples=300, max_eval_samples=100, k=7, seed=4)
    model = LZNModel.from_pretrained(joint)
    for kind in ("features", "anchors", "latents"):
        train = collect_features(model, image_batches(digits.train, 64, limit=300, seed=4), kind)
        test = collect_features(model, image_batches(digits.validation, 64, limit=100, seed=4), kind)
        assert results[kind]["size"] == train[0].shape[1]
        assert results[kind]["knn"] == pytest.approx(knn_accuracy(*train, *test, 7), abs=0.011)
        assert results[kind]["linear"] == pytest.approx(linear_probe(*train, *test, seed=4), abs=0.011)
    assert (results["train_images"], results["test_images"], results["labels"]) == (300, 100, 10)
    assert results["dataset"] == "digits" and results["model"] == str(joint) and results["fine_tune"] == {}
    assert results["embeddings"] == {**results["anchors"], "kind": "anchors"}
    assert json.loads(json.dumps(results)) == results
    # Keys of a comparison's own, which these results are put beside.
    assert not {"preset", "method", "seed", "seconds"} & set(results)


def test_a_model_without_encoder_is_refused(tmp_path):
    tiny_model((), encoder_type=None).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no image encoder"):
        evaluate_folder(tmp_path, toy_data())


def test_a_model_without_reference_anchors_has_no_latents(encoder_only):
    results = evaluate_folder(encoder_only, toy_data(), k=3)
    assert "latents" not in results and {"embeddings", "features", "anchors"} <= set(results)


def test_a_folder_that_lacks_weights_is_refused(encoder_only, tmp_path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_text((encoder_only / "config.json").read_text())
    weights = load_file(encoder_only / "model.safetensors")
    removed = sorted(weights)[0]
    del weights[removed]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lack {removed}: the folder is incomplete"):
        evaluate_folder(tmp_path, toy_data())
    with pytest.raises(OSError):
        evaluate_folder(tmp_path / "nothing", toy_data())


@pytest.mark.parametrize("change", [{"label_names": None}, {"validation": None}])
def test_data_that_cannot_be_tested_on_are_refused(encoder_only, change):
    with pytest.raises(ValueError, match="`data` must have labels, and validation images"):
        evaluate_folder(encoder_only, toy_data(**change))


def test_a_wrong_fraction_shows_before_the_long_work(tmp_path):
    with pytest.raises(ValueError, match="`fraction` must be above 0"):
        evaluate_folder(tmp_path / "not even a model", toy_data(), fine_tune_fractions=[0.5, 2])


def test_two_processes_find_what_one_finds(joint, tmp_path):
    data, options = toy_data(61), {"max_eval_samples": 29, "k": 5, "batch_size": 8}

    def save() -> None:
        results = evaluate_folder(joint, data, **options)
        state = PartialState()
        assert (results is None) == (not state.is_main_process)
        if results is not None:
            (tmp_path / f"{state.num_processes}.json").write_text(json.dumps(results))

    forget_accelerators()
    debug_launcher(save, num_processes=2)
    forget_accelerators()
    save()
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2))
    assert one == two


# Model card


def results_of(**change) -> dict:
    values = {"size": 32, "linear": 0.98765, "knn": 0.9}
    common = {"dataset": "digits", "train_images": 1437, "test_images": 360, "fine_tune": {"0.01": 0.5}}
    kinds = {"features": values, "anchors": {**values, "linear": 0.25}, "embeddings": {**values, "kind": "features"}}
    return {**kinds, **common, "settings": {"k": 20}, **change}


def test_the_card_gets_the_results_and_keeps_the_rest(joint):
    before = ModelCard.load(joint / "README.md")
    card = update_model_card(joint, results_of(), picture="embeddings.png")
    text = re.sub(" +", " ", card.text)
    assert "| features, before the head (the embeddings) | 32 | 98.77 % | 90.00 % |" in text
    assert "| 1 % | 50.00 % |" in text and "](embeddings.png)" in text and "latents, in" not in text
    # Taken out again, it is the card that was there.
    start, end = card.text.index("## Representation"), card.text.index("## How to use")
    assert (card.text[:start] + card.text[end:]).strip() == before.text.strip()
    old, new = before.data.to_dict(), card.data.to_dict()
    assert {**new, "model-index": None} == {**old, "model-index": None}
    assert new["model-index"][0]["name"] == old["model-index"][0]["name"]
    results = {result.metric_name: result for result in card.data.eval_results}
    assert results[None].metric_value == 0.5 and results[None].task_type == before.data.pipeline_tag
    del results[None]
    assert {name: result.metric_value for name, result in results.items()} == {
        "linear probe, embeddings": 0.9877,
        "20 nearest neighbours, embeddings": 0.9,
        "linear probe, features": 0.9877,
        "20 nearest neighbours, features": 0.9,
        "linear probe, anchors": 0.25,
        "20 nearest neighbours, anchors": 0.9,
        "fine-tuned on 1 % of the labels": 0.5,
    }
    assert {result.task_type for result in results.values()} == {"image-feature-extraction"}


def test_another_evaluation_takes_the_place_of_the_last(joint, tmp_path):
    path = tmp_path / "README.md"
    path.write_text((joint / "README.md").read_text())
    update_model_card(tmp_path, results_of(), picture="embeddings.png").save(path)
    once = path.read_text()
    update_model_card(tmp_path, results_of(), picture="embeddings.png").save(path)
    assert path.read_text() == once
    update_model_card(tmp_path, results_of(fine_tune={}, settings={"k": 5})).save(path)
    again = ModelCard.load(path)
    assert (
        again.text.count("## Representation") == 1
        and "fine-tuned" not in again.text
        and "20 nearest" not in again.text
    )
    assert len(again.data.eval_results) == 1 + 6
    # On other data: beside it.
    card = update_model_card(tmp_path, results_of(dataset="others"), hub_dataset="a/others")
    assert len(card.data.eval_results) == 1 + 6 + 7
    assert [r.dataset_type for r in card.data.eval_results if r.dataset_name == "others"] == 7 * ["a/others"]


def test_what_others_found_stays(tmp_path):
    """A card with a heading like ours at another level, and results of the same task and another metric."""
    path = tmp_path / "README.md"
    name = "digits of C:\\1"  # a backslash is no group of a regular expression
    update_model_card(tmp_path, results_of(dataset=name)).save(path)
    card = ModelCard.load(path)
    card.text = (
        "# Mine\n\n### Representation\n\nMine, too.\n\n" + card.text + "\n## Last\n\nWords \\1 with a backslash.\n"
    )
    theirs = EvalResult("image-feature-extraction", "x", name, "f1", 0.1)
    card.data.eval_results.append(theirs)
    card.save(path)
    card = update_model_card(tmp_path, results_of(dataset=name, settings={"k": 3}))
    assert theirs in card.data.eval_results
    assert card.text.startswith("# Mine\n\n### Representation\n\nMine, too.\n")
    assert card.text.endswith("\n## Last\n\nWords \\1 with a backslash.\n")
    assert f"test images of {name};" in card.text
    assert "3 nearest neighbours" in card.text and "20 nearest" not in card.text
