"""Seeds, and one thread: the tensors of the tests are too small for more."""

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

import envs  # noqa: F401  (registers the mazes)
from mnm_rl.algorithms.on_policy import ALGORITHMS
from tests.policies import small

torch.set_num_threads(1)
settings.register_profile("tests", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("tests")


EXPECTED = (
    "needs a GPU",
    "does not pin threads",
    "machine or a container of two cores",
    "threads have no names here",
)
"""What a machine may lack without a word."""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly which promises were not tested: a skipped test looks like one that passes."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
    )
    reasons = Counter(
        {
            reason: n
            for reason, n in reasons.items()
            if not any(expected in reason for expected in EXPECTED)
        }
    )
    if reasons:
        terminalreporter.section("NOT TESTED", sep="!", red=True, bold=True)
        for reason, n in reasons.items():
            terminalreporter.line(f"{n} test{'s' if n > 1 else ''} did not run: {reason}", red=True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (Stable-Baselines3 draws from it)


@pytest.fixture(params=ALGORITHMS.values(), ids=lambda algorithm: algorithm.__name__)
def algorithm(request: pytest.FixtureRequest) -> Any:
    """Each algorithm, for what all have in common."""
    return request.param


@pytest.fixture
def make(algorithm: Any) -> Any:
    """A function that makes a small model of each algorithm, see :func:`tests.policies.small`."""
    return partial(small, algorithm)
