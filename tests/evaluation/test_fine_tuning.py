# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Fine-tuning on data made to be learnt, and what it must not see or change."""

from __future__ import annotations

import pytest
import torch
from helpers.training import tiny_model, toy_data, toy_images

from lzn_hf.data.batches import image_batches
from lzn_hf.data.images import ImageData, TensorImageDataset
from lzn_hf.evaluation.fine_tuning import balanced_draw, fine_tune
from lzn_hf.evaluation.probes import collect_features, linear_probe


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


def test_the_draw_has_as_many_of_each_label_and_follows_from_the_seed():
    labels = torch.cat([torch.zeros(200), torch.ones(70), torch.full((130,), 2)]).long()
    labels = labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    for fraction, each in ((0.1, 13), (0.03, 4), (0.001, 1), (0.5, 67)):
        rows = balanced_draw(labels, 3, fraction, seed=5)
        assert len(rows.unique()) == len(rows)
        assert torch.bincount(labels[rows]).tolist() == 3 * [each]
        assert torch.equal(rows, balanced_draw(labels, 3, fraction, seed=5))
    assert not torch.equal(balanced_draw(labels, 3, 0.1, seed=5), balanced_draw(labels, 3, 0.1, seed=6))
    # A larger fraction holds the smaller one, so that more labels never are other labels.
    assert set(balanced_draw(labels, 3, 0.03).tolist()) < set(balanced_draw(labels, 3, 0.1).tolist())
    with pytest.raises(ValueError, match="`fraction` 0.6 of 400 images is 80 of each label, but label 1 has 70"):
        balanced_draw(labels, 3, 0.6)
    for fraction in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`fraction` must be above 0 and at most 1"):
            balanced_draw(labels, 3, fraction)


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


def test_fine_tuning_sees_its_fraction_of_the_training_labels_only():
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
        ({}, {"fraction": 0.9}, "`fraction` 0.9 of 61 images is 18 of each label, but label 0 has 1"),
        ({}, {"num_steps": 0}, "`num_steps` must be a whole number of at least 1, got 0"),
        ({}, {"batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0"),
    ],
)
def test_fine_tuning_refuses_what_it_cannot_do(change, options, message):
    images = toy_images(61)
    images.labels = torch.cat([torch.zeros(1, dtype=torch.int64), torch.ones(30).long(), torch.full((30,), 2)])
    with pytest.raises(ValueError, match=message):
        fine_tune(tiny_model(()), toy_data(train=images, **change), **{"fraction": 0.05, **options})


def test_a_model_without_encoder_is_refused():
    model = tiny_model((), encoder_type=None)
    with pytest.raises(ValueError, match="no image encoder"):
        fine_tune(model, toy_data())
