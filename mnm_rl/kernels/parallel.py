"""Kernels on several cores: as many threads as PyTorch has."""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _cores() -> list[int]:
    """The cores that this process may use, where the system tells."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _new_pool(threads: int) -> ThreadPoolExecutor:
    cores = _cores()
    if threads != len(cores):
        return ThreadPoolExecutor(threads, thread_name_prefix="mnm_rl")
    # A thread that has slept is often woken on the core of the one that wakes it, and two kernels
    # of a millisecond are over before the scheduler moves one of them: so every thread has its
    # core, and the calling thread only waits. With fewer threads than cores, which cores to take
    # would be a guess that another process makes as well.
    turn = itertools.cycle(cores)
    return ThreadPoolExecutor(
        threads,
        thread_name_prefix="mnm_rl",
        initializer=lambda: os.sched_setaffinity(0, {next(turn)}),
    )


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)  # threads do not survive a fork


def run(kernel: Callable[..., None], n: int, *args: object, least: int = 1) -> None:
    """``kernel(0, n, *args)``, its range split over ``torch.get_num_threads()`` threads. The kernel
    must release the GIL.

    Waking threads takes a tenth of a millisecond: no thread gets fewer than ``least`` of the n.
    """
    global _pool, _pool_size
    threads = min(torch.get_num_threads(), n // max(least, 1))
    if threads <= 1:
        kernel(0, n, *args)
        return
    if _pool is None or _pool_size != torch.get_num_threads():
        _pool_size = torch.get_num_threads()
        _pool = _new_pool(_pool_size)
    cuts = [n * i // threads for i in range(threads + 1)]
    parts = [_pool.submit(kernel, cuts[i], cuts[i + 1], *args) for i in range(threads)]
    for part in parts:
        part.result()
