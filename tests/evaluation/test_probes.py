# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Linear probe against scikit-learn, neighbours against a loop, and sets with a known answer."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.training import tiny_model, toy_images
from sklearn.linear_model import LogisticRegression

from lzn_hf.data.batches import image_batches, to_pixel_values
from lzn_hf.evaluation.probes import (
    FEATURE_KINDS,
    collect_all_features,
    collect_features,
    knn_accuracy,
    linear_probe,
    nonzero_std,
)


MEASURES = [linear_probe, knn_accuracy]


def blobs(count: int, seed: int, spread: float = 0.5, size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Three Gaussian blobs, 5 apart, in `size` dimensions; the centres are the same for every seed."""
    centres = 5 * torch.eye(size)[:3] + 1
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return centres[labels] + spread * torch.randn(count, size, generator=generator), labels


def mixed_up(count: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Blobs that overlap, in correlated dimensions of very different sizes."""
    features, labels = blobs(count, seed, spread=4.0, size=8)
    mix = torch.randn(8, 8, generator=torch.Generator().manual_seed(9)) * torch.logspace(-2, 2, 8)
    return (features @ mix).to(dtype), labels


# Sets with a known answer


@pytest.mark.parametrize("measure", MEASURES)
def test_separate_blobs_are_told_apart(measure):
    assert measure(*blobs(300, 0), *blobs(200, 1)) == 1.0


@pytest.mark.parametrize("measure", MEASURES)
def test_without_a_relation_of_features_and_labels_there_is_chance(measure):
    features, labels = blobs(1500, 0)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    accuracy = measure(features, shuffled, *blobs(1500, 1))
    assert abs(accuracy - 1 / 3) < 5 * math.sqrt(2 / 9 / 1500) + 0.1  # blobs are labelled as a whole: not independent
    # Labels of features that are nothing but noise.
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(3000, 6, generator=generator)
    labels = torch.randint(0, 4, (3000,), generator=generator)
    accuracy = measure(noise[:1500], labels[:1500], noise[1500:], labels[1500:])
    assert abs(accuracy - 1 / 4) < 5 * math.sqrt(3 / 16 / 1500)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_same_call_gives_the_same_number(measure):
    sets = *mixed_up(400, 0), *mixed_up(300, 1)
    assert measure(*sets) == measure(*sets)


def test_a_label_that_training_lacks_counts_as_an_error():
    features, labels = blobs(300, 1)
    labels[:60] = 7
    for measure in MEASURES:
        assert measure(*blobs(300, 0), features, labels) == 240 / 300


# Linear probe


def test_a_regression_that_does_not_converge_is_an_error(monkeypatch):
    monkeypatch.setattr("lzn_hf.evaluation.probes.MAX_ITERATIONS", 3)
    sets = *mixed_up(200, 0), *mixed_up(50, 1)
    with pytest.raises(RuntimeError, match="did not converge in 3 iterations.*larger weight decay than 0.1"):
        linear_probe(*sets, weight_decays=[0.1])


def test_the_probe_is_that_of_scikit_learn_on_standardised_features():
    train, train_labels = mixed_up(500, 0)
    test, test_labels = mixed_up(400, 1)
    mean, std = train.mean(0), train.std(0)
    oracle = LogisticRegression(C=1 / 10.0, tol=1e-10, max_iter=10_000).fit((train - mean) / std, train_labels)
    expected = oracle.score((test - mean) / std, test_labels)
    assert 0.5 < expected < 0.98
    got = linear_probe(train, train_labels, test, test_labels, weight_decays=[10.0])
    assert abs(got - expected) <= 1 / 400  # one image on the border
    # Standardised: neither size nor origin of a feature matters, and one that is constant does not, either.
    other = torch.cat([1000 * train + 7, torch.full((500, 1), 0.1)], 1)
    other_test = torch.cat([1000 * test + 7, torch.full((400, 1), 0.3)], 1)
    again = linear_probe(other, train_labels, other_test, test_labels, weight_decays=[10.0])
    assert abs(again - got) <= 1 / 400


def test_a_feature_that_is_constant_up_to_rounding_has_no_spread():
    deviations = []
    for count in (2, 500, 1437):
        for value in (0.0, 0.1, 0.3, 1e-8, 3e7 + 3, -1.7):
            constant = torch.full((count, 1), value)
            deviations.append(constant.std(0).item())
            assert nonzero_std(constant).item() == 1
    assert max(deviations) > 0  # or there would be nothing to test
    features, _ = blobs(50, 0)
    assert torch.equal(nonzero_std(1e-9 * features), (1e-9 * features).std(0))


@pytest.mark.parametrize("decays", [(0.1, 10.0, 1e4), (1e4, 0.1, 10.0), (1.0, 1e5)])
def test_the_weight_decay_is_chosen_on_held_out_training_images(decays):
    """The same choice as scikit-learn's: smallest cross-entropy on the first tenth of the order that the seed draws."""
    features, labels = blobs(500, 0, spread=2.0)
    features = torch.cat([features, torch.randn(500, 60, generator=torch.Generator().manual_seed(0))], 1).double()
    train, test, train_labels, test_labels = features[:200], features[200:], labels[:200], labels[200:]
    standard = (train - train.mean(0)) / train.std(0)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(4))
    held_out, rest = order[:20], order[20:]
    losses = {}
    for decay in decays:  # unimodal here, so that a search from the largest down ends at the smallest of all
        oracle = LogisticRegression(C=1 / decay, tol=1e-8, max_iter=10_000).fit(standard[rest], train_labels[rest])
        log_probs = torch.tensor(oracle.predict_log_proba(standard[held_out]))
        losses[decay] = F.nll_loss(log_probs, train_labels[held_out]).item()
    best = min(losses, key=losses.get)
    each = {decay: linear_probe(train, train_labels, test, test_labels, weight_decays=[decay]) for decay in decays}
    assert len(set(each.values())) == len(decays)
    got = linear_probe(train, train_labels, test, test_labels, weight_decays=decays, seed=4)
    assert got == each[best]
    # A choice that looked at the test images would be another one if their labels were.
    wrong = (test_labels + 1) % 3
    assert linear_probe(train, train_labels, test, wrong, weight_decays=decays, seed=4) == linear_probe(
        train, train_labels, test, wrong, weight_decays=[best]
    )


def test_the_choice_among_few_images_is_drawn_by_the_seed(monkeypatch):
    import lzn_hf.evaluation.probes as module

    seen, fit = [], module._fit_regression

    def spy(x, y, weight_decay, **options):
        seen.append((len(x), x.sum().item()))
        return fit(x, y, weight_decay, **options)

    monkeypatch.setattr(module, "_fit_regression", spy)
    sets = *mixed_up(300, 0), *mixed_up(50, 1)
    for seed in (0, 0, 1):
        linear_probe(*sets, weight_decays=[1.0, 10.0], max_selection_images=100, held_out_fraction=0.2, seed=seed)
    assert [count for count, _ in seen] == 3 * [80, 80, 300]
    first, second, other = seen[:3], seen[3:6], seen[6:]
    assert first == second and first[0] != other[0] and first[2] == other[2]


def test_the_choice_leaves_out_held_out_images_of_labels_that_no_fit_knows():
    features, labels = blobs(60, 0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(4))
    labels[order[0]] = 5  # the only image of its label, held out
    assert linear_probe(features, labels, *blobs(300, 1), weight_decays=[0.1, 1.0], seed=4) > 0.9


# Nearest neighbours


def knn_oracle(train, train_labels, test, test_labels, k: int, temperature: float) -> float:
    correct = 0
    for x, y in zip(test.double().tolist(), test_labels.tolist(), strict=True):
        similar = []
        for other, label in zip(train.double().tolist(), train_labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(x, other, strict=True))
            similar.append((dot / math.hypot(*x) / math.hypot(*other), label))
        votes: dict[int, float] = {}
        for similarity, label in sorted(similar, reverse=True)[:k]:
            votes[label] = votes.get(label, 0.0) + math.exp(similarity / temperature)
        correct += max(votes, key=votes.get) == y
    return correct / len(test)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (7, 0.01), (7, 10.0), (60, 0.07), (60, 0.5)])
def test_neighbours_vote_as_in_a_loop(k, temperature):
    sets = *mixed_up(60, 0), *mixed_up(70, 1)
    expected = knn_oracle(*sets, k, temperature)
    assert knn_accuracy(*sets, k, temperature=temperature) == expected
    assert knn_accuracy(*sets, k, temperature=temperature, chunk_size=9) == expected


def test_votes_depend_on_number_and_temperature():
    results = {
        (k, t): knn_accuracy(*mixed_up(60, 0), *mixed_up(70, 1), k, temperature=t)
        for k, t in ((1, 1), (60, 0.07), (60, 9))
    }
    assert len(set(results.values())) == 3


def test_only_the_direction_of_features_counts_for_neighbours():
    train, train_labels = mixed_up(60, 0)
    test, test_labels = mixed_up(70, 1)
    factors = torch.linspace(0.1, 50, 70)[:, None]
    assert knn_accuracy(train, train_labels, test, test_labels, 5) == knn_accuracy(
        3 * train, train_labels, factors * test, test_labels, 5
    )


# Errors


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.ones(30, 5, dtype=torch.int64), "`train_features` must be floating point"),
        (0, torch.ones(30), "`train_features` must be floating point .samples, features.* shape .30,."),
        (2, torch.ones(0, 5), "`test_features` must be .* at least 1 samples"),
        (2, torch.full((20, 5), float("nan")), "`test_features` must be finite"),
        (2, torch.ones(20, 4), "`train_features` and `test_features` must have one width, got 5 and 4"),
        (1, torch.zeros(30, dtype=torch.int64), "`train_labels` must hold at least two"),
        (1, torch.zeros(29, dtype=torch.int64), r"`train_labels` must be whole numbers of shape \(30,\)"),
        (3, torch.zeros(20), "`test_labels` must be whole numbers"),
        (3, torch.full((20,), -1), "`test_labels` must be at least 0, got -1"),
    ],
)
def test_wrong_sets_are_refused(measure, place, value, message):
    sets = [*blobs(30, 0), *blobs(20, 1)]
    sets[place] = value
    with pytest.raises(ValueError, match=message):
        measure(*sets)


@pytest.mark.parametrize(
    ("measure", "options", "message"),
    [
        (knn_accuracy, {"k": 0}, "`k` must be in 1..30.*got 0"),
        (knn_accuracy, {"k": 31}, "`k` must be in 1..30.*got 31"),
        (knn_accuracy, {"temperature": 0}, "`temperature` must be positive, got 0"),
        (knn_accuracy, {"chunk_size": 0}, "`chunk_size` must be a whole number of at least 1, got 0"),
        (linear_probe, {"weight_decays": []}, r"`weight_decays` must be one or more positive numbers, got \[\]"),
        (linear_probe, {"weight_decays": [1.0, 0.0]}, "`weight_decays` must be one or more positive"),
        (linear_probe, {"held_out_fraction": 1.0}, r"`held_out_fraction` must be in \(0, 1\), got 1.0"),
        (linear_probe, {"held_out_fraction": 0.01}, "`held_out_fraction` 0.01 of 30 training images leaves 0"),
    ],
)
def test_wrong_options_are_refused(measure, options, message):
    with pytest.raises(ValueError, match=message):
        measure(*blobs(30, 0), *blobs(20, 1), **options)


# Features of a model


def test_features_are_those_of_the_model_in_the_order_of_the_batches():
    model, images = tiny_model(encoder_dropout=0.3).train(), toy_images(11)
    model.set_reference_anchors(torch.randn(9, 6))
    order = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    pixel_values = to_pixel_values(images.pixel_values[order])
    features, labels = collect_all_features(model, image_batches(images, 4, seed=2), FEATURE_KINDS)
    assert model.training
    model.eval()
    with torch.no_grad():
        expected = {
            "embeddings": model.get_image_features(pixel_values),
            "features": model.get_image_features(pixel_values, "features"),
            "anchors": model.get_image_anchors(pixel_values),
            "latents": model.get_image_latents(pixel_values, noise=torch.zeros(11, 6)),
        }
    assert torch.equal(labels, images.labels[order])
    for kind in FEATURE_KINDS:
        assert features[kind].shape == expected[kind].shape and features[kind].dtype == torch.float32
        assert torch.allclose(features[kind], expected[kind], atol=1e-5), kind
        alone, _ = collect_features(model, image_batches(images, 4, seed=2), kind)
        assert torch.equal(alone, features[kind])
    assert torch.equal(collect_features(model, image_batches(images, 4, seed=2))[0], features["embeddings"])


def test_features_that_a_model_does_not_have_are_refused():
    model, images = tiny_model(()), toy_images(4)
    with pytest.raises(ValueError, match="`kind` must be one of embeddings, features, anchors, latents, got pixels"):
        collect_features(model, image_batches(images, 2), "pixels")
    with pytest.raises(ValueError, match="no reference anchors"):
        collect_features(model, image_batches(images, 2), "latents")
    with pytest.raises(ValueError, match="at least one image, got none"):
        collect_features(model, [])
    with pytest.raises(ValueError, match="must hold `labels`"):
        collect_features(model, [{"pixel_values": images.pixel_values}])
    with pytest.raises(ValueError, match="no image encoder"):
        collect_features(tiny_model((), encoder_type=None), image_batches(images, 2))
