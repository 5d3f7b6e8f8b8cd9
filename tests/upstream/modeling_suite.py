# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The common tests of transformers' models and configurations, on ours."""

from __future__ import annotations

import copy
import unittest

import torch
from helpers.models import TINY_RESNET, tiny_config
from transformers.testing_utils import torch_device
from transformers_tests import test_configuration_common, test_modeling_common

from lzn_hf import LZNConfig, LZNForImageClassification, LZNModel
from lzn_hf.anchors_lzn import ReferenceAnchors


class SeenAnchors(ReferenceAnchors):
    """Reference anchors that are set from the start, always to the same."""

    def __init__(self, num_anchors, latent_dim):
        super().__init__(num_anchors, latent_dim)
        self.weight = torch.eye(num_anchors, latent_dim)

    def reset_parameters(self):
        torch.nn.init.eye_(self.weight)


class Classifier(LZNForImageClassification):
    """A classifier that has seen images: the mixin evaluates models that were never trained, which ours refuse to do."""

    def __init__(self, config):
        super().__init__(config)
        self.lzn.reference_anchors = SeenAnchors(config.num_reference_anchors, config.latent_dim)


class ModelTester:
    """Tiny configurations and inputs, and the shapes of hidden states: feature maps, where the mixin thinks of sequences."""

    batch_size = 5
    image_size = 8
    num_channels = 3
    num_labels = 3
    is_training = True

    def __init__(self, expected_num_hidden_layers, map_size, **options):
        self.expected_num_hidden_layers = expected_num_hidden_layers
        self.num_hidden_layers = 2
        self.seq_length = self.hidden_size = map_size  # height and width of the first
        self.options = options

    def get_config(self):
        return tiny_config(
            num_channels=self.num_channels, num_labels=self.num_labels, num_reference_anchors=6, **self.options
        )

    def prepare_config_and_inputs_for_common(self):
        shape = self.batch_size, self.num_channels, self.image_size, self.image_size
        return self.get_config(), {"pixel_values": torch.rand(shape, device=torch_device) * 2 - 1}


class LZNModelTest(test_modeling_common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (LZNModel, Classifier)
    test_resize_embeddings = False
    has_attentions = False

    def setUp(self):
        self.model_tester = ModelTester(6, map_size=8, decoder_time_embedding="fourier")

    def test_init_weights_can_init_buffers(self):
        # The mixin wants buffers to be equal after each initialisation. Frequencies of Fourier features are drawn.
        self.model_tester.options.pop("decoder_time_embedding", None)
        super().test_init_weights_can_init_buffers()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        # The mixin knows the classes of transformers that take labels. What our losses draw is the same in every call.
        inputs = copy.deepcopy(inputs_dict)
        if return_labels:
            inputs["labels"] = torch.arange(self.model_tester.batch_size, device=torch_device) % 3
            if model_class is LZNModel:
                inputs["generator"] = torch.Generator(torch_device).manual_seed(0)
        return inputs


class LZNResNetModelTest(LZNModelTest):
    """A model of representations: no decoder."""

    def setUp(self):
        self.model_tester = ModelTester(3, map_size=8, **TINY_RESNET, encoder_small_images=True, decoder_type=None)


class LZNConfigTest(unittest.TestCase):
    def test_config(self):
        sizes = {"image_size": 64, "num_channels": 1, "latent_dim": 6}
        tester = test_configuration_common.ConfigTester(
            self, config_class=LZNConfig, has_text_modality=False, common_properties=list(sizes), **sizes
        )
        tester.run_common_tests()
