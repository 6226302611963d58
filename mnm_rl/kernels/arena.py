"""Memory for the arrays of the kernels."""

import math
from collections import deque
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
ALIGNMENT = 64
"""Bytes of a cache line: a vector that crosses one takes twice as long to fetch."""


def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array of zeros that starts on a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    array: Array = raw[start : start + size].view(dtype).reshape(shape)
    return array


class Arena:
    """Arrays that were used and are free: to fetch fresh memory from the operating system can take
    as long as the kernels do.

    What is taken belongs to whoever took it until it is given back.
    """

    KEEP = 2
    """Free arrays of a name that are kept: a rollout's and a minibatch's."""

    def __init__(self) -> None:
        self._free: dict[str, list[Array]] = {}
        self._given: deque[tuple[str, Array]] = deque()
        self._lock = Lock()

    def take(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array whose contents are what was there: of zeros, but for what users of this name
        have written."""
        with self._lock:
            while self._given:
                given, array = self._given.popleft()
                self._free[given] = [*self._free.get(given, []), array][-self.KEEP :]
            free = self._free.get(name, [])
            for i, array in enumerate(free):
                if array.shape == shape and array.dtype == dtype:
                    return free.pop(i)
        return zeros(shape, dtype)

    def give(self, arrays: list[tuple[str, Array]]) -> None:
        """Give arrays back. The garbage collector may call this at any moment, even while an array
        is taken."""
        self._given.extend(arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return Arena, ()  # a copy has its own
