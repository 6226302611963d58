"""Kernels on several cores: PyTorch's number of threads, without PyTorch's or Numba's thread pools, which wait by spinning."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)  # threads do not survive a fork


def run(kernel: Callable[..., None], n: int, *args: object) -> None:
    """``kernel(0, n, *args)``, its range split over ``torch.get_num_threads()`` threads. The kernel must release the GIL."""
    global _pool
    threads = min(torch.get_num_threads(), n)
    if threads == 1:
        kernel(0, n, *args)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(thread_name_prefix="mnm_rl")
    cuts = [n * i // threads for i in range(threads + 1)]
    others = [_pool.submit(kernel, cuts[i], cuts[i + 1], *args) for i in range(1, threads)]
    kernel(0, cuts[1], *args)
    for other in others:
        other.result()
