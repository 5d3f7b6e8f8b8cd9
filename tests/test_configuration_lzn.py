# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""LZNConfig: defaults are the published model, what is saved comes back, bad values are named."""

import json

import pytest
import torch
from helpers.pipelines import make_pipeline
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from lzn_hf import LZNConfig, LZNForImageClassification, LZNModel


def test_without_labels_by_default():
    config = LZNConfig()
    assert config.num_labels == 0 and config.id2label == {} and config.label2id == {}


@pytest.mark.parametrize("labels", [{}, {"num_labels": 2}, {"num_labels": 10}, {"id2label": {0: "cat", 1: "dog"}}])
def test_save_and_reload(tmp_path, labels):
    """Two labels with transformers' default names are the case that transformers itself does not save."""
    config = LZNConfig(image_size=16, encoder_channel_multipliers=(1, 2), num_reference_anchors=7, **labels)
    config.save_pretrained(tmp_path)
    for reloaded in (LZNConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert isinstance(reloaded, LZNConfig)
        assert reloaded.to_diff_dict() == config.to_diff_dict()
        assert reloaded.id2label == config.id2label
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "lzn"


ID2LABEL, LABEL2ID = {0: "cat", 1: "dog"}, {"cat": 0, "dog": 1}
# What tutorials write, and what is loaded from JSON.
FORMS_OF_LABELS = [
    {"id2label": {"0": "cat", "1": "dog"}},
    {"id2label": {1: "dog", 0: "cat"}},
    {"label2id": LABEL2ID},
    {"label2id": {"dog": "1", "cat": "0"}},
    {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": "0", "dog": "1"}, "num_labels": 2},
    {"id2label": ID2LABEL, "num_labels": 2},
]


@pytest.mark.parametrize("labels", FORMS_OF_LABELS)
def test_every_form_of_labels(tmp_path, labels):
    config = LZNConfig(**labels)
    config.save_pretrained(tmp_path)
    for same in (config, LZNConfig.from_pretrained(tmp_path), AutoConfig.for_model("lzn", **labels)):
        assert (same.id2label, same.label2id, same.num_labels) == (ID2LABEL, LABEL2ID, 2)
        assert list(same.id2label) == [0, 1]


CONTRADICTIONS = [
    ({"id2label": ID2LABEL, "label2id": {"cat": 1, "dog": 0}}, "must agree: the name of id 0 is 'cat' in `id2label`, but 'dog' in"),
    ({"id2label": ID2LABEL, "label2id": {"cat": 0}}, "must agree: the name of id 1 is 'dog' in `id2label`, but None in `label2id`"),
    ({"label2id": {"cat": 0, "dog": 0}}, r"`label2id` must be a dict with each id of 0..1 once, got the ids \[0, 0\]"),
    ({"label2id": {"cat": 1, "dog": 2}}, r"`label2id` must be a dict with each id of 0..1 once, got the ids \[1, 2\]"),
    ({"id2label": {"cat": 0, "dog": 1}}, r"`id2label` must be a dict with each id of 0..1 once, got the ids \['cat', 'dog'\]"),
    ({"id2label": {0: 0, 1: 1}}, r"`id2label` must have strings as names, got \[0, 1\]"),
    ({"id2label": ["cat", "dog"]}, r"`id2label` must be a dict, got \['cat', 'dog'\]"),
    ({"id2label": {0: "caf\u00e9", 1: "cafe\u0301"}}, "`id2label` must be a dict with a different name for each label .NFC and NFD"),
    ({"id2label": ID2LABEL, "num_labels": 3}, "`num_labels` must be 2, the number of names that are given, got 3"),
    ({"label2id": LABEL2ID, "num_labels": 3}, "`num_labels` must be 2, the number of names that are given, got 3"),
    ({"num_labels": -1}, "`num_labels` must be a whole number of at least 0"),
    ({"num_labels": "2"}, "`num_labels` must be a whole number of at least 0"),
    ({"problem_type": "regression"}, "`problem_type` must be None or 'single_label_classification', .* got 'regression'"),
    ({"problem_type": "multi_label_classification"}, "`problem_type` must be None or .* got 'multi_label_classification'"),
]  # fmt: skip


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    """A model with the labels a, b and c, and its folder."""
    folder = tmp_path_factory.mktemp("labels")
    model = make_pipeline(names=["a", "b", "c"]).model
    model.save_pretrained(folder)
    return model, str(folder)


@pytest.mark.parametrize(("fields", "message"), CONTRADICTIONS)
def test_labels_that_contradict_each_other_are_refused_everywhere(saved_model, fields, message):
    _, folder = saved_model
    calls = [LZNConfig, lambda **fields: AutoConfig.for_model("lzn", **fields)]
    classes = (LZNConfig, AutoConfig, LZNModel, AutoModel, LZNForImageClassification, AutoModelForImageClassification)
    calls += [
        lambda cls=cls, **fields: cls.from_pretrained(folder, ignore_mismatched_sizes=True, **fields)
        for cls in classes
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call(**fields)


MODEL_CLASSES = [LZNModel, LZNForImageClassification, AutoModel, AutoModelForImageClassification]


@pytest.mark.parametrize("cls", MODEL_CLASSES)
def test_labels_given_to_from_pretrained(saved_model, tmp_path, cls):
    saved, folder = saved_model
    for labels in FORMS_OF_LABELS:
        model = cls.from_pretrained(folder, ignore_mismatched_sizes=True, **labels)
        assert (model.config.id2label, model.config.label2id) == (ID2LABEL, LABEL2ID)
    lzn = getattr(model, "lzn", model)
    assert lzn.label_anchors().shape == (2, 6) and lzn.label_anchors().std() > 0.1
    torch.testing.assert_close(lzn.reference_anchors(), saved.reference_anchors())
    model.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path)
    assert (again.config.id2label, again.config.label2id) == (ID2LABEL, LABEL2ID)
    assert torch.equal(getattr(again, "lzn", again).label_anchors(), lzn.label_anchors())
    with pytest.raises(RuntimeError, match="`ignore_mismatched_sizes=True`"):
        cls.from_pretrained(folder, **labels)


def test_the_number_of_labels_given_to_from_pretrained(saved_model):
    saved, folder = saved_model
    same = LZNModel.from_pretrained(folder, num_labels=3)
    assert same.config.label2id == {"a": 0, "b": 1, "c": 2} and torch.equal(
        same.label_anchors(), saved.label_anchors()
    )
    more = LZNModel.from_pretrained(folder, num_labels=4, ignore_mismatched_sizes=True)
    assert more.config.label2id == {f"LABEL_{i}": i for i in range(4)} and more.label_anchors().shape == (4, 6)
    assert LZNConfig.from_pretrained(folder, id2label=None, label2id=None).id2label == saved.config.id2label


def test_other_names_for_the_same_number_of_labels_rename_them(saved_model, caplog):
    saved, folder = saved_model
    renamed = LZNModel.from_pretrained(folder, id2label={0: "x", 1: "y", 2: "z"})
    assert renamed.config.label2id == {"x": 0, "y": 1, "z": 2} and not caplog.records
    assert torch.equal(renamed.label_anchors(), saved.label_anchors())
    swapped = LZNModel.from_pretrained(folder, label2id={"b": 0, "a": 1, "c": 2})
    assert torch.equal(swapped.label_anchors(), saved.label_anchors())  # so what was 'a' is called 'b'
    assert "{0: 'a', 1: 'b', 2: 'c'} and become {0: 'b', 1: 'a', 2: 'c'}: weights stay with their ids" in caplog.text


def test_changes_given_to_from_pretrained_are_checked(saved_model):
    _, folder = saved_model
    assert AutoConfig.from_pretrained(folder, num_prediction_draws=3).num_prediction_draws == 3
    with pytest.raises(ValueError, match="`latent_solver` must be"):
        AutoConfig.from_pretrained(folder, latent_solver="heun")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 0),
        ("image_size", 30),  # three levels need a multiple of 8
        ("num_channels", 0),
        ("latent_dim", 0),
        ("encoder_base_channels", 0),
        ("decoder_channel_multipliers", []),
        ("decoder_channel_multipliers", [1, 0]),
        ("decoder_num_res_blocks", 0),
        ("encoder_attention_resolutions", [12]),
        ("encoder_dropout", 1.0),
        ("encoder_tap_channels", 0),
        ("encoder_tap_layers", 0),
        ("encoder_type", "vit"),
        ("encoder_backbone", {"model_type": "vit"}),  # without the encoder_type for it
        ("latent_noise_scale", 0.0),
        ("decoder_type", "resnet"),
        ("encoder_head_layers", 0),
        ("encoder_tap_resolutions", [12]),
        ("latent_solver", "rk45"),
        ("alignment_solver", "heun"),
        ("latent_num_steps", 0),
        ("alignment_end", 0.0),
        ("alignment_end", 1.5),
        ("step_cutoff", 1.0),
        ("alignment_reduction", "sum"),
        ("alignment_weight", -1.0),
        ("label_anchor_std", 0.0),
        ("num_reference_anchors", -1),
        ("num_prediction_draws", -1),
        ("id2label", {0: "cat", 2: "dog"}),
        ("id2label", {0: "cat", 1: "cat"}),
    ],
)
def test_bad_values_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        LZNConfig(**{name: value})


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"encoder_type": "transformers"}, "encoder_backbone"),
        ({"encoder_type": "transformers", "encoder_backbone": {"hidden_size": 3}}, "encoder_backbone"),
        ({"encoder_type": None, "decoder_type": None}, "decoder_type"),
        ({"alignment_noise_scales": []}, "alignment_noise_scales"),
        ({"alignment_noise_scales": [1.0, -0.1]}, "alignment_noise_scales"),
        ({"prediction_time": 0.0}, "prediction_time"),
        ({"prediction_time": 1.5}, "prediction_time"),
    ],
)
def test_bad_combinations_are_named(fields, name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        LZNConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"encoder_type": None},
        {"encoder_type": "transformers", "encoder_backbone": {"model_type": "vit", "hidden_size": 64}},
        {"encoder_type": "resnet", "encoder_small_images": True, "latent_noise_scale": 0.45, "decoder_type": None},
    ],
)
def test_encoder_types_are_saved(tmp_path, fields):
    LZNConfig(**fields).save_pretrained(tmp_path)
    reloaded = LZNConfig.from_pretrained(tmp_path)
    assert {name: getattr(reloaded, name) for name in fields} == fields
    assert reloaded.decoder_latent_dim == (0 if fields["encoder_type"] is None else reloaded.latent_dim)


def test_wrong_types_are_refused():
    with pytest.raises(StrictDataclassError, match="image_size"):
        LZNConfig(image_size="large")


def test_labels_that_are_set_later_agree(tmp_path):
    """As the scripts of transformers set them, one field or both."""
    config, names = LZNConfig(num_labels=2), {0: "cat", 1: "dog"}
    config.id2label = {"0": "cat", "1": "dog"}  # as JSON has it
    assert config.id2label == names and config.label2id == {"cat": 0, "dog": 1}
    config.label2id = {"cat": 0, "dog": 1}
    config.save_pretrained(tmp_path)
    assert LZNConfig.from_pretrained(tmp_path).id2label == names
    with pytest.raises(ValueError, match="a different name for each label"):
        config.id2label = {0: "cat", 1: "cat"}
    assert config.id2label == names
    config.num_labels = 3
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
