# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Texts and other data types of a model: their loss against plain loops and on two processes, latents, comparisons, saving, errors."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from helpers.models import perturbed, same_weights, tiny_config
from helpers.texts import CAPTIONS, TEXTS, tokens
from helpers.training import run_on
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lzn_hf import LZNConfig, LZNForImageClassification, LZNModel
from lzn_hf.latent_zones import alignment_loss, trace_assignments
from lzn_hf.types_lzn import type_losses
from lzn_hf.zones_lzn import place_anchors


NUMBERS = {"model_type": "tiny-numbers", "hidden_size": 16}
SIX = [CAPTIONS[i] for i in (3, 0, 3, 7, 3, 0)]


class NumbersConfig(PreTrainedConfig):
    model_type = "tiny-numbers"
    hidden_size: int = 64


class NumbersModel(PreTrainedModel):
    """Three numbers a sample: neither image nor text."""

    config: NumbersConfig
    config_class = NumbersConfig

    def __init__(self, config: NumbersConfig):
        super().__init__(config)
        self.layer = nn.Linear(3, config.hidden_size)
        self.post_init()

    def forward(self, numbers: Tensor) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pooler_output=self.layer(numbers).tanh())


AutoConfig.register("tiny-numbers", NumbersConfig)
AutoModel.register(NumbersConfig, NumbersModel)


def make_model(**changes) -> LZNModel:
    torch.manual_seed(0)
    return perturbed(LZNModel(tiny_config(**{"num_labels": 0, **TEXTS, **changes}))).eval()


@pytest.fixture(scope="module")
def model() -> LZNModel:
    model = make_model()
    model.set_reference_anchors(3 * torch.randn(12, 64))
    with torch.no_grad():
        model.set_type_reference_anchors("text", model.get_text_anchors(**tokens(CAPTIONS)))
    return model


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("weighted", [True, False])
def test_images_are_aligned_with_the_different_samples_and_their_counts(weighted):
    """The anchor of a caption is the mean over its images (which dropout makes differ), its weight their number."""
    config, anchors, latents = make_model().config, torch.randn(6, 64), torch.randn(12, 64)
    losses = type_losses(config, latents, anchors, tokens(SIX), weighted=weighted)
    texts = sorted(set(SIX))
    rows = {text: [i for i, one in enumerate(SIX) if one == text] for text in texts}
    pool = torch.stack([sum(anchors[i] for i in rows[text]) / len(rows[text]) for text in texts])
    weights = torch.tensor([float(len(rows[text])) for text in texts]) / 6
    _, expected = trace_assignments(
        latents,
        pool,
        torch.tensor([texts.index(text) for text in SIX] * 2),
        log_weights=weights.log() if weighted else None,
        solver=config.alignment_solver,
        num_steps=config.alignment_num_steps,
    )
    torch.testing.assert_close(losses["log_probs"], expected)
    torch.testing.assert_close(
        losses["alignment_loss"], alignment_loss(expected, config.step_cutoff, config.alignment_reduction)
    )


def test_a_caption_has_the_probability_of_all_its_copies():
    config = make_model(alignment_solver="euler", alignment_end=0.6).config
    texts = sorted(set(SIX))
    by_text = dict(zip(texts, torch.randn(3, 64), strict=True))
    pool, latents = torch.stack([by_text[text] for text in SIX]), torch.randn(6, 64)
    _, of_copies = trace_assignments(latents, pool, solver="euler", num_steps=config.alignment_num_steps, end=0.6)
    expected = [of_copies[:, i, [one == text for one in SIX]].logsumexp(1) for i, text in enumerate(SIX)]
    losses = type_losses(config, latents, pool, tokens(SIX), weighted=True)
    torch.testing.assert_close(losses["log_probs"], torch.stack(expected, dim=1))


def test_texts_add_to_the_loss_of_labels():
    model, images = make_model(num_labels=3, condition_dropout=0.2).train(), torch.rand(6, 1, 8, 8) * 2 - 1
    labels, given = torch.tensor([0, 1, 2, 0, 1, 2]), tokens(SIX)

    def output(**inputs):
        torch.manual_seed(1)  # of dropout, too
        return model(images, generator=torch.Generator().manual_seed(1), **inputs)

    both, only = output(labels=labels, **given), output(labels=labels)
    assert both.type_log_probs["text"].shape == (model.config.alignment_num_steps, 6) and only.type_log_probs is None
    assert both.alignment_loss != only.alignment_loss
    total = model.config.reconstruction_weight * both.reconstruction_loss
    torch.testing.assert_close(both.loss, total + model.config.alignment_weight * both.alignment_loss)
    both.loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.type_encoders.text.head.parameters())


def test_evaluation_does_not_know_how_often_a_caption_occurs():
    model, images = make_model(), torch.rand(6, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        output = model(images, noise=torch.zeros(6, 64), **tokens(SIX))
        anchors = model.get_text_anchors(**tokens(SIX))
        expected = type_losses(model.config, output.latents, anchors, tokens(SIX), weighted=False)
    torch.testing.assert_close(output.type_log_probs["text"], expected["log_probs"])


def gradients(accelerator) -> dict[str, torch.Tensor]:
    """Those of eight images with three captions, shared among the processes."""
    still = {**TEXTS["text_config"], "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = make_model(text_config=still, encoder_dropout=0.0, decoder_dropout=0.0).train()
    images, given = torch.linspace(-1, 1, 8 * 64).view(8, 1, 8, 8).sin(), tokens([*SIX, CAPTIONS[0], CAPTIONS[7]])
    count = 8 // accelerator.num_processes
    mine = slice(accelerator.process_index * count, (accelerator.process_index + 1) * count)
    prepared = accelerator.prepare(model)
    given = {name: value[mine] for name, value in given.items()}
    accelerator.backward(prepared(images[mine], generator=torch.Generator().manual_seed(3), **given).loss)
    return {name: value.grad for name, value in accelerator.unwrap_model(prepared).named_parameters()}


def test_two_processes_have_the_gradient_of_one_on_the_joined_batch(tmp_path):
    """With captions that both have, and one that one alone has."""
    [expected], shares = (run_on(count, gradients, tmp_path) for count in (1, 2))
    for share in shares:
        assert share.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(share[name], gradient, rtol=2e-3, atol=2e-6)
    assert all(expected[name].abs().sum() > 0 for name in expected if name.startswith("type_encoders.text.head"))


# ---------------------------------------------------------------- latents and comparisons


def test_a_text_has_one_zone_whether_it_is_a_reference_or_not(model):
    """Captions among themselves, then each beside the others: the same zones, of the same size."""
    with torch.no_grad():
        anchors = model.get_text_anchors(**tokens(CAPTIONS))
        noise = torch.randn(len(CAPTIONS), 64)
        among = place_anchors(model.config, anchors, noise, of_labels=True)
        torch.testing.assert_close(model.get_text_latents(**tokens(CAPTIONS), noise=noise), among, rtol=0, atol=1e-4)
        others = [torch.cat([anchors[:i], anchors[i + 1 :]]) for i in range(3)]
        beside = [
            model.get_text_latents(**tokens([CAPTIONS[i]]), noise=noise[i : i + 1], pool=others[i]) for i in range(3)
        ]
    torch.testing.assert_close(torch.cat(beside), among[:3], rtol=0, atol=1e-4)


def test_half_precision_finds_its_references(model):
    """Whose anchors it knows to a few percent."""
    half, noise = copy.deepcopy(model).to(torch.bfloat16), torch.randn(len(CAPTIONS), 64)
    with torch.no_grad():
        latents = [one.get_text_latents(**tokens(CAPTIONS), noise=noise) for one in (half, model)]
    assert ((latents[0] - latents[1]).abs().amax(1) < 0.05).float().mean() > 0.8


@pytest.mark.parametrize("text", [CAPTIONS[3], "this is the big image"], ids=["a reference", "another text"])
def test_text_latents_are_independent_of_the_batch(model, text):
    noise = torch.randn(1, 64)
    with torch.no_grad():
        alone = model.get_text_latents(**tokens([text]), noise=noise)
        longer = tokens([text, "a photo of a big big big small coat ."])
        together = model.get_text_latents(**longer, noise=noise.repeat(2, 1))
    torch.testing.assert_close(alone, together[:1], rtol=0, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_latents_of_a_text_lie_in_its_zone(model):
    with torch.no_grad():
        anchors = model.get_text_anchors(**tokens(CAPTIONS))
        latents = model.get_text_latents(**tokens(CAPTIONS), generator=torch.Generator().manual_seed(0))
        _, log_probs = trace_assignments(latents, anchors)
    assert (log_probs[-1].argmax(1) == torch.arange(len(CAPTIONS))).float().mean() > 0.9


def test_scores_share_the_prior_among_candidates_and_pool(model):
    images = 3 * torch.randn(5, 64)
    with torch.no_grad():
        texts = model.get_text_anchors(**tokens(CAPTIONS))
        scores = model.compare_images(images, texts)
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(5))
        torch.testing.assert_close(model.compare_images(images, texts[:4], pool=texts[4:]), scores[:, :4])
        torch.testing.assert_close(model.compare_images(images[1:2], texts), scores[1:2])


def test_a_text_is_matched_among_the_other_references(model):
    """Not among itself, encoded again, which would take half of its zone; whatever other texts and images there are."""
    images = 3 * torch.randn(5, 64)
    with torch.no_grad():
        texts = model.get_text_anchors(**tokens([CAPTIONS[3], "this is the big image"]))
        references = model.reference_samples["text"]()
        others = torch.cat([references[:3], references[4:]])
        scores = model.match_images("text", images, texts)
        expected = [
            model.compare_images(images, texts[:1], others),
            model.compare_images(images, texts[1:], references),
        ]
        torch.testing.assert_close(scores, torch.cat(expected, dim=1))
        torch.testing.assert_close(model.match_images("text", images[2:3], texts[1:]), scores[2:3, 1:])


# ---------------------------------------------------------------- saving and other data types


def test_a_folder_has_it_all(model, tmp_path):
    model.save_pretrained(tmp_path)
    opened = LZNModel.from_pretrained(tmp_path)
    assert same_weights(opened, model)
    assert {**opened.config.text_config.to_dict(), "dtype": None} == model.config.text_config.to_dict()
    with torch.no_grad():
        torch.testing.assert_close(opened.get_text_anchors(**tokens(SIX)), model.get_text_anchors(**tokens(SIX)))
    assert torch.equal(opened.require_type_reference_anchors("text"), model.require_type_reference_anchors("text"))
    assert LZNConfig.from_pretrained(tmp_path).num_type_reference_anchors == {"text": len(CAPTIONS)}


def test_a_classifier_keeps_the_texts_of_its_folder(tmp_path):
    model = make_model(num_labels=3)
    model.set_type_reference_anchors("text", torch.randn(5, 64))
    model.save_pretrained(tmp_path / "model")
    classifier = LZNForImageClassification.from_pretrained(tmp_path / "model")
    assert same_weights(classifier.lzn.type_encoders, model.type_encoders)
    classifier.save_pretrained(tmp_path / "classifier")
    assert same_weights(LZNModel.from_pretrained(tmp_path / "classifier").type_encoders, model.type_encoders)


def test_a_data_type_of_another_kind(tmp_path):
    """Through a model that is registered with transformers, beside texts."""
    model = make_model(data_types={"numbers": NUMBERS})
    rows, images = torch.randn(4, 3), torch.rand(4, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        anchors = model.get_type_anchors("numbers", numbers=rows)
    assert anchors.shape == (4, 64) and (anchors[0] - anchors[1]).abs().max() > 1e-3
    output = model.train()(images, data_types={"numbers": {"numbers": rows}}, **tokens(SIX[:4]))
    assert output.type_log_probs.keys() == {"numbers", "text"}
    model.eval().set_type_reference_anchors("numbers", torch.randn(5, 64))
    model.save_pretrained(tmp_path)
    opened = LZNModel.from_pretrained(tmp_path)
    assert same_weights(opened, model)
    with torch.no_grad():
        latents = opened.get_type_latents("numbers", noise=torch.zeros(4, 64), numbers=rows)
    assert latents.shape == (4, 64) and latents.isfinite().all()


# ---------------------------------------------------------------- errors


def call(name, *arguments, **inputs):
    return lambda model: getattr(model, name)(*arguments, **inputs)


IDS = torch.ones(2, 3, dtype=torch.int64)
IMAGES = torch.zeros(2, 1, 8, 8)
ERRORS = [
    (call("get_type_anchors", "sound", wave=IDS), "no data type 'sound': it has 'text'"),
    (
        call("get_text_anchors", torch.ones(3, dtype=torch.int64)),
        "`input_ids` must be a tensor of tokens (texts, length)",
    ),
    (call("get_text_anchors", torch.ones(2, 3)), "of an integer type, got torch.float32 of shape (2, 3)"),
    (call("get_text_anchors", IDS[:, :0]), "got torch.int64 of shape (2, 0)"),
    (call("get_type_anchors", "text", attention_mask=IDS), "got NoneType"),
    (
        call("get_text_anchors", IDS.repeat(1, 5)),
        "at most 12 tokens long (by config.text_config.max_position_embeddings), got 15",
    ),
    (call("get_text_anchors", 40 * IDS), "`input_ids` must be in 0..18 (config.text_config.vocab_size), got 40..40"),
    (
        call("set_type_reference_anchors", "text", torch.ones(2, 3)),
        "`anchors` must be a tensor of shape (N, 64), got shape (2, 3)",
    ),
    (call("set_type_reference_anchors", "text", torch.full((2, 64), torch.nan)), "`anchors` must be finite"),
    (call("set_type_reference_anchors", "sound", torch.ones(2, 64)), "no data type 'sound'"),
    (call("__call__", IMAGES, input_ids=IDS[:1]), "`input_ids` of 'text' must have a row for each of the 2 images"),
    (
        call("__call__", IMAGES, second_views=IMAGES, input_ids=IDS),
        "must be None with texts and other data types, got text",
    ),
    (call("__call__", IMAGES, latents=torch.zeros(2, 64), data_types={"text": {"input_ids": IDS}}), "got text, too"),
]


@pytest.mark.parametrize(("act", "message"), ERRORS)
def test_what_is_wrong_is_named(model, act, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        act(model)


def test_what_is_missing_is_named(model):
    bare = make_model(text_config=None)
    with pytest.raises(ValueError, match="no data type 'text': it has none beside images and labels"):
        bare.get_text_anchors(IDS)
    bare = make_model()
    with pytest.raises(ValueError, match=r"`model.set_type_reference_anchors\('text', anchors\)`"):
        bare.get_text_latents(IDS)
    with pytest.raises(ValueError, match="comparing an image by itself needs reference anchors"):
        bare.compare_images(torch.randn(2, 64), torch.randn(2, 64))
    bare = copy.deepcopy(model)
    bare.reference_anchors = None
    with pytest.raises(ValueError, match="comparing an image by itself needs reference anchors"):
        bare.match_images("text", torch.randn(2, 64), torch.randn(2, 64))


CONFIGS = [
    (
        {"text_config": {"model_type": "nothing"}},
        "`text_config` must have the `model_type` of a model of transformers",
    ),
    ({"text_config": {"hidden_size": 64}}, "`text_config` must have the `model_type`"),
    ({"data_types": {"text": NUMBERS}}, "identifiers and not 'text'"),
    ({"data_types": {"two words": NUMBERS}}, "identifiers and not 'text'"),
    ({"data_types": {"numbers": {"model_type": "nothing"}}}, "`data_types['numbers']` must have the `model_type`"),
    ({"type_head_layers": 0}, "`type_head_layers` must be at least 1"),
    (
        {"num_type_reference_anchors": {"sound": 3}},
        "`num_type_reference_anchors` must be a dict of numbers for some of",
    ),
    ({"num_type_reference_anchors": {"text": 0}}, "`num_type_reference_anchors` must be a dict of numbers from 1"),
]


@pytest.mark.parametrize(("changes", "message"), CONFIGS)
def test_a_wrong_configuration_is_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_config(**{"num_labels": 0, **TEXTS, **changes})


def test_there_are_no_texts_without_image_encoder():
    with pytest.raises(ValueError, match="`text_config` must be None without image encoder"):
        tiny_config(num_labels=0, encoder_type=None, **TEXTS)
