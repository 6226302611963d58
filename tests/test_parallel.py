"""Kernel threads: as many as PyTorch has, pinned only where there is no choice of cores."""

import os
from collections.abc import Iterator

import pytest
import torch

from mnm_rl.kernels import parallel

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system does not pin threads"
)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Two kernel threads, in a pool of their own."""
    monkeypatch.setattr(parallel, "_pool", None)
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(1)


def cores_of_threads(n: int) -> list[set[int]]:
    """The cores that each of the kernel's parts may run on."""
    found: list[set[int]] = []

    def kernel(first: int, last: int) -> None:
        found.append(os.sched_getaffinity(0))

    for _ in range(20):
        parallel.run(kernel, n)
    return found


def test_the_range_is_split_without_gaps(threads: int) -> None:
    parts: list[tuple[int, int]] = []
    parallel.run(lambda first, last: parts.append((first, last)), 7)
    assert sorted(parts) == [(0, 3), (3, 7)]


def test_no_thread_gets_less_than_it_is_woken_for(threads: int) -> None:
    parts: list[tuple[int, int]] = []
    parallel.run(lambda first, last: parts.append((first, last)), 7, least=4)
    assert parts == [(0, 7)]


def test_fewer_threads_than_cores_are_not_pinned(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs with two threads each on sixteen cores would otherwise share cores 0 and 1."""
    mine = os.sched_getaffinity(0)
    monkeypatch.setattr(parallel, "_cores", lambda: list(range(16)))
    assert all(cores == mine for cores in cores_of_threads(8))


def test_as_many_threads_as_cores_have_a_core_each(threads: int) -> None:
    if len(os.sched_getaffinity(0)) != threads:
        pytest.skip("needs a machine or a container of two cores")
    assert all(len(cores) == 1 for cores in cores_of_threads(8))
