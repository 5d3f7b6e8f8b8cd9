# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The model of a training run: built, fine-tuned onto other labels, averaged, frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.pipelines import make_pipeline
from helpers.training import SHAPE, TINY, accelerator_fixture, tiny_model  # noqa: F401 (a fixture)
from torch import nn
from transformers import AutoConfig, AutoModel

from lzn_hf import LZNModel, LZNPipeline
from lzn_hf.training.arguments import DataArguments
from lzn_hf.training.models import (
    LABEL_INPUT_LAYER,
    PartwiseEMA,
    build_model,
    freeze_part,
    model_parts,
    with_labels,
    with_saved_image_shape,
)


def test_a_model_from_random_weights_has_the_shape_and_labels_of_the_data():
    model = tiny_model(labels=("cat", "dog"))
    assert (model.config.image_size, model.config.num_channels, model.config.latent_dim) == (8, 1, 6)
    assert model.config.id2label == {0: "cat", 1: "dog"} and model.config.label2id == {"cat": 0, "dog": 1}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"latent_dims": 3}, "no field `latent_dims`. Did you mean `latent_dim`"),
        ({"image_size": 16}, "cannot set `image_size`: it is set by --image_size"),
        ({"num_reference_anchors": 3}, "set by --num_reference_anchors"),
        ({"prediction_time": 0.3}, "set by the validation images at the end of training"),
        ({"latent_solver": "heun"}, "`latent_solver` must be"),
    ],
)
def test_bad_overrides_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        build_model({**TINY, **overrides}, **SHAPE, label_names=["a", "b"])


@pytest.fixture
def saved_model(tmp_path):
    model = tiny_model()
    nn.init.normal_(model.decoder.conv_out.weight)  # or else a new decoder answers nearly zero, whatever its input
    model.set_reference_anchors(torch.randn(4, 6))
    model.config.prediction_time = 0.4
    model.save_pretrained(tmp_path / "model")
    return model, str(tmp_path / "model")


def test_fine_tuning_keeps_all_weights_for_the_same_labels(saved_model):
    model, folder = saved_model
    tuned = build_model({}, **SHAPE, label_names=["a", "b", "c"], pretrained=folder)
    assert tuned.reference_anchors is None and tuned.config.num_reference_anchors == 0  # stale from the first step on
    assert tuned.config.prediction_time is None
    weights = {name: value for name, value in model.state_dict().items() if name != "reference_anchors.weight"}
    assert tuned.state_dict().keys() == weights.keys()
    assert all(torch.equal(tuned.state_dict()[name], value) for name, value in weights.items())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("c", "a", "b"), "Labels kept: 3 ('c', 'a', 'b'); new, with initial weights: none; dropped: none."),
        (("a", "d", "b", "e", "c"), "kept: 3 ('a', 'b', 'c'); new, with initial weights: 2 ('d', 'e'); dropped: none."),
        (("c",), "kept: 1 ('c'); new, with initial weights: none; dropped: 2 ('a', 'b')."),
        (("x", "a"), "kept: 1 ('a'); new, with initial weights: 1 ('x'); dropped: 2 ('b', 'c')."),
        (("x", "y"), "kept: none; new, with initial weights: 2 ('x', 'y'); dropped: 3 ('a', 'b', 'c')."),
        ((), "kept: none; new, with initial weights: none; dropped: 3 ('a', 'b', 'c')."),
        ([*"abcdefghijkl"], "new, with initial weights: 9 ('d', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l'); dropped: none."),
        ([*"defghijklmn"], "kept: none; new, with initial weights: 11 ('d', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', ...)"),
    ],
)  # fmt: skip
def test_fine_tuning_matches_labels_by_name(saved_model, labels, message, caplog):
    """Columns of the decoder's input layer: 6 of the latent, one of each label, those of the time."""
    caplog.set_level("INFO")
    model, folder = saved_model
    tuned = build_model({}, **SHAPE, label_names=labels, pretrained=folder)
    assert list(tuned.config.id2label.values()) == list(labels)
    assert message in caplog.text and "All other weights are kept." in caplog.text
    new, old = tuned.state_dict(), model.state_dict()
    assert new.keys() >= old.keys() - {"reference_anchors.weight", "label_anchors.weight"}
    for name in new.keys() - {"label_anchors.weight", LABEL_INPUT_LAYER}:
        assert torch.equal(new[name], old[name]), name
    new_layer, old_layer = new[LABEL_INPUT_LAYER], old[LABEL_INPUT_LAYER]
    assert torch.equal(new_layer[:, :6], old_layer[:, :6])
    assert torch.equal(new_layer[:, 6 + len(labels) :], old_layer[:, 6 + 3 :])
    assert ("label_anchors.weight" in new) == bool(labels)
    for i, label in enumerate(labels):
        for before, name in enumerate("abc"):
            for same in (
                torch.equal(new["label_anchors.weight"][i], old["label_anchors.weight"][before]),
                torch.equal(new_layer[:, 6 + i], old_layer[:, 6 + before]),
            ):
                assert same == (label == name)
        assert new["label_anchors.weight"][i].std() > 0.1 and new_layer[:, 6 + i].std() > 0.01


def test_the_same_labels_in_another_order_are_the_same_function(tmp_path):
    """What the model says of an image and what it draws for a label, by name."""
    before = make_pipeline(names=["a", "b", "c"])
    model: LZNModel = before.model
    model.save_pretrained(tmp_path)
    tuned = build_model({}, **SHAPE, label_names=["b", "c", "a"], pretrained=str(tmp_path)).eval()
    tuned.set_reference_anchors(model.reference_anchors())
    after = LZNPipeline.from_model(tuned)
    images = torch.rand(5, 1, 8, 8)
    for one, other in zip(before.classify(images), after.classify(images), strict=True):
        scores, others = ({row["label"]: row["score"] for row in rows} for rows in (one, other))
        assert scores == pytest.approx(others, abs=1e-5)
    drawn = []
    for pipe in (before, after):
        generators = [torch.Generator().manual_seed(i) for i in range(6)]
        options = {"num_images_per_label": 2, "num_inference_steps": 4, "output_type": "pt"}
        drawn.append(pipe(label=["a", "b", "c"], generator=generators, **options).images)
    torch.testing.assert_close(*drawn, atol=1e-5, rtol=0)
    with torch.no_grad():  # the comparison sees which label the decoder gets
        sample, latents = torch.randn(2, 1, 8, 8), torch.randn(2, 6)
        a, b = (model.predict_velocity(sample, 0.5, latents, torch.full((2,), i)) for i in range(2))
    assert (a - b).abs().max() > 1e-2


def test_labels_are_matched_in_every_unicode_form():
    model = tiny_model(labels=("tea", "caf\u00e9"))
    tuned = with_labels(model, {0: "cafe\u0301", 1: "tea"})
    assert torch.equal(tuned.label_anchors(), model.label_anchors().flip(0))


def test_a_model_without_labels_learns_labels():
    tuned = with_labels(tiny_model(labels=()), {0: "a", 1: "b"})
    assert tuned.label_anchors().shape == (2, 6) and tuned.label_anchors().std() > 0.1


@pytest.mark.parametrize(
    ("overrides", "shape", "message"),
    [
        ({}, {"image_size": 16, "num_channels": 1}, r"8 x 8 pixels with 1 channels.*16 x 16 with 1"),
        ({}, {"image_size": 8, "num_channels": 3}, r"gives 8 x 8 with 3"),
        ({"encoder_num_res_blocks": 2}, SHAPE, "does not fit its config with `config_overrides`: the weights of .* lack"),
        ({"latent_dim": 7}, SHAPE, "does not fit its config with `config_overrides`.*mismatch"),
        ({"decoder_dropout": 2.0}, SHAPE, "`decoder_dropout` must be"),
    ],
)  # fmt: skip
def test_a_saved_model_that_does_not_fit_is_an_error(saved_model, overrides, shape, message):
    with pytest.raises(ValueError, match=message):
        build_model(overrides, **shape, label_names=["a", "b", "c"], pretrained=saved_model[1])


def test_a_folder_of_something_else_is_an_error(saved_model, tmp_path):
    _, folder = saved_model
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(ValueError, match="must be a saved LZNModel .* but is of type 'resnet'"):
        build_model({}, **SHAPE, label_names=["a"], pretrained=str(tmp_path / "other"))
    for name in ("model.safetensors", "config.json"):
        (Path(folder) / name).unlink()
        with pytest.raises(OSError, match=name):
            build_model({}, **SHAPE, label_names=["a", "b", "c"], pretrained=folder)


def test_images_are_converted_for_a_saved_model(saved_model):
    _, folder = saved_model
    for given in ({}, {"image_size": 8}, {"num_channels": 1, "image_size": 8}):
        arguments = DataArguments(data_dir="images", max_shift=1, **given)
        assert with_saved_image_shape(arguments, None) == arguments
        shaped = with_saved_image_shape(arguments, folder)
        assert shaped == DataArguments(data_dir="images", max_shift=1, image_size=8, num_channels=1)
    for name, given, saved in (("image_size", 16, 8), ("num_channels", 3, 1)):
        message = f"`{name}` is {given}, but `model_name_or_path` .* was trained with {saved}: leave `--{name}` out"
        with pytest.raises(ValueError, match=message):
            with_saved_image_shape(DataArguments(**{name: given}), folder)


def test_overrides_that_own_no_weights_apply_to_a_saved_model(saved_model):
    tuned = build_model({"alignment_weight": 0.25}, **SHAPE, label_names=["a", "b", "c"], pretrained=saved_model[1])
    assert tuned.config.alignment_weight == 0.25
    assert torch.equal(tuned.label_anchors(), saved_model[0].label_anchors())


@pytest.fixture
def published(tmp_path):
    """A ConvNeXt and its folder."""
    torch.manual_seed(3)
    model = AutoModel.from_config(
        AutoConfig.for_model("convnext", hidden_sizes=[32, 64], depths=[1, 1], num_stages=2, num_channels=1)
    )
    model.save_pretrained(tmp_path / "published")
    return model, str(tmp_path / "published")


def test_a_published_encoder_under_a_new_head(published):
    model, folder = published
    for head_layers in (1, 2):
        overrides = {**TINY, "latent_dim": 64, "encoder_type": "resnet", "encoder_head_layers": head_layers}
        built = build_model(overrides, **SHAPE, label_names=["a", "b"], encoder=folder)
        assert overrides["encoder_type"] == "resnet"  # the caller's are left alone
        assert built.config.encoder_type == "transformers" and built.label_anchors().shape == (2, 64)
        assert len(built.encoder.head) == 2 * head_layers
        backbone = built.encoder.backbone.state_dict()
        assert backbone and all(torch.equal(value, model.state_dict()[name]) for name, value in backbone.items())


def test_a_published_encoder_without_weights_starts_from_random_ones(published, caplog):
    model, folder = published
    (Path(folder) / "model.safetensors").unlink()
    built = build_model({**TINY, "latent_dim": 64}, **SHAPE, label_names=(), encoder=folder)
    weight = "embeddings.patch_embeddings.weight"
    assert not torch.equal(built.encoder.backbone.state_dict()[weight], model.state_dict()[weight])
    assert "has no weights" in caplog.text


def test_a_saved_model_has_an_encoder_already(saved_model, published):
    with pytest.raises(ValueError, match="`encoder_name_or_path` .*published is for a new model.*pass one of the two"):
        build_model({}, **SHAPE, label_names=["a", "b", "c"], pretrained=saved_model[1], encoder=published[1])


def test_a_rectified_flow_is_fine_tuned_as_one(tmp_path):
    model = tiny_model(labels=(), encoder_type=None)
    model.save_pretrained(tmp_path)
    tuned = build_model({}, **SHAPE, label_names=(), pretrained=str(tmp_path))
    assert tuned.encoder is None and list(model_parts(tuned)) == ["decoder"]
    assert all(torch.equal(tuned.state_dict()[name], value) for name, value in model.state_dict().items())
    labelled = build_model({}, **SHAPE, label_names=["a"], pretrained=str(tmp_path))
    assert labelled.label_anchors is None and labelled.decoder.num_labels == 1


def test_the_parts_are_all_parameters_once():
    models = (tiny_model(), tiny_model(labels=()), tiny_model(labels=(), encoder_type=None))
    for model in (*models, tiny_model(labels=(), decoder_type=None)):
        parts = [id(p) for parameters in model_parts(model).values() for p in parameters]
        assert sorted(parts) == sorted(id(p) for p in model.parameters())


def two_parts() -> dict[str, list[nn.Parameter]]:
    return {"a": [nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2, 2))], "b": [nn.Parameter(torch.randn(4))]}


def test_averages_follow_the_published_rule_and_stop_with_their_part():
    parts = two_parts()
    expected = {name: [p.detach().double().clone() for p in parameters] for name, parameters in parts.items()}
    ema = PartwiseEMA(parts, decay=0.5)
    for update in range(1, 21):
        if update == 8:
            parts["a"][0].requires_grad_(False), parts["a"][1].requires_grad_(False)
        for name, parameters in parts.items():
            decay = min(0.5, (1 + update) / (10 + update))
            for parameter, average in zip(parameters, expected[name], strict=True):
                parameter.data += torch.randn_like(parameter)  # frozen parameters, too: their average must not follow
                if parameter.requires_grad:
                    average.lerp_(parameter.detach().double(), 1 - decay)
        ema.step()
    raw = {name: [p.detach().clone() for p in parameters] for name, parameters in parts.items()}
    with pytest.raises(KeyError), ema.scope():
        for name, parameters in parts.items():
            for parameter, average in zip(parameters, expected[name], strict=True):
                torch.testing.assert_close(parameter.double(), average, rtol=1e-5, atol=1e-6)
        raise KeyError
    assert all(torch.equal(p, q) for name in parts for p, q in zip(parts[name], raw[name], strict=True))


def test_averages_survive_saving(tmp_path):
    parts = two_parts()
    ema = PartwiseEMA(parts, decay=0.9)
    parts["b"][0].data += 1
    ema.step()
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    other = PartwiseEMA(parts, decay=0.9)
    other.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    for average in (ema, other):  # both go on alike
        average.step()
    for name in parts:
        assert all(map(torch.equal, ema.averages[name].shadow_params, other.averages[name].shadow_params))


def test_a_frozen_part_has_no_gradients_left(accelerator):
    model = tiny_model()
    optimizer = torch.optim.Adam(model.parameters())
    model, optimizer = accelerator.prepare(model, optimizer)
    model(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])).loss.backward()
    model = freeze_part(accelerator, model, optimizer, "decoder")
    before = [p.clone() for p in model.decoder.parameters()]
    optimizer.step()
    assert all(map(torch.equal, before, model.decoder.parameters()))
    assert all(p.requires_grad == (not name.startswith("decoder.")) for name, p in model.named_parameters())
