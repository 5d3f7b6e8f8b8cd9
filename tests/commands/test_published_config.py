# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Configs of the published trainer become configs of this package, or are refused by name."""

from __future__ import annotations

import copy

import pytest
from helpers.published_layouts import CASES
from helpers.tiny_checkpoints import set_at

from lzn_hf.commands import convert_original_checkpoint as converter


@pytest.mark.parametrize("case", CASES)
def test_the_case_is_what_its_published_config_says(layouts, case):
    assert converter.config_from_published(layouts[case]["config"]).to_dict() == converter.CASES[case].to_dict()


def test_cases_in_numbers():
    assert list(converter.CASES) == CASES
    for case, config in converter.CASES.items():
        small = case in ("case_study_1_cifar10", "case_study_3")
        solver = ("euler", 20) if case == "case_study_2" else ("dpmsolver++", 20)
        assert (config.latent_solver, config.latent_num_steps) == solver
        assert (config.alignment_solver, config.step_cutoff) == ("euler", 0.2)
        assert (config.alignment_num_steps, config.alignment_reduction) == (
            (20, "log_prob") if case == "case_study_2" else (100, "prob")
        )
        assert config.image_size == (224 if case == "case_study_2" else 32 if small else 256)
        assert config.num_labels == (10 if case == "case_study_3" else 0)
    assert converter.CASES["case_study_3"].id2label[3] == "cat"
    assert converter.CASES["case_study_2"].decoder_type is None


MODEL = "decoder.params.config.model."


@pytest.mark.parametrize(
    ("case", "path", "value", "supported"),
    [
        (CASES[0], MODEL + "resblock_type", "ddpm", "'biggan'"),
        (CASES[0], MODEL + "progressive", "residual", "'none', 'output_skip'"),
        (CASES[0], MODEL + "progressive_input", "residual", "'none', 'input_skip'"),
        (CASES[1], MODEL + "progressive_combine", "mean", "'sum', 'cat'"),
        (CASES[0], MODEL + "scale_by_sigma", True, "`embedding_type` 'fourier'"),
        (CASES[0], MODEL + "embedding_type", "learned", "'positional', 'fourier'"),
        (CASES[0], MODEL + "conditional", False, "True"),
        (CASES[0], MODEL + "nonlinearity", "relu", "'swish'"),
        (CASES[0], MODEL + "normalization", "InstanceNorm++", "'GroupNorm'"),
        (CASES[0], MODEL + "attention_type", "linear", "'ddpm'"),
        (CASES[0], MODEL + "new_option", 1, "not supported"),
        (CASES[4], "encoder.params.sk_ratio", 0.0625, "0"),
        (CASES[4], "encoder.params.depth", 18, "50, 101, 152"),
        (CASES[0], "encoder.name", "lzn.model.vit.ViT", "'lzn.model.ncsnpp.NCSNPPEncoder'"),
        (CASES[0], "encoder_latent_flow.name", "lzn.latent_flow.Heun", "DPMSolverLatentFlow"),
        (CASES[0], "encoder_latent_flow.params", {"order": 2}, "{}"),
        (CASES[0], "losses", [{"name": "lzn.loss.l1.L1", "weight": 1}], "'lzn.loss.l2.L2'"),
        (CASES[4], "training.loss_weight", {"cross_entropy": 1.0, "prob": 0.5}, "one weight that is not 0"),
        (CASES[5], "decoder.params.num_classes", 0, "contradicts itself"),
        (CASES[0], "decoder.params.num_classes", 10, "lacks a `label_anchor`"),
        (CASES[5], "label_anchor.params.z_dim", 100, "contradicts itself"),
        (CASES[0], "encoder.params.config.data.image_size", 64, "contradicts itself"),
        (CASES[0], MODEL + "nf", "128", "wrong type"),
        (CASES[4], "training.assignment_loss_cut_off_step", None, "wrong type"),
        (CASES[0], "encoder_latent_flow", {}, "lacks `encoder_latent_flow.name`"),
        (CASES[0], "decoder.params.config", {}, "lacks `decoder.params.config.model`"),
    ],
)
def test_configs_that_are_not_supported_are_refused_by_name(layouts, case, path, value, supported):
    published = copy.deepcopy(layouts[case]["config"])
    set_at(published, path, value)
    with pytest.raises(ValueError) as error:
        converter.config_from_published(published)
    assert supported in str(error.value)
    if "supported" in str(error.value):
        assert path in str(error.value) and str(value) in str(error.value)


def test_options_of_a_config_arrive(layouts):
    published = copy.deepcopy(layouts["case_study_1_afhqcat"]["config"])
    for part in ("encoder", "decoder"):
        set_at(published, f"{part}.params.config.model.progressive_combine", "cat")
        set_at(published, f"{part}.params.config.model.skip_rescale", False)
    set_at(published, MODEL + "fir", False)
    set_at(published, MODEL + "scale_by_sigma", False)
    set_at(published, "training.recon_loss_coe", 3.0)
    config = converter.config_from_published(published)
    assert config.encoder_input_skip == config.decoder_input_skip == "cat"
    assert not config.encoder_skip_rescale and not config.decoder_skip_rescale and not config.decoder_scale_by_sigma
    assert config.decoder_fir_kernel is None and config.encoder_fir_kernel == [1, 3, 3, 1]
    assert config.reconstruction_weight == 3.0

    published = copy.deepcopy(layouts["case_study_2"]["config"])
    published["encoder"]["params"] |= {"depth": 101, "width_multiplier": 2}
    config = converter.config_from_published(published)
    assert (config.encoder_depths, config.encoder_widths) == ([3, 4, 23, 3], [128, 256, 512, 1024])
