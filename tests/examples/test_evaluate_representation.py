# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The evaluation of saved models on the digits: fine-tuning, numbers, map, model card; the script; two processes."""

from __future__ import annotations

import json
from pathlib import Path

import evaluate_representation
import numpy as np
import pytest
import torch
from accelerate import PartialState, debug_launcher
from helpers import ROOT
from helpers.training import forget_accelerators, tiny_model, toy_images
from huggingface_hub import EvalResult, ModelCard
from PIL import Image

from lzn_hf import LZNModel, LZNPipeline
from lzn_hf.data.batches import image_batches
from lzn_hf.data.images import ImageData, TensorImageDataset, load_image_data
from lzn_hf.evaluation.cards import make_model_card
from lzn_hf.evaluation.probes import collect_features, knn_accuracy, linear_probe
from lzn_hf.evaluation.representation import balanced_draw, evaluate_folder, fine_tune, update_model_card


EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_image_data("digits")


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> Path:
    """The folder of a pipeline with labels, decoder, reference anchors and a card."""
    torch.manual_seed(0)
    folder, model = tmp_path_factory.mktemp("joint"), tiny_model()
    model.set_reference_anchors(torch.randn(20, 6))
    LZNPipeline.from_model(model).save_pretrained(folder)
    settings = {"training": {"seed": 0}}
    card = {"model_id": "x/joint", "dataset": "digits", "metrics": {"validation_accuracy": 0.5}, "parameters": 1}
    make_model_card(model.config, settings=settings, **card).save(folder / "README.md")
    return folder


@pytest.fixture(scope="module")
def encoder_only(tmp_path_factory) -> Path:
    """The folder of a model without decoder, labels and reference anchors, as it is before any training."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("encoder")
    tiny_model((), decoder_type=None).save_pretrained(folder)
    return folder


def toy_data(count: int = 60, num_labels: int = 3, **change) -> ImageData:
    parts = {"train": toy_images(count, num_labels), "validation": toy_images(30, num_labels)}
    names = [str(label) for label in range(num_labels)]
    return ImageData(**{**parts, "label_names": names, "image_size": 8, "num_channels": 1, "name": "toys", **change})


def striped_data(train: int = 90, test: int = 60) -> ImageData:
    """Noise with a bright band whose place is the label: easy to learn, but not for the tiny encoder as it is."""

    def make(count: int, seed: int) -> TensorImageDataset:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 120, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
        labels = torch.arange(count) % 3
        for image, label in zip(images, labels.tolist(), strict=True):
            image[0, 3 * label : 3 * label + 2] += 120
        return TensorImageDataset(images, labels)

    return toy_data(train=make(train, 0), validation=make(test, 1))


# Fine-tuning


def test_the_draw_has_as_many_of_each_label_and_follows_from_the_seed():
    labels = torch.cat([torch.zeros(200), torch.ones(70), torch.full((130,), 2)]).long()
    labels = labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    for share, each in ((0.1, 13), (0.03, 4), (0.001, 1), (0.5, 67)):
        rows = balanced_draw(labels, 3, share, seed=5)
        assert len(rows.unique()) == len(rows)
        assert torch.bincount(labels[rows]).tolist() == 3 * [each]
        assert torch.equal(rows, balanced_draw(labels, 3, share, seed=5))
    assert not torch.equal(balanced_draw(labels, 3, 0.1, seed=5), balanced_draw(labels, 3, 0.1, seed=6))
    # A larger share holds the smaller one, so that more labels never are other labels.
    assert set(balanced_draw(labels, 3, 0.03).tolist()) < set(balanced_draw(labels, 3, 0.1).tolist())
    with pytest.raises(ValueError, match="`share` 0.6 of 400 images is 80 of each label, but label 1 has 70"):
        balanced_draw(labels, 3, 0.6)
    for share in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`share` must be above 0 and at most 1"):
            balanced_draw(labels, 3, share)


def test_fine_tuning_learns_and_changes_nothing_else():
    model, data = tiny_model((), decoder_type=None, encoder_dropout=0.1).train(), striped_data()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    expected_draw = torch.rand(3)
    torch.manual_seed(7)
    options = {"num_steps": 40, "batch_size": 32, "learning_rate": 5e-3, "seed": 2}
    accuracy = fine_tune(model, data, 0.5, **options)
    assert torch.equal(torch.rand(3), expected_draw)  # the global generator is as it was
    assert accuracy > 0.9
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert fine_tune(model, data, 0.5, **options) == accuracy


def test_fine_tuning_follows_from_its_seed_alone():
    model, data = tiny_model((), decoder_type=None, encoder_dropout=0.5), striped_data()
    options = {"num_steps": 20, "batch_size": 16, "learning_rate": 2e-2, "shift": 1}
    found = set()
    for global_seed in range(3):
        torch.manual_seed(global_seed)
        found.add(fine_tune(model, data, 0.2, seed=1, **options))
    assert len(found) == 1
    found |= {fine_tune(model, data, 0.2, seed=seed, **options) for seed in (2, 3)}
    assert len(found) > 1


def test_fine_tuning_sees_its_share_of_the_training_labels_only():
    """Labels of all images that are not drawn are wrong; those of the drawn ones decide."""
    model, data = tiny_model((), decoder_type=None), striped_data()
    rows = balanced_draw(data.train.labels, 3, 0.4, seed=3)
    others = torch.ones(90, dtype=torch.bool)
    others[rows] = False
    options = {"num_steps": 40, "batch_size": 32, "learning_rate": 5e-3, "seed": 3}
    noisy = data.train.pixel_values.clone()
    noisy[others] = 0  # images, not labels: those decide which are drawn
    changed = toy_data(train=TensorImageDataset(noisy, data.train.labels), validation=data.validation)
    accuracy = fine_tune(model, changed, 0.4, **options)
    assert accuracy == fine_tune(model, data, 0.4, **options) > 0.8


def test_fine_tuning_trains_the_encoder():
    """Whether two bands are alike: no linear function of what the untrained encoder sees."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (400, 1, 8, 8), dtype=torch.uint8, generator=generator)
    bands = torch.randint(0, 2, (400, 2), dtype=torch.uint8, generator=generator)
    images[:, 0, 1:3] += 190 * bands[:, :1, None]
    images[:, 0, 5:7] += 190 * bands[:, 1:, None]
    labels = (bands[:, 0] ^ bands[:, 1]).long()
    parts = {"train": TensorImageDataset(images[:300], labels[:300])}
    parts["validation"] = TensorImageDataset(images[300:], labels[300:])
    data, model = toy_data(num_labels=2, **parts), tiny_model((), decoder_type=None)
    accuracy = fine_tune(model, data, 0.9, num_steps=50, batch_size=48, learning_rate=1e-2)
    sets = [*collect_features(model, image_batches(data.train, 300))]
    sets += collect_features(model, image_batches(data.validation, 100))
    assert accuracy > linear_probe(*sets, weight_decays=[1.0]) + 0.1


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"label_names": None}, {}, "`data` must have labels"),
        ({"validation": None}, {}, "`data` must have labels and validation images"),
        ({}, {"share": 0.9}, "`share` 0.9 of 61 images is 18 of each label, but label 0 has 1"),
        ({}, {"num_steps": 0}, "`num_steps` must be at least 1, got 0"),
        ({}, {"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
    ],
)
def test_fine_tuning_refuses_what_it_cannot_do(change, options, message):
    images = toy_images(61)
    images.labels = torch.cat([torch.zeros(1, dtype=torch.int64), torch.ones(30).long(), torch.full((30,), 2)])
    with pytest.raises(ValueError, match=message):
        fine_tune(tiny_model(()), toy_data(train=images, **change), **{"share": 0.05, **options})


def test_a_model_without_encoder_is_refused(tmp_path):
    model = tiny_model((), encoder_type=None)
    with pytest.raises(ValueError, match="no image encoder"):
        fine_tune(model, toy_data())
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no image encoder"):
        evaluate_folder(tmp_path, toy_data())


# Folders


def test_a_folder_is_measured_as_the_model_in_it(joint, digits):
    results = evaluate_folder(joint, digits, max_train_samples=300, max_eval_samples=100, k=7, seed=4)
    model = LZNModel.from_pretrained(joint)
    for kind in ("embeddings", "anchors", "latents"):
        train = collect_features(model, image_batches(digits.train, 64, limit=300, seed=4), kind)
        test = collect_features(model, image_batches(digits.validation, 64, limit=100, seed=4), kind)
        assert results[kind]["size"] == train[0].shape[1]
        assert results[kind]["knn"] == pytest.approx(knn_accuracy(*train, *test, 7), abs=0.011)
        assert results[kind]["linear"] == pytest.approx(linear_probe(*train, *test, seed=4), abs=0.011)
    assert (results["train_images"], results["test_images"], results["labels"]) == (300, 100, 10)
    assert results["dataset"] == "digits" and results["model"] == str(joint) and results["fine_tune"] == {}
    assert json.loads(json.dumps(results)) == results
    # Keys of a comparison's own, which these results are put beside.
    assert not {"preset", "method", "seed", "seconds"} & set(results)


def test_a_model_without_reference_anchors_has_no_latents(encoder_only):
    results = evaluate_folder(encoder_only, toy_data(), k=3)
    assert "latents" not in results and {"embeddings", "anchors"} <= set(results)


def test_a_folder_that_lacks_weights_is_refused(encoder_only, tmp_path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_text((encoder_only / "config.json").read_text())
    weights = load_file(encoder_only / "model.safetensors")
    removed = sorted(weights)[0]
    del weights[removed]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"is not a whole LZNModel.*missing_keys.*{removed}"):
        evaluate_folder(tmp_path, toy_data())
    with pytest.raises(OSError):
        evaluate_folder(tmp_path / "nothing", toy_data())


@pytest.mark.parametrize("change", [{"label_names": None}, {"validation": None}])
def test_data_that_cannot_be_tested_on_are_refused(encoder_only, change):
    with pytest.raises(ValueError, match="`data` must have labels, and validation images"):
        evaluate_folder(encoder_only, toy_data(**change))


def test_a_wrong_share_shows_before_the_long_work(tmp_path):
    with pytest.raises(ValueError, match="`share` must be above 0"):
        evaluate_folder(tmp_path / "not even a model", toy_data(), fine_tune_shares=[0.5, 2])


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
    return {"embeddings": values, "anchors": {**values, "linear": 0.25}, **common, "settings": {"k": 20}, **change}


def test_the_card_gets_the_results_and_keeps_the_rest(joint):
    before = ModelCard.load(joint / "README.md")
    card = update_model_card(joint, results_of(), picture="embeddings.png")
    assert "| embeddings, before the head | 32 | 98.77 % | 90.00 % |" in card.text
    assert "| 1 % | 50.00 % |" in card.text and "](embeddings.png)" in card.text and "latents, in" not in card.text
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
    assert len(again.data.eval_results) == 1 + 4
    # On other data: beside it.
    card = update_model_card(tmp_path, results_of(dataset="others"), hub_dataset="a/others")
    assert len(card.data.eval_results) == 1 + 4 + 5
    assert [r.dataset_type for r in card.data.eval_results if r.dataset_name == "others"] == 5 * ["a/others"]


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


# The script


def test_the_script_measures_a_joint_model(joint, capsys):
    flags = (
        "--fine_tune_shares 0.02 --fine_tune_steps 3 --max_train_samples 200 --max_eval_samples 60 --num_neighbours 5"
    )
    before = {path.name for path in joint.iterdir()}
    forget_accelerators()
    results = evaluate_representation.main(["--model_name_or_path", str(joint), *flags.split()])
    assert {path.name for path in joint.iterdir()} == before | {"representation.json", "embeddings.png"}
    assert json.loads((joint / "representation.json").read_text()) == results
    assert results["fine_tune"].keys() == {"0.02"} and 0 <= results["fine_tune"]["0.02"] <= 1
    assert results["settings"] == {"k": 5, "fine_tune_steps": 3, "flip": False, "shift": 0, "seed": 0}
    assert (results["train_images"], results["test_images"]) == (200, 60)
    assert np.asarray(Image.open(joint / "embeddings.png")).std() > 20
    printed = capsys.readouterr().out
    text = (joint / "README.md").read_text()
    for kind in ("embeddings", "anchors", "latents"):
        row = f"| {100 * results[kind]['linear']:.2f} % | {100 * results[kind]['knn']:.2f} % |"
        assert row in printed and row in text
    assert "## How to use" in text and "embeddings.png" in text
    LZNPipeline.from_pretrained(joint)  # still a model


def test_the_script_writes_elsewhere_when_told_so(encoder_only, tmp_path):
    """An untrained encoder for 8 x 8 grey pixels, on colour images of another size, which are brought to its own."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    before = {path.name for path in encoder_only.iterdir()}
    out = tmp_path / "new" / "results"
    flags = f"--output_dir {out} --data_dir {tmp_path / 'images'} --num_neighbours 3 --map_samples 0"
    forget_accelerators()
    results = evaluate_representation.main(["--model_name_or_path", str(encoder_only), *flags.split()])
    assert {path.name for path in encoder_only.iterdir()} == before
    assert [path.name for path in out.iterdir()] == ["representation.json"]
    assert results["labels"] == 2 and results["test_images"] == 8


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model_name_or_path user/model", "is no folder to write into: name an `--output_dir`"),
        ("--model_name_or_path . --num_neighbours 0", "`num_neighbours` must be at least 1, but is 0"),
        ("--model_name_or_path . --map_samples 3", "`map_samples` must be 0 or at least 4, but is 3"),
    ],
)
def test_the_script_refuses_wrong_flags(flags, message):
    with pytest.raises(ValueError, match=message):
        evaluate_representation.main(flags.split())


def test_help_explains(capsys):
    with pytest.raises(SystemExit):
        evaluate_representation.main(["--help"])
    text = capsys.readouterr().out
    for word in ("torchrun", "representation.json", "--fine_tune_shares", "--data_dir", "(default: 20)"):
        assert word in text
