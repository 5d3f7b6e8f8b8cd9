# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What holds for every test, and for every process that a test starts: no network, no GPU, one thread, no screen, caches
in a folder of its own, fixed seeds. The environment is set here, before anything imports torch or a Hugging Face library,
because they read it when they are imported."""

from __future__ import annotations

import os
import random
import tempfile

import pytest
from tqdm.std import TqdmDefaultWriteLock


HF_HOME = tempfile.TemporaryDirectory(prefix="lzn_hf_tests_")

os.environ.update(
    ACCELERATE_USE_CPU="true",
    CUDA_VISIBLE_DEVICES="",
    GRADIO_TEMP_DIR=os.path.join(HF_HOME.name, "gradio"),
    HF_DATASETS_OFFLINE="1",
    HF_HOME=HF_HOME.name,
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",
    TORCHINDUCTOR_CACHE_DIR=os.path.join(HF_HOME.name, "inductor"),
)
# Each of these would send a part of the caches elsewhere than HF_HOME.
for name in ("HF_ASSETS_CACHE", "HF_DATASETS_CACHE", "HF_EVALUATE_CACHE", "HF_HUB_CACHE", "HF_MODULES_CACHE"):
    os.environ.pop(name, None)


def pytest_unconfigure() -> None:
    HF_HOME.cleanup()


# Forks would share it, and one that is killed while it draws its bar would keep it for ever.
TqdmDefaultWriteLock.mp_lock = None


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Seeds the global generators, so that no test depends on the tests before it."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
