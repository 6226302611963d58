"""Seeds, and one thread: the tensors of the tests are too small for more."""

import numpy as np
import pytest
import torch
from hypothesis import settings

import envs  # noqa: F401  (registers the mazes)

torch.set_num_threads(1)
settings.register_profile("tests", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (Stable-Baselines3 draws from it)
