# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The common tests of diffusers' pipelines, on ours."""

from __future__ import annotations

from diffusers_tests.pipelines import testing_utils
from helpers.pipelines import make_pipeline

from lzn_hf import LZNPipeline


class PipelineConfig(testing_utils.BasePipelineTesterConfig):
    """A tiny pipeline of the test helpers, and how the mixins call it."""

    pipeline_class = LZNPipeline
    required_input_params_in_call_signature = frozenset(["label"])
    batch_input_params = frozenset(["label"])
    output_shape = (3, 8, 8)

    def get_dummy_components(self):
        return dict(make_pipeline(channels=3).components)

    def get_dummy_inputs(self):
        return {"label": 1, "generator": self.get_generator(0), "num_inference_steps": 2, "output_type": "pt"}

    def get_pipeline(self, **components):
        """Builds the pipeline. The mixins save it by `safe_serialization=False`, as pickles, which it refuses: it saves safetensors."""
        pipe = super().get_pipeline(**components)
        save_pretrained = pipe.save_pretrained

        def save_safetensors(folder, safe_serialization=True, **arguments):
            save_pretrained(folder, **arguments)

        pipe.save_pretrained = save_safetensors
        return pipe


class TestLZNPipeline(PipelineConfig, testing_utils.PipelineTesterMixin):
    pass


class TestLZNPipelineOffload(PipelineConfig, testing_utils.PipelineOffloadTesterMixin):
    pass


class TestLZNPipelineGroupOffload(PipelineConfig, testing_utils.GroupOffloadTesterMixin):
    pass


class TestLZNPipelineLayerwiseCasting(PipelineConfig, testing_utils.LayerwiseCastingTesterMixin):
    pass
