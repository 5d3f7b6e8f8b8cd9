# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Where the suites find the mixins of transformers and diffusers: in folders that `utils/run_upstream_tests.py` names.

Without these folders nothing is collected here. The sdist of transformers lacks a few modules that its mixins import; stand-ins
hold what is used of them. A part of the tests is therefore not run, see docs/upstream_suites.md.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType


FOLDERS = [folder for folder in os.environ.get("LZN_HF_UPSTREAM", "").split(os.pathsep) if folder]
if not FOLDERS:
    collect_ignore_glob = ["*"]

# Settings that any configuration of transformers has, with values other than their defaults.
COMMON_SETTINGS = {
    "architectures": ["LZNModel"],
    "chunk_size_feed_forward": 5,
    "dtype": "float16",
    "id2label": {0: "cat", 1: "dog"},
    "label2id": {"cat": 0, "dog": 1},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "single_label_classification",
    "return_dict": False,
}
STAND_INS = {
    "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url: url},
    "transformers_tests.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "transformers_tests.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "transformers_tests.utils.test_configuration_utils": {"config_common_kwargs": COMMON_SETTINGS},
}

if FOLDERS:
    sys.path[:0] = FOLDERS
    for name, content in STAND_INS.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(content)
