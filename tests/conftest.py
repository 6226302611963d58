"""Seeds, and one thread: the tensors of the tests are too small for more."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

import envs  # noqa: F401  (registers the mazes)
from mnm_rl import RecurrentA2C, RecurrentPPO
from tests.policies import small

torch.set_num_threads(1)
settings.register_profile("tests", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (Stable-Baselines3 draws from it)


@pytest.fixture(params=[RecurrentA2C, RecurrentPPO], ids=lambda algorithm: algorithm.__name__)
def algorithm(request: pytest.FixtureRequest) -> Any:
    """Each algorithm, for what all have in common."""
    return request.param


@pytest.fixture
def make(algorithm: Any) -> Any:
    """A function that makes a small model of each algorithm, see :func:`tests.policies.small`."""
    return partial(small, algorithm)
